//! The relay's configuration: settings of the process.
//!
//! `config/relay.toml` explains every setting and shows its default.
//!
//! # Layout
//! - here: the whole, who may call the API, records, metrics
//! - `media`, `ports`: where media goes
//! - `limits`: how many and how long

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trunkline_common::config::{self, Source};
use trunkline_common::telemetry;
use trunkline_http::serve::tls::TlsFiles;
use trunkline_postgres::settings::Settings as Database;

mod limits;
mod media;
mod ports;

pub use limits::{CallsConfig, LimitsConfig, PARTICIPANTS_CEILING};
pub(crate) use media::threads;
pub use media::{IngressConfig, MediaConfig, WORKERS_CEILING};
pub use ports::PortRange;
pub use trunkline_common::config::ConfigError;
pub use trunkline_common::units::{Size, Span};

use crate::api::cors::Origin;
use crate::registry;
use crate::registry::rows::plain_url;

/// The commented example, with every setting at its default. `init` writes it with a node's own values.
pub const EXAMPLE: &str = include_str!("../../config/relay.toml");

/// Entries of any list in the configuration.
const LIST_MAX: usize = 32;

/// The setting that is wrong, and what is wrong with it.
type Fault = (&'static str, String);

/// All settings. Paths are absolute, or relative to the working directory, once loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's number among the nodes that share an ingress.
    pub node: u16,
    /// The database in which ingresses find this node; none when empty.
    #[serde(default)]
    pub registry: String,
    /// Holds the database's password.
    #[serde(default)]
    pub registry_password_file: Option<PathBuf>,
    /// PEM: whom the database's certificate must be from.
    #[serde(default)]
    pub registry_ca_file: Option<PathBuf>,
    /// The URL of this node's API that ingresses are told there; from `api.listen` without it.
    #[serde(default)]
    pub registry_api: Option<String>,
    /// The HTTP API.
    #[serde(default)]
    pub api: ApiConfig,
    /// Join tokens.
    #[serde(default)]
    pub tokens: TokensConfig,
    /// UDP ports, addresses and codecs.
    #[serde(default)]
    pub media: MediaConfig,
    /// Ingresses in front of the node.
    #[serde(default)]
    pub ingress: IngressConfig,
    /// When calls end by themselves.
    #[serde(default)]
    pub calls: CallsConfig,
    /// Limits.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Call records.
    #[serde(default)]
    pub records: RecordsConfig,
    /// Metrics.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Logs.
    #[serde(default)]
    pub log: telemetry::Settings,
}

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// TCP.
    pub listen: SocketAddr,
    /// PEM; without it the API speaks plain HTTP.
    pub tls_certificate: Option<PathBuf>,
    /// PEM.
    pub tls_key: Option<PathBuf>,
    /// Web pages of other origins that may call the API.
    pub origins: Vec<Origin>,
    /// Holds the admin token.
    pub admin_token_file: PathBuf,
}

/// Join tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokensConfig {
    /// Holds the secret of HS256 tokens: 32 random bytes in base64.
    pub hs256_secret_file: Option<PathBuf>,
    /// PEM files with the Ed25519 public keys of those who sign EdDSA tokens.
    pub eddsa_public_keys: Vec<PathBuf>,
    /// `iss` that tokens must have.
    pub issuer: Option<String>,
    /// `aud` that tokens must have.
    pub audience: Option<String>,
}

/// Call records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordsConfig {
    /// Where they are written; off without it.
    pub directory: Option<PathBuf>,
    /// What the names of its files begin with.
    pub prefix: String,
    /// Bytes of one file before the next is begun.
    pub size_max: Size,
}

/// Metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Whether `/metrics` is shown without the admin token.
    pub open: bool,
}

impl Config {
    /// The defaults, for a node; paths as the example writes them.
    #[must_use]
    pub fn defaults(node: u16) -> Self {
        Self {
            node,
            registry: String::new(),
            registry_password_file: None,
            registry_ca_file: None,
            registry_api: None,
            api: ApiConfig::default(),
            tokens: TokensConfig { hs256_secret_file: Some(default_secret()), ..TokensConfig::default() },
            media: MediaConfig::default(),
            calls: CallsConfig::default(),
            limits: LimitsConfig::default(),
            ingress: IngressConfig::default(),
            records: RecordsConfig::default(),
            metrics: MetricsConfig::default(),
            log: telemetry::Settings::default(),
        }
    }

    /// Reads and checks a configuration file. Relative paths in it count from its own directory.
    ///
    /// # Errors
    /// The first thing that is wrong, with file, line and field.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::checked(config::load(file)?)?;
        let base = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        config.resolve(base.unwrap_or(Path::new(".")));
        Ok(config)
    }

    /// Reads and checks a configuration; `file` names it in errors. Paths stay as written.
    ///
    /// # Errors
    /// The first thing that is wrong, with line and field.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        Self::checked(config::parse(Path::new(file), text.to_owned())?)
    }

    fn checked((mut config, source): (Self, Source)) -> Result<Self, ConfigError> {
        config.check().map_err(|(field, problem)| source.error(field, problem))?;
        if config.tokens.eddsa_public_keys.is_empty() {
            config.tokens.hs256_secret_file.get_or_insert_with(default_secret);
        }
        Ok(config)
    }

    /// The TURN server that clients are told of (RFC 7065), if there is one.
    #[must_use]
    pub fn turn_url(&self) -> Option<String> {
        let name = self.media.tls_name.as_deref()?;
        let behind_ingress = self.ingress.listen.is_some();
        let port = if behind_ingress { self.ingress.tcp_port } else { self.media.tcp_port };
        (port > 0).then(|| format!("turns:{name}:{port}?transport=tcp"))
    }

    /// Which database the registry is in, if there is one.
    #[must_use]
    pub fn registry(&self) -> Option<Database<'_>> {
        let (password, authorities) =
            (self.registry_password_file.as_deref(), self.registry_ca_file.as_deref());
        registry::settings::database(&self.registry, password, authorities)
    }

    fn check_registry(&self) -> Result<(), Fault> {
        registry::settings::check(self.registry())?;
        if let Some(problem) = self.registry_api.as_deref().and_then(|api| plain_url(api).err()) {
            return Err(("registry_api", format!("expected \"http://10.0.0.3:8444\", say: {problem}")));
        }
        if self.registry.is_empty() {
            return Ok(());
        }
        match self.ingress.listen {
            None => {
                return Err((
                    "registry",
                    "expected ingress.listen with it: it is what ingresses find".into(),
                ));
            }
            Some(listen) if listen.ip().is_unspecified() => {
                let problem = "expected one address with registry: ingresses are told it";
                return Err(("ingress.listen", problem.into()));
            }
            Some(_) => {}
        }
        if self.registry_api.is_none() && self.api.listen.ip().is_unspecified() {
            let problem =
                "expected registry_api with it, as api.listen is every address: ingresses are told it";
            return Err(("registry", problem.into()));
        }
        Ok(())
    }

    /// What types alone do not say.
    fn check(&self) -> Result<(), Fault> {
        self.check_registry()?;
        self.api.check()?;
        self.tokens.check()?;
        self.media.check()?;
        self.ingress.check()?;
        let takes_tls = self.media.tls_certificate.is_some() && self.media.tcp_port > 0;
        if self.media.tls_name.is_some() && !takes_tls && self.ingress.listen.is_none() {
            return Err((
                "media.tls_name",
                "expected media.tls_certificate and media.tcp_port with it".into(),
            ));
        }
        if self.ingress.listen.is_some() && self.media.force_tcp && self.ingress.tcp_port == 0 {
            return Err(("media.force_tcp", "expected false, or an ingress.tcp_port that is not 0".into()));
        }
        self.limits.check()?;
        self.records.check()?;
        self.calls.check()?;
        telemetry::check(&self.log).map_err(|error| ("log.filter", error.to_string()))
    }

    fn resolve(&mut self, base: &Path) {
        let optional = [
            &mut self.api.tls_certificate,
            &mut self.api.tls_key,
            &mut self.registry_password_file,
            &mut self.registry_ca_file,
            &mut self.media.tls_certificate,
            &mut self.media.tls_key,
            &mut self.tokens.hs256_secret_file,
            &mut self.records.directory,
        ];
        let always = [&mut self.api.admin_token_file, &mut self.media.ufrag_key_file];
        let keys = self.tokens.eddsa_public_keys.iter_mut();
        for path in always.into_iter().chain(optional.into_iter().flatten()).chain(keys) {
            *path = base.join(&*path);
        }
    }
}

impl ApiConfig {
    fn check(&self) -> Result<(), Fault> {
        let names = ["api.tls_certificate", "api.tls_key"];
        TlsFiles::check(&self.tls_certificate, &self.tls_key, names)?;
        short("api.origins", self.origins.len())
    }
}

impl TokensConfig {
    fn check(&self) -> Result<(), Fault> {
        short("tokens.eddsa_public_keys", self.eddsa_public_keys.len())?;
        for (claim, field) in [(&self.issuer, "tokens.issuer"), (&self.audience, "tokens.audience")] {
            if claim.as_ref().is_some_and(String::is_empty) {
                return Err((field, "expected a text, or nothing when tokens need not have it".into()));
            }
        }
        Ok(())
    }
}

impl RecordsConfig {
    fn check(&self) -> Result<(), Fault> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.chars().all(plain) {
            return Err(("records.prefix", "expected 1 to 64 letters, digits, `-` and `_`".into()));
        }
        let (least, most) = (Size(1 << 10), Size(1 << 40));
        if !(least..=most).contains(&self.size_max) {
            let problem = format!("expected \"{least}\" to \"{most}\", found \"{}\"", self.size_max);
            return Err(("records.size_max", problem));
        }
        Ok(())
    }
}

fn short(field: &'static str, len: usize) -> Result<(), Fault> {
    if len > LIST_MAX { Err((field, format!("expected at most {LIST_MAX}, found {len}"))) } else { Ok(()) }
}

fn default_secret() -> PathBuf {
    "tokens.secret".into()
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8444)),
            tls_certificate: None,
            tls_key: None,
            origins: Vec::new(),
            admin_token_file: "admin.token".into(),
        }
    }
}

impl Default for RecordsConfig {
    fn default() -> Self {
        Self { directory: None, prefix: "calls".into(), size_max: Size(64 << 20) }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { open: true }
    }
}

#[cfg(test)]
mod tests;

//! The relay's configuration: settings of the process.
//!
//! `config/relay.toml` explains every setting and shows its default.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_common::config::{self, Source};
use trunkline_common::telemetry;
use trunkline_http::serve::tls::TlsFiles;
use trunkline_postgres::settings::Settings as Database;

mod ports;

pub use ports::PortRange;
pub use trunkline_common::config::ConfigError;
pub use trunkline_common::units::{Size, Span};

use crate::api::cors::Origin;
use crate::registry;
use crate::registry::rows::plain_url;
use crate::sdp::CodecName;

/// The commented example, with every setting at its default. `init` writes it with a node's own values.
pub const EXAMPLE: &str = include_str!("../../config/relay.toml");

/// Most participants a call can be configured to take: roster and slots are told to each of them.
pub const PARTICIPANTS_CEILING: usize = 500;

/// Most calls a node can be configured to hold: each has a UDP port of its own.
const CALLS_CEILING: usize = 65_535;

/// Most workers: the ufrag has one byte for them.
pub const WORKERS_CEILING: usize = 255;

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

/// UDP ports, addresses and codecs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaConfig {
    /// One of them for every call.
    pub udp_ports: PortRange,
    /// Addresses to take media on; all of this machine when empty.
    pub listen: Vec<IpAddr>,
    /// Addresses that clients are told, instead of those listened on: behind NAT.
    pub advertise: Vec<IpAddr>,
    /// TCP port of media, which clients are told; none when 0.
    pub tcp_port: u16,
    /// Tell clients of TCP only.
    pub force_tcp: bool,
    /// PEM; without it there is no TLS on the TCP port.
    pub tls_certificate: Option<PathBuf>,
    /// PEM.
    pub tls_key: Option<PathBuf>,
    /// The name in the certificate of the TCP port's TLS: with it, clients are told of TURN within TLS.
    pub tls_name: Option<String>,
    /// Worker threads; one per core when 0.
    pub workers: usize,
    /// People of a call on one worker before it grows onto others.
    pub worker_participants: usize,
    /// Offer DTLS 1.3.
    pub dtls_13: bool,
    /// Codecs in order of preference; those not named are not agreed on.
    pub codecs: Vec<CodecName>,
    /// Holds the key that nodes and their ingresses share: 32 random bytes in base64.
    pub ufrag_key_file: PathBuf,
}

/// Ingresses in front of the node: with `listen`, it is reached through them, and only through them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngressConfig {
    /// UDP; where the first worker takes the tunnel's packets. Each further worker has the next port.
    pub listen: Option<SocketAddr>,
    /// Addresses of ingresses, as their packets and requests come here: only these may speak for clients.
    pub from: Vec<IpAddr>,
    /// Their public addresses, which clients are told.
    pub advertise: Vec<IpAddr>,
    /// Their public UDP port.
    pub udp_port: u16,
    /// Their public TCP port; 0 when they have none.
    pub tcp_port: u16,
}

/// When calls end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallsConfig {
    /// How long a call waits for its first participant.
    pub unjoined_timeout: Span,
    /// How long a call goes on after its last participant left.
    pub empty_timeout: Span,
}

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Calls at a time.
    pub calls_max: usize,
    /// Participants of a conference at a time.
    pub conference_participants_max: usize,
    /// Participants of a broadcast at a time.
    pub broadcast_participants_max: usize,
    /// Joins per second from one address.
    pub joins_per_s: NonZeroU32,
    /// HTTP connections at a time.
    pub connections_max: usize,
    /// Events connections at a time.
    pub events_max: usize,
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
        for (span, field) in [
            (self.calls.unjoined_timeout, "calls.unjoined_timeout"),
            (self.calls.empty_timeout, "calls.empty_timeout"),
        ] {
            if !(Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&span.0) {
                return Err((field, format!("expected \"1s\" to \"7d\", found \"{span}\"")));
            }
        }
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

impl MediaConfig {
    /// Workers, counted when they are one per core.
    #[must_use]
    pub fn threads(&self) -> usize {
        threads(self.workers)
    }

    fn check(&self) -> Result<(), Fault> {
        if self.listen.len() > 1 {
            return Err(("media.listen", "expected one address, or none for all of this machine".into()));
        }
        for (addresses, field) in [(&self.listen, "media.listen"), (&self.advertise, "media.advertise")] {
            short(field, addresses.len())?;
            if addresses.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
                return Err((field, "expected addresses of single machines, found one that is not".into()));
            }
        }
        if self.workers > WORKERS_CEILING {
            return Err(("media.workers", format!("expected 0 (one per core) to {WORKERS_CEILING}")));
        }
        if !(1..=PARTICIPANTS_CEILING).contains(&self.worker_participants) {
            let problem = format!("expected 1 to {PARTICIPANTS_CEILING}, found {}", self.worker_participants);
            return Err(("media.worker_participants", problem));
        }
        let names = ["media.tls_certificate", "media.tls_key"];
        TlsFiles::check(&self.tls_certificate, &self.tls_key, names)?;
        if self.force_tcp && self.tcp_port == 0 {
            return Err(("media.force_tcp", "expected false, or a media.tcp_port that is not 0".into()));
        }
        if self.tls_name.as_deref().is_some_and(|name| !is_host(name)) {
            return Err(("media.tls_name", "expected a host name or an IP address".into()));
        }
        let twice = |(index, codec)| self.codecs.iter().skip(index + 1).any(|other| other == codec);
        if self.codecs.is_empty() || self.codecs.iter().enumerate().any(twice) {
            return Err(("media.codecs", "expected at least one codec, and none of them twice".into()));
        }
        Ok(())
    }
}

impl IngressConfig {
    /// Whether there is one, so that calls can go on at other nodes.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.from.is_empty()
    }

    fn check(&self) -> Result<(), Fault> {
        for (addresses, field) in [(&self.from, "ingress.from"), (&self.advertise, "ingress.advertise")] {
            short(field, addresses.len())?;
            if addresses.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
                return Err((field, "expected addresses of single machines, found one that is not".into()));
            }
            if self.listen.is_some() && addresses.is_empty() {
                return Err((field, "expected at least one address, as ingress.listen is set".into()));
            }
        }
        if self.listen.is_some_and(|listen| listen.port() == 0) {
            return Err(("ingress.listen", "expected a port above 0: ingresses have to know it".into()));
        }
        if self.udp_port == 0 {
            return Err(("ingress.udp_port", "expected a port above 0".into()));
        }
        Ok(())
    }
}

impl LimitsConfig {
    fn check(&self) -> Result<(), Fault> {
        let bounds = [
            ("limits.calls_max", self.calls_max, CALLS_CEILING),
            ("limits.conference_participants_max", self.conference_participants_max, PARTICIPANTS_CEILING),
            ("limits.broadcast_participants_max", self.broadcast_participants_max, PARTICIPANTS_CEILING),
            ("limits.connections_max", self.connections_max, 1_000_000),
            ("limits.events_max", self.events_max, 1_000_000),
        ];
        for (field, value, ceiling) in bounds {
            if !(1..=ceiling).contains(&value) {
                return Err((field, format!("expected 1 to {ceiling}, found {value}")));
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

/// Threads of a number that may be 0 for one per core.
pub(crate) fn threads(number: usize) -> usize {
    let number =
        if number > 0 { number } else { thread::available_parallelism().map_or(1, NonZeroUsize::get) };
    number.min(WORKERS_CEILING)
}

/// Whether a text can be the host of a URI: a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
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

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            udp_ports: PortRange::default(),
            listen: Vec::new(),
            advertise: Vec::new(),
            tcp_port: 443,
            force_tcp: false,
            tls_certificate: None,
            tls_key: None,
            tls_name: None,
            workers: 0,
            worker_participants: 64,
            dtls_13: false,
            codecs: CodecName::DEFAULT.to_vec(),
            ufrag_key_file: "ufrag.key".into(),
        }
    }
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self { listen: None, from: Vec::new(), advertise: Vec::new(), udp_port: 16_384, tcp_port: 443 }
    }
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            unjoined_timeout: Span(Duration::from_secs(3600)),
            empty_timeout: Span(Duration::from_secs(300)),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            calls_max: 1000,
            conference_participants_max: 100,
            broadcast_participants_max: PARTICIPANTS_CEILING,
            joins_per_s: NonZeroU32::MIN.saturating_add(19),
            connections_max: 4096,
            events_max: 10_000,
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

//! The gateway's configuration: settings of the process. Whom it talks to (peers, networks, tokens) rests in the
//! store and is changed while it runs.
//!
//! `config/gateway.toml` explains every setting and shows its default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trunkline_common::config::{self, Source};
use trunkline_common::ids::Domain;
use trunkline_common::limits::{PAYLOAD_BYTES_CEILING, PAYLOAD_BYTES_MAX};
use trunkline_common::redact::Detail;
use trunkline_common::telemetry::Format;
use trunkline_gateway_proto::bundle::{ENDPOINTS_MAX, split_endpoint};
use trunkline_gateway_proto::settings::{RETENTION_S_MAX, RETENTION_S_MIN};
use trunkline_http::serve::tls::TlsFiles;
use trunkline_postgres::Address;

mod console;
pub mod deployment_key;
pub mod engine;

pub use console::ConsoleConfig;
pub use trunkline_common::config::ConfigError;
pub use trunkline_common::units::{Size, Span};

pub use crate::link::Congestion;
pub use crate::relays::RelayConfig;

/// The commented example, with every setting at its default. `init` writes it with a deployment's own values.
pub const EXAMPLE: &str = include_str!("../../config/gateway.toml");

/// All settings. Paths are absolute, or relative to the working directory, once loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Our federation domain.
    pub domain: Domain,
    /// Where the store is.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// The key that wraps the store's data keys: 32 random bytes in base64.
    #[serde(default)]
    pub deployment_key_file: Option<PathBuf>,
    /// A command that prints that key, instead: program and arguments.
    #[serde(default)]
    pub deployment_key_command: Option<Vec<String>>,
    /// The storage engine.
    #[serde(default = "default_store")]
    pub store: String,
    /// The database's password, when the store is one and asks for it.
    #[serde(default)]
    pub store_password_file: Option<PathBuf>,
    /// PEM: whom the database's certificate must be from.
    #[serde(default)]
    pub store_ca_file: Option<PathBuf>,
    /// Whether peers' private, loopback and link-local addresses may be dialled unless a peer says otherwise.
    #[serde(default)]
    pub allow_private_ips: bool,
    /// Other replicas of this deployment.
    #[serde(default)]
    pub replica: ReplicaConfig,
    /// The link to peers.
    #[serde(default)]
    pub link: LinkConfig,
    /// The API for our own messaging servers.
    #[serde(default = "ApiConfig::local")]
    pub local_api: ApiConfig,
    /// The API for operators.
    #[serde(default = "ApiConfig::admin")]
    pub admin_api: ApiConfig,
    /// The console, which the admin API's port serves.
    #[serde(default)]
    pub console: ConsoleConfig,
    /// Our certificate.
    #[serde(default)]
    pub identity: IdentityConfig,
    /// Limits.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
    /// The deployment's relays, for its operators to see.
    #[serde(default)]
    pub relays: Vec<RelayConfig>,
}

/// One of several gateways on one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicaConfig {
    /// TCP, for other replicas.
    pub listen: SocketAddr,
    /// `host:port` where they reach this one; empty when there are none.
    pub advertise: String,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 8442)), advertise: String::new() }
    }
}

/// The link to peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// UDP and TCP.
    pub listen: SocketAddr,
    /// `host:port` that peering bundles tell peers to dial.
    pub advertise: Vec<String>,
    /// How QUIC finds its rate.
    pub congestion: Congestion,
}

/// An HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// TCP.
    pub listen: SocketAddr,
    /// PEM; without it the API speaks plain HTTP.
    #[serde(default)]
    pub tls_certificate: Option<PathBuf>,
    /// PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
}

/// Our certificate towards peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// PEM, followed by its chain in CA mode.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// How peers trust it.
    pub mode: IdentityMode,
}

/// How peers trust our certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityMode {
    /// By its key: self-signed, rotated by `identity rotate`.
    #[default]
    Pinned,
    /// By its authority: whoever issues it replaces the files.
    Ca,
}

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Largest payload of an envelope.
    pub payload_bytes_max: Size,
    /// How long an envelope waits at most, whatever its own time to live.
    pub retention: Span,
    /// What may wait for one peer.
    pub peer_quota_bytes: Size,
    /// What may wait for one network's messaging server.
    pub inbox_quota_bytes: Size,
    /// Free space that is left alone.
    pub disk_reserve_bytes: Size,
}

/// Logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How much they may say about people.
    pub detail: Detail,
    /// How they are written.
    pub format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line, for machines.
    Json,
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

impl Config {
    /// The defaults, for a domain; paths as the example writes them.
    #[must_use]
    pub fn defaults(domain: Domain) -> Self {
        Self {
            domain,
            data_dir: default_data_dir(),
            deployment_key_file: Some("deployment.key".into()),
            deployment_key_command: None,
            store: default_store(),
            store_password_file: None,
            store_ca_file: None,
            allow_private_ips: false,
            replica: ReplicaConfig::default(),
            link: LinkConfig::default(),
            local_api: ApiConfig::local(),
            admin_api: ApiConfig::admin(),
            console: ConsoleConfig::default(),
            identity: IdentityConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            relays: Vec::new(),
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
        crate::relays::config::check(&config.relays)
            .map_err(|(field, problem)| source.error(&field, problem))?;
        if config.deployment_key_command.is_none() {
            config.deployment_key_file.get_or_insert_with(|| "deployment.key".into());
        }
        Ok(config)
    }

    /// What types alone do not say: the field, and what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.deployment_key_file.is_some() && self.deployment_key_command.is_some() {
            return Err(("deployment_key_command", "expected this or deployment_key_file, not both".into()));
        }
        if self.deployment_key_command.as_ref().is_some_and(Vec::is_empty) {
            let problem = "expected a program and its arguments, such as [\"pass\", \"show\", \"trunkline\"]";
            return Err(("deployment_key_command", problem.into()));
        }
        self.check_store()?;
        self.check_replica()?;
        for endpoint in &self.link.advertise {
            if split_endpoint(endpoint).is_none() {
                let problem =
                    format!("expected host:port, such as \"gw.example.org:8443\", found `{endpoint}`");
                return Err(("link.advertise", problem));
            }
        }
        if self.link.advertise.len() > ENDPOINTS_MAX {
            return Err(("link.advertise", format!("expected at most {ENDPOINTS_MAX} endpoints")));
        }
        let apis = [
            (&self.local_api, "local_api.tls_certificate", "local_api.tls_key"),
            (&self.admin_api, "admin_api.tls_certificate", "admin_api.tls_key"),
        ];
        for (api, certificate, key) in apis {
            TlsFiles::check(&api.tls_certificate, &api.tls_key, [certificate, key])?;
        }
        let clash = |a: SocketAddr, b: SocketAddr| a.port() != 0 && a == b;
        if clash(self.admin_api.listen, self.local_api.listen) {
            let problem =
                format!("{} is local_api.listen already: expected another port", self.local_api.listen);
            return Err(("admin_api.listen", problem));
        }
        for (api, field) in [(&self.local_api, "local_api.listen"), (&self.admin_api, "admin_api.listen")] {
            if clash(api.listen, self.link.listen) {
                let problem = format!("{} is link.listen already: expected another port", self.link.listen);
                return Err((field, problem));
            }
        }
        self.console.check()?;
        self.limits.check()
    }

    fn check_replica(&self) -> Result<(), (&'static str, String)> {
        let ReplicaConfig { advertise, .. } = &self.replica;
        if advertise.is_empty() {
            return Ok(());
        }
        if split_endpoint(advertise).is_none() {
            let problem = format!("expected host:port, such as \"gw-1.internal:8442\", found `{advertise}`");
            return Err(("replica.advertise", problem));
        }
        if Address::is_meant(&self.store) {
            Ok(())
        } else {
            let problem = "expected a postgres:// address with replica.advertise: replicas share a database";
            Err(("store", problem.into()))
        }
    }

    fn check_store(&self) -> Result<(), (&'static str, String)> {
        match self.store.as_str() {
            "redb" => Ok(()),
            url if Address::is_meant(url) => engine::settings(self, url).check(),
            other => Err((
                "store",
                format!("expected \"redb\", the embedded store, or a postgres:// address, found `{other}`"),
            )),
        }
    }

    fn resolve(&mut self, base: &Path) {
        let optional = [
            &mut self.deployment_key_file,
            &mut self.store_password_file,
            &mut self.store_ca_file,
            &mut self.local_api.tls_certificate,
            &mut self.local_api.tls_key,
            &mut self.admin_api.tls_certificate,
            &mut self.admin_api.tls_key,
        ];
        let always = [&mut self.data_dir, &mut self.identity.certificate, &mut self.identity.key];
        for path in always.into_iter().chain(optional.into_iter().flatten()) {
            *path = base.join(&*path);
        }
        self.relays.iter_mut().for_each(|relay| relay.resolve(base));
    }
}

impl LimitsConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let Self { payload_bytes_max, retention, peer_quota_bytes, inbox_quota_bytes, .. } = *self;
        if !(1..=PAYLOAD_BYTES_CEILING as u64).contains(&payload_bytes_max.0) {
            let ceiling = Size(PAYLOAD_BYTES_CEILING as u64);
            let problem = format!("expected \"1B\" to \"{ceiling}\", found \"{payload_bytes_max}\"");
            return Err(("limits.payload_bytes_max", problem));
        }
        let seconds = retention.0.as_secs();
        if !(RETENTION_S_MIN..=RETENTION_S_MAX).contains(&seconds) {
            let problem = format!("expected \"1m\" to \"365d\", found \"{retention}\"");
            return Err(("limits.retention", problem));
        }
        // A quota below one envelope would refuse everything, and say so one envelope at a time.
        let least = Size(payload_bytes_max.0 * 2);
        for (quota, field) in
            [(peer_quota_bytes, "limits.peer_quota_bytes"), (inbox_quota_bytes, "limits.inbox_quota_bytes")]
        {
            if quota < least {
                let problem =
                    format!("expected at least \"{least}\", two largest payloads, found \"{quota}\"");
                return Err((field, problem));
            }
        }
        Ok(())
    }
}

impl ApiConfig {
    fn local() -> Self {
        Self::on(SocketAddr::from(([127, 0, 0, 1], 8440)))
    }

    fn admin() -> Self {
        Self::on(SocketAddr::from(([127, 0, 0, 1], 8441)))
    }

    fn on(listen: SocketAddr) -> Self {
        Self { listen, tls_certificate: None, tls_key: None }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8443)),
            advertise: Vec::new(),
            congestion: Congestion::default(),
        }
    }
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            certificate: "identity/current.crt".into(),
            key: "identity/current.key".into(),
            mode: IdentityMode::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            payload_bytes_max: Size(PAYLOAD_BYTES_MAX as u64),
            retention: Span(std::time::Duration::from_secs(30 * 86_400)),
            peer_quota_bytes: Size(10 << 30),
            inbox_quota_bytes: Size(10 << 30),
            disk_reserve_bytes: Size(1 << 30),
        }
    }
}

fn default_data_dir() -> PathBuf {
    "data".into()
}

fn default_store() -> String {
    "redb".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        Config::parse("gateway.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_value_is_named_with_line_and_field() {
        let text = "domain = \"alpha.test\"\n\n[limits]\nretention = \"soon\"\n";
        let expected = "gateway.toml:4:13: `limits.retention`: expected a duration";
        assert!(problem(text).starts_with(expected), "{}", problem(text));
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_line_and_field() {
        let text = "domain = \"alpha.test\"\n[limits]\n# much\npayload_bytes_max = \"1GiB\"\n";
        assert_eq!(
            problem(text),
            "gateway.toml:4:1: `limits.payload_bytes_max`: expected \"1B\" to \"16MiB\", found \"1GiB\""
        );
    }

    #[test]
    fn an_unknown_field_is_named_with_its_section() {
        let text = "domain = \"alpha.test\"\n[link]\nlisten = \"0.0.0.0:1\"\nadvertize = []\n";
        let expected = "gateway.toml:4:1: `link.advertize`: unknown field `advertize`, expected one of";
        assert!(problem(text).starts_with(expected), "{}", problem(text));
    }

    #[test]
    fn a_missing_domain_is_named() {
        assert!(problem("store = \"redb\"\n").contains("`domain`: missing field `domain`"));
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        assert!(problem("domain = \"alpha.test\"\nlink = = 3\n").starts_with("gateway.toml:2:"));
    }

    #[test]
    fn a_database_that_is_not_fully_described_is_named_with_what_is_missing() {
        for (url, expected) in [
            ("postgres://db/trunkline", "expected postgres://user@host:port/database"),
            ("postgres://gw@db.test/trunkline", "expected ?sslmode=verify-full"),
            ("postgres://gw@db.test/t?sslmode=verify-full", "sslmode=verify-full: expected store_ca_file"),
            ("mysql://gw@db.test/t", "expected \"redb\", the embedded store, or a postgres:// address"),
        ] {
            let problem = problem(&format!("domain = \"alpha.test\"\nstore = \"{url}\"\n"));
            let expected = format!("gateway.toml:2:1: `store`: {expected}");
            assert!(problem.starts_with(&expected), "{problem}");
        }
    }

    #[test]
    fn two_sources_of_the_deployment_key_are_refused() {
        let text =
            "domain = \"a.test\"\ndeployment_key_file = \"k\"\ndeployment_key_command = [\"cat\", \"k\"]\n";
        assert!(problem(text).starts_with("gateway.toml:3:1: `deployment_key_command`: expected this or"));
    }

    #[test]
    fn a_tls_certificate_without_its_key_is_refused() {
        let text = "domain = \"a.test\"\n[admin_api]\nlisten = \"127.0.0.1:1\"\ntls_certificate = \"c\"\n";
        assert!(
            problem(text)
                .starts_with("gateway.toml:4:1: `admin_api.tls_certificate`: expected admin_api.tls_key")
        );
    }

    #[test]
    fn one_port_for_two_listeners_is_refused() {
        let text = "domain = \"a.test\"\n[admin_api]\nlisten = \"127.0.0.1:8440\"\n";
        assert!(
            problem(text)
                .starts_with("gateway.toml:3:1: `admin_api.listen`: 127.0.0.1:8440 is local_api.listen")
        );
    }

    #[test]
    fn a_relay_that_is_not_described_as_one_is_named_with_its_line() {
        let relay = |name: &str, url: &str| {
            format!("[[relays]]\nname = \"{name}\"\nurl = \"{url}\"\nadmin_token_file = \"t\"\n")
        };
        let two = |second: &str| {
            problem(&format!("domain = \"a.test\"\n{}{second}", relay("one", "http://127.0.0.1:8444")))
        };
        for (second, expected) in [
            (
                relay("one", "http://[::1]:1"),
                "gateway.toml:7:1: `relays[1].name`: `one` is another relay's name",
            ),
            (relay("two", "ftp://x.test"), "gateway.toml:8:1: `relays[1].url`: expected the API's address"),
            (
                relay("two", "https://x.test/api"),
                "gateway.toml:8:1: `relays[1].url`: expected the API's address",
            ),
            (
                relay("two", "https://a:b@x.test"),
                "gateway.toml:8:1: `relays[1].url`: expected the API's address",
            ),
            (
                relay("t w o", "https://x.test"),
                "gateway.toml:7:1: `relays[1].name`: expected 1 to 64 letters",
            ),
            (
                "[[relays]]\nname = \"two\"\n".to_owned(),
                "gateway.toml:6:1: `relays[1].url`: missing field `url`",
            ),
        ] {
            let problem = two(&second);
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    #[test]
    fn relative_paths_count_from_the_files_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gateway.toml");
        std::fs::write(&file, "domain = \"alpha.test\"\ndata_dir = \"/var/lib/x\"\n").unwrap();
        let config = Config::load(&file).unwrap();
        assert_eq!(config.identity.key, dir.path().join("identity/current.key"));
        assert_eq!(config.deployment_key_file, Some(dir.path().join("deployment.key")));
        assert_eq!(config.data_dir, Path::new("/var/lib/x"));
    }
}

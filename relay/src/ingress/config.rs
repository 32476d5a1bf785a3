//! The ingress's configuration. `config/ingress.toml` explains every setting and shows its default.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trunkline_common::config::{self, ConfigError, Source};
use trunkline_common::telemetry;
use trunkline_http::serve::tls::TlsFiles;
use trunkline_postgres::settings::Settings as Database;

use crate::config::{WORKERS_CEILING, threads};
use crate::interfaces::ADDRESSES_MAX;
use crate::registry;

/// The commented example, with every setting at its default. `init-ingress` writes it with an ingress's own values.
pub const EXAMPLE: &str = include_str!("../../../config/ingress.toml");

/// Nodes behind one ingress. More takes longer to find one.
pub const NODES_MAX: usize = 256;

/// Most flows and connections of a thread.
const FLOWS_CEILING: usize = 10_000_000;
const CONNECTIONS_CEILING: usize = 1_000_000;

/// The setting that is wrong, and what is wrong with it.
type Fault = (String, String);

/// All settings. Paths are absolute, or relative to the working directory, once loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngressConfig {
    /// The database in which nodes are found beside those listed; none when empty.
    #[serde(default)]
    pub registry: String,
    /// Holds the database's password.
    #[serde(default)]
    pub registry_password_file: Option<PathBuf>,
    /// PEM: whom the database's certificate must be from.
    #[serde(default)]
    pub registry_ca_file: Option<PathBuf>,
    /// The nodes' API at one address.
    #[serde(default)]
    pub api: ApiConfig,
    /// What clients reach.
    #[serde(default)]
    pub media: MediaConfig,
    /// The way to the nodes.
    #[serde(default)]
    pub tunnel: TunnelConfig,
    /// The nodes that are listed.
    #[serde(default)]
    pub nodes: Vec<NodeConfig>,
    /// Limits.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Logs.
    #[serde(default)]
    pub log: telemetry::Settings,
}

/// The nodes' API at one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// TCP.
    pub listen: SocketAddr,
    /// PEM; without it the API speaks plain HTTP.
    pub tls_certificate: Option<PathBuf>,
    /// PEM.
    pub tls_key: Option<PathBuf>,
    /// PEM: whom the certificates of nodes with `https://` must be from, instead of the system's authorities.
    pub nodes_ca: Option<PathBuf>,
}

/// What clients reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaConfig {
    /// The address to take media on; all of this machine when empty.
    pub listen: Vec<IpAddr>,
    /// Addresses that clients are told, where they are others than those listened on.
    pub advertise: Vec<IpAddr>,
    /// The UDP port.
    pub udp_port: u16,
    /// The TCP port; 0 for none.
    pub tcp_port: u16,
    /// Threads; one per core when 0.
    pub threads: usize,
    /// Holds the key that ICE user names are made with.
    pub ufrag_key_file: PathBuf,
    /// PEM; with it the TCP port takes TLS too.
    pub tls_certificate: Option<PathBuf>,
    /// PEM.
    pub tls_key: Option<PathBuf>,
}

/// The way to the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelConfig {
    /// UDP; the first thread's. Each further thread has the next port.
    pub listen: SocketAddr,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its number.
    pub node: u16,
    /// Its `ingress.listen`.
    pub tunnel: SocketAddr,
    /// The URL of its API.
    pub api: String,
}

/// Limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Flows of a thread at a time.
    pub flows_max: usize,
    /// New flows per second from one address.
    pub source_flows_per_s: NonZeroU32,
    /// How many of them may come at once.
    pub source_flows_burst: NonZeroU32,
    /// TCP connections of a thread at a time.
    pub connections_max: usize,
    /// HTTP connections at a time.
    pub http_connections_max: usize,
}

impl IngressConfig {
    /// Reads and checks a configuration file; relative paths count from its directory.
    ///
    /// # Errors
    /// When it cannot be read, or the first thing that is wrong in it, with line and field.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::checked(config::load(path)?)?;
        let base = path.parent().filter(|base| !base.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (api, media) = (&mut config.api, &mut config.media);
        let registry = [&mut config.registry_password_file, &mut config.registry_ca_file];
        let optional =
            [&mut api.tls_certificate, &mut api.tls_key, &mut media.tls_certificate, &mut media.tls_key];
        for path in optional
            .into_iter()
            .chain([&mut api.nodes_ca])
            .chain(registry)
            .flatten()
            .chain([&mut media.ufrag_key_file])
        {
            *path = base.join(&*path);
        }
        Ok(config)
    }

    /// Reads and checks a configuration; `file` names it in errors. Paths stay as written.
    ///
    /// # Errors
    /// The first thing that is wrong, with line and field.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        Self::checked(config::parse(Path::new(file), text.to_owned())?)
    }

    fn checked((config, source): (Self, Source)) -> Result<Self, ConfigError> {
        config.check().map_err(|(field, problem)| source.error(&field, problem))?;
        Ok(config)
    }

    /// Which database the registry is in, if there is one.
    #[must_use]
    pub fn registry(&self) -> Option<Database<'_>> {
        let (password, authorities) =
            (self.registry_password_file.as_deref(), self.registry_ca_file.as_deref());
        registry::settings::database(&self.registry, password, authorities)
    }

    /// What types alone do not say.
    fn check(&self) -> Result<(), Fault> {
        let owned = |(field, problem): (&str, String)| (field.to_owned(), problem);
        registry::settings::check(self.registry()).map_err(owned)?;
        let fault = |field: &str, problem: &str| Err((field.to_owned(), problem.to_owned()));
        let Self { media, nodes, .. } = self;
        if media.listen.len() > 1 {
            return fault("media.listen", "expected one address, or none for all of this machine");
        }
        if media.listen.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
            return fault("media.listen", "expected an address of this machine, found one that is none");
        }
        if media.advertise.len() > ADDRESSES_MAX {
            return fault("media.advertise", &format!("expected at most {ADDRESSES_MAX} addresses"));
        }
        if media.udp_port == 0 {
            return fault("media.udp_port", "expected a port above 0");
        }
        if media.threads > WORKERS_CEILING {
            let problem = format!("expected 0 (one per core) to {WORKERS_CEILING}");
            return fault("media.threads", &problem);
        }
        let names = ["api.tls_certificate", "api.tls_key"];
        TlsFiles::check(&self.api.tls_certificate, &self.api.tls_key, names).map_err(owned)?;
        let names = ["media.tls_certificate", "media.tls_key"];
        TlsFiles::check(&media.tls_certificate, &media.tls_key, names).map_err(owned)?;
        if self.tunnel.listen.port() == 0 {
            return fault("tunnel.listen", "expected a port above 0, which stays after a restart");
        }
        let nodes_min = usize::from(self.registry.is_empty());
        if !(nodes_min..=NODES_MAX).contains(&nodes.len()) {
            let found = nodes.len();
            return fault("nodes", &format!("expected {nodes_min} to {NODES_MAX} nodes, found {found}"));
        }
        for (at, node) in nodes.iter().enumerate() {
            let earlier = nodes.get(..at).unwrap_or_default();
            if earlier.iter().any(|other| other.node == node.node) {
                return fault(&format!("nodes[{at}].node"), "another node has this number");
            }
            if earlier.iter().any(|other| other.tunnel == node.tunnel) {
                return fault(&format!("nodes[{at}].tunnel"), "another node has this address");
            }
            if let Err((field, problem)) = node.check() {
                return fault(&format!("nodes[{at}].{field}"), problem);
            }
        }
        for (field, value, ceiling) in [
            ("limits.flows_max", self.limits.flows_max, FLOWS_CEILING),
            ("limits.connections_max", self.limits.connections_max, CONNECTIONS_CEILING),
            ("limits.http_connections_max", self.limits.http_connections_max, CONNECTIONS_CEILING),
        ] {
            if !(1..=ceiling).contains(&value) {
                return fault(field, &format!("expected 1 to {ceiling}, found {value}"));
            }
        }
        telemetry::check(&self.log).map_err(|error| ("log.filter".to_owned(), error.to_string()))
    }
}

impl NodeConfig {
    /// What types alone do not say of one node, whoever names it: the field that is wrong, and what is wrong with it.
    ///
    /// # Errors
    /// When it cannot be reached as it stands.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let api = self.api.parse::<http::Uri>().ok();
        if !matches!(api.as_ref().and_then(http::Uri::scheme_str), Some("http" | "https")) {
            let problem = "expected the URL of the node's API, such as \"http://10.0.0.3:8444\"";
            return Err(("api", problem));
        }
        let ip = self.tunnel.ip();
        if self.tunnel.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
            return Err(("tunnel", "expected the node's address and port"));
        }
        Ok(())
    }
}

impl MediaConfig {
    /// Threads, counted when they are one per core.
    #[must_use]
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }
}

impl TunnelConfig {
    /// Where a thread listens. `None` when no port is left for it.
    #[must_use]
    pub fn of(&self, thread: usize) -> Option<SocketAddr> {
        let port = u16::try_from(thread).ok().and_then(|thread| self.listen.port().checked_add(thread));
        port.map(|port| SocketAddr::new(self.listen.ip(), port))
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 8445));
        Self { listen, tls_certificate: None, tls_key: None, nodes_ca: None }
    }
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            advertise: Vec::new(),
            udp_port: 16_384,
            tcp_port: 443,
            threads: 0,
            ufrag_key_file: "ufrag.key".into(),
            tls_certificate: None,
            tls_key: None,
        }
    }
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 8700)) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            flows_max: 100_000,
            source_flows_per_s: NonZeroU32::MIN.saturating_add(199),
            source_flows_burst: NonZeroU32::MIN.saturating_add(1999),
            connections_max: 10_000,
            http_connections_max: 10_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        IngressConfig::parse("ingress.toml", text).unwrap_err().to_string()
    }

    const NODE: &str = "[[nodes]]\nnode = 1\ntunnel = \"10.0.0.3:8446\"\napi = \"http://10.0.0.3:8444\"\n";

    #[test]
    fn the_example_parses_and_every_value_in_it_is_the_default() {
        let example = IngressConfig::parse("config/ingress.toml", EXAMPLE).unwrap();
        let mut least = IngressConfig::parse("ingress.toml", NODE).unwrap();
        least.nodes.clone_from(&example.nodes);
        assert_eq!(example, least);
    }

    #[test]
    fn every_setting_is_in_the_example() {
        let uncomment = |line: &str| {
            let setting = line.strip_prefix("# ").filter(|rest| rest.contains(" = \""));
            setting.unwrap_or(line).to_owned()
        };
        let text: Vec<_> = EXAMPLE.lines().map(uncomment).collect();
        let config = IngressConfig::parse("config/ingress.toml", &text.join("\n")).unwrap();
        let serde_json::Value::Object(sections) = serde_json::to_value(&config).unwrap() else { panic!() };
        let flat = sections.iter().flat_map(|(name, section)| match section {
            serde_json::Value::Array(list) => list.clone(),
            serde_json::Value::Object(_) => vec![section.clone()],
            alone => vec![serde_json::json!({ name: alone })],
        });
        for section in flat {
            for (name, value) in section.as_object().unwrap() {
                assert!(!value.is_null(), "{name} is not in the example");
                assert!(text.iter().any(|line| line.starts_with(&format!("{name} = "))), "{name}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_field() {
        let with = |section: &str| format!("{NODE}{section}");
        for (text, expected) in [
            (String::new(), "ingress.toml: `nodes`: expected 1 to 256"),
            ("nodes = []\n".to_owned(), "ingress.toml:1:1: `nodes`: expected 1 to 256"),
            (format!("{NODE}{NODE}"), "ingress.toml:6:1: `nodes[1].node`: another node"),
            (with("[media]\nudp_port = 0\n"), "ingress.toml:6:1: `media.udp_port`: expected a port"),
            (with("[media]\nlisten = [\"::\"]\n"), "ingress.toml:6:1: `media.listen`: expected an address"),
            (with("[media]\nthreads = 256\n"), "ingress.toml:6:1: `media.threads`: expected 0"),
            (with("[media]\ntls_key = \"k\"\n"), "ingress.toml:6:1: `media.tls_key`: expected media.tls_c"),
            (with("[tunnel]\nlisten = \"10.0.0.2:0\"\n"), "ingress.toml:6:1: `tunnel.listen`: expected"),
            (with("[limits]\nflows_max = 0\n"), "ingress.toml:6:1: `limits.flows_max`: expected 1 to"),
            (with("[log]\nfilter = \"a=b=c\"\n"), "ingress.toml:6:1: `log.filter`: "),
        ] {
            let said = problem(&text);
            assert!(said.starts_with(expected), "{text}\n{said}");
        }
    }
}

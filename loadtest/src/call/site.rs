//! Where calls are held: a node, with an ingress in front of it or without, made from an empty directory.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use trunkline_relay_proto::path;

use super::process::{Launcher, Metrics, Process};
use super::relay::Relay;
use crate::error::LoadError;
use crate::fleet::Fleet;
use crate::http::Client;

/// Joins per second that nodes and ingresses take from one address: all of them come from here.
const JOINS_PER_S: u32 = 100_000;

/// UDP ports of a node besides one for every call: some may be in use elsewhere.
const SPARE_PORTS: u16 = 4;

/// What clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// The node itself.
    Direct,
    /// An ingress in front of it.
    Ingress,
}

/// How clients' datagrams cross the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// As they are.
    Udp,
    /// As frames on a TCP connection (RFC 6544).
    Tcp,
    /// The same within TLS.
    Tls,
}

impl From<Transport> for path::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Udp => Self::Udp,
            Transport::Tcp => Self::Tcp,
            Transport::Tls => Self::Tls,
        }
    }
}

/// An ingress's process.
pub(crate) struct Ingress {
    /// Its process.
    pub(crate) process: Process,
    /// Its HTTP front, which has its own health and metrics, too.
    pub(crate) api: SocketAddr,
    /// Where clients send datagrams.
    pub(crate) udp: SocketAddr,
}

/// Running processes. Dropping them kills them.
pub(crate) struct Site {
    /// The node that the scenario is about: node 1.
    pub(crate) relay: Relay,
    /// What stands in front of it.
    pub(crate) ingress: Option<Ingress>,
    /// A node that no ingress knows, where one was asked for.
    pub(crate) twin: Option<Relay>,
    /// What TLS connections are checked with: the certificate made for this run, and nothing else.
    pub(crate) tls: Arc<ClientConfig>,
    token: String,
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// An ingress, or none.
    pub(crate) via: Via,
    /// With TLS they take it on their TCP ports.
    pub(crate) transport: Transport,
    /// Calls at a time.
    pub(crate) calls: u16,
    /// A second node without an ingress.
    pub(crate) twin: bool,
    /// Threads of node 1.
    pub(crate) workers: Workers,
    /// The relay program, when it is not this very one.
    pub(crate) relay_bin: Option<PathBuf>,
}

/// Threads of a node that forward media.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workers {
    pub(crate) count: u16,
    /// People of a call on one before it grows onto others.
    pub(crate) participants: u32,
}

impl Workers {
    /// One, which takes any call.
    pub(crate) const ONE: Self = Self { count: 1, participants: 64 };
}

impl Site {
    /// Makes all of it in the fleet's directory, starts it, and waits until it is ready.
    ///
    /// # Errors
    /// When one of these fails.
    pub(crate) async fn start(fleet: &mut Fleet, plan: &Plan) -> Result<Self, LoadError> {
        let launcher = Launcher::new(plan.relay_bin.clone())?;
        let root = fleet.root().to_owned();
        let token = format!("tlr_{}", uuid::Uuid::new_v4().simple());
        for (name, content) in
            [("admin.token", token.clone()), ("tokens.secret", random()), ("ufrag.key", random())]
        {
            write(&root.join(name), &content)?;
        }
        let tls = certificate(&root)?;
        let tls_files = match plan.transport {
            Transport::Tls => "tls_certificate = \"tls.crt\"\ntls_key = \"tls.key\"\n",
            Transport::Udp | Transport::Tcp => "",
        };
        let ports = (plan.via == Via::Ingress).then(|| IngressPorts::take(fleet)).transpose()?;
        let (api, config) = node(fleet, (1, plan.workers), plan.calls, tls_files, ports.as_ref())?;
        let relay = Relay::start(&launcher, &config, api, &token).await?;
        let ingress = match &ports {
            Some(ports) => Some(ports.start(&launcher, &root, tls_files, api, &token).await?),
            None => None,
        };
        let twin = if plan.twin {
            let (api, config) = node(fleet, (2, Workers::ONE), 1, tls_files, None)?;
            Some(Relay::start(&launcher, &config, api, &token).await?)
        } else {
            None
        };
        Ok(Self { relay, ingress, twin, tls, token })
    }

    /// Where clients go with their offers.
    pub(crate) fn api(&self) -> SocketAddr {
        self.ingress.as_ref().map_or(self.relay.api, |ingress| ingress.api)
    }

    /// A client of that API with the admin token.
    pub(crate) fn admin(&self) -> Client {
        Client::new(self.api(), &self.token)
    }
}

impl Ingress {
    /// Its metrics, up to a second old.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn metrics(&self, token: &Site) -> Result<Metrics, LoadError> {
        Metrics::of(&mut Client::new(self.api, &token.token)).await
    }
}

/// Ports of an ingress, and that of the node for it.
struct IngressPorts {
    api: SocketAddr,
    udp: SocketAddr,
    tcp: SocketAddr,
    tunnel: SocketAddr,
    node: SocketAddr,
}

impl IngressPorts {
    fn take(fleet: &mut Fleet) -> Result<Self, LoadError> {
        let mut port = || fleet.port();
        Ok(Self { api: port()?, udp: port()?, tcp: port()?, tunnel: port()?, node: port()? })
    }

    /// What the node behind it is told.
    fn section(&self) -> String {
        let (listen, ip) = (self.node, self.udp.ip());
        let (udp, tcp) = (self.udp.port(), self.tcp.port());
        format!(
            "[ingress]\nlisten = \"{listen}\"\nfrom = [\"{ip}\"]\nadvertise = [\"{ip}\"]\nudp_port = {udp}\n\
             tcp_port = {tcp}\n"
        )
    }

    async fn start(
        &self,
        launcher: &Launcher,
        root: &Path,
        tls_files: &str,
        node_api: SocketAddr,
        token: &str,
    ) -> Result<Ingress, LoadError> {
        let (ip, udp, tcp) = (self.udp.ip(), self.udp.port(), self.tcp.port());
        let (api, tunnel, node) = (self.api, self.tunnel, self.node);
        let config = format!(
            "[media]\nlisten = [\"{ip}\"]\nudp_port = {udp}\ntcp_port = {tcp}\nthreads = 1\n\
             ufrag_key_file = \"ufrag.key\"\n{tls_files}\
             [tunnel]\nlisten = \"{tunnel}\"\n\
             [api]\nlisten = \"{api}\"\n\
             [[nodes]]\nnode = 1\ntunnel = \"{node}\"\napi = \"http://{node_api}\"\n"
        );
        let path = root.join("ingress.toml");
        write(&path, &config)?;
        let process = launcher.start("ingress", "ingress", &path, Client::new(api, token)).await?;
        Ok(Ingress { process, api, udp: self.udp })
    }
}

/// Writes the configuration of a node: its API and where it is.
fn node(
    fleet: &mut Fleet,
    (number, workers): (u16, Workers),
    calls: u16,
    tls_files: &str,
    ingress: Option<&IngressPorts>,
) -> Result<(SocketAddr, PathBuf), LoadError> {
    let (api, tcp) = (fleet.port()?, fleet.port()?);
    let udp_ports = fleet.port_range(calls.saturating_mul(workers.count).saturating_add(SPARE_PORTS))?;
    let Workers { count, participants } = workers;
    let (ip, tcp): (IpAddr, u16) = (api.ip(), tcp.port());
    let ingress = ingress.map(IngressPorts::section).unwrap_or_default();
    let config = format!(
        "node = {number}\n\
         [api]\nlisten = \"{api}\"\nadmin_token_file = \"admin.token\"\n\
         [tokens]\nhs256_secret_file = \"tokens.secret\"\n\
         [media]\nudp_ports = \"{udp_ports}\"\nlisten = [\"{ip}\"]\nworkers = {count}\nworker_participants = {participants}\n\
         ufrag_key_file = \"ufrag.key\"\ntcp_port = {tcp}\n{tls_files}\
         [limits]\njoins_per_s = {JOINS_PER_S}\n{ingress}"
    );
    let path = fleet.root().join(format!("node{number}.toml"));
    write(&path, &config)?;
    Ok((api, path))
}

/// Makes the certificate of all TLS listeners; who connects trusts nothing else.
fn certificate(root: &Path) -> Result<Arc<ClientConfig>, LoadError> {
    let failed = |error: &dyn std::error::Error| LoadError::Usage(format!("making a certificate: {error}"));
    let made =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(|error| failed(&error))?;
    write(&root.join("tls.crt"), &made.cert.pem())?;
    write(&root.join("tls.key"), &made.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).map_err(|error| failed(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn write(path: &Path, content: &str) -> Result<(), LoadError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| writeln!(file, "{content}"))
        .map_err(LoadError::io(format!("writing {}", path.display())))
}

/// 32 random bytes in base64.
fn random() -> String {
    let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    STANDARD.encode(halves.map(uuid::Uuid::into_bytes).concat())
}

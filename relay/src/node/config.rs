//! How a node is set up.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use trunkline_relay_proto::dtls;

use super::ids;
use crate::sdp::CodecName;
use crate::tcp::lobby;
use crate::tunnel::TunnelSettings;
use crate::worker::{Handle, Report};

/// How a node is set up.
#[derive(Clone)]
pub struct NodeConfig {
    /// Its number: part of call ids and ICE user names.
    pub node: u16,
    /// Media threads.
    pub workers: usize,
    /// Address to take media on; all of this machine when empty.
    pub listen: Vec<IpAddr>,
    /// Addresses clients are told instead of those found here.
    pub advertise: Vec<IpAddr>,
    /// Ports of calls.
    pub udp_ports: RangeInclusive<u16>,
    /// The TURN server that clients are told of, `turns:name:port?transport=tcp`, which takes credentials of `ufrag_key`.
    pub turn_url: Option<String>,
    /// TCP port of media, which clients are told; none when 0.
    pub tcp_port: u16,
    /// The ingresses it is reached through, and only through them.
    pub ingress: Option<IngressAccess>,
    /// Tell clients of TCP only, in every call.
    pub force_tcp: bool,
    /// TLS on the TCP port.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Offer DTLS 1.3 too.
    pub dtls_13: bool,
    /// Codecs taken, the best first.
    pub codecs: Vec<CodecName>,
    /// What ICE user names are authenticated with, the same on the ingresses.
    pub ufrag_key: [u8; 32],
    /// How long an ICE user name routes: longer than any call.
    pub ufrag_lifetime: Duration,
    /// Calls at a time.
    pub calls_max: usize,
    /// People of a call on one worker before it grows onto others.
    pub worker_participants: usize,
    /// There is an ingress that knows other nodes: a drain with a deadline hands calls over to them.
    pub hands_over: bool,
    /// A call nobody ever joined ends after this,
    pub never_joined_timeout: Duration,
    /// and one that everybody left after this.
    pub all_left_timeout: Duration,
}

/// How a node is reached through ingresses.
#[derive(Clone, Debug)]
pub struct IngressAccess {
    /// Where the first worker listens for them; each further worker has the next port.
    pub listen: SocketAddr,
    /// Their addresses, as their datagrams come here.
    pub from: Vec<IpAddr>,
    /// Their addresses that clients are told.
    pub advertise: Vec<IpAddr>,
    /// Their UDP port.
    pub udp_port: u16,
    /// Their TCP port; 0 for none.
    pub tcp_port: u16,
}

impl IngressAccess {
    /// The tunnel of one worker.
    pub(super) fn tunnel(&self, worker: usize) -> Option<TunnelSettings> {
        let port = u16::try_from(worker).ok().and_then(|worker| self.listen.port().checked_add(worker));
        let listen = SocketAddr::new(self.listen.ip(), port?);
        Some(TunnelSettings { listen, from: self.from.clone() })
    }
}

impl NodeConfig {
    /// The TCP port that clients are told; 0 for none.
    pub(super) fn public_tcp_port(&self) -> u16 {
        self.ingress.as_ref().map_or(self.tcp_port, |ingress| ingress.tcp_port)
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            node: 1,
            workers: 1,
            listen: Vec::new(),
            advertise: Vec::new(),
            udp_ports: 16384..=19999,
            turn_url: None,
            tcp_port: 0,
            ingress: None,
            force_tcp: false,
            tls: None,
            dtls_13: false,
            codecs: CodecName::DEFAULT.to_vec(),
            ufrag_key: ids::random(),
            ufrag_lifetime: Duration::from_secs(48 * 3600),
            calls_max: 3600,
            worker_participants: 64,
            hands_over: false,
            never_joined_timeout: Duration::from_secs(600),
            all_left_timeout: Duration::from_secs(60),
        }
    }
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeConfig").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Why a node does not start. The operator can mend it.
#[derive(Debug, Error)]
pub enum StartError {
    /// No certificate could be made.
    #[error("the DTLS certificate cannot be made: {0}")]
    Certificate(String),
    /// A worker's end of the tunnel.
    #[error("ingress.listen: cannot listen on UDP {address}: {source}; is another node running there?")]
    Tunnel {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// More workers than there are ports from the first on.
    #[error("ingress.listen: no port is left for worker {0}: expected a lower port")]
    TunnelPort(usize),
    /// A thread, an event queue or a socket cannot be had.
    #[error("media workers cannot start: {0}")]
    System(#[from] io::Error),
    /// The TCP port cannot be had.
    #[error("media.tcp_port: cannot listen on TCP port {port}: {source}; {}", Self::what_to_do(source))]
    TcpPort {
        /// Which.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// More than one address to listen on.
    #[error("media.listen takes one address, or none for all of this machine")]
    Listen,
}

impl StartError {
    /// What helps against a TCP port that cannot be had.
    #[must_use]
    pub fn what_to_do(error: &io::Error) -> &'static str {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "choose a port above 1023, or 0 for none, or give the relay the capability CAP_NET_BIND_SERVICE"
            }
            io::ErrorKind::AddrInUse => "stop what listens there, or choose another port, or 0 for none",
            _ => "choose another port, or 0 for none",
        }
    }
}

/// Listens on the TCP port, if there is to be one.
///
/// # Errors
/// When it cannot be had.
pub fn listen_tcp(port: u16, listen: &[IpAddr]) -> Result<Option<TcpListener>, StartError> {
    if port == 0 {
        return Ok(None);
    }
    let listener = lobby::listen(port, listen.first().copied(), false);
    listener.map(Some).map_err(|source| StartError::TcpPort { port, source })
}

/// Starts one of the node's workers.
pub(super) fn start_worker(
    config: &NodeConfig,
    number: usize,
    reports: mpsc::UnboundedSender<Report>,
) -> Result<Handle, StartError> {
    let Some(ingress) = &config.ingress else { return Ok(Handle::start(number, reports, None)?) };
    let settings = ingress.tunnel(number).ok_or(StartError::TunnelPort(number))?;
    let tunnelled = |source| StartError::Tunnel { address: settings.listen, source };
    Handle::start(number, reports, Some(&settings)).map_err(tunnelled)
}

/// The node's DTLS certificate: made at start-up, known to clients by the fingerprint in each answer.
pub(super) fn certificate(version_13: bool) -> Result<dtls::Settings, StartError> {
    let certificate = |error: rcgen::Error| StartError::Certificate(error.to_string());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(certificate)?;
    let params = rcgen::CertificateParams::new(Vec::new()).map_err(certificate)?;
    let signed = params.self_signed(&key).map_err(certificate)?;
    dtls::Settings::from_der(signed.der().to_vec(), key.serialize_der(), version_13)
        .map_err(|error| StartError::Certificate(error.to_string()))
}

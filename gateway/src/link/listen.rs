//! The listeners of both transports on one port, and what every link of this process shares.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use trunkline_common::redact;
use trunkline_gateway_proto::directory::Directory;
use trunkline_gateway_proto::store::PeerKey;

use super::admit::{Admission, Permit};
use super::resolve::Resolver;
use super::{LinkEvent, LinkId, Transport, dial, quic, tcp, tls};
use crate::identity::Identity;

/// The federation port, UDP and TCP.
pub const PORT_DEFAULT: u16 = 8443;

/// How long links get to say goodbye when the process stops. Longer delays the stop, and saves no envelope.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Socket buffers of QUIC in bytes: what arrives while others have the core. Smaller drops bursts of fast peers.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Ports tried until one is free for both transports, when the system chooses.
const PORT_TRIES: usize = 16;

/// How QUIC paces itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438: yields at every loss, so 1 % loss at a long round trip leaves little.
    Cubic,
    /// Follows the measured bandwidth, not single losses.
    #[default]
    Bbr,
}

/// How links are made. [`Default`] is what an operator gets who says nothing.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Where both transports listen. Port 0 lets the system choose one that is free for both.
    pub listen: SocketAddr,
    /// Whether to speak QUIC. Off, peers reach us over TCP only.
    pub quic: bool,
    /// Whether to speak HTTP/2 over TLS over TCP. Off, networks that block UDP cut us off.
    pub tcp: bool,
    /// How QUIC paces itself.
    pub congestion: Congestion,
    /// Data in flight on one link, in bytes. Throughput is at most this per round trip; each link may cost as
    /// much memory on both sides.
    pub window_bytes: u32,
    /// How often a quiet link shows that it lives. Shorter keeps more middleboxes awake, and costs packets.
    pub keep_alive: Duration,
    /// A link that hears nothing for so long is gone.
    pub idle_timeout: Duration,
    /// How long a connection may take until it is authenticated.
    pub handshake_timeout: Duration,
    /// How long QUIC is alone before TCP races it.
    pub quic_head_start: Duration,
    /// How long a peer that TCP reached is tried over TCP first.
    pub quic_probe_interval: Duration,
    /// Connections that may be on their way to being authenticated.
    pub pending_max: usize,
    /// The same from one IPv4 address or IPv6 /64.
    pub pending_per_source_max: usize,
    /// DNS servers; empty: the system's.
    pub dns_servers: Vec<SocketAddr>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT_DEFAULT)),
            quic: true,
            tcp: true,
            congestion: Congestion::default(),
            window_bytes: 32 << 20,
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15),
            handshake_timeout: Duration::from_secs(5),
            quic_head_start: Duration::from_millis(300),
            quic_probe_interval: Duration::from_secs(300),
            pending_max: 512,
            pending_per_source_max: 32,
            dns_servers: Vec::new(),
        }
    }
}

/// Why links cannot be made. All of them are the operator's or this machine's.
#[derive(Debug, Error)]
pub enum StartError {
    /// The port cannot be had.
    #[error(
        "cannot listen on {transport} {address}: {source}; is another process there, or the port privileged?"
    )]
    Listen {
        /// `udp` or `tcp`.
        transport: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Both transports are off.
    #[error("`quic` and `tcp` are both off: peers could not be reached; switch at least one on")]
    NoTransport,
    /// A value that no transport takes.
    #[error("`{field}` is out of range: {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

/// All links of this process. Dropping it stops listening and closes them.
#[derive(Debug)]
pub struct Links {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    local: SocketAddr,
}

/// What every link and dial needs.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: LinkConfig,
    pub(super) identity: Arc<Identity>,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) resolver: Resolver,
    pub(super) endpoints: Endpoints,
    pub(super) stop: watch::Receiver<bool>,
    /// Which transport reached a peer last, and when QUIC was last tried.
    pub(super) reached: Mutex<HashMap<PeerKey, (Transport, Instant)>>,
    /// Whom we are dialling: a second request joins the first.
    pub(super) dialing: Mutex<HashSet<PeerKey>>,
    last_link: AtomicU64,
    /// How many links there are.
    alive: watch::Sender<usize>,
}

/// Held by a link's task while it lives.
#[derive(Debug)]
pub(super) struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.send_modify(|count| *count -= 1);
    }
}

/// UDP sockets to dial from: the one that listens, and one of the other address family where that cannot reach.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    main: Option<Endpoint>,
    other: Option<Endpoint>,
}

impl Endpoints {
    pub(super) fn to(&self, address: SocketAddr) -> Option<&Endpoint> {
        let reaches = |endpoint: &&Endpoint| {
            endpoint.local_addr().is_ok_and(|local| {
                local.is_ipv4() == address.is_ipv4() || local.ip() == Ipv6Addr::UNSPECIFIED
            })
        };
        self.main.as_ref().filter(reaches).or(self.other.as_ref().filter(reaches))
    }
}

impl Shared {
    pub(super) fn next_link(&self) -> LinkId {
        LinkId(self.last_link.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Completes when the process stops.
    pub(super) async fn stopping(&self) {
        let _ = self.stop.clone().wait_for(|stopping| *stopping).await;
    }

    /// Counts a link until the answer is dropped.
    pub(super) fn alive(self: &Arc<Self>) -> Alive {
        self.alive.send_modify(|count| *count += 1);
        Alive(Arc::clone(self))
    }
}

impl Links {
    /// Listens on both transports. What happens goes to `events`; when that is full, peers are slowed down.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn start(
        config: LinkConfig,
        identity: Arc<Identity>,
        directory: Arc<ArcSwap<Directory>>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Result<Self, StartError> {
        if !config.quic && !config.tcp {
            return Err(StartError::NoTransport);
        }
        if config.window_bytes < 1 << 20 || config.window_bytes > 1 << 30 {
            return Err(StartError::Field { field: "window_bytes", expected: "1 MiB to 1 GiB" });
        }
        let (listener, socket) = bind(&config).await?;
        let local = match (&listener, &socket) {
            (Some(listener), _) => listener.local_addr(),
            (None, Some(socket)) => socket.local_addr(),
            (None, None) => Ok(config.listen),
        }
        .map_err(|source| StartError::Listen { transport: "tcp", address: config.listen, source })?;
        let server = tls::server_config(Arc::clone(&identity), Arc::clone(&directory));
        let endpoints = endpoints(&config, socket, &server)?;
        let admission = Admission::new(config.pending_max, config.pending_per_source_max);
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            resolver: Resolver::new(&config.dns_servers),
            config,
            identity,
            directory,
            events,
            endpoints,
            stop: stopped,
            reached: Mutex::default(),
            dialing: Mutex::default(),
            last_link: AtomicU64::new(0),
            alive: watch::Sender::new(0),
        });
        if let Some(endpoint) = shared.endpoints.main.clone() {
            tokio::spawn(accept_quic(Arc::clone(&shared), endpoint, Arc::clone(&admission)));
        }
        if let Some(listener) = listener {
            tokio::spawn(accept_tcp(Arc::clone(&shared), listener, Arc::new(server), admission));
        }
        Ok(Self { shared, stop, local })
    }

    /// Dials a peer, over QUIC and TCP as it takes. The answer is one [`LinkEvent::Opened`] or
    /// [`LinkEvent::DialFailed`]; while a dial to that peer goes on, another one is the same.
    pub fn dial(&self, peer: PeerKey) {
        self.spawn_dial(peer, false);
    }

    /// Tries whether a peer that TCP reached can be reached over QUIC now: [`LinkEvent::Opened`] when it can,
    /// nothing when not. Does nothing before it is due ([`LinkConfig::quic_probe_interval`]).
    pub fn probe_quic(&self, peer: PeerKey) {
        if dial::quic_due(&self.shared, peer) {
            self.spawn_dial(peer, true);
        }
    }

    fn spawn_dial(&self, peer: PeerKey, probe: bool) {
        let mut dialing = self.shared.dialing.lock().unwrap_or_else(PoisonError::into_inner);
        if dialing.insert(peer) {
            tokio::spawn(dial::dial(Arc::clone(&self.shared), peer, probe));
        }
    }

    /// A number for a link that comes some other way than from here.
    pub(crate) fn next_link(&self) -> LinkId {
        self.shared.next_link()
    }

    /// Where we listen, with the port that was chosen.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Stops listening, closes all links, and waits for them for two seconds at most.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let mut alive = self.shared.alive.subscribe();
        let _ = tokio::time::timeout(SHUTDOWN_GRACE, alive.wait_for(|count| *count == 0)).await;
        for endpoint in [&self.shared.endpoints.main, &self.shared.endpoints.other].into_iter().flatten() {
            endpoint.close(quic::CODE_DONE, b"stopping");
            let _ = tokio::time::timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Binds TCP and UDP to one port.
async fn bind(config: &LinkConfig) -> Result<(Option<TcpListener>, Option<std::net::UdpSocket>), StartError> {
    let mut last = None;
    for _ in 0..PORT_TRIES {
        let mut address = config.listen;
        let listener = if config.tcp {
            let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen {
                transport: "tcp",
                address,
                source,
            })?;
            if let Ok(local) = listener.local_addr() {
                address.set_port(local.port());
            }
            Some(listener)
        } else {
            None
        };
        if !config.quic {
            return Ok((listener, None));
        }
        match std::net::UdpSocket::bind(address) {
            Ok(socket) => return Ok((listener, Some(socket))),
            Err(source) => {
                last = Some(StartError::Listen { transport: "udp", address, source });
                if config.listen.port() != 0 {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or(StartError::NoTransport))
}

fn endpoints(
    config: &LinkConfig,
    socket: Option<std::net::UdpSocket>,
    server: &rustls::ServerConfig,
) -> Result<Endpoints, StartError> {
    let Some(socket) = socket else { return Ok(Endpoints::default()) };
    enlarge_buffers(&socket);
    let crypto = QuicServerConfig::try_from(server.clone()).expect("the provider has AES-128-GCM");
    let main = Endpoint::new(
        EndpointConfig::default(),
        Some(quic::server_config(config, Arc::new(crypto))),
        socket,
        Arc::new(TokioRuntime),
    )
    .map_err(|source| StartError::Listen { transport: "udp", address: config.listen, source })?;
    let other = match config.listen {
        // A machine without IPv6 is fine: there is nothing to reach then.
        SocketAddr::V4(_) => Endpoint::client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).ok(),
        SocketAddr::V6(listen) if !listen.ip().is_unspecified() => {
            Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0))).ok()
        }
        SocketAddr::V6(_) => None,
    };
    Ok(Endpoints { main: Some(main), other })
}

/// As far as the system allows; what it refuses shows as retransmissions under load, nothing worse.
fn enlarge_buffers(socket: &std::net::UdpSocket) {
    if let Ok(state) = quinn::udp::UdpSocketState::new(socket.into()) {
        for result in [
            state.set_recv_buffer_size(socket.into(), SOCKET_BUFFER_BYTES),
            state.set_send_buffer_size(socket.into(), SOCKET_BUFFER_BYTES),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, "the UDP socket keeps its ordinary buffers");
            }
        }
    }
}

async fn accept_quic(shared: Arc<Shared>, endpoint: Endpoint, admission: Arc<Admission>) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = shared.stopping() => None,
        };
        let Some(incoming) = incoming else { return };
        if admission.busy() && !incoming.remote_address_validated() && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        match admission.admit(incoming.remote_address().ip()) {
            Some(permit) => {
                tokio::spawn(quic::accept(Arc::clone(&shared), incoming, permit));
            }
            None => {
                turned_away(incoming.remote_address(), "quic");
                incoming.refuse();
            }
        }
    }
}

async fn accept_tcp(
    shared: Arc<Shared>,
    listener: TcpListener,
    server: Arc<rustls::ServerConfig>,
    admission: Arc<Admission>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stopping() => return,
        };
        match accepted {
            Ok((stream, remote)) => match admission.admit(remote.ip()) {
                Some(permit) => spawn_tcp(&shared, stream, remote, &server, permit),
                None => turned_away(remote, "tcp"),
            },
            Err(error) => {
                // Out of file descriptors: the next attempt may find some, and a tight loop helps nobody.
                tracing::warn!(%error, "cannot accept connections from peers");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn spawn_tcp(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
    server: &Arc<rustls::ServerConfig>,
    permit: Permit,
) {
    tokio::spawn(tcp::accept(Arc::clone(shared), stream, remote, Arc::clone(server), permit));
}

fn turned_away(remote: SocketAddr, transport: &'static str) {
    tracing::debug!(remote = %redact::ip(&remote), transport, "too many handshakes at once: turned away");
}

//! The data plane: the threads that forward between clients and nodes, and what they count.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use trunkline_relay_proto::flow::{self, FlowCounters};
use trunkline_relay_proto::{turn, ufrag};

use super::config::{IngressConfig, NodeConfig};
use super::thread::{Handle, Parts};
use crate::config::WORKERS_CEILING;
use crate::interfaces;
use crate::node::random_bytes;
use crate::tcp::{LobbyCounters, lobby};
use crate::udp::{Socket, SocketCounters};

/// Why the data plane does not start. The operator can mend it.
#[derive(Debug, Error)]
pub enum StartError {
    /// The public port.
    #[error("media: cannot listen on UDP port {port}: {source}; is the ingress running already?")]
    Public {
        /// Which.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The public port for TCP.
    #[error(
        "media: cannot listen on TCP port {port}: {source}; may this user have it, is the ingress running already?"
    )]
    Tcp {
        /// Which.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A thread's port towards the nodes.
    #[error("tunnel.listen: cannot listen on UDP {address}: {source}; is the ingress running already?")]
    Tunnel {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// More threads than there are ports from the first on.
    #[error("tunnel.listen: no port is left for thread {0}: expected a lower port")]
    TunnelPort(usize),
    /// A thread, or what it waits with.
    #[error("ingress threads cannot start: {0}")]
    System(#[from] io::Error),
}

/// One way through the ingress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Datagrams that came.
    pub datagrams: u64,
    /// Their bytes, headers of the tunnel included.
    pub bytes: u64,
    /// Times that any came.
    pub batches: u64,
}

impl Way {
    /// Counts a message of datagrams.
    pub(super) fn count(&mut self, bytes: usize, segment: usize) {
        self.datagrams += bytes.div_ceil(segment.max(1)) as u64;
        self.bytes += bytes as u64;
    }

    fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.batches += other.batches;
    }
}

/// What was counted of TCP connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounters {
    /// Frames that came.
    pub upstream: Way,
    /// Connections now, without TLS,
    pub open_tcp: usize,
    /// and with it.
    pub open_tls: usize,
    /// Connections that ended.
    pub closed: u64,
    /// Of these, those from which nothing came any more.
    pub idled: u64,
    /// Connections that showed a good check and found no place.
    pub refused_full: u64,
    /// Packets that were dropped because their connection was too slow.
    pub dropped_slow: u64,
    /// Frames that found no room on their way to a node.
    pub dropped_room: u64,
}

impl ConnectionCounters {
    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        self.upstream.add(&other.upstream);
        self.open_tcp += other.open_tcp;
        self.open_tls += other.open_tls;
        self.closed += other.closed;
        self.idled += other.idled;
        self.refused_full += other.refused_full;
        self.dropped_slow += other.dropped_slow;
        self.dropped_room += other.dropped_room;
    }
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// From clients to nodes, over UDP.
    pub upstream: Way,
    /// From nodes to clients.
    pub downstream: Way,
    /// Flows now.
    pub flows: usize,
    /// What the flow tables counted.
    pub flow: FlowCounters,
    /// TCP connections.
    pub connections: ConnectionCounters,
    /// Those that have not shown a good check.
    pub lobby: LobbyCounters,
    /// Datagrams from addresses that are no node.
    pub tunnel_stranger: u64,
    /// Datagrams from nodes that say nothing.
    pub tunnel_malformed: u64,
    /// What was sent to clients over UDP.
    pub public: SocketCounters,
    /// What was sent to nodes.
    pub tunnel: SocketCounters,
    /// How long the threads worked.
    pub busy: Duration,
}

impl Counters {
    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        self.upstream.add(&other.upstream);
        self.downstream.add(&other.downstream);
        self.flows += other.flows;
        self.flow.add(&other.flow);
        self.connections.add(&other.connections);
        self.lobby.add(&other.lobby);
        self.tunnel_stranger += other.tunnel_stranger;
        self.tunnel_malformed += other.tunnel_malformed;
        self.public.add(&other.public);
        self.tunnel.add(&other.tunnel);
        self.busy += other.busy;
    }
}

/// Where a node's workers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeAddress {
    /// The node's number.
    pub(super) node: u16,
    /// The first worker's.
    pub(super) tunnel: SocketAddr,
}

/// The nodes, each at its place: flows name them by it. Some places are nobody's.
pub(super) type Nodes = Arc<[Option<NodeAddress>]>;

/// Who is at a place.
pub(super) fn at(nodes: &[Option<NodeAddress>], place: usize) -> Option<&NodeAddress> {
    nodes.get(place)?.as_ref()
}

impl NodeAddress {
    fn of(node: &NodeConfig) -> Self {
        let tunnel = SocketAddr::new(node.tunnel.ip().to_canonical(), node.tunnel.port());
        Self { node: node.node, tunnel }
    }

    /// A worker's. `None` when there is no such port.
    pub(super) fn worker(&self, worker: u8) -> Option<SocketAddr> {
        let port = self.tunnel.port().checked_add(worker.into())?;
        Some(SocketAddr::new(self.tunnel.ip(), port))
    }

    /// Whether an address is that of one of its workers.
    pub(super) fn is(&self, address: SocketAddr) -> bool {
        let workers = usize::from(address.port()).checked_sub(self.tunnel.port().into());
        address.ip() == self.tunnel.ip() && workers.is_some_and(|worker| worker < WORKERS_CEILING)
    }
}

/// The running data plane. It ends when it is dropped.
pub struct Plane {
    threads: Vec<Handle>,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane").field("threads", &self.threads.len()).finish()
    }
}

impl Plane {
    /// Starts the threads. `key` is what nodes make ICE user names with; without `tls` the TCP port takes none.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub fn start(
        config: &IngressConfig,
        key: [u8; 32],
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Self, StartError> {
        let media = &config.media;
        let own = interfaces::candidates(&media.advertise, &media.listen)?;
        let turn = Arc::new(turn::Settings { secret: turn::Secret::derive(&key), own });
        let key = ufrag::Key::new(key);
        let lobby = lobby::Settings { tls, turn: Some(turn), ..lobby::Settings::new(key.clone()) };
        let nodes: Nodes = config.nodes.iter().map(NodeAddress::of).map(Some).collect();
        let listen = media.listen.first().copied();
        // All sockets are there, always in the same order, before the first thread: after a restart the system brings
        // each client to the thread it was on.
        let mut parts = Vec::new();
        for number in 0..media.threads() {
            let port = media.udp_port;
            let public = Socket::bind_shared(port, listen);
            let public = public.map_err(|source| StartError::Public { port, source })?;
            let address = config.tunnel.of(number).ok_or(StartError::TunnelPort(number))?;
            let tunnel = Socket::bind_to(address);
            let tunnel = tunnel.map_err(|source| StartError::Tunnel { address, source })?;
            let lobby = match media.tcp_port {
                0 => None,
                port => {
                    let listener = lobby::listen(port, listen, true);
                    let listener = listener.map_err(|source| StartError::Tcp { port, source })?;
                    Some((listener, lobby.clone(), config.limits.connections_max))
                }
            };
            parts.push(Parts {
                number,
                lobby,
                public,
                tunnel,
                listen,
                nodes: Arc::clone(&nodes),
                key: key.clone(),
                flows: flow::Settings {
                    flows_max: config.limits.flows_max,
                    source_flows_per_s: config.limits.source_flows_per_s.get(),
                    source_flows_burst: config.limits.source_flows_burst.get(),
                    nodes: config.nodes.iter().map(|node| node.node).collect(),
                    seed: u64::from_ne_bytes(random_bytes()),
                },
            });
        }
        let mut plane = Self { threads: Vec::new() };
        for parts in parts {
            plane.threads.push(Handle::start(parts)?);
        }
        Ok(plane)
    }

    /// Says which nodes there are from now on, each at its place; calls of those that stay go on.
    pub fn set_nodes<'a>(&self, places: impl IntoIterator<Item = Option<&'a NodeConfig>>) {
        let nodes: Nodes = places.into_iter().map(|node| node.map(NodeAddress::of)).collect();
        self.threads.iter().for_each(|thread| thread.set_nodes(Arc::clone(&nodes)));
    }

    /// What all threads counted: up to a second old.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.threads.iter().for_each(|thread| sum.add(&thread.counters()));
        sum
    }

    /// Ends the threads, and waits for them.
    pub fn stop(&self) {
        self.threads.iter().for_each(Handle::stop);
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}

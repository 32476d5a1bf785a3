//! A network path between a participant and this node.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How a client's packets cross the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// ICE-TCP (RFC 6544): frames of RFC 4571 on a TCP connection.
    Tcp,
    /// The same, or TURN, within TLS.
    Tls,
}

impl Transport {
    /// As the API names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Which of the node's ways out a path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// The call's own UDP socket.
    Socket,
    /// A connection that the call's worker holds, by its number there, which is never used again.
    Connection {
        /// TCP, or TLS over it.
        transport: Transport,
        /// Its number.
        number: u32,
    },
    /// An ingress.
    Ingress {
        /// Its endpoint's place in the worker's list of those.
        endpoint: u16,
        /// How the client reaches the ingress.
        transport: Transport,
        /// What the ingress calls the flow (see [`crate::tunnel`]).
        flow: u32,
    },
}

/// Where a datagram came from and which way it came: an answer leaves the same way.
///
/// It names a person's network address, so `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// The participant's address and port, as seen by whoever faces it. An IPv4 address is never written as an IPv6 one.
    pub remote: SocketAddr,
    /// Our address, where the way out is the call's own socket. The port is the call's.
    pub local: IpAddr,
    /// The way out.
    pub via: Via,
}

impl Path {
    /// A path to the call's own socket; addresses that IPv6 sockets write as `::ffff:a.b.c.d` become plain IPv4 ones.
    #[must_use]
    pub fn new(remote: SocketAddr, local: IpAddr) -> Self {
        Self { local: local.to_canonical(), ..Self::over(remote, Via::Socket) }
    }

    /// A path over a connection or an ingress, which know by themselves which address of ours to use.
    #[must_use]
    pub fn over(remote: SocketAddr, via: Via) -> Self {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        Self { remote, local: Ipv4Addr::UNSPECIFIED.into(), via }
    }

    /// How the client's packets cross the network.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self.via {
            Via::Socket => Transport::Udp,
            Via::Connection { transport, .. } | Via::Ingress { transport, .. } => transport,
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.remote.is_ipv4() { "Path(IPv4)" } else { "Path(IPv6)" })
    }
}

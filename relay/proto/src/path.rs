//! A network path between a participant and this node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a datagram came from and which of our addresses it came to: an answer leaves from that same address.
///
/// It names a person's network address, so `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// The participant's address and port, as seen here. An IPv4 address is never written as an IPv6 one.
    pub remote: SocketAddr,
    /// Our address. The port is the call's.
    pub local: IpAddr,
}

impl Path {
    /// A path; addresses that IPv6 sockets write as `::ffff:a.b.c.d` become plain IPv4 ones.
    #[must_use]
    pub fn new(remote: SocketAddr, local: IpAddr) -> Self {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        Self { remote, local: local.to_canonical() }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.remote.is_ipv4() { "Path(IPv4)" } else { "Path(IPv6)" })
    }
}

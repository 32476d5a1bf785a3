//! The addresses that clients are told.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Addresses for host candidates, the best first: those configured, else those listened on, else the ones this machine
/// would use towards the outside, else loopback. Nothing is sent to find out.
///
/// # Errors
/// When not even a loopback address can be had.
pub fn candidates(advertise: &[IpAddr], listen: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    let named = if advertise.is_empty() { listen } else { advertise };
    let named: Vec<IpAddr> = named.iter().copied().filter(|ip| !ip.is_unspecified()).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    // Connecting a UDP socket sends nothing; it asks the routing table. The destinations are documentation addresses.
    let outside = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let found: Vec<IpAddr> = outside.iter().filter_map(|(from, to)| source_towards(from, to)).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    Ok(vec![UdpSocket::bind("127.0.0.1:0")?.local_addr()?.ip()])
}

fn source_towards(from: &str, to: &str) -> Option<IpAddr> {
    let from: SocketAddr = from.parse().ok()?;
    let to: SocketAddr = to.parse().ok()?;
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_comes_first() {
        let (public, private): (IpAddr, IpAddr) = ([203, 0, 113, 7].into(), [10, 0, 0, 7].into());
        assert_eq!(candidates(&[public], &[private]).expect("named"), [public]);
        assert_eq!(candidates(&[], &[private]).expect("named"), [private]);
    }

    #[test]
    fn without_configuration_there_is_always_an_address_clients_could_use() {
        let found = candidates(&[], &[]).expect("at least loopback");
        assert!(!found.is_empty() && found.iter().all(|ip| !ip.is_unspecified()));
    }
}

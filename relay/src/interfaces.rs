//! The addresses that clients are told.
//!
//! `getifaddrs` is called straight: it is one small function, and crates that wrap it bring much else along.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::udp::machine_addresses;

/// Addresses that clients are told at most. More makes answers longer, and clients check each of them.
pub const ADDRESSES_MAX: usize = 8;

/// Addresses for host candidates, the best first: those configured, else those listened on, else all of this machine
/// that are not link-local (those it would use towards the outside first), else loopback. Nothing is sent to find out.
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
    let routed = outside.iter().filter_map(|(from, to)| source_towards(from, to));
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in routed.chain(machine_addresses()?).filter(is_for_others) {
        if found.len() < ADDRESSES_MAX && !found.contains(&ip) {
            found.push(ip);
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    Ok(vec![UdpSocket::bind("127.0.0.1:0")?.local_addr()?.ip()])
}

/// Whether somebody on another machine may reach us there.
fn is_for_others(ip: &IpAddr) -> bool {
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(is_local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

fn source_towards(from: &str, to: &str) -> Option<IpAddr> {
    let from: SocketAddr = from.parse().ok()?;
    let to: SocketAddr = to.parse().ok()?;
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
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
        assert!((1..=ADDRESSES_MAX).contains(&found.len()) && found.iter().all(|ip| !ip.is_unspecified()));
    }

    #[test]
    fn addresses_that_nobody_else_reaches_are_not_told() {
        for ip in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "0.0.0.0", "224.0.0.1"] {
            assert!(!is_for_others(&ip.parse().expect("an address")), "{ip}");
        }
        for ip in ["10.1.2.3", "203.0.113.7", "2001:db8::7", "fd00::7"] {
            assert!(is_for_others(&ip.parse().expect("an address")), "{ip}");
        }
    }
}

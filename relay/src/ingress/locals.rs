//! The ingress's own addresses, as the tunnel numbers them: the way back to a client has to leave from the address that
//! the client sent to, also after a restart. So a number follows from the address alone. For IPv4 it is the address; for
//! IPv6 it is a hash of it, which this machine's addresses are looked up by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::udp::machine_addresses;

/// IPv6 addresses known at a time. Without room, the system chooses where answers leave from.
const ADDRESSES_MAX: usize = 256;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Locals {
    ipv6: Vec<(u32, Ipv6Addr)>,
}

impl Locals {
    /// This machine's addresses, of which packets may bring more.
    pub(super) fn of_machine(listen: Option<IpAddr>) -> Self {
        let mut locals = Self::default();
        // Without the list, answers leave from where the system thinks best until a packet comes.
        let found = machine_addresses().unwrap_or_default();
        for ip in found.into_iter().chain(listen).chain([Ipv6Addr::LOCALHOST.into()]) {
            locals.number(ip);
        }
        locals
    }

    /// The number of an address that a packet came to.
    pub(super) fn number(&mut self, local: IpAddr) -> u32 {
        match local {
            IpAddr::V4(ip) => ip.to_bits(),
            IpAddr::V6(ip) => {
                let number = hash(ip);
                if self.ipv6.len() < ADDRESSES_MAX && !self.ipv6.iter().any(|(known, _)| *known == number) {
                    self.ipv6.push((number, ip));
                }
                number
            }
        }
    }

    /// The address of a number that came back with a packet for `remote`. Unspecified when it is not known.
    pub(super) fn address(&self, number: u32, remote: IpAddr) -> IpAddr {
        if remote.is_ipv4() {
            return Ipv4Addr::from_bits(number).into();
        }
        let known = self.ipv6.iter().find(|(known, _)| *known == number);
        known.map_or(Ipv6Addr::UNSPECIFIED, |(_, ip)| *ip).into()
    }
}

/// FNV-1a. It only has to tell a machine's addresses apart, and to be the same in every version.
fn hash(ip: Ipv6Addr) -> u32 {
    ip.octets().iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_from_its_number_also_after_a_restart() {
        let (v4, v6): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), "2001:db8::1".parse().unwrap());
        let (mut before, mut after) = (Locals::default(), Locals::default());
        let numbers = [before.number(v4), before.number(v6)];
        assert_eq!(after.address(numbers[0], v4), v4);
        assert!(after.address(numbers[1], v6).is_unspecified());
        after.number(v6);
        assert_eq!(after.address(numbers[1], v6), v6);
    }

    #[test]
    fn loopback_is_known_from_the_start() {
        let mut locals = Locals::of_machine(None);
        let number = locals.number(Ipv6Addr::LOCALHOST.into());
        assert_eq!(Locals::of_machine(None).address(number, Ipv6Addr::LOCALHOST.into()), Ipv6Addr::LOCALHOST);
    }
}

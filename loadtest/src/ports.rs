//! Ports for gateways that come back on the same port after a crash.
//!
//! They lie below the range the kernel takes outgoing ports from, so that no client socket can sit on one
//! while its gateway is down. A block of them belongs to whoever listens on its first port, so scenarios that
//! run at the same time never share one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::error::LoadError;

/// First port of the first block.
const FIRST: u16 = 20_000;

/// Where the kernel's outgoing ports start by default.
const END: u16 = 32_000;

/// Ports in a block: enough for eleven gateways with four each.
const BLOCK: u16 = 64;

/// A block of ports on 127.0.0.1 that no other scenario uses.
#[derive(Debug)]
pub(crate) struct PortBlock {
    /// Holding it is what makes the block ours.
    _guard: TcpListener,
    next: u16,
    end: u16,
}

impl PortBlock {
    /// Takes a free block.
    ///
    /// # Errors
    /// When all are taken.
    pub(crate) fn take() -> Result<Self, LoadError> {
        let blocks = (END - FIRST) / BLOCK;
        // Processes that start together begin to look in different places.
        let offset = u16::try_from(std::process::id() % u32::from(blocks)).unwrap_or(0);
        for step in 0..blocks {
            let first = FIRST + (offset + step) % blocks * BLOCK;
            if let Ok(guard) = TcpListener::bind((Ipv4Addr::LOCALHOST, first)) {
                return Ok(Self { _guard: guard, next: first + 1, end: first + BLOCK });
            }
        }
        Err(LoadError::Usage(format!("no free block of ports between {FIRST} and {END} on 127.0.0.1")))
    }

    /// The next port of the block that is free for TCP and UDP right now.
    ///
    /// # Errors
    /// When the block is used up.
    pub(crate) fn next(&mut self) -> Result<SocketAddr, LoadError> {
        while self.next < self.end {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.next += 1;
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(address);
            }
        }
        Err(LoadError::Usage(format!("the {BLOCK} ports of a scenario are used up")))
    }

    /// The next `count` ports of the block, as `first-last`: whoever gets them skips those in use elsewhere.
    ///
    /// # Errors
    /// When the block is used up.
    pub(crate) fn range(&mut self, count: u16) -> Result<String, LoadError> {
        let (first, last) = (self.next, self.next.saturating_add(count.saturating_sub(1)));
        if last >= self.end {
            return Err(LoadError::Usage(format!("the {BLOCK} ports of a scenario are used up")));
        }
        self.next = last + 1;
        Ok(format!("{first}-{last}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_never_share_a_port() {
        let (mut a, mut b) = (PortBlock::take().unwrap(), PortBlock::take().unwrap());
        let ports: std::collections::HashSet<_> =
            (0..10).flat_map(|_| [a.next(), b.next()]).flatten().collect();
        assert_eq!(ports.len(), 20);
    }
}

//! The UDP ports of calls: one each, out of the configured range.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::udp::Socket;

/// A port rests so long after its call, so that late packets of that call reach nobody. Longer needs more ports.
const REST: Duration = Duration::from_secs(10);

/// Why there is no port for a call.
#[derive(Debug, Error)]
pub enum PortError {
    /// Every port of the range is in use, here or elsewhere, or rests.
    #[error("no UDP port is free between {first} and {last}: end calls, or widen media.udp_ports")]
    Exhausted {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// A socket cannot be had at all.
    #[error("a UDP socket cannot be opened: {0}")]
    Socket(io::Error),
}

/// Hands ports out in turn, so that a port is used again as late as possible.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    listen: Option<IpAddr>,
    free: VecDeque<u16>,
    resting: VecDeque<(Instant, u16)>,
}

impl Ports {
    /// All ports of a range, on one address or on all. `start` shifts where handing out begins.
    #[must_use]
    pub fn new(range: RangeInclusive<u16>, listen: Option<IpAddr>, start: usize) -> Self {
        let mut free: VecDeque<u16> = range.clone().collect();
        let len = free.len().max(1);
        free.rotate_left(start % len);
        Self { range, listen, free, resting: VecDeque::new() }
    }

    /// Binds the next port that nobody else uses.
    ///
    /// # Errors
    /// When there is none.
    pub fn bind(&mut self, now: Instant) -> Result<Socket, PortError> {
        while self.resting.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= REST) {
            self.free.extend(self.resting.pop_front().map(|(_, port)| port));
        }
        for _ in 0..self.free.len() {
            let Some(port) = self.free.pop_front() else { break };
            match Socket::bind(port, self.listen) {
                Ok(socket) => return Ok(socket),
                // Somebody else's: it may be free another time.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => self.free.push_back(port),
                Err(error) => {
                    self.free.push_front(port);
                    return Err(PortError::Socket(error));
                }
            }
        }
        Err(PortError::Exhausted { first: *self.range.start(), last: *self.range.end() })
    }

    /// A call ended.
    pub fn release(&mut self, now: Instant, port: u16) {
        self.resting.push_back((now, port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_elsewhere_are_skipped_and_exhaustion_is_said() {
        let taken: Vec<Socket> = (0..2).map(|_| Socket::bind(0, None).expect("a port")).collect();
        let now = Instant::now();
        let mut one = Ports::new(taken[0].port()..=taken[0].port(), None, 0);
        assert!(matches!(one.bind(now), Err(PortError::Exhausted { .. })));
        drop(taken);
        assert!(one.bind(now).is_ok());
    }

    #[test]
    fn a_port_rests_before_it_is_used_again() {
        let port = Socket::bind(0, None).expect("a port").port();
        let now = Instant::now();
        let mut ports = Ports::new(port..=port, None, 0);
        drop(ports.bind(now).expect("free"));
        ports.release(now, port);
        assert!(ports.bind(now + Duration::from_secs(1)).is_err());
        assert!(ports.bind(now + REST).is_ok());
    }
}

//! Datagrams from everywhere: each from another address of 127.0.0.0/8, in few system calls. For tests of what a
//! flood costs; it reaches this machine only.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::fanout::sys::Outbox;

/// Datagrams of one system call.
pub const BATCH: usize = 64;

/// Sockets that take turns, so that ports differ, too.
const SOCKETS: usize = 64;

/// The sockets.
#[derive(Debug)]
pub struct Spray {
    sockets: Vec<Socket>,
    next: usize,
    outbox: Outbox,
}

impl Spray {
    /// Binds sockets on any port.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn new() -> io::Result<Self> {
        let socket = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into())?;
            Ok(socket)
        };
        let sockets = (0..SOCKETS).map(|_| socket()).collect::<io::Result<_>>()?;
        Ok(Self { sockets, next: 0, outbox: Outbox::default() })
    }

    /// Sends up to [`BATCH`] datagrams to an address of this machine, each from its own.
    ///
    /// # Errors
    /// When the system refuses one of them: `to` or an address it is to come from is not of this machine.
    pub fn send(&mut self, to: SocketAddrV4, datagrams: &[(Ipv4Addr, &[u8])]) -> io::Result<()> {
        self.next = (self.next + 1) % self.sockets.len();
        self.outbox.spray(self.sockets[self.next].as_fd(), to, &datagrams[..datagrams.len().min(BATCH)])
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_datagram_comes_from_the_address_it_was_given() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        receiver.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, receiver.local_addr().expect("an address").port());
        let mut spray = Spray::new().expect("sockets");
        let sources = [Ipv4Addr::new(127, 1, 2, 3), Ipv4Addr::new(127, 200, 0, 9), Ipv4Addr::LOCALHOST];
        let bytes: [&[u8]; 3] = [b"one", b"two two", b"three"];
        let datagrams: Vec<_> = sources.into_iter().zip(bytes).collect();
        spray.send(to, &datagrams).expect("sent");
        for (source, bytes) in datagrams {
            let mut buffer = [0; 100];
            let (len, from) = receiver.recv_from(&mut buffer).expect("a datagram");
            assert_eq!((from.ip(), &buffer[..len]), (source.into(), bytes));
        }
    }
}

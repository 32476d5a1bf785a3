//! The media socket of a call: batches in with receive offload, trains out with segmentation offload.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Socket as Socket2, Type};
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::path::{Path, Via};

mod sys;

pub(crate) use sys::machine_addresses;

/// Buffer of a socket in either direction, as far as the system allows. Larger rides out longer stalls of a worker,
/// and delays media behind it.
const BUFFER_BYTES: usize = 4 << 20;

/// How long one batch may wait for room in the send buffer. Longer loses less on a slow device, and delays other calls
/// of this worker.
const SEND_WAIT_MAX: Duration = Duration::from_millis(2);

/// Trains refused one after another before a socket sends none any more. A single one may be the fault of its
/// destination, such as a path that takes smaller packets only; more tries cost a system call each.
const REFUSALS_MAX: u8 = 8;

/// What a socket did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Of these, in trains of two or more.
    pub datagrams_in_trains: u64,
    /// Messages handed to the kernel.
    pub messages: u64,
    /// Datagrams dropped because the send buffer stayed full.
    pub dropped_full: u64,
    /// Datagrams that could not be sent to their destination.
    pub dropped_unreachable: u64,
    /// Trains that were refused, and sent as single datagrams.
    pub offload_refused: u64,
}

impl SocketCounters {
    /// Adds another socket's.
    pub fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.datagrams_in_trains += other.datagrams_in_trains;
        self.messages += other.messages;
        self.dropped_full += other.dropped_full;
        self.dropped_unreachable += other.dropped_unreachable;
        self.offload_refused += other.offload_refused;
    }
}

/// Buffers for receiving: one set per worker.
pub struct Batch {
    buffers: Vec<u8>,
    received: [Option<sys::Received>; sys::RECEIVE_MESSAGES],
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Batch")
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            buffers: vec![0; sys::RECEIVE_MESSAGES * sys::RECEIVE_BYTES],
            received: [None; sys::RECEIVE_MESSAGES],
        }
    }
}

/// A media socket.
#[derive(Debug)]
pub struct Socket {
    socket: Socket2,
    is_ipv6: bool,
    offload: bool,
    /// Trains refused since one was taken.
    refusals: u8,
    /// What it did.
    pub counters: SocketCounters,
}

impl Socket {
    /// Binds a port: for IPv6 and IPv4 at once, or for IPv4 alone where there is no IPv6. `listen` narrows it down to
    /// one address.
    ///
    /// # Errors
    /// When the port is in use (`AddrInUse`), or cannot be had.
    pub fn bind(port: u16, listen: Option<IpAddr>) -> io::Result<Self> {
        match listen {
            Some(ip) => Self::bind_to(SocketAddr::new(ip, port)),
            None => match Self::bind_to(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    Self::bind_to(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
                }
                bound => bound,
            },
        }
    }

    fn bind_to(address: SocketAddr) -> io::Result<Self> {
        let is_ipv6 = address.is_ipv6();
        let domain = if is_ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket2::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if is_ipv6 {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        // What the system does not allow is cut down silently, which is as good as it gets.
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
        socket.bind(&address.into())?;
        sys::prepare(socket.as_fd(), is_ipv6)?;
        Ok(Self { socket, is_ipv6, offload: true, refusals: 0, counters: SocketCounters::default() })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.socket
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket())
            .map_or(0, |address| address.port())
    }

    /// Whether IPv6 clients can reach it.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// Sends every train as single datagrams from now on.
    #[cfg(test)]
    pub(crate) fn switch_offload_off(&mut self) {
        self.offload = false;
    }

    /// Receives one batch and hands each datagram on, with its path. How many messages came; zero when nothing waits.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn receive(&self, batch: &mut Batch, mut handle: impl FnMut(Path, &mut [u8])) -> io::Result<usize> {
        let came = match sys::receive(self.socket.as_fd(), &mut batch.buffers, &mut batch.received) {
            Ok(came) => came,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                    // What an unreachable destination left behind on the socket.
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable => Ok(0),
                    _ => Err(error),
                };
            }
        };
        let messages = batch.buffers.chunks_exact_mut(sys::RECEIVE_BYTES).zip(&batch.received).take(came);
        for (buffer, received) in messages {
            let Some(received) = received else { continue };
            let Some(bytes) = buffer.get_mut(..received.len) else { continue };
            for datagram in bytes.chunks_mut(received.segment) {
                handle(received.path, datagram);
            }
        }
        Ok(came)
    }

    /// Sends every train that goes out by this socket, and leaves the others alone. One destination that cannot be reached costs its own datagrams only.
    pub fn send(&mut self, egress: &Egress) {
        let mut at = Position::default();
        let mut wait_until = None;
        loop {
            let mut messages = [NOTHING; sys::SEND_MESSAGES];
            let count = gather(egress, at, self.offload, &mut messages);
            let messages = messages.get(..count).unwrap_or_default();
            let Some(first) = messages.first() else { return };
            let passed = match sys::send(self.socket.as_fd(), self.is_ipv6, messages) {
                Ok(sent) => {
                    let sent = messages.get(..sent).unwrap_or_default();
                    sent.iter().for_each(|message| self.count(message));
                    sent
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN | libc::ENOBUFS) => {
                        if self.wait_for_room(&mut wait_until) {
                            continue;
                        }
                        self.counters.dropped_full +=
                            messages.iter().map(sys::Message::datagrams).sum::<u64>();
                        messages
                    }
                    // Devices and paths that cannot take trains say so only now.
                    Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if first.datagrams() > 1 => {
                        self.counters.offload_refused += 1;
                        self.refusals += 1;
                        self.offload = self.refusals < REFUSALS_MAX;
                        at.single = true;
                        continue;
                    }
                    _ => {
                        self.counters.dropped_unreachable += first.datagrams();
                        std::slice::from_ref(first)
                    }
                },
            };
            at.pass(egress, passed);
        }
    }

    fn count(&mut self, message: &sys::Message<'_>) {
        let datagrams = message.datagrams();
        self.counters.messages += 1;
        self.counters.datagrams += datagrams;
        if datagrams > 1 {
            self.counters.datagrams_in_trains += datagrams;
            self.refusals = 0;
        }
    }

    /// Waits until the send buffer has room, within what one batch may wait.
    fn wait_for_room(&self, wait_until: &mut Option<Instant>) -> bool {
        let now = Instant::now();
        let left = wait_until.get_or_insert(now + SEND_WAIT_MAX).saturating_duration_since(now);
        let Ok(timeout) = Timespec::try_from(left) else { return false };
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        !left.is_zero() && rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A place for a message.
const NOTHING: sys::Message<'_> = sys::Message {
    path: Path {
        remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        via: Via::Socket,
    },
    bytes: &[],
    segment: 1,
};

/// How far sending got.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    train: usize,
    offset: usize,
    /// This train goes as single datagrams.
    single: bool,
}

impl Position {
    /// These messages are done with, one way or the other.
    fn pass(&mut self, egress: &Egress, messages: &[sys::Message<'_>]) {
        for message in messages {
            while egress.trains().get(self.train).is_some_and(|train| train.path.via != Via::Socket) {
                self.train += 1;
            }
            self.offset += message.bytes.len();
            if egress.trains().get(self.train).is_none_or(|train| self.offset >= train.len) {
                *self = Self { train: self.train + 1, offset: 0, single: false };
            }
        }
    }
}

/// The next messages: a train each, or a datagram each.
fn gather<'a>(egress: &'a Egress, at: Position, offload: bool, messages: &mut [sys::Message<'a>]) -> usize {
    let mut count = 0;
    let Position { mut offset, mut single, .. } = at;
    for train in egress.trains().get(at.train..).unwrap_or_default() {
        if train.path.via != Via::Socket {
            continue;
        }
        let rest = egress.bytes(train).get(offset..).unwrap_or_default();
        let unit = if offload && !single { rest.len() } else { train.segment };
        (offset, single) = (0, false);
        for bytes in rest.chunks(unit.max(1)) {
            let Some(message) = messages.get_mut(count) else { return count };
            *message = sys::Message { path: train.path, bytes, segment: train.segment };
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::UdpSocket;

    use trunkline_relay_proto::path::Transport;

    use super::*;

    /// What came: as much as is expected, and what is there beyond that.
    fn drain(socket: &UdpSocket, expected: usize) -> Vec<Vec<u8>> {
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("settable");
        let mut buffer = [0; 2000];
        let mut got = Vec::new();
        while let Ok(len) = socket.recv(&mut buffer) {
            got.push(buffer[..len].to_vec());
            if got.len() >= expected {
                socket.set_nonblocking(true).expect("settable");
            }
        }
        got
    }

    fn loopback(ip: &str) -> (UdpSocket, Path) {
        let ip: IpAddr = ip.parse().expect("an address");
        let socket = UdpSocket::bind((ip, 0)).expect("a port");
        let remote = socket.local_addr().expect("bound");
        (socket, Path::new(remote, ip))
    }

    fn train(egress: &mut Egress, path: Path, sizes: &[usize]) -> Vec<Vec<u8>> {
        let datagrams: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(at, size)| vec![u8::try_from(at).unwrap_or(0); *size]).collect();
        datagrams.iter().for_each(|datagram| egress.push(path, datagram));
        datagrams
    }

    #[test]
    fn trains_arrive_as_the_datagrams_they_are_made_of_with_and_without_offload() {
        for offload in [true, false] {
            let mut socket = Socket::bind(0, None).expect("a port");
            if !offload {
                socket.switch_offload_off();
            }
            for ip in ["127.0.0.1", "::1"] {
                let (client, path) = loopback(ip);
                let mut egress = Egress::default();
                let sent = train(&mut egress, path, &[1200, 1200, 1200, 700, 100, 100]);
                socket.send(&egress);
                assert_eq!(drain(&client, sent.len()), sent, "{ip}, offload {offload}");
            }
            assert_eq!(socket.counters.datagrams, 12);
            assert_eq!(socket.counters.datagrams_in_trains > 0, offload);
        }
    }

    #[test]
    fn what_a_client_sends_comes_with_both_addresses_and_is_answered_from_there() {
        let mut socket = Socket::bind(0, None).expect("a port");
        let mut batch = Batch::default();
        for ip in ["127.0.0.1", "::1"] {
            let (client, path) = loopback(ip);
            client.connect((path.local, socket.port())).expect("connectable");
            for at in 0..10_u8 {
                client.send(&[at; 500]).expect("sent");
            }
            let mut got = Vec::new();
            while got.len() < 10 {
                socket
                    .receive(&mut batch, |path, datagram| got.push((path, datagram.to_vec())))
                    .expect("sound");
            }
            assert!(
                got.iter()
                    .enumerate()
                    .all(|(at, (from, bytes))| *from == path && usize::from(bytes[0]) == at)
            );
            let mut egress = Egress::default();
            egress.push(got[0].0, b"answer");
            socket.send(&egress);
            // A connected socket takes datagrams from the address it wrote to only.
            assert_eq!(drain(&client, 1), [b"answer"]);
        }
    }

    #[test]
    fn trains_between_two_sockets_are_taken_apart_again() {
        let (mut from, to) = (Socket::bind(0, None).expect("a port"), Socket::bind(0, None).expect("a port"));
        let path = Path::new(([127, 0, 0, 1], to.port()).into(), [127, 0, 0, 1].into());
        let mut egress = Egress::default();
        let sent = train(&mut egress, path, &[1000; 40]);
        from.send(&egress);
        let (mut batch, mut got) = (Batch::default(), Vec::new());
        while got.len() < sent.len() {
            to.receive(&mut batch, |_, datagram| got.push(datagram.to_vec())).expect("sound");
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn a_destination_that_cannot_be_reached_costs_its_own_datagrams_only() {
        let mut socket = Socket::bind(0, None).expect("a port");
        let (client, path) = loopback("127.0.0.1");
        let nowhere = Path::new(([255, 255, 255, 255], 9).into(), [127, 0, 0, 1].into());
        let mut egress = Egress::default();
        for at in 0..3_u8 {
            egress.push(path, &[at; 10]);
            egress.push(nowhere, &[at; 10]);
        }
        socket.send(&egress);
        assert_eq!(drain(&client, 3).len(), 3);
        assert_eq!((socket.counters.datagrams, socket.counters.dropped_unreachable), (3, 3));
    }

    #[test]
    fn a_refused_train_goes_as_single_datagrams_and_takes_no_other_with_it() {
        let mut socket = Socket::bind(0, None).expect("a port");
        sys::limit_ipv6_mtu(socket.as_fd(), 1280).expect("settable");
        let ((narrow, through_narrow), (wide, through_wide)) = (loopback("::1"), loopback("127.0.0.1"));
        let mut egress = Egress::default();
        let mut to_wide = train(&mut egress, through_wide, &[1300; 4]);
        let to_narrow = train(&mut egress, through_narrow, &[1300; 3]);
        to_wide.extend(train(&mut egress, through_wide, &[1300; 4]));
        socket.send(&egress);
        assert_eq!(drain(&wide, 8), to_wide);
        assert_eq!(drain(&narrow, 3), to_narrow);
        let expected = SocketCounters {
            datagrams: 11,
            datagrams_in_trains: 8,
            messages: 5,
            offload_refused: 1,
            ..SocketCounters::default()
        };
        assert_eq!(socket.counters, expected);
    }

    #[test]
    fn trains_that_are_always_refused_are_given_up() {
        let mut socket = Socket::bind(0, None).expect("a port");
        sys::limit_ipv6_mtu(socket.as_fd(), 1280).expect("settable");
        let clients = [loopback("::1"), loopback("::1")];
        let mut egress = Egress::default();
        for _ in 0..10 {
            for (_, path) in &clients {
                train(&mut egress, *path, &[1300; 2]);
            }
        }
        socket.send(&egress);
        assert!(clients.iter().all(|(client, _)| drain(client, 20).len() == 20));
        assert_eq!(socket.counters.offload_refused, u64::from(REFUSALS_MAX));
        assert_eq!((socket.counters.datagrams, socket.counters.datagrams_in_trains), (40, 0));
    }

    #[test]
    fn trains_of_other_ways_out_are_left_alone() {
        let mut socket = Socket::bind(0, None).expect("a port");
        let (client, path) = loopback("127.0.0.1");
        let other = Path::over(path.remote, Via::Connection { transport: Transport::Tcp, number: 1 });
        let mut egress = Egress::default();
        for size in [50, 60] {
            train(&mut egress, other, &[size; 3]);
            train(&mut egress, path, &[size; 2]);
        }
        train(&mut egress, other, &[70; 2]);
        for offload in [true, false] {
            socket.offload = offload;
            socket.send(&egress);
            let sizes: Vec<_> = drain(&client, 4).iter().map(Vec::len).collect();
            assert_eq!(sizes, [50, 50, 60, 60], "offload: {offload}");
        }
        assert_eq!(socket.counters.datagrams, 8);
    }

    #[test]
    fn a_port_in_use_says_so() {
        let socket = Socket::bind(0, None).expect("a port");
        let error = Socket::bind(socket.port(), None).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_large_batch_is_sent_whole() {
        let mut socket = Socket::bind(0, None).expect("a port");
        let clients: Vec<_> = (0..100).map(|_| loopback("127.0.0.1")).collect();
        let mut egress = Egress::default();
        for (_, path) in &clients {
            train(&mut egress, *path, &[50, 60, 50]);
        }
        socket.send(&egress);
        let got: HashMap<usize, usize> =
            clients.iter().enumerate().map(|(at, (client, _))| (at, drain(client, 3).len())).collect();
        assert!(got.values().all(|count| *count == 3), "{got:?}");
    }
}

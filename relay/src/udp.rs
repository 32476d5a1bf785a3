//! Media sockets: batches in with receive offload, trains out with segmentation offload.
//!
//! What is sent is never copied: a train of a call is one piece of memory, and one that goes into a tunnel (or comes out
//! of one) is a list of pieces, a header before every datagram (or without it).

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Socket as Socket2, Type};
use trunkline_relay_proto::egress::{Egress, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX};
use trunkline_relay_proto::path::{Path, Via};
use trunkline_relay_proto::tunnel::HEADER_BYTES;

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

/// Pieces of one sending call of trains that go into a tunnel or come out of one. More makes fewer calls; each takes 16
/// bytes of the stack. At least two for each datagram of a train.
const TUNNEL_PARTS: usize = 512;

/// Datagrams to one destination, as they lie in memory: back to back, all of one size but for the last, which may be
/// shorter. Loads to one destination that lie behind one another leave together when sizes allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    /// Where they go.
    pub(crate) to: SocketAddr,
    /// Which of our addresses they leave from. The unspecified one leaves that to the system.
    pub(crate) local: IpAddr,
    /// What becomes of each datagram on its way out.
    pub(crate) framing: Framing<'a>,
    /// The datagrams. Nothing is sent of none.
    pub(crate) bytes: &'a [u8],
    /// Bytes of each but the last.
    pub(crate) segment: usize,
}

/// What becomes of each datagram on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing<'a> {
    /// It leaves as it is.
    Bare,
    /// It leaves behind this header of the tunnel.
    Tunnel(&'a [u8; HEADER_BYTES]),
    /// It came out of the tunnel, and leaves without the header.
    Untunnel,
}

/// Nothing to send.
pub(crate) const NO_LOAD: Load<'_> = Load {
    to: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    framing: Framing::Bare,
    bytes: &[],
    segment: 1,
};

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

/// One message that was received: datagrams from one sender, back to back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived<'a> {
    /// Where it came from, and to.
    pub(crate) path: Path,
    /// The datagrams.
    pub(crate) bytes: &'a [u8],
    /// Bytes of each but the last.
    pub(crate) segment: usize,
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

impl Batch {
    /// What [`Socket::receive_messages`] received, by place.
    pub(crate) fn message(&self, at: usize) -> Option<Arrived<'_>> {
        let Some(Some(received)) = self.received.get(at) else { return None };
        let start = at * sys::RECEIVE_BYTES;
        let bytes = self.buffers.get(start..start + received.len)?;
        Some(Arrived { path: received.path, bytes, segment: received.segment })
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

    /// Binds an address and port. An unspecified IPv6 address takes IPv4 too.
    ///
    /// # Errors
    /// When it is in use (`AddrInUse`), or cannot be had.
    pub(crate) fn bind_to(address: SocketAddr) -> io::Result<Self> {
        Self::open(address, false)
    }

    /// The same for a port that several sockets share: the system keeps each client on one of them (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn bind_shared(port: u16, listen: Option<IpAddr>) -> io::Result<Self> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        match listen {
            Some(ip) => Self::open(SocketAddr::new(ip, port), true),
            None => match Self::open(any, true) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    Self::open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), true)
                }
                bound => bound,
            },
        }
    }

    fn open(address: SocketAddr, shared: bool) -> io::Result<Self> {
        let is_ipv6 = address.is_ipv6();
        let domain = if is_ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket2::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if is_ipv6 {
            socket.set_only_v6(false)?;
        }
        if shared {
            socket.set_reuse_port(true)?;
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
        let came = self.receive_messages(batch)?;
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

    /// Receives one batch: how many messages came, which are in the batch by then. Zero when nothing waits.
    ///
    /// # Errors
    /// When the socket is broken.
    pub(crate) fn receive_messages(&self, batch: &mut Batch) -> io::Result<usize> {
        match sys::receive(self.socket.as_fd(), &mut batch.buffers, &mut batch.received) {
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                // What an unreachable destination left behind on the socket.
                io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable => Ok(0),
                _ => Err(error),
            },
            came => came,
        }
    }

    /// Sends every train that leaves by a call's own socket. One destination that cannot be reached costs its own
    /// datagrams only.
    pub fn send(&mut self, egress: &Egress) {
        let own = |at: usize| {
            let train = egress.trains().get(at)?;
            Some(if train.path.via == Via::Socket {
                let (to, local) = (train.path.remote, train.path.local);
                Load { to, local, framing: Framing::Bare, bytes: egress.bytes(train), segment: train.segment }
            } else {
                NO_LOAD
            })
        };
        self.send_all::<{ sys::SEND_MESSAGES }>(own);
    }

    /// Sends every load, asked for by number until there is none. One destination that cannot be reached costs its own
    /// datagrams only.
    pub(crate) fn send_loads<'a>(&mut self, loads: impl Fn(usize) -> Option<Load<'a>>) {
        self.send_all::<TUNNEL_PARTS>(loads);
    }

    fn send_all<'a, const PARTS: usize>(&mut self, loads: impl Fn(usize) -> Option<Load<'a>>) {
        let mut at = Position::default();
        let mut wait_until = None;
        loop {
            let (mut messages, mut parts) = ([NOTHING; sys::SEND_MESSAGES], [IoSlice::new(&[]); PARTS]);
            let (count, used) = gather(&loads, at, self.offload, &mut messages, &mut parts);
            let messages = messages.get(..count).unwrap_or_default();
            let Some(first) = messages.first() else { return };
            let parts = parts.get(..used).unwrap_or_default();
            let passed = match sys::send(self.socket.as_fd(), self.is_ipv6, messages, parts) {
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
                        let datagrams: usize = messages.iter().map(|message| message.datagrams).sum();
                        self.counters.dropped_full += datagrams as u64;
                        messages
                    }
                    // Devices and paths that cannot take trains say so only now.
                    Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if first.datagrams > 1 => {
                        self.counters.offload_refused += 1;
                        self.refusals += 1;
                        self.offload = self.refusals < REFUSALS_MAX;
                        at.single = true;
                        continue;
                    }
                    _ => {
                        self.counters.dropped_unreachable += first.datagrams as u64;
                        std::slice::from_ref(first)
                    }
                },
            };
            if let Some(last) = passed.last() {
                at = last.end;
            }
        }
    }

    fn count(&mut self, message: &sys::Message) {
        let datagrams = message.datagrams as u64;
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
const NOTHING: sys::Message = sys::Message {
    to: NO_LOAD.to,
    local: NO_LOAD.local,
    parts: 0,
    bytes: 0,
    segment: 0,
    datagrams: 0,
    end: Position { load: 0, offset: 0, single: false },
};

/// How far sending got.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    load: usize,
    offset: usize,
    /// This load goes as single datagrams.
    single: bool,
}

impl Position {
    /// Behind so many bytes more of a load.
    fn behind(self, bytes: usize, load: &Load<'_>) -> Self {
        let offset = self.offset + bytes;
        if offset < load.bytes.len() { Self { offset, ..self } } else { self.next() }
    }

    /// At the beginning of the next load.
    fn next(self) -> Self {
        Self { load: self.load + 1, offset: 0, single: false }
    }
}

/// The next messages and their pieces: how many there are of each.
fn gather<'a>(
    loads: &impl Fn(usize) -> Option<Load<'a>>,
    mut at: Position,
    offload: bool,
    messages: &mut [sys::Message],
    parts: &mut [IoSlice<'a>],
) -> (usize, usize) {
    let (mut count, mut used) = (0, 0);
    while let Some(load) = loads(at.load) {
        let rest = load.bytes.get(at.offset..).unwrap_or_default();
        let trains = offload && !at.single;
        if rest.is_empty() {
            at = at.next();
            continue;
        }
        if matches!(load.framing, Framing::Bare) {
            // One piece, cut to size by whoever made the load.
            let unit = if trains { rest.len() } else { load.segment.max(1) };
            for bytes in rest.chunks(unit) {
                let (Some(message), Some(part)) = (messages.get_mut(count), parts.get_mut(used)) else {
                    return (count, used);
                };
                *part = IoSlice::new(bytes);
                at = at.behind(bytes.len(), &load);
                let Load { to, local, segment, .. } = load;
                let datagrams = bytes.len().div_ceil(segment.max(1));
                *message =
                    sys::Message { to, local, parts: 1, bytes: bytes.len(), segment, datagrams, end: at };
                (count, used) = (count + 1, used + 1);
            }
            continue;
        }
        for datagram in rest.chunks(load.segment.max(1)) {
            let (header, body) = match load.framing {
                Framing::Bare => (None, datagram),
                Framing::Tunnel(header) => (Some(&header[..]), datagram),
                Framing::Untunnel => (None, datagram.get(HEADER_BYTES..).unwrap_or_default()),
            };
            let pieces = [header, Some(body)].into_iter().flatten();
            let (len, needed) =
                (header.map_or(0, <[u8]>::len) + body.len(), 1 + usize::from(header.is_some()));
            at = at.behind(datagram.len(), &load);
            let Some(room) = parts.get_mut(used..used + needed) else { return (count, used) };
            let last = count.checked_sub(1).and_then(|last| messages.get_mut(last));
            if let Some(message) = last.filter(|message| trains && takes(message, &load, len)) {
                message.parts += needed;
                message.bytes += len;
                message.datagrams += 1;
                message.end = at;
            } else {
                let Some(message) = messages.get_mut(count) else { return (count, used) };
                let Load { to, local, .. } = load;
                *message = sys::Message {
                    to,
                    local,
                    parts: needed,
                    bytes: len,
                    segment: len,
                    datagrams: 1,
                    end: at,
                };
                count += 1;
            }
            room.iter_mut().zip(pieces).for_each(|(part, piece)| *part = IoSlice::new(piece));
            used += needed;
        }
    }
    (count, used)
}

/// Whether a message takes one more datagram of a load.
fn takes(message: &sys::Message, load: &Load<'_>, len: usize) -> bool {
    message.bytes == message.segment * message.datagrams
        && len <= message.segment
        && message.datagrams < TRAIN_SEGMENTS_MAX
        && message.bytes + len <= TRAIN_BYTES_MAX
        && message.to == load.to
        && message.local == load.local
}

#[cfg(test)]
mod tests;

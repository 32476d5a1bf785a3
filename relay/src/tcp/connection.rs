//! One connection of a client: TCP, perhaps TLS over it, and a framing that makes datagrams of what comes.
//!
//! It never waits. What its receiver does not take is kept in a [`Backlog`], which drops media that became too old;
//! little of it is in places where nothing can be dropped any more: the kernel's buffer and that of TLS.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;
use thiserror::Error;
use trunkline_relay_proto::backlog::Backlog;
use trunkline_relay_proto::framing::{self, Deframer};
use trunkline_relay_proto::path::Transport;
use trunkline_relay_proto::turn;

/// Reads of one turn before other connections have theirs.
const READS_PER_TURN: usize = 8;

/// Bytes of our side that the kernel may hold without having sent them. They can no longer be dropped when they become
/// old; less wakes us more often while a connection is slow.
const NOT_SENT_BYTES_MAX: u32 = 16 * 1024;

/// The same for TLS, whose records are sealed by then. One record has 16 KiB at most.
const TLS_BUFFER_BYTES_MAX: usize = 32 * 1024;

/// Bytes that have to leave after media was dropped before a new picture is asked for, unless all leave: more than
/// buffers on the way swallow while the receiver stands still. More asks later on slow networks.
const RESUMED_BYTES: usize = 64 * 1024;

/// How long what was sent may stay unacknowledged before the connection is over: as long as a client may be silent
/// ([`trunkline_relay_proto::ice::CONSENT`]). More keeps connections to nobody.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Stretches of the backlog handed over in one system call.
const STRETCHES_MAX: usize = 32;

/// Where the magic cookie of STUN (RFC 8489, section 5) stands in the first message tells what the client speaks.
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Bytes that are enough to tell: the length of a frame, and a message up to its cookie.
const HEAD_BYTES: usize = 10;

/// Why a connection is over. None of it is worth more than a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Closed {
    /// The client closed it.
    #[error("the client closed the connection")]
    ByPeer,
    /// The network did.
    #[error("the connection broke: {0}")]
    Broken(ErrorKind),
    /// TLS failed: a client that speaks it badly, or does not like our certificate.
    #[error("TLS failed")]
    Tls,
    /// It speaks neither frames of RFC 4571 nor TURN, or TURN where there is none, or either badly.
    #[error("the client speaks neither framed datagrams nor TURN")]
    Protocol,
}

impl From<io::Error> for Closed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Self::ByPeer,
            kind => Self::Broken(kind),
        }
    }
}

/// Whether a connection has more to send than it can take now: wait for it to become writable.
pub type WantsWrite = bool;

/// A connection. After [`Connection::receive`] and [`Connection::push`] comes one [`Connection::flush`].
pub struct Connection {
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<Box<ServerConnection>>,
    framing: Framing,
    backlog: Backlog,
    /// Answers of TURN on their way into the backlog.
    replies: Vec<u8>,
    /// Bytes that left since media was dropped that nobody was told of.
    moved: usize,
    /// Not all that waited left the last time.
    blocked: bool,
    /// System calls that wrote, for those who measure.
    pub writes: u64,
}

/// How datagrams lie in the stream.
enum Framing {
    /// Not yet known: the first bytes.
    Unknown { head: [u8; HEAD_BYTES], len: usize, turn: Option<Arc<turn::Settings>> },
    /// RFC 4571.
    Frames(Deframer),
    /// RFC 8656.
    Turn(Box<turn::Session>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("transport", &self.transport()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes over a connection that was accepted. With `tls` the client is about to begin a handshake; with `turn` it may
    /// speak that.
    ///
    /// # Errors
    /// When the operating system refuses what a connection needs.
    pub fn new(
        stream: TcpStream,
        remote: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        turn: Option<Arc<turn::Settings>>,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Small answers must not wait for the client's delayed acknowledgement.
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX)?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        let tls = match tls.map(ServerConnection::new).transpose().map_err(io::Error::other)? {
            Some(mut tls) => {
                tls.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
                Some(Box::new(tls))
            }
            None => None,
        };
        Ok(Self {
            stream,
            remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
            tls,
            framing: Framing::Unknown { head: [0; HEAD_BYTES], len: 0, turn },
            backlog: Backlog::default(),
            replies: Vec::new(),
            moved: 0,
            blocked: false,
            writes: 0,
        })
    }

    /// The address that the client goes by, an IPv4 one never written as an IPv6 one: where it was seen, or within TURN
    /// its relayed address, which is what its checks are to be answered with.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// TCP, or TLS over it.
    #[must_use]
    pub fn transport(&self) -> Transport {
        if self.tls.is_some() { Transport::Tls } else { Transport::Tcp }
    }

    /// Reads what came, through `scratch`, and hands on each datagram that is complete. Bytes read: zero when nothing
    /// waits. Where more waits than one turn takes, the connection stays readable.
    ///
    /// # Errors
    /// When the connection is over. What was handed on before stands.
    pub fn receive(
        &mut self,
        now: Instant,
        scratch: &mut [u8],
        mut handle: impl FnMut(&mut [u8]),
    ) -> Result<usize, Closed> {
        let mut received = 0;
        for _ in 0..READS_PER_TURN {
            let (came, more) = self.read(now, scratch, &mut handle)?;
            received += came;
            if !more {
                break;
            }
        }
        Ok(received)
    }

    /// Wraps a datagram for the client, and keeps it until [`Connection::flush`]. False when it was dropped at once.
    pub fn push(&mut self, now: Instant, datagram: &[u8]) -> bool {
        match &self.framing {
            Framing::Frames(_) => {
                framing::length(datagram).is_some_and(|length| self.backlog.push(now, &length, datagram, 0))
            }
            Framing::Turn(session) => session.wrap(now, datagram.len()).is_some_and(|wrapping| {
                self.backlog.push(now, wrapping.head(), datagram, wrapping.pad().len())
            }),
            // Nobody speaks to a client that has said nothing.
            Framing::Unknown { .. } => false,
        }
    }

    /// Drops what became too old, and writes as much as the connection takes.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn flush(&mut self, now: Instant) -> Result<WantsWrite, Closed> {
        self.backlog.drop_old(now);
        let before = self.backlog.len();
        let Self { stream, tls, backlog, writes, .. } = self;
        let wants_write = match tls {
            None => write_plain(stream, backlog, writes)?,
            Some(tls) => write_tls(stream, tls, backlog, writes)?,
        };
        if self.backlog.has_lost() {
            self.moved += before - self.backlog.len();
        }
        self.blocked = wants_write;
        Ok(wants_write)
    }

    /// SSRCs of which media was dropped, each once, as soon as the connection takes something again: a picture asked for
    /// while it does not would only become old.
    pub fn dropped(&mut self) -> impl Iterator<Item = u32> {
        let moves = self.moved >= RESUMED_BYTES || !self.blocked;
        if moves {
            self.moved = 0;
        }
        moves.then(|| self.backlog.take_lost()).into_iter().flatten()
    }

    /// Whether the client showed good TURN credentials, and holds an allocation.
    #[must_use]
    pub fn is_allocated(&self) -> bool {
        matches!(&self.framing, Framing::Turn(session) if session.is_allocated())
    }

    /// Packets dropped so far.
    #[must_use]
    pub fn dropped_packets(&self) -> u64 {
        self.backlog.dropped()
    }

    /// Bytes of memory that wait to be sent or are kept for it.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.backlog.capacity()
    }

    /// Reads once. Bytes read, and whether there may be more.
    fn read(
        &mut self,
        now: Instant,
        scratch: &mut [u8],
        handle: &mut impl FnMut(&mut [u8]),
    ) -> Result<(usize, bool), Closed> {
        let Some(tls) = &mut self.tls else {
            let Some(len) = some(self.stream.read(scratch))? else { return Ok((0, false)) };
            self.feed(now, scratch.get_mut(..len).unwrap_or_default(), handle)?;
            return Ok((len, len == scratch.len()));
        };
        let Some(len) = some(tls.read_tls(&mut self.stream))? else { return Ok((0, false)) };
        if let Err(_error) = tls.process_new_packets() {
            // An alert says why, if the client can still be told.
            let _ = tls.write_tls(&mut self.stream);
            return Err(Closed::Tls);
        }
        while let Some(tls) = &mut self.tls {
            match tls.reader().read(scratch) {
                // The client said that nothing more comes.
                Ok(0) => return Err(Closed::ByPeer),
                Ok(plain) => self.feed(now, scratch.get_mut(..plain).unwrap_or_default(), handle)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(Closed::ByPeer),
            }
        }
        Ok((len, true))
    }

    /// Makes datagrams of what came.
    fn feed(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        handle: &mut impl FnMut(&mut [u8]),
    ) -> Result<(), Closed> {
        match &mut self.framing {
            Framing::Frames(deframer) => {
                deframer.feed(bytes, handle);
                Ok(())
            }
            Framing::Turn(session) => {
                let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let taken = session.handle(now, now_s, bytes, &mut self.replies, handle);
                if !self.replies.is_empty() {
                    self.backlog.push(now, &[], &self.replies, 0);
                    self.replies.clear();
                }
                taken.map_err(|_| Closed::Protocol)
            }
            Framing::Unknown { head, len, turn } => {
                let taken = bytes.len().min(HEAD_BYTES - *len);
                let (first, rest) = bytes.split_at_mut(taken);
                head.iter_mut().skip(*len).zip(first).for_each(|(place, byte)| *place = *byte);
                *len += taken;
                if *len < HEAD_BYTES {
                    return Ok(());
                }
                let mut head = *head;
                self.framing = Framing::after(&head, turn.take(), self.remote)?;
                if let Framing::Turn(session) = &self.framing {
                    self.remote = session.relayed();
                }
                self.feed(now, &mut head, handle)?;
                self.feed(now, rest, handle)
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Framing {
    /// What begins like this.
    fn after(
        head: &[u8; HEAD_BYTES],
        turn: Option<Arc<turn::Settings>>,
        client: SocketAddr,
    ) -> Result<Self, Closed> {
        let cookie_at = |at: usize| head.get(at..at + 4) == Some(&MAGIC_COOKIE[..]);
        if cookie_at(6) {
            return Ok(Self::Frames(Deframer::default()));
        }
        let turn = turn.filter(|_| cookie_at(4)).ok_or(Closed::Protocol)?;
        // Clients expect an IPv4 address unless they ask for another.
        let own = turn.own.iter().find(|ip| ip.is_ipv4()).or(turn.own.first());
        let relayed = SocketAddr::new(own.map_or(client.ip(), IpAddr::to_canonical), client.port());
        let mut nonce = [0; 12];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Closed::Protocol)?;
        Ok(Self::Turn(Box::new(turn::Session::new(turn, client, relayed, nonce))))
    }
}

/// Writes many frames per system call.
fn write_plain(stream: &TcpStream, backlog: &mut Backlog, writes: &mut u64) -> Result<WantsWrite, Closed> {
    while !backlog.is_empty() {
        let mut slices = [IoSlice::new(&[]); STRETCHES_MAX];
        let (mut count, mut offered) = (0, 0);
        for (slice, stretch) in slices.iter_mut().zip(backlog.stretches()) {
            *slice = IoSlice::new(stretch);
            offered += stretch.len();
            count += 1;
        }
        let mut stream = stream;
        *writes += 1;
        let written = match stream.write_vectored(slices.get(..count).unwrap_or_default()) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        backlog.advance(written);
        if written < offered {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Seals no more than fits the small buffer of TLS.
fn write_tls(
    stream: &mut TcpStream,
    tls: &mut ServerConnection,
    backlog: &mut Backlog,
    writes: &mut u64,
) -> Result<WantsWrite, Closed> {
    loop {
        // What is sealed can no longer be dropped: nothing new is, before the last of it has left.
        if !tls.is_handshaking() && !tls.wants_write() && !backlog.is_empty() {
            let taken = tls.writer().write_vectored(&first_stretches(backlog)).map_err(|_| Closed::Tls)?;
            backlog.advance(taken);
        }
        if !tls.wants_write() {
            // Before the handshake is done, nothing of the backlog can go; reading brings it on.
            return Ok(false);
        }
        *writes += 1;
        if some_written(tls.write_tls(stream))?.is_none() {
            return Ok(true);
        }
    }
}

fn first_stretches(backlog: &Backlog) -> [IoSlice<'_>; STRETCHES_MAX] {
    let mut slices = [IoSlice::new(&[]); STRETCHES_MAX];
    for (slice, stretch) in slices.iter_mut().zip(backlog.stretches()) {
        *slice = IoSlice::new(stretch);
    }
    slices
}

/// Bytes read; none when nothing waits.
fn some(read: io::Result<usize>) -> Result<Option<usize>, Closed> {
    match read {
        Ok(0) => Err(Closed::ByPeer),
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Bytes written; none when nothing can be.
fn some_written(written: io::Result<usize>) -> Result<Option<usize>, Closed> {
    match written {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;

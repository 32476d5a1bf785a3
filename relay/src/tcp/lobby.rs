//! Where connections wait until they say whose they are: the first frame has to be a connectivity check whose ufrag was
//! made by this cluster. Until then a connection is nobody's, and gets little: few bytes, little time, and no more room
//! than its address is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{Timespec, epoll};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use trunkline_http::auth::bucket;
use trunkline_relay_proto::path::Transport;
use trunkline_relay_proto::ufrag::{self, Route, UfragError};
use trunkline_relay_proto::{stun, turn};

use super::connection::{Closed, Connection};

mod handshakes;

use handshakes::Handshakes;

/// Connections that wait at a time. When there is another, the one that waited longest makes room: people need a few
/// round trips here, so a flood has to be this many connections in that time to keep them out. More costs a file
/// descriptor each, and some kilobytes for those that speak TLS.
pub const CONNECTIONS_MAX: usize = 4096;

/// Of these from one address, or one IPv6 /64. When there is another, the one of that address that waited longest makes
/// room, so that who says nothing cannot shut out those behind the same NAT. More lets large offices reconnect at once;
/// less leaves one attacker less.
pub const PER_ADDRESS_MAX: usize = 128;

/// How long a connection may take to its check, TLS handshake included. Longer lets slower networks in, and those who
/// only hold a place.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How many deadlines a TURN client gets that showed good credentials: it allocates before it knows whom to check. More
/// keeps allocations that nobody came back to.
const ALLOCATED_DEADLINES: u8 = 6;

/// TLS handshakes that one address, or one IPv6 /64, may begin in a second in the long run, with each lobby (every thread
/// of an ingress has one). More lets large offices reconnect sooner; less leaves a flood of one address less of the thread
/// that moves media.
pub const TLS_HANDSHAKES_PER_S: u32 = 50;

/// And at once. About what may wait of one address: more only helps offices that come back all at once.
pub const TLS_HANDSHAKES_BURST: u32 = 100;

/// Connections accepted, and events looked at, in one turn: the thread has other things to do.
const ACCEPTS_PER_TURN: usize = 64;
const EVENTS_PER_TURN: usize = 32;

/// How long nothing is accepted after that failed: file descriptors have run out, and asking again costs as much.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the kernel keeps for us until they are accepted.
const LISTEN_BACKLOG: i32 = 1024;

/// Bytes read at once. A check has about 100.
const SCRATCH_BYTES: usize = 4096;

/// Frames kept of what came with the first one: clients repeat their check, and may begin DTLS at once.
const FRAMES_MAX: usize = 16;

/// The first byte of a TLS handshake (RFC 8446, section 5.1). No STUN message of less than 5,632 bytes in a frame, and
/// none outside one, begins like that.
const TLS_HANDSHAKE: u8 = 22;

/// Listeners have the highest tokens, connections count up from zero.
const LISTENERS: u64 = u64::MAX - 1024;

/// What a lobby is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What ufrags are authenticated with.
    pub key: ufrag::Key,
    /// Without it, connections that begin with TLS are closed.
    pub tls: Option<Arc<ServerConfig>>,
    /// Without it, connections that speak TURN are closed.
    pub turn: Option<Arc<turn::Settings>>,
    /// Connections that wait at a time.
    pub connections_max: usize,
    /// Of these from one address, or one IPv6 /64.
    pub per_address_max: usize,
    /// How long each may take.
    pub deadline: Duration,
    /// TLS handshakes begun by one address, or one IPv6 /64: in a second in the long run,
    pub tls_handshakes_per_s: u32,
    /// and at once.
    pub tls_handshakes_burst: u32,
}

impl Settings {
    /// The usual limits; neither TLS nor TURN.
    #[must_use]
    pub fn new(key: ufrag::Key) -> Self {
        Self {
            key,
            tls: None,
            turn: None,
            connections_max: CONNECTIONS_MAX,
            per_address_max: PER_ADDRESS_MAX,
            deadline: DEADLINE,
            tls_handshakes_per_s: TLS_HANDSHAKES_PER_S,
            tls_handshakes_burst: TLS_HANDSHAKES_BURST,
        }
    }
}

/// A connection that showed a good check.
#[derive(Debug)]
pub struct Admitted {
    /// The connection, to be read from its next byte on.
    pub connection: Connection,
    /// Whose it says it is. The check's integrity is still to be verified.
    pub route: Route,
    /// The check, and what came with it.
    pub frames: Vec<Vec<u8>>,
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It made room for another one.
    Crowded,
    /// It made room for another one of its address.
    AddressCrowded,
    /// It said too little in time.
    Late,
    /// The client went away.
    Closed,
    /// TLS, and there is no certificate.
    NoTls,
    /// Its address began too many TLS handshakes.
    TlsBudget,
    /// A TLS handshake that failed.
    TlsFailed,
    /// What it began with is no check.
    NoCheck,
    /// A ufrag that is none of a relay.
    UfragUnknown,
    /// A ufrag of another cluster, or made up.
    UfragForged,
    /// A ufrag of long ago.
    UfragExpired,
    /// A good ufrag of a node or worker that is not here.
    NoRoute,
}

impl Refusal {
    const ALL: [(Self, &str); 12] = [
        (Self::Crowded, "crowded"),
        (Self::AddressCrowded, "address_crowded"),
        (Self::Late, "late"),
        (Self::Closed, "closed"),
        (Self::NoTls, "no_tls"),
        (Self::TlsBudget, "tls_budget"),
        (Self::TlsFailed, "tls_failed"),
        (Self::NoCheck, "no_check"),
        (Self::UfragUnknown, "ufrag_unknown"),
        (Self::UfragForged, "ufrag_forged"),
        (Self::UfragExpired, "ufrag_expired"),
        (Self::NoRoute, "no_route"),
    ];
}

/// What a lobby did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LobbyCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections admitted over TCP,
    pub admitted_tcp: u64,
    /// and over TLS.
    pub admitted_tls: u64,
    /// Times that none could be accepted.
    pub accept_failed: u64,
    refused: [u64; Refusal::ALL.len()],
}

impl LobbyCounters {
    /// Connections refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::ALL.iter().zip(self.refused).map(|((_, name), count)| (*name, count))
    }

    /// Connections refused for one reason.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> u64 {
        let at = Refusal::ALL.iter().position(|(known, _)| *known == refusal);
        at.and_then(|at| self.refused.get(at)).copied().unwrap_or(0)
    }

    /// Adds another lobby's.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.admitted_tcp += other.admitted_tcp;
        self.admitted_tls += other.admitted_tls;
        self.accept_failed += other.accept_failed;
        self.refused.iter_mut().zip(other.refused).for_each(|(sum, count)| *sum += count);
    }

    fn refuse(&mut self, refusal: Refusal) {
        let at = Refusal::ALL.iter().position(|(known, _)| *known == refusal);
        if let Some(count) = at.and_then(|at| self.refused.get_mut(at)) {
            *count += 1;
        }
    }
}

/// Listens on a port: for IPv6 and IPv4 at once, or for IPv4 alone where there is no IPv6. `address` narrows it down;
/// `shared` lets each thread have a listener of its own on it.
///
/// # Errors
/// When the port is in use (`AddrInUse`), this user may not have it (`PermissionDenied`), or it cannot be had.
pub fn listen(port: u16, address: Option<IpAddr>, shared: bool) -> io::Result<TcpListener> {
    match address {
        Some(ip) => listen_at(SocketAddr::new(ip, port), shared),
        None => match listen_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), shared) {
            Err(error) if !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {
                listen_at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), shared)
            }
            listening => listening,
        },
    }
}

fn listen_at(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of before a restart must not keep the port.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// A lobby. Its file descriptor is readable when it has something to do: put it into an event queue (it is one itself),
/// and call [`Lobby::turn`] then, and at [`Lobby::poll_timeout`].
pub struct Lobby {
    epoll: OwnedFd,
    listeners: Vec<TcpListener>,
    settings: Settings,
    /// By token, which is the order they came in.
    waiting: BTreeMap<u64, Waiting>,
    /// Their tokens.
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    next: u64,
    paused_until: Option<Instant>,
    handshakes: Handshakes,
    scratch: Box<[u8]>,
    /// What it did.
    pub counters: LobbyCounters,
}

struct Waiting {
    stage: Stage,
    address: IpAddr,
    deadline: Instant,
    /// Deadlines it has had before.
    extended: u8,
    /// It is waited for to become writable too.
    wants_write: bool,
}

enum Stage {
    /// It has said nothing yet.
    Silent(TcpStream, SocketAddr),
    Speaking(Box<Connection>),
    Over,
}

impl std::fmt::Debug for Lobby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lobby").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl AsFd for Lobby {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Lobby {
    /// A lobby for what connects to these.
    ///
    /// # Errors
    /// When the operating system has no event queue left.
    pub fn new(listeners: Vec<TcpListener>, settings: Settings) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (listener, token) in listeners.iter().zip(LISTENERS..) {
            listener.set_nonblocking(true)?;
            epoll::add(&epoll, listener, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        }
        let handshakes =
            Handshakes::new(Instant::now(), settings.tls_handshakes_per_s, settings.tls_handshakes_burst);
        Ok(Self {
            epoll,
            listeners,
            handshakes,
            settings,
            waiting: BTreeMap::new(),
            by_address: HashMap::new(),
            next: 0,
            paused_until: None,
            scratch: vec![0; SCRATCH_BYTES].into(),
            counters: LobbyCounters::default(),
        })
    }

    /// Connections that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When it has something to do although nothing comes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let oldest = self.waiting.first_key_value().map(|(_, waiting)| waiting.deadline);
        oldest.into_iter().chain(self.paused_until).min()
    }

    /// Does what there is to do, but no more than a turn's worth. `leads_here` says whether a route leads anywhere;
    /// `admit` gets each connection that showed a check for one that does.
    pub fn turn(
        &mut self,
        now: Instant,
        mut leads_here: impl FnMut(&Route) -> bool,
        mut admit: impl FnMut(Admitted),
    ) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.arm_listeners(epoll::EventFlags::IN);
        }
        self.handshakes.turn();
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(EVENTS_PER_TURN);
        let nothing = Timespec::default();
        // An interrupted look is repeated at the next turn, as the descriptor stays readable.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&nothing));
        for event in &ready {
            let token = event.data.u64();
            if token >= LISTENERS {
                self.accept(now, usize::try_from(token - LISTENERS).unwrap_or(usize::MAX));
            } else {
                self.hear(now, token, &mut leads_here, &mut admit);
            }
        }
        while let Some((token, waiting)) = self.waiting.first_key_value() {
            if waiting.deadline > now {
                break;
            }
            let token = *token;
            if !self.extend(now, token) {
                self.refuse(token, Refusal::Late);
            }
        }
    }

    fn accept(&mut self, now: Instant, listener: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(accepted) = self.listeners.get(listener).map(TcpListener::accept) else { return };
            match accepted {
                Ok((stream, remote)) => {
                    self.counters.accepted += 1;
                    self.take_in(now, stream, remote);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    // The client was gone before we came.
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted => {}
                    _ => {
                        self.counters.accept_failed += 1;
                        tracing::warn!(%error, "cannot accept media connections: raise the limit of open files if this stays");
                        self.paused_until = Some(now + ACCEPT_PAUSE);
                        self.arm_listeners(epoll::EventFlags::empty());
                        return;
                    }
                },
            }
        }
    }

    fn take_in(&mut self, now: Instant, stream: TcpStream, remote: SocketAddr) {
        let address = bucket(remote.ip());
        if let Some(tokens) = self.by_address.get(&address)
            && tokens.len() >= self.settings.per_address_max
            && let Some(oldest) = tokens.first()
        {
            let oldest = *oldest;
            self.refuse(oldest, Refusal::AddressCrowded);
        }
        if self.waiting.len() >= self.settings.connections_max
            && let Some((oldest, _)) = self.waiting.first_key_value()
        {
            let oldest = *oldest;
            self.refuse(oldest, Refusal::Crowded);
        }
        let token = self.next;
        self.next += 1;
        let data = epoll::EventData::new_u64(token);
        let added = stream
            .set_nonblocking(true)
            .and_then(|()| Ok(epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?));
        let stage = Stage::Silent(stream, remote);
        self.by_address.entry(address).or_default().insert(token);
        self.waiting.insert(
            token,
            Waiting {
                stage,
                address,
                deadline: now + self.settings.deadline,
                extended: 0,
                wants_write: false,
            },
        );
        if added.is_err() {
            self.refuse(token, Refusal::Closed);
        }
    }

    /// A connection has something to say.
    fn hear(
        &mut self,
        now: Instant,
        token: u64,
        leads_here: &mut impl FnMut(&Route) -> bool,
        admit: &mut impl FnMut(Admitted),
    ) {
        let Some(waiting) = self.waiting.get_mut(&token) else { return };
        let mut frames = Vec::new();
        let heard = waiting.listen(now, &self.settings, &mut self.handshakes, &mut self.scratch, &mut frames);
        let wants_write = match heard {
            Ok(wants_write) => wants_write,
            Err(refusal) => return self.refuse(token, refusal),
        };
        let Some(first) = frames.first() else {
            if wants_write != waiting.wants_write
                && let Stage::Speaking(connection) = &waiting.stage
            {
                waiting.wants_write = wants_write;
                let out = if wants_write { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
                let data = epoll::EventData::new_u64(token);
                if epoll::modify(&self.epoll, &**connection, data, epoll::EventFlags::IN | out).is_err() {
                    self.refuse(token, Refusal::Closed);
                }
            }
            return;
        };
        let route = match self.settings.route(first) {
            Ok(route) if leads_here(&route) => route,
            Ok(_) => return self.refuse(token, Refusal::NoRoute),
            Err(refusal) => return self.refuse(token, refusal),
        };
        let Some(Stage::Speaking(connection)) = self.let_go(token) else { return };
        match connection.transport() {
            Transport::Tls => self.counters.admitted_tls += 1,
            Transport::Tcp | Transport::Udp => self.counters.admitted_tcp += 1,
        }
        admit(Admitted { connection: *connection, route, frames });
    }

    fn refuse(&mut self, token: u64, refusal: Refusal) {
        self.counters.refuse(refusal);
        drop(self.let_go(token));
    }

    /// Gives a TURN client another deadline, if it is due one. It goes to the end of the line.
    fn extend(&mut self, now: Instant, token: u64) -> bool {
        let Some(waiting) = self.waiting.get(&token) else { return false };
        let Stage::Speaking(connection) = &waiting.stage else { return false };
        if !connection.is_allocated() || waiting.extended + 1 >= ALLOCATED_DEADLINES {
            return false;
        }
        let out = if waiting.wants_write { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(self.next);
        let moved = epoll::modify(&self.epoll, &**connection, data, epoll::EventFlags::IN | out).is_ok();
        if moved && let Some(mut waiting) = self.waiting.remove(&token) {
            waiting.deadline = now + self.settings.deadline;
            waiting.extended += 1;
            if let Some(tokens) = self.by_address.get_mut(&waiting.address) {
                tokens.remove(&token);
                tokens.insert(self.next);
            }
            self.waiting.insert(self.next, waiting);
            self.next += 1;
        }
        moved
    }

    /// A connection is no longer the lobby's.
    fn let_go(&mut self, token: u64) -> Option<Stage> {
        let Waiting { stage, address, .. } = self.waiting.remove(&token)?;
        // What is closed next leaves the queue by itself.
        if let Stage::Speaking(connection) = &stage {
            let _ = epoll::delete(&self.epoll, &**connection);
        }
        if let Some(tokens) = self.by_address.get_mut(&address) {
            tokens.remove(&token);
            if tokens.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(stage)
    }

    fn arm_listeners(&self, flags: epoll::EventFlags) {
        for (listener, token) in self.listeners.iter().zip(LISTENERS..) {
            // It was added when the lobby was made, so this only changes what is waited for.
            let _ = epoll::modify(&self.epoll, listener, epoll::EventData::new_u64(token), flags);
        }
    }
}

impl Waiting {
    /// Takes in what came, and sends what the TLS handshake has to send. Whether there is more to send.
    ///
    /// What is left unread, as there were enough handshakes in this turn, stays ready: the event queue puts it behind all
    /// others that are, so that those get their turn first.
    fn listen(
        &mut self,
        now: Instant,
        settings: &Settings,
        handshakes: &mut Handshakes,
        scratch: &mut [u8],
        frames: &mut Vec<Vec<u8>>,
    ) -> Result<bool, Refusal> {
        if let Stage::Silent(stream, _) = &self.stage {
            let mut first = [0];
            match stream.peek(&mut first) {
                Ok(0) => return Err(Refusal::Closed),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(false);
                }
                Err(_) => return Err(Refusal::Closed),
            }
            let tls = match first {
                [TLS_HANDSHAKE] => {
                    let tls = settings.tls.clone().ok_or(Refusal::NoTls)?;
                    if handshakes.is_spent(now, self.address) {
                        return Err(Refusal::TlsBudget);
                    }
                    if !handshakes.take() {
                        return Ok(false);
                    }
                    handshakes.begin(now, self.address);
                    Some(tls)
                }
                _ => None,
            };
            let Stage::Silent(stream, remote) = std::mem::replace(&mut self.stage, Stage::Over) else {
                return Err(Refusal::Closed);
            };
            let connection =
                Connection::new(stream, remote, tls, settings.turn.clone()).map_err(|_| Refusal::Closed)?;
            self.stage = Stage::Speaking(Box::new(connection));
        } else if let Stage::Speaking(connection) = &self.stage
            && connection.transport() == Transport::Tls
            // It was not answered: this may be the rest of its first message, and the dear part.
            && connection.writes == 0
            && !handshakes.take()
        {
            return Ok(self.wants_write);
        }
        let Stage::Speaking(connection) = &mut self.stage else { return Err(Refusal::Closed) };
        let received = connection.receive(now, scratch, |frame| {
            if frames.len() < FRAMES_MAX {
                frames.push(frame.to_vec());
            }
        });
        received.and_then(|_| connection.flush(now)).map_err(|closed| match closed {
            Closed::ByPeer | Closed::Broken(_) => Refusal::Closed,
            Closed::Tls => Refusal::TlsFailed,
            Closed::Protocol => Refusal::NoCheck,
        })
    }
}

impl Settings {
    /// Whom a first frame is for.
    fn route(&self, frame: &[u8]) -> Result<Route, Refusal> {
        let ufrag = stun::local_ufrag(frame).ok_or(Refusal::NoCheck)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
        let now_min = u32::try_from(now).unwrap_or(u32::MAX);
        self.key.read(ufrag, now_min).map_err(|error| match error {
            UfragError::Malformed | UfragError::Version => Refusal::UfragUnknown,
            UfragError::Forged => Refusal::UfragForged,
            UfragError::Expired => Refusal::UfragExpired,
        })
    }
}

#[cfg(test)]
mod tests;

//! The TCP connections of one thread's clients: frames to datagrams of the tunnel, and back.
//!
//! A connection that showed a good check (see [`crate::tcp::lobby`]) remembers where its frames go until another check says
//! otherwise. To nodes a connection is its number, which is never used again; also not by the next ingress on the same
//! port, as numbers begin anywhere.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use trunkline_relay_proto::demux::{self, Protocol};
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::flow::Flows;
use trunkline_relay_proto::path::{Path, Transport, Via};
use trunkline_relay_proto::stun;
use trunkline_relay_proto::tunnel::{DROPPED_MAX, HEADER_BYTES, Header, Kind};
use trunkline_relay_proto::ufrag::{LEN, Route};

use super::plane::{ConnectionCounters, NodeAddress, at};
use crate::node::random_bytes;
use crate::tcp::{Admitted, Connection, Lobby, LobbyCounters};
use crate::udp::{Framing, Load, NO_LOAD, Socket};

/// A connection to which its node sent nothing for this long is closed: it answers every check of a client that it knows,
/// and clients check at least every few seconds. What comes from a client does not count, because anybody who saw a ufrag
/// can send. Longer keeps the places of those who are gone.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// The same until the node has sent anything: a check with the right password is answered at once.
const UNANSWERED_MAX: Duration = Duration::from_secs(15);

/// Connections of one participant at a time. More lets whoever holds one ufrag take more places.
const PARTICIPANT_CONNECTIONS_MAX: usize = 16;

/// Idle connections looked at in one sweep.
const SWEEP_CONNECTIONS: usize = 256;

/// Bytes read at once: a TLS record, or as much of a connection as is fair to the others.
const SCRATCH_BYTES: usize = 16 * 1024;

/// Tokens of connections begin here: their number is added.
pub(super) const TOKENS: u64 = 1 << 32;

/// A connection and where its frames go.
struct Open {
    connection: Connection,
    link: Link,
    participant: Participant,
    /// When its node last sent something for it, or else when it began.
    answered: Instant,
    is_answered: bool,
    wants_write: bool,
    /// Something was pushed to it since it was flushed.
    dirty: bool,
}

/// Where a connection's frames go.
struct Link {
    number: u32,
    /// The worker that its last check named.
    to: SocketAddr,
    transport: Transport,
    remote: SocketAddr,
    /// What that check said: the same again needs no verification.
    ufrag: [u8; LEN],
}

/// Node, worker, call and participant, as routes name them.
type Participant = (u16, u8, u32, u32);

/// Something that a node is told about a connection: where its bytes are.
struct Note {
    to: SocketAddr,
    start: usize,
    end: usize,
}

/// See the module's text.
pub(super) struct Connections {
    lobby: Lobby,
    max: usize,
    open: HashMap<u32, Open>,
    /// Their connections, the oldest first.
    participants: HashMap<Participant, Vec<u32>>,
    next: u32,
    /// Each connection once, with when it is to be looked at.
    idle: VecDeque<(Instant, u32)>,
    dirty: Vec<u32>,
    admitted: Vec<Admitted>,
    /// Frames on their way to nodes,
    egress: Egress,
    /// where each train of them goes, and behind which header.
    ways: Vec<(SocketAddr, [u8; HEADER_BYTES])>,
    notes: Vec<Note>,
    note_bytes: Vec<u8>,
    scratch: Box<[u8]>,
    counters: ConnectionCounters,
}

/// What the connections need of their thread.
pub(super) struct Around<'a> {
    pub(super) now: Instant,
    /// Minutes since the Unix epoch.
    pub(super) now_min: u32,
    pub(super) epoll: &'a OwnedFd,
    pub(super) flows: &'a mut Flows,
    pub(super) nodes: &'a [Option<NodeAddress>],
    pub(super) tunnel: &'a mut Socket,
}

impl Connections {
    /// Those that come out of a lobby, so many at a time.
    pub(super) fn new(lobby: Lobby, max: usize) -> Self {
        Self {
            lobby,
            max,
            open: HashMap::new(),
            participants: HashMap::new(),
            next: u32::from_ne_bytes(random_bytes()),
            idle: VecDeque::new(),
            dirty: Vec::new(),
            admitted: Vec::new(),
            egress: Egress::default(),
            ways: Vec::new(),
            notes: Vec::new(),
            note_bytes: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            counters: ConnectionCounters::default(),
        }
    }

    /// When the lobby has something to do although nothing comes.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.lobby.poll_timeout()
    }

    /// What was counted, and how many there are now.
    pub(super) fn counters(&self) -> (ConnectionCounters, LobbyCounters) {
        let mut counters = self.counters;
        for open in self.open.values() {
            counters.dropped_slow += open.connection.dropped_packets();
            match open.link.transport {
                Transport::Tls => counters.open_tls += 1,
                Transport::Tcp | Transport::Udp => counters.open_tcp += 1,
            }
        }
        (counters, self.lobby.counters)
    }

    /// Lets the lobby do what there is to do, and takes in who showed a good check.
    pub(super) fn admit(&mut self, around: &mut Around<'_>) {
        let mut admitted = std::mem::take(&mut self.admitted);
        let Around { now, flows, nodes, .. } = around;
        let leads_here = |route: &Route| worker(flows, nodes, route).is_some();
        self.lobby.turn(*now, leads_here, |connection| admitted.push(connection));
        for one in admitted.drain(..) {
            self.take_in(around, one);
        }
        self.admitted = admitted;
        self.send(around.tunnel);
    }

    /// A connection can be read, or written to again.
    pub(super) fn turn(&mut self, number: u32, around: &mut Around<'_>) {
        let Some(open) = self.open.get_mut(&number) else { return };
        let Open { connection, link, .. } = open;
        let (egress, counters) = (&mut self.egress, &mut self.counters);
        let Around { now, now_min, flows, nodes, .. } = around;
        let received = connection.receive(*now, &mut self.scratch, |frame| {
            counters.upstream.count(frame.len(), frame.len());
            link.hear(*now_min, flows, nodes, egress, frame);
        });
        // Frames leave before the connection that they came on can be gone.
        self.send(around.tunnel);
        match received {
            Ok(_) => self.flush(number, around),
            Err(_) => self.close(number, true),
        }
        self.send(around.tunnel);
    }

    /// A datagram of the tunnel for one of the connections. `from` is the node's worker.
    pub(super) fn handle(&mut self, now: Instant, from: SocketAddr, header: &Header, body: &[u8]) {
        let number = header.flow;
        let Some(open) = self.open.get_mut(&number).filter(|open| open.link.transport == header.transport)
        else {
            // Of before a restart, or just closed: the node is to know.
            if header.kind == Kind::Datagram {
                let closed = Header { kind: Kind::Closed, ..*header };
                self.note(from, closed, []);
            }
            return;
        };
        match header.kind {
            Kind::Datagram => {
                (open.answered, open.is_answered) = (now, true);
                open.connection.push(now, body);
                if !std::mem::replace(&mut open.dirty, true) {
                    self.dirty.push(number);
                }
            }
            Kind::Closed => self.close(number, false),
            Kind::Dropped => {}
        }
    }

    /// Writes what was pushed.
    pub(super) fn flush_all(&mut self, around: &mut Around<'_>) {
        if self.dirty.is_empty() && self.notes.is_empty() {
            return;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for number in dirty.drain(..) {
            self.flush(number, around);
        }
        self.dirty = dirty;
        self.send(around.tunnel);
    }

    /// Closes idle connections, a bounded number at a time: call it about once per turn of the thread's loop.
    pub(super) fn sweep(&mut self, now: Instant, tunnel: &mut Socket) {
        for _ in 0..SWEEP_CONNECTIONS {
            let Some((_, number)) = self.idle.pop_front_if(|(at, _)| *at <= now) else { break };
            let Some(open) = self.open.get(&number) else { continue };
            let limit = if open.is_answered { IDLE } else { UNANSWERED_MAX };
            if open.answered + limit > now {
                self.idle.push_back((now + UNANSWERED_MAX, number));
            } else {
                self.counters.idled += 1;
                self.close(number, true);
            }
        }
        self.send(tunnel);
    }

    fn take_in(&mut self, around: &mut Around<'_>, admitted: Admitted) {
        let Admitted { connection, route, mut frames } = admitted;
        let Some(to) = worker(around.flows, around.nodes, &route) else { return };
        let participant = (route.node, route.worker, route.call, route.participant);
        self.make_room(participant);
        let of_participant = self.participants.get(&participant).map_or(0, Vec::len);
        let number = self.next;
        self.next = number.wrapping_add(1);
        let full = self.open.len() >= self.max
            || of_participant >= PARTICIPANT_CONNECTIONS_MAX
            || self.open.contains_key(&number);
        let token = epoll::EventData::new_u64(TOKENS + u64::from(number));
        if full || epoll::add(around.epoll, &connection, token, epoll::EventFlags::IN).is_err() {
            self.counters.refused_full += 1;
            return;
        }
        let ufrag = frames.first().and_then(|check| stun::local_ufrag(check)?.try_into().ok());
        let (transport, remote) = (connection.transport(), connection.remote());
        let mut link = Link { number, to, transport, remote, ufrag: ufrag.unwrap_or([0; LEN]) };
        for frame in &mut frames {
            self.counters.upstream.count(frame.len(), frame.len());
            link.hear(around.now_min, around.flows, around.nodes, &mut self.egress, frame);
        }
        self.participants.entry(participant).or_default().push(number);
        self.idle.push_back((around.now + UNANSWERED_MAX, number));
        let open = Open {
            connection,
            link,
            participant,
            answered: around.now,
            is_answered: false,
            wants_write: false,
            dirty: false,
        };
        self.open.insert(number, open);
    }

    /// When a participant has as many connections as it may, the oldest that its node never answered goes: they are of
    /// somebody who saw a ufrag and does not know its password.
    fn make_room(&mut self, participant: Participant) {
        let Some(numbers) = self.participants.get(&participant) else { return };
        if numbers.len() < PARTICIPANT_CONNECTIONS_MAX {
            return;
        }
        let unanswered = |number: &&u32| self.open.get(number).is_some_and(|open| !open.is_answered);
        if let Some(oldest) = numbers.iter().find(unanswered).copied() {
            self.close(oldest, true);
        }
    }

    /// Writes as much as a connection takes, and tells its node what was dropped because that was too little.
    fn flush(&mut self, number: u32, around: &Around<'_>) {
        let Some(open) = self.open.get_mut(&number) else { return };
        open.dirty = false;
        let Ok(wants_write) = open.connection.flush(around.now) else { return self.close(number, true) };
        if wants_write != open.wants_write {
            let mut wanted = epoll::EventFlags::IN;
            wanted.set(epoll::EventFlags::OUT, wants_write);
            let token = epoll::EventData::new_u64(TOKENS + u64::from(number));
            if epoll::modify(around.epoll, &open.connection, token, wanted).is_err() {
                return self.close(number, true);
            }
            open.wants_write = wants_write;
        }
        let Open { connection, link, .. } = open;
        let (to, header) = (link.to, link.header(Kind::Dropped));
        let mut dropped = connection.dropped().peekable();
        let mut all: Vec<u32> = Vec::new();
        if dropped.peek().is_some() {
            all.extend(dropped);
        } else {
            drop(dropped);
        }
        for ssrcs in all.chunks(DROPPED_MAX) {
            self.note(to, header, ssrcs.iter().copied());
        }
    }

    /// A connection is over. Its node is told, unless it said so.
    fn close(&mut self, number: u32, tell: bool) {
        let Some(open) = self.open.remove(&number) else { return };
        let Open { connection, link, participant, .. } = open;
        self.counters.closed += 1;
        self.counters.dropped_slow += connection.dropped_packets();
        if let Some(numbers) = self.participants.get_mut(&participant) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.participants.remove(&participant);
            }
        }
        if tell {
            self.note(link.to, link.header(Kind::Closed), []);
        }
    }

    fn note(&mut self, to: SocketAddr, header: Header, ssrcs: impl IntoIterator<Item = u32>) {
        let start = self.note_bytes.len();
        self.note_bytes.extend(header.write());
        self.note_bytes.extend(ssrcs.into_iter().flat_map(u32::to_be_bytes));
        self.notes.push(Note { to, start, end: self.note_bytes.len() });
    }

    /// Sends frames and notes to their nodes.
    fn send(&mut self, tunnel: &mut Socket) {
        let Self { egress, ways, open, notes, note_bytes, counters, .. } = self;
        if !egress.is_empty() {
            ways.clear();
            for train in egress.trains() {
                let Via::Connection { number, .. } = train.path.via else { continue };
                let link = open.get(&number).map(|open| &open.link);
                ways.push(link.map_or((NO_LOAD.to, [0; HEADER_BYTES]), |link| {
                    (link.to, link.header(Kind::Datagram).write())
                }));
            }
            tunnel.send_loads(|at| {
                let (train, (to, header)) = egress.trains().get(at).zip(ways.get(at))?;
                let bytes = if *to == NO_LOAD.to { &[] } else { egress.bytes(train) };
                let (framing, segment) = (Framing::Tunnel(header), train.segment);
                Some(Load { to: *to, framing, bytes, segment, ..NO_LOAD })
            });
        }
        // Also what found no room without a train.
        counters.dropped_room += egress.clear();
        if !notes.is_empty() {
            tunnel.send_loads(|at| {
                let Note { to, start, end } = notes.get(at)?;
                let bytes = note_bytes.get(*start..*end).unwrap_or_default();
                Some(Load { to: *to, bytes, segment: bytes.len(), ..NO_LOAD })
            });
            notes.clear();
            note_bytes.clear();
        }
    }
}

impl AsFd for Connections {
    /// The lobby's: what is open has descriptors of its own.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lobby.as_fd()
    }
}

impl Link {
    fn header(&self, kind: Kind) -> Header {
        Header { kind, transport: self.transport, remote: self.remote, flow: self.number }
    }

    /// A frame on its way to the node that the connection's last check named, which it may be itself.
    fn hear(
        &mut self,
        now_min: u32,
        flows: &mut Flows,
        nodes: &[Option<NodeAddress>],
        egress: &mut Egress,
        frame: &[u8],
    ) {
        let ufrag = match demux::classify(frame) {
            Protocol::Stun => stun::local_ufrag(frame).filter(|ufrag| *ufrag != self.ufrag),
            _ => None,
        };
        if let Some(ufrag) = ufrag {
            let Ok(verified) = flows.handle_connection(now_min, frame) else { return };
            let to = at(nodes, verified.target.place).and_then(|node| node.worker(verified.target.worker));
            let (Some(to), Ok(ufrag)) = (to, ufrag.try_into()) else { return };
            (self.to, self.ufrag) = (to, ufrag);
        }
        let via = Via::Connection { transport: self.transport, number: self.number };
        egress.push(Path::over(self.remote, via), frame);
    }
}

/// Where a route leads. `None` when its node is not there.
fn worker(flows: &Flows, nodes: &[Option<NodeAddress>], route: &Route) -> Option<SocketAddr> {
    at(nodes, flows.place_of(route.node)?)?.worker(route.worker)
}

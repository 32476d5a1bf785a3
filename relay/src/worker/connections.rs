//! The connections of a worker's calls. One that is slow keeps what waits for it, and holds up nothing else.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use trunkline_relay_proto::call::Call;
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::path::{Path, Transport, Via};

use crate::tcp::{Admitted, Connection};

/// Connections of one ufrag at a time. A client opens one per network and address of ours that it tries; more only lets
/// whoever has a ufrag take more file descriptors.
const PER_PARTICIPANT_MAX: usize = 16;

/// How long a connection may stay that no authenticated check came on, or whose participant has left. Longer waits for
/// slower clients, and keeps more of those who do not come back.
const UNKNOWN_MAX: Duration = Duration::from_secs(15);

/// Bytes read at once.
const SCRATCH_BYTES: usize = 32 * 1024;

/// Tokens of connections in the worker's event queue have this bit; calls' are 32 bits long.
const TOKEN_BIT: u64 = 1 << 32;

/// What a worker's connections did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounters {
    /// Open now, over TCP,
    pub open_tcp: u64,
    /// and over TLS.
    pub open_tls: u64,
    /// Datagrams handed to connections, dropped ones included.
    pub datagrams: u64,
    /// System calls that wrote.
    pub writes: u64,
    /// Datagrams dropped because their connection was too slow.
    pub dropped: u64,
    /// Connections refused, for a call or a participant that is not here any more, or has too many.
    pub refused: u64,
}

impl ConnectionCounters {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.open_tcp += other.open_tcp;
        self.open_tls += other.open_tls;
        self.datagrams += other.datagrams;
        self.writes += other.writes;
        self.dropped += other.dropped;
        self.refused += other.refused;
    }
}

/// The connections of one worker.
pub(super) struct Connections {
    held: HashMap<u32, Held>,
    /// How many there are of each ufrag: call and participant.
    by_participant: HashMap<(u32, u32), usize>,
    /// Those that have something to flush.
    touched: Vec<u32>,
    scratch: Vec<u8>,
    next: u32,
    /// Counts of those that are closed; `open` is not kept here.
    past: ConnectionCounters,
}

struct Held {
    connection: Connection,
    call: u32,
    participant: u32,
    path: Path,
    /// Its descriptor is waited for to become writable.
    wants_write: bool,
    /// It is in `touched`.
    touched: bool,
    /// When its path was last seen to belong to somebody, or it came.
    known: Instant,
    datagrams: u64,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            held: HashMap::new(),
            by_participant: HashMap::new(),
            touched: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            next: 0,
            past: ConnectionCounters::default(),
        }
    }

    /// The connection that an event's token names.
    pub(super) fn of_token(token: u64) -> Option<u32> {
        (token & !u64::from(u32::MAX) == TOKEN_BIT).then(|| u32::try_from(token & !TOKEN_BIT).ok()).flatten()
    }

    /// Takes a connection of a call in, and hands over what came on it. False when it is closed instead.
    pub(super) fn add(
        &mut self,
        epoll: &OwnedFd,
        now: Instant,
        admitted: Admitted,
        (call, egress): (&mut Call, &mut Egress),
    ) -> bool {
        let Admitted { connection, route, mut frames } = admitted;
        let count = self.by_participant.entry((route.call, route.participant)).or_default();
        let number = self.next;
        // Numbers name paths, and must never name two: 2^32 connections are 136 years of one per second.
        let data = epoll::EventData::new_u64(TOKEN_BIT | u64::from(number));
        let fits = *count < PER_PARTICIPANT_MAX && number < u32::MAX;
        if !fits || epoll::add(epoll, &connection, data, epoll::EventFlags::IN).is_err() {
            if *count == 0 {
                self.by_participant.remove(&(route.call, route.participant));
            }
            self.refuse();
            return false;
        }
        *count += 1;
        self.next += 1;
        let via = Via::Connection { transport: connection.transport(), number };
        let path = Path::over(connection.remote(), via);
        self.held.insert(
            number,
            Held {
                connection,
                call: route.call,
                participant: route.participant,
                path,
                wants_write: false,
                touched: false,
                known: now,
                datagrams: 0,
            },
        );
        // What the lobby could not send yet.
        self.writable(number);
        for frame in &mut frames {
            call.handle_datagram(now, path, frame, egress);
        }
        true
    }

    /// A connection was refused.
    pub(super) fn refuse(&mut self) {
        self.past.refused += 1;
    }

    /// Whose connection it is: the key of a call.
    pub(super) fn call_of(&self, number: u32) -> Option<u32> {
        self.held.get(&number).map(|held| held.call)
    }

    /// Takes in what came on a connection. What has to be sent is to be settled then, and flushed.
    pub(super) fn receive(&mut self, now: Instant, number: u32, call: &mut Call, egress: &mut Egress) {
        let Some(held) = self.held.get_mut(&number) else { return };
        let path = held.path;
        let received = held
            .connection
            .receive(now, &mut self.scratch, |datagram| call.handle_datagram(now, path, datagram, egress));
        touch(held, number, &mut self.touched);
        if received.is_err() {
            self.close(number);
            call.handle_closed(path);
        }
    }

    /// A connection takes something again.
    pub(super) fn writable(&mut self, number: u32) {
        if let Some(held) = self.held.get_mut(&number) {
            touch(held, number, &mut self.touched);
        }
    }

    /// Takes the trains that go out by connections.
    pub(super) fn take(&mut self, now: Instant, egress: &Egress) {
        for train in egress.trains() {
            let Via::Connection { number, .. } = train.path.via else { continue };
            let Some(held) = self.held.get_mut(&number) else { continue };
            for datagram in egress.bytes(train).chunks(train.segment.max(1)) {
                held.connection.push(now, datagram);
                held.datagrams += 1;
            }
            touch(held, number, &mut self.touched);
        }
    }

    /// Writes what was taken, as far as connections take it, and tells the call what became of them.
    pub(super) fn flush(&mut self, epoll: &OwnedFd, now: Instant, call: &mut Call) {
        while let Some(number) = self.touched.pop() {
            let Some(held) = self.held.get_mut(&number) else { continue };
            held.touched = false;
            let path = held.path;
            let flushed = held.connection.flush(now);
            call.handle_dropped(now, path, held.connection.dropped());
            let open = flushed.is_ok_and(|wants_write| held.wait(epoll, number, wants_write));
            if !open {
                self.close(number);
                call.handle_closed(path);
            }
        }
    }

    /// Closes connections that are nobody's (any more).
    pub(super) fn sweep<'a>(&mut self, now: Instant, call: impl Fn(u32) -> Option<&'a Call>) {
        let mut over = Vec::new();
        for (number, held) in &mut self.held {
            if call(held.call).is_some_and(|call| call.knows(held.path)) {
                held.known = now;
            } else if now.saturating_duration_since(held.known) >= UNKNOWN_MAX {
                over.push(*number);
            }
        }
        over.into_iter().for_each(|number| self.close(number));
    }

    /// A call has ended: what it still had to say was flushed.
    pub(super) fn close_call(&mut self, call: u32) {
        let over: Vec<u32> =
            self.held.iter().filter(|(_, held)| held.call == call).map(|(number, _)| *number).collect();
        over.into_iter().for_each(|number| self.close(number));
    }

    /// What they did, and how many there are.
    pub(super) fn counters(&self) -> ConnectionCounters {
        let mut counters = self.past;
        for held in self.held.values() {
            held.add_to(&mut counters);
            match held.connection.transport() {
                Transport::Tls => counters.open_tls += 1,
                Transport::Tcp | Transport::Udp => counters.open_tcp += 1,
            }
        }
        counters
    }

    fn close(&mut self, number: u32) {
        let Some(held) = self.held.remove(&number) else { return };
        held.add_to(&mut self.past);
        let participant = (held.call, held.participant);
        if let Some(count) = self.by_participant.get_mut(&participant) {
            *count -= 1;
            if *count == 0 {
                self.by_participant.remove(&participant);
            }
        }
    }
}

impl Held {
    /// Waits for the connection to become writable, or no longer does. False when that cannot be.
    fn wait(&mut self, epoll: &OwnedFd, number: u32, wants_write: bool) -> bool {
        if wants_write == self.wants_write {
            return true;
        }
        self.wants_write = wants_write;
        let out = if wants_write { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(TOKEN_BIT | u64::from(number));
        epoll::modify(epoll, &self.connection, data, epoll::EventFlags::IN | out).is_ok()
    }

    fn add_to(&self, counters: &mut ConnectionCounters) {
        counters.datagrams += self.datagrams;
        counters.writes += self.connection.writes;
        counters.dropped += self.connection.dropped_packets();
    }
}

/// Notes that a connection has something to flush.
fn touch(held: &mut Held, number: u32, touched: &mut Vec<u32>) {
    if !std::mem::replace(&mut held.touched, true) {
        touched.push(number);
    }
}

#[cfg(test)]
mod tests;

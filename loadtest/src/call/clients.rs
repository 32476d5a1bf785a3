//! Everybody on the call but the relay: one thread that holds all light clients and their connections, so that they
//! take as little as possible of the cores the relay shares with them.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use tokio::sync::oneshot;
use trunkline_relay_peer::peer::DATAGRAM_BYTES_MAX;
use trunkline_relay_peer::{Peer, PeerEvent, Received};
use trunkline_relay_proto::media::ENCODINGS_MAX;

use super::connection::Connection;
use super::publish::{Publisher, Wire};
use super::wire::Buffers;
use crate::error::LoadError;

/// One of so many media packets is opened, once a client had its first ones; the others are counted by their headers.
/// A prime, so that no place in a burst is preferred. 1 opens all, and costs more than the relay spends.
pub(super) const OPEN_ONE_OF: u64 = 17;

/// A client's first media packets, all of which are opened.
const OPEN_FIRST: u64 = 64;

/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Sockets that one wait tells of.
const EVENTS_MAX: usize = 256;

/// The name of the descriptor that commands wake by.
const WAKE: u64 = u64::MAX;

/// Longest wait: commands wake sooner, timers are looked at.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// A new client.
pub(crate) struct Joining {
    /// Its peer, which has taken the answer.
    pub(crate) peer: Peer,
    /// Its way to the relay.
    pub(crate) connection: Connection,
    /// When it began to ask.
    pub(crate) started: Instant,
    /// What it sends.
    pub(crate) publisher: Option<Publisher>,
}

enum Command {
    Join(Box<Joining>),
    Publish,
    Pause,
    Want(u32, [bool; ENCODINGS_MAX]),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// What all clients together saw so far.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// How long each took from asking to the keys.
    pub(crate) joins: Vec<Duration>,
    /// Clients that failed, were sent away, or lost the relay.
    pub(crate) failed: u64,
    /// Media packets that were sent to the relay.
    pub(crate) sent: u64,
    /// Different media packets that came from the relay, repaired ones among them.
    pub(crate) received: u64,
    /// Of which were opened and authenticated.
    pub(crate) opened: u64,
    /// Numbers of streams that never came.
    pub(crate) missing: u64,
    /// Packets that came twice, and streams whose numbers went back.
    pub(crate) twice: u64,
    /// Packets that could not be opened, or belong to no slot.
    pub(crate) foreign: u64,
    /// Payload bytes of the packets that were received.
    pub(crate) received_bytes: u64,
    /// Latencies of opened packets in microseconds.
    pub(crate) latency_us: Histogram<u64>,
    /// The SRTP profile of the first client.
    pub(crate) profile: Option<&'static str>,
}

/// The thread. Dropping it ends it.
pub(crate) struct Clients {
    commands: Option<mpsc::Sender<Command>>,
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    /// Starts it without any client. `open_all` where packets get lost on purpose, and repair is tested.
    ///
    /// # Errors
    /// When the system gives no thread or descriptors.
    pub(crate) fn start(epoch: Instant, open_all: bool) -> Result<Self, LoadError> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| LoadError::io("making an eventfd")(error.into()))?;
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| LoadError::io("making an epoll descriptor")(error.into()))?;
        epoll::add(&poller, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)
            .map_err(|error| LoadError::io("watching an eventfd")(error.into()))?;
        let (sender, commands) = mpsc::channel();
        let waker = wake.try_clone().map_err(LoadError::io("copying an eventfd"))?;
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, 3)
            .map_err(|error| LoadError::Usage(error.to_string()))?;
        let mut crowd = Crowd {
            clients: Vec::new(),
            commands,
            wake: waker,
            poller,
            buffers: Buffers::new(),
            epoch,
            joins: Vec::new(),
            failed: 0,
            sent: 0,
            seen: Seen { open_all, opened: 0, latency_us },
        };
        let thread = thread::Builder::new().name("clients".into()).spawn(move || crowd.run());
        let thread = thread.map_err(LoadError::io("starting a thread"))?;
        Ok(Self { commands: Some(sender), wake, thread: Some(thread) })
    }

    /// A client connects.
    pub(crate) fn join(&self, joining: Joining) {
        self.tell(Command::Join(Box::new(joining)));
    }

    /// Publishers send.
    pub(crate) fn publish(&self) {
        self.tell(Command::Publish);
    }

    /// Publishers send no more.
    pub(crate) fn pause(&self) {
        self.tell(Command::Pause);
    }

    /// Which encodings anybody wants of a client's camera. Clients are numbered in the order of joining.
    pub(super) fn want(&self, number: u32, wanted: [bool; ENCODINGS_MAX]) {
        self.tell(Command::Want(number, wanted));
    }

    /// What was seen so far.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, LoadError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Snapshot(reply));
        answer.await.map_err(|_| LoadError::Usage("the clients' thread has ended".to_owned()))
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // When the thread has ended, the next snapshot says so.
            let _ = commands.send(command);
        }
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.commands = None;
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    peer: Peer,
    connection: Connection,
    /// What the poller waits for on its connection; nothing any more once that is gone.
    interest: epoll::EventFlags,
    due: Option<Instant>,
    /// When it began to ask, until it is connected.
    started: Option<Instant>,
    publisher: Option<Publisher>,
    packets: u64,
}

struct Crowd {
    clients: Vec<Client>,
    commands: mpsc::Receiver<Command>,
    wake: OwnedFd,
    poller: OwnedFd,
    buffers: Buffers,
    epoch: Instant,
    joins: Vec<Duration>,
    failed: u64,
    sent: u64,
    seen: Seen,
}

/// What was found in packets that were opened.
struct Seen {
    open_all: bool,
    opened: u64,
    latency_us: Histogram<u64>,
}

impl Seen {
    /// One datagram of a client, which is its `packets`-th.
    fn take(&mut self, peer: &mut Peer, packets: u64, now: Instant, datagram: &mut [u8]) {
        let open = self.open_all || packets <= OPEN_FIRST || packets.is_multiple_of(OPEN_ONE_OF);
        if !open && peer.count_datagram(now, datagram) {
            return;
        }
        if let Some(Received::Media(media)) = peer.handle_datagram(now, datagram) {
            self.opened += 1;
            if let Some(latency) = media.latency {
                let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(us);
            }
        }
    }
}

impl Crowd {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            if !self.obey() {
                return;
            }
            let next = self.act();
            let wait = next.map_or(WAIT_MAX, |at| at.saturating_duration_since(Instant::now()).min(WAIT_MAX));
            let wait = Timespec::try_from(wait).ok();
            events.clear();
            if epoll::wait(&self.poller, rustix::buffer::spare_capacity(&mut events), wait.as_ref()).is_err()
            {
                continue;
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                    }
                    index => self.receive(usize::try_from(index).unwrap_or(usize::MAX)),
                }
            }
        }
    }

    /// Carries out commands. False when there will be no more.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Join(joining)) => self.join(*joining),
                Ok(Command::Publish) => {
                    let now = Instant::now();
                    self.publishers().for_each(|publisher| publisher.start(now));
                }
                Ok(Command::Want(number, wanted)) => {
                    let client = usize::try_from(number).ok().and_then(|number| self.clients.get_mut(number));
                    if let Some(publisher) = client.and_then(|client| client.publisher.as_mut()) {
                        publisher.want(wanted);
                    }
                }
                Ok(Command::Pause) => self.publishers().for_each(Publisher::pause),
                Ok(Command::Snapshot(reply)) => {
                    // Whoever asked may have stopped waiting.
                    let _ = reply.send(self.snapshot());
                }
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn publishers(&mut self) -> impl Iterator<Item = &mut Publisher> {
        self.clients.iter_mut().filter_map(|client| client.publisher.as_mut())
    }

    fn join(&mut self, joining: Joining) {
        let Joining { peer, connection, started, publisher } = joining;
        let index = self.clients.len();
        let (data, interest) = (epoll::EventData::new_u64(index as u64), connection.interest());
        if epoll::add(&self.poller, &connection, data, interest).is_err() {
            self.failed += 1;
            return;
        }
        let started = Some(started);
        self.clients.push(Client { peer, connection, interest, due: None, started, publisher, packets: 0 });
        self.pump(index, Instant::now());
    }

    /// Publishes and does what else is due; when to look again.
    fn act(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for index in 0..self.clients.len() {
            let Some(client) = self.clients.get_mut(index) else { continue };
            if let Some(publisher) = &mut client.publisher
                && publisher.poll_timeout().is_some_and(|at| at <= now)
            {
                let mut wire = Wire { connection: &mut client.connection, epoch: self.epoch };
                self.sent += publisher.publish(now, &mut client.peer, &mut wire);
                self.watch(index);
            }
            let Some(client) = self.clients.get_mut(index) else { continue };
            if client.due.is_some_and(|at| at <= now) {
                client.peer.handle_timeout(now);
                self.pump(index, now);
            }
            let Some(client) = self.clients.get(index) else { continue };
            let publishes = client.publisher.as_ref().and_then(Publisher::poll_timeout);
            next = [next, client.due, publishes].into_iter().flatten().min();
        }
        next
    }

    fn receive(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let Client { peer, connection, packets, .. } = client;
        let (now, seen) = (Instant::now(), &mut self.seen);
        let received = connection.receive(&mut self.buffers, |datagram| {
            *packets += 1;
            seen.take(peer, *packets, now, datagram);
        });
        if received.is_err() {
            self.lose(index);
            return;
        }
        self.pump(index, now);
    }

    /// A client's connection is gone, and with it the client.
    fn lose(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if client.interest.is_empty() {
            return;
        }
        client.interest = epoll::EventFlags::empty();
        let _ = epoll::delete(&self.poller, &client.connection);
        client.peer.close();
        (client.due, client.publisher) = (None, None);
        self.failed += 1;
    }

    /// Waits for what its connection wants next.
    fn watch(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let interest = client.connection.interest();
        if client.interest == interest || client.interest.is_empty() {
            return;
        }
        client.interest = interest;
        let data = epoll::EventData::new_u64(index as u64);
        let _ = epoll::modify(&self.poller, &client.connection, data, interest);
    }

    /// Sends what a client has to send, and takes what it has to tell.
    fn pump(&mut self, index: usize, now: Instant) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let mut out = [0; DATAGRAM_BYTES_MAX];
        while let Some(len) = client.peer.poll_transmit(now, &mut out) {
            client.connection.send(out.get(..len).unwrap_or_default());
        }
        let flushed = client.connection.flush();
        while let Some(event) = client.peer.poll_event() {
            match event {
                PeerEvent::Connected => {
                    self.joins.extend(client.started.take().map(|started| started.elapsed()));
                }
                PeerEvent::KeyFrameWanted(_, encoding) => {
                    client.publisher.iter_mut().for_each(|publisher| publisher.want_key_frame(encoding));
                }
                PeerEvent::Closed | PeerEvent::Failed(_) | PeerEvent::Lost => self.failed += 1,
            }
        }
        client.due = client.peer.poll_timeout();
        match flushed {
            Ok(()) => self.watch(index),
            Err(_) => self.lose(index),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            joins: self.joins.clone(),
            failed: self.failed,
            sent: self.sent,
            received: 0,
            opened: self.seen.opened,
            missing: 0,
            twice: 0,
            foreign: 0,
            received_bytes: 0,
            latency_us: self.seen.latency_us.clone(),
            profile: self.clients.first().and_then(|client| Some(client.peer.profile()?.name())),
        };
        for client in &self.clients {
            for (_, slot) in client.peer.slots() {
                let statistics = slot.statistics();
                snapshot.received += statistics.packets + statistics.repaired;
                snapshot.received_bytes += statistics.bytes;
                snapshot.missing += statistics.missing;
                snapshot.twice += statistics.duplicates + statistics.went_back;
            }
            let counters = client.peer.counters();
            snapshot.foreign += counters.unknown_ssrc + counters.unauthentic + counters.malformed;
        }
        snapshot
    }
}

//! The driver: the task behind the [`Hub`] handle. It hands the core whatever comes in, with the time, saves what
//! the core wants saved, and carries out what the core wants done, in that order.
//!
//! When a commit fails, everything that was promised is already on the disk and nothing else was said. The driver
//! drops the core, closes all links and answers "storage" to everybody. After a full disk it opens the store again
//! when there is room, exactly as a restart would, and so it does with a database that could not be reached; after
//! anything else only an operator's restart helps, because what the disk holds is not known. A store that another
//! replica holds is that one's to drive: what comes in is handed on to it ([`crate::replica`]).
//!
//! # Layout
//! - `options`: what it is made with
//! - `mode`: with the store, behind the replica that has it, or seeking either
//! - `seek`: how a gateway comes by its store, or by the replica that has it
//! - `waiter`: whoever waits for an answer

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::{error, info, warn};
use trunkline_gateway_proto::core::{Action, LoadFor, Ticket};
use trunkline_gateway_proto::directory::Directory;
use trunkline_gateway_proto::link::{LinkId, Opened};
use trunkline_gateway_proto::store::{Commit, Op, PeerKey, Record, Stream};
use trunkline_gateway_proto::time::Time;

use crate::hub::{Command, Event, Hub, HubError, Queue, refuse};
use crate::link::{LinkCommand, LinkEvent, LinkSender};
use crate::metrics;
use crate::replica::Standing;
use crate::replica::follow::News;
use crate::store::StoreError;

mod mode;
mod options;
mod seek;
mod waiter;

pub use options::{FreeBytes, Membership, OpenStore, Options, SeizeStore};

use mode::{Following, Mode, Saving, Stored, stored};
use seek::{Found, Seeking, is_passing, recover};
use waiter::{Waiter, answer};

/// Commands that wait for the driver. More lets callers run ahead, and waits longer when it is behind.
const COMMANDS_MAX: usize = 1024;

/// Link events that wait for the driver. A full queue slows all peers down.
const LINK_EVENTS_MAX: usize = 1024;

/// Inputs taken between two rounds of output.
const BATCH: usize = 256;

/// Events that a slow follower may be behind.
const EVENTS_MAX: usize = 1024;

/// How often free disk space is looked at, and a full disk tried again.
const SPACE_CHECK: Duration = Duration::from_secs(2);

/// How often a leader looks whether it still is one, when nothing happens.
const LEASE_CHECK: Duration = Duration::from_millis(250);

/// How the driver reaches peers.
pub trait Dialer: Send + 'static {
    /// Connects to a peer; answered by [`LinkEvent::Opened`] or [`LinkEvent::DialFailed`].
    fn dial(&self, peer: PeerKey);
    /// Tries whether a peer that is linked over TCP can be reached over QUIC; answered only when it can.
    fn probe(&self, peer: PeerKey);
}

impl Dialer for Arc<crate::link::Links> {
    fn dial(&self, peer: PeerKey) {
        crate::link::Links::dial(self, peer);
    }

    fn probe(&self, peer: PeerKey) {
        self.probe_quic(peer);
    }
}

/// The driver, ready to run.
pub struct Driver {
    options: Arc<Options>,
    clock: Clock,
    mode: Mode,
    commands: mpsc::Receiver<Command>,
    link_events: mpsc::Receiver<LinkEvent>,
    link_events_in: mpsc::Sender<LinkEvent>,
    directory: Arc<ArcSwap<Directory>>,
    version: watch::Sender<u64>,
    standing: watch::Sender<(Standing, Time)>,
    events: broadcast::Sender<Event>,
    links: HashMap<LinkId, LinkSender>,
    waiters: HashMap<Ticket, Waiter>,
    last_ticket: u64,
    /// Why this replica will never lead or follow, when that was found out after the start.
    in_vain: Option<StoreError>,
}

/// Wall-clock time at the start, then time that only goes forward.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
    start_unix_ms: u64,
}

impl Clock {
    fn new() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), start_unix_ms: u64::try_from(unix.as_millis()).unwrap_or(0) }
    }

    fn now(&self) -> Time {
        Time::from_unix_ms(self.start_unix_ms) + self.start.elapsed()
    }

    fn instant_of(&self, time: Time) -> Instant {
        self.start + time.since(Time::from_unix_ms(self.start_unix_ms))
    }
}

impl Driver {
    /// Opens the store and makes the core from it. Blocks: outside the async runtime. One of several replicas comes
    /// up without the store as well.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub fn open(options: Options) -> Result<(Hub, Self), StoreError> {
        let clock = Clock::new();
        let mode = match recover(&options, &options.open_store, clock) {
            Ok(leading) => Mode::Leading(Box::new(leading)),
            Err(error) if options.replica.is_some() && is_passing(&error) => {
                info!(%error, "the store is not open here yet");
                let next = Some(Instant::now());
                Mode::Seeking(Seeking { error, next, failed: None, followed: None, attempt: None })
            }
            Err(error) => return Err(error),
        };
        let (directory, standing) = match &mode {
            Mode::Leading(leading) => (leading.core.directory().clone(), Standing::Leading),
            _ => (Directory::default(), Standing::Seeking),
        };
        let directory = Arc::new(ArcSwap::from_pointee(directory));
        let known = u64::from(matches!(standing, Standing::Leading));
        let ((version, _), (standing, _)) = (watch::channel(known), watch::channel((standing, clock.now())));
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let (link_events_in, link_events) = mpsc::channel(LINK_EVENTS_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let (versions, standings) = (version.subscribe(), standing.subscribe());
        let hub = Hub::new(commands_in, Arc::clone(&directory), versions, standings, events.clone());
        let driver = Self {
            options: Arc::new(options),
            clock,
            mode,
            commands,
            link_events,
            link_events_in,
            directory,
            version,
            standing,
            events,
            links: HashMap::new(),
            waiters: HashMap::new(),
            last_ticket: 0,
            in_vain: None,
        };
        Ok((hub, driver))
    }

    /// Where links report to.
    #[must_use]
    pub fn link_events(&self) -> mpsc::Sender<LinkEvent> {
        self.link_events_in.clone()
    }

    /// Runs until `stop` turns true, then says goodbye to peers, saves what is promised, and returns.
    ///
    /// # Errors
    /// When a replica that could not look at the store at its start finds that it is none to start with.
    pub async fn run(
        mut self,
        dialer: impl Dialer,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), StoreError> {
        let check_every = if self.options.replica.is_some() { LEASE_CHECK } else { SPACE_CHECK };
        let mut space_check = tokio::time::interval(check_every);
        let mut stopping = false;
        loop {
            self.drive(&dialer);
            if self.in_vain.is_some() || stopping && self.is_settled() {
                break;
            }
            let timeout = self.timeout();
            let full = self.is_full();
            tokio::select! {
                biased;
                stored = stored(&mut self.mode) => match stored {
                    Stored::Committed(result) => self.committed(result),
                    Stored::Loaded(stream, purpose, result) => self.loaded(stream, purpose, result),
                    Stored::Sought(result) => self.sought(result),
                    Stored::Heard(news) => self.heard(news),
                },
                Some(event) = self.link_events.recv(), if !full => self.link_event(event),
                command = self.commands.recv(), if !stopping && !full => match command {
                    Some(command) => self.command(command),
                    None => stopping = true,
                },
                () = tokio::time::sleep_until(timeout.into()) => self.timed_out(),
                _ = space_check.tick() => self.check_space(),
                _ = stop.wait_for(|stop| *stop), if !stopping => stopping = true,
            }
            // Whichever it was, both queues have their turn in each round: a peer that drains a backlog must not
            // keep submissions waiting, nor the other way round.
            for _ in 0..BATCH {
                if self.is_full() {
                    break;
                }
                let event = self.link_events.try_recv().map(|event| self.link_event(event));
                let command = if stopping { Err(TryRecvError::Empty) } else { self.commands.try_recv() };
                let command = command.map(|command| self.command(command));
                if event.is_err() && command.is_err() {
                    break;
                }
            }
            if stopping && let Mode::Leading(leading) = &mut self.mode {
                leading.core.stop(self.clock.now());
            }
        }
        self.waiters.drain().for_each(|(_, waiter)| waiter.fail(HubError::Stopping));
        // Before the store is closed: followers are not to ask any more once it is.
        self.stand(Standing::Seeking);
        self.in_vain.map_or(Ok(()), Err)
    }

    /// Whether nothing more is welcome until the commit under way is saved.
    fn is_full(&self) -> bool {
        matches!(&self.mode, Mode::Leading(leading) if leading.core.is_full())
    }

    fn is_settled(&self) -> bool {
        match &self.mode {
            Mode::Leading(leading) => leading.core.is_settled() && leading.commit.is_none(),
            Mode::Following(_) | Mode::Seeking(_) => true,
        }
    }

    /// When something is due, or far away.
    fn timeout(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        match &self.mode {
            Mode::Leading(leading) => {
                leading.core.poll_timeout().map_or(far, |time| self.clock.instant_of(time).min(far))
            }
            Mode::Seeking(Seeking { next: Some(next), attempt: None, .. }) => *next,
            Mode::Following(_) | Mode::Seeking(_) => far,
        }
    }

    fn timed_out(&mut self) {
        let now = self.clock.now();
        match &mut self.mode {
            Mode::Leading(leading) => leading.core.handle_timeout(now),
            Mode::Following(_) => {}
            Mode::Seeking(seeking) => seeking.look(&self.options, self.clock),
        }
    }

    // ------------------------------------------------------------ in

    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let core = match &mut self.mode {
            Mode::Leading(leading) => &mut leading.core,
            Mode::Following(following) => return following.leader.carry(command),
            Mode::Seeking(seeking) => return refuse(command, &HubError::Store(seeking.error.clone())),
        };
        let waiter = match command {
            Command::Submit { network, batch, reply } => {
                core.submit(now, ticket, network, batch);
                Waiter::Submit(reply)
            }
            Command::Read { queue, after, max, wait, reply } => {
                core.read(now, ticket, stream_of(queue), after, max, wait);
                Waiter::Records(reply)
            }
            Command::Ack { queue, up_to, reply } => {
                core.ack(now, ticket, stream_of(queue), up_to);
                Waiter::Ack(reply)
            }
            Command::Admin { actor, op, reply } => {
                core.operate(now, ticket, &actor, op);
                Waiter::Admin(reply)
            }
            Command::Audit { after, max, reply } => {
                core.read(now, ticket, Stream::Audit, after, max, Duration::ZERO);
                Waiter::Records(reply)
            }
            Command::AuditRange { reply } => {
                reply.send(Ok(core.audit_range())).ok();
                return;
            }
            Command::Overview { reply } => {
                reply.send(Ok(core.overview(now))).ok();
                return;
            }
            Command::Pulse { reply } => {
                reply.send(Ok(core.pulse(now))).ok();
                return;
            }
        };
        self.waiters.insert(ticket, waiter);
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = self.clock.now();
        let core = match &mut self.mode {
            Mode::Leading(leading) => &mut leading.core,
            Mode::Following(following) => return following.link_event(event),
            Mode::Seeking(_) => {
                if let LinkEvent::Opened { sender, .. } = event {
                    // Whoever tries meanwhile is told why it is in vain.
                    sender.send(LinkCommand::Close(Some(self.options.storage_failed()))).ok();
                }
                return;
            }
        };
        match event {
            LinkEvent::Opened { link, dialed, transport, certificate, vouched, binding, sender, .. } => {
                self.links.insert(link, sender);
                core.handle_opened(now, link, Opened { dialed, transport, certificate, vouched, binding });
            }
            LinkEvent::Frame { link, channel, body } => core.handle_frame(now, link, channel, body),
            LinkEvent::Closed { link, reason } => {
                self.links.remove(&link);
                core.handle_closed(now, link, &reason);
            }
            LinkEvent::DialFailed { peer, reason } => core.handle_dial_failed(now, peer, reason),
        }
    }

    fn committed(&mut self, result: Result<(), StoreError>) {
        let now = self.clock.now();
        let Mode::Leading(leading) = &mut self.mode else { return };
        let Some(saving) = leading.commit.take() else { return };
        match result {
            Ok(()) => {
                metrics::commit_observed(saving.since.elapsed(), saving.records, saving.bytes);
                leading.core.handle_committed(now);
            }
            Err(error) => self.broken(error),
        }
    }

    fn loaded(&mut self, stream: Stream, purpose: LoadFor, result: Result<Vec<(u64, Record)>, StoreError>) {
        let now = self.clock.now();
        let Mode::Leading(leading) = &mut self.mode else { return };
        match result {
            Ok(records) => leading.core.handle_loaded(now, stream, purpose, records),
            Err(error) => self.broken(error),
        }
    }

    fn check_space(&mut self) {
        let enough = self.options.has_space();
        if let Mode::Leading(leading) = &mut self.mode {
            leading.core.set_storage_low(!enough);
        }
    }

    /// An attempt to open the store, or to find who has it, came to something.
    fn sought(&mut self, result: Result<Found, StoreError>) {
        let Mode::Seeking(seeking) = &mut self.mode else { return };
        seeking.attempt = None;
        match result {
            Ok(Found::Store(leading)) => {
                info!("the store is open: everything acknowledged is there");
                self.publish(leading.core.directory().clone(), None);
                self.mode = Mode::Leading(leading);
                self.stand(Standing::Leading);
            }
            Ok(Found::Leader(leader, mut news)) => {
                info!(leader = leader.address(), "another replica leads");
                if self.options.replica.as_ref().is_some_and(|own| own.address == leader.address()) {
                    warn!("another replica has our own replica.advertise: give each its own");
                }
                // Known before anybody is let in.
                if let Ok(News::Directory(version, directory)) = news.try_recv() {
                    self.publish(*directory, Some(version));
                }
                let standing = Standing::Following(leader.clone());
                self.mode = Mode::Following(Following { leader, news, relays: HashMap::new() });
                self.stand(standing);
            }
            Err(error) => {
                if error != seeking.error {
                    warn!(%error, "nothing can be acknowledged yet");
                }
                // As at the start, had the store been in reach then.
                if *self.version.borrow() == 0 && !is_passing(&error) {
                    self.in_vain = Some(error.clone());
                }
                seeking.next = self.options.look_again(&error);
                seeking.error = error;
            }
        }
    }

    fn heard(&mut self, news: News) {
        match news {
            News::Directory(version, directory) => self.publish(*directory, Some(version)),
            News::Lost(why) => {
                let Mode::Following(following) = &self.mode else { return };
                let what = format!("replica at {}: {why}", following.leader.address());
                warn!("lost the leader: the {what}");
                let followed = Some(following.leader.address().to_owned());
                let error = StoreError::Unavailable(what);
                let next = Some(Instant::now());
                self.seek(Seeking { error, next, failed: None, followed, attempt: None });
            }
        }
    }

    // ------------------------------------------------------------ out

    /// Carries out what the core wants done, and starts saving what it wants saved.
    fn drive(&mut self, dialer: &impl Dialer) {
        // Found out by the store itself: nothing is said any more as if it were ours.
        if let Mode::Leading(leading) = &self.mode
            && let Some(error) = leading.store.failed()
        {
            return self.broken(error);
        }
        let now = self.clock.now();
        let Mode::Leading(leading) = &mut self.mode else { return };
        loop {
            while let Some(action) = leading.core.poll_action() {
                match action {
                    Action::Send { link, channel, body } => {
                        if let Some(sender) = self.links.get(&link) {
                            // A link that is gone reports Closed by itself.
                            sender.send(LinkCommand::Send(channel, body)).ok();
                        }
                    }
                    Action::Close { link, goaway } => {
                        if let Some(sender) = self.links.remove(&link) {
                            sender.send(LinkCommand::Close(goaway)).ok();
                        }
                    }
                    Action::Dial(peer) => dialer.dial(peer),
                    Action::Probe(peer) => dialer.probe(peer),
                    Action::Load { stream, from_seq, bytes_max, purpose } => {
                        let read = leading.store.read(stream, from_seq, bytes_max);
                        leading.loads.push(Box::pin(async move { (stream, purpose, read.await) }));
                    }
                    Action::Reply(ticket, reply) => {
                        if let Some(waiter) = self.waiters.remove(&ticket) {
                            answer(waiter, reply);
                        }
                    }
                    Action::DirectoryChanged => {
                        self.directory.store(Arc::new(leading.core.directory().clone()));
                        self.version.send_modify(|version| *version += 1);
                    }
                    Action::Event { kind, peer, detail } => {
                        let peer = peer.map(|domain| domain.as_str().to_owned());
                        info!(kind, peer, detail, "event");
                        self.events.send(event(now, kind, peer, detail)).ok();
                    }
                    Action::Audited(entry) => drop(self.events.send(Event::audited(entry))),
                    Action::Latency(latency) => metrics::ack_latency(latency),
                }
            }
            if leading.commit.is_some() {
                return;
            }
            let Some(commit) = leading.core.poll_commit(now) else { return };
            let (records, bytes) = measure(&commit);
            let future = leading.store.commit(commit);
            leading.commit = Some(Saving { future, since: Instant::now(), records, bytes });
        }
    }

    /// Storage failed: nothing is said any more that would need it.
    fn broken(&mut self, error: StoreError) {
        error!(%error, "storage failed: nothing is acknowledged any more");
        for (_, sender) in self.links.drain() {
            sender.send(LinkCommand::Close(Some(self.options.storage_failed()))).ok();
        }
        let failure = HubError::Store(error.clone());
        self.waiters.drain().for_each(|(_, waiter)| waiter.fail(failure.clone()));
        let failed = event(self.clock.now(), "store.failed", None, error.to_string());
        self.events.send(failed).ok();
        let failed = match &self.mode {
            Mode::Leading(leading) => Some(Arc::clone(&leading.store)),
            Mode::Following(_) | Mode::Seeking(_) => None,
        };
        let next = self.options.look_again(&error);
        self.seek(Seeking { error, next, failed, followed: None, attempt: None });
    }

    fn seek(&mut self, seeking: Seeking) {
        self.mode = Mode::Seeking(seeking);
        self.stand(Standing::Seeking);
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_replace((standing, self.clock.now()));
    }

    /// Who is who, for everything outside of the core; `version` is the leader's count of that.
    fn publish(&self, directory: Directory, version: Option<u64>) {
        self.directory.store(Arc::new(directory));
        self.version.send_modify(|known| *known = version.unwrap_or(*known + 1));
    }
}

fn event(now: Time, kind: &'static str, peer: Option<String>, detail: String) -> Event {
    Event { at_ms: now.unix_ms(), kind, peer, detail, action: None, target: None }
}

fn stream_of(queue: Queue) -> Stream {
    match queue {
        Queue::Inbox(network) => Stream::Inbox { network },
        Queue::Receipts(network) => Stream::Receipts { network },
    }
}

fn measure(commit: &Commit) -> (usize, usize) {
    commit.ops.iter().fold((0, 0), |(records, bytes), op| match op {
        Op::Append { records: new, .. } => {
            (records + new.len(), bytes + new.iter().map(|record| record.body.len()).sum::<usize>())
        }
        _ => (records, bytes),
    })
}

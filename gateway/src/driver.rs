//! The driver: the task behind the [`Hub`] handle. It hands the core whatever comes in, with the time, saves what
//! the core wants saved, and carries out what the core wants done, in that order.
//!
//! When a commit fails, everything that was promised is already on the disk and nothing else was said. The driver
//! drops the core, closes all links and answers "storage" to everybody. After a full disk it opens the store again
//! when there is room, exactly as a restart would, and so it does with a database that could not be reached or that
//! another gateway had taken over; after anything else only an operator's restart helps, because what the disk holds
//! is not known.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{error, info, warn};
use trunkline_gateway_proto::admin::AdminReply;
use trunkline_gateway_proto::core::{Action, Config, Core, LoadFor, Reply, Ticket};
use trunkline_gateway_proto::directory::Directory;
use trunkline_gateway_proto::link::{LinkId, Opened};
use trunkline_gateway_proto::recover::{RecoverError, Recovery};
use trunkline_gateway_proto::store::{Commit, Op, PeerKey, Record, Stream};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire;

use crate::hub::{AdminFailure, Command, Event, Hub, HubError, Queue};
use crate::link::{LinkCommand, LinkEvent, LinkSender};
use crate::metrics;
use crate::store::{Store, StoreError, StoreFuture, note};

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

/// When peers are asked to come back after storage failed. Sooner finds a freed disk sooner, and asks more often.
const STORAGE_RETRY_MS: u64 = 5000;

/// Opens the store: at the start, and again after the disk was full or the database away.
pub type OpenStore = Box<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Bytes that the store may still take; `None` when that is not known, which holds nothing back.
pub type FreeBytes = Box<dyn Fn() -> Option<u64> + Send + Sync>;

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

/// What the driver is made with.
pub struct Options {
    /// For the core.
    pub config: Config,
    /// Opens the store.
    pub open_store: OpenStore,
    /// Looks at the room that is left for the store.
    pub free_bytes: FreeBytes,
    /// Free space that is left to others.
    pub disk_reserve_bytes: u64,
}

/// The driver, ready to run.
pub struct Driver {
    options: Options,
    clock: Clock,
    mode: Mode,
    commands: mpsc::Receiver<Command>,
    link_events: mpsc::Receiver<LinkEvent>,
    link_events_in: mpsc::Sender<LinkEvent>,
    directory: Arc<ArcSwap<Directory>>,
    events: broadcast::Sender<Event>,
    links: HashMap<LinkId, LinkSender>,
    waiters: HashMap<Ticket, Waiter>,
    last_ticket: u64,
}

/// Wall-clock time at the start, then time that only goes forward.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
    start_unix_ms: u64,
}

enum Mode {
    Running(Box<Running>),
    /// Nothing is acknowledged; opened again when `retry` says so.
    Broken {
        error: StoreError,
        retry: bool,
    },
}

struct Running {
    core: Core,
    store: Arc<dyn Store>,
    commit: Option<Saving>,
    loads: FuturesUnordered<Load>,
}

struct Saving {
    future: StoreFuture<()>,
    since: Instant,
    records: usize,
    bytes: usize,
}

/// What the store answered.
enum Stored {
    Committed(Result<(), StoreError>),
    Loaded(Stream, LoadFor, Result<Vec<(u64, Record)>, StoreError>),
}

type Load =
    std::pin::Pin<Box<dyn Future<Output = (Stream, LoadFor, Result<Vec<(u64, Record)>, StoreError>)> + Send>>;

/// Whoever waits for an answer.
enum Waiter {
    Submit(oneshot::Sender<Result<Vec<wire::SubmitResult>, HubError>>),
    Records(oneshot::Sender<Result<Vec<(u64, Record)>, HubError>>),
    Ack(oneshot::Sender<Result<(), HubError>>),
    Admin(oneshot::Sender<Result<AdminReply, AdminFailure>>),
}

impl Waiter {
    fn fail(self, error: HubError) {
        // A caller that gave up needs no answer.
        match self {
            Self::Submit(reply) => drop(reply.send(Err(error))),
            Self::Records(reply) => drop(reply.send(Err(error))),
            Self::Ack(reply) => drop(reply.send(Err(error))),
            Self::Admin(reply) => drop(reply.send(Err(error.into()))),
        }
    }
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
    /// Opens the store and makes the core from it. Blocks: outside the async runtime.
    ///
    /// # Errors
    /// When the store cannot be opened or read.
    pub fn open(options: Options) -> Result<(Hub, Self), StoreError> {
        let clock = Clock::new();
        let running = recover(&options, clock)?;
        let directory = Arc::new(ArcSwap::from_pointee(running.core.directory().clone()));
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let (link_events_in, link_events) = mpsc::channel(LINK_EVENTS_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let hub = Hub::new(commands_in, Arc::clone(&directory), events.clone());
        let driver = Self {
            options,
            clock,
            mode: Mode::Running(Box::new(running)),
            commands,
            link_events,
            link_events_in,
            directory,
            events,
            links: HashMap::new(),
            waiters: HashMap::new(),
            last_ticket: 0,
        };
        Ok((hub, driver))
    }

    /// Where links report to.
    #[must_use]
    pub fn link_events(&self) -> mpsc::Sender<LinkEvent> {
        self.link_events_in.clone()
    }

    /// Runs until `stop` turns true, then says goodbye to peers, saves what is promised, and returns.
    pub async fn run(mut self, dialer: impl Dialer, mut stop: watch::Receiver<bool>) {
        let mut space_check = tokio::time::interval(SPACE_CHECK);
        let mut stopping = false;
        loop {
            self.drive(&dialer);
            if stopping && self.is_settled() {
                break;
            }
            let timeout = self.timeout();
            let full = self.is_full();
            tokio::select! {
                biased;
                stored = stored(&mut self.mode) => match stored {
                    Stored::Committed(result) => self.committed(result),
                    Stored::Loaded(stream, purpose, result) => self.loaded(stream, purpose, result),
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
            if stopping && let Mode::Running(running) = &mut self.mode {
                running.core.stop(self.clock.now());
            }
        }
        self.waiters.drain().for_each(|(_, waiter)| waiter.fail(HubError::Stopping));
    }

    /// Whether nothing more is welcome until the commit under way is saved.
    fn is_full(&self) -> bool {
        matches!(&self.mode, Mode::Running(running) if running.core.is_full())
    }

    fn is_settled(&self) -> bool {
        match &self.mode {
            Mode::Running(running) => running.core.is_settled() && running.commit.is_none(),
            Mode::Broken { .. } => true,
        }
    }

    /// When the core wants to be called, or far away.
    fn timeout(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        match &self.mode {
            Mode::Running(running) => {
                running.core.poll_timeout().map_or(far, |time| self.clock.instant_of(time).min(far))
            }
            Mode::Broken { .. } => far,
        }
    }

    fn timed_out(&mut self) {
        let now = self.clock.now();
        if let Mode::Running(running) = &mut self.mode {
            running.core.handle_timeout(now);
        }
    }

    // ------------------------------------------------------------ in

    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let running = match &mut self.mode {
            Mode::Running(running) => running,
            Mode::Broken { error, .. } => return refuse(command, &HubError::Store(error.clone())),
        };
        let core = &mut running.core;
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
        let Mode::Running(running) = &mut self.mode else {
            if let LinkEvent::Opened { sender, .. } = event {
                // Whoever tries meanwhile is told why it is in vain.
                sender.send(LinkCommand::Close(Some(storage_failed()))).ok();
            }
            return;
        };
        let core = &mut running.core;
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
        let Mode::Running(running) = &mut self.mode else { return };
        let Some(saving) = running.commit.take() else { return };
        match result {
            Ok(()) => {
                metrics::commit_observed(saving.since.elapsed(), saving.records, saving.bytes);
                running.core.handle_committed(now);
            }
            Err(error) => self.broken(error),
        }
    }

    fn loaded(&mut self, stream: Stream, purpose: LoadFor, result: Result<Vec<(u64, Record)>, StoreError>) {
        let now = self.clock.now();
        let Mode::Running(running) = &mut self.mode else { return };
        match result {
            Ok(records) => running.core.handle_loaded(now, stream, purpose, records),
            Err(error) => self.broken(error),
        }
    }

    fn check_space(&mut self) {
        let free_bytes = (self.options.free_bytes)();
        let enough = free_bytes.is_none_or(|free| free >= self.options.disk_reserve_bytes);
        match &mut self.mode {
            Mode::Running(running) => match running.store.failed() {
                // Found out while nobody asked for anything.
                Some(error) => self.broken(error),
                None => running.core.set_storage_low(!enough),
            },
            Mode::Broken { retry: true, .. } if enough => self.reopen(),
            Mode::Broken { .. } => {}
        }
    }

    // ------------------------------------------------------------ out

    /// Carries out what the core wants done, and starts saving what it wants saved.
    fn drive(&mut self, dialer: &impl Dialer) {
        let now = self.clock.now();
        let Mode::Running(running) = &mut self.mode else { return };
        loop {
            while let Some(action) = running.core.poll_action() {
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
                        let read = running.store.read(stream, from_seq, bytes_max);
                        running.loads.push(Box::pin(async move { (stream, purpose, read.await) }));
                    }
                    Action::Reply(ticket, reply) => {
                        if let Some(waiter) = self.waiters.remove(&ticket) {
                            answer(waiter, reply);
                        }
                    }
                    Action::DirectoryChanged => {
                        self.directory.store(Arc::new(running.core.directory().clone()))
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
            if running.commit.is_some() {
                return;
            }
            let Some(commit) = running.core.poll_commit(now) else { return };
            let (records, bytes) = measure(&commit);
            let future = running.store.commit(commit);
            running.commit = Some(Saving { future, since: Instant::now(), records, bytes });
        }
    }

    /// Storage failed: nothing is said any more that would need it.
    fn broken(&mut self, error: StoreError) {
        error!(%error, "storage failed: nothing is acknowledged any more");
        let retry = is_passing(&error);
        for (_, sender) in self.links.drain() {
            sender.send(LinkCommand::Close(Some(storage_failed()))).ok();
        }
        let failure = HubError::Store(error.clone());
        self.waiters.drain().for_each(|(_, waiter)| waiter.fail(failure.clone()));
        let failed = event(self.clock.now(), "store.failed", None, error.to_string());
        self.events.send(failed).ok();
        self.mode = Mode::Broken { error, retry };
    }

    /// There is room again: starts from what the store holds, as a restart would.
    fn reopen(&mut self) {
        match tokio::task::block_in_place(|| recover(&self.options, self.clock)) {
            Ok(running) => {
                info!("storage is back: everything acknowledged is there");
                self.directory.store(Arc::new(running.core.directory().clone()));
                self.mode = Mode::Running(Box::new(running));
            }
            Err(error) => {
                warn!(%error, "storage is not back yet");
                let retry = is_passing(&error);
                self.mode = Mode::Broken { error, retry };
            }
        }
    }
}

/// Whether opening the store again may help: what is on the disk, or in the database, is known then.
fn is_passing(error: &StoreError) -> bool {
    matches!(error, StoreError::Full { .. } | StoreError::Locked { .. } | StoreError::Unavailable(_))
}

fn event(now: Time, kind: &'static str, peer: Option<String>, detail: String) -> Event {
    Event { at_ms: now.unix_ms(), kind, peer, detail, action: None, target: None }
}

/// What peers hear while nothing can be stored.
fn storage_failed() -> wire::Goaway {
    wire::Goaway {
        reason: wire::Reason::Storage.into(),
        retry_after_ms: STORAGE_RETRY_MS,
        detail: "storage failed on this side".to_owned(),
    }
}

/// Opens the store and makes the core from it.
fn recover(options: &Options, clock: Clock) -> Result<Running, StoreError> {
    let now = clock.now();
    let store = (options.open_store)()?;
    let mut recovery = Recovery::new(options.config.clone());
    let mut damage = Ok(());
    note::recover(&*store, &mut |found| {
        if damage.is_ok() {
            damage = recovery.add(now, found);
        }
    })?;
    let core =
        damage.map_err(RecoverError::from).and_then(|()| recovery.finish(now)).map_err(
            |error| match error {
                RecoverError::State(error) => StoreError::Corrupt(error.to_string()),
                foreign @ RecoverError::Domain { .. } => StoreError::Foreign(foreign.to_string()),
            },
        )?;
    Ok(Running { core, store, commit: None, loads: FuturesUnordered::new() })
}

/// Waits for the next answer of the store.
async fn stored(mode: &mut Mode) -> Stored {
    let Mode::Running(running) = mode else { return std::future::pending().await };
    let Running { commit, loads, .. } = &mut **running;
    let saved = async {
        match commit {
            Some(saving) => (&mut saving.future).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = saved => Stored::Committed(result),
        Some((stream, purpose, result)) = loads.next() => Stored::Loaded(stream, purpose, result),
    }
}

fn stream_of(queue: Queue) -> Stream {
    match queue {
        Queue::Inbox(network) => Stream::Inbox { network },
        Queue::Receipts(network) => Stream::Receipts { network },
    }
}

fn answer(waiter: Waiter, reply: Reply) {
    // A caller that gave up needs no answer.
    match (waiter, reply) {
        (Waiter::Submit(to), Reply::Submitted(results)) => drop(to.send(Ok(results))),
        (Waiter::Records(to), Reply::Records(records)) => drop(to.send(Ok(records))),
        (Waiter::Ack(to), Reply::Acked) => drop(to.send(Ok(()))),
        (Waiter::Admin(to), Reply::Admin(reply)) => drop(to.send(reply.map_err(AdminFailure::from))),
        _ => unreachable!("the core answers each ticket in its own kind"),
    }
}

fn refuse(command: Command, error: &HubError) {
    let error = error.clone();
    match command {
        Command::Submit { reply, .. } => Waiter::Submit(reply).fail(error),
        Command::Read { reply, .. } | Command::Audit { reply, .. } => Waiter::Records(reply).fail(error),
        Command::Ack { reply, .. } => Waiter::Ack(reply).fail(error),
        Command::Admin { reply, .. } => Waiter::Admin(reply).fail(error),
        Command::AuditRange { reply } => drop(reply.send(Err(error))),
        Command::Overview { reply } | Command::Pulse { reply } => drop(reply.send(Err(error))),
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

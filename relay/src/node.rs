//! A relay node: its workers, the calls on them, and who is in them. The HTTP API talks to this.
//!
//! The registries here are for the API alone; no packet touches them.
//!
//! # Layout
//! - `config`: how it is set up
//! - `info`: what it is asked for, and what it tells; `ids`: names of calls and sessions
//! - here: calls, and draining
//! - `door`: the TCP port; who comes in is handed to the workers
//! - `branches`: calls larger than one worker, and on which one somebody joins
//! - `session`: joining, and what people in a call ask for
//! - `moves`: calls that are made again, or handed over to another node

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use trunkline_common::redact::{Detail, Redacted};
use trunkline_relay_proto::call::Settings;
use trunkline_relay_proto::counters::Counters;
use trunkline_relay_proto::dtls;
use trunkline_relay_proto::event::{EndReason, ParticipantId};
use trunkline_relay_proto::receivers::Receivers;
use trunkline_relay_proto::snapshot::Snapshot;
use trunkline_relay_proto::{turn, ufrag};

use crate::interfaces;
use crate::ports::Ports;
use crate::tcp::LobbyCounters;
use crate::tunnel::TunnelCounters;
use crate::udp::{Socket, SocketCounters};
use crate::worker::{Command, Empty, Handle, Hosted, Report};

mod branches;
mod config;
mod door;
mod ids;
mod info;
mod moves;
mod session;
#[cfg(test)]
mod tests;

pub use crate::worker::ConnectionCounters;
pub use config::{IngressAccess, NodeConfig, StartError, listen_tcp};
pub(crate) use ids::random as random_bytes;
pub use ids::{CallId, CallSettings, IdError, SessionId};
pub use info::{
    CallEvent, CallInfo, CallSnapshot, CallSummary, CreateCall, Drain, EventStream, IceServer, Joined, Mode,
    NodeError, SessionInfo, Totals, WorkerLoad,
};
pub use moves::{Asked, Standing};

use branches::{Place, Seat};
use door::Door;
use moves::{Fate, Fates};
use session::SessionEntry;

/// Call reports that wait for whoever keeps records. What finds no room is dropped and said in the log.
const RECORDS_MAX: usize = 4096;

/// Names kept of a call for its record. More than this joined, one after another, is a number in the log only.
const NAMES_MAX: usize = 10_000;

struct CallEntry {
    id: CallId,
    /// Where it is: its home first.
    places: Vec<Place>,
    force_tcp: bool,
    info: CallInfo,
    started: SystemTime,
    names: Vec<Arc<str>>,
    seats: HashMap<ParticipantId, Seat>,
    /// Handed over: it takes nobody new.
    moved: bool,
    /// Somebody asked for its end.
    deleted: bool,
}

#[derive(Default)]
struct Registry {
    calls: HashMap<CallId, CallEntry>,
    /// Each place of each call has a key.
    by_key: HashMap<u32, CallId>,
    /// Ports of places whose call has ended, until they are closed, by key.
    closing: HashMap<u32, u16>,
    sessions: HashMap<SessionId, SessionEntry>,
    drain: Option<Drain>,
    fates: Fates,
    /// When an ingress last said that it had taken this node for dead.
    presumed_dead: Option<Instant>,
}

struct Inner {
    config: NodeConfig,
    dtls: Arc<dtls::Settings>,
    ufrag_key: ufrag::Key,
    turn_secret: turn::Secret,
    addresses: Vec<IpAddr>,
    workers: Vec<Handle>,
    door: Option<Door>,
    ports: Mutex<Ports>,
    registry: Mutex<Registry>,
    records: mpsc::Sender<CallEvent>,
    next_key: AtomicU32,
    next_participant: AtomicU32,
    /// Seconds since the Unix epoch when the process began with calls.
    started_s: u64,
}

/// A running node. Clones are the same node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Node")
    }
}

impl Node {
    /// Starts workers. The receiver gets what call records are made of. Call it within a tokio runtime.
    ///
    /// # Errors
    /// When something the node needs cannot be had.
    pub fn start(config: NodeConfig) -> Result<(Self, mpsc::Receiver<CallEvent>), StartError> {
        if config.listen.len() > 1 {
            return Err(StartError::Listen);
        }
        let dtls = Arc::new(config::certificate(config.dtls_13)?);
        let (reports, received) = mpsc::unbounded_channel();
        let workers = (0..config.workers.max(1))
            .map(|number| config::start_worker(&config, number, reports.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let (addresses, door) = match &config.ingress {
            Some(ingress) => (ingress.advertise.clone(), None),
            None => {
                let addresses = interfaces::candidates(&config.advertise, &config.listen)?;
                let mailboxes = workers.iter().map(|worker| worker.mailbox.clone()).collect();
                let door = Door::open(&config, &addresses, mailboxes)?;
                (addresses, door)
            }
        };
        let start = usize::from(u16::from_ne_bytes(ids::random()));
        let ports = Ports::new(config.udp_ports.clone(), config.listen.first().copied(), start);
        let (records, record_events) = mpsc::channel(RECORDS_MAX);
        let node = Self(Arc::new(Inner {
            dtls,
            ufrag_key: ufrag::Key::new(config.ufrag_key),
            turn_secret: turn::Secret::derive(&config.ufrag_key),
            addresses,
            workers,
            door,
            ports: Mutex::new(ports),
            registry: Mutex::new(Registry::default()),
            records,
            // Numbers begin anywhere, so that packets of clients from before a restart find nobody.
            next_key: AtomicU32::new(u32::from_ne_bytes(ids::random()) >> 1),
            next_participant: AtomicU32::new(u32::from_ne_bytes(ids::random()) >> 1),
            started_s: now_s(),
            config,
        }));
        tokio::spawn(node.clone().take_reports(received));
        Ok((node, record_events))
    }

    /// Makes a call on the worker with the least to do.
    ///
    /// # Errors
    /// When the node drains, is full, or has no port.
    pub fn create(&self, create: CreateCall) -> Result<CallInfo, NodeError> {
        let most = create.mode.participants_max();
        let participants_max = create.participants_max.map_or(most, |wanted| wanted.clamp(1, most));
        let settings = CallSettings {
            mode: create.mode,
            force_tcp: create.force_tcp,
            participants_max: u16::try_from(participants_max).unwrap_or(u16::MAX),
            created_s: u32::try_from(now_s()).unwrap_or(u32::MAX),
        };
        self.make(CallId::new(self.0.config.node, settings), create)
    }

    /// Makes a call of this name, unless it is there.
    fn make(&self, id: CallId, create: CreateCall) -> Result<CallInfo, NodeError> {
        let inner = &*self.0;
        let now = Instant::now();
        if create.force_tcp && inner.config.public_tcp_port() == 0 {
            return Err(NodeError::NoTcp);
        }
        {
            let registry = self.registry();
            if registry.drain.is_some() {
                return Err(NodeError::Draining);
            }
            if registry.calls.len() >= inner.config.calls_max {
                return Err(NodeError::TooManyCalls);
            }
        }
        let (socket, port) = self.bind(now)?;
        let has_ipv6 = socket.as_ref().is_none_or(Socket::is_ipv6);
        let most = create.mode.participants_max();
        let participants_max = create.participants_max.map_or(most, |wanted| wanted.clamp(1, most));
        let settings = self.call_settings(participants_max);
        let key = inner.next_key.fetch_add(1, Ordering::Relaxed);
        let info = CallInfo {
            call_id: id.as_str().to_owned(),
            calluri: self.uri(port, IpAddr::is_ipv4).or_else(|| self.uri(port, |_| true)).unwrap_or_default(),
            calluriipv6: self.uri(port, IpAddr::is_ipv6).filter(|_| has_ipv6),
            tcpuri: Some(inner.config.public_tcp_port())
                .filter(|port| *port != 0)
                .and_then(|port| self.uri(port, |_| true)),
            mode: create.mode,
            max_participants: participants_max,
            created_at: id.settings().created_s.into(),
            meeting_id: create.meeting_id,
        };
        let started = SystemTime::now();
        let mut registry = self.registry();
        if let Some(entry) = registry.calls.get(&id) {
            // Two people came back to it at once.
            let info = entry.info.clone();
            drop(registry);
            self.release(now, port);
            return Ok(info);
        }
        let worker = self.least_loaded(&registry);
        let hosted = Hosted::new(now, socket, settings, self.empty(now));
        let entry = CallEntry {
            id: id.clone(),
            places: vec![Place::home(key, worker, port)],
            force_tcp: create.force_tcp || inner.config.force_tcp,
            info: info.clone(),
            started,
            names: Vec::new(),
            seats: HashMap::new(),
            moved: false,
            deleted: false,
        };
        registry.by_key.insert(key, id.clone());
        registry.calls.insert(id.clone(), entry);
        drop(registry);
        if let Err(error) = self.tell(worker, Command::Create { key, call: Box::new(hosted) }) {
            let mut registry = self.registry();
            registry.by_key.remove(&key);
            registry.calls.remove(&id);
            return Err(error);
        }
        self.record(CallEvent::Started { info: info.clone(), at: started });
        Ok(info)
    }

    /// Ends a call.
    ///
    /// # Errors
    /// When there is none.
    pub fn end(&self, call: &CallId, reason: EndReason) -> Result<(), NodeError> {
        let mut registry = self.registry();
        let entry = registry.calls.get_mut(call).ok_or(NodeError::NoSuchCall)?;
        entry.deleted |= reason == EndReason::CallEnded;
        self.tell_all(&entry.places, |key| Command::End { key, reason })
    }

    /// All calls, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<CallSummary> {
        let registry = self.registry();
        let summary = |entry: &CallEntry| CallSummary {
            info: entry.info.clone(),
            participants: entry.seats.len(),
            moved: entry.moved,
        };
        registry.calls.values().map(summary).collect()
    }

    /// A call as it is now.
    ///
    /// # Errors
    /// When there is none.
    pub async fn snapshot(&self, call: &CallId) -> Result<CallSnapshot, NodeError> {
        let mut answers = Vec::new();
        let info = {
            let registry = self.registry();
            let entry = registry.calls.get(call).ok_or(NodeError::NoSuchCall)?;
            self.tell_all(&entry.places, |key| {
                let (reply, answer) = oneshot::channel();
                answers.push(answer);
                Command::Snapshot { key, reply }
            })?;
            entry.info.clone()
        };
        let (mut live, mut counters) = (Snapshot::default(), Counters::default());
        for (at, answer) in answers.into_iter().enumerate() {
            match answer.await {
                Ok((part, counted)) => {
                    live.merge(part);
                    counters.add(&counted);
                }
                // Without its home the call is over; another place may just have gone.
                Err(_) if at == 0 => return Err(NodeError::NoSuchCall),
                Err(_) => {}
            }
        }
        Ok(CallSnapshot { info, live, counters: counters.named().into_iter().collect() })
    }

    /// Whether a call is here.
    #[must_use]
    pub fn has(&self, call: &CallId) -> bool {
        self.registry().calls.contains_key(call)
    }

    /// How many calls and people there are, and when the node began, in seconds since the Unix epoch.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let registry = self.registry();
        Totals {
            calls: registry.calls.len(),
            calls_max: self.0.config.calls_max,
            participants: registry.sessions.len(),
            started_s: self.0.started_s,
        }
    }

    /// Takes no new calls and nobody new from now on; at the deadline, calls that are still there end. Behind an
    /// ingress calls are handed over before.
    pub fn drain(&self, deadline: Option<Duration>) {
        let deadline = deadline.map(|after| Instant::now() + after);
        let drain = Drain { deadline };
        self.registry().drain = Some(drain);
        if let Some(deadline) = deadline {
            if self.0.config.hands_over {
                tokio::spawn(self.clone().hand_over_slowly(drain, deadline));
            }
            let node = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(deadline.into()).await;
                // Undone or changed since.
                if node.drain_state() == Some(drain) {
                    if node.0.config.hands_over {
                        // Nothing is left to hand over, unless there was no time at all.
                        node.hand_over_all();
                    }
                    node.end_all(EndReason::Drained);
                }
            });
        }
    }

    /// Takes calls again. What was handed over stays so.
    pub fn undrain(&self) {
        self.registry().drain = None;
    }

    /// The drain in progress, if there is one.
    #[must_use]
    pub fn drain_state(&self) -> Option<Drain> {
        self.registry().drain
    }

    /// Ends every call.
    pub fn end_all(&self, reason: EndReason) {
        let calls: Vec<CallId> = self.registry().calls.keys().cloned().collect();
        for call in calls {
            // Gone by itself meanwhile, if not.
            let _ = self.end(&call, reason);
        }
    }

    /// How busy each worker is.
    #[must_use]
    pub fn load(&self) -> Vec<WorkerLoad> {
        let load = |handle: &Handle| WorkerLoad {
            busy: f64::from(handle.shared.busy_permille.load(Ordering::Relaxed)) / 1000.0,
            calls: handle.shared.calls.load(Ordering::Relaxed),
            branches: handle.shared.branches.load(Ordering::Relaxed),
            participants: handle.shared.participants.load(Ordering::Relaxed),
        };
        self.0.workers.iter().map(load).collect()
    }

    /// What was counted since the start, calls that ended included: up to a second old.
    #[must_use]
    pub fn counters(&self) -> (Counters, SocketCounters, ConnectionCounters) {
        let mut sum = (Counters::default(), SocketCounters::default(), ConnectionCounters::default());
        for worker in &self.0.workers {
            let (counters, socket_counters, connections, _) = worker.shared.counts();
            sum.0.add(&counters);
            sum.1.add(&socket_counters);
            sum.2.add(&connections);
        }
        sum
    }

    /// What the lines of people are and were like since the start: up to a second old.
    #[must_use]
    pub fn receivers(&self) -> Receivers {
        let mut sum = Receivers::default();
        self.0.workers.iter().for_each(|worker| sum.add(&worker.shared.receivers()));
        sum
    }

    /// What the workers' ends of the tunnel counted since the start: up to a second old.
    #[must_use]
    pub fn tunnel_counters(&self) -> TunnelCounters {
        let mut sum = TunnelCounters::default();
        self.0.workers.iter().for_each(|worker| sum.add(&worker.shared.counts().3));
        sum
    }

    /// What the lobby of the TCP port counted since the start. `None` when there is no such port.
    #[must_use]
    pub fn lobby_counters(&self) -> Option<LobbyCounters> {
        self.0.door.as_ref().map(Door::counters)
    }

    /// Ends every call and stops the workers. People are told. Blocks until the workers are done.
    pub fn shutdown(&self) {
        if let Some(door) = &self.0.door {
            door.close();
        }
        self.0.workers.iter().for_each(Handle::stop);
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket of a call or branch, where media does not come through an ingress, and the port that clients are told.
    fn bind(&self, now: Instant) -> Result<(Option<Socket>, u16), NodeError> {
        if let Some(ingress) = &self.0.config.ingress {
            return Ok((None, ingress.udp_port));
        }
        let socket = self.ports().bind(now)?;
        let port = socket.port();
        Ok((Some(socket), port))
    }

    fn tell(&self, worker: usize, command: Command) -> Result<(), NodeError> {
        let told = self.0.workers.get(worker).is_some_and(|handle| handle.tell(command));
        if told { Ok(()) } else { Err(NodeError::Worker) }
    }

    /// The worker with the fewest participants, then calls. Published load is up to a second old, and many calls may
    /// be made within one.
    fn least_loaded(&self, registry: &Registry) -> usize {
        let weights = self.weights(registry);
        weights.iter().enumerate().min_by_key(|(_, weight)| **weight).map_or(0, |(worker, _)| worker)
    }

    fn call_settings(&self, participants_max: usize) -> Settings {
        let seed = u64::from_ne_bytes(ids::random());
        Settings { participants_max, dtls: self.0.dtls.clone(), seed }
    }

    fn empty(&self, now: Instant) -> Empty {
        let config = &self.0.config;
        Empty::new(now, config.never_joined_timeout, config.all_left_timeout)
    }

    fn uri(&self, port: u16, fits: impl Fn(&IpAddr) -> bool) -> Option<String> {
        self.0.addresses.iter().find(|ip| fits(ip)).map(|ip| SocketAddr::new(*ip, port).to_string())
    }

    fn record(&self, event: CallEvent) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.records.try_send(event) {
            tracing::warn!("call records are written too slowly; one is lost");
        }
    }

    /// What workers report: who left, and which calls ended.
    async fn take_reports(self, mut reports: mpsc::UnboundedReceiver<Report>) {
        while let Some(report) = reports.recv().await {
            match report {
                Report::Left { key, id } => {
                    let mut registry = self.registry();
                    let Some(call) = registry.by_key.get(&key).cloned() else { continue };
                    let Some(seat) = registry.calls.get_mut(&call).and_then(|entry| entry.vacate(id)) else {
                        continue;
                    };
                    registry.sessions.remove(&seat.session);
                }
                Report::Ended { key, reason } => self.ended(key, reason),
            }
        }
    }

    /// Gives a call's port back, if it is the call's own.
    fn release(&self, now: Instant, port: u16) {
        if self.0.config.ingress.is_none() {
            self.ports().release(now, port);
        }
    }

    /// A place is closed. With a call's home the call has ended.
    fn ended(&self, key: u32, reason: EndReason) {
        let mut registry = self.registry();
        if let Some(port) = registry.closing.remove(&key) {
            drop(registry);
            return self.release(Instant::now(), port);
        }
        let Some(call) = registry.by_key.remove(&key) else { return };
        if registry.calls.get(&call).is_some_and(|entry| entry.home().key != key) {
            return self.prune(registry, &call, key);
        }
        let Some(entry) = registry.calls.remove(&call) else { return };
        for seat in entry.seats.values() {
            registry.sessions.remove(&seat.session);
        }
        for place in entry.places.iter().skip(1) {
            registry.by_key.remove(&place.key);
            registry.closing.insert(place.key, place.port);
        }
        // A worker that is gone has ended them.
        let _ = self.tell_all(entry.places.get(1..).unwrap_or_default(), |key| Command::End { key, reason });
        let fate = if entry.moved && !entry.deleted { Fate::Moved } else { Fate::Ended };
        registry.fates.set(&entry.id, fate);
        drop(registry);
        self.release(Instant::now(), entry.home().port);
        let call = Redacted::new(&entry.id, Detail::Messaging, "call");
        tracing::info!(%call, ?reason, "call ended");
        let CallEntry { info, started, names, .. } = entry;
        self.record(CallEvent::Ended { info, started, at: SystemTime::now(), participants: names, reason });
    }
}

/// Seconds since the Unix epoch.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

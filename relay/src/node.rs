//! A relay node: its workers, the calls on them, and who is in them. The HTTP API talks to this.
//!
//! The registries here are for the API alone; no packet touches them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use trunkline_common::redact::{Detail, Redacted};
use trunkline_relay_proto::call::{Join, JoinError, RequestError, Settings};
use trunkline_relay_proto::counters::Counters;
use trunkline_relay_proto::dtls;
use trunkline_relay_proto::event::{EndReason, ParticipantId, Request, Role};
use trunkline_relay_proto::media::{Description, IceCredentials};
use trunkline_relay_proto::snapshot::Snapshot;
use trunkline_relay_proto::ufrag;

use crate::interfaces;
use crate::ports::{PortError, Ports};
use crate::sdp::{self, Candidate, CodecName, Fragment, Local, Offer, OfferError, Transport};
use crate::udp::SocketCounters;
use crate::worker::{Command, EVENTS_MAX, Handle, Hosted, Report};

mod ids;

pub use ids::{CallId, IdError, SessionId};

/// Call reports that wait for whoever keeps records. What finds no room is dropped and said in the log.
const RECORDS_MAX: usize = 4096;

/// Names kept of a call for its record. More than this joined, one after another, is a number in the log only.
const NAMES_MAX: usize = 10_000;

/// How a node is set up.
#[derive(Clone)]
pub struct NodeConfig {
    /// Its number: part of call ids and ICE user names.
    pub node: u16,
    /// Media threads.
    pub workers: usize,
    /// Address to take media on; all of this machine when empty.
    pub listen: Vec<IpAddr>,
    /// Addresses clients are told instead of those found here.
    pub advertise: Vec<IpAddr>,
    /// Ports of calls.
    pub udp_ports: RangeInclusive<u16>,
    /// TCP port that clients are told.
    pub tcp_port: u16,
    /// Offer DTLS 1.3 too.
    pub dtls_13: bool,
    /// Codecs taken, the best first.
    pub codecs: Vec<CodecName>,
    /// What ICE user names are authenticated with, the same on the ingresses.
    pub ufrag_key: [u8; 32],
    /// How long an ICE user name routes: longer than any call.
    pub ufrag_lifetime: Duration,
    /// Calls at a time.
    pub calls_max: usize,
    /// A call nobody ever joined ends after this,
    pub never_joined_timeout: Duration,
    /// and one that everybody left after this.
    pub all_left_timeout: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            node: 1,
            workers: 1,
            listen: Vec::new(),
            advertise: Vec::new(),
            udp_ports: 16384..=19999,
            tcp_port: 443,
            dtls_13: false,
            codecs: CodecName::DEFAULT.to_vec(),
            ufrag_key: ids::random(),
            ufrag_lifetime: Duration::from_secs(48 * 3600),
            calls_max: 3600,
            never_joined_timeout: Duration::from_secs(600),
            all_left_timeout: Duration::from_secs(60),
        }
    }
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeConfig").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Why a node does not start. The operator can mend it.
#[derive(Debug, Error)]
pub enum StartError {
    /// No certificate could be made.
    #[error("the DTLS certificate cannot be made: {0}")]
    Certificate(String),
    /// A thread, an event queue or a socket cannot be had.
    #[error("media workers cannot start: {0}")]
    System(#[from] io::Error),
    /// More than one address to listen on.
    #[error("media.listen takes one address, or none for all of this machine")]
    Listen,
}

/// Why something cannot be done.
#[derive(Debug, Error)]
pub enum NodeError {
    /// No such call, any more.
    #[error("there is no such call")]
    NoSuchCall,
    /// No such session, any more.
    #[error("there is no such session")]
    NoSuchSession,
    /// The node takes no new calls and nobody new.
    #[error("this relay is draining: it takes nobody new")]
    Draining,
    /// As many calls as it takes.
    #[error("this relay has as many calls as it takes")]
    TooManyCalls,
    /// No port for another call.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// The offer is unusable.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// The call does not take the participant.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The request cannot be done.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A change was meant for another state of the session.
    #[error("the session's ICE credentials are not those named in If-Match")]
    Precondition,
    /// A worker does not answer.
    #[error("a media worker does not answer")]
    Worker,
}

/// What kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everybody may send; 100 people.
    #[default]
    Conference,
    /// Few send to many; 500 people.
    Broadcast,
}

impl Mode {
    /// Participants, unless the call says fewer.
    #[must_use]
    pub const fn participants_max(self) -> usize {
        match self {
            Self::Conference => 100,
            Self::Broadcast => 500,
        }
    }
}

/// What a call is created with.
#[derive(Clone, Debug, Default)]
pub struct CreateCall {
    /// Fewer participants than the mode takes.
    pub participants_max: Option<usize>,
    /// What kind.
    pub mode: Mode,
    /// Tell clients about TCP only.
    pub force_tcp: bool,
    /// The calling service's own name for it, for records.
    pub meeting_id: Option<String>,
}

/// A call, as its creator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct CallInfo {
    /// Its name in URLs.
    pub call_id: String,
    /// Where its media goes: `host:port`.
    pub calluri: String,
    /// The same over IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calluriipv6: Option<String>,
    /// Where it goes over TCP.
    pub tcpuri: String,
    /// What kind.
    pub mode: Mode,
    /// Participants at a time.
    pub max_participants: usize,
    /// When it was created, seconds since the Unix epoch.
    pub created_at: u64,
    /// The calling service's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meeting_id: Option<String>,
}

/// A call with what happens in it.
#[derive(Clone, Debug, Serialize)]
pub struct CallSnapshot {
    /// What it is.
    #[serde(flatten)]
    pub info: CallInfo,
    /// Who is in it.
    #[serde(flatten)]
    pub live: Snapshot,
    /// What was counted.
    pub counters: HashMap<&'static str, u64>,
}

/// A call in a list.
#[derive(Clone, Debug, Serialize)]
pub struct CallSummary {
    /// What it is.
    #[serde(flatten)]
    pub info: CallInfo,
    /// How many are in it.
    pub participants: usize,
}

/// Somebody who just joined.
#[derive(Debug)]
pub struct Joined {
    /// The secret part of the session's URL.
    pub session: SessionId,
    /// The SDP answer.
    pub answer: String,
    /// Names the ICE credentials (RFC 9725, section 4.3.1).
    pub etag: String,
}

/// Who a session belongs to.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// The call.
    pub call: CallId,
    /// The participant's name.
    pub participant: Arc<str>,
}

/// What a call's record is made of.
#[derive(Clone, Debug)]
pub enum CallEvent {
    /// A call was created.
    Started {
        /// What it is.
        info: CallInfo,
        /// When.
        at: SystemTime,
    },
    /// A call ended.
    Ended {
        /// What it was.
        info: CallInfo,
        /// When it began,
        started: SystemTime,
        /// and ended.
        at: SystemTime,
        /// Everybody who ever joined.
        participants: Vec<Arc<str>>,
        /// Why.
        reason: EndReason,
    },
}

/// How busy a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WorkerLoad {
    /// Share of the last second that its thread worked, 0 to 1.
    pub busy: f64,
    /// Calls on it.
    pub calls: usize,
    /// People in them.
    pub participants: usize,
}

/// A drain in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When calls that are still there end.
    pub deadline: Option<Instant>,
}

/// The events of one session, as JSON texts. Ends when the session does, or its reader falls behind.
#[derive(Debug)]
pub struct EventStream(mpsc::Receiver<Arc<str>>);

impl EventStream {
    /// The next one.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        self.0.recv().await
    }
}

struct CallEntry {
    id: CallId,
    key: u32,
    worker: usize,
    port: u16,
    force_tcp: bool,
    info: CallInfo,
    started: SystemTime,
    names: Vec<Arc<str>>,
    sessions: HashMap<ParticipantId, SessionId>,
}

struct SessionEntry {
    call: CallId,
    id: ParticipantId,
    name: Arc<str>,
    role: Role,
    description: Description,
    ice: IceCredentials,
}

#[derive(Default)]
struct Registry {
    calls: HashMap<CallId, CallEntry>,
    by_key: HashMap<u32, CallId>,
    sessions: HashMap<SessionId, SessionEntry>,
    drain: Option<Drain>,
}

struct Inner {
    config: NodeConfig,
    dtls: Arc<dtls::Settings>,
    ufrag_key: ufrag::Key,
    addresses: Vec<IpAddr>,
    workers: Vec<Handle>,
    ports: Mutex<Ports>,
    registry: Mutex<Registry>,
    records: mpsc::Sender<CallEvent>,
    next_key: AtomicU32,
    next_participant: AtomicU32,
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
        let dtls = Arc::new(certificate(config.dtls_13)?);
        let (reports, received) = mpsc::unbounded_channel();
        let workers = (0..config.workers.max(1))
            .map(|number| Handle::start(number, reports.clone()))
            .collect::<io::Result<Vec<_>>>()?;
        let start = usize::from(u16::from_ne_bytes(ids::random()));
        let ports = Ports::new(config.udp_ports.clone(), config.listen.first().copied(), start);
        let (records, record_events) = mpsc::channel(RECORDS_MAX);
        let node = Self(Arc::new(Inner {
            dtls,
            ufrag_key: ufrag::Key::new(config.ufrag_key),
            addresses: interfaces::candidates(&config.advertise, &config.listen)?,
            workers,
            ports: Mutex::new(ports),
            registry: Mutex::new(Registry::default()),
            records,
            // Numbers begin anywhere, so that packets of clients from before a restart find nobody.
            next_key: AtomicU32::new(u32::from_ne_bytes(ids::random()) >> 1),
            next_participant: AtomicU32::new(u32::from_ne_bytes(ids::random()) >> 1),
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
        let inner = &*self.0;
        let now = Instant::now();
        {
            let registry = self.registry();
            if registry.drain.is_some() {
                return Err(NodeError::Draining);
            }
            if registry.calls.len() >= inner.config.calls_max {
                return Err(NodeError::TooManyCalls);
            }
        }
        let socket = self.ports().bind(now)?;
        let port = socket.port();
        let most = create.mode.participants_max();
        let participants_max = create.participants_max.map_or(most, |wanted| wanted.clamp(1, most));
        let seed = u64::from_ne_bytes(ids::random());
        let settings = Settings { participants_max, dtls: inner.dtls.clone(), seed };
        let key = inner.next_key.fetch_add(1, Ordering::Relaxed);
        let id = CallId::random(inner.config.node);
        let info = CallInfo {
            call_id: id.as_str().to_owned(),
            calluri: self.uri(port, IpAddr::is_ipv4).or_else(|| self.uri(port, |_| true)).unwrap_or_default(),
            calluriipv6: self.uri(port, IpAddr::is_ipv6).filter(|_| socket.is_ipv6()),
            tcpuri: self.uri(inner.config.tcp_port, |_| true).unwrap_or_default(),
            mode: create.mode,
            max_participants: participants_max,
            created_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            meeting_id: create.meeting_id,
        };
        let started = SystemTime::now();
        let mut registry = self.registry();
        let worker = self.least_loaded(&registry);
        let hosted = Hosted::new(
            now,
            socket,
            settings,
            inner.config.never_joined_timeout,
            inner.config.all_left_timeout,
        );
        let entry = CallEntry {
            id: id.clone(),
            key,
            worker,
            port,
            force_tcp: create.force_tcp,
            info: info.clone(),
            started,
            names: Vec::new(),
            sessions: HashMap::new(),
        };
        registry.by_key.insert(key, id.clone());
        registry.calls.insert(id, entry);
        drop(registry);
        self.tell(worker, Command::Create { key, call: Box::new(hosted) })?;
        self.record(CallEvent::Started { info: info.clone(), at: started });
        Ok(info)
    }

    /// Ends a call.
    ///
    /// # Errors
    /// When there is none.
    pub fn end(&self, call: &CallId, reason: EndReason) -> Result<(), NodeError> {
        let (worker, key) = self.locate(call)?;
        self.tell(worker, Command::End { key, reason })
    }

    /// All calls, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<CallSummary> {
        let registry = self.registry();
        let summary =
            |entry: &CallEntry| CallSummary { info: entry.info.clone(), participants: entry.sessions.len() };
        registry.calls.values().map(summary).collect()
    }

    /// A call as it is now.
    ///
    /// # Errors
    /// When there is none.
    pub async fn snapshot(&self, call: &CallId) -> Result<CallSnapshot, NodeError> {
        let (worker, key) = self.locate(call)?;
        let info =
            self.registry().calls.get(call).map(|entry| entry.info.clone()).ok_or(NodeError::NoSuchCall)?;
        let (reply, answer) = oneshot::channel();
        self.tell(worker, Command::Snapshot { key, reply })?;
        let (live, counters) = answer.await.map_err(|_| NodeError::NoSuchCall)?;
        Ok(CallSnapshot { info, live, counters: counters.named().into_iter().collect() })
    }

    /// Answers an offer, and takes the participant into the call.
    ///
    /// # Errors
    /// When the offer is unusable, the call full or gone, or the node drains.
    pub async fn join(
        &self,
        call: &CallId,
        name: &str,
        role: Role,
        offer: &str,
    ) -> Result<Joined, NodeError> {
        let inner = &*self.0;
        let (worker, key, candidates) = {
            let registry = self.registry();
            if registry.drain.is_some() {
                return Err(NodeError::Draining);
            }
            let entry = registry.calls.get(call).ok_or(NodeError::NoSuchCall)?;
            (entry.worker, entry.key, self.candidates(entry))
        };
        let id = ParticipantId(inner.next_participant.fetch_add(1, Ordering::Relaxed));
        let ice = self.credentials(worker, key, id);
        let offer = Offer::parse(offer)?;
        let fingerprint = inner.dtls.fingerprint();
        let local = Local {
            ice: &ice,
            fingerprint: &fingerprint,
            candidates: &candidates,
            role,
            codecs: &inner.config.codecs,
        };
        let answer = sdp::answer(&offer, None, &local, &mut random_ssrc)?;
        let name: Arc<str> = name.into();
        let session = SessionId::random();
        // Known before the call takes it: it may be gone again before the answer is back.
        {
            let mut registry = self.registry();
            let entry = registry.calls.get_mut(call).ok_or(NodeError::NoSuchCall)?;
            entry.sessions.insert(id, session.clone());
            registry.sessions.insert(
                session.clone(),
                SessionEntry {
                    call: call.clone(),
                    id,
                    name: name.clone(),
                    role,
                    description: answer.description.clone(),
                    ice: ice.clone(),
                },
            );
        }
        let etag = etag(&ice);
        let join = Join { id, name: name.clone(), role, description: answer.description, ice };
        let (reply, joined) = oneshot::channel();
        let told = self.tell(worker, Command::Join { key, join: Box::new(join), reply });
        let verdict = match told {
            Ok(()) => joined.await.map_err(|_| NodeError::NoSuchCall).and_then(|joined| Ok(joined?)),
            Err(error) => Err(error),
        };
        let mut registry = self.registry();
        if let Err(error) = verdict {
            registry.sessions.remove(&session);
            if let Some(entry) = registry.calls.get_mut(call) {
                entry.sessions.remove(&id);
            }
            return Err(error);
        }
        if let Some(entry) = registry.calls.get_mut(call)
            && entry.names.len() < NAMES_MAX
            && !entry.names.contains(&name)
        {
            entry.names.push(name);
        }
        Ok(Joined { session, answer: answer.text, etag })
    }

    /// Answers a new offer of a session: more sections, other directions, an ICE restart. Gives the answer and its
    /// ETag.
    ///
    /// # Errors
    /// When the session is gone, or the offer changes what cannot change.
    pub async fn update(&self, session: &SessionId, offer: &str) -> Result<(String, String), NodeError> {
        let inner = &*self.0;
        let offer = Offer::parse(offer)?;
        let (worker, key, id, description, text, ice, restarts) = {
            let registry = self.registry();
            let entry = registry.sessions.get(session).ok_or(NodeError::NoSuchSession)?;
            let call = registry.calls.get(&entry.call).ok_or(NodeError::NoSuchSession)?;
            let restarts = offer.ice().ufrag != entry.description.ice.ufrag;
            let ice =
                if restarts { self.credentials(call.worker, call.key, entry.id) } else { entry.ice.clone() };
            let (fingerprint, candidates) = (inner.dtls.fingerprint(), self.candidates(call));
            let local = Local {
                ice: &ice,
                fingerprint: &fingerprint,
                candidates: &candidates,
                role: entry.role,
                codecs: &inner.config.codecs,
            };
            let answer = sdp::answer(&offer, Some(&entry.description), &local, &mut random_ssrc)?;
            (call.worker, call.key, entry.id, answer.description, answer.text, ice, restarts)
        };
        let (reply, updated) = oneshot::channel();
        let new_ice = restarts.then(|| ice.clone());
        let sent = Box::new(description.clone());
        self.tell(worker, Command::Update { key, id, description: sent, ice: new_ice, reply })?;
        updated.await.map_err(|_| NodeError::NoSuchSession)??;
        let tag = etag(&ice);
        if let Some(entry) = self.registry().sessions.get_mut(session) {
            entry.description = description;
            entry.ice = ice;
        }
        Ok((text, tag))
    }

    /// Takes a trickle fragment (RFC 8840). Candidates are of no use to an ICE-lite agent; new credentials restart ICE
    /// and are answered with a fragment and its ETag. `if_match` names the credentials the client knows, `*` any.
    ///
    /// # Errors
    /// When the session is gone, the fragment unusable, or meant for other credentials.
    pub async fn fragment(
        &self,
        session: &SessionId,
        if_match: Option<&str>,
        fragment: &str,
    ) -> Result<Option<(String, String)>, NodeError> {
        let inner = &*self.0;
        let fragment = Fragment::parse(fragment)?;
        let (worker, key, id, remote, local_ice, text) = {
            let registry = self.registry();
            let entry = registry.sessions.get(session).ok_or(NodeError::NoSuchSession)?;
            let call = registry.calls.get(&entry.call).ok_or(NodeError::NoSuchSession)?;
            if if_match.is_some_and(|tag| tag != "*" && tag != etag(&entry.ice)) {
                return Err(NodeError::Precondition);
            }
            let Some(remote) = fragment.restart(&entry.description.ice).cloned() else { return Ok(None) };
            let ice = self.credentials(call.worker, call.key, entry.id);
            let (fingerprint, candidates) = (inner.dtls.fingerprint(), self.candidates(call));
            let local = Local {
                ice: &ice,
                fingerprint: &fingerprint,
                candidates: &candidates,
                role: entry.role,
                codecs: &inner.config.codecs,
            };
            let text = sdp::fragment_answer(&entry.description, &local);
            (call.worker, call.key, entry.id, remote, ice, text)
        };
        let (reply, restarted) = oneshot::channel();
        let command =
            Command::RestartIce { key, id, remote: remote.clone(), local: local_ice.clone(), reply };
        self.tell(worker, command)?;
        restarted.await.map_err(|_| NodeError::NoSuchSession)??;
        let tag = etag(&local_ice);
        if let Some(entry) = self.registry().sessions.get_mut(session) {
            entry.description.ice = remote;
            entry.ice = local_ice;
        }
        Ok(Some((text, tag)))
    }

    /// A participant leaves.
    ///
    /// # Errors
    /// When it already has.
    pub fn leave(&self, session: &SessionId) -> Result<(), NodeError> {
        let (worker, key, id) = self.locate_session(session)?;
        self.tell(worker, Command::Leave { key, id })
    }

    /// Everything that happens from now on, beginning with how things are. A second stream ends the first.
    ///
    /// # Errors
    /// When the session is gone.
    pub fn events(&self, session: &SessionId) -> Result<EventStream, NodeError> {
        let (worker, key, id) = self.locate_session(session)?;
        let (to, events) = mpsc::channel(EVENTS_MAX);
        self.tell(worker, Command::Events { key, id, to })?;
        Ok(EventStream(events))
    }

    /// What a participant asks for.
    ///
    /// # Errors
    /// When it cannot be done.
    pub async fn request(&self, session: &SessionId, request: Request) -> Result<(), NodeError> {
        let (worker, key, id) = self.locate_session(session)?;
        let (reply, done) = oneshot::channel();
        self.tell(worker, Command::Request { key, id, request, reply })?;
        Ok(done.await.map_err(|_| NodeError::NoSuchSession)??)
    }

    /// Whose session it is.
    ///
    /// # Errors
    /// When it is gone.
    pub fn find(&self, session: &SessionId) -> Result<SessionInfo, NodeError> {
        let registry = self.registry();
        let entry = registry.sessions.get(session).ok_or(NodeError::NoSuchSession)?;
        Ok(SessionInfo { call: entry.call.clone(), participant: entry.name.clone() })
    }

    /// Whether a call is here.
    #[must_use]
    pub fn has(&self, call: &CallId) -> bool {
        self.registry().calls.contains_key(call)
    }

    /// Takes no new calls and nobody new from now on; at the deadline, calls that are still there end.
    pub fn drain(&self, deadline: Option<Duration>) {
        let deadline = deadline.map(|after| Instant::now() + after);
        let drain = Drain { deadline };
        self.registry().drain = Some(drain);
        if let Some(deadline) = deadline {
            let node = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(deadline.into()).await;
                // Undone or changed since.
                if node.drain_state() == Some(drain) {
                    node.end_all(EndReason::Drained);
                }
            });
        }
    }

    /// Takes calls again.
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
            participants: handle.shared.participants.load(Ordering::Relaxed),
        };
        self.0.workers.iter().map(load).collect()
    }

    /// What was counted since the start, calls that ended included: up to a second old.
    #[must_use]
    pub fn counters(&self) -> (Counters, SocketCounters) {
        let mut sum = (Counters::default(), SocketCounters::default());
        for worker in &self.0.workers {
            let (counters, socket_counters) = worker.shared.counts();
            sum.0.add(&counters);
            sum.1.add(&socket_counters);
        }
        sum
    }

    /// Ends every call and stops the workers. People are told. Blocks until the workers are done.
    pub fn shutdown(&self) {
        self.0.workers.iter().for_each(Handle::stop);
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, worker: usize, command: Command) -> Result<(), NodeError> {
        let told = self.0.workers.get(worker).is_some_and(|handle| handle.tell(command));
        if told { Ok(()) } else { Err(NodeError::Worker) }
    }

    fn locate(&self, call: &CallId) -> Result<(usize, u32), NodeError> {
        self.registry().calls.get(call).map(|entry| (entry.worker, entry.key)).ok_or(NodeError::NoSuchCall)
    }

    fn locate_session(&self, session: &SessionId) -> Result<(usize, u32, ParticipantId), NodeError> {
        let registry = self.registry();
        let entry = registry.sessions.get(session).ok_or(NodeError::NoSuchSession)?;
        let call = registry.calls.get(&entry.call).ok_or(NodeError::NoSuchSession)?;
        Ok((call.worker, call.key, entry.id))
    }

    /// The worker with the fewest participants, then calls. Published load is up to a second old, and many calls may
    /// be made within one.
    fn least_loaded(&self, registry: &Registry) -> usize {
        let mut weights = vec![(0_usize, 0_usize); self.0.workers.len()];
        for entry in registry.calls.values() {
            if let Some(weight) = weights.get_mut(entry.worker) {
                *weight = (weight.0 + entry.sessions.len(), weight.1 + 1);
            }
        }
        weights.iter().enumerate().min_by_key(|(_, weight)| **weight).map_or(0, |(worker, _)| worker)
    }

    fn uri(&self, port: u16, fits: impl Fn(&IpAddr) -> bool) -> Option<String> {
        self.0.addresses.iter().find(|ip| fits(ip)).map(|ip| SocketAddr::new(*ip, port).to_string())
    }

    fn candidates(&self, call: &CallEntry) -> Vec<Candidate> {
        let udp = self
            .0
            .addresses
            .iter()
            .map(|ip| Candidate { address: SocketAddr::new(*ip, call.port), transport: Transport::Udp });
        udp.filter(|_| !call.force_tcp).collect()
    }

    /// The relay's side of ICE for a participant: a user name that routes, and a random password.
    fn credentials(&self, worker: usize, call: u32, id: ParticipantId) -> IceCredentials {
        let config = &self.0.config;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let minutes = (now + config.ufrag_lifetime).as_secs() / 60;
        let route = ufrag::Route {
            node: config.node,
            worker: u8::try_from(worker).unwrap_or(u8::MAX),
            call,
            participant: id.0,
            expires_min: u32::try_from(minutes).unwrap_or(u32::MAX),
        };
        IceCredentials {
            ufrag: self.0.ufrag_key.write(&route),
            pwd: STANDARD_NO_PAD.encode(ids::random::<18>()),
        }
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
                    let Some(session) =
                        registry.calls.get_mut(&call).and_then(|entry| entry.sessions.remove(&id))
                    else {
                        continue;
                    };
                    registry.sessions.remove(&session);
                }
                Report::Ended { key, reason } => self.forget(key, reason),
            }
        }
    }

    fn forget(&self, key: u32, reason: EndReason) {
        let mut registry = self.registry();
        let Some(entry) = registry.by_key.remove(&key).and_then(|call| registry.calls.remove(&call)) else {
            return;
        };
        for session in entry.sessions.values() {
            registry.sessions.remove(session);
        }
        drop(registry);
        self.ports().release(Instant::now(), entry.port);
        let call = Redacted::new(&entry.id, Detail::Messaging, "call");
        tracing::info!(%call, ?reason, "call ended");
        let CallEntry { info, started, names, .. } = entry;
        self.record(CallEvent::Ended { info, started, at: SystemTime::now(), participants: names, reason });
    }
}

fn random_ssrc() -> u32 {
    // Zero is what some clients take for "none".
    u32::from_ne_bytes(ids::random()) | 1
}

/// An entity tag for a session's ICE credentials. The password is part of it, because the user name says the same again
/// when ICE restarts within a minute; twelve bytes of a hash give none of its 144 random bits away.
fn etag(ice: &IceCredentials) -> String {
    let text = format!("{}:{}", ice.ufrag, ice.pwd);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    format!("\"{}\"", STANDARD_NO_PAD.encode(digest.as_ref().get(..12).unwrap_or_default()))
}

/// The node's DTLS certificate: made at start-up, known to clients by the fingerprint in each answer.
fn certificate(version_13: bool) -> Result<dtls::Settings, StartError> {
    let certificate = |error: rcgen::Error| StartError::Certificate(error.to_string());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(certificate)?;
    let params = rcgen::CertificateParams::new(Vec::new()).map_err(certificate)?;
    let signed = params.self_signed(&key).map_err(certificate)?;
    dtls::Settings::from_der(signed.der().to_vec(), key.serialize_der(), version_13)
        .map_err(|error| StartError::Certificate(error.to_string()))
}

//! A worker: one thread, its calls and their sockets. Nothing on the packet path is shared with another thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use tokio::sync::{mpsc as channel, oneshot};
use trunkline_relay_proto::call::{Call, Join, JoinError, RequestError};
use trunkline_relay_proto::counters::Counters;
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::event::{Audience, EndReason, Event, Notice, ParticipantId, Request};
use trunkline_relay_proto::exchange::{Branch, Message};
use trunkline_relay_proto::media::{Description, IceCredentials};
use trunkline_relay_proto::receivers::Receivers;
use trunkline_relay_proto::snapshot::Snapshot;

use crate::tcp::Admitted;
use crate::tunnel::{Tunnel, TunnelCounters, TunnelSettings};
use crate::udp::{Batch, SocketCounters};

mod connections;
mod exchange;
mod hosted;

pub use connections::ConnectionCounters;
use connections::Connections;
pub(crate) use exchange::{Mailbox, Peer};
pub(crate) use hosted::{Empty, Hosted};

/// Commands taken before sockets are looked at again.
const COMMANDS_PER_TURN: usize = 64;

/// Batches received from one call before the others have their turn.
const BATCHES_PER_TURN: usize = 4;

/// Events waiting for one client. One that falls behind is cut off, and gets everything anew when it is back.
pub(crate) const EVENTS_MAX: usize = 256;

/// How often load and counts are published.
const PUBLISH: Duration = Duration::from_secs(1);

/// The token of the command queue among the sockets' (a call's key never is).
const COMMANDS: u64 = u64::MAX;

/// And that of the tunnel.
const TUNNEL: u64 = u64::MAX - 1;

/// What a worker is told to do. An unknown call is like one that just ended: nobody answers.
pub(crate) enum Command {
    Create {
        key: u32,
        call: Box<Hosted>,
    },
    Join {
        key: u32,
        join: Box<Join>,
        reply: oneshot::Sender<Result<(), JoinError>>,
    },
    Update {
        key: u32,
        id: ParticipantId,
        description: Box<Description>,
        ice: Option<IceCredentials>,
        reply: oneshot::Sender<Result<(), JoinError>>,
    },
    RestartIce {
        key: u32,
        id: ParticipantId,
        remote: IceCredentials,
        local: IceCredentials,
        reply: oneshot::Sender<Result<(), JoinError>>,
    },
    Leave {
        key: u32,
        id: ParticipantId,
    },
    /// Of the call that its route names.
    Connection {
        admitted: Box<Admitted>,
    },
    Events {
        key: u32,
        id: ParticipantId,
        to: channel::Sender<Arc<str>>,
    },
    Request {
        key: u32,
        id: ParticipantId,
        request: Request,
        reply: oneshot::Sender<Result<(), RequestError>>,
    },
    Snapshot {
        key: u32,
        reply: oneshot::Sender<(Snapshot, Counters)>,
    },
    /// The call has another branch, elsewhere.
    Attach {
        key: u32,
        peer: Box<Peer>,
    },
    /// A branch of the call is gone, with those who were on it.
    Detach {
        key: u32,
        branch: Branch,
    },
    /// What another branch of the call has to say.
    Exchange {
        key: u32,
        from: Branch,
        messages: Vec<Message>,
        /// What they count for in the mailbox.
        bytes: usize,
    },
    HandOver {
        key: u32,
    },
    End {
        key: u32,
        reason: EndReason,
    },
    Stop,
}

/// What a worker tells the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// A participant is no longer in the call.
    Left { key: u32, id: ParticipantId },
    /// A call ended; its port is free.
    Ended { key: u32, reason: EndReason },
}

/// What a worker shows to the API, about once a second.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) calls: AtomicUsize,
    pub(crate) branches: AtomicUsize,
    pub(crate) participants: AtomicUsize,
    /// Share of the last second it was busy, in thousandths.
    pub(crate) busy_permille: AtomicU32,
    counts: Mutex<Counts>,
    receivers: Mutex<Receivers>,
}

/// What calls, their sockets, their connections and the tunnel counted.
pub(crate) type Counts = (Counters, SocketCounters, ConnectionCounters, TunnelCounters);

impl Shared {
    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the lines of people are like.
    pub(crate) fn receivers(&self) -> Receivers {
        *self.receivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The API's end of a worker.
pub(crate) struct Handle {
    pub(crate) mailbox: Mailbox,
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    /// Starts a worker, behind an ingress when there is a tunnel.
    pub(crate) fn start(
        number: usize,
        reports: channel::UnboundedSender<Report>,
        tunnel: Option<&TunnelSettings>,
    ) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let shared = Arc::new(Shared::default());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(COMMANDS), epoll::EventFlags::IN)?;
        let tunnel = tunnel.map(Tunnel::bind).transpose()?;
        if let Some(tunnel) = &tunnel {
            epoll::add(&epoll, tunnel.as_fd(), epoll::EventData::new_u64(TUNNEL), epoll::EventFlags::IN)?;
        }
        let mailbox = Mailbox::new(commands, wake.clone());
        let worker = Worker {
            epoll,
            wake,
            commands: receiver,
            mailbox: mailbox.clone(),
            reports,
            shared: shared.clone(),
            calls: HashMap::new(),
            connections: Connections::new(),
            timers: BinaryHeap::new(),
            egress: Egress::default(),
            batch: Batch::default(),
            tunnel,
            ended: (Counters::default(), SocketCounters::default(), Receivers::default()),
        };
        let thread =
            std::thread::Builder::new().name(format!("media-{number}")).spawn(move || worker.run())?;
        Ok(Self { mailbox, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Hands a command over. False when the worker is gone.
    pub(crate) fn tell(&self, command: Command) -> bool {
        self.mailbox.tell(command)
    }

    /// Ends every call, and waits for the thread.
    pub(crate) fn stop(&self) {
        self.tell(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A worker that panicked has ended the process already.
            let _ = thread.join();
        }
    }
}

struct Worker {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: mpsc::Receiver<Command>,
    /// Its own, of which it takes note what was taken out.
    mailbox: Mailbox,
    reports: channel::UnboundedSender<Report>,
    shared: Arc<Shared>,
    calls: HashMap<u32, Hosted>,
    connections: Connections,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    egress: Egress,
    batch: Batch,
    tunnel: Option<Tunnel>,
    ended: (Counters, SocketCounters, Receivers),
}

impl Worker {
    fn run(mut self) {
        // Half a node that looks whole is worse than a restart.
        let guard = AbortOnPanic;
        let mut ready = Vec::with_capacity(64);
        let mut publish_at = Instant::now() + PUBLISH;
        let mut busy = Duration::ZERO;
        // Commands wait that nothing wakes us for: their wake-up was taken with earlier ones.
        let mut more = false;
        loop {
            let now = Instant::now();
            let due = self.timers.peek().map_or(publish_at, |Reverse((at, _))| (*at).min(publish_at));
            let due = if more { now } else { due };
            let timeout = Timespec::try_from(due.saturating_duration_since(now)).unwrap_or_default();
            ready.clear();
            let woken = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&timeout));
            let began = Instant::now();
            if woken.is_ok() {
                for at in 0..ready.len() {
                    let Some(event) = ready.get(at).copied() else { break };
                    let event: epoll::Event = event;
                    let token = event.data.u64();
                    if token == COMMANDS {
                        let mut count = [0; 8];
                        let _ = rustix::io::read(&*self.wake, &mut count);
                        self.mailbox.awake();
                    } else if token == TUNNEL {
                        self.receive_tunnelled();
                    } else if let Ok(key) = u32::try_from(token) {
                        self.receive(key);
                    } else if let Some(number) = Connections::of_token(token) {
                        self.attend(number, event.flags);
                    }
                }
            }
            more = true;
            for _ in 0..COMMANDS_PER_TURN {
                match self.commands.try_recv() {
                    Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => {
                        let calls: Vec<u32> = self.calls.keys().copied().collect();
                        calls.into_iter().for_each(|key| self.end(key, EndReason::Drained));
                        self.publish(Duration::ZERO);
                        std::mem::forget(guard);
                        return;
                    }
                    Ok(command) => self.carry_out(command),
                    Err(mpsc::TryRecvError::Empty) => {
                        more = false;
                        break;
                    }
                }
            }
            self.fire_timers();
            let after = Instant::now();
            busy += after.saturating_duration_since(began);
            if after >= publish_at {
                self.end_empty(after);
                if let Some(tunnel) = &mut self.tunnel {
                    let calls = &self.calls;
                    tunnel.sweep(|key, path| calls.get(&key).is_some_and(|hosted| hosted.call.knows(path)));
                }
                self.connections.sweep(after, |key| self.calls.get(&key).map(|hosted| &hosted.call));
                self.publish(busy);
                busy = Duration::ZERO;
                publish_at = after + PUBLISH;
            }
        }
    }

    /// Takes what waits at a call's socket, and sends what follows from it.
    fn receive(&mut self, key: u32) {
        for _ in 0..BATCHES_PER_TURN {
            let Some(hosted) = self.calls.get_mut(&key) else { return };
            let now = Instant::now();
            let Hosted { socket: Some(socket), call, .. } = hosted else { return };
            let egress = &mut self.egress;
            let received = socket
                .receive(&mut self.batch, |path, datagram| call.handle_datagram(now, path, datagram, egress));
            match received {
                Ok(0) => return,
                Ok(_) => self.settle(key, now),
                Err(error) => {
                    tracing::error!(%error, "a media socket broke; its call ends");
                    self.end(key, EndReason::CallEnded);
                    return;
                }
            }
        }
    }

    /// Takes what ingresses sent, and sends what follows from it. Calls behind an ingress have no sockets of their own, so
    /// what several of them want sent at once may leave together.
    fn receive_tunnelled(&mut self) {
        for _ in 0..BATCHES_PER_TURN {
            let Some(tunnel) = &mut self.tunnel else { return };
            let now = Instant::now();
            match tunnel.receive(now, &mut self.batch, &mut self.egress, &mut self.calls) {
                Ok(None) => return,
                Ok(Some(touched)) => {
                    touched.iter().for_each(|key| self.settle(*key, now));
                    if let Some(tunnel) = &mut self.tunnel {
                        tunnel.reuse(touched);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the tunnel broke; the process ends so that a new one can begin");
                    std::process::abort();
                }
            }
        }
    }

    /// A connection has something for us, or takes something again.
    fn attend(&mut self, number: u32, flags: epoll::EventFlags) {
        let Some(key) = self.connections.call_of(number) else { return };
        let Some(hosted) = self.calls.get_mut(&key) else { return };
        let now = Instant::now();
        if flags.contains(epoll::EventFlags::OUT) {
            self.connections.writable(number);
        }
        // What is neither is an error or the end, which reading tells.
        if flags.difference(epoll::EventFlags::OUT) != epoll::EventFlags::empty() {
            self.connections.receive(now, number, &mut hosted.call, &mut self.egress);
        }
        self.settle(key, now);
    }

    /// Takes over a connection from the lobby.
    fn take_over(&mut self, admitted: Admitted) {
        let (key, now) = (admitted.route.call, Instant::now());
        let Some(hosted) = self.calls.get_mut(&key) else { return self.connections.refuse() };
        if self.connections.add(&self.epoll, now, admitted, (&mut hosted.call, &mut self.egress)) {
            self.settle(key, now);
        }
    }

    /// Sends what a call wants sent, tells what it has to tell, and notes when it wants to be woken.
    fn settle(&mut self, key: u32, now: Instant) {
        let Some(hosted) = self.calls.get_mut(&key) else { return };
        loop {
            let more = hosted.call.poll_egress(now, &mut self.egress);
            hosted.export();
            if let Some(socket) = &mut hosted.socket {
                socket.send(&self.egress);
            }
            self.connections.take(now, &self.egress);
            if let Some(tunnel) = &mut self.tunnel {
                tunnel.send(&self.egress);
            }
            hosted.dropped += self.egress.clear();
            if !more {
                break;
            }
        }
        self.connections.flush(&self.epoll, now, &mut hosted.call);
        while let Some(event) = hosted.call.poll_event() {
            if let Event { to: Audience::One(id), notice: Notice::Ended { .. } } = &event {
                let _ = self.reports.send(Report::Left { key, id: *id });
            }
            // Whoever was told to join elsewhere is not told that it is over.
            let drained = matches!(event.notice, Notice::Ended { reason: EndReason::Drained });
            if !(hosted.moved && drained) {
                deliver(&mut hosted.events, event);
            } else if let Audience::One(id) = event.to {
                hosted.events.remove(&id);
            }
        }
        // Events may have come with messages for other branches after the last media.
        hosted.export();
        hosted.note_empty(now);
        if let Some(at) = hosted.call.poll_timeout()
            && hosted.wake_at.is_none_or(|before| at < before)
        {
            hosted.wake_at = Some(at);
            self.timers.push(Reverse((at, key)));
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, key))) = self.timers.pop() else { return };
            let Some(hosted) = self.calls.get_mut(&key) else { continue };
            // An earlier wake-up was asked for since.
            if hosted.wake_at != Some(at) {
                continue;
            }
            hosted.wake_at = None;
            hosted.call.handle_timeout(now, &mut self.egress);
            self.settle(key, now);
        }
    }

    fn carry_out(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Create { key, call } => {
                let data = epoll::EventData::new_u64(u64::from(key));
                let socket = call.socket.as_ref().map(AsFd::as_fd);
                let added = socket.map(|fd| epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN));
                self.calls.insert(key, *call);
                if let Some(Err(error)) = added {
                    tracing::error!(%error, "a media socket cannot be waited for; its call ends");
                    self.end(key, EndReason::CallEnded);
                }
            }
            Command::Join { key, join, reply } => self.with(key, now, |call| {
                let _ = reply.send(call.join(now, *join));
            }),
            Command::Update { key, id, description, ice, reply } => self.with(key, now, |call| {
                let _ = reply.send(call.update(now, id, *description, ice));
            }),
            Command::RestartIce { key, id, remote, local, reply } => self.with(key, now, |call| {
                let _ = reply.send(call.restart_ice(now, id, remote, local));
            }),
            Command::Leave { key, id } => self.with(key, now, |call| call.leave(now, id, EndReason::Left)),
            Command::Connection { admitted } => self.take_over(*admitted),
            Command::Events { key, id, to } => {
                // Somebody who has just left would never be told so: the stream ends at once.
                if let Some(hosted) = self.calls.get_mut(&key).filter(|hosted| hosted.call.has(id)) {
                    hosted.events.insert(id, to);
                    if hosted.moved {
                        deliver(&mut hosted.events, Event { to: Audience::One(id), notice: Notice::Moved });
                    }
                }
                self.with(key, now, |call| call.resend_state(id));
            }
            Command::Request { key, id, request, reply } => self.with(key, now, |call| {
                let _ = reply.send(call.request(now, id, request));
            }),
            Command::Snapshot { key, reply } => {
                if let Some(hosted) = self.calls.get(&key) {
                    let _ = reply.send((hosted.call.snapshot(now), hosted.counters()));
                }
            }
            Command::Attach { key, peer } => self.attach(key, now, *peer),
            Command::Detach { key, branch } => self.detach(key, now, branch),
            Command::Exchange { key, from, messages, bytes } => {
                self.mailbox.taken(bytes);
                self.with(key, now, |call| {
                    messages.into_iter().for_each(|message| call.import(now, from, message));
                });
            }
            Command::HandOver { key } => {
                if let Some(hosted) = self.calls.get_mut(&key) {
                    hosted.moved = true;
                    deliver(&mut hosted.events, Event { to: Audience::Everyone, notice: Notice::Moved });
                }
            }
            Command::End { key, reason } => self.end(key, reason),
            Command::Stop => {}
        }
    }

    fn with(&mut self, key: u32, now: Instant, act: impl FnOnce(&mut Call)) {
        if let Some(hosted) = self.calls.get_mut(&key) {
            act(&mut hosted.call);
            self.settle(key, now);
        }
    }

    /// Ends a call: everybody is told, the port is closed.
    fn end(&mut self, key: u32, reason: EndReason) {
        let now = Instant::now();
        if let Some(hosted) = self.calls.get_mut(&key) {
            hosted.call.end(now, reason);
        }
        self.settle(key, now);
        let Some(hosted) = self.calls.remove(&key) else { return };
        self.connections.close_call(key);
        self.ended.0.add(&hosted.counters());
        if let Some(socket) = &hosted.socket {
            self.ended.1.add(&socket.counters);
        }
        self.ended.2.add(hosted.call.receivers());
        // The node frees the port when it hears of it: the socket has to be closed by then.
        drop(hosted);
        let _ = self.reports.send(Report::Ended { key, reason });
    }

    fn end_empty(&mut self, now: Instant) {
        let over: Vec<u32> =
            self.calls.iter().filter(|(_, hosted)| hosted.is_over(now)).map(|(key, _)| *key).collect();
        over.into_iter().for_each(|key| self.end(key, EndReason::CallEnded));
    }

    fn publish(&mut self, busy: Duration) {
        let (mut counters, mut socket_counters, mut receivers) = self.ended;
        let mut participants = 0;
        for hosted in self.calls.values() {
            counters.add(&hosted.counters());
            if let Some(socket) = &hosted.socket {
                socket_counters.add(&socket.counters);
            }
            receivers.add(hosted.call.receivers());
            participants += hosted.call.participants();
        }
        let mut tunnel_counters = TunnelCounters::default();
        if let Some(tunnel) = &self.tunnel {
            socket_counters.add(tunnel.socket_counters());
            tunnel_counters = tunnel.counters();
        }
        let branches = self.calls.values().filter(|hosted| !hosted.is_home()).count();
        self.shared.calls.store(self.calls.len() - branches, Ordering::Relaxed);
        self.shared.branches.store(branches, Ordering::Relaxed);
        self.shared.participants.store(participants, Ordering::Relaxed);
        let permille = u32::try_from(busy.as_millis() * 1000 / PUBLISH.as_millis()).unwrap_or(1000);
        self.shared.busy_permille.store(permille.min(1000), Ordering::Relaxed);
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) =
            (counters, socket_counters, self.connections.counters(), tunnel_counters);
        *self.shared.receivers.lock().unwrap_or_else(PoisonError::into_inner) = receivers;
    }
}

/// Writes an event once, and hands it to those it is for. Who cannot keep up is cut off.
fn deliver(events: &mut HashMap<ParticipantId, channel::Sender<Arc<str>>>, event: Event) {
    let Event { to, notice } = event;
    let wanted = |id: &ParticipantId| match to {
        Audience::Everyone => true,
        Audience::AllBut(other) => *id != other,
        Audience::One(one) => *id == one,
    };
    if !events.keys().any(wanted) {
        return;
    }
    let Ok(text) = serde_json::to_string(&notice) else { return };
    let text: Arc<str> = text.into();
    let last = matches!(notice, Notice::Ended { .. });
    events.retain(|id, to| !wanted(id) || (to.try_send(text.clone()).is_ok() && !last));
}

/// Ends the process when its thread panics.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a media worker failed; the process ends so that a new one can begin");
            std::process::abort();
        }
    }
}

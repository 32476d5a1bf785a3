//! One thread of the data plane: its socket on the public port, its socket towards the nodes, and its flows. Nothing on
//! the packet path is shared with another thread, copied, or allocated.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use trunkline_relay_proto::demux::{self, Protocol};
use trunkline_relay_proto::flow::{self, Flows, Target};
use trunkline_relay_proto::path::Transport;
use trunkline_relay_proto::tunnel::{HEADER_BYTES, Header, Kind};
use trunkline_relay_proto::ufrag;

use super::connections::{Around, Connections, TOKENS};
use super::locals::Locals;
use super::plane::{self, Counters, Nodes};
use crate::tcp::{Lobby, lobby};
use crate::udp::{Arrived, Batch, Framing, Load, Socket};

/// Batches received from one socket before the other has its turn.
const BATCHES_PER_TURN: usize = 4;

/// How often counts are published.
const PUBLISH: Duration = Duration::from_secs(1);

/// Tokens of what the thread waits for.
const WAKE: u64 = 0;
const PUBLIC: u64 = 1;
const TUNNEL: u64 = 2;
const LOBBY: u64 = 3;

/// Events looked at in one turn. More lets those wait longer that come behind them.
const EVENTS_PER_TURN: usize = 64;

/// What a thread is made of.
pub(super) struct Parts {
    pub(super) number: usize,
    /// For TCP: the listener, what its lobby is made with, and how many connections there may be at a time.
    pub(super) lobby: Option<(TcpListener, lobby::Settings, usize)>,
    pub(super) public: Socket,
    pub(super) tunnel: Socket,
    pub(super) listen: Option<IpAddr>,
    pub(super) nodes: Nodes,
    pub(super) key: ufrag::Key,
    pub(super) flows: flow::Settings,
}

/// The other threads' end of a thread.
pub(super) struct Handle {
    wake: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
    published: Arc<Mutex<Counters>>,
    next_nodes: Arc<Mutex<Option<Nodes>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    /// Starts a thread.
    ///
    /// # Errors
    /// When it, or what it waits with, cannot be had.
    pub(super) fn start(parts: Parts) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let next_nodes = Arc::new(Mutex::default());
        let ends = Ends {
            wake: Arc::clone(&wake),
            stop: Arc::clone(&stop),
            published: Arc::clone(&published),
            next_nodes: Arc::clone(&next_nodes),
        };
        let (started, answer) = mpsc::sync_channel(1);
        let builder = std::thread::Builder::new().name(format!("ingress-{}", parts.number));
        // Lists of events stay on the thread that they are made on.
        let thread = builder.spawn(move || match Thread::new(parts, ends) {
            Ok(thread) => {
                let _ = started.send(Ok(()));
                thread.run();
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        })?;
        answer.recv().unwrap_or_else(|_| Err(io::Error::other("an ingress thread failed as it began")))?;
        Ok(Self { wake, stop, published, next_nodes, thread: Mutex::new(Some(thread)) })
    }

    /// What was counted: up to a second old.
    pub(super) fn counters(&self) -> Counters {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the thread other nodes, which it takes up between two batches.
    pub(super) fn set_nodes(&self, nodes: Nodes) {
        *self.next_nodes.lock().unwrap_or_else(PoisonError::into_inner) = Some(nodes);
        self.wake();
    }

    /// Ends the thread, and waits for it. Its ports are free then.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // One that panicked has ended the process already.
            let _ = thread.join();
        }
    }

    fn wake(&self) {
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

/// Datagrams of one message that go the same way.
#[derive(Clone, Copy)]
struct Run {
    message: usize,
    start: usize,
    end: usize,
    to: SocketAddr,
    local: IpAddr,
    /// Towards nodes: what goes in front of each of them.
    header: [u8; HEADER_BYTES],
}

struct Thread {
    epoll: OwnedFd,
    ends: Ends,
    public: Socket,
    tunnel: Socket,
    connections: Option<Connections>,
    nodes: Nodes,
    flows: Flows,
    locals: Locals,
    batch: Batch,
    /// What a batch is cut into.
    runs: Vec<Run>,
    counters: Counters,
}

/// What a thread has in common with its handle.
struct Ends {
    /// Wakes it,
    wake: Arc<OwnedFd>,
    /// says that it is to stop,
    stop: Arc<AtomicBool>,
    /// has what it counted,
    published: Arc<Mutex<Counters>>,
    /// and the nodes that it is to go on with. Looked at when it was woken, not for each packet.
    next_nodes: Arc<Mutex<Option<Nodes>>>,
}

impl Thread {
    fn new(parts: Parts, ends: Ends) -> io::Result<Self> {
        let Parts { lobby, public, tunnel, listen, nodes, key, flows, .. } = parts;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (fd, token) in [(ends.wake.as_fd(), WAKE), (public.as_fd(), PUBLIC), (tunnel.as_fd(), TUNNEL)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        }
        let connections = match lobby {
            Some((listener, settings, max)) => {
                let connections = Connections::new(Lobby::new(vec![listener], settings)?, max);
                epoll::add(&epoll, &connections, epoll::EventData::new_u64(LOBBY), epoll::EventFlags::IN)?;
                Some(connections)
            }
            None => None,
        };
        Ok(Self {
            epoll,
            ends,
            flows: Flows::new(Instant::now(), key, flows),
            locals: Locals::of_machine(listen),
            public,
            tunnel,
            connections,
            nodes,
            batch: Batch::default(),
            runs: Vec::new(),
            counters: Counters::default(),
        })
    }

    fn run(mut self) {
        // Half an ingress that looks whole is worse than a restart.
        let guard = AbortOnPanic;
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(EVENTS_PER_TURN);
        let mut publish_at = Instant::now() + PUBLISH;
        while !self.ends.stop.load(Ordering::Relaxed) {
            let lobby = self.connections.as_ref().and_then(Connections::poll_timeout);
            let due = lobby.map_or(publish_at, |at| at.min(publish_at));
            let timeout = due.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(timeout).unwrap_or_default();
            ready.clear();
            let woken = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&timeout));
            let began = Instant::now();
            let now_min = now_min();
            if woken.is_ok() {
                for event in &ready {
                    let turned = match event.data.u64() {
                        PUBLIC => self.upstream(began, now_min),
                        TUNNEL => self.downstream(began, now_min),
                        WAKE => {
                            self.take_nodes();
                            Ok(())
                        }
                        // After the others, and also when only time has passed.
                        LOBBY => Ok(()),
                        token => {
                            let number = u32::try_from(token - TOKENS).unwrap_or_default();
                            self.with_connections(began, now_min, |all, around| all.turn(number, around));
                            Ok(())
                        }
                    };
                    if let Err(error) = turned {
                        tracing::error!(%error, "a media socket broke; the process ends so that a new one can begin");
                        std::process::abort();
                    }
                }
            }
            self.flows.sweep(began);
            self.with_connections(began, now_min, |all, around| {
                all.admit(around);
                all.sweep(around.now, around.tunnel);
            });
            let after = Instant::now();
            self.counters.busy += after.saturating_duration_since(began);
            if after >= publish_at {
                publish_at = after + PUBLISH;
                self.publish();
            }
        }
        std::mem::forget(guard);
    }

    /// Goes on with other nodes, if it was given any.
    fn take_nodes(&mut self) {
        // Otherwise the next wait would end at once.
        let _ = rustix::io::read(&*self.ends.wake, &mut [0; 8]);
        let next = self.ends.next_nodes.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(nodes) = next {
            self.flows.set_nodes(nodes.iter().map(|node| node.map(|node| node.node)));
            self.nodes = nodes;
        }
    }

    /// From clients to nodes.
    fn upstream(&mut self, now: Instant, now_min: u32) -> io::Result<()> {
        for _ in 0..BATCHES_PER_TURN {
            let came = self.public.receive_messages(&mut self.batch)?;
            if came == 0 {
                return Ok(());
            }
            self.counters.upstream.batches += 1;
            self.runs.clear();
            for message in 0..came {
                let Some(arrived) = self.batch.message(message) else { continue };
                let Arrived { path, bytes, segment } = arrived;
                self.counters.upstream.count(bytes.len(), segment);
                let local = self.locals.number(path.local);
                let header = Header {
                    kind: Kind::Datagram,
                    transport: Transport::Udp,
                    remote: path.remote,
                    flow: local,
                };
                let header = header.write();
                // Of a train, only checks can go another way than what came before them.
                let mut known: Option<Target> = None;
                let mut end = 0;
                for datagram in bytes.chunks(segment) {
                    let start = end;
                    end += datagram.len();
                    let target = match known {
                        Some(target) if demux::classify(datagram) != Protocol::Stun => target,
                        _ => {
                            known = self.flows.handle(now, now_min, path.remote, local, datagram).ok();
                            let Some(target) = known else { continue };
                            target
                        }
                    };
                    let node = plane::at(&self.nodes, target.place);
                    let Some(to) = node.and_then(|node| node.worker(target.worker)) else {
                        continue;
                    };
                    match self.runs.last_mut() {
                        Some(run) if run.message == message && run.end == start && run.to == to => {
                            run.end = end
                        }
                        _ => self.runs.push(Run { message, start, end, to, local: UNSPECIFIED, header }),
                    }
                }
            }
            let (runs, batch) = (&self.runs, &self.batch);
            self.tunnel.send_loads(|at| {
                let run = runs.get(at)?;
                Some(load(batch, run, Framing::Tunnel(&run.header)))
            });
        }
        Ok(())
    }

    /// From nodes to clients.
    fn downstream(&mut self, now: Instant, now_min: u32) -> io::Result<()> {
        for _ in 0..BATCHES_PER_TURN {
            let came = self.tunnel.receive_messages(&mut self.batch)?;
            if came == 0 {
                return Ok(());
            }
            self.counters.downstream.batches += 1;
            self.runs.clear();
            for message in 0..came {
                let Some(arrived) = self.batch.message(message) else { continue };
                let Arrived { path, bytes, segment } = arrived;
                if !self.nodes.iter().flatten().any(|node| node.is(path.remote)) {
                    self.counters.tunnel_stranger += bytes.len().div_ceil(segment.max(1)) as u64;
                    continue;
                }
                self.counters.downstream.count(bytes.len(), segment);
                let mut end = 0;
                for datagram in bytes.chunks(segment) {
                    let start = end;
                    end += datagram.len();
                    if let Some(run) = self.runs.last_mut()
                        && (run.message, run.end) == (message, start)
                        && datagram.starts_with(&run.header)
                    {
                        run.end = end;
                        continue;
                    }
                    let parsed = Header::parse(datagram).ok().zip(datagram.first_chunk());
                    let Some(((parsed, body), header)) = parsed else {
                        self.counters.tunnel_malformed += 1;
                        continue;
                    };
                    let Header { kind, transport, remote, flow } = parsed;
                    match (kind, transport) {
                        (Kind::Datagram, Transport::Udp) if !body.is_empty() => {
                            let local = self.locals.address(flow, remote.ip());
                            self.runs.push(Run { message, start, end, to: remote, local, header: *header });
                        }
                        (_, Transport::Tcp | Transport::Tls) => match &mut self.connections {
                            Some(connections) => connections.handle(now, path.remote, &parsed, body),
                            None => self.counters.tunnel_malformed += 1,
                        },
                        _ => self.counters.tunnel_malformed += 1,
                    }
                }
            }
            let (runs, batch) = (&self.runs, &self.batch);
            self.public.send_loads(|at| Some(load(batch, runs.get(at)?, Framing::Untunnel)));
            self.with_connections(now, now_min, Connections::flush_all);
        }
        Ok(())
    }

    fn with_connections(
        &mut self,
        now: Instant,
        now_min: u32,
        act: impl FnOnce(&mut Connections, &mut Around<'_>),
    ) {
        let Self { connections: Some(connections), epoll, flows, nodes, tunnel, .. } = self else { return };
        act(connections, &mut Around { now, now_min, epoll, flows, nodes, tunnel });
    }

    fn publish(&mut self) {
        if let Some(connections) = &self.connections {
            (self.counters.connections, self.counters.lobby) = connections.counters();
        }
        self.counters.flows = self.flows.len();
        self.counters.flow = self.flows.counters();
        self.counters.public = self.public.counters;
        self.counters.tunnel = self.tunnel.counters;
        *self.ends.published.lock().unwrap_or_else(PoisonError::into_inner) = self.counters;
    }
}

const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn load<'a>(batch: &'a Batch, run: &Run, framing: Framing<'a>) -> Load<'a> {
    let (bytes, segment) = batch.message(run.message).map_or((&[][..], 1), |arrived| {
        (arrived.bytes.get(run.start..run.end).unwrap_or_default(), arrived.segment)
    });
    Load { to: run.to, local: run.local, framing, bytes, segment }
}

/// Minutes since the Unix epoch.
fn now_min() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs() / 60).unwrap_or(u32::MAX)
}

/// Ends the process when its thread panics.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("an ingress thread failed; the process ends so that a new one can begin");
            std::process::abort();
        }
    }
}

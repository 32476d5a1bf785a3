//! A worker's end of the tunnel: which call a client's datagrams belong to, and the way back through its ingress.
//!
//! Checks say in their ufrag which call they are for. Nothing vouches for that here: the call itself looks whether it gave
//! that ufrag out, and whether the check was made with the password. Only then does the path of the check belong to the
//! call, and what comes on it without saying so (media) is taken there.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use trunkline_relay_proto::call::Call;
use trunkline_relay_proto::demux::{self, Protocol};
use trunkline_relay_proto::egress::Egress;
use trunkline_relay_proto::path::{Path, Via};
use trunkline_relay_proto::tunnel::{HEADER_BYTES, Header, Kind, TunnelError};
use trunkline_relay_proto::{stun, tunnel, ufrag};

use crate::udp::{Batch, Framing, Load, NO_LOAD, Socket, SocketCounters};
use crate::worker::Hosted;

/// Paths known at a time: up to eight for each participant. More takes memory; without room, what comes on further paths
/// is dropped.
const PATHS_MAX: usize = 65_536;

/// Paths looked at by one [`Tunnel::sweep`], once a second. More forgets those of people who left sooner.
const SWEEP_PATHS: usize = 4096;

/// Threads of ingresses at a time. More takes longer to find one.
const ENDPOINTS_MAX: usize = 256;

/// A thread of an ingress that was not heard of for this long may be forgotten: no path through it has consent any more
/// (RFC 7675), so nothing is sent there.
const ENDPOINT_IDLE: Duration = Duration::from_secs(90);

/// How a worker's end of the tunnel is set up.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Ingresses whose datagrams are taken.
    pub from: Vec<IpAddr>,
}

/// What a tunnel counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelCounters {
    /// Datagrams of clients that came.
    pub datagrams: u64,
    /// Datagrams from addresses that are no ingress.
    pub dropped_stranger: u64,
    /// Not of the tunnel, or of another version of it.
    pub dropped_malformed: u64,
    /// Checks without a call that is here.
    pub dropped_no_call: u64,
    /// Other datagrams on paths that belong to no call.
    pub dropped_path: u64,
    /// What found no room in a table.
    pub dropped_full: u64,
}

impl TunnelCounters {
    /// Adds another tunnel's.
    pub fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.dropped_stranger += other.dropped_stranger;
        self.dropped_malformed += other.dropped_malformed;
        self.dropped_no_call += other.dropped_no_call;
        self.dropped_path += other.dropped_path;
        self.dropped_full += other.dropped_full;
    }

    /// Drops by reason.
    #[must_use]
    pub fn dropped(&self) -> [(&'static str, u64); 5] {
        [
            ("tunnel_stranger", self.dropped_stranger),
            ("tunnel_malformed", self.dropped_malformed),
            ("tunnel_no_call", self.dropped_no_call),
            ("tunnel_path", self.dropped_path),
            ("tunnel_full", self.dropped_full),
        ]
    }
}

/// A thread of an ingress: its address, and which of ours it talks to.
struct Endpoint {
    path: Path,
    heard: Instant,
}

/// See the module's text.
pub(crate) struct Tunnel {
    socket: Socket,
    from: Vec<IpAddr>,
    endpoints: Vec<Endpoint>,
    /// Which call a path belongs to.
    calls: HashMap<Path, u32>,
    /// Each path once, those looked at last behind the others.
    order: VecDeque<Path>,
    /// A header for each train that is being sent.
    headers: Vec<[u8; HEADER_BYTES]>,
    /// Calls that something came for, to be settled.
    touched: Vec<u32>,
    counters: TunnelCounters,
}

/// Whom a run of datagrams behind the same header is from.
#[derive(Clone, Copy)]
struct Run {
    header: [u8; HEADER_BYTES],
    path: Path,
    /// The call that the path belongs to, if it does.
    key: Option<u32>,
}

impl Tunnel {
    /// Binds the tunnel's port.
    ///
    /// # Errors
    /// When it is in use, or cannot be had.
    pub(crate) fn bind(settings: &TunnelSettings) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::bind_to(settings.listen)?,
            from: settings.from.iter().map(IpAddr::to_canonical).collect(),
            endpoints: Vec::new(),
            calls: HashMap::new(),
            order: VecDeque::new(),
            headers: Vec::new(),
            touched: Vec::new(),
            counters: TunnelCounters::default(),
        })
    }

    /// Receives one batch, and gives every datagram to its call. `None` when nothing waited; else the calls that
    /// something came for, to be given back to [`Tunnel::reuse`].
    ///
    /// # Errors
    /// When the socket is broken.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        batch: &mut Batch,
        egress: &mut Egress,
        calls: &mut HashMap<u32, Hosted>,
    ) -> io::Result<Option<Vec<u32>>> {
        let Self { socket, from, endpoints, calls: paths, order, touched, counters, .. } = self;
        let mut source: Option<(Path, Option<u16>)> = None;
        let mut run: Option<Run> = None;
        let came = socket.receive(batch, |tunnel_path, datagram| {
            let endpoint = match source {
                Some((path, endpoint)) if path == tunnel_path => endpoint,
                _ => {
                    run = None;
                    if !from.contains(&tunnel_path.remote.ip()) {
                        counters.dropped_stranger += 1;
                        return;
                    }
                    let endpoint = endpoint_of(endpoints, now, tunnel_path);
                    source = Some((tunnel_path, endpoint));
                    endpoint
                }
            };
            let Some(endpoint) = endpoint else {
                counters.dropped_full += 1;
                return;
            };
            let of_run = run.filter(|run| datagram.starts_with(&run.header));
            let Some((header, body)) = datagram.split_first_chunk_mut::<HEADER_BYTES>() else {
                counters.dropped_malformed += 1;
                return;
            };
            let mut current = match of_run {
                Some(run) => run,
                None => match read(header, endpoint) {
                    Ok((Kind::Datagram, path)) => {
                        Run { header: *header, path, key: paths.get(&path).copied() }
                    }
                    Ok((kind, path)) => {
                        run = None;
                        let key = paths.get(&path).copied();
                        if let Some((key, hosted)) = key.and_then(|key| Some((key, calls.get_mut(&key)?))) {
                            tell(now, hosted.call_mut(), kind, path, body);
                            touch(touched, key);
                        }
                        return;
                    }
                    Err(_) => {
                        counters.dropped_malformed += 1;
                        return;
                    }
                },
            };
            counters.datagrams += 1;
            let is_check = demux::classify(body) == Protocol::Stun;
            // A check says itself which call it is for: its participant may have gone to another.
            let key = if is_check { called(body) } else { current.key };
            let Some((key, hosted)) = key.and_then(|key| Some((key, calls.get_mut(&key)?))) else {
                *(if is_check { &mut counters.dropped_no_call } else { &mut counters.dropped_path }) += 1;
                run = Some(current);
                return;
            };
            let call = hosted.call_mut();
            call.handle_datagram(now, current.path, body, egress);
            touch(touched, key);
            if is_check && current.key != Some(key) && call.knows(current.path) {
                if learn(paths, order, current.path, key) {
                    current.key = Some(key);
                } else {
                    counters.dropped_full += 1;
                }
            }
            run = Some(current);
        })?;
        Ok((came > 0).then(|| std::mem::take(&mut self.touched)))
    }

    /// Takes back what [`Tunnel::receive`] gave, so that nothing is allocated the next time.
    pub(crate) fn reuse(&mut self, mut touched: Vec<u32>) {
        touched.clear();
        self.touched = touched;
    }

    /// Sends every train that leaves through an ingress.
    pub(crate) fn send(&mut self, egress: &Egress) {
        let Self { socket, endpoints, headers, .. } = self;
        headers.clear();
        let mut any = false;
        for train in egress.trains() {
            headers.push(match train.path.via {
                Via::Ingress { transport, flow, .. } => {
                    any = true;
                    let remote = train.path.remote;
                    Header { kind: Kind::Datagram, transport, remote, flow }.write()
                }
                Via::Socket | Via::Connection { .. } => [0; HEADER_BYTES],
            });
        }
        if !any {
            return;
        }
        socket.send_loads(|at| {
            let (train, header) = (egress.trains().get(at)?, headers.get(at)?);
            let Via::Ingress { endpoint, .. } = train.path.via else { return Some(NO_LOAD) };
            let Some(endpoint) = endpoints.get(usize::from(endpoint)) else { return Some(NO_LOAD) };
            Some(Load {
                to: endpoint.path.remote,
                local: endpoint.path.local,
                framing: Framing::Tunnel(header),
                bytes: egress.bytes(train),
                segment: train.segment,
            })
        });
    }

    /// Forgets paths that belong to nobody any more, a bounded number at a time: call it once a second.
    pub(crate) fn sweep(&mut self, belongs: impl Fn(u32, Path) -> bool) {
        for _ in 0..SWEEP_PATHS.min(self.order.len()) {
            let Some(path) = self.order.pop_front() else { return };
            if self.calls.get(&path).is_some_and(|key| belongs(*key, path)) {
                self.order.push_back(path);
            } else {
                self.calls.remove(&path);
            }
        }
    }

    pub(crate) fn counters(&self) -> TunnelCounters {
        self.counters
    }

    pub(crate) fn socket_counters(&self) -> &SocketCounters {
        &self.socket.counters
    }
}

impl AsFd for Tunnel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The place of a thread of an ingress in the list of those. `None` when there is none left.
fn endpoint_of(endpoints: &mut Vec<Endpoint>, now: Instant, path: Path) -> Option<u16> {
    let known = endpoints.iter().position(|endpoint| endpoint.path == path);
    let place = match known {
        Some(place) => place,
        None if endpoints.len() < ENDPOINTS_MAX => endpoints.len(),
        None => endpoints.iter().position(|end| now.saturating_duration_since(end.heard) > ENDPOINT_IDLE)?,
    };
    let endpoint = Endpoint { path, heard: now };
    match endpoints.get_mut(place) {
        Some(entry) => *entry = endpoint,
        None => endpoints.push(endpoint),
    }
    u16::try_from(place).ok()
}

/// What a header says of the client's path.
fn read(header: &[u8; HEADER_BYTES], endpoint: u16) -> Result<(Kind, Path), TunnelError> {
    let (Header { kind, transport, remote, flow }, _) = Header::parse(header)?;
    Ok((kind, Path::over(remote, Via::Ingress { endpoint, transport, flow })))
}

/// Tells a call what became of a connection, or of what was to go there.
fn tell(now: Instant, call: &mut Call, kind: Kind, path: Path, body: &[u8]) {
    match kind {
        Kind::Datagram => {}
        Kind::Closed => call.handle_closed(path),
        Kind::Dropped => call.handle_dropped(now, path, tunnel::dropped(body)),
    }
}

/// The call that a check claims to be for.
fn called(check: &[u8]) -> Option<u32> {
    ufrag::peek(stun::local_ufrag(check)?).ok().map(|route| route.call)
}

/// Remembers whose path it is. False when there is no room.
fn learn(paths: &mut HashMap<Path, u32>, order: &mut VecDeque<Path>, path: Path, key: u32) -> bool {
    let len = paths.len();
    match paths.entry(path) {
        Entry::Occupied(mut known) => {
            known.insert(key);
            true
        }
        Entry::Vacant(place) if len < PATHS_MAX => {
            place.insert(key);
            order.push_back(path);
            true
        }
        Entry::Vacant(_) => false,
    }
}

fn touch(touched: &mut Vec<u32>, key: u32) {
    if touched.last() != Some(&key) && !touched.contains(&key) {
        touched.push(key);
    }
}

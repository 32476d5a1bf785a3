//! Datagrams. Each client gets a socket towards the target, so that answers find back.
//!
//! Datagrams are received and sent in trains (GRO and GSO), which is what lets one slow core carry a gateway's
//! full load: decisions are made for every datagram, and neighbours that share their fate travel on as a train.

use std::cell::{Cell, RefCell};
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};

use super::pipe::{Counters, Fate, Pipe};
use super::profile::{Cut, Direction, Profile, Protocol, Settings};
use crate::rng::Rng;

/// Socket buffers in bytes, where the system allows as much. Smaller ones overflow while others have the core.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Trains that one system call receives. More costs 64 KiB of cache each.
const BATCH: usize = 8;

/// System calls before other tasks have their turn.
const BATCHES_MAX: usize = 4;

/// Room for one train.
const BUFFER_BYTES: usize = 65_536;

/// Largest train: what an IPv4 datagram can hold, and what every kernel's GSO takes.
const TRAIN_BYTES_MAX: usize = 65_507;
const TRAIN_DATAGRAMS_MAX: usize = 64;

/// Bytes on their way in one direction. More delay at a higher rate needs more; what is beyond is lost.
const FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Clients at the same time. The one that was silent for longest makes room.
const FLOWS_MAX: usize = 1024;

/// How long to wait when a socket takes no more.
const SEND_AGAIN: Duration = Duration::from_millis(1);

/// Both directions of the datagram service.
pub(super) struct Udp {
    /// The socket that clients send to.
    front: Socket,
    settings: watch::Receiver<Settings>,
    flows: RefCell<HashMap<SocketAddr, Rc<Flow>>>,
    to_target: Way,
    from_target: Way,
    scratch: RefCell<Vec<u8>>,
}

/// A socket that is set up, but not yet of any runtime.
pub(super) struct Front {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
}

/// A socket and what is known of its offloads.
struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
}

/// One client.
struct Flow {
    client: SocketAddr,
    /// The socket that speaks to the target for this client.
    back: Socket,
    used: Cell<Instant>,
    reader: Cell<Option<AbortHandle>>,
}

/// One direction.
struct Way {
    direction: Direction,
    line: RefCell<Line>,
    /// When the task that delivers looks again.
    wakes: Cell<Option<Instant>>,
    /// Tells it that something is due earlier.
    earlier: Notify,
}

/// What is on its way in one direction.
struct Line {
    pipe: Pipe,
    flight: BinaryHeap<Reverse<Train>>,
    flight_bytes: usize,
    departed: u64,
    /// The train that datagrams of one receive get on.
    boarding: Option<Train>,
}

/// Datagrams of `stride` bytes, of which the last may be shorter, that arrive together.
struct Train {
    due: Instant,
    /// Decides between trains that are due at the same time.
    number: u64,
    flow: Rc<Flow>,
    stride: usize,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

impl Udp {
    pub(super) fn new(
        front: Front,
        settings: watch::Receiver<Settings>,
        counters: [Arc<Counters>; 2],
        rng: &mut Rng,
    ) -> io::Result<Self> {
        let [to_target, from_target] = counters.map(|counters| Pipe::new(rng.fork(), counters));
        Ok(Self {
            front: front.register()?,
            settings,
            flows: RefCell::default(),
            to_target: Way::new(Direction::ToTarget, to_target),
            from_target: Way::new(Direction::FromTarget, from_target),
            scratch: RefCell::new(vec![0; BATCH * BUFFER_BYTES]),
        })
    }

    pub(super) fn start(self: Rc<Self>) {
        let udp = Rc::clone(&self);
        spawn_local(async move { udp.deliver(&udp.to_target).await });
        let udp = Rc::clone(&self);
        spawn_local(async move { udp.deliver(&udp.from_target).await });
        spawn_local(self.read_front());
    }

    /// Takes what clients send.
    async fn read_front(self: Rc<Self>) {
        while self.front.io.readable().await.is_ok() {
            self.drain(&self.front, &self.to_target, |meta| self.flow(meta.addr));
            yield_now().await;
        }
    }

    /// Takes what the target answers to one client.
    async fn read_back(self: Rc<Self>, flow: Rc<Flow>) {
        while flow.back.io.readable().await.is_ok() {
            self.drain(&flow.back, &self.from_target, |_| Some(Rc::clone(&flow)));
            yield_now().await;
        }
    }

    /// Receives what there is, up to a limit, and sends what is due at once.
    fn drain(&self, socket: &Socket, way: &Way, flow_of: impl Fn(&RecvMeta) -> Option<Rc<Flow>>) {
        for _ in 0..BATCHES_MAX {
            if !self.receive(socket, way, &flow_of) {
                break;
            }
        }
        let next = self.flush(way);
        if next.is_some_and(|next| way.wakes.get().is_none_or(|wakes| next < wakes)) {
            way.earlier.notify_one();
        }
    }

    /// Receives one batch; whether there may be more.
    fn receive(&self, socket: &Socket, way: &Way, flow_of: &impl Fn(&RecvMeta) -> Option<Rc<Flow>>) -> bool {
        let mut scratch = self.scratch.borrow_mut();
        let mut metas = [RecvMeta::default(); BATCH];
        let Ok(received) = socket.receive(&mut scratch, &mut metas) else { return false };
        let now = Instant::now();
        let profile = self.settings.borrow().profile(Protocol::Udp, way.direction);
        let mut line = way.line.borrow_mut();
        for (meta, buffer) in metas.iter().zip(scratch.chunks(BUFFER_BYTES)).take(received) {
            let Some(flow) = flow_of(meta) else { continue };
            let received = buffer.get(..meta.len).unwrap_or_default();
            if received.is_empty() {
                line.enter(&profile, now, &flow, meta.ecn, received);
            }
            for datagram in received.chunks(meta.stride.max(1)) {
                line.enter(&profile, now, &flow, meta.ecn, datagram);
            }
            line.depart();
        }
        received == BATCH
    }

    /// The flow of a client, made when it is new; `None` when the system gives no more sockets.
    fn flow(self: &Rc<Self>, client: SocketAddr) -> Option<Rc<Flow>> {
        let now = Instant::now();
        let mut flows = self.flows.borrow_mut();
        if let Some(flow) = flows.get(&client) {
            flow.used.set(now);
            return Some(Rc::clone(flow));
        }
        if flows.len() >= FLOWS_MAX {
            let idle = flows.values().min_by_key(|flow| flow.used.get()).map(|flow| flow.client);
            let evicted = idle.and_then(|client| flows.remove(&client));
            if let Some(reader) = evicted.and_then(|flow| flow.reader.take()) {
                reader.abort();
            }
        }
        let back = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(Front::new);
        let back = back.and_then(Front::register).ok()?;
        let flow = Rc::new(Flow { client, back, used: Cell::new(now), reader: Cell::default() });
        let reader = spawn_local(Rc::clone(self).read_back(Rc::clone(&flow)));
        flow.reader.set(Some(reader.abort_handle()));
        flows.insert(client, Rc::clone(&flow));
        Some(flow)
    }

    /// Sends each train of a direction when it is due.
    async fn deliver(&self, way: &Way) {
        loop {
            let next = self.flush(way);
            way.wakes.set(next);
            tokio::select! {
                () = way.earlier.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Sends all that is due now; when to look again.
    fn flush(&self, way: &Way) -> Option<Instant> {
        let mut line = way.line.borrow_mut();
        let now = Instant::now();
        while let Some(mut train) = line.arrive(now) {
            let (target, cut) = {
                let settings = self.settings.borrow();
                (settings.target, settings.profile(Protocol::Udp, way.direction).cut)
            };
            if cut != Cut::Open {
                line.pipe.counters().lost(train.datagrams());
                continue;
            }
            let (socket, to) = match way.direction {
                Direction::ToTarget => (&train.flow.back, target),
                Direction::FromTarget => (&self.front, train.flow.client),
            };
            let Some(sent) = socket.send(to, &train) else {
                line.hold(train);
                return Some(now + SEND_AGAIN);
            };
            line.pipe.counters().carried(datagrams_in(sent, train.stride), sent);
            if sent < train.bytes.len() {
                train.bytes.drain(..sent);
                line.hold(train);
            }
        }
        line.flight.peek().map(|Reverse(train)| train.due)
    }
}

impl Front {
    /// Sets the socket up for trains and bursts.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // The system may allow less; that costs losses under load, which a network may have.
        let _ = state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES);
        let _ = state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES);
        Ok(Self { socket, state })
    }

    fn register(self) -> io::Result<Socket> {
        Ok(Socket { io: UdpSocket::from_std(self.socket)?, state: self.state })
    }
}

impl Socket {
    fn receive(&self, scratch: &mut [u8], metas: &mut [RecvMeta; BATCH]) -> io::Result<usize> {
        let mut rest = scratch.chunks_mut(BUFFER_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), &mut buffers, metas))
    }

    /// Sends a train and returns how many bytes of it, or `None` when the socket takes nothing for now. What fails
    /// otherwise counts as sent and is lost, as on a network.
    fn send(&self, to: SocketAddr, train: &Train) -> Option<usize> {
        // Without GSO, or where it was found not to work, this goes datagram by datagram.
        let part_bytes = train.stride * self.state.max_gso_segments().max(1);
        let part = train.bytes.get(..part_bytes).unwrap_or(&train.bytes);
        let segment_size = (part.len() > train.stride).then_some(train.stride);
        let transmit =
            Transmit { destination: to, ecn: train.ecn, contents: part, segment_size, src_ip: None };
        let result = self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit));
        let blocked = result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        (!blocked).then_some(part.len())
    }
}

impl Way {
    fn new(direction: Direction, pipe: Pipe) -> Self {
        let line = Line { pipe, flight: BinaryHeap::new(), flight_bytes: 0, departed: 0, boarding: None };
        Self { direction, line: RefCell::new(line), wakes: Cell::default(), earlier: Notify::new() }
    }
}

impl Line {
    /// Decides about a datagram and sends it on its way.
    fn enter(
        &mut self,
        profile: &Profile,
        now: Instant,
        flow: &Rc<Flow>,
        ecn: Option<EcnCodepoint>,
        datagram: &[u8],
    ) {
        match self.pipe.datagram(profile, now, datagram.len()) {
            Fate::Lost => {}
            Fate::Arrives(due) => self.board(Train::new(due, flow, ecn), datagram),
            Fate::ArrivesTwice(due, again) => {
                self.board(Train::new(due, flow, ecn), datagram);
                self.depart();
                self.board(Train::new(again, flow, ecn), datagram);
                self.depart();
            }
        }
    }

    /// Puts a datagram on the train that is boarding, or else on `train`, which departs after it.
    fn board(&mut self, mut train: Train, datagram: &[u8]) {
        if let Some(boarding) = &mut self.boarding
            && boarding.due == train.due
            && boarding.takes(datagram.len())
        {
            boarding.bytes.extend_from_slice(datagram);
            return;
        }
        self.depart();
        train.stride = datagram.len();
        train.bytes.extend_from_slice(datagram);
        self.boarding = Some(train);
    }

    fn depart(&mut self) {
        let Some(mut train) = self.boarding.take() else { return };
        if self.flight_bytes + train.bytes.len() > FLIGHT_BYTES_MAX {
            self.pipe.counters().lost(train.datagrams());
            return;
        }
        train.number = self.departed;
        self.departed += 1;
        self.hold(train);
    }

    /// Takes the next train that is due, with those behind it that can be sent in one go.
    fn arrive(&mut self, now: Instant) -> Option<Train> {
        let mut train = self.next_if(|train| train.due <= now)?;
        while let Some(next) = self.next_if(|next| next.due <= now && train.couples(next)) {
            train.bytes.extend_from_slice(&next.bytes);
        }
        Some(train)
    }

    fn next_if(&mut self, wanted: impl FnOnce(&Train) -> bool) -> Option<Train> {
        if !wanted(&self.flight.peek()?.0) {
            return None;
        }
        let Reverse(train) = self.flight.pop()?;
        self.flight_bytes -= train.bytes.len();
        Some(train)
    }

    fn hold(&mut self, train: Train) {
        self.flight_bytes += train.bytes.len();
        self.flight.push(Reverse(train));
    }
}

impl Train {
    fn new(due: Instant, flow: &Rc<Flow>, ecn: Option<EcnCodepoint>) -> Self {
        Self { due, number: 0, flow: Rc::clone(flow), stride: 0, ecn, bytes: Vec::new() }
    }

    fn datagrams(&self) -> usize {
        datagrams_in(self.bytes.len(), self.stride)
    }

    /// Whether a datagram of `len` bytes can be the next one: all but the last must be of the same size.
    fn takes(&self, len: usize) -> bool {
        len > 0
            && len <= self.stride
            && self.bytes.len().is_multiple_of(self.stride)
            && self.bytes.len() + len <= TRAIN_BYTES_MAX
            && self.datagrams() < TRAIN_DATAGRAMS_MAX
    }

    /// Whether all of `next` can go behind this train.
    fn couples(&self, next: &Self) -> bool {
        let alike = next.stride == self.stride || next.datagrams() == 1;
        alike
            && self.takes(next.stride)
            && self.bytes.len() + next.bytes.len() <= TRAIN_BYTES_MAX
            && self.datagrams() + next.datagrams() <= TRAIN_DATAGRAMS_MAX
            && self.ecn == next.ecn
            && Rc::ptr_eq(&self.flow, &next.flow)
    }
}

/// How many datagrams of `stride` bytes, of which the last may be shorter, there are in `bytes`.
fn datagrams_in(bytes: usize, stride: usize) -> usize {
    bytes.div_ceil(stride.max(1)).max(1)
}

impl PartialEq for Train {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Train {}

impl PartialOrd for Train {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Train {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

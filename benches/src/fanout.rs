//! The limit of the relay's job: receive a burst, then for every receiver copy, write a header, seal and send.
//!
//! It is written straight against `aws-lc-rs` and system calls, and shares no code with the relay, so that it stays
//! where it is when the relay gets slower. What it leaves out (opening packets, deciding, keeping a history, counting)
//! is what the relay's own work costs beyond that limit.
//!
//! Measured is the CPU time of the one thread that does the job. Packets are fed to it and taken from the receivers'
//! sockets outside of what is measured; a second thread empties those while packets arrive, as clients would.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers for headers wrap; others are those of a checked plan"
)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) mod sys;

use sys::{Inbox, Outbox, Train};

/// RTP header with one header extension of four bytes: what the relay writes anew for every receiver.
pub(crate) const HEADER_BYTES: usize = 20;

/// Bytes of an AES-GCM tag.
pub(crate) const TAG_BYTES: usize = 16;

/// Bytes sealed before they are sent. More amortises better, until it no longer fits into the second-level cache.
const SEAL_BYTES: usize = 256 * 1024;

/// Buffer that each socket asks for, in either direction. Smaller drops packets of large bursts.
pub(crate) const SOCKET_BYTES: usize = 4 << 20;

/// How long a round waits for its packets to be taken. What is not there by then was dropped.
pub(crate) const DRAIN_MAX: Duration = Duration::from_millis(200);

/// Rounds before those that are measured: caches, branch predictors and sockets get warm.
pub(crate) const WARM_UP_ROUNDS: usize = 20;

/// Bytes of the smallest packet that makes sense here.
pub const PACKET_BYTES_MIN: usize = HEADER_BYTES + TAG_BYTES + 1;

/// Bytes of the largest packet: Ethernet's 1500 less IP and UDP headers.
pub const PACKET_BYTES_MAX: usize = 1452;

/// Packets of a burst: the kernel's limit for one train.
pub const BURST_MAX: usize = 32;

/// The traffic to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of each packet on the wire, header and tag included, from [`PACKET_BYTES_MIN`] to [`PACKET_BYTES_MAX`].
    pub packet_bytes: usize,
    /// Packets that arrive together, 1 to [`BURST_MAX`].
    pub burst: usize,
    /// Receivers of every packet.
    pub receivers: usize,
    /// Bursts of one run.
    pub rounds: usize,
    /// Send in trains (`UDP_SEGMENT`). Without, every packet is a message of its own.
    pub trains: bool,
    /// Receivers take trains whole (`UDP_GRO`), which spares the sender cutting them. Clients mostly do not.
    pub receivers_take_trains: bool,
    /// Receivers sleep until a packet comes, and the sender pays for waking them. Without, they look when a burst is
    /// over: what is left is the sender's own work.
    pub receivers_sleep: bool,
}

impl Plan {
    /// Video: bursts of 1200-byte packets to so many receivers.
    #[must_use]
    pub const fn video(burst: usize, receivers: usize) -> Self {
        Self {
            packet_bytes: 1200,
            burst,
            receivers,
            rounds: 250,
            trains: true,
            receivers_take_trains: false,
            receivers_sleep: false,
        }
    }

    /// Audio: one packet of 160 bytes at a time.
    #[must_use]
    pub const fn audio(receivers: usize) -> Self {
        Self { packet_bytes: 160, rounds: 1000, ..Self::video(1, receivers) }
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        let sound = (PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&self.packet_bytes)
            && (1..=BURST_MAX).contains(&self.burst)
            && self.receivers > 0
            && self.rounds > 0;
        let text = "packet_bytes, burst, receivers or rounds are out of range";
        if sound { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, text)) }
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// CPU time of the forwarding thread per packet it sent.
    pub ns_per_packet: f64,
    /// Packets sent.
    pub sent: u64,
    /// Of these, packets that receivers took.
    pub arrived: u64,
}

/// What all runs came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Median of [`Sample::ns_per_packet`].
    pub ns_per_packet: f64,
    /// The runs, in the order of running.
    pub samples: Vec<Sample>,
}

/// Runs the plan so many times (an odd number has a run in the middle).
///
/// # Errors
/// When the plan is out of range, or sockets cannot be had.
pub fn measure(plan: Plan, repetitions: usize) -> io::Result<Limit> {
    let mut fanout = Fanout::new(plan)?;
    let samples = (0..repetitions.max(1)).map(|_| fanout.run()).collect::<io::Result<Vec<_>>>()?;
    let ns_per_packet = median(samples.iter().map(|sample| sample.ns_per_packet).collect());
    Ok(Limit { ns_per_packet, samples })
}

/// The middle one, or zero of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The forwarder with its sockets, for runs in turn with something else.
#[derive(Debug)]
pub struct Fanout {
    plan: Plan,
    socket: Socket,
    feeder: Feeder,
    receivers: Vec<Receiver>,
    drain: Drain,
    inbox: Inbox,
    outbox: Outbox,
    arena: Vec<u8>,
    trains: Vec<Train>,
    sequence: u64,
}

/// Whom packets go to, and with which key.
#[derive(Debug)]
struct Receiver {
    address: SocketAddrV4,
    key: LessSafeKey,
}

impl Fanout {
    /// Binds all sockets on 127.0.0.1.
    ///
    /// # Errors
    /// When the plan is out of range, or sockets cannot be had.
    pub fn new(plan: Plan) -> io::Result<Self> {
        plan.check()?;
        let socket = bind()?;
        sys::take_trains(socket.as_fd())?;
        let sockets = (0..plan.receivers).map(|_| bind()).collect::<io::Result<Vec<_>>>()?;
        let mut receivers = Vec::with_capacity(sockets.len());
        for (at, receiver) in sockets.iter().enumerate() {
            if plan.receivers_take_trains {
                sys::take_trains(receiver.as_fd())?;
            }
            // Every receiver has a key of its own, as every context has to be fetched into the cache.
            let mut key = [0x5a; 16];
            key[..8].copy_from_slice(&(at as u64).to_be_bytes());
            let key = UnboundKey::new(&AES_128_GCM, &key).map_err(io::Error::other)?;
            receivers.push(Receiver { address: address(receiver)?, key: LessSafeKey::new(key) });
        }
        let feeder = Feeder::new(plan, address(&socket)?)?;
        let mut taken = Inbox::default();
        Ok(Self {
            plan,
            socket,
            feeder,
            receivers,
            drain: Drain::start(sockets, plan, move |socket| {
                taken.receive(socket.as_fd(), plan.packet_bytes).unwrap_or(0)
            })?,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            arena: vec![0; SEAL_BYTES + PACKET_BYTES_MAX],
            trains: Vec::with_capacity(SEAL_BYTES / plan.packet_bytes + 1),
            sequence: 0,
        })
    }

    /// One run of the plan.
    ///
    /// # Errors
    /// When a socket is broken.
    pub fn run(&mut self) -> io::Result<Sample> {
        for _ in 0..WARM_UP_ROUNDS {
            self.round()?;
        }
        let per_round = (self.plan.burst * self.plan.receivers) as u64;
        let arrived_before = self.drain.arrived();
        let mut cpu = Duration::ZERO;
        for _ in 0..self.plan.rounds {
            cpu += self.round()?;
        }
        let sent = per_round * self.plan.rounds as u64;
        let arrived = self.drain.arrived() - arrived_before;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let ns_per_packet = cpu.as_nanos() as f64 / sent as f64;
        Ok(Sample { ns_per_packet, sent, arrived })
    }

    /// One burst. The CPU time it took to forward.
    fn round(&mut self) -> io::Result<Duration> {
        self.feeder.feed()?;
        let expected = self.drain.arrived() + (self.plan.burst * self.plan.receivers) as u64;
        let began = thread_cpu();
        let mut waiting = self.plan.burst;
        while waiting > 0 {
            // What was sent over loopback is there when the sending call is back.
            let came = self.inbox.receive(self.socket.as_fd(), self.plan.packet_bytes)?;
            self.forward(came)?;
            waiting = waiting.saturating_sub(came);
        }
        let cpu = thread_cpu().saturating_sub(began);
        self.drain.wait_for(expected);
        Ok(cpu)
    }

    fn forward(&mut self, came: usize) -> io::Result<()> {
        let size = self.plan.packet_bytes;
        let payload_bytes = size - HEADER_BYTES - TAG_BYTES;
        let mut used = 0;
        for at in 0..self.receivers.len() {
            if used + came * size > SEAL_BYTES {
                self.flush()?;
                used = 0;
            }
            let receiver = &self.receivers[at];
            let start = used;
            for (number, datagram) in self.inbox.datagrams(size).enumerate() {
                let sequence = self.sequence + number as u64;
                let (header, rest) = self.arena[used..used + size].split_at_mut(HEADER_BYTES);
                let (payload, tag) = rest.split_at_mut(payload_bytes);
                write_header(header, sequence, at);
                payload.copy_from_slice(&datagram[HEADER_BYTES..HEADER_BYTES + payload_bytes]);
                let sealed = receiver.key.seal_in_place_scatter(
                    nonce(sequence, at),
                    Aad::from(&*header),
                    payload,
                    &[],
                    tag,
                );
                sealed.map_err(io::Error::other)?;
                used += size;
            }
            let step = if self.plan.trains { used - start } else { size };
            self.trains.extend((start..used).step_by(step.max(1)).map(|start| Train {
                to: receiver.address,
                start,
                len: step,
            }));
        }
        self.sequence += came as u64;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.outbox.send(self.socket.as_fd(), &self.arena, &self.trains, self.plan.packet_bytes)?;
        self.trains.clear();
        Ok(())
    }
}

/// A header as the relay writes it: version and extension bit, sequence number, timestamp, SSRC, extension.
pub(crate) fn write_header(header: &mut [u8], sequence: u64, receiver: usize) {
    let [.., high, low] = sequence.to_be_bytes();
    let timestamp = (sequence as u32).wrapping_mul(3000).to_be_bytes();
    let ssrc = (receiver as u32).to_be_bytes();
    header[..4].copy_from_slice(&[0x90, 96, high, low]);
    header[4..8].copy_from_slice(&timestamp);
    header[8..12].copy_from_slice(&ssrc);
    header[12..].copy_from_slice(&[0xbe, 0xde, 0, 1, 0x10, b'0', 0, 0]);
}

pub(crate) fn nonce(sequence: u64, receiver: usize) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[2..4].copy_from_slice(&(receiver as u16).to_be_bytes());
    bytes[4..].copy_from_slice(&sequence.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

pub(crate) fn bind() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket)
}

pub(crate) fn address(socket: &Socket) -> io::Result<SocketAddrV4> {
    let address = socket.local_addr()?;
    address.as_socket_ipv4().ok_or_else(|| io::Error::other("a socket without an IPv4 address"))
}

pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Who sends to the forwarder.
#[derive(Debug)]
pub(crate) struct Feeder {
    socket: Socket,
    burst: Vec<u8>,
    trains: Vec<Train>,
    outbox: Outbox,
    packet_bytes: usize,
}

impl Feeder {
    pub(crate) fn new(plan: Plan, to: SocketAddrV4) -> io::Result<Self> {
        let burst = (0..plan.packet_bytes * plan.burst).map(|at| (at % 251) as u8).collect::<Vec<_>>();
        let trains = vec![Train { to, start: 0, len: burst.len() }];
        Ok(Self {
            socket: bind()?,
            burst,
            trains,
            outbox: Outbox::default(),
            packet_bytes: plan.packet_bytes,
        })
    }

    pub(crate) fn feed(&mut self) -> io::Result<()> {
        self.outbox.send(self.socket.as_fd(), &self.burst, &self.trains, self.packet_bytes)
    }
}

/// The thread that empties the receivers' sockets.
#[derive(Debug)]
pub(crate) struct Drain {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// How often it looks whether it is to end, and whether there is something to take.
    const TURN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

    /// `take` empties a socket, and says how much that was: packets, or bytes of a stream.
    pub(crate) fn start(
        sockets: Vec<Socket>,
        plan: Plan,
        mut take: impl FnMut(&Socket) -> usize + Send + 'static,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if plan.receivers_sleep {
            for (at, socket) in sockets.iter().enumerate() {
                epoll::add(&epoll, socket, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)?;
            }
        }
        let (arrived, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (Arc::clone(&arrived), Arc::clone(&stop));
        let empty = move || {
            let mut take = |socket: &Socket| {
                count.fetch_add(take(socket) as u64, Ordering::Release);
            };
            let mut ready: Vec<epoll::Event> = Vec::with_capacity(sockets.len());
            while !stopped.load(Ordering::Relaxed) {
                if plan.receivers_sleep {
                    ready.clear();
                    let room = rustix::buffer::spare_capacity(&mut ready);
                    if epoll::wait(&epoll, room, Some(&Self::TURN)).is_ok() {
                        let sockets = ready.iter().filter_map(|event| sockets.get(event.data.u64() as usize));
                        sockets.for_each(&mut take);
                    }
                } else {
                    std::thread::park_timeout(Duration::from_nanos(Self::TURN.tv_nsec.unsigned_abs()));
                    sockets.iter().for_each(&mut take);
                }
            }
        };
        let thread = std::thread::Builder::new().name("drain".to_owned()).spawn(empty)?;
        Ok(Self { arrived, stop, thread: Some(thread) })
    }

    /// What was taken so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    /// Waits until so much arrived in all, or no more is to be expected.
    pub(crate) fn wait_for(&self, expected: u64) {
        self.wake();
        let until = Instant::now() + DRAIN_MAX;
        while self.arrived() < expected && Instant::now() < until {
            std::thread::yield_now();
        }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It only counts; whoever measures sees what did not arrive.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Plan = Plan { rounds: 3, ..Plan::video(4, 5) };

    #[test]
    fn every_packet_arrives_at_every_receiver() {
        let plans = [
            SMALL,
            Plan { trains: false, ..SMALL },
            Plan { receivers_take_trains: true, ..SMALL },
            Plan { receivers_sleep: true, ..SMALL },
            Plan { packet_bytes: 160, burst: 1, ..SMALL },
        ];
        for plan in plans {
            let limit = measure(plan, 2).expect("sockets on loopback");
            for sample in limit.samples {
                let expected = (plan.burst * plan.receivers * plan.rounds) as u64;
                assert_eq!((sample.sent, sample.arrived), (expected, expected), "{plan:?}");
            }
            assert!(limit.ns_per_packet > 0.0);
        }
    }

    #[test]
    fn what_is_sent_is_more_than_fits_into_one_piece() {
        let plan = Plan { receivers: 60, rounds: 1, ..Plan::video(8, 60) };
        assert!(plan.burst * plan.receivers * plan.packet_bytes > SEAL_BYTES);
        let limit = measure(plan, 1).expect("sockets on loopback");
        assert_eq!(limit.samples[0].arrived, limit.samples[0].sent);
    }

    #[test]
    fn plans_out_of_range_are_refused() {
        for plan in [
            Plan { burst: 0, ..SMALL },
            Plan { burst: BURST_MAX + 1, ..SMALL },
            Plan { packet_bytes: 10, ..SMALL },
        ] {
            assert_eq!(measure(plan, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
    }
}

//! The limit of the relay's job where receivers are on TCP or TLS: receive a burst, then for every receiver copy, write a
//! header, seal, and write all of it to the connection at once, as frames of RFC 4571; for TLS after sealing once more.
//!
//! As [`crate::fanout`], it shares no code with the relay, and leaves out what the relay does besides: who is slow, what
//! is dropped then, what connections have to say.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use socket2::{Domain, Protocol, Socket, Type};

use crate::fanout::sys::{self, Inbox};
use crate::fanout::{
    BURST_MAX, Drain, Feeder, HEADER_BYTES, PACKET_BYTES_MAX, Plan, SOCKET_BYTES, Sample, TAG_BYTES,
    WARM_UP_ROUNDS, address, bind, nonce, thread_cpu, write_header,
};

/// Bytes in front of every frame.
const LENGTH_BYTES: usize = 2;

/// Bytes in front of a TLS record (RFC 8446, section 5.1), and the content type behind what is in it.
const RECORD_BYTES: usize = 5;
const TYPE_BYTES: usize = 1;
const APPLICATION_DATA: u8 = 23;

/// Most that one TLS record holds.
const RECORD_CONTENT_MAX: usize = 16_384;

/// Bytes that the receivers' thread reads at once.
const READ_BYTES: usize = 256 * 1024;

/// The forwarder with its connections. Of a [`Plan`] it takes everything but what says something of trains.
#[derive(Debug)]
pub struct Streams {
    plan: Plan,
    tls: bool,
    socket: Socket,
    feeder: Feeder,
    receivers: Vec<Receiver>,
    drain: Drain,
    inbox: Inbox,
    arena: Vec<u8>,
    sequence: u64,
}

/// Whom packets go to, and with which keys.
#[derive(Debug)]
struct Receiver {
    connection: Socket,
    key: LessSafeKey,
    record_key: LessSafeKey,
}

impl Streams {
    /// Opens all connections on 127.0.0.1.
    ///
    /// # Errors
    /// When the plan is out of range, or sockets cannot be had.
    pub fn new(plan: Plan, tls: bool) -> io::Result<Self> {
        plan.check()?;
        let socket = bind()?;
        sys::take_trains(socket.as_fd())?;
        let listener = tcp()?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(1)?;
        let to = listener.local_addr()?;
        let (mut receivers, mut sockets) = (Vec::new(), Vec::new());
        for at in 0..plan.receivers as u64 {
            let client = tcp()?;
            client.connect(&to)?;
            let (connection, _) = listener.accept()?;
            for socket in [&client, &connection] {
                socket.set_tcp_nodelay(true)?;
                socket.set_nonblocking(true)?;
            }
            let mut key = [0x5a; 32];
            key[..8].copy_from_slice(&at.to_be_bytes());
            let whole = UnboundKey::new(&AES_256_GCM, &key).map_err(io::Error::other)?;
            let half = UnboundKey::new(&AES_128_GCM, &key[..16]).map_err(io::Error::other)?;
            let (key, record_key) = (LessSafeKey::new(half), LessSafeKey::new(whole));
            receivers.push(Receiver { connection, key, record_key });
            sockets.push(client);
        }
        let mut buffer = vec![0; READ_BYTES];
        let take = move |mut socket: &Socket| socket.read(&mut buffer).unwrap_or(0);
        Ok(Self {
            plan,
            tls,
            feeder: Feeder::new(plan, address(&socket)?)?,
            socket,
            receivers,
            drain: Drain::start(sockets, plan, take)?,
            inbox: Inbox::default(),
            arena: vec![0; BURST_MAX * (PACKET_BYTES_MAX + 64) + READ_BYTES],
            sequence: 0,
        })
    }

    /// One run of the plan.
    ///
    /// # Errors
    /// When a connection is broken.
    pub fn run(&mut self) -> io::Result<Sample> {
        for _ in 0..WARM_UP_ROUNDS {
            self.round()?;
        }
        let (mut cpu, mut bytes) = (Duration::ZERO, 0);
        let arrived_before = self.drain.arrived();
        for _ in 0..self.plan.rounds {
            let (time, wrote) = self.round()?;
            cpu += time;
            bytes += wrote;
        }
        let sent = (self.plan.burst * self.plan.receivers * self.plan.rounds) as u64;
        let arrived = self.drain.arrived() - arrived_before;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let ns_per_packet = cpu.as_nanos() as f64 / sent as f64;
        // Streams lose nothing: what is not there yet is counted as the packets it would be.
        let arrived = sent * arrived / bytes.max(1);
        Ok(Sample { ns_per_packet, sent, arrived })
    }

    /// One burst: the CPU time it took to forward, and the bytes written.
    fn round(&mut self) -> io::Result<(Duration, u64)> {
        self.feeder.feed()?;
        let arrived = self.drain.arrived();
        let began = thread_cpu();
        let (mut waiting, mut wrote) = (self.plan.burst, 0);
        while waiting > 0 {
            let came = self.inbox.receive(self.socket.as_fd(), self.plan.packet_bytes)?;
            wrote += self.forward(came)?;
            waiting = waiting.saturating_sub(came);
        }
        let cpu = thread_cpu().saturating_sub(began);
        self.drain.wait_for(arrived + wrote);
        Ok((cpu, wrote))
    }

    fn forward(&mut self, came: usize) -> io::Result<u64> {
        if came == 0 {
            return Ok(0);
        }
        let frame_bytes = LENGTH_BYTES + self.plan.packet_bytes;
        let mut wrote = 0;
        for (at, receiver) in self.receivers.iter().enumerate() {
            let packets = self.inbox.datagrams(self.plan.packet_bytes).zip(self.sequence..);
            let used = if self.tls {
                // Frames do not fill records to the last byte, which costs a record in thirty at most.
                let per_record = (RECORD_CONTENT_MAX / frame_bytes).max(1);
                let (mut used, mut packets) = (0, packets.peekable());
                while packets.peek().is_some() {
                    let start = used + RECORD_BYTES;
                    let sequence = packets.peek().map_or(0, |(_, sequence)| *sequence);
                    let mut end = start;
                    for (datagram, sequence) in packets.by_ref().take(per_record) {
                        end += seal(&mut self.arena[end..], datagram, sequence, at, &receiver.key)?;
                    }
                    used = record(&mut self.arena, used..end, nonce(sequence, at), &receiver.record_key)?;
                }
                used
            } else {
                let mut used = 0;
                for (datagram, sequence) in packets {
                    used += seal(&mut self.arena[used..], datagram, sequence, at, &receiver.key)?;
                }
                used
            };
            let bytes = &self.arena[..used];
            wrote += if self.tls {
                write_all(&receiver.connection, &mut [IoSlice::new(bytes)])?
            } else {
                let mut slices = [IoSlice::new(&[]); BURST_MAX];
                for (slice, frame) in slices.iter_mut().zip(bytes.chunks(frame_bytes)) {
                    *slice = IoSlice::new(frame);
                }
                write_all(&receiver.connection, &mut slices[..came.min(BURST_MAX)])?
            };
        }
        self.sequence += came as u64;
        Ok(wrote)
    }
}

/// Makes a TLS record of what lies in the range behind room for its header. Where it ends.
fn record(arena: &mut [u8], whole: Range<usize>, nonce: Nonce, key: &LessSafeKey) -> io::Result<usize> {
    let content_bytes = whole.len() - RECORD_BYTES + TYPE_BYTES;
    let len = u16::try_from(content_bytes + TAG_BYTES).map_err(io::Error::other)?;
    let [high, low] = len.to_be_bytes();
    arena[whole.end] = APPLICATION_DATA;
    let (head, rest) = arena[whole.start..].split_at_mut(RECORD_BYTES);
    head.copy_from_slice(&[APPLICATION_DATA, 3, 3, high, low]);
    let (content, rest) = rest.split_at_mut(content_bytes);
    let tag = &mut rest[..TAG_BYTES];
    let sealed = key.seal_in_place_scatter(nonce, Aad::from(&*head), content, &[], tag);
    sealed.map_err(io::Error::other)?;
    Ok(whole.end + TYPE_BYTES + TAG_BYTES)
}

/// Writes a frame with the sealed packet to the front of `out`: its bytes.
fn seal(
    out: &mut [u8],
    datagram: &[u8],
    sequence: u64,
    receiver: usize,
    key: &LessSafeKey,
) -> io::Result<usize> {
    let len = u16::try_from(datagram.len()).map_err(io::Error::other)?;
    let payload_bytes = datagram.len() - HEADER_BYTES - TAG_BYTES;
    let (length, packet) = out[..LENGTH_BYTES + datagram.len()].split_at_mut(LENGTH_BYTES);
    length.copy_from_slice(&len.to_be_bytes());
    let (header, rest) = packet.split_at_mut(HEADER_BYTES);
    let (payload, tag) = rest.split_at_mut(payload_bytes);
    write_header(header, sequence, receiver);
    payload.copy_from_slice(&datagram[HEADER_BYTES..HEADER_BYTES + payload_bytes]);
    let sealed = key.seal_in_place_scatter(nonce(sequence, receiver), Aad::from(&*header), payload, &[], tag);
    sealed.map_err(io::Error::other)?;
    Ok(LENGTH_BYTES + datagram.len())
}

/// Writes all of it: with one call, unless the receiver is behind.
fn write_all(mut connection: &Socket, mut slices: &mut [IoSlice<'_>]) -> io::Result<u64> {
    let mut wrote = 0;
    while !slices.is_empty() {
        match connection.write_vectored(slices) {
            Ok(bytes) => {
                wrote += bytes as u64;
                IoSlice::advance_slices(&mut slices, bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Ok(wrote)
}

fn tcp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_arrives_at_every_receiver() {
        let small = Plan { rounds: 3, ..Plan::video(4, 5) };
        let plans = [
            small,
            Plan { receivers_sleep: true, ..small },
            Plan { burst: 20, ..small },
            Plan { packet_bytes: 160, burst: 1, ..small },
        ];
        for (plan, tls) in plans.into_iter().flat_map(|plan| [(plan, false), (plan, true)]) {
            let sample = Streams::new(plan, tls).expect("connections").run().expect("a run");
            let expected = (plan.burst * plan.receivers * plan.rounds) as u64;
            assert_eq!((sample.sent, sample.arrived), (expected, expected), "{plan:?}, TLS: {tls}");
            assert!(sample.ns_per_packet > 0.0);
        }
    }
}

//! Packets that an ingress must not believe, each from an address of its own, and the thread that sends them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use trunkline_benches::spray::{BATCH, Spray};
use trunkline_relay_proto::stun;
use trunkline_relay_proto::ufrag::{Key, Route};
use trunkline_testkit::rng::Rng;

use crate::error::LoadError;

/// Different packets of each kind: more than an ingress could learn by heart.
const OF_EACH_KIND: usize = 512;

/// Kinds of packets.
pub(super) const KINDS: usize = 6;

/// How long the sender sleeps at most when it is ahead of its rate.
const NAP: Duration = Duration::from_millis(1);

/// Sends them. Dropping it ends its thread.
pub(super) struct Forger {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// So many packets; how many were sent.
struct Order {
    count: u64,
    done: oneshot::Sender<std::io::Result<u64>>,
}

impl Forger {
    /// Makes the packets, and starts the thread.
    ///
    /// # Errors
    /// When the system gives no sockets or thread, or `to` is no IPv4 address.
    pub(super) fn new(to: SocketAddr, seed: u64, per_s: u64) -> Result<Self, LoadError> {
        let SocketAddr::V4(to) = to else {
            return Err(LoadError::Usage("expected an ingress on an IPv4 address".to_owned()));
        };
        let mut rng = Rng::new(seed);
        let packets = packets(&mut rng);
        let mut spray = Spray::new().map_err(LoadError::io("binding sockets to forge from"))?;
        let (orders, taken) = mpsc::channel::<Order>();
        let work = move || {
            while let Ok(order) = taken.recv() {
                let sent = send(&mut spray, to, &packets, &mut rng, per_s, order.count);
                // Whoever asked may have stopped waiting.
                let _ = order.done.send(sent);
            }
        };
        let thread = thread::Builder::new().name("forger".into()).spawn(work);
        let thread = thread.map_err(LoadError::io("starting a thread"))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Sends so many: how many were sent.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) async fn send(&mut self, count: u64) -> Result<u64, LoadError> {
        let (done, answer) = oneshot::channel();
        if let Some(orders) = &self.orders {
            let _ = orders.send(Order { count, done });
        }
        let sent = answer.await.map_err(|_| LoadError::Usage("the forger's thread has ended".to_owned()))?;
        sent.map_err(LoadError::io("sending forged packets"))
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a thread that paces itself")]
fn send(
    spray: &mut Spray,
    to: SocketAddrV4,
    packets: &[Vec<u8>],
    rng: &mut Rng,
    per_s: u64,
    count: u64,
) -> std::io::Result<u64> {
    let (began, mut sent) = (Instant::now(), 0);
    while sent < count {
        let due = began.elapsed().as_micros() * u128::from(per_s) / 1_000_000;
        if u128::from(sent) > due {
            thread::sleep(NAP);
            continue;
        }
        let batch = (count - sent).min(BATCH as u64);
        let datagrams: [_; BATCH] = std::array::from_fn(|_| {
            (source(rng), packets.get(rng.index(packets.len())).map_or(&[][..], Vec::as_slice))
        });
        let datagrams = datagrams.get(..usize::try_from(batch).unwrap_or(BATCH)).unwrap_or_default();
        spray.send(to, datagrams)?;
        sent += batch;
    }
    Ok(sent)
}

/// Any address of 127.0.0.0/8 but those that people have.
fn source(rng: &mut Rng) -> Ipv4Addr {
    let [_, _, _, _, _, b, c, d] = rng.next_u64().to_be_bytes();
    Ipv4Addr::new(127, b.max(1), c, d.clamp(1, 254))
}

/// Packets of all kinds, in equal shares.
fn packets(rng: &mut Rng) -> Vec<Vec<u8>> {
    let (one, other) = (key(rng), key(rng));
    let mut all = Vec::with_capacity(OF_EACH_KIND * KINDS);
    for _ in 0..OF_EACH_KIND {
        let forever = Route { expires_min: u32::MAX, ..route(rng) };
        all.push(random(rng));
        all.push(without_ufrag(rng));
        let at = rng.index(8);
        all.push(check(rng, &garbled(at, &one.write(&forever))));
        all.push(check(rng, &other.write(&forever)));
        all.push(check(rng, &one.write(&Route { expires_min: 1, ..forever })));
        all.push(media(rng));
    }
    all
}

/// Nobody's key: what is made with it is forged to everybody else.
fn key(rng: &mut Rng) -> Key {
    Key::new(std::array::from_fn(|_| byte(rng)))
}

fn byte(rng: &mut Rng) -> u8 {
    let [first, ..] = rng.next_u64().to_be_bytes();
    first
}

fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| byte(rng)).collect()
}

/// A place that exists: node 1, its first worker.
fn route(rng: &mut Rng) -> Route {
    let [a, b, ..] = rng.next_u64().to_be_bytes().map(u32::from);
    Route { node: 1, worker: 0, call: a, participant: b, expires_min: 0 }
}

/// Anything.
fn random(rng: &mut Rng) -> Vec<u8> {
    let len = 1 + rng.index(1200);
    bytes(rng, len)
}

/// STUN whose header is right, and that says nothing.
fn without_ufrag(rng: &mut Rng) -> Vec<u8> {
    let transaction = bytes(rng, 12);
    [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &transaction].concat()
}

/// A check as a browser makes it, with this ufrag.
fn check(rng: &mut Rng, ufrag: &str) -> Vec<u8> {
    let transaction: [u8; 12] = std::array::from_fn(|_| byte(rng));
    let mut out = vec![0; 256];
    let username = format!("{ufrag}:abcdefgh");
    let len = stun::write_request(
        &mut out,
        &username,
        "a password that nobody has",
        1 << 24,
        rng.next_u64(),
        true,
        transaction,
    );
    out.truncate(len.unwrap_or(0));
    out
}

/// The same ufrag with another tag: one of its last characters is another one.
fn garbled(from_end: usize, ufrag: &str) -> String {
    let at = ufrag.len().saturating_sub(1 + from_end);
    let other = |character| if character == 'A' { 'B' } else { 'A' };
    ufrag.chars().enumerate().map(|(n, c)| if n == at { other(c) } else { c }).collect()
}

/// What looks like media of somebody the ingress has not heard of.
fn media(rng: &mut Rng) -> Vec<u8> {
    let len = 100 + rng.index(1000);
    let mut packet = bytes(rng, len);
    packet.splice(..2, [0x80, 96]);
    packet
}

#[cfg(test)]
mod tests {
    use trunkline_relay_proto::demux::{Protocol, classify};

    use super::*;

    #[test]
    fn no_packet_would_be_believed() {
        let secret = Key::new([9; 32]);
        let packets = packets(&mut Rng::new(1));
        assert_eq!(packets.len(), OF_EACH_KIND * KINDS);
        for packet in &packets {
            let text = String::from_utf8_lossy(packet);
            let ufrag = text.find(":abcdefgh").and_then(|end| text.get(end.checked_sub(32)?..end));
            assert!(ufrag.is_none_or(|ufrag| secret.read(ufrag, 1000).is_err()));
        }
        let kind = |protocol| packets.iter().filter(|packet| classify(packet) == protocol).count();
        assert!(kind(Protocol::Stun) >= 4 * OF_EACH_KIND);
        assert!(kind(Protocol::Rtp) >= OF_EACH_KIND);
    }

    #[test]
    fn what_is_forged_follows_from_the_seed() {
        assert_eq!(packets(&mut Rng::new(7)), packets(&mut Rng::new(7)));
        assert_ne!(packets(&mut Rng::new(7)), packets(&mut Rng::new(8)));
    }
}

//! A peer that is let in and then sends nonsense: it can hurt itself, and nobody else.

use std::time::Duration;

use bytes::Bytes;
use trunkline_gateway_proto::admin::{AdminOp, LinkState};
use trunkline_gateway_proto::frame::Channel;
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::store::Lane;
use trunkline_gateway_proto::wire::{self, frame::Body, item};
use trunkline_testkit::rng::Rng;

use crate::scene::{ALPHA, BETA, MAIN, SECOND, letter};
use crate::world::World;

const MALLORY: usize = 2;

/// A number that is off by a little, or by a lot, or was right.
fn number(rng: &mut Rng, right: u64) -> u64 {
    match rng.index(6) {
        0 => right.wrapping_add(1),
        1 => right.wrapping_sub(1),
        2 => rng.range(0..40),
        3 => rng.next_u64(),
        4 => u64::MAX,
        _ => right,
    }
}

fn small(rng: &mut Rng, right: u32) -> u32 {
    u32::try_from(number(rng, right.into()) & 0xffff_ffff).unwrap()
}

fn marks(rng: &mut Rng, marks: &mut Vec<wire::LaneMark>) {
    match rng.index(4) {
        0 => marks.clear(),
        1 => marks.truncate(rng.index(16)),
        2 => marks.extend(marks.clone()),
        _ => {}
    }
    for mark in marks {
        if rng.chance(0.3) {
            (mark.lane, mark.seq) = (small(rng, mark.lane), number(rng, mark.seq));
        }
    }
}

fn blob_of_bytes(rng: &mut Rng, bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    match rng.index(4) {
        0 => bytes.clear(),
        1 => bytes.truncate(rng.index(bytes.len() + 1)),
        2 => bytes = rng.bytes(rng.clone().index(300)),
        _ => {
            if let Some(at) = (!bytes.is_empty()).then(|| rng.index(bytes.len())) {
                bytes[at] ^= 1 << rng.index(8);
            }
        }
    }
    bytes.into()
}

/// Makes something of a frame that its sender never meant.
fn garble(rng: &mut Rng, body: &mut Body) {
    match body {
        Body::Hello(hello) => match rng.index(6) {
            0 => hello.version_min = small(rng, 1),
            1 => hello.domain = "alpha.test".into(),
            2 => hello.store_epoch = blob_of_bytes(rng, &hello.store_epoch),
            3 => hello.local_domains.push(wire::LocalDomain::default()),
            4 => hello.limits = Some(wire::Limits { payload_bytes_max: number(rng, 1000) }),
            _ => hello.key_proof = blob_of_bytes(rng, &hello.key_proof),
        },
        Body::Resume(resume) => marks(rng, &mut resume.marks),
        Body::Ack(ack) => marks(rng, &mut ack.marks),
        Body::Settled(settled) => marks(rng, &mut settled.marks),
        Body::Nack(nack) => {
            (nack.lane, nack.seq) = (small(rng, nack.lane), number(rng, nack.seq));
            nack.reason = i32::try_from(rng.index(20)).unwrap();
            nack.to.push("nobody".into());
        }
        Body::Credit(credit) => {
            (credit.bytes, credit.messages) = (number(rng, credit.bytes), number(rng, credit.messages));
        }
        Body::Keys(keys) => {
            keys.next_certificate = blob_of_bytes(rng, &keys.next_certificate);
            keys.next_key_id = ["", "next1", "Not An Id"][rng.index(3)].into();
        }
        Body::KeysAck(ack) => ack.pin = blob_of_bytes(rng, &ack.pin),
        Body::Data(data) => {
            data.first_seq = number(rng, data.first_seq);
            for item in &mut data.items {
                item.ttl_ms = number(rng, item.ttl_ms);
                item.body = match item.body.take() {
                    Some(item::Body::Envelope(bytes)) => {
                        Some(item::Body::Envelope(blob_of_bytes(rng, &bytes)))
                    }
                    Some(item::Body::Skip(skip)) => {
                        Some(item::Body::Skip(wire::Skip { count: number(rng, skip.count) }))
                    }
                    other => other.filter(|_| rng.chance(0.9)),
                };
            }
        }
        Body::Blob(blob) => {
            blob.chunk = blob_of_bytes(rng, &blob.chunk);
            blob.last ^= rng.chance(0.3);
        }
        Body::Goaway(goaway) => {
            goaway.retry_after_ms = number(rng, 0);
            goaway.detail = "\u{1b}[2J".repeat(200);
        }
        Body::Ping(_) | Body::Pong(_) => {}
    }
}

/// A frame out of nothing.
fn invent(rng: &mut Rng) -> (Channel, Body) {
    let lane = u8::try_from(rng.index(16)).unwrap();
    let items = (0..rng.index(5)).map(|_| wire::Item {
        ttl_ms: number(rng, 1000),
        body: match rng.index(3) {
            0 => Some(item::Body::Skip(wire::Skip { count: number(rng, 3) })),
            1 => Some(item::Body::Blob(wire::BlobRef { blob_id: rng.range(0..5), bytes: number(rng, 10) })),
            _ => Some(item::Body::Envelope(rng.bytes(rng.clone().index(50)).into())),
        },
    });
    let items: Vec<_> = items.collect();
    let mark = wire::LaneMark { lane: small(rng, 3), seq: number(rng, 5) };
    match rng.index(7) {
        0 => (Channel::Lane(Lane(lane)), Body::Data(wire::Data { first_seq: number(rng, 1), items })),
        1 => {
            let blob_id = rng.range(0..5);
            let chunk = rng.bytes(rng.clone().index(5000)).into();
            (Channel::Blob(blob_id), Body::Blob(wire::Blob { blob_id, chunk, last: rng.chance(0.3) }))
        }
        2 => (Channel::Control, Body::Ack(wire::Ack { marks: vec![mark] })),
        3 => (Channel::Control, Body::Settled(wire::Settled { marks: vec![mark] })),
        4 => (
            Channel::Control,
            Body::Resume(wire::Resume { marks: vec![mark; 16], ..wire::Resume::default() }),
        ),
        5 => {
            let nack = wire::Nack { lane: mark.lane, seq: mark.seq, ..wire::Nack::default() };
            (Channel::Control, Body::Nack(nack))
        }
        _ => (Channel::Control, Body::Hello(wire::Hello::default())),
    }
}

fn run(seed: u64) {
    let mut world = World::with(seed, 3, |config| {
        config.resident_bytes_max = [0, 1 << 20][usize::from(config.seed % 2 == 0)];
    });
    world.ledger.liars.insert(MALLORY);
    for node in [ALPHA, BETA, MALLORY] {
        world.add_network(node, "main", Policy::default());
    }
    for (a, b) in [(ALPHA, BETA), (ALPHA, MALLORY), (BETA, MALLORY)] {
        world.introduce(a, b);
        world.wait_up(a, b);
    }
    let mut rng = Rng::new(seed ^ 0xbad);
    let mut garbler = rng.fork();
    let rate = [0.02, 0.2][rng.index(2)];
    world.tamper = Some(Box::new(move |from, body| {
        if from == MALLORY && garbler.chance(rate) {
            garble(&mut garbler, body);
        }
    }));
    let to = |n: u64, node: usize, from: usize| wire::Submission {
        from: format!("ann@main.{}.test", ["alpha", "beta", "gamma"][from]),
        to: vec![format!("bob@main.{}.test", ["alpha", "beta", "gamma"][node])],
        conversation: format!("c{}", n % 7),
        payload: vec![7; [10, 300_000][usize::from(n.is_multiple_of(40))]].into(),
        ..letter(n)
    };
    for step in 0..60 {
        world.run_for(Duration::from_millis(rng.range(0..400)));
        for n in 0..rng.range(0..4) {
            let n = step * 10 + n;
            world.ask_submit(ALPHA, MAIN, vec![to(n, MALLORY, ALPHA), to(1000 + n, BETA, ALPHA)]);
            world.ask_submit(MALLORY, MAIN, vec![to(n, ALPHA, MALLORY)]);
        }
        if rng.chance(0.5) && world.linked(MALLORY, ALPHA) {
            let (channel, body) = invent(&mut rng);
            world.forge(MALLORY, ALPHA, channel, body);
        }
        if rng.chance(0.1) {
            let bytes = rng.bytes(20);
            if world.linked(MALLORY, ALPHA) {
                world.forge_bytes(MALLORY, ALPHA, Channel::Control, &bytes);
            }
        }
        if rng.chance(0.05) {
            world.restart([ALPHA, MALLORY][rng.index(2)]);
        }
        // Alarms are what a liar gets; the operator goes on with it, so that there is more to see.
        if rng.chance(0.2) && world.peer(ALPHA, MALLORY).link == LinkState::Alarm {
            // After a new epoch what is under way to others may come twice, as the alarm says.
            world.ledger.forgiving = true;
            let mallory = world.nodes[MALLORY].domain.clone();
            world.ask_admin(ALPHA, AdminOp::PeerResume(mallory));
        }
    }
    world.wait("what is for beta", 300 * SECOND, |world| world.peer(ALPHA, BETA).outbox.depth == 0);
    world.wait_up(ALPHA, BETA);
    assert_ne!(world.peer(BETA, ALPHA).link, LinkState::Alarm);
    world.restart(ALPHA);
    world.run_for(SECOND);
}

#[test]
fn a_peer_that_sends_nonsense_hurts_nobody_else() {
    let count = std::env::var("TRUNKLINE_SIM_SEEDS").map_or(100, |text| text.parse().unwrap());
    trunkline_testkit::seeds::run("hostile", count, |seed, _| run(seed));
}

//! Links with gateways of earlier releases, as they were recorded: what one of them sent is fed to today's core, which
//! must go on with it as it did then. The store that the core starts from is of that release, too.
//!
//! A release adds `tests/recorded/N.txt`, where N is one more than the last, and changes none of those that are there:
//! `TRUNKLINE_RECORD=N cargo test -p trunkline-gateway-proto -- recorded`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use trunkline_gateway_proto::admin::{AdminOp, LinkState};
use trunkline_gateway_proto::core::Core;
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::key::ChannelBinding;
use trunkline_gateway_proto::link::{LinkId, Opened, Transport};
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::store::{Commit, Op, PeerKey, Recovered};
use trunkline_gateway_proto::wire::{self, State, frame::Body};

use crate::scene::{ALPHA, BETA, MAIN, SECOND, inbox, letter, states, wait_receipts};
use crate::store::Store;
use crate::world::World;

/// A link that no world makes.
const REPLAYED: LinkId = LinkId(1 << 40);

/// One side of a link: what it stood on before, and what came in.
struct Side {
    state: Vec<(Vec<u8>, Bytes)>,
    opened: Opened,
    frames: Vec<(Channel, Bytes)>,
}

/// What alpha writes: to bob; from eve, whom beta blocks; a large one.
fn written() -> Vec<wire::Submission> {
    let eve = wire::Submission { from: "eve@main.alpha.test".into(), ..letter(2) };
    let large = wire::Submission { payload: vec![7; frame::BLOB_BYTES_MIN + 1000].into(), ..letter(3) };
    let brief = wire::Submission { ttl_s: 1, ..letter(4) };
    vec![letter(0), letter(1), eve, large, brief, letter(5)]
}

/// What became of it.
fn fates() -> Vec<(u64, State)> {
    let fate = |n| if n == 2 { State::Refused } else { State::Delivered };
    (0..6).map(|n| (n, fate(n))).collect()
}

// ------------------------------------------------------------ recording

/// A whole life of a link, as both sides saw it.
fn record() -> [Side; 2] {
    let mut world = World::with(1, 2, |_| {});
    world.add_network(ALPHA, "main", Policy::default());
    let blocked = vec!["eve@main.alpha.test".parse().unwrap()];
    world.add_network(BETA, "main", Policy { blocked, ..Policy::default() });
    world.introduce(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    world.run_for(SECOND);
    let states = [ALPHA, BETA].map(|node| {
        world.crash_with(node, true);
        let found = world.nodes[node].store.recover().into_iter();
        let states = found.filter_map(|found| match found {
            Recovered::State { key, value } => Some((key, value)),
            Recovered::Block { .. } => None,
        });
        states.collect::<Vec<_>>()
    });
    (world.sniffed, world.opened) = (Some(Vec::new()), Vec::new());
    world.mute.insert(BETA);
    world.start(ALPHA);
    world.start(BETA);
    world.wait_up(ALPHA, BETA);
    world.submit(ALPHA, MAIN, written());
    wait_receipts(&mut world, ALPHA, fates().len());
    let alpha = world.nodes[ALPHA].domain.clone();
    world.admin(BETA, AdminOp::PeerRotateKey(alpha)).unwrap();
    world.run_for(120 * SECOND);
    world.with_core(ALPHA, Core::stop);
    world.run_for(SECOND);
    let sniffed = world.sniffed.take().unwrap();
    let mut states = states.into_iter();
    [ALPHA, BETA].map(|node| Side {
        state: states.next().unwrap(),
        opened: world.opened.iter().find(|(seen, _)| *seen == node).unwrap().1.clone(),
        frames: sniffed
            .iter()
            .filter(|(_, to, ..)| *to == node)
            .map(|(_, _, channel, body)| {
                let mut bytes = BytesMut::new();
                frame::encode(body.clone(), &mut bytes);
                (*channel, bytes.freeze())
            })
            .collect(),
    })
}

/// As it rests: a line for each thing; `side` begins another one.
fn write(sides: &[Side; 2]) -> String {
    let mut text = String::new();
    for Side { state, opened, frames } in sides {
        let Opened { dialed, certificate, binding, .. } = opened;
        let binding = [binding.dialer, binding.acceptor, binding.rotation].concat();
        let dialed = dialed.map_or(0, |peer| peer.0);
        writeln!(text, "side {dialed} {} {}", hex(certificate), hex(&binding)).unwrap();
        for (key, value) in state {
            writeln!(text, "state {} {}", hex(key), hex(value)).unwrap();
        }
        for (channel, bytes) in frames {
            writeln!(text, "frame {} {}", channel.number(), hex(bytes)).unwrap();
        }
    }
    text
}

/// Hexadecimal digits; what repeats for long is written once, with a count: `07*262144`.
fn hex(bytes: &[u8]) -> String {
    let mut text = "x".to_owned();
    for run in bytes.chunk_by(|a, b| a == b) {
        match run {
            [byte, ..] if run.len() > 16 => write!(text, "+{byte:02x}*{}+", run.len()).unwrap(),
            _ => run.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap()),
        }
    }
    text
}

// ------------------------------------------------------------ reading

fn read(text: &str) -> Vec<Side> {
    let mut sides: Vec<Side> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["side", dialed, certificate, binding] => {
                let binding = unhex(binding);
                let ([dialer, acceptor, rotation], []) = binding.as_chunks::<32>() else {
                    panic!("not a binding: {line}");
                };
                let (dialer, acceptor, rotation) = (*dialer, *acceptor, *rotation);
                let dialed = Some(dialed.parse().unwrap()).filter(|peer| *peer > 0).map(PeerKey);
                let opened = Opened {
                    dialed,
                    transport: Transport::Quic,
                    certificate: unhex(certificate),
                    vouched: Vec::new(),
                    binding: ChannelBinding { dialer, acceptor, rotation },
                };
                sides.push(Side { state: Vec::new(), opened, frames: Vec::new() });
            }
            ["state", key, value] => {
                sides.last_mut().unwrap().state.push((unhex(key).to_vec(), unhex(value)))
            }
            ["frame", channel, bytes] => {
                let channel = Channel::from_number(channel.parse().unwrap());
                sides.last_mut().unwrap().frames.push((channel, unhex(bytes)));
            }
            _ => panic!("not a line of a record: {line}"),
        }
    }
    sides
}

fn unhex(text: &str) -> Bytes {
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let mut bytes = Vec::new();
    for part in text.strip_prefix('x').unwrap().split('+') {
        match part.split_once('*') {
            Some((byte, count)) => {
                bytes.extend(std::iter::repeat_n(digit(byte.as_bytes()), count.parse().unwrap()));
            }
            None => bytes.extend(part.as_bytes().chunks(2).map(digit)),
        }
    }
    bytes.into()
}

// ------------------------------------------------------------ replaying

/// A world in which only `node` lives, on what it stood on in the record.
fn alone(node: usize, state: &[(Vec<u8>, Bytes)]) -> World {
    let mut world = World::with(1, 2, |_| {});
    // Whoever the other one wrote to, and got from, is not there.
    world.ledger.liars.extend([ALPHA, BETA]);
    for index in [ALPHA, BETA] {
        world.crash_with(index, false);
        world.mute.insert(index);
    }
    let ops = state.iter().map(|(key, value)| Op::Put { key: key.clone(), value: value.clone() }).collect();
    let mut store = Store::default();
    store.apply(&Commit { ops, ..Commit::default() });
    world.nodes[node].store = store;
    world.start(node);
    world
}

/// Brings what came in then; each frame has its time. Answers whether the link was up before the other side left.
fn replay(world: &mut World, node: usize, side: &Side) -> bool {
    let mut was_up = false;
    world.with_core(node, |core, now| core.handle_opened(now, REPLAYED, side.opened.clone()));
    for (channel, bytes) in &side.frames {
        let body = frame::decode(*channel, &mut BytesMut::from(&bytes[..])).unwrap().unwrap();
        was_up |= world.peer(node, 1 - node).link == LinkState::Up;
        world.with_core(node, |core, now| core.handle_frame(now, REPLAYED, *channel, body));
        world.run_for(SECOND / 20);
    }
    was_up
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded")
}

/// Every record, with its number.
fn records() -> Vec<(String, [Side; 2])> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let records = files.map(|file| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let sides = read(&std::fs::read_to_string(&file).unwrap());
        (name, sides.try_into().unwrap_or_else(|_| panic!("a record has two sides")))
    });
    records.collect()
}

#[test]
fn a_link_with_each_earlier_release_comes_up_and_carries_everything() {
    if let Some(number) = std::env::var_os("TRUNKLINE_RECORD") {
        let file = folder().join(number).with_extension("txt");
        assert!(!file.exists(), "records are never changed");
        std::fs::write(file, write(&record())).unwrap();
    }
    let records = records();
    assert!(!records.is_empty());
    for (release, [to_alpha, to_beta]) in &records {
        let mut beta = alone(BETA, &to_beta.state);
        assert!(replay(&mut beta, BETA, to_beta), "{release}: beta");
        assert_eq!(inbox(&mut beta, BETA), [0, 1, 3, 4, 5], "{release}");
        let mut alpha = alone(ALPHA, &to_alpha.state);
        alpha.submit(ALPHA, MAIN, written());
        assert!(replay(&mut alpha, ALPHA, to_alpha), "{release}: alpha");
        assert_eq!(sorted(states(&mut alpha, ALPHA)), fates(), "{release}");
    }
}

#[test]
fn nothing_that_earlier_releases_said_is_unknown_now() {
    for (release, sides) in records() {
        let mut kinds = std::collections::BTreeSet::new();
        for (channel, bytes) in sides.iter().flat_map(|side| &side.frames) {
            let body = frame::decode(*channel, &mut BytesMut::from(&bytes[..])).unwrap().unwrap();
            kinds.insert(kind(&body));
            let mut again = BytesMut::new();
            frame::encode(body, &mut again);
            assert_eq!(again, bytes[..], "{release}: a field of a {kinds:?} got lost");
        }
        let all =
            ["ack", "blob", "credit", "data", "goaway", "hello", "keys", "keys ack", "nack", "ping", "pong"];
        assert!(all.iter().all(|kind| kinds.contains(kind)), "{release}: {kinds:?}");
    }
}

fn sorted(mut fates: Vec<(u64, State)>) -> Vec<(u64, State)> {
    fates.sort_by_key(|(n, _)| *n);
    fates
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::Hello(_) => "hello",
        Body::Resume(_) => "resume",
        Body::Ack(_) => "ack",
        Body::Nack(_) => "nack",
        Body::Settled(_) => "settled",
        Body::Credit(_) => "credit",
        Body::Keys(_) => "keys",
        Body::KeysAck(_) => "keys ack",
        Body::Ping(_) => "ping",
        Body::Pong(_) => "pong",
        Body::Goaway(_) => "goaway",
        Body::Data(_) => "data",
        Body::Blob(_) => "blob",
    }
}

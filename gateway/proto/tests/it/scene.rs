//! Two deployments that know each other, and the words that tests speak in.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::core::Config;
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::store::{NetworkKey, Stream};
use trunkline_gateway_proto::wire::{self, State};

use crate::world::World;

pub(crate) const ALPHA: usize = 0;
pub(crate) const BETA: usize = 1;

/// The one network that each of them has.
pub(crate) const MAIN: NetworkKey = NetworkKey(1);
pub(crate) const INBOX: Stream = Stream::Inbox { network: MAIN };
pub(crate) const RECEIPTS: Stream = Stream::Receipts { network: MAIN };

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Alpha and beta, linked.
pub(crate) fn pair() -> World {
    pair_with(|_| {})
}

pub(crate) fn pair_with(tune: impl Fn(&mut Config)) -> World {
    let mut world = World::with(1, 2, tune);
    world.add_network(ALPHA, "main", Policy::default());
    world.add_network(BETA, "main", Policy::default());
    world.introduce(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    world
}

/// A message from ann at alpha to bob at beta, with `n` as its id.
pub(crate) fn letter(n: u64) -> wire::Submission {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    wire::Submission {
        id: Bytes::copy_from_slice(&id),
        from: "ann@main.alpha.test".into(),
        to: vec!["bob@main.beta.test".into()],
        kind: wire::Kind::Message.into(),
        conversation: "c".into(),
        ttl_s: 0,
        guest: false,
        payload: Bytes::from_static(b"sealed"),
    }
}

pub(crate) fn letters(numbers: std::ops::Range<u64>) -> Vec<wire::Submission> {
    numbers.map(letter).collect()
}

/// A message too large for a lane's channel.
pub(crate) fn large(n: u64) -> wire::Submission {
    wire::Submission { payload: vec![7; 400_000].into(), ..letter(n) }
}

/// Numbers of the envelopes that wait in a node's inbox.
pub(crate) fn inbox(world: &mut World, node: usize) -> Vec<u64> {
    world.read(node, INBOX, 10_000).iter().map(|(_, record)| number(&record.head.id)).collect()
}

/// What a node's receipts say: number, state, reason.
pub(crate) fn fates(world: &mut World, node: usize) -> Vec<(u64, State, String)> {
    let records = world.read(node, RECEIPTS, 10_000);
    records
        .iter()
        .map(|(_, record)| {
            let receipt = wire::Receipt::decode(record.body.clone()).unwrap();
            (number(&record.head.id), receipt.state(), receipt.reason)
        })
        .collect()
}

/// The same without reasons.
pub(crate) fn states(world: &mut World, node: usize) -> Vec<(u64, State)> {
    fates(world, node).into_iter().map(|(n, state, _)| (n, state)).collect()
}

/// Waits until a node has so many receipts.
pub(crate) fn wait_receipts(world: &mut World, node: usize, count: usize) {
    world.wait("receipts", 120 * SECOND, |world| {
        world.overview(node).networks[0].receipts.depth >= count as u64 && world.core(node).is_settled()
    });
}

fn number(id: &[u8; 16]) -> u64 {
    u64::from_be_bytes(*id.last_chunk().unwrap())
}

/// Alpha's operator stops the peering; envelopes wait.
pub(crate) fn pause(world: &mut World) {
    let beta = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerPause(beta)).unwrap();
}

/// Alpha's operator goes on with it.
pub(crate) fn resume(world: &mut World) {
    let beta = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerResume(beta)).unwrap();
}

/// Alpha's operator throws away what waits for beta.
pub(crate) fn purge(world: &mut World) {
    let domain = world.nodes[BETA].domain.clone();
    world.ledger.purges += 1;
    world.admin(ALPHA, AdminOp::OutboxPurge { domain, lane: None }).unwrap();
}

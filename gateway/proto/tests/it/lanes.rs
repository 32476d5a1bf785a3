//! The way out of a lane: what is read from the disk, and what leaves before its turn.

use std::time::Duration;

use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::wire::{self, State};

use crate::scene::{
    ALPHA, BETA, MAIN, SECOND, fates, inbox, large, letter, letters, pair_with, pause, purge, resume, states,
    wait_receipts,
};
use crate::world::World;

/// A pair that keeps nothing in memory: every envelope is read from the disk.
fn from_disk() -> World {
    pair_with(|config| config.resident_bytes_max = 0)
}

/// A letter of which few fit into one read.
fn long(n: u64) -> wire::Submission {
    wire::Submission { payload: vec![7; 100_000].into(), ..letter(n) }
}

fn brief(n: u64, ttl_s: u64) -> wire::Submission {
    wire::Submission { ttl_s, ..letter(n) }
}

fn in_flight(world: &World) -> usize {
    world.core(ALPHA).leftovers().in_flight
}

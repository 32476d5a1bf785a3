//! Watermarks that are not where they were left: stores that went back, new stores, peers added again.

use trunkline_gateway_proto::admin::{AdminOp, LinkState};
use trunkline_gateway_proto::state::Key;

use crate::scene::{ALPHA, BETA, MAIN, SECOND, inbox, letters, pair, resume, states, wait_receipts};
use crate::world::World;

fn alarms(world: &World, node: usize) -> usize {
    world.nodes[node].events.iter().filter(|(kind, _)| *kind == "alarm.watermark").count()
}

/// A node's store is replaced by a copy, as an operator would who restores a backup.
fn restore(world: &mut World, node: usize, backup: crate::store::Store) {
    world.ledger.forgiving = true;
    world.crash(node);
    world.nodes[node].store = backup;
    world.start(node);
}

/// Letters 0 and 1 were delivered before beta's backup, 2 to 4 after it.
fn beta_went_back() -> World {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..2));
    wait_receipts(&mut world, ALPHA, 2);
    let backup = world.nodes[BETA].store.clone();
    world.submit(ALPHA, MAIN, letters(2..5));
    wait_receipts(&mut world, ALPHA, 5);
    restore(&mut world, BETA, backup);
    world.wait("an alarm", 60 * SECOND, |world| world.peer(ALPHA, BETA).link == LinkState::Alarm);
    world
}

/// The same of alpha's own store.
fn alpha_went_back() -> World {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..2));
    wait_receipts(&mut world, ALPHA, 2);
    world.run_for(SECOND);
    let backup = world.nodes[ALPHA].store.clone();
    world.submit(ALPHA, MAIN, letters(2..5));
    wait_receipts(&mut world, ALPHA, 5);
    restore(&mut world, ALPHA, backup);
    world.wait("an alarm", 60 * SECOND, |world| world.peer(ALPHA, BETA).link == LinkState::Alarm);
    world
}

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

#[test]
fn what_is_purged_while_its_lane_is_being_read_is_not_sent() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, letters(0..3));
    world.weather.read_ms = 10..11;
    resume(&mut world);
    world.wait_up(ALPHA, BETA);
    // What the lane asked for has been read, and is on its way to the core for another minute.
    world.weather.read_ms = 60_000..60_001;
    world.run_for(Duration::from_millis(20));
    world.weather.read_ms = 1..2;
    purge(&mut world);
    wait_receipts(&mut world, ALPHA, 3);
    world.run_for(120 * SECOND);
    assert_eq!(states(&mut world, ALPHA), (0..3).map(|n| (n, State::Purged)).collect::<Vec<_>>());
    assert!(inbox(&mut world, BETA).is_empty());
}

#[test]
fn what_was_read_for_a_link_that_is_gone_does_not_overtake_on_the_next_one() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, (0..20).map(long).collect());
    world.weather.read_ms = 10..11;
    resume(&mut world);
    world.wait("the first envelopes on the way", 60 * SECOND, |world| in_flight(world) > 0);
    // They are lost. What follows them is being read, and arrives in a minute; the next read takes longer still.
    world.cut_now(ALPHA, BETA);
    world.weather.read_ms = 60_000..60_001;
    world.run_for(Duration::from_millis(11));
    world.weather.read_ms = 150_000..150_001;
    world.wait_up(ALPHA, BETA);
    world.run_for(120 * SECOND);
    world.weather.read_ms = 1..2;
    wait_receipts(&mut world, ALPHA, 20);
    assert_eq!(inbox(&mut world, BETA).len(), 11, "what one answer holds");
}

#[test]
fn a_read_that_sees_a_commit_before_the_core_hears_of_it_does_no_harm() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, letters(0..2));
    world.weather.read_ms = 10..11;
    resume(&mut world);
    world.wait_up(ALPHA, BETA);
    world.ask_submit(ALPHA, MAIN, letters(2..3));
    // On the disk at once; the core hears of it in ten seconds.
    world.weather.commit_ms = 10_000..10_001;
    world.run_for(Duration::from_millis(3));
    world.weather.commit_ms = 1..2;
    wait_receipts(&mut world, ALPHA, 3);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2]);
    assert!(world.nodes[ALPHA].events.iter().all(|(_, detail)| !detail.contains("never sent")));
}

#[test]
fn what_has_left_out_of_turn_is_read_once_and_not_over_and_over() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![letter(0), brief(1, 2), brief(2, 2)]);
    wait_receipts(&mut world, ALPHA, 2);
    // Beta takes long to acknowledge: what is behind the first letter is looked at again and again.
    world.weather.commit_ms = 20_000..20_001;
    let before = world.nodes[ALPHA].reads;
    resume(&mut world);
    world.run_for(40 * SECOND);
    assert!(world.nodes[ALPHA].reads - before < 5, "{} reads", world.nodes[ALPHA].reads - before);
    world.weather.commit_ms = 1..2;
    wait_receipts(&mut world, ALPHA, 3);
}

#[test]
fn a_block_goes_from_the_disk_once_all_of_it_has_left_in_whatever_order() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![letter(0), brief(1, 2), brief(2, 2)]);
    wait_receipts(&mut world, ALPHA, 2);
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 3);
    world.run_for(SECOND);
    let occupied = world.nodes[ALPHA].store.occupied();
    assert_eq!(occupied, [crate::scene::RECEIPTS]);
    assert!(world.nodes[ALPHA].store.state().keys().all(|key| key.first() != Some(&b'g')), "a mark is left");
}

#[test]
fn what_resume_said_was_there_is_reported_once_though_the_link_breaks_meanwhile() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, (0..20).map(long).collect());
    resume(&mut world);
    world.wait("all but the acknowledgements", 60 * SECOND, |world| world.ledger.inboxes.len() == 20);
    world.run_for(Duration::from_millis(3));
    world.cut_now(ALPHA, BETA);
    let before = world.ledger.receipts.len();
    world.weather.read_ms = 50..51;
    world.wait("the first receipts", 60 * SECOND, |world| world.ledger.receipts.len() > before);
    assert!(world.ledger.receipts.len() < 20, "some are still to be read");
    world.cut_now(ALPHA, BETA);
    wait_receipts(&mut world, ALPHA, 20);
    world.run_for(10 * SECOND);
    assert_eq!(fates(&mut world, ALPHA).len(), 20);
}

#[test]
fn a_block_that_expires_while_another_one_is_read_expires_all_the_same() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![brief(0, 12)]);
    world.submit(ALPHA, MAIN, vec![brief(1, 10)]);
    world.weather.read_ms = 3000..3001;
    wait_receipts(&mut world, ALPHA, 2);
}

#[test]
fn what_waits_for_a_slow_commit_expires_in_time() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![brief(0, 2)]);
    world.weather.read_ms = 3000..3001;
    // The pass over what has expired is under way.
    world.run_for(Duration::from_millis(2500));
    world.weather.commit_ms = 10_000..10_001;
    world.ask_submit(ALPHA, MAIN, letters(1..2));
    world.ask_submit(ALPHA, MAIN, vec![brief(2, 5)]);
    world.run_for(30 * SECOND);
    world.weather.commit_ms = 1..2;
    wait_receipts(&mut world, ALPHA, 2);
}

#[test]
fn many_large_envelopes_at_once_do_not_upset_the_peer() {
    let mut world = pair_with(|_| {});
    world.weather.latency_ms = 5..500;
    let batch = (0..120).map(|n| wire::Submission { conversation: format!("c{n}"), ..large(n) });
    let batch = batch.map(|envelope| wire::Submission { payload: vec![7; 263_000].into(), ..envelope });
    world.submit(ALPHA, MAIN, batch.collect());
    wait_receipts(&mut world, ALPHA, 120);
    assert!(world.nodes[ALPHA].events.iter().all(|(kind, _)| *kind != "link.down"));
}

#[test]
fn a_second_purge_covers_what_came_after_the_first() {
    let mut world = from_disk();
    pause(&mut world);
    world.submit(ALPHA, MAIN, letters(0..3));
    world.weather.read_ms = 1000..1001;
    purge(&mut world);
    world.submit(ALPHA, MAIN, letters(3..6));
    purge(&mut world);
    wait_receipts(&mut world, ALPHA, 6);
    assert_eq!(states(&mut world, ALPHA), (0..6).map(|n| (n, State::Purged)).collect::<Vec<_>>());
}

#[test]
fn a_removed_peer_leaves_a_receipt_for_every_envelope_in_every_lane() {
    let mut world = from_disk();
    pause(&mut world);
    let batch = (0..50).map(|n| wire::Submission { conversation: format!("c{n}"), ..letter(n) });
    world.submit(ALPHA, MAIN, batch.collect());
    world.ledger.purges += 1;
    let domain = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerRemove(domain)).unwrap();
    wait_receipts(&mut world, ALPHA, 50);
    world.run_for(SECOND);
    let mut states = states(&mut world, ALPHA);
    states.sort_by_key(|(n, _)| *n);
    assert_eq!(states, (0..50).map(|n| (n, State::Purged)).collect::<Vec<_>>());
    assert_eq!(world.nodes[ALPHA].store.occupied(), [crate::scene::RECEIPTS]);
}

#[test]
fn what_left_out_of_turn_is_skipped_only_once_that_is_on_the_disk() {
    let mut world = from_disk();
    world.mute.extend([ALPHA, BETA]);
    world.cut_now(ALPHA, BETA);
    world.submit(ALPHA, MAIN, letters(0..3));
    // The purge looks for what it covers, and meanwhile another letter is stored.
    world.weather.read_ms = 500..501;
    purge(&mut world);
    world.submit(ALPHA, MAIN, letters(3..4));
    world.run_for(Duration::from_millis(900));
    world.weather.commit_ms = 5000..5001;
    world.run_for(Duration::from_millis(200));
    // What it did is in memory. The link comes up, and the process ends.
    world.weather.read_ms = 1..2;
    world.mute.clear();
    world.wait_up(ALPHA, BETA);
    world.run_for(SECOND);
    world.crash_with(ALPHA, false);
    world.weather.commit_ms = 1..2;
    world.start(ALPHA);
    wait_receipts(&mut world, ALPHA, 4);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2, 3]);
}

#[test]
fn a_peer_removed_during_a_purge_leaves_receipts_for_what_was_in_flight() {
    let mut world = from_disk();
    world.tamper = Some(Box::new(|from, body| {
        if let wire::frame::Body::Ack(ack) = body
            && from == BETA
        {
            ack.marks.clear();
        }
    }));
    world.submit(ALPHA, MAIN, letters(0..3));
    world.submit(ALPHA, MAIN, letters(3..6));
    world.run_for(SECOND);
    assert_eq!(in_flight(&world), 6);
    // The purge has passed over what is in flight in the first block, and reads the second one.
    world.weather.read_ms = 500..501;
    purge(&mut world);
    world.run_for(Duration::from_millis(1200));
    let domain = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerRemove(domain)).unwrap();
    wait_receipts(&mut world, ALPHA, 6);
}

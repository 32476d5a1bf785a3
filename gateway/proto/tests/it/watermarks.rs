//! Watermarks that are not where they were left: stores that went back, new stores, peers added again.

use trunkline_gateway_proto::admin::{AdminOp, LinkState};
use trunkline_gateway_proto::state::Key;
use trunkline_gateway_proto::wire::frame::Body;

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

#[test]
fn a_peer_that_lost_what_it_acknowledged_raises_an_alarm_and_nothing_is_sent() {
    let mut world = beta_went_back();
    world.submit(ALPHA, MAIN, letters(5..6));
    world.run_for(600 * SECOND);
    assert_eq!(alarms(&world, ALPHA), 1);
    assert_eq!(inbox(&mut world, BETA), [0, 1]);
    assert_eq!(world.peer(ALPHA, BETA).outbox.depth, 1);
}

#[test]
fn after_a_resume_letters_flow_again_without_what_the_peer_lost() {
    let mut world = beta_went_back();
    resume(&mut world);
    world.submit(ALPHA, MAIN, letters(5..7));
    wait_receipts(&mut world, ALPHA, 7);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 5, 6]);
}

#[test]
fn a_resume_holds_though_no_letter_follows_and_either_side_restarts() {
    let mut world = beta_went_back();
    resume(&mut world);
    world.restart(ALPHA);
    world.wait_up(ALPHA, BETA);
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    world.run_for(SECOND);
    world.restart(BETA);
    world.wait_up(ALPHA, BETA);
    world.run_for(SECOND);
    world.restart(ALPHA);
    world.wait_up(ALPHA, BETA);
    assert_eq!((alarms(&world, ALPHA), alarms(&world, BETA)), (1, 0));
}

#[test]
fn a_resume_is_good_for_one_loss_only() {
    let mut world = beta_went_back();
    let backup = world.nodes[BETA].store.clone();
    resume(&mut world);
    world.wait_up(ALPHA, BETA);
    world.run_for(SECOND);
    restore(&mut world, BETA, backup);
    world.wait("another alarm", 60 * SECOND, |world| alarms(world, ALPHA) == 2);
}

#[test]
fn a_store_that_went_back_raises_an_alarm_before_it_sends_numbers_again() {
    let mut world = alpha_went_back();
    world.submit(ALPHA, MAIN, letters(10..11));
    world.run_for(60 * SECOND);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2, 3, 4]);
    assert_eq!(alarms(&world, ALPHA), 1);
}

#[test]
fn a_store_that_went_back_is_noticed_though_new_letters_took_the_numbers() {
    let mut world = pair();
    let backup = world.nodes[ALPHA].store.clone();
    world.submit(ALPHA, MAIN, letters(0..5));
    wait_receipts(&mut world, ALPHA, 5);
    world.weather.dial_fails = 1.0;
    restore(&mut world, ALPHA, backup);
    world.submit(ALPHA, MAIN, letters(10..20));
    world.weather.dial_fails = 0.0;
    world.wait("an alarm", 60 * SECOND, |world| world.peer(ALPHA, BETA).link == LinkState::Alarm);
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 10);
    assert_eq!(inbox(&mut world, BETA), (0..5).chain(10..20).collect::<Vec<_>>());
}

#[test]
fn a_store_that_went_back_goes_on_under_a_new_epoch() {
    let mut world = alpha_went_back();
    resume(&mut world);
    world.submit(ALPHA, MAIN, letters(10..12));
    wait_receipts(&mut world, ALPHA, 4);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2, 3, 4, 10, 11]);
}

#[test]
fn a_new_epoch_holds_though_the_process_ends_before_any_peer_heard_of_it() {
    let mut world = alpha_went_back();
    resume(&mut world);
    world.restart(ALPHA);
    world.wait_up(ALPHA, BETA);
    world.submit(ALPHA, MAIN, letters(10..12));
    wait_receipts(&mut world, ALPHA, 4);
    assert_eq!((alarms(&world, ALPHA), alarms(&world, BETA)), (1, 0));
}

#[test]
fn an_acknowledgement_of_the_old_store_is_none_of_the_new_one() {
    let mut world = pair();
    let mut other = world.nodes[ALPHA].store.clone();
    other.overwrite(Key::Epoch.encode(), vec![9; 16].into());
    world.submit(ALPHA, MAIN, letters(0..5));
    // Beta is still saving them when alpha comes back with another store.
    world.weather.commit_ms = 30_000..30_001;
    world.run_for(SECOND);
    world.weather.commit_ms = 1..2;
    restore(&mut world, ALPHA, other);
    world.submit(ALPHA, MAIN, letters(10..16));
    world.wait("the old commit", 60 * SECOND, |world| world.ledger.inboxes.len() == 5);
    // The new letters are in beta's memory only, and lost.
    world.weather.commit_ms = 10_000..10_001;
    world.run_for(SECOND);
    world.crash_with(BETA, false);
    world.run_for(SECOND);
    world.weather.commit_ms = 1..2;
    world.start(BETA);
    wait_receipts(&mut world, ALPHA, 6);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn a_peer_that_was_removed_and_added_again_gets_every_new_letter() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..5));
    wait_receipts(&mut world, ALPHA, 5);
    let beta = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerRemove(beta)).unwrap();
    world.run_for(SECOND);
    world.introduce(ALPHA, BETA);
    world.submit(ALPHA, MAIN, letters(10..20));
    wait_receipts(&mut world, ALPHA, 15);
    assert_eq!(inbox(&mut world, BETA), (0..5).chain(10..20).collect::<Vec<_>>());
    assert_eq!((alarms(&world, ALPHA), alarms(&world, BETA)), (0, 0));
    assert_eq!(states(&mut world, ALPHA).len(), 15);
}

/// Two links dialled by alpha one after the other; the answer on the first one comes last, and is as old as it is
/// late.
fn a_late_answer() -> World {
    let mut world = pair();
    world.mute.insert(BETA);
    world.cut_now(ALPHA, BETA);
    world.sniffed = Some(Vec::new());
    let said = |world: &mut World, node| {
        world.sniffed.iter().flatten().any(|(from, .., body)| *from == node && matches!(body, Body::Hello(_)))
    };
    world.wait("alpha's HELLO", SECOND, |world| said(world, ALPHA));
    world.weather.latency_ms = 3000..3001;
    world.wait("beta's answer", SECOND, |world| said(world, BETA));
    world.weather.latency_ms = 5..6;
    world.admin(ALPHA, AdminOp::OutboxRetry(None)).unwrap();
    world.wait_up(ALPHA, BETA);
    world.submit(ALPHA, MAIN, letters(0..3));
    wait_receipts(&mut world, ALPHA, 3);
    world
}

#[test]
fn an_answer_that_comes_late_is_no_lost_watermark() {
    let mut world = a_late_answer();
    let dials = world.nodes[ALPHA].dials.len();
    world.run_for(10 * SECOND);
    assert_eq!(alarms(&world, ALPHA), 0);
    assert!(world.is_up(ALPHA, BETA));
    assert_eq!(world.nodes[ALPHA].dials.len(), dials, "the link that was there stays");
}

#[test]
fn a_peer_that_starts_with_an_empty_store_raises_an_alarm_and_then_gets_new_letters() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..3));
    wait_receipts(&mut world, ALPHA, 3);
    world.run_for(SECOND);
    restore(&mut world, BETA, crate::store::Store::default());
    world.nodes[BETA].config.fresh_epoch = [7; 16];
    world.restart(BETA);
    world.add_network(BETA, "main", trunkline_gateway_proto::policy::Policy::default());
    world.introduce(BETA, ALPHA);
    world.wait("an alarm", 60 * SECOND, |world| world.peer(ALPHA, BETA).link == LinkState::Alarm);
    resume(&mut world);
    world.submit(ALPHA, MAIN, letters(3..5));
    wait_receipts(&mut world, ALPHA, 5);
    assert_eq!(inbox(&mut world, BETA), [3, 4]);
}

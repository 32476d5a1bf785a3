//! Refusals: said once, kept until they are settled, whatever is lost on the way.

use std::time::Duration;

use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::wire::State;

use crate::scene::{ALPHA, BETA, MAIN, RECEIPTS, SECOND, fates, inbox, letters, pair, wait_receipts};
use crate::world::World;

/// Beta's network takes nothing from ann.
fn ann_is_blocked() -> World {
    let mut world = pair();
    let policy = Policy { blocked: vec!["ann@main.alpha.test".parse().unwrap()], ..Policy::default() };
    world.update_network(BETA, "main", policy);
    world
}

#[test]
fn a_refusal_said_before_it_was_durable_is_settled_all_the_same() {
    let mut world = ann_is_blocked();
    world.submit(ALPHA, MAIN, letters(0..1));
    world.weather.commit_ms = 5000..5001;
    world.run_for(SECOND);
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    world.run_for(Duration::from_secs(20));
    world.weather.commit_ms = 1..2;
    wait_receipts(&mut world, ALPHA, 1);
    world.run_for(SECOND);
    assert_eq!(fates(&mut world, ALPHA), [(0, State::Refused, "blocked".to_owned())]);
    assert_eq!(world.core(BETA).leftovers().refusals, 0);
    assert!(inbox(&mut world, BETA).is_empty());
}

#[test]
fn what_was_refused_may_be_sent_again_under_its_id_once_that_was_read() {
    let mut world = ann_is_blocked();
    world.submit(ALPHA, MAIN, letters(0..1));
    wait_receipts(&mut world, ALPHA, 1);
    assert!(world.submit(ALPHA, MAIN, letters(0..1))[0].duplicate);
    world.ack(ALPHA, RECEIPTS, 1);
    world.ledger.forgiving = true;
    assert!(!world.submit(ALPHA, MAIN, letters(0..1))[0].duplicate);
}

#[test]
fn a_refusal_whose_acknowledgement_was_lost_is_said_again() {
    let mut world = ann_is_blocked();
    world.submit(ALPHA, MAIN, letters(0..2));
    world.wait("the refusals are on beta's disk", SECOND, |world| world.core(BETA).leftovers().refusals == 2);
    world.run_for(Duration::from_millis(3));
    // What beta says of it is on its way, and lost.
    world.cut_now(ALPHA, BETA);
    world.restart(BETA);
    assert_eq!(world.core(BETA).leftovers().refusals, 2);
    wait_receipts(&mut world, ALPHA, 2);
    assert!(fates(&mut world, ALPHA).iter().all(|(_, state, _)| *state == State::Refused));
    world.run_for(SECOND);
    assert_eq!(world.core(BETA).leftovers().refusals, 0);
}

#[test]
fn a_refusal_is_kept_until_the_sender_has_it_on_its_disk() {
    let mut world = ann_is_blocked();
    world.submit(ALPHA, MAIN, letters(0..2));
    world.weather.commit_ms = 100..101;
    world.wait("the refusals are known at alpha", SECOND, |world| {
        world.core(ALPHA).leftovers().ids > 0 && { world.overview(ALPHA).totals.refused == 2 }
    });
    world.crash_with(ALPHA, false);
    world.run_for(60 * SECOND);
    world.restart(BETA);
    assert_eq!(world.core(BETA).leftovers().refusals, 2);
    world.start(ALPHA);
    wait_receipts(&mut world, ALPHA, 2);
    assert!(fates(&mut world, ALPHA).iter().all(|(_, state, _)| *state == State::Refused));
    world.run_for(SECOND);
    assert_eq!(world.core(BETA).leftovers().refusals, 0);
    world.restart(BETA);
    assert_eq!(world.core(BETA).leftovers().refusals, 0);
}

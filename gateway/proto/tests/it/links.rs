//! Links: who is let in, who is not, and what ends one.

use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::core::Core;
use trunkline_gateway_proto::wire::{self, frame::Body};

use crate::scene::{ALPHA, BETA, MAIN, SECOND, inbox, letter, letters, pair, pair_with, wait_receipts};

#[test]
fn a_second_rotation_does_not_lock_the_peer_out_when_its_message_is_lost() {
    let mut world = pair();
    let beta = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerRotateKey(beta.clone())).unwrap();
    world.run_for(SECOND);
    assert_eq!(world.peer(BETA, ALPHA).keys_held.len(), 2);
    world.admin(ALPHA, AdminOp::PeerRotateKey(beta)).ok();
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
}

#[test]
fn a_hello_without_limits_refuses_no_envelope_for_good() {
    let mut world = pair();
    world.tamper = Some(Box::new(|from, body| {
        if let Body::Hello(hello) = body
            && from == BETA
        {
            hello.limits = None;
        }
    }));
    world.cut_now(ALPHA, BETA);
    let long = wire::Submission { payload: vec![7; 250_000].into(), ..letter(0) };
    world.submit(ALPHA, MAIN, vec![long]);
    world.run_for(10 * SECOND);
    world.tamper = None;
    wait_receipts(&mut world, ALPHA, 1);
    assert_eq!(inbox(&mut world, BETA), [0]);
}

#[test]
fn credit_comes_back_when_what_filled_an_inbox_has_expired() {
    let mut world = pair_with(|config| {
        config.credit_messages = 8;
        config.inbox_quota_bytes = 500;
    });
    let mut batch = letters(0..8);
    batch.iter_mut().for_each(|envelope| envelope.ttl_s = 10);
    world.submit(ALPHA, MAIN, batch);
    wait_receipts(&mut world, ALPHA, 8);
    world.submit(ALPHA, MAIN, letters(8..12));
    world.run_for(SECOND);
    assert_eq!(world.peer(ALPHA, BETA).outbox.depth, 4, "no credit is left");
    wait_receipts(&mut world, ALPHA, 12);
    assert_eq!(inbox(&mut world, BETA), [8, 9, 10, 11]);
}

#[test]
fn a_certificate_that_cannot_be_read_does_not_end_the_dialling() {
    let mut world = pair();
    let good = std::mem::replace(&mut world.nodes[BETA].certificate, vec![1, 2, 3].into());
    world.mute.insert(BETA);
    world.cut_now(ALPHA, BETA);
    world.run_for(5 * SECOND);
    world.nodes[BETA].certificate = good;
    world.wait_up(ALPHA, BETA);
}

#[test]
fn a_gateway_that_is_stopping_lets_nobody_in() {
    let mut world = pair();
    world.with_core(ALPHA, Core::stop);
    world.run_for(10 * SECOND);
    assert!(!world.is_up(ALPHA, BETA));
    assert!(world.peer(BETA, ALPHA).last_error.unwrap().contains("shutdown"));
}

#[test]
fn a_large_envelope_gets_through_a_slow_line() {
    let mut world = pair();
    world.weather.bytes_per_s = Some(28_000);
    let largest = wire::Submission { payload: vec![7; 1 << 20].into(), ..letter(0) };
    world.submit(ALPHA, MAIN, vec![largest]);
    world.run_for(60 * SECOND);
    assert_eq!(inbox(&mut world, BETA), [0]);
}

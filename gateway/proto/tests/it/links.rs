//! Links: who is let in, who is not, and what ends one.

use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::wire::{self, frame::Body};

use crate::scene::{ALPHA, BETA, MAIN, SECOND, inbox, letter, letters, pair, pair_with, wait_receipts};

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

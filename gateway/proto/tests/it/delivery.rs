//! From one messaging server to the other: expiry, order, receipts, reading and waiting.

use std::time::Duration;

use trunkline_gateway_proto::admin::{AdminOp, LinkState};
use trunkline_gateway_proto::core::{Core, Reply};
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::store::NetworkKey;
use trunkline_gateway_proto::wire::{self, State};

use crate::scene::{
    ALPHA, BETA, INBOX, MAIN, RECEIPTS, SECOND, inbox, large, letter, letters, pair, pair_with, pause, purge,
    resume, states, wait_receipts,
};
use crate::world::World;

fn brief(n: u64, ttl_s: u64) -> wire::Submission {
    wire::Submission { ttl_s, ..letter(n) }
}

#[test]
fn a_letter_expires_with_the_peer_down() {
    let mut world = pair();
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![letter(0), brief(1, 60), letter(2)]);
    world.run_for(59 * SECOND);
    assert!(states(&mut world, ALPHA).is_empty());
    world.run_for(3 * SECOND);
    assert_eq!(states(&mut world, ALPHA), [(1, State::Expired)]);
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 3);
    assert_eq!(inbox(&mut world, BETA), [0, 2]);
}

#[test]
fn a_letter_expires_with_the_peer_up_when_it_takes_nothing() {
    let mut world = pair_with(|config| config.credit_messages = 8);
    world.with_core(BETA, |core, _| core.set_storage_low(true));
    world.submit(ALPHA, MAIN, letters(0..8));
    wait_receipts(&mut world, ALPHA, 8);
    world.submit(ALPHA, MAIN, vec![brief(8, 60), letter(9)]);
    world.run_for(65 * SECOND);
    assert!(world.is_up(ALPHA, BETA));
    assert_eq!(states(&mut world, ALPHA)[8..], [(8, State::Expired)]);
    world.with_core(BETA, |core, _| core.set_storage_low(false));
    wait_receipts(&mut world, ALPHA, 10);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2, 3, 4, 5, 6, 7, 9]);
}

#[test]
fn what_is_on_its_way_is_not_called_expired_nor_purged() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, vec![brief(0, 5)]);
    world.weather.commit_ms = 20_000..20_001;
    world.run_for(SECOND);
    let domain = world.nodes[BETA].domain.clone();
    world.ask_admin(ALPHA, AdminOp::OutboxPurge { domain, lane: None });
    world.run_for(15 * SECOND);
    world.weather.commit_ms = 1..2;
    wait_receipts(&mut world, ALPHA, 1);
    world.run_for(100 * SECOND);
    assert_eq!(states(&mut world, ALPHA), [(0, State::Delivered)]);
}

#[test]
fn only_the_time_that_is_left_counts_at_the_receiver_whatever_its_clock_says() {
    let mut world = pair();
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![brief(0, 100)]);
    world.run_for(40 * SECOND);
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 1);
    world.run_for(55 * SECOND);
    assert_eq!(inbox(&mut world, BETA), [0]);
    world.run_for(10 * SECOND);
    assert!(inbox(&mut world, BETA).is_empty());
    assert_eq!(world.overview(BETA).networks[0].inbox.depth, 0);
    assert!(world.nodes[BETA].store.occupied().is_empty(), "what expired is gone from the disk");
}

#[test]
fn retention_caps_every_time_to_live() {
    let mut world = pair_with(|config| config.retention = 100 * SECOND);
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![brief(0, 1_000_000), brief(1, 0)]);
    world.run_for(102 * SECOND);
    assert_eq!(states(&mut world, ALPHA), [(0, State::Expired), (1, State::Expired)]);
    world.run_for(102 * SECOND);
    assert!(states(&mut world, ALPHA).is_empty(), "receipts do not wait for ever either");
    assert_eq!(world.core(ALPHA).leftovers().ids, 0);
}

#[test]
fn an_id_is_recognised_until_its_receipt_is_acknowledged_also_after_a_restart() {
    let mut world = pair();
    let submit = |world: &mut World| world.submit(ALPHA, MAIN, vec![letter(0)]).remove(0);
    pause(&mut world);
    assert!(!submit(&mut world).duplicate);
    assert!(submit(&mut world).duplicate);
    world.restart(ALPHA);
    assert!(submit(&mut world).duplicate, "it waits");
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 1);
    assert!(submit(&mut world).duplicate, "its receipt waits");
    world.restart(ALPHA);
    assert!(submit(&mut world).duplicate);
    world.ack(ALPHA, RECEIPTS, 1);
    assert_eq!(inbox(&mut world, BETA), [0]);
    world.ledger.forgiving = true;
    assert!(!submit(&mut world).duplicate, "nothing is kept of it any more");
}

#[test]
fn an_id_is_recognised_for_half_a_minute_after_it_was_read_that_it_was_delivered() {
    let mut world = pair();
    let submit = |world: &mut World| world.submit(ALPHA, MAIN, vec![letter(0)]).remove(0);
    assert!(!submit(&mut world).duplicate);
    wait_receipts(&mut world, ALPHA, 1);
    world.ack(ALPHA, RECEIPTS, 1);
    world.run_for(29 * SECOND);
    assert!(submit(&mut world).duplicate, "who sent it may not have heard of it");
    world.run_for(2 * SECOND);
    world.ledger.forgiving = true;
    assert!(!submit(&mut world).duplicate, "nothing is kept of it any more");
}

#[test]
fn ids_of_different_networks_have_nothing_to_do_with_each_other() {
    let mut world = pair();
    let lab = world.add_network(ALPHA, "lab", Policy::default());
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    let alpha = world.nodes[ALPHA].domain.clone();
    world.admin(BETA, AdminOp::PeerApproveDomains(alpha)).unwrap();
    assert!(!world.submit(ALPHA, MAIN, letters(0..1))[0].duplicate);
    let same = wire::Submission { from: "ann@lab.alpha.test".into(), ..letter(0) };
    assert!(!world.submit(ALPHA, lab, vec![same])[0].duplicate);
    wait_receipts(&mut world, ALPHA, 1);
    world.run_for(SECOND);
    assert_eq!(inbox(&mut world, BETA), [0, 0]);
}

#[test]
fn what_was_acknowledged_to_the_peer_survives_every_crash_and_comes_once() {
    let mut world = pair();
    for n in 0..20 {
        world.submit(ALPHA, MAIN, letters(n..n + 1));
        world.crash_with(BETA, n % 2 == 0);
        world.start(BETA);
        world.run_for(Duration::from_millis(n * 13));
    }
    wait_receipts(&mut world, ALPHA, 20);
    assert_eq!(inbox(&mut world, BETA), (0..20).collect::<Vec<_>>());
}

#[test]
fn a_large_envelope_holds_up_its_own_lane_only() {
    let mut world = pair();
    world.weather.blob_ms = 10_000;
    let same_lane = letter(1);
    let other_lane = wire::Submission { conversation: "another".into(), ..letter(2) };
    world.submit(ALPHA, MAIN, vec![large(0), same_lane, other_lane]);
    world.run_for(SECOND);
    assert_eq!(inbox(&mut world, BETA), [2]);
    wait_receipts(&mut world, ALPHA, 3);
    assert_eq!(inbox(&mut world, BETA), [2, 0, 1]);
}

#[test]
fn a_purge_leaves_receipts_and_goes_on_after_a_restart_of_the_peer() {
    let mut world = pair();
    pause(&mut world);
    world.submit(ALPHA, MAIN, letters(0..3));
    purge(&mut world);
    wait_receipts(&mut world, ALPHA, 3);
    assert!(states(&mut world, ALPHA).iter().all(|(_, state)| *state == State::Purged));
    world.submit(ALPHA, MAIN, letters(3..4));
    world.restart(ALPHA);
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 4);
    assert_eq!(inbox(&mut world, BETA), [3]);
}

#[test]
fn a_removed_peer_is_purged_to_the_end_after_a_restart() {
    let mut world = pair();
    pause(&mut world);
    let batch = (0..50).map(|n| wire::Submission { conversation: format!("c{n}"), ..letter(n) });
    world.submit(ALPHA, MAIN, batch.collect());
    world.ledger.purges += 1;
    world.weather.read_ms = 300..301;
    let beta = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerRemove(beta)).unwrap();
    world.run_for(SECOND);
    world.restart(ALPHA);
    world.weather.read_ms = 1..2;
    wait_receipts(&mut world, ALPHA, 50);
    world.run_for(SECOND);
    assert_eq!(states(&mut world, ALPHA).len(), 50);
    let left = world.nodes[ALPHA].store.state().keys().filter(|key| matches!(key[0], b'o' | b'i' | b'g'));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_full_peer_takes_nothing_from_the_others() {
    let mut world = World::with(1, 3, |config| config.peer_quota_bytes = 1000);
    for node in 0..3 {
        world.add_network(node, "main", Policy::default());
    }
    world.introduce(ALPHA, BETA);
    world.introduce(ALPHA, 2);
    pause(&mut world);
    let results = world.submit(ALPHA, MAIN, letters(0..20));
    let accepted = results.iter().filter(|result| result.problem.is_empty()).count();
    assert!((5..15).contains(&accepted), "{accepted}");
    assert!(results.iter().all(|result| matches!(result.problem.as_str(), "" | "quota")));
    let both = vec!["bob@main.beta.test".into(), "cid@main.gamma.test".into()];
    let result = world.submit(ALPHA, MAIN, vec![wire::Submission { to: both, ..letter(100) }]).remove(0);
    assert_eq!(
        (result.accepted[0].domain.as_str(), result.rejected[0].reason.as_str()),
        ("gamma.test", "quota")
    );
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, accepted + 1);
    assert_eq!(world.submit(ALPHA, MAIN, letters(200..201))[0].problem, "", "there is room again");
}

#[test]
fn nothing_is_taken_while_the_disk_is_nearly_full() {
    let mut world = pair();
    world.with_core(ALPHA, |core, _| core.set_storage_low(true));
    assert_eq!(world.submit(ALPHA, MAIN, letters(0..1))[0].problem, "disk-full");
    world.with_core(ALPHA, |core, _| core.set_storage_low(false));
    assert_eq!(world.submit(ALPHA, MAIN, letters(0..1))[0].problem, "");
}

fn answered(world: &mut World, ticket: trunkline_gateway_proto::core::Ticket) -> Option<usize> {
    match world.nodes[BETA].replies.remove(&ticket)? {
        Reply::Records(records) => Some(records.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_poll_is_answered_when_something_comes_or_when_its_time_is_over() {
    let mut world = pair();
    let first = world.ask_read(BETA, INBOX, None, 10, 60 * SECOND);
    let short = world.ask_read(BETA, INBOX, None, 10, 5 * SECOND);
    world.run_for(10 * SECOND);
    assert_eq!(answered(&mut world, short), Some(0));
    assert_eq!(answered(&mut world, first), None);
    let at = world.now();
    world.submit(ALPHA, MAIN, letters(0..1));
    world.wait("the answer", SECOND, |world| world.nodes[BETA].replies.contains_key(&first));
    assert!(world.now().since(at) < Duration::from_millis(50));
    assert_eq!(answered(&mut world, first), Some(1));
    let behind = world.ask_read(BETA, INBOX, Some(1), 10, 60 * SECOND);
    world.run_for(59 * SECOND);
    assert_eq!(answered(&mut world, behind), None, "what it has is no news");
    world.run_for(2 * SECOND);
    assert_eq!(answered(&mut world, behind), Some(0));
    let last = world.ask_read(BETA, INBOX, Some(1), 10, 60 * SECOND);
    world.with_core(BETA, Core::stop);
    assert_eq!(answered(&mut world, last), Some(0), "nobody waits for a gateway that goes down");
}

#[test]
fn what_is_not_acknowledged_is_handed_out_again_and_what_is_goes_from_the_disk() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..5));
    wait_receipts(&mut world, ALPHA, 5);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2, 3, 4]);
    world.restart(BETA);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2, 3, 4]);
    world.ack(BETA, INBOX, 3);
    world.restart(BETA);
    assert_eq!(inbox(&mut world, BETA), [3, 4]);
    world.ack(BETA, INBOX, 1000);
    assert!(inbox(&mut world, BETA).is_empty());
    assert!(world.nodes[BETA].store.occupied().is_empty());
    world.submit(ALPHA, MAIN, letters(5..6));
    wait_receipts(&mut world, ALPHA, 6);
    assert_eq!(
        inbox(&mut world, BETA),
        [5],
        "an acknowledgement of what was not there yet counts for nothing"
    );
}

#[test]
fn a_slow_messaging_server_slows_its_peers_down_and_loses_nothing() {
    let mut world = pair_with(|config| {
        config.credit_messages = 8;
        config.inbox_quota_bytes = 2000;
    });
    world.submit(ALPHA, MAIN, letters(0..100));
    world.run_for(300 * SECOND);
    let waiting = world.overview(BETA).networks[0].inbox.depth;
    assert!((10..50).contains(&waiting), "{waiting}");
    assert!(world.is_up(ALPHA, BETA), "nothing in flight is no stall");
    let mut read = Vec::new();
    while read.len() < 100 {
        let records = world.read(BETA, INBOX, 1000);
        read.extend(inbox(&mut world, BETA));
        world.ack(BETA, INBOX, records.last().unwrap().0);
        world.run_for(SECOND);
    }
    assert_eq!(read, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_removed_network_takes_its_letters_and_receipts_with_it_and_harms_no_other() {
    let mut world = pair();
    pause(&mut world);
    world.submit(ALPHA, MAIN, letters(0..3));
    world.admin(ALPHA, AdminOp::NetworkRemove { id: "main".parse().unwrap(), purge: true }).unwrap();
    resume(&mut world);
    world.wait("delivered all the same", 60 * SECOND, |world| world.overview(ALPHA).totals.delivered == 3);
    world.run_for(SECOND);
    assert_eq!(world.core(ALPHA).leftovers().ids, 0);
    assert!(world.nodes[ALPHA].store.occupied().is_empty());
    world.restart(ALPHA);
    assert_eq!(world.core(ALPHA).leftovers().ids, 0);
    assert_eq!(world.add_network(ALPHA, "main", Policy::default()), NetworkKey(2));
    world.wait("the link", 60 * SECOND, |world| world.peer(ALPHA, BETA).link == LinkState::Up);
}

//! What operators see of envelopes that were not delivered, of lanes, of latency, and of each other.

use std::time::Duration;

use trunkline_gateway_proto::admin::{AdminOp, Departed, Departure};
use trunkline_gateway_proto::audit;
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::store::Stream;
use trunkline_gateway_proto::wire::{self, frame::Body};

use crate::scene::{ALPHA, BETA, MAIN, SECOND, letter, letters, pair, pause, purge, resume, wait_receipts};
use crate::world::World;

/// Outcome, reason and count of what a node shows of its one peer.
fn departures(world: &World, node: usize) -> Vec<(Departed, String, u64)> {
    let peer = world.peer(node, 1 - node);
    peer.departures
        .into_iter()
        .map(|Departure { outcome, reason, count, .. }| (outcome, reason.into(), count))
        .collect()
}

#[test]
fn a_policys_refusal_is_shown_with_its_reason_on_both_sides() {
    let mut world = pair();
    let policy = Policy { blocked: vec!["ann@main.alpha.test".parse().unwrap()], ..Policy::default() };
    world.update_network(BETA, "main", policy);
    world.submit(ALPHA, MAIN, letters(0..3));
    wait_receipts(&mut world, ALPHA, 3);
    assert_eq!(departures(&world, ALPHA), [(Departed::Refused, "blocked".to_owned(), 3)]);
    assert_eq!(departures(&world, BETA), [(Departed::Rejected, "blocked".to_owned(), 3)]);
    let last = world.peer(ALPHA, BETA).departures[0].last;
    assert!(last <= world.time_of(ALPHA) && world.time_of(ALPHA).since(last) < 60 * SECOND);
}

#[test]
fn expired_and_purged_are_told_apart_and_what_was_delivered_is_not_among_them() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..4));
    wait_receipts(&mut world, ALPHA, 4);
    assert!(departures(&world, ALPHA).is_empty());
    pause(&mut world);
    world.submit(ALPHA, MAIN, vec![wire::Submission { ttl_s: 60, ..letter(4) }]);
    world.run_for(65 * SECOND);
    world.submit(ALPHA, MAIN, letters(5..7));
    purge(&mut world);
    wait_receipts(&mut world, ALPHA, 7);
    let expected =
        [(Departed::Purged, "operator".to_owned(), 2), (Departed::Expired, "time-to-live".to_owned(), 1)];
    assert_eq!(departures(&world, ALPHA), expected);
}

#[test]
fn a_peer_that_makes_up_reasons_adds_no_text_of_its_own() {
    let mut world = pair();
    let policy = Policy { blocked: vec!["ann@main.alpha.test".parse().unwrap()], ..Policy::default() };
    world.update_network(BETA, "main", policy);
    world.tamper = Some(Box::new(|_, body| {
        if let Body::Nack(nack) = body {
            nack.reason = 4711;
        }
    }));
    world.submit(ALPHA, MAIN, letters(0..2));
    wait_receipts(&mut world, ALPHA, 2);
    assert_eq!(departures(&world, ALPHA), [(Departed::Refused, "refused".to_owned(), 2)]);
}

#[test]
fn lanes_are_shown_while_something_is_in_them() {
    let mut world = pair();
    assert!(world.peer(ALPHA, BETA).lanes.is_empty());
    pause(&mut world);
    let other = wire::Submission { conversation: "another".into(), ..letter(3) };
    world.submit(ALPHA, MAIN, [letters(0..3), vec![other]].concat());
    let shown = world.peer(ALPHA, BETA);
    let mut depths: Vec<_> = shown.lanes.iter().map(|lane| lane.queue.depth).collect();
    depths.sort_unstable();
    assert_eq!(depths, [1, 3], "two conversations, two lanes");
    assert_eq!(shown.lanes.iter().map(|lane| lane.queue.bytes).sum::<u64>(), shown.outbox.bytes);
    assert!(shown.lanes.iter().all(|lane| lane.in_flight == 0 && lane.queue.oldest.is_some()));
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 4);
    assert!(world.peer(ALPHA, BETA).lanes.is_empty());
}

#[test]
fn what_is_under_way_is_counted_in_its_lane() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..3));
    // It left, and beta has not got it onto its disk.
    world.weather.commit_ms = 5000..5001;
    world.wait("three are under way", SECOND, |world| {
        world.peer(ALPHA, BETA).lanes.iter().any(|lane| lane.in_flight == 3)
    });
}

#[test]
fn latency_is_that_of_late_and_none_when_nothing_was_acknowledged_for_a_minute() {
    let mut world = pair();
    assert_eq!(world.peer(ALPHA, BETA).latency_ms, None);
    world.submit(ALPHA, MAIN, letters(0..1));
    wait_receipts(&mut world, ALPHA, 1);
    let latency = world.peer(ALPHA, BETA).latency_ms.unwrap();
    assert!((1.0..10_000.0).contains(&latency), "{latency}");
    world.run_for(Duration::from_secs(61));
    assert_eq!(world.peer(ALPHA, BETA).latency_ms, None);
}

#[test]
fn operators_are_told_of_every_audit_entry_once_it_is_durable() {
    let mut world = pair();
    let before = world.nodes[ALPHA].audited.len();
    world.weather.commit_ms = 5000..5001;
    let domain = world.nodes[BETA].domain.clone();
    world.ask_admin(ALPHA, AdminOp::PeerPause(domain));
    world.run_for(SECOND);
    assert_eq!(world.nodes[ALPHA].audited.len(), before, "it is not on the disk yet");
    world.run_for(20 * SECOND);
    let told = world.nodes[ALPHA].audited.clone();
    assert_eq!((told[before].action.as_str(), told[before].actor.as_str()), ("peer.pause", "root"));
    let records = world.read(ALPHA, Stream::Audit, 100_000);
    let log: Vec<audit::Entry> =
        records.iter().map(|(_, record)| serde_json::from_slice(&record.body).unwrap()).collect();
    assert_eq!(told, log);
    let (first, last) = world.core(ALPHA).audit_range();
    assert_eq!((first, last), (1, log.len() as u64));
}

/// A sampler asks for one every two seconds, on the task that does everything else. Run with `--no-capture` to see the time.
#[test]
fn an_overview_of_a_thousand_peers_holds_nobody_up() {
    let mut world = pair();
    for n in 0..1000 {
        let domain = format!("peer{n}.test").parse().unwrap();
        let expires = world.time_of(ALPHA) + Duration::from_secs(3600);
        world.admin(ALPHA, AdminOp::PeerInvite { domain, expires }).unwrap();
    }
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let began = std::time::Instant::now();
        let overview = world.overview(ALPHA);
        best = best.min(began.elapsed());
        assert_eq!(overview.peers.len(), 1001);
    }
    eprintln!("an overview of 1,001 peers took {best:?}");
    // It takes 0.3 ms: only a change of kind shows, also on a busy machine.
    assert!(best < Duration::from_millis(100), "{best:?}");
}

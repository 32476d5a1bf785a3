//! Links: who is let in, who is not, and what ends one.

use std::time::Duration;

use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::core::Core;
use trunkline_gateway_proto::frame::Channel;
use trunkline_gateway_proto::lane::lane_of;
use trunkline_gateway_proto::link::Transport;
use trunkline_gateway_proto::store::Lane;
use trunkline_gateway_proto::wire::{self, Reason, frame::Body};
use trunkline_testkit::rng::Rng;

use crate::scene::{ALPHA, BETA, MAIN, SECOND, inbox, letter, letters, pair, pair_with, wait_receipts};
use crate::world::World;

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

/// Letters that alpha submits meanwhile arrive all the same, each once.
fn loses_nothing(world: &mut World, numbers: std::ops::Range<u64>) {
    world.wait("all letters", 120 * SECOND, |world| world.overview(ALPHA).totals.delivered >= numbers.end);
    world.run_for(SECOND);
    assert_eq!(inbox(world, BETA), numbers.collect::<Vec<_>>());
}

/// What a node said last when it closed links.
fn goaways(world: &World, node: usize) -> Vec<(Reason, String)> {
    let sent = world.sniffed.iter().flatten().filter(|(from, ..)| *from == node);
    sent.filter_map(|(.., body)| match body {
        Body::Goaway(goaway) => Some((goaway.reason(), goaway.detail.clone())),
        _ => None,
    })
    .collect()
}

/// Alpha sends this to beta on the live link: beta closes it and says why, and nothing is lost.
fn is_a_protocol_error(detail: &str, channel: Channel, body: Body) {
    let mut world = pair_with(|config| config.credit_messages = 100);
    world.submit(ALPHA, MAIN, letters(0..3));
    world.run_for(SECOND);
    world.sniffed = Some(Vec::new());
    world.forge(ALPHA, BETA, channel, body);
    world.submit(ALPHA, MAIN, letters(3..6));
    loses_nothing(&mut world, 0..6);
    let goaways = goaways(&world, BETA);
    assert!(
        goaways.iter().any(|(reason, text)| *reason == Reason::ProtocolError && text.contains(detail)),
        "{goaways:?}"
    );
}

fn data(lane: u8, first_seq: u64, items: Vec<wire::item::Body>) -> (Channel, Body) {
    let items = items.into_iter().map(|body| wire::Item { ttl_ms: 1000, body: Some(body) }).collect();
    (Channel::Lane(Lane(lane)), Body::Data(wire::Data { first_seq, items }))
}

fn envelopes(count: usize) -> Vec<wire::item::Body> {
    vec![wire::item::Body::Envelope(vec![0; 10].into()); count]
}

#[test]
fn a_gap_in_a_lane_ends_the_link_and_loses_nothing() {
    let (channel, body) = data(1, 100, envelopes(1));
    is_a_protocol_error("gap", channel, body);
}

#[test]
fn more_envelopes_than_credit_end_the_link() {
    let mut world = pair_with(|config| config.credit_messages = 100);
    world.submit(ALPHA, MAIN, letters(0..3));
    world.run_for(SECOND);
    world.sniffed = Some(Vec::new());
    // The same three again and again: they are dropped, but they count.
    for _ in 0..40 {
        let (channel, body) = data(lane_of("main", "c").0, 1, envelopes(3));
        world.forge(ALPHA, BETA, channel, body);
    }
    world.submit(ALPHA, MAIN, letters(3..6));
    loses_nothing(&mut world, 0..6);
    assert!(goaways(&world, BETA).iter().any(|(_, text)| text.contains("CREDIT")));
}

#[test]
fn more_large_envelopes_than_may_be_under_way_end_the_link() {
    let mut world = pair();
    world.sniffed = Some(Vec::new());
    for blob_id in 0..65 {
        let blob = wire::Blob { blob_id, chunk: vec![0; 10].into(), last: false };
        world.forge(ALPHA, BETA, Channel::Blob(blob_id), Body::Blob(blob));
    }
    world.run_for(SECOND);
    assert!(goaways(&world, BETA).iter().any(|(_, text)| text.contains("too many large envelopes")));
}

#[test]
fn a_large_envelope_beyond_the_limit_ends_the_link() {
    let mut world = pair();
    world.sniffed = Some(Vec::new());
    for _ in 0..20 {
        let blob = wire::Blob { blob_id: 1, chunk: vec![0; 100_000].into(), last: false };
        world.forge(ALPHA, BETA, Channel::Blob(1), Body::Blob(blob));
    }
    world.run_for(SECOND);
    assert!(goaways(&world, BETA).iter().any(|(_, text)| text.contains("larger than HELLO allowed")));
}

#[test]
fn frames_in_the_wrong_phase_end_the_link_and_lose_nothing() {
    let mut world = pair();
    world.sniffed = Some(Vec::new());
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    let frames = world.sniffed.take().unwrap();
    let said = |wanted: fn(&Body) -> bool| {
        frames.iter().find(|(from, .., body)| *from == ALPHA && wanted(body)).unwrap().3.clone()
    };
    is_a_protocol_error("does not belong", Channel::Control, said(|body| matches!(body, Body::Hello(_))));
    is_a_protocol_error("does not belong", Channel::Control, said(|body| matches!(body, Body::Resume(_))));
}

#[test]
fn claims_of_what_never_was_end_the_link() {
    let marks = vec![wire::LaneMark { lane: 3, seq: 7 }];
    is_a_protocol_error("never sent", Channel::Control, Body::Ack(wire::Ack { marks }));
    let nack = wire::Nack { lane: 3, seq: 7, ..wire::Nack::default() };
    is_a_protocol_error("never sent", Channel::Control, Body::Nack(nack));
    let marks = vec![wire::LaneMark { lane: 99, seq: 7 }];
    is_a_protocol_error("no such lane", Channel::Control, Body::Ack(wire::Ack { marks: marks.clone() }));
    is_a_protocol_error("no such lane", Channel::Control, Body::Settled(wire::Settled { marks }));
    let keys = wire::Keys { next_certificate: vec![1, 2, 3].into(), ..wire::Keys::default() };
    is_a_protocol_error("KEYS", Channel::Control, Body::Keys(keys));
    let keys = wire::Keys { next_key_id: "Not An Id".into(), ..wire::Keys::default() };
    is_a_protocol_error("KEYS", Channel::Control, Body::Keys(keys));
}

#[test]
fn bytes_that_are_no_frame_end_the_link_and_lose_nothing() {
    for bytes in [&[0, 0, 0, 1, 0xff][..], &[0xff; 8], &[0, 0, 0, 0]] {
        let mut world = pair();
        world.submit(ALPHA, MAIN, letters(0..3));
        world.forge_bytes(ALPHA, BETA, Channel::Control, bytes);
        world.run_for(100 * SECOND);
        world.submit(ALPHA, MAIN, letters(3..6));
        loses_nothing(&mut world, 0..6);
    }
}

#[test]
fn a_stranger_whose_first_frame_is_not_hello_is_sent_away() {
    let mut world = pair();
    world.tamper = Some(Box::new(|from, body| {
        if from == ALPHA && matches!(body, Body::Hello(_)) {
            *body = Body::Ping(wire::Ping { nonce: 1 });
        }
    }));
    world.mute.insert(BETA);
    world.cut_now(ALPHA, BETA);
    world.run_for(SECOND);
    assert_eq!(world.links_between(BETA, ALPHA), 0);
    assert!(world.peer(ALPHA, BETA).last_error.unwrap().contains("the first frame must be HELLO"));
}

#[test]
fn when_both_dial_at_once_the_link_of_the_smaller_domain_stays() {
    for seed in 1..30 {
        let mut world = pair();
        world.rng = Rng::new(seed);
        world.cut_now(ALPHA, BETA);
        world.weather.latency_ms = 100..101 + seed * 10;
        world.wait_up(ALPHA, BETA);
        world.run_for(10 * SECOND);
        assert_eq!((world.links_between(ALPHA, BETA), world.links_between(BETA, ALPHA)), (1, 1));
        if world.nodes[ALPHA].dials.len() > 1 && world.nodes[BETA].dials.len() > 1 {
            assert!(world.dialled_by(ALPHA, BETA));
        }
        assert!(world.is_up(ALPHA, BETA) && world.is_up(BETA, ALPHA));
    }
}

#[test]
fn a_link_that_one_side_knows_to_be_dead_gives_way_to_a_new_one() {
    for (knows, other) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let mut world = pair();
        world.run_for(5 * SECOND);
        world.mute.insert(other);
        world.cut_unnoticed(knows, other);
        world.run_for(2 * SECOND);
        assert!(world.is_up(knows, other) && world.is_up(other, knows));
        world.submit(ALPHA, MAIN, letters(0..3));
        loses_nothing(&mut world, 0..3);
    }
}

#[test]
fn a_peer_that_falls_silent_is_given_up_after_a_while() {
    let mut world = pair();
    world.run_for(SECOND);
    world.partition(ALPHA, BETA, 100 * SECOND);
    world.run_for(17 * SECOND);
    assert!(world.is_up(ALPHA, BETA));
    world.run_for(4 * SECOND);
    assert!(!world.is_up(ALPHA, BETA));
    world.heal();
    world.wait_up(ALPHA, BETA);
}

#[test]
fn a_peer_that_acknowledges_nothing_loses_its_link_and_the_letters_are_sent_again() {
    let mut world = pair();
    world.tamper = Some(Box::new(|from, body| {
        if let Body::Ack(ack) = body
            && from == BETA
        {
            ack.marks.clear();
        }
    }));
    world.submit(ALPHA, MAIN, letters(0..3));
    world.run_for(29 * SECOND);
    assert!(world.is_up(ALPHA, BETA));
    world.run_for(10 * SECOND);
    let down = |world: &World| {
        world.nodes[ALPHA].events.iter().filter(|(_, why)| why.contains("acknowledged nothing")).count()
    };
    assert_eq!(down(&world), 1);
    loses_nothing(&mut world, 0..3);
}

#[test]
fn an_idle_link_stays_up_for_days_without_a_letter() {
    let mut world = pair();
    let dials = world.nodes[ALPHA].dials.len() + world.nodes[BETA].dials.len();
    world.run_for(3 * 24 * 3600 * SECOND);
    assert!(world.is_up(ALPHA, BETA));
    assert_eq!(world.nodes[ALPHA].dials.len() + world.nodes[BETA].dials.len(), dials);
}

#[test]
fn dials_back_off_with_full_jitter_up_to_a_minute_and_later_to_five() {
    let mut world = pair();
    world.crash(BETA);
    world.wait("the loss is noticed", 60 * SECOND, |world| !world.is_up(ALPHA, BETA));
    let start = world.now();
    world.nodes[ALPHA].dials.clear();
    world.run_for(6 * 3600 * SECOND);
    let dials = &world.nodes[ALPHA].dials;
    let gap = |range: std::ops::Range<u64>| {
        let gaps: Vec<_> = dials
            .windows(2)
            .filter(|pair| range.contains(&(pair[0].since(start).as_secs())))
            .map(|pair| pair[1].since(pair[0]))
            .collect();
        (
            gaps.iter().max().copied().unwrap(),
            gaps.iter().sum::<Duration>() / u32::try_from(gaps.len()).unwrap(),
        )
    };
    assert!(gap(0..1).0 < 2 * SECOND, "soon at first: {dials:?}");
    let (longest, mean) = gap(300..3500);
    assert!(longest <= 61 * SECOND && mean > 20 * SECOND && mean < 40 * SECOND, "{longest:?} {mean:?}");
    let (longest, mean) = gap(4000..21_000);
    assert!(longest <= 301 * SECOND && mean > 100 * SECOND && mean < 200 * SECOND, "{longest:?} {mean:?}");
}

#[test]
fn a_peer_that_comes_back_by_itself_gets_what_waits_at_once() {
    let mut world = pair();
    world.mute.insert(ALPHA);
    world.crash(BETA);
    world.run_for(7200 * SECOND);
    world.submit(ALPHA, MAIN, letters(0..3));
    world.start(BETA);
    world.run_for(2 * SECOND);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2]);
}

#[test]
fn a_link_over_tcp_moves_to_quic_when_that_is_back() {
    let mut world = pair();
    world.weather.transport = Transport::Tcp;
    world.cut_now(ALPHA, BETA);
    world.mute.insert(BETA);
    world.wait_up(ALPHA, BETA);
    assert_eq!(world.peer(ALPHA, BETA).transport.as_deref(), Some("tcp"));
    world.run_for(700 * SECOND);
    assert!(world.nodes[ALPHA].probes >= 2);
    world.weather.transport = Transport::Quic;
    world.submit(ALPHA, MAIN, letters(0..3));
    world.run_for(310 * SECOND);
    assert_eq!(world.peer(ALPHA, BETA).transport.as_deref(), Some("quic"));
    assert_eq!(world.links_between(ALPHA, BETA), 1);
    loses_nothing(&mut world, 0..3);
}

#[test]
fn credit_is_never_exceeded_however_much_there_is_to_send() {
    let mut world = pair_with(|config| {
        config.credit_messages = 16;
        config.credit_bytes = 1;
    });
    world.weather.latency_ms = 5..200;
    let batch = (0..400).map(|n| wire::Submission { conversation: format!("c{}", n % 40), ..letter(n) });
    let batch = batch.map(|letter| match letter.id[15] % 10 {
        0 => wire::Submission { payload: vec![7; 700_000].into(), ..letter },
        _ => letter,
    });
    world.submit(ALPHA, MAIN, batch.collect());
    wait_receipts(&mut world, ALPHA, 400);
    assert!(world.nodes[BETA].events.iter().all(|(kind, _)| *kind != "link.down"), "nobody complained");
}

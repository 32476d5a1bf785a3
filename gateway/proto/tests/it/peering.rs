//! Who is let in: certificate, API key and both operators' consent, and what happens when one is taken back.

use std::time::Duration;

use trunkline_gateway_proto::admin::{AdminError, AdminOp, AdminReply, LinkState};
use trunkline_gateway_proto::directory::{LocalDomain, PeerState};
use trunkline_gateway_proto::pin::{Pin, PinState};
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::wire::{self, frame::Body};

use crate::scene::{ALPHA, BETA, MAIN, SECOND, inbox, letter, letters, pair, pause, resume, wait_receipts};
use crate::world::{World, spare_certificate};

const GAMMA: usize = 2;

fn reason(world: &World, node: usize, other: usize) -> String {
    world.peer(node, other).last_error.unwrap_or_default()
}

/// The link goes down within a moment, and stays down.
fn stays_down(world: &mut World) {
    world.run_for(SECOND);
    assert!(!world.is_up(ALPHA, BETA) && !world.is_up(BETA, ALPHA));
    world.run_for(300 * SECOND);
    assert!(!world.is_up(ALPHA, BETA) && !world.is_up(BETA, ALPHA));
}

#[test]
fn a_peering_that_one_side_accepted_is_not_up() {
    let mut world = World::new(1, 2);
    world.add_network(ALPHA, "main", Policy::default());
    world.add_network(BETA, "main", Policy::default());
    let answer = world.invite(ALPHA, BETA);
    world.run_for(600 * SECOND);
    assert_eq!(world.peer(ALPHA, BETA).state, PeerState::Invited);
    assert_ne!(world.peer(BETA, ALPHA).link, LinkState::Up);
    // Nothing is taken for a peer that the operator has not accepted.
    assert_eq!(world.submit(ALPHA, MAIN, letters(0..1))[0].problem, "unknown-domain");
    let accept = AdminOp::PeerAccept { bundle: Box::new(answer), allow_private_ips: true };
    world.admin(ALPHA, accept).unwrap();
    world.wait_up(ALPHA, BETA);
}

#[test]
fn the_right_certificate_with_a_wrong_key_is_not_let_in() {
    let mut world = pair();
    world.tamper = Some(Box::new(|from, body| {
        if let Body::Hello(hello) = body
            && from == ALPHA
        {
            hello.key_proof = vec![0; 32].into();
        }
    }));
    world.cut_now(ALPHA, BETA);
    stays_down(&mut world);
    assert!(reason(&world, ALPHA, BETA).contains("bad-key"), "{}", reason(&world, ALPHA, BETA));
}

#[test]
fn a_proof_from_another_connection_is_not_let_in() {
    let mut world = pair();
    let mut seen: Option<(String, bytes::Bytes)> = None;
    world.tamper = Some(Box::new(move |from, body| {
        if let Body::Hello(hello) = body
            && from == ALPHA
        {
            let first = seen.get_or_insert_with(|| (hello.key_id.clone(), hello.key_proof.clone())).clone();
            (hello.key_id, hello.key_proof) = first;
        }
    }));
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    world.cut_now(ALPHA, BETA);
    stays_down(&mut world);
}

#[test]
fn the_right_key_with_a_wrong_certificate_is_not_let_in() {
    let mut world = pair();
    world.nodes[ALPHA].certificate = spare_certificate(0);
    world.cut_now(ALPHA, BETA);
    stays_down(&mut world);
    assert!(reason(&world, ALPHA, BETA).contains("not-peered"), "{}", reason(&world, ALPHA, BETA));
}

#[test]
fn another_deployment_at_a_peers_endpoint_gets_nothing() {
    let mut world = World::new(1, 3);
    for node in [ALPHA, BETA, GAMMA] {
        world.add_network(node, "main", Policy::default());
    }
    world.introduce(ALPHA, BETA);
    world.introduce(ALPHA, GAMMA);
    world.wait_up(ALPHA, BETA);
    world.mute.insert(BETA);
    let beta = world.nodes[BETA].domain.clone();
    world.impostors.insert((ALPHA, beta), GAMMA);
    world.cut_now(ALPHA, BETA);
    world.submit(ALPHA, MAIN, letters(0..1));
    world.run_for(60 * SECOND);
    assert!(!world.is_up(ALPHA, BETA));
    assert_eq!(world.peer(ALPHA, BETA).outbox.depth, 1);
}

#[test]
fn a_revoked_pin_closes_a_live_link_at_once() {
    let mut world = pair();
    let pin = Pin::of_certificate(&world.nodes[ALPHA].certificate).unwrap();
    let alpha = world.nodes[ALPHA].domain.clone();
    world.admin(BETA, AdminOp::PeerRevokePin(alpha, pin)).unwrap();
    world.run_for(Duration::from_millis(100));
    assert!(!world.is_up(ALPHA, BETA) && !world.is_up(BETA, ALPHA));
    assert!(
        world.nodes[ALPHA].events.iter().any(|(kind, why)| *kind == "link.down" && why.contains("revoked"))
    );
    stays_down(&mut world);
}

#[test]
fn a_retired_key_closes_a_live_link_at_once() {
    let mut world = pair();
    let alpha = world.nodes[ALPHA].domain.clone();
    // A second key is issued, which alpha has not got; then all but that one are dropped.
    let expires = world.now() + 60 * SECOND;
    world.admin(BETA, AdminOp::PeerInvite { domain: alpha.clone(), expires }).unwrap();
    assert!(world.is_up(ALPHA, BETA), "both are good");
    world.admin(BETA, AdminOp::PeerRetireKeys(alpha)).unwrap();
    world.run_for(Duration::from_millis(100));
    assert!(!world.is_up(ALPHA, BETA) && !world.is_up(BETA, ALPHA));
    stays_down(&mut world);
    assert!(reason(&world, ALPHA, BETA).contains("bad-key"), "{}", reason(&world, ALPHA, BETA));
}

#[test]
fn a_removed_peer_loses_its_live_link_at_once() {
    let mut world = pair();
    let alpha = world.nodes[ALPHA].domain.clone();
    world.admin(BETA, AdminOp::PeerRemove(alpha)).unwrap();
    world.run_for(Duration::from_millis(100));
    assert!(!world.is_up(ALPHA, BETA));
    assert!(reason(&world, ALPHA, BETA).contains("not-peered"));
    world.run_for(300 * SECOND);
    assert!(!world.is_up(ALPHA, BETA));
}

#[test]
fn a_paused_peer_keeps_its_envelopes() {
    let mut world = pair();
    pause(&mut world);
    world.run_for(Duration::from_millis(100));
    assert!(!world.is_up(ALPHA, BETA) && !world.is_up(BETA, ALPHA));
    world.submit(ALPHA, MAIN, letters(0..3));
    world.restart(ALPHA);
    world.run_for(600 * SECOND);
    assert_eq!(world.peer(ALPHA, BETA).outbox.depth, 3);
    assert!(inbox(&mut world, BETA).is_empty());
    resume(&mut world);
    wait_receipts(&mut world, ALPHA, 3);
    assert_eq!(inbox(&mut world, BETA), [0, 1, 2]);
}

#[test]
fn a_bundle_is_good_for_one_answer_in_time_and_for_its_audience() {
    let mut world = World::new(1, 3);
    for node in [ALPHA, BETA, GAMMA] {
        world.add_network(node, "main", Policy::default());
    }
    let answer = world.invite(ALPHA, BETA);
    let accept = |bundle| AdminOp::PeerAccept { bundle: Box::new(bundle), allow_private_ips: true };
    assert!(matches!(world.admin(GAMMA, accept(answer.clone())), Err(AdminError::Invalid(_))));
    let mut other = answer.clone();
    other.in_reply_to = Some("another nonce altogether".into());
    assert!(matches!(world.admin(ALPHA, accept(other)), Err(AdminError::Conflict(_))));
    let late = answer.clone();
    world.admin(ALPHA, accept(answer.clone())).unwrap();
    assert!(matches!(world.admin(ALPHA, accept(answer)), Err(AdminError::Conflict(_))));
    let second = world.invite(ALPHA, GAMMA);
    world.run_for(3700 * SECOND);
    assert!(matches!(world.admin(ALPHA, accept(second)), Err(AdminError::Conflict(_))));
    assert!(matches!(world.admin(ALPHA, accept(late)), Err(AdminError::Conflict(_))));
}

#[test]
fn nobody_takes_over_a_domain_that_belongs_to_another() {
    let mut world = World::new(1, 3);
    for node in [ALPHA, BETA, GAMMA] {
        world.add_network(node, "main", Policy::default());
    }
    world.introduce(ALPHA, BETA);
    let mut answer = world.invite(ALPHA, GAMMA);
    answer.local_domains = world.claims(BETA);
    let accept = AdminOp::PeerAccept { bundle: Box::new(answer.clone()), allow_private_ips: true };
    assert!(matches!(world.admin(ALPHA, accept), Err(AdminError::Conflict(_))));
    answer.local_domains = world.claims(ALPHA);
    let accept = AdminOp::PeerAccept { bundle: Box::new(answer), allow_private_ips: true };
    assert!(matches!(world.admin(ALPHA, accept), Err(AdminError::Conflict(_))));
}

#[test]
fn a_changed_claim_of_domains_waits_for_the_operator() {
    let mut world = pair();
    world.add_network(BETA, "lab", Policy::default());
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    let claim = LocalDomain { domain: "lab.beta.test".parse().unwrap(), network: "lab".parse().unwrap() };
    assert!(world.peer(ALPHA, BETA).claimed_domains.unwrap().contains(&claim));
    assert!(!world.peer(ALPHA, BETA).local_domains.contains(&claim));
    let to_lab = wire::Submission { to: vec!["bob@lab.beta.test".into()], ..letter(0) };
    assert_eq!(world.submit(ALPHA, MAIN, vec![to_lab.clone()])[0].problem, "unknown-domain");
    let from_lab = wire::Submission {
        from: "bob@lab.beta.test".into(),
        to: vec!["ann@main.alpha.test".into()],
        ..letter(1)
    };
    let lab = world.network(BETA, "lab");
    world.submit(BETA, lab, vec![from_lab.clone()]);
    world.wait("a refusal", 60 * SECOND, |world| world.overview(BETA).totals.refused == 1);
    let beta = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, AdminOp::PeerApproveDomains(beta)).unwrap();
    assert!(world.peer(ALPHA, BETA).claimed_domains.is_none());
    world.submit(ALPHA, MAIN, vec![to_lab]);
    world.wait("a delivery", 60 * SECOND, |world| world.overview(ALPHA).totals.delivered == 1);
}

#[test]
fn both_sides_rotate_their_keys_without_an_outage() {
    let mut world = pair();
    let (alpha, beta) = (world.nodes[ALPHA].domain.clone(), world.nodes[BETA].domain.clone());
    let before = (world.peer(ALPHA, BETA).keys_issued, world.peer(BETA, ALPHA).keys_issued);
    world.admin(ALPHA, AdminOp::PeerRotateKey(beta)).unwrap();
    world.admin(BETA, AdminOp::PeerRotateKey(alpha)).unwrap();
    world.run_for(SECOND);
    assert!(world.is_up(ALPHA, BETA), "rotating needs no new link");
    assert_eq!(
        world.peer(ALPHA, BETA).keys_issued.len(),
        2,
        "the old one is good until the new one was used"
    );
    world.restart(BETA);
    world.wait_up(ALPHA, BETA);
    world.run_for(SECOND);
    for (node, other, old) in [(ALPHA, BETA, before.0), (BETA, ALPHA, before.1)] {
        let issued = world.peer(node, other).keys_issued;
        assert_eq!(issued.len(), 1);
        assert_ne!(issued, old);
    }
    world.submit(ALPHA, MAIN, letters(0..1));
    wait_receipts(&mut world, ALPHA, 1);
}

#[test]
fn a_key_whose_announcement_was_lost_does_no_harm() {
    let mut world = pair();
    let beta = world.nodes[BETA].domain.clone();
    let ticket = world.ask_admin(ALPHA, AdminOp::PeerRotateKey(beta.clone()));
    world.wait("the change is on the disk", SECOND, |world| world.nodes[ALPHA].replies.contains_key(&ticket));
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    world.admin(ALPHA, AdminOp::PeerRotateKey(beta)).unwrap();
    world.run_for(SECOND);
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    assert_eq!(world.peer(ALPHA, BETA).keys_issued.len(), 1);
}

#[test]
fn a_rotation_needs_the_link() {
    let mut world = pair();
    pause(&mut world);
    let beta = world.nodes[BETA].domain.clone();
    assert!(matches!(world.admin(ALPHA, AdminOp::PeerRotateKey(beta)), Err(AdminError::Conflict(_))));
}

#[test]
fn an_announced_certificate_is_accepted_when_it_is_used() {
    let mut world = pair();
    assert_eq!(world.peer(ALPHA, BETA).next_certificate_ready, None);
    world.weather.latency_ms = 500..501;
    world.admin(ALPHA, AdminOp::IdentityAnnounce { certificate: spare_certificate(0) }).unwrap();
    assert_eq!(world.peer(ALPHA, BETA).next_certificate_ready, Some(false));
    world.wait("stored at beta", 60 * SECOND, |world| {
        world.peer(ALPHA, BETA).next_certificate_ready == Some(true)
    });
    world.run_for(SECOND);
    world.restart(ALPHA);
    world.restart(BETA);
    assert_eq!(world.peer(ALPHA, BETA).next_certificate_ready, Some(true), "it is not forgotten");
    world.wait_up(ALPHA, BETA);
    world.nodes[ALPHA].certificate = spare_certificate(0);
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    let pins = world.peer(BETA, ALPHA).pins;
    let states: Vec<_> = pins.iter().map(|entry| entry.state).collect();
    assert_eq!(states, [PinState::Retiring, PinState::Current]);
}

#[test]
fn a_certificate_announced_while_a_peer_is_away_reaches_it_later() {
    let mut world = pair();
    world.crash(BETA);
    world.run_for(60 * SECOND);
    world.admin(ALPHA, AdminOp::IdentityAnnounce { certificate: spare_certificate(0) }).unwrap();
    world.restart(ALPHA);
    world.start(BETA);
    world.wait_up(ALPHA, BETA);
    world.wait("stored at beta", 60 * SECOND, |world| {
        world.peer(ALPHA, BETA).next_certificate_ready == Some(true)
    });
}

#[test]
fn a_peer_added_by_hand_on_both_sides_comes_up() {
    use trunkline_gateway_proto::admin::ManualPeer;
    let mut world = World::new(1, 2);
    world.add_network(ALPHA, "main", Policy::default());
    world.add_network(BETA, "main", Policy::default());
    let manual = |world: &World, other: usize, api_key: Option<String>| ManualPeer {
        domain: world.nodes[other].domain.clone(),
        label: String::new(),
        pins: vec![Pin::of_certificate(&world.nodes[other].certificate).unwrap()],
        ca_pem: None,
        api_key,
        endpoints: Vec::new(),
        local_domains: world.claims(other),
        allow_private_ips: true,
    };
    let add = |world: &mut World, node: usize, peer: ManualPeer| match world
        .admin(node, AdminOp::PeerAdd(Box::new(peer)))
    {
        Ok(AdminReply::Added { api_key }) => api_key.to_text(),
        other => panic!("{other:?}"),
    };
    let peer = manual(&world, BETA, None);
    let for_beta = add(&mut world, ALPHA, peer);
    let peer = manual(&world, ALPHA, Some(for_beta));
    let for_alpha = add(&mut world, BETA, peer);
    world.run_for(10 * SECOND);
    assert_eq!(world.peer(ALPHA, BETA).state, PeerState::Invited, "the other key is missing");
    let peer = manual(&world, BETA, Some(for_alpha));
    add(&mut world, ALPHA, peer);
    world.wait_up(ALPHA, BETA);
}

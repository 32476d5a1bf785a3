//! Who may write to whom: the sender's gateway asks at submission, the receiver's at acceptance.

use trunkline_gateway_proto::policy::{Federation, Permitted, Policy};
use trunkline_gateway_proto::wire::{self, State, frame::Body};

use crate::scene::{ALPHA, BETA, MAIN, SECOND, fates, inbox, letter, pair, pair_with, wait_receipts};
use crate::world::World;

fn disabled() -> Policy {
    Policy { federation: Federation::Disabled, ..Policy::default() }
}

fn only(deployment: &str, network: &str) -> Policy {
    let pair = Permitted { domain: deployment.parse().unwrap(), network: network.parse().unwrap() };
    Policy { federation: Federation::Restricted, permitted: vec![pair], ..Policy::default() }
}

fn no_guests() -> Policy {
    Policy { allow_guests: false, ..Policy::default() }
}

fn blocking(address: &str) -> Policy {
    Policy { blocked: vec![address.parse().unwrap()], ..Policy::default() }
}

fn guest(n: u64) -> wire::Submission {
    wire::Submission { guest: true, ..letter(n) }
}

/// What a submission is answered with when alpha's own network has this policy.
fn at_home(policy: Policy, envelope: wire::Submission) -> String {
    let mut world = pair();
    world.update_network(ALPHA, "main", policy);
    let result = world.submit(ALPHA, MAIN, vec![envelope]).remove(0);
    world.run_for(SECOND);
    assert_eq!(result.problem.is_empty(), world.overview(ALPHA).totals.submitted == 1);
    result.problem
}

/// What the receipt says when beta's network has this policy.
fn abroad(policy: Policy, envelope: wire::Submission) -> (State, String) {
    let mut world = pair();
    world.update_network(BETA, "main", policy);
    assert_eq!(world.submit(ALPHA, MAIN, vec![envelope])[0].problem, "");
    wait_receipts(&mut world, ALPHA, 1);
    let (_, state, reason) = fates(&mut world, ALPHA).remove(0);
    assert_eq!(state == State::Delivered, !inbox(&mut world, BETA).is_empty());
    (state, reason)
}

#[test]
fn the_senders_network_is_asked_at_submission() {
    assert_eq!(at_home(disabled(), letter(0)), "federation-disabled");
    assert_eq!(at_home(only("beta.test", "main"), letter(0)), "");
    assert_eq!(at_home(only("beta.test", "lab"), letter(0)), "not-permitted");
    assert_eq!(at_home(only("gamma.test", "main"), letter(0)), "not-permitted");
    assert_eq!(at_home(no_guests(), guest(0)), "guest");
    assert_eq!(at_home(no_guests(), letter(0)), "");
    assert_eq!(at_home(blocking("bob@main.beta.test"), letter(0)), "blocked");
    assert_eq!(at_home(blocking("eve@main.beta.test"), letter(0)), "");
}

#[test]
fn the_receivers_network_is_asked_at_acceptance_and_its_reason_is_in_the_receipt() {
    let refused = |reason: &str| (State::Refused, reason.to_owned());
    let delivered = (State::Delivered, String::new());
    assert_eq!(abroad(disabled(), letter(0)), refused("federation-disabled"));
    assert_eq!(abroad(only("alpha.test", "main"), letter(0)), delivered);
    assert_eq!(abroad(only("alpha.test", "lab"), letter(0)), refused("not-permitted"));
    assert_eq!(abroad(no_guests(), guest(0)), refused("guest"));
    assert_eq!(abroad(no_guests(), letter(0)), delivered);
    assert_eq!(abroad(blocking("ann@main.alpha.test"), letter(0)), refused("blocked"));
    assert_eq!(abroad(blocking("eve@main.alpha.test"), letter(0)), delivered);
}

#[test]
fn one_recipient_is_refused_and_the_other_one_gets_it() {
    let mut world = pair();
    let lab = world.add_network(BETA, "lab", disabled());
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    let beta = world.nodes[BETA].domain.clone();
    world.admin(ALPHA, trunkline_gateway_proto::admin::AdminOp::PeerApproveDomains(beta)).unwrap();
    let to = vec!["bob@main.beta.test".to_owned(), "cid@lab.beta.test".to_owned()];
    world.submit(ALPHA, MAIN, vec![wire::Submission { to, ..letter(0) }]);
    wait_receipts(&mut world, ALPHA, 2);
    assert_eq!(
        fates(&mut world, ALPHA),
        [(0, State::Delivered, String::new()), (0, State::Refused, "federation-disabled".into())]
    );
    assert_eq!(inbox(&mut world, BETA), [0]);
    let in_lab = trunkline_gateway_proto::store::Stream::Inbox { network: lab };
    assert!(world.read(BETA, in_lab, 10).is_empty());
    // Both receipts stand for the id: it is recognised until the second one is read.
    world.ack(ALPHA, crate::scene::RECEIPTS, 1);
    assert!(world.submit(ALPHA, MAIN, vec![letter(0)])[0].duplicate);
    world.ack(ALPHA, crate::scene::RECEIPTS, 2);
    assert_eq!(world.core(ALPHA).leftovers().ids, 0);
}

#[test]
fn a_sender_outside_its_networks_domains_is_refused_at_home() {
    let mut world = pair();
    for from in ["ann@main.beta.test", "ann@other.test", "ann@alpha.test"] {
        let result = world.submit(ALPHA, MAIN, vec![wire::Submission { from: from.into(), ..letter(0) }]);
        assert_eq!(result[0].problem, "sender-domain", "{from}");
    }
}

/// What the receipt says of an envelope that alpha's gateway changed on the way.
fn changed(change: fn(&mut wire::Envelope)) -> (State, String) {
    use prost::Message;
    let mut world = pair();
    world.tamper = Some(Box::new(move |_, body| {
        let Body::Data(data) = body else { return };
        for item in &mut data.items {
            if let Some(wire::item::Body::Envelope(bytes)) = &mut item.body {
                let mut envelope = wire::Envelope::decode(bytes.clone()).unwrap();
                change(&mut envelope);
                *bytes = envelope.encode_to_vec().into();
            }
        }
    }));
    world.submit(ALPHA, MAIN, vec![letter(0)]);
    wait_receipts(&mut world, ALPHA, 1);
    assert!(inbox(&mut world, BETA).is_empty());
    let (_, state, reason) = fates(&mut world, ALPHA).remove(0);
    (state, reason)
}

#[test]
fn a_sender_outside_the_peers_approved_domains_is_refused_abroad() {
    let refused = |reason: &str| (State::Refused, reason.to_owned());
    assert_eq!(changed(|e| e.from = "ann@elsewhere.test".into()), refused("sender-domain"));
    // Nor may it pass for one of ours, or for one of another network of its own.
    assert_eq!(changed(|e| e.from = "bob@main.beta.test".into()), refused("sender-domain"));
    assert_eq!(changed(|e| e.network = "lab".into()), refused("sender-domain"));
}

#[test]
fn what_cannot_be_delivered_is_refused_for_good_and_blocks_nothing() {
    let refused = |reason: &str| (State::Refused, reason.to_owned());
    assert_eq!(changed(|e| e.to = vec!["bob@nowhere.test".into()]), refused("unknown-domain"));
    assert_eq!(changed(|e| e.to = vec!["nobody".into()]), refused("malformed"));
    assert_eq!(changed(|e| e.kind = 99), refused("malformed"));
    assert_eq!(changed(|e| e.id = vec![1; 4].into()), refused("malformed"));
}

#[test]
fn an_oversized_envelope_is_refused_at_home_or_abroad_by_whoever_has_the_limit() {
    let mut world = pair_with(|config| config.payload_bytes_max = 1000);
    let big = |n, bytes: usize| wire::Submission { payload: vec![7; bytes].into(), ..letter(n) };
    assert_eq!(world.submit(ALPHA, MAIN, vec![big(0, 1001)])[0].problem, "too-large");
    // Beta's limit is lower: it refuses what is a little above it, alpha does not even send what is far above.
    let mut world = World::with(1, 2, |config| {
        if config.domain.as_str() == "beta.test" {
            config.payload_bytes_max = 1000;
        }
    });
    world.add_network(ALPHA, "main", Policy::default());
    world.add_network(BETA, "main", Policy::default());
    world.introduce(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
    world.submit(ALPHA, MAIN, vec![big(0, 1001), big(1, 900_000), big(2, 1000)]);
    wait_receipts(&mut world, ALPHA, 3);
    let mut fates = fates(&mut world, ALPHA);
    fates.sort_by_key(|(n, _, _)| *n);
    let refused = |n| (n, State::Refused, "too-large".to_owned());
    assert_eq!(fates, [refused(0), refused(1), (2, State::Delivered, String::new())]);
    assert!(world.is_up(ALPHA, BETA));
}

#[test]
fn networks_of_one_deployment_write_to_each_other_under_both_policies() {
    let world_with = |main: Policy, lab: Policy| {
        let mut world = World::new(1, 1);
        world.add_network(ALPHA, "main", main);
        let lab = world.add_network(ALPHA, "lab", lab);
        let envelope = wire::Submission { to: vec!["bob@lab.alpha.test".into()], ..guest(0) };
        let problem = world.submit(ALPHA, MAIN, vec![envelope])[0].problem.clone();
        let stream = trunkline_gateway_proto::store::Stream::Inbox { network: lab };
        let arrived = world.read(ALPHA, stream, 10).len();
        assert_eq!(arrived == 1, problem.is_empty());
        if arrived == 1 {
            assert_eq!(fates(&mut world, ALPHA), [(0, State::Delivered, String::new())]);
        }
        problem
    };
    assert_eq!(world_with(Policy::default(), Policy::default()), "");
    assert_eq!(world_with(disabled(), Policy::default()), "federation-disabled");
    assert_eq!(world_with(Policy::default(), no_guests()), "guest");
    assert_eq!(world_with(only("alpha.test", "lab"), only("alpha.test", "main")), "");
    assert_eq!(world_with(Policy::default(), only("alpha.test", "other")), "not-permitted");
    assert_eq!(world_with(Policy::default(), blocking("ann@main.alpha.test")), "blocked");
}

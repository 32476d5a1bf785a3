//! Networks and their messaging servers: what is recognised, what is kept, what goes.

use trunkline_gateway_proto::admin::{AdminError, AdminOp};
use trunkline_gateway_proto::directory::{LocalDomain, PeerRecord};
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::state::Key;
use trunkline_gateway_proto::store::{PeerKey, Stream};
use trunkline_gateway_proto::wire;

use crate::scene::{ALPHA, BETA, MAIN, RECEIPTS, SECOND, letter, letters, pair, wait_receipts};
use crate::world::{World, domain};

#[test]
fn an_id_is_recognised_until_the_last_of_many_receipts_is_read() {
    let mut world = World::new(1, 1);
    world.add_network(ALPHA, "main", Policy::default());
    let others: Vec<String> = (0..300).map(|n| format!("n{n}")).collect();
    for id in &others {
        world.add_network(ALPHA, id, Policy::default());
    }
    let to = others.iter().map(|id| format!("bob@{id}.alpha.test")).collect();
    let many = wire::Submission { to, ..letter(0) };
    world.submit(ALPHA, MAIN, vec![many.clone()]);
    world.ack(ALPHA, RECEIPTS, 290);
    assert!(world.submit(ALPHA, MAIN, vec![many.clone()])[0].duplicate);
    world.restart(ALPHA);
    assert!(world.submit(ALPHA, MAIN, vec![many.clone()])[0].duplicate);
    world.ack(ALPHA, RECEIPTS, 300);
    world.run_for(31 * SECOND);
    world.ledger.forgiving = true;
    assert_eq!(world.core(ALPHA).leftovers().ids, 0);
    assert!(!world.submit(ALPHA, MAIN, vec![many])[0].duplicate);
}

#[test]
fn a_removed_network_leaves_nothing_in_the_store() {
    let mut world = pair();
    let mut batch = letters(0..5);
    batch[1].ttl_s = 2;
    batch[3].ttl_s = 2;
    world.submit(ALPHA, MAIN, batch);
    wait_receipts(&mut world, ALPHA, 5);
    world.run_for(10 * SECOND);
    assert!(world.nodes[BETA].store.state().keys().any(|key| key[0] == b'g'), "some have expired");
    let remove = AdminOp::NetworkRemove { id: "main".parse().unwrap(), purge: true };
    world.admin(BETA, remove).unwrap();
    assert!(world.nodes[BETA].store.occupied().is_empty());
    assert!(!world.nodes[BETA].store.state().keys().any(|key| matches!(key[0], b'g' | b'q') && key[1] == 1));
}

#[test]
fn a_deployment_cannot_claim_more_domains_than_its_peers_accept() {
    let mut world = pair();
    let mut spec = world.spec(BETA, "lab", Policy::default());
    spec.local_domains = (0..1001).map(|n| domain(&format!("d{n}.test"))).collect();
    let refused = world.admin(BETA, AdminOp::NetworkAdd(Box::new(spec.clone())));
    assert!(matches!(refused, Err(AdminError::Invalid(text)) if text.contains("local_domains")));
    spec.local_domains.truncate(900);
    world.admin(BETA, AdminOp::NetworkAdd(Box::new(spec))).unwrap();
    world.cut_now(ALPHA, BETA);
    world.wait_up(ALPHA, BETA);
}

#[test]
fn the_oldest_is_one_that_still_waits() {
    let mut world = pair();
    let lane = Stream::Receipts { network: MAIN };
    world.submit(ALPHA, MAIN, letters(0..1));
    wait_receipts(&mut world, ALPHA, 1);
    world.run_for(100 * SECOND);
    world.submit(ALPHA, MAIN, letters(1..2));
    wait_receipts(&mut world, ALPHA, 2);
    let age = |world: &World| world.now().since(world.overview(ALPHA).networks[0].receipts.oldest.unwrap());
    assert!(age(&world) > 99 * SECOND);
    world.ack(ALPHA, lane, 1);
    assert!(age(&world) < SECOND);
    world.restart(ALPHA);
    assert!(age(&world) < SECOND);
    world.ack(ALPHA, lane, 2);
    assert_eq!(world.overview(ALPHA).networks[0].receipts.oldest, None);
}

#[test]
fn fifty_thousand_receipts_that_nobody_reads_expire_in_one_go() {
    let mut world = World::new(1, 1);
    world.add_network(ALPHA, "main", Policy::default());
    world.add_network(ALPHA, "lab", Policy::default());
    for start in (0..50_000).step_by(1000) {
        let batch = letters(start..start + 1000).into_iter();
        let to = || vec!["bob@lab.alpha.test".to_owned()];
        world.submit(ALPHA, MAIN, batch.map(|letter| wire::Submission { to: to(), ..letter }).collect());
    }
    assert_eq!(world.overview(ALPHA).networks[0].receipts.depth, 50_000);
    world.run_for(31 * 24 * 3600 * SECOND);
    assert_eq!(world.overview(ALPHA).networks[0].receipts.depth, 0);
    assert_eq!(world.core(ALPHA).leftovers().ids, 0);
}

#[test]
fn a_start_with_thousands_of_peers_looks_at_each_once() {
    let mut world = World::new(1, 2);
    world.add_network(ALPHA, "main", Policy::default());
    world.add_network(BETA, "main", Policy::default());
    world.introduce(ALPHA, BETA);
    let record = world.core(ALPHA).directory().peer_by_domain("beta.test").unwrap().clone();
    for n in 10..4000 {
        let name = format!("p{n}.test");
        let claim = LocalDomain { domain: domain(&name), network: "main".parse().unwrap() };
        let key = PeerKey(n);
        let peer = PeerRecord { key, domain: domain(&name), local_domains: vec![claim], ..record.clone() };
        world.nodes[ALPHA]
            .store
            .overwrite(Key::Peer(key).encode(), serde_json::to_vec(&peer).unwrap().into());
    }
    world.crash(ALPHA);
    world.start(ALPHA);
    assert_eq!(world.overview(ALPHA).peers.len(), 3991);
    let to = vec!["bob@p3999.test".to_owned()];
    assert_eq!(world.submit(ALPHA, MAIN, vec![wire::Submission { to, ..letter(0) }])[0].problem, "");
}

#[test]
fn only_a_networks_own_domains_can_be_hidden_and_they_are_claimed_like_all() {
    let mut world = pair();
    let mut spec = world.spec(BETA, "main", Policy::default());
    spec.hidden_domains = vec![domain("other.test")];
    let refused = world.admin(BETA, AdminOp::NetworkUpdate(Box::new(spec.clone())));
    assert!(matches!(refused, Err(AdminError::Invalid(text)) if text.contains("hidden_domains")));
    spec.hidden_domains = spec.local_domains.clone();
    world.admin(BETA, AdminOp::NetworkUpdate(Box::new(spec.clone()))).unwrap();
    world.restart(BETA);
    assert_eq!(world.overview(BETA).networks[0].spec.hidden_domains, spec.local_domains);
    assert!(world.claims(BETA).iter().any(|claim| claim.domain == spec.local_domains[0]));
}

//! Our own key pairs, where the store keeps them for replicas.

use trunkline_gateway_proto::admin::{AdminError, AdminOp};
use trunkline_gateway_proto::certificate::Certificate;
use trunkline_gateway_proto::directory::Directory;
use trunkline_gateway_proto::identity::{PemPair, PemPairs};
use trunkline_gateway_proto::pin::Pin;
use trunkline_gateway_proto::store::Stream;

use crate::scene::{ALPHA, BETA, SECOND, pair};
use crate::world::World;

fn made() -> PemPair {
    let made = rcgen::generate_simple_self_signed(["alpha.test".to_owned()]).unwrap();
    PemPair { key: made.signing_key.serialize_pem(), certificate: made.cert.pem() }
}

fn pin(pair: &PemPair) -> Pin {
    Certificate::parse_pem(&pair.certificate).unwrap().0.pin
}

fn keep(world: &mut World, current: &PemPair, next: &PemPair) -> Result<(), AdminError> {
    let op = AdminOp::IdentityKeep { current: current.clone(), next: next.clone() };
    world.admin(ALPHA, op).map(drop)
}

fn kept(world: &World) -> &PemPairs {
    world.core(ALPHA).directory().identity().unwrap()
}

#[test]
fn pairs_that_the_store_keeps_are_there_after_every_crash_of_a_rotation() {
    let mut world = pair();
    let (current, next) = (made(), made());
    keep(&mut world, &current, &next).unwrap();
    world.restart(ALPHA);
    assert_eq!(*kept(&world), PemPairs { current, next: Some(next.clone()) });
    world.wait("stored at beta", 60 * SECOND, |world| {
        world.peer(ALPHA, BETA).next_certificate_ready == Some(true)
    });
    world.admin(ALPHA, AdminOp::IdentityActivate { pin: pin(&next) }).unwrap();
    world.restart(ALPHA);
    assert_eq!(*kept(&world), PemPairs { current: next, next: None });
    assert_eq!(world.peer(ALPHA, BETA).next_certificate_ready, None, "nothing is announced");
}

#[test]
fn what_the_store_keeps_counts_before_what_somebody_gives_who_does_not_know_it() {
    let mut world = pair();
    let (current, next, other) = (made(), made(), made());
    keep(&mut world, &current, &next).unwrap();
    keep(&mut world, &other, &other).unwrap();
    assert_eq!(*kept(&world), PemPairs { current, next: Some(next.clone()) });
    let another = world.admin(ALPHA, AdminOp::IdentityActivate { pin: pin(&other) });
    assert!(matches!(another, Err(AdminError::Conflict(_))), "{another:?}");
    world.admin(ALPHA, AdminOp::IdentityActivate { pin: pin(&next) }).unwrap();
    let late = keep(&mut world, &other, &next);
    assert!(matches!(late, Err(AdminError::Conflict(_))), "it is in use: {late:?}");
    let malformed = PemPair { key: other.key.clone(), certificate: "none".to_owned() };
    assert!(matches!(keep(&mut world, &other, &malformed), Err(AdminError::Invalid(_))));
    assert_eq!(*kept(&world), PemPairs { current: next, next: None });
}

#[test]
fn replicas_get_the_pairs_with_the_directory_and_nothing_that_is_read_by_people_has_a_key() {
    let mut world = pair();
    let without = world.core(ALPHA).directory().to_json();
    assert!(Directory::from_json(&without).unwrap().identity().is_none());
    keep(&mut world, &made(), &made()).unwrap();
    let directory = world.core(ALPHA).directory();
    let there = Directory::from_json(&directory.to_json()).unwrap();
    assert_eq!(there.identity(), directory.identity());
    let text = format!("{there:?} {:?}", AdminOp::IdentityKeep { current: made(), next: made() });
    assert!(!text.contains("BEGIN"), "{text}");
    let log = world.read(ALPHA, Stream::Audit, 1000);
    assert!(log.iter().any(|(_, record)| record.body.windows(17).any(|part| part == b"identity.announce")));
    assert!(!log.iter().any(|(_, record)| record.body.windows(5).any(|part| part == b"BEGIN")));
}

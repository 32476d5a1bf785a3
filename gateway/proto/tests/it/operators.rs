//! What operators change and see: everything they do is in the audit log, and nothing about people is.

use trunkline_gateway_proto::admin::{AdminError, AdminOp};
use trunkline_gateway_proto::administrator::{
    AdministratorOp, PasswordHash, TOTP_SECRET_BYTES, Totp, TotpSecret,
};
use trunkline_gateway_proto::audit;
use trunkline_gateway_proto::directory::Role;
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::settings::SettingsChange;
use trunkline_gateway_proto::store::Stream;

use trunkline_common::token::TokenHash;

use crate::scene::{ALPHA, BETA, MAIN, SECOND, letters, pair, pause, purge, resume, states, wait_receipts};
use crate::world::{World, spare_certificate};

fn log(world: &mut World, node: usize) -> Vec<audit::Entry> {
    let records = world.read(node, Stream::Audit, 100_000);
    records.iter().map(|(_, record)| serde_json::from_slice(&record.body).unwrap()).collect()
}

#[test]
fn the_audit_chain_verifies_after_a_busy_day_and_names_every_change() {
    let mut world = pair();
    let beta = world.nodes[BETA].domain.clone();
    world.submit(ALPHA, MAIN, letters(0..5));
    wait_receipts(&mut world, ALPHA, 5);
    pause(&mut world);
    world.submit(ALPHA, MAIN, letters(5..8));
    purge(&mut world);
    resume(&mut world);
    world.wait_up(ALPHA, BETA);
    world.admin(ALPHA, AdminOp::PeerRotateKey(beta.clone())).unwrap();
    world.admin(ALPHA, AdminOp::IdentityAnnounce { certificate: spare_certificate(0) }).unwrap();
    world.add_network(ALPHA, "lab", Policy::default());
    world.restart(ALPHA);
    world.run_for(7200 * SECOND);
    world.restart(ALPHA);
    world.admin(ALPHA, AdminOp::PeerRemove(beta)).unwrap();
    let entries = log(&mut world, ALPHA);
    audit::verify(audit::genesis(), &entries).unwrap();
    for action in [
        "network.add",
        "peer.invite",
        "peer.accept",
        "peer.pause",
        "outbox.purge",
        "peer.resume",
        "peer.rotate-key",
        "identity.announce",
        "peer.remove",
    ] {
        assert!(entries.iter().any(|entry| entry.action == action && entry.actor == "root"), "{action}");
    }
    let text = format!("{entries:?}");
    assert!(!text.contains("ann@") && !text.contains("bob@"), "a person is named");
}

#[test]
fn what_left_the_outbox_is_counted_in_the_audit_log() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..5));
    wait_receipts(&mut world, ALPHA, 5);
    world.run_for(3700 * SECOND);
    let entries = log(&mut world, ALPHA);
    let counted = entries.iter().find(|entry| entry.action == "outbox.delivered").unwrap();
    assert_eq!((counted.actor.as_str(), counted.target.as_str()), ("gateway", "beta.test"));
    assert_eq!(counted.outcome, "5");
}

#[test]
fn counts_are_written_when_the_gateway_goes_down() {
    let mut world = pair();
    world.submit(ALPHA, MAIN, letters(0..5));
    wait_receipts(&mut world, ALPHA, 5);
    world.shut_down(ALPHA);
    world.start(ALPHA);
    let entries = log(&mut world, ALPHA);
    audit::verify(audit::genesis(), &entries).unwrap();
    assert!(entries.iter().any(|entry| entry.action == "outbox.delivered" && entry.outcome == "5"));
}

#[test]
fn the_last_administrator_cannot_be_removed() {
    let mut world = World::new(1, 1);
    let add =
        |label: &str, role| AdminOp::TokenAdd { label: label.into(), token: TokenHash::of(label), role };
    world.admin(ALPHA, add("root", Role::Admin)).unwrap();
    world.admin(ALPHA, add("eye", Role::Viewer)).unwrap();
    assert!(matches!(world.admin(ALPHA, AdminOp::TokenRemove("root".into())), Err(AdminError::Conflict(_))));
    assert!(matches!(world.admin(ALPHA, add("root", Role::Admin)), Err(AdminError::Conflict(_))));
    world.admin(ALPHA, add("other", Role::Admin)).unwrap();
    world.admin(ALPHA, AdminOp::TokenRemove("root".into())).unwrap();
    world.restart(ALPHA);
    let labels: Vec<_> = world.core(ALPHA).directory().tokens().map(|token| token.label.clone()).collect();
    assert_eq!(labels, ["eye", "other"]);
}

#[test]
fn everything_an_operator_set_is_there_after_a_restart() {
    let mut world = pair();
    world.add_network(ALPHA, "lab", Policy { allow_guests: false, ..Policy::default() });
    let before = world.overview(ALPHA);
    world.shut_down(ALPHA);
    world.start(ALPHA);
    let after = world.overview(ALPHA);
    let facts = |overview: &trunkline_gateway_proto::admin::Overview| {
        let peers = overview.peers.iter().map(|peer| {
            (
                peer.domain.clone(),
                peer.state,
                peer.pins.clone(),
                peer.keys_issued.clone(),
                peer.keys_held.clone(),
            )
        });
        let networks = overview.networks.iter().map(|n| (n.spec.id.clone(), n.spec.policy.clone()));
        (peers.collect::<Vec<_>>(), networks.collect::<Vec<_>>())
    };
    assert_eq!(facts(&before), facts(&after));
}

#[test]
fn a_retry_dials_at_once() {
    let mut world = pair();
    world.crash(BETA);
    world.run_for(7200 * SECOND);
    world.start(BETA);
    world.mute.insert(BETA);
    let dials = world.nodes[ALPHA].dials.len();
    world.admin(ALPHA, AdminOp::OutboxRetry(None)).unwrap();
    world.run_for(SECOND);
    assert!(world.nodes[ALPHA].dials.len() > dials);
    assert!(world.is_up(ALPHA, BETA));
}

#[test]
fn administrators_and_settings_survive_a_restart_and_their_secrets_are_not_in_the_audit_log() {
    let mut world = World::new(1, 1);
    let password =
        |byte| PasswordHash { memory_kib: 8, passes: 1, lanes: 1, salt: [byte; 16], hash: [byte; 32] };
    let add = |name: &str, role| AdministratorOp::Add { name: name.into(), role, password: password(1) };
    let totp = Totp { secret: TotpSecret([7; TOTP_SECRET_BYTES]), used: 10 };
    for op in [
        add("ann", Role::Admin),
        add("bob", Role::Viewer),
        AdministratorOp::Password { name: "ann".into(), password: password(2), proven: Some(password(1)) },
        AdministratorOp::TotpOn { name: "ann".into(), totp, proven: password(2) },
        AdministratorOp::LogIn { name: "ann".into(), step: Some(11) },
        AdministratorOp::Remove("bob".into()),
    ] {
        world.admin(ALPHA, AdminOp::Administrator(op)).unwrap();
    }
    let change = SettingsChange { session_idle_s: Some(Some(600)), ..SettingsChange::default() };
    world.admin(ALPHA, AdminOp::Settings(change)).unwrap();
    world.restart(ALPHA);
    let directory = world.core(ALPHA).directory();
    assert_eq!(directory.administrators().count(), 1);
    let ann = directory.administrator("ann").unwrap();
    assert_eq!((&ann.password, ann.must_change_password), (&password(2), false));
    assert_eq!(ann.totp.as_ref().unwrap().used, 11, "a code that was used stays used");
    assert_eq!(directory.settings().session_idle_s, Some(600));
    let entries = log(&mut world, ALPHA);
    audit::verify(audit::genesis(), &entries).unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
    for action in ["administrator.add", "administrator.password", "administrator.totp-on", "login"] {
        assert!(actions.contains(&action), "{action}");
    }
    let settings = entries.iter().find(|entry| entry.action == "settings.change").unwrap();
    assert_eq!(settings.outcome, "session_idle_s=600");
    let text = format!("{entries:?}");
    assert!(!text.contains("BwcHBw") && !text.contains("AgICAg"), "a secret is in the audit log");
}

#[test]
fn a_retention_that_is_set_holds_for_what_comes_in_from_then_on() {
    let mut world = pair();
    pause(&mut world);
    let set = |retention_s| {
        AdminOp::Settings(SettingsChange { retention_s: Some(retention_s), ..SettingsChange::default() })
    };
    world.submit(ALPHA, MAIN, letters(0..1));
    world.admin(ALPHA, set(Some(100))).unwrap();
    world.submit(ALPHA, MAIN, letters(1..2));
    world.admin(ALPHA, set(None)).unwrap();
    world.submit(ALPHA, MAIN, letters(2..3));
    world.run_for(110 * SECOND);
    let expired: Vec<_> = states(&mut world, ALPHA).into_iter().map(|(n, _)| n).collect();
    assert_eq!(expired, [1]);
}

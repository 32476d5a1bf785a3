//! A day with the command line: real processes from an empty directory on.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::process::{Gateway, text};

#[test]
fn a_fresh_gateway_starts_with_what_init_decided_and_stops_when_told() {
    let mut gateway = Gateway::running("alpha.test");
    assert!(!gateway.path("data/bootstrap.json").exists());
    let networks = gateway.json(&["network", "list"]);
    assert_eq!(networks["networks"][0]["local_domains"][0], "alpha.test");
    assert_eq!(gateway.json(&["token", "list"])["tokens"][0]["label"], "root");
    assert_eq!(gateway.stop(), Some(0));
    assert!(!gateway.path("data/listening.json").exists());
    gateway.start();
    assert_eq!(gateway.json(&["network", "list"])["networks"], networks["networks"]);
    assert_eq!(gateway.json(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_second_process_on_the_same_data_is_refused_in_one_line() {
    let gateway = Gateway::running("alpha.test");
    let second = gateway.cli(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(error.contains("in use by another trunkline-gateway"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn two_deployments_peer_and_rotate_certificate_and_key_without_losing_the_link() {
    let (mut alpha, mut beta) = (Gateway::running("alpha.test"), Gateway::running("beta.test"));
    alpha.peer(&mut beta, "alpha.test", "beta.test");

    let next = alpha.json(&["identity", "rotate"])["next"]["pin"].clone();
    alpha.wait("announced", |alpha| {
        alpha.json(&["identity", "show"])["next"]["ready"] == serde_json::json!(["beta.test"])
    });
    assert_eq!(alpha.json(&["identity", "activate"])["current"]["pin"], next);
    let keys_before = alpha.json(&["peer", "show", "beta.test"])["keys_issued"].clone();
    alpha.ok(&["peer", "rotate-key", "beta.test"]);
    alpha.ok(&["outbox", "retry"]);
    beta.wait("told", |beta| {
        let held = beta.json(&["peer", "show", "alpha.test"])["keys_held"].clone();
        held.as_array().unwrap().last() != keys_before.as_array().unwrap().last()
    });
    assert_eq!(alpha.stop(), Some(0));
    alpha.start();
    alpha.wait("linked with its new certificate and key", |alpha| {
        alpha.json(&["peer", "show", "beta.test"])["link"] == "up"
    });
    beta.wait("using the new pin", |beta| {
        let peer = beta.json(&["peer", "show", "alpha.test"]);
        let pins = peer["pins"].as_array().unwrap();
        pins.iter().any(|entry| entry["pin"] == next && entry["state"] == "current")
    });
}

#[test]
fn an_identity_is_not_activated_while_a_peer_does_not_know_it() {
    let gateway = Gateway::running("alpha.test");
    let certificate = Gateway::init("beta.test");
    let crt = certificate.path("identity/current.crt");
    let key = certificate.path("api-key");
    gateway.ok(&[
        "peer",
        "add",
        "beta.test",
        "--certificate",
        text(&crt),
        "--endpoint",
        "127.0.0.1:9",
        "--out",
        text(&key),
    ]);
    gateway.ok(&[
        "peer",
        "add",
        "beta.test",
        "--certificate",
        text(&crt),
        "--endpoint",
        "127.0.0.1:9",
        "--api-key-file",
        text(&key),
    ]);
    gateway.ok(&["identity", "rotate"]);
    let refused = gateway.cli(&["identity", "activate"]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(error.contains("beta.test") && error.lines().count() == 1, "{error}");
    gateway.ok(&["identity", "activate", "--force"]);
}

#[test]
fn events_are_followed_as_they_happen() {
    let (mut alpha, mut beta) = (Gateway::running("alpha.test"), Gateway::running("beta.test"));
    alpha.peer(&mut beta, "alpha.test", "beta.test");
    let mut follower = alpha.spawn(&["--json", "events", "--count", "4"]);
    // The follower may not be there for the first of them.
    alpha.wait("followed", |alpha| {
        alpha.ok(&["peer", "pause", "beta.test"]);
        alpha.ok(&["peer", "resume", "beta.test"]);
        follower.try_wait().unwrap().is_some()
    });
    let output = follower.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What somebody did, and what came of it.
    for kind in ["audit", "link."] {
        let found = events.iter().find(|event| event["kind"].as_str().unwrap().starts_with(kind));
        assert_eq!(found.unwrap_or(&serde_json::Value::Null)["peer"], "beta.test", "{text}");
    }
}

#[test]
fn a_recovered_token_opens_the_gateway_from_its_next_start_on() {
    let mut gateway = Gateway::running("alpha.test");
    let token = gateway.ok(&["token", "recover"]);
    std::fs::write(gateway.path("admin.token"), token).unwrap();
    assert_eq!(gateway.cli(&["status"]).status.code(), Some(1));
    assert_eq!(gateway.stop(), Some(0));
    gateway.start();
    assert_eq!(gateway.json(&["token", "list"])["tokens"].as_array().unwrap().len(), 2);
}

#[test]
fn the_command_line_trusts_the_certificate_that_the_configuration_gives_the_admin_api() {
    let mut gateway = Gateway::init("alpha.test");
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(gateway.path("admin.crt"), certified.cert.pem()).unwrap();
    std::fs::write(gateway.path("admin.key"), certified.signing_key.serialize_pem()).unwrap();
    let config = std::fs::read_to_string(gateway.path("gateway.toml")).unwrap();
    let (before, admin) = config.split_once("[admin_api]").unwrap();
    let admin = admin
        .replace("# tls_certificate = \"tls/admin.crt\"", "tls_certificate = \"admin.crt\"")
        .replace("# tls_key = \"tls/admin.key\"", "tls_key = \"admin.key\"");
    std::fs::write(gateway.path("gateway.toml"), format!("{before}[admin_api]{admin}")).unwrap();
    gateway.start();
    assert_eq!(gateway.json(&["status"])["domain"], "alpha.test");
}

#[test]
fn a_check_beside_the_running_gateway_finds_its_ports_in_use_and_nothing_wrong() {
    let (mut alpha, mut beta) = (Gateway::running("alpha.test"), Gateway::running("beta.test"));
    alpha.peer(&mut beta, "alpha.test", "beta.test");
    let checked = alpha.json(&["run", "--check"]);
    assert_eq!(checked["ok"], true, "{checked:#}");
    assert!(checked.to_string().contains("by the gateway that runs on this data_dir"), "{checked:#}");
}

#[test]
fn a_follower_of_events_does_not_hold_up_a_stop() {
    let mut gateway = Gateway::running("alpha.test");
    let mut follower = gateway.spawn(&["events"]);
    gateway.wait("followed", |gateway| gateway.connections("admin_api") > 0);
    let started = std::time::Instant::now();
    assert_eq!(gateway.stop(), Some(0));
    // Connections that do not end by themselves are cut off after ten seconds.
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(follower.wait().unwrap().code(), Some(1));
}

#[test]
fn init_at_a_terminal_asks_and_makes_the_gateway_in_a_directory_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let init = format!("{} init", env!("CARGO_BIN_EXE_trunkline-gateway"));
    // `script` of util-linux gives it a terminal of its own.
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", &init, "/dev/null"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    script.stdin.as_mut().unwrap().write_all(b"alpha.test\n\n").unwrap();
    let output = script.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Federation domain:") && said.contains("[alpha.test:8443]"), "{said}");
    assert!(dir.path().join("alpha.test/gateway.toml").is_file(), "{said}");
}

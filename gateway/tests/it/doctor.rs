//! The doctor against real gateways: all well, and each thing that may be wrong.

use serde_json::Value;

use crate::process::{Gateway, text};

/// What the doctor finds, and whether it exits as if something had failed.
fn doctor(gateway: &Gateway) -> (Vec<Value>, bool) {
    let output = gateway.cli(&["--json", "doctor"]);
    let value: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (value["checks"].as_array().unwrap().clone(), output.status.code() == Some(1))
}

/// Failures, but for those of the machine the test runs on: its clock and what is under its temporary directory.
fn failures(checks: &[Value]) -> Vec<&Value> {
    let of_machine =
        |check: &Value| ["clock", "disk", "file system"].iter().any(|kind| check["check"] == *kind);
    checks.iter().filter(|check| check["outcome"] == "failed" && !of_machine(check)).collect()
}

fn find<'a>(checks: &'a [Value], check: &str, subject: &str) -> &'a Value {
    let found = checks.iter().find(|found| {
        found["check"] == check && found["subject"].as_str().is_some_and(|text| text.starts_with(subject))
    });
    found.unwrap_or_else(|| panic!("no {check} of {subject} in {checks:#?}"))
}

#[test]
fn of_two_gateways_that_are_linked_the_doctor_finds_nothing_wrong() {
    let (mut alpha, mut beta) = (Gateway::running("alpha.test"), Gateway::running("beta.test"));
    alpha.peer(&mut beta, "alpha.test", "beta.test");
    let (checks, _) = doctor(&alpha);
    assert_eq!(failures(&checks), Vec::<&Value>::new());
    for subject in ["QUIC (UDP) at 127.0.0.1", "TCP at 127.0.0.1"] {
        for check in ["listener", "endpoint"] {
            let found = find(&checks, check, subject);
            assert_eq!(found["outcome"], "ok", "{found:#}");
            assert!(
                found["finding"].as_str().unwrap().contains("refuses one that nobody trusts"),
                "{found:#}"
            );
        }
    }
    assert_eq!(find(&checks, "peer", "beta.test")["outcome"], "ok");
    assert!(find(&checks, "dns", "127.0.0.1")["finding"].as_str().unwrap().contains("loopback"));
    assert_eq!(find(&checks, "files", "keys")["outcome"], "ok");
    assert_eq!(find(&checks, "deployment key", "")["outcome"], "ok");
}

#[test]
fn an_advertised_port_where_nobody_listens_is_found_and_the_listener_is_not_blamed() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut gateway = Gateway::init_with("alpha.test", &["--advertise", &nobody]);
    gateway.start();
    let (checks, failed) = doctor(&gateway);
    assert!(failed);
    for subject in ["QUIC (UDP)", "TCP"] {
        assert_eq!(find(&checks, "listener", subject)["outcome"], "ok");
        let found = find(&checks, "endpoint", subject);
        assert_eq!(found["outcome"], "failed", "{found:#}");
        assert!(found["advice"].as_str().unwrap().contains("link.advertise"), "{found:#}");
    }
}

#[test]
fn an_endpoint_that_leads_to_another_gateway_is_told_by_its_pin() {
    let other = Gateway::running("other.test");
    let mut gateway = Gateway::init_with("alpha.test", &["--advertise", &other.address("link")]);
    gateway.start();
    let (checks, failed) = doctor(&gateway);
    assert!(failed);
    let pin = other.json(&["identity", "show"])["current"]["pin"].clone();
    for subject in ["QUIC (UDP)", "TCP"] {
        let finding = find(&checks, "endpoint", subject)["finding"].as_str().unwrap();
        assert!(finding.contains(pin.as_str().unwrap()), "{finding}");
    }
}

#[test]
fn a_peer_with_a_wrong_pin_is_explained() {
    let (mut alpha, beta) = (Gateway::running("alpha.test"), Gateway::running("beta.test"));
    alpha.advertise();
    let stranger = Gateway::init("stranger.test");
    let (certificate, key) = (stranger.path("identity/current.crt"), stranger.path("key"));
    let endpoint = beta.address("link");
    let add = ["peer", "add", "beta.test", "--endpoint", &endpoint, "--certificate", text(&certificate)];
    alpha.ok(&[&add[..], &["--allow-private-ips", "--out", text(&key)]].concat());
    alpha.ok(&[&add[..], &["--allow-private-ips", "--api-key-file", text(&key)]].concat());
    alpha.wait("refusing beta's certificate", |alpha| {
        alpha.json(&["peer", "show", "beta.test"])["last_error"].is_string()
    });
    let (checks, failed) = doctor(&alpha);
    assert!(failed);
    let found = find(&checks, "peer", "beta.test");
    assert!(found["finding"].as_str().unwrap().contains("not one of its pins"), "{found:#}");
    assert!(found["advice"].as_str().unwrap().contains("somebody is in between"), "{found:#}");
    let said = alpha.ok(&["status"]);
    assert!(said.starts_with("beta.test: The link is down"), "{said}");
}

#[test]
fn a_gateway_that_does_not_run_is_said_to_and_its_store_is_looked_at_without_harm() {
    let mut gateway = Gateway::running("alpha.test");
    assert_eq!(gateway.stop(), Some(0));
    let store = gateway.path("data/gateway.redb");
    let before = std::fs::read(&store).unwrap();
    let (checks, failed) = doctor(&gateway);
    assert!(failed);
    assert!(checks[0]["finding"].as_str().unwrap().contains("does not run"), "{:#}", checks[0]);
    assert_eq!(find(&checks, "start", "store")["outcome"], "ok");
    assert_eq!(std::fs::read(&store).unwrap(), before);
    gateway.start();
}

#[test]
fn after_a_kill_the_store_is_looked_at_without_harm_and_the_gateway_starts() {
    let mut gateway = Gateway::running("alpha.test");
    gateway.signal("KILL");
    gateway.ended();
    let (store, keys) = (gateway.path("data/gateway.redb"), gateway.path("data/gateway.keys"));
    let read = || (std::fs::read(&store).unwrap(), std::fs::read(&keys).unwrap());
    let before = read();
    let checked = gateway.json(&["run", "--check"]);
    assert_eq!(checked["ok"], true, "{checked:#}");
    assert_eq!(read(), before);
    gateway.start();
}

#[test]
fn a_store_of_another_deployment_key_is_found_before_the_start() {
    let (mut gateway, other) = (Gateway::running("alpha.test"), Gateway::init("other.test"));
    assert_eq!(gateway.stop(), Some(0));
    std::fs::copy(other.path("deployment.key"), gateway.path("deployment.key")).unwrap();
    let checked = gateway.cli(&["run", "--check"]);
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8(checked.stdout).unwrap();
    let line = said.lines().find(|line| line.starts_with("store")).unwrap();
    assert!(line.contains("FAILED"), "{line}");
}

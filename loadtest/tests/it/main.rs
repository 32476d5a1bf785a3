//! Small runs of every scenario: that nothing is lost, duplicated or reordered, not how fast it is; and the demo as
//! people see it in their browsers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test's helpers fail the test and say why: clippy excuses only functions marked as tests"
)]

mod browse;
mod console;
mod demo;
mod manual;
mod modules;
mod pages;
mod story;
mod totp;

use std::process::Command;

use serde_json::Value;

/// Runs a scenario and answers its JSON line.
fn run(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline-loadtest"))
        .args(["--json", "--time-max-s", "240"])
        .args(args)
        .output()
        .expect("the program was built with this test");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?} ended with {}\n{out}{err}", output.status);
    let report = serde_json::from_str(out.trim());
    assert!(report.is_ok(), "not one JSON line: {out}");
    report.unwrap_or_default()
}

/// Asserts that a scenario delivered everything exactly once, unchanged and in order.
fn assert_flawless(report: &Value) {
    for field in ["lost", "duplicated", "reordered", "corrupted"] {
        assert_eq!(report[field], 0, "{field}: {report}");
    }
}

#[test]
fn two_deployments_from_an_empty_directory_exchange_messages_and_hold_a_call() {
    let report = run(&["demo", "--once"]);
    // Two each way, five that waited, an invitation.
    assert_eq!(report["delivered"], 10, "{report}");
    assert!(report["took_s"].as_f64() < Some(60.0), "{report}");
    let steps: Vec<_> = report["steps"].as_array().into_iter().flatten().collect();
    let told: Vec<_> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    for expected in
        ["same safety number", "not-permitted", "wait in its queue", "drained", "invited ben", "pictures"]
    {
        assert!(told.iter().any(|step| step.contains(expected)), "{expected}: {told:?}");
    }
}

#[test]
fn everything_arrives_once_in_order_and_is_receipted() {
    let report = run(&["envelopes", "--count", "2000"]);
    assert_flawless(&report);
    assert_eq!(report["receipts_delivered"], 2000);
}

#[test]
fn everything_arrives_over_a_distant_and_lossy_path() {
    let report = run(&["envelopes", "--count", "2000", "--rtt-ms", "50", "--loss", "0.01"]);
    assert_flawless(&report);
}

#[test]
fn everything_arrives_when_udp_is_blocked() {
    let report = run(&["envelopes", "--count", "2000", "--transport", "tcp"]);
    assert_flawless(&report);
    assert_eq!(report["transport"], "tcp");
}

#[test]
fn a_backlog_drains_completely_when_its_peer_returns() {
    assert_flawless(&run(&["outage", "--backlog", "3000", "--steady", "1000", "--quiet-s", "1"]));
}

#[test]
fn dead_peers_cost_the_live_ones_no_envelope() {
    let args = ["dead-peers", "--peers", "12", "--dead", "0.84", "--count", "1000", "--waiting", "10"];
    let report = run(&args);
    assert_flawless(&report);
    assert_eq!((&report["live"], &report["dead"]), (&Value::from(2), &Value::from(10)));
}

#[test]
fn killed_gateways_lose_nothing_repeat_nothing_and_keep_the_order() {
    let report = run(&["crash", "--kills", "3", "--seed", "1", "--rate", "500"]);
    assert_flawless(&report);
    assert_eq!((&report["kills"], &report["seed"]), (&Value::from(3), &Value::from(1)));
    assert_eq!(report["receipts_delivered"], report["envelopes"]);
}

/// The fields that other programs read of a call's report.
const CALL_FIELDS: [&str; 13] = [
    "forwarded_packets",
    "cpu_ns_per_packet",
    "limit_ns_per_packet",
    "ratio_to_limit",
    "loss",
    "latency_ms.p50",
    "latency_ms.p99",
    "join_ms.p50",
    "join_ms.p99",
    "cpu_ms_per_join",
    "rss_bytes_per_participant",
    "gso_fraction",
    "allocations_per_packet",
];

fn call(args: &[&str]) -> Value {
    let few: &[&str] = if args.contains(&"--participants") { &[] } else { &["--participants", "3"] };
    let report = run(&[&["call", "--duration-s", "2"], few, args].concat());
    for field in CALL_FIELDS {
        let found = field.split('.').fold(&report, |value, name| &value[name]);
        let may_lack = field.starts_with("limit") || field.starts_with("ratio") || field == "gso_fraction";
        assert!(found.is_number() || may_lack, "{field}: {report}");
    }
    assert!(report["forwarded_packets"].as_u64() > Some(100), "{report}");
    report
}

#[test]
fn everybody_on_a_call_receives_all_that_is_published() {
    let report = call(&[]);
    assert_eq!(report["loss"], 0.0, "{report}");
    assert!(report["ratio_to_limit"].is_number(), "{report}");
}

#[test]
fn everybody_hears_and_sees_everybody() {
    let report = call(&["--publishers", "3", "--audio", "--video-burst", "4"]);
    assert_eq!(report["loss"], 0.0, "{report}");
}

#[test]
fn everybody_sees_one_camera_large_and_the_others_small() {
    let report = call(&["--participants", "5", "--publishers", "5", "--slots", "3", "--video-burst", "2"]);
    assert_eq!(report["loss"], 0.0, "{report}");
    // A large one besides.
    assert_eq!((&report["slots_video"], &report["simulcast"]), (&Value::from(4), &Value::from(true)));
    assert!(report["ratio_to_limit"].is_number(), "{report}");
}

#[test]
fn who_tells_when_packets_arrive_gets_all_of_them_where_the_line_carries_them() {
    let report = call(&["--simulcast", "--adaptive", "--publishers", "3", "--video-burst", "2"]);
    assert_eq!((&report["loss"], &report["wrong"]), (&Value::from(0.0), &Value::from(0)), "{report}");
    assert_eq!((&report["simulcast"], &report["adaptive"]), (&Value::from(true), &Value::from(true)));
}

#[test]
fn a_broadcast_on_two_workers_loses_nothing() {
    let spread = ["--mode", "broadcast", "--workers", "2", "--worker-participants", "4"];
    let report = call(&[&["--participants", "10"], &spread[..]].concat());
    assert_eq!((&report["loss"], &report["mode"]), (&Value::from(0.0), &Value::from("broadcast")));
}

#[test]
fn what_a_network_loses_of_a_call_is_repaired() {
    let report = call(&["--loss", "0.05", "--reorder", "0.02", "--duplicate", "0.02"]);
    assert!(report["loss"].as_f64() <= Some(0.001), "{report}");
    assert!(report["limit_ns_per_packet"].is_null(), "{report}");
}

#[test]
fn a_call_over_tcp_or_tls_loses_nothing() {
    for transport in ["tcp", "tls"] {
        let report = call(&["--participants", "6", "--transport", transport]);
        assert_eq!((&report["loss"], &report["transport"]), (&Value::from(0.0), &Value::from(transport)));
        assert!(report["ratio_to_limit"].is_number(), "{report}");
    }
}

#[test]
fn a_call_through_an_ingress_loses_nothing_and_says_what_the_ingress_costs() {
    let report = call(&["--participants", "6", "--via", "ingress"]);
    assert_eq!((&report["loss"], &report["via"]), (&Value::from(0.0), &Value::from("ingress")));
    for field in ["ingress_cpu_ns_per_packet", "ingress_limit_ns_per_packet", "ingress_ratio_to_limit"] {
        assert!(report[field].as_f64() > Some(0.0), "{field}: {report}");
    }
    for field in ["p50", "p99"] {
        assert!(report["added_latency_ms"][field].is_number(), "{field}: {report}");
    }
}

#[test]
fn a_call_over_tcp_or_tls_through_an_ingress_loses_nothing() {
    for transport in ["tcp", "tls"] {
        let report = call(&["--participants", "6", "--via", "ingress", "--transport", transport]);
        assert_eq!(report["loss"], 0.0, "{report}");
        assert!(report["ingress_cpu_ns_per_packet"].as_f64() > Some(0.0), "{report}");
    }
}

#[test]
fn a_storm_of_joins_leaves_nobody_outside() {
    let report = run(&["join-storm", "--joins", "40", "--over-s", "2", "--participants-per-call", "8"]);
    assert_eq!((&report["joins"], &report["failed"]), (&Value::from(40), &Value::from(0)), "{report}");
    for field in ["cpu_ms_per_join", "ingress_cpu_ms_per_join"] {
        assert!(report[field].as_f64() > Some(0.0), "{field}: {report}");
    }
    assert!(report["join_ms"]["p99"].as_f64() > Some(0.0), "{report}");
}

#[test]
fn a_flood_of_forged_packets_grows_no_memory_and_leaves_calls_alone() {
    let args = ["--forged", "20000", "--forged-per-s", "10000", "--participants", "6", "--fps", "30"];
    let report = run(&[&["flood"][..], &args].concat());
    assert_eq!(report["forged_packets"], 20_000, "{report}");
    // All of them are dropped, each for its reason, and only they.
    let dropped = |reason: &str| report["dropped"][reason].as_u64();
    for reason in ["forged", "expired", "malformed", "unknown_flow"] {
        assert!(dropped(reason) > Some(1000), "{reason}: {report}");
    }
    assert!(report["cpu_ns_per_forged_packet"].is_number(), "{report}");
}

#[test]
fn a_directory_that_holds_something_is_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("mine"), "precious").expect("a file in it");
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline-loadtest"))
        .args(["demo", "--once", "--dir"])
        .arg(dir.path())
        .output()
        .expect("the program was built with this test");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
    assert_eq!(std::fs::read_dir(dir.path()).expect("still there").count(), 1);
}

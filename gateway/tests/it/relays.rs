//! A gateway that looks at a relay, as a whole process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::Value;

use crate::process::{Gateway, text};

/// Answers one request as a relay node with one call would.
fn answer(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = reader.by_ref().lines();
    let request = lines.next()?.ok()?;
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    // What is left unread when a connection is closed may take the answer with it.
    let length =
        head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let known = head.iter().any(|line| line.eq_ignore_ascii_case("authorization: bearer tlr_relay"));
    let (status, body) = match request.rsplit_once(' ')?.0 {
        "GET /healthz" => (
            "200 OK",
            r#"{"status":"alive","node":7,"draining":false,"calls":1,"calls_max":9,"participants":2,"busy":0.5,"started_at":1}"#,
        ),
        _ if !known => ("401 Unauthorized", "{}"),
        "GET /v1/calls" => (
            "200 OK",
            r#"{"calls":[{"call_id":"0007-abc","mode":"conference","max_participants":12,"created_at":1,"participants":2}],"participants":2,"draining":false,"workers":[0.5]}"#,
        ),
        "GET /v1/calls/0007-abc" => (
            "200 OK",
            r#"{"participants":[{"participant":"Ann","transport":"udp","uplink_loss":0.0,"downlink_loss":0.0},{"participant":"Ben","transport":"tls","uplink_loss":0.0,"downlink_loss":0.0}]}"#,
        ),
        "DELETE /v1/calls/0007-abc" | "POST /v1/drain" => ("200 OK", "{}"),
        _ => ("404 Not Found", "{}"),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").ok()
}

#[test]
fn operators_see_a_relays_calls_and_act_on_them_and_it_stands_in_the_audit_log() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    let mut gateway = Gateway::init("alpha.test");
    let token = gateway.path("relay.token");
    trunkline_common::secret::create(&token, b"tlr_relay").unwrap();
    let mut config = std::fs::read_to_string(gateway.path("gateway.toml")).unwrap();
    config.push_str(&format!(
        "\n[[relays]]\nname = \"one\"\nurl = \"{url}\"\nadmin_token_file = \"relay.token\"\n"
    ));
    std::fs::write(gateway.path("gateway.toml"), config).unwrap();
    let checked = gateway.json(&["run", "--check"]);
    assert!(checked.to_string().contains("relays"), "{checked}");
    gateway.start();

    gateway.wait("looking at the relay", |gateway| {
        gateway.json(&["relay", "list"])["relays"][0]["state"] == "up"
    });
    gateway.wait("looking at its call", |gateway| {
        gateway.json(&["call", "list"])["calls"][0]["transports"]["tls"] == 1
    });
    let shown = gateway.ok(&["call", "list"]);
    assert!(shown.contains("0007-abc") && shown.contains("1/0/1") && !shown.contains("Ann"), "{shown}");
    gateway.ok(&["call", "end", "0007-abc", "--yes"]);
    gateway.ok(&["relay", "drain", "one", "--deadline-s", "60"]);
    let unknown = gateway.cli(&["relay", "undrain", "two"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no relay `two`"));

    let listed = gateway.json(&["audit", "list", "--max", "2"]);
    let entries: Vec<_> =
        listed["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(entries, ["relay.drain", "call.end"], "newest first");
    let found = gateway.json(&["audit", "list", "--search", "0007-ABC"]);
    assert_eq!(found["entries"].as_array().map(Vec::len), Some(1));

    std::fs::remove_file(&token).unwrap();
    gateway.wait("missing the token", |gateway| {
        let relay: Value = gateway.json(&["relay", "list"])["relays"][0].clone();
        relay["state"] == "down" && relay["error"].as_str().is_some_and(|error| error.contains(text(&token)))
    });
}

//! The admin API of a real process, over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::process::Gateway;

/// One request, answered as text with its head.
fn request(gateway: &Gateway, head: &str, token: Option<&str>) -> String {
    let mut stream = TcpStream::connect(gateway.address("admin_api")).unwrap();
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    write!(stream, "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}Content-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn root_token(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.path("admin.token")).unwrap().trim().to_owned()
}

#[test]
fn health_and_metrics_are_open_and_everything_else_is_not() {
    let gateway = Gateway::running("alpha.test");
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert!(request(&gateway, &format!("GET {path}"), None).starts_with("HTTP/1.1 200"), "{path}");
    }
    let refused = request(&gateway, "GET /admin/v1/status", None);
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("application/problem+json"), "{refused}");
    let metrics = request(&gateway, "GET /metrics", None);
    assert!(metrics.contains("trunkline_gateway_commit_seconds_count"), "{metrics}");
}

#[test]
fn a_viewer_looks_and_changes_nothing_also_after_a_restart() {
    let mut gateway = Gateway::running("alpha.test");
    let viewer = gateway.ok(&["token", "add", "night", "--role", "viewer"]).trim().to_owned();
    for _ in 0..2 {
        assert!(request(&gateway, "GET /admin/v1/networks", Some(&viewer)).starts_with("HTTP/1.1 200"));
        let refused = request(&gateway, "DELETE /admin/v1/networks/main", Some(&viewer));
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
        assert_eq!(gateway.stop(), Some(0));
        gateway.start();
    }
}

#[test]
fn who_guesses_tokens_is_locked_out_and_a_token_that_is_right_is_let_in() {
    let gateway = Gateway::running("alpha.test");
    let answers: Vec<_> =
        (0..=10).map(|n| request(&gateway, "GET /admin/v1/status", Some(&format!("tla_{n}")))).collect();
    assert!(answers[9].starts_with("HTTP/1.1 401"), "{}", answers[9]);
    assert!(answers[10].starts_with("HTTP/1.1 429"), "{}", answers[10]);
    assert!(answers[10].to_lowercase().contains("retry-after:"), "{}", answers[10]);
    let valid = request(&gateway, "GET /admin/v1/audit", Some(&root_token(&gateway)));
    assert!(valid.starts_with("HTTP/1.1 200"), "{valid}");
}

#[test]
fn the_documented_commands_run_as_they_stand() {
    let gateway = Gateway::running("alpha.test");
    let manual = include_str!("../../../docs/API.md").split("\n# The relay's API").next().unwrap();
    let manual = manual.split("\n## Admin API").nth(1).unwrap();
    let commands: Vec<_> =
        manual.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!commands.is_empty());
    for text in commands {
        let output = std::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", text])
            .env("ADMIN_API", format!("http://{}", gateway.address("admin_api")))
            .env("ADMIN_TOKEN", root_token(&gateway))
            .output()
            .unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// One request of a browser, answered as text with its head.
fn browse(gateway: &Gateway, head: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(gateway.address("admin_api")).unwrap();
    let length = body.len();
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Logs in, and gives the headers of what follows.
fn log_in(gateway: &Gateway, name: &str, password: &str) -> String {
    let body = serde_json::json!({ "name": name, "password": password }).to_string();
    let answer = browse(gateway, "POST /admin/v1/session", "", &body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let cookie = head.lines().find(|line| line.to_lowercase().starts_with("set-cookie: ")).unwrap();
    let cookie = cookie.split_once(": ").unwrap().1.split(';').next().unwrap();
    let session: serde_json::Value = serde_json::from_str(body).unwrap();
    format!("Cookie: {cookie}\r\nX-Trunkline-Csrf: {}\r\n", session["csrf"].as_str().unwrap())
}

#[test]
fn an_administrator_logs_in_as_init_says_and_finds_name_and_settings_again_after_a_restart() {
    const CHOSEN: &str = "a password of my own";
    let mut gateway = Gateway::running("alpha.test");
    assert!(browse(&gateway, "GET /", "", "").to_lowercase().contains("location: /console"));
    let page = browse(&gateway, "GET /console", "", "");
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    let first = std::fs::read_to_string(gateway.path("admin.password")).unwrap();
    let mine = log_in(&gateway, "admin", first.trim());
    let early = browse(&gateway, "GET /admin/v1/status", &mine, "");
    assert!(early.contains("password-change-needed"), "{early}");
    let change = serde_json::json!({ "old": first.trim(), "new": CHOSEN }).to_string();
    let changed = browse(&gateway, "POST /admin/v1/session/password", &mine, &change);
    assert!(changed.starts_with("HTTP/1.1 204"), "{changed}");
    let set = browse(&gateway, "PUT /admin/v1/settings", &mine, r#"{"session_idle_s": 600}"#);
    assert!(set.starts_with("HTTP/1.1 200"), "{set}");

    let second = log_in(&gateway, "admin", CHOSEN);
    let ended = browse(&gateway, "GET /admin/v1/status", &mine, "");
    assert!(ended.starts_with("HTTP/1.1 401") && ended.contains("session-ended"), "{ended}");
    assert!(browse(&gateway, "GET /admin/v1/status", &second, "").starts_with("HTTP/1.1 200"));

    gateway.ok(&[
        "admin",
        "add",
        "ann",
        "--role",
        "operator",
        "--out",
        gateway.path("ann").to_str().unwrap(),
    ]);
    assert_eq!(gateway.stop(), Some(0));
    gateway.start();
    let forgotten = browse(&gateway, "GET /admin/v1/status", &second, "");
    assert!(forgotten.starts_with("HTTP/1.1 401"), "{forgotten}");
    log_in(&gateway, "admin", CHOSEN);
    log_in(&gateway, "ann", std::fs::read_to_string(gateway.path("ann")).unwrap().trim());
    let settings = gateway.json(&["settings", "show"]);
    assert_eq!(settings["session_idle_s"]["value"], 600);
    let administrators = gateway.json(&["admin", "list"]);
    assert_eq!(administrators["administrators"].as_array().unwrap().len(), 2);
    let actors = gateway.ok(&["audit", "list"]);
    assert!(actors.contains("console:admin") && actors.contains("settings.change"), "{actors}");
}

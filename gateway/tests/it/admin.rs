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
fn who_guesses_tokens_is_locked_out_whatever_comes_next() {
    let gateway = Gateway::running("alpha.test");
    let answers: Vec<_> =
        (0..=10).map(|n| request(&gateway, "GET /admin/v1/status", Some(&format!("tla_{n}")))).collect();
    assert!(answers[9].starts_with("HTTP/1.1 401"), "{}", answers[9]);
    assert!(answers[10].starts_with("HTTP/1.1 429"), "{}", answers[10]);
    assert!(answers[10].to_lowercase().contains("retry-after:"), "{}", answers[10]);
    let valid = request(&gateway, "GET /admin/v1/audit", Some(&root_token(&gateway)));
    assert!(valid.starts_with("HTTP/1.1 429"), "{valid}");
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

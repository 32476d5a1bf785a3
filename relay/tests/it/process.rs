//! Real relay processes, driven by their own command line and by the commands of the manual.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use trunkline_testkit::postgres::PASSWORD;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The public TCP port of ingresses here, which have addresses of their own.
pub(crate) const INGRESS_TCP_PORT: u16 = 4443;

/// A node's directory, and its process while there is one.
pub(crate) struct Relay {
    dir: tempfile::TempDir,
    child: Option<(Child, BufReader<ChildStderr>)>,
    /// Of its API.
    pub(crate) address: String,
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-relay"));
    command.env_remove("TRUNKLINE_RELAY_URL").env_remove("TRUNKLINE_RELAY_TOKEN").env_remove("TRUNKLINE_LOG");
    command
}

impl Relay {
    /// Makes a node on loopback whose API is on a port that the system chooses.
    fn init() -> Self {
        Self::numbered(9)
    }

    fn numbered(node: u16) -> Self {
        let relay = Self { dir: tempfile::tempdir().unwrap(), child: None, address: String::new() };
        let made = command()
            .args(["init", "--node", &node.to_string(), "--listen", "127.0.0.1:0"])
            .args(["--udp-ports", "48000-48999", "--tcp-port", "0", "--media-listen", "127.0.0.1", "--dir"])
            .arg(relay.path("relay"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        relay.set("format = \"text\"", "format = \"json\"");
        relay.set("# directory = \"records\"", "directory = \"records\"");
        std::fs::create_dir(relay.path("relay/records")).unwrap();
        relay
    }

    /// Makes a node and starts it.
    pub(crate) fn running() -> Self {
        let mut relay = Self::init();
        relay.start();
        relay
    }

    /// Makes a node that is reached over TCP, too, and where wanted over TLS on the same port, and starts it.
    pub(crate) fn with_tcp(port: u16, tls: bool) -> Self {
        let mut relay = Self::init();
        relay.set("tcp_port = 0", &format!("tcp_port = {port}"));
        if tls {
            let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            std::fs::write(relay.path("relay/media.crt"), certified.cert.pem()).unwrap();
            std::fs::write(relay.path("relay/media.key"), certified.signing_key.serialize_pem()).unwrap();
            relay.set("# tls_certificate = \"tls/media.crt\"", "tls_certificate = \"media.crt\"");
            relay.set("# tls_key = \"tls/media.key\"", "tls_key = \"media.key\"");
            relay.set("# tls_name = \"relay.alpha.test\"", "tls_name = \"127.0.0.1\"");
        }
        relay.start();
        relay
    }

    /// Makes a node behind ingresses at these addresses, with the secrets of another one, and starts it.
    pub(crate) fn behind(node: u16, ingresses: &[&str], like: Option<&Self>) -> Self {
        let mut relay = Self::numbered(node);
        relay.shares_secrets(like);
        relay.set("# from = [\"10.0.0.2\"]", &format!("from = {ingresses:?}"));
        relay.start();
        // It comes back at the same address.
        relay.set("listen = \"127.0.0.1:0\"", &format!("listen = \"{}\"", relay.address));
        relay
    }

    /// Makes a node that is reached only through the ingress at an address, its media too, and starts it.
    pub(crate) fn tunnelled(node: u16, ingress: IpAddr, listen: IpAddr, like: Option<&Self>) -> Self {
        let mut relay = Self::behind_tunnel(node, ingress, listen, like);
        relay.start();
        relay
    }

    /// The same, and it registers in a database.
    pub(crate) fn registered(
        node: u16,
        ingress: IpAddr,
        listen: IpAddr,
        url: &str,
        like: Option<&Self>,
    ) -> Self {
        let mut relay = Self::behind_tunnel(node, ingress, listen, like);
        relay.set("registry = \"\"", &format!("registry = \"{url}\""));
        relay.set("# registry_password_file", "registry_password_file");
        trunkline_common::secret::create(&relay.path("relay/database.password"), PASSWORD.as_bytes())
            .unwrap();
        relay.start();
        relay.set("listen = \"127.0.0.1:0\"", &format!("listen = \"{}\"", relay.address));
        relay
    }

    fn behind_tunnel(node: u16, ingress: IpAddr, listen: IpAddr, like: Option<&Self>) -> Self {
        let relay = Self::numbered(node);
        relay.shares_secrets(like);
        relay.set("# listen = \"10.0.0.3:8446\"", &format!("listen = \"{listen}:8446\""));
        // Its requests to an address of this machine come from that very address.
        relay.set("# from = [\"10.0.0.2\"]", &format!("from = [\"{ingress}\", \"127.0.0.1\"]"));
        relay.set("# advertise = [\"203.0.113.7\"]", &format!("advertise = [\"{ingress}\"]"));
        relay.set(
            "udp_port = 16384\ntcp_port = 443",
            &format!("udp_port = 16384\ntcp_port = {INGRESS_TCP_PORT}"),
        );
        relay.set("# tls_name = \"relay.alpha.test\"", &format!("tls_name = \"{ingress}\""));
        relay
    }

    /// What `--check` says: whether the node would start, and all of it.
    pub(crate) fn check(&self) -> (bool, String) {
        let checked = command()
            .args(["node", "--check", "--config"])
            .arg(self.path("relay/relay.toml"))
            .output()
            .unwrap();
        (checked.status.success(), String::from_utf8_lossy(&checked.stdout).into_owned())
    }

    fn shares_secrets(&self, like: Option<&Self>) {
        let Some(other) = like else { return };
        for secret in ["admin.token", "tokens.secret", "ufrag.key"] {
            let name = format!("relay/{secret}");
            std::fs::copy(other.path(&name), self.path(&name)).unwrap();
        }
    }

    /// Makes a node whose API speaks TLS with a certificate of its own in `relay/api.crt`, and starts it.
    pub(crate) fn with_tls(node: u16) -> Self {
        let mut relay = Self::numbered(node);
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(relay.path("relay/api.crt"), certified.cert.pem()).unwrap();
        std::fs::write(relay.path("relay/api.key"), certified.signing_key.serialize_pem()).unwrap();
        relay.set("# tls_certificate = \"tls/api.crt\"", "tls_certificate = \"api.crt\"");
        relay.set("# tls_key = \"tls/api.key\"", "tls_key = \"api.key\"");
        relay.start();
        relay
    }

    fn set(&self, old: &str, new: &str) {
        let file = self.path("relay/relay.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{old}");
        std::fs::write(&file, text.replacen(old, new, 1)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn start(&mut self) {
        let mut command = command();
        let (child, said) = ready(command.arg("--dir").arg(self.path("relay")).arg("node"));
        self.address = said["api"].as_str().unwrap().to_owned();
        self.child = Some(child);
    }

    fn cli(&self, args: &[&str]) -> Output {
        command()
            .arg("--dir")
            .arg(self.path("relay"))
            .args(["--url", &format!("http://{}", self.address)])
            .args(args)
            .output()
            .unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.cli(&[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One request without a token, answered as text with its head.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn admin_token(&self) -> String {
        std::fs::read_to_string(self.path("relay/admin.token")).unwrap().trim().to_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let (child, _) = self.child.as_ref().unwrap();
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process's end: its exit code, and what it still logged.
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let (mut child, mut log) = self.child.take().unwrap();
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        (child.wait().unwrap().code(), rest)
    }
}

/// An ingress in front of nodes, and its process.
pub(crate) struct Ingress {
    dir: tempfile::TempDir,
    child: Option<(Child, BufReader<ChildStderr>)>,
    /// Of its API.
    pub(crate) address: String,
}

impl Ingress {
    /// Starts an ingress at an address, in front of nodes: each with the address of its tunnel.
    pub(crate) fn running(ip: IpAddr, nodes: &[(u16, IpAddr, &Relay)]) -> Self {
        let (_, _, first) = nodes.first().unwrap();
        Self::registered(ip, nodes, None, first)
    }

    /// The same; it also finds nodes in a database, and has the key of a node.
    pub(crate) fn registered(
        ip: IpAddr,
        nodes: &[(u16, IpAddr, &Relay)],
        registry: Option<&str>,
        like: &Relay,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(like.path("relay/ufrag.key"), dir.path().join("ufrag.key")).unwrap();
        let certified = rcgen::generate_simple_self_signed([ip.to_string()]).unwrap();
        std::fs::write(dir.path().join("media.crt"), certified.cert.pem()).unwrap();
        std::fs::write(dir.path().join("media.key"), certified.signing_key.serialize_pem()).unwrap();
        let mut text = String::new();
        if let Some(url) = registry {
            text += &format!("registry = \"{url}\"\nregistry_password_file = \"database.password\"\n");
            trunkline_common::secret::create(&dir.path().join("database.password"), PASSWORD.as_bytes())
                .unwrap();
        }
        text += &format!(
            "[api]\nlisten = \"{ip}:8445\"\n[media]\nlisten = [\"{ip}\"]\ntcp_port = {INGRESS_TCP_PORT}\n\
             tls_certificate = \"media.crt\"\ntls_key = \"media.key\"\n[tunnel]\nlisten = \"{ip}:8700\"\n[log]\nformat = \"json\"\n"
        );
        for (node, tunnel, relay) in nodes {
            let api = &relay.address;
            text +=
                &format!("[[nodes]]\nnode = {node}\ntunnel = \"{tunnel}:8446\"\napi = \"http://{api}\"\n");
        }
        std::fs::write(dir.path().join("ingress.toml"), text).unwrap();
        let mut ingress = Self { dir, child: None, address: format!("{ip}:8445") };
        ingress.start();
        ingress
    }

    /// Reads on in its log until it says something.
    pub(crate) fn logs(&mut self, text: &str) -> String {
        let (_, log) = self.child.as_mut().unwrap();
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it said nothing of {text}");
        }
        line
    }

    /// Ends it as a crash does: what it still said that nobody read.
    pub(crate) fn last_words(&mut self) -> String {
        let (mut child, mut log) = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        rest
    }

    /// What `--check` says: whether the ingress would start, and all of it.
    pub(crate) fn check(&self) -> (bool, String) {
        let config = self.dir.path().join("ingress.toml");
        let checked = command().args(["ingress", "--check", "--config"]).arg(config).output().unwrap();
        (checked.status.success(), String::from_utf8_lossy(&checked.stdout).into_owned())
    }

    pub(crate) fn start(&mut self) {
        let config = self.dir.path().join("ingress.toml");
        let mut command = command();
        let process = command.args(["ingress", "--config"]).arg(config);
        self.child = Some(ready(process).0);
    }

    /// Kills it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a process, and waits until it says that it is ready: what it says then.
fn ready(process: &mut Command) -> ((Child, BufReader<ChildStderr>), Value) {
    let process = process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = process.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"ready\"") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it said nothing of being ready");
    }
    ((child, log), serde_json::from_str(&line).unwrap())
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_fresh_node_passes_its_check_starts_and_stops_when_told() {
    let mut relay = Relay::init();
    let checked =
        command().args(["node", "--check", "--config"]).arg(relay.path("relay/relay.toml")).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    relay.start();
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/call"] {
        assert!(relay.get(path).starts_with("HTTP/1.1 200"), "{path}: {}", relay.get(path));
    }
    assert!(relay.get("/v1/calls").starts_with("HTTP/1.1 401"));
    let status = relay.json(&["status"]);
    assert_eq!((&status["calls"], &status["draining"]), (&0.into(), &false.into()));
    let began = Instant::now();
    relay.signal("TERM");
    let (code, log) = relay.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"stopped\"") && began.elapsed() < Duration::from_secs(5), "{log}");
}

#[test]
fn a_day_with_the_command_line_is_recorded() {
    let mut relay = Relay::running();
    let call = relay.json(&["call", "create", "--meeting-id", "weekly", "--max-participants", "3"]);
    let id = call["call_id"].as_str().unwrap();
    assert!(id.starts_with("0009-"), "{call}");
    let listed = relay.json(&["call", "list"]);
    assert_eq!(
        (&listed["calls"][0]["call_id"], &listed["calls"][0]["max_participants"]),
        (&call["call_id"], &3.into())
    );
    let token_file = relay.path("ann.token");
    relay.json(&[
        "call",
        "token",
        id,
        "--participant",
        "Ann",
        "--viewer",
        "--out",
        token_file.to_str().unwrap(),
    ]);
    assert_eq!(std::fs::read_to_string(&token_file).unwrap().matches('.').count(), 2);
    assert_eq!(std::fs::metadata(&token_file).unwrap().permissions().mode() & 0o077, 0);
    assert_eq!(relay.json(&["call", "show", id])["participants"], serde_json::json!([]));
    relay.json(&["call", "end", id]);
    let gone = relay.cli(&["call", "show", "0009-AABkawJT4QAAAAAAAAAAAAAAAAAAAAA"]);
    assert_eq!(gone.status.code(), Some(1));

    assert_eq!(relay.json(&["drain", "--deadline-s", "60"])["draining"], true);
    assert!(relay.get("/readyz").starts_with("HTTP/1.1 503"));
    let refused = relay.cli(&["call", "create"]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.lines().count() == 1 && error.contains("takes no new calls"), "{error}");
    assert_eq!(relay.json(&["drain", "--undo"])["draining"], false);
    // One that goes on until the process ends.
    relay.json(&["call", "create"]);
    relay.signal("TERM");
    assert_eq!(relay.ended().0, Some(0));
    let records = records(&relay.path("relay/records"));
    let statuses: Vec<_> = records.iter().map(|record| record["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [0, 3, 0, 2], "{records:?}");
    assert_eq!(records[0]["startmsgid"], records[1]["startmsgid"]);
    assert_eq!(records[1]["meetingid"], "weekly");
}

/// Every record in a directory.
fn records(directory: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_documented_commands_run_as_they_stand() {
    let relay = Relay::running();
    let manual = include_str!("../../../docs/API.md").split("\n# The relay's API").nth(1).unwrap();
    let commands: Vec<_> =
        manual.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(commands.len() >= 6, "docs/API.md shows each part of the API");
    let offer = include_bytes!("../data/offers/chromium_plain.sdp");
    std::fs::write(relay.path("offer.sdp"), offer).unwrap();
    for text in commands {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", text])
            .current_dir(relay.dir.path())
            .env("RELAY", format!("http://{}", relay.address))
            .env("ADMIN_TOKEN", relay.admin_token())
            .output()
            .unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let answer = std::fs::read_to_string(relay.path("answer.sdp")).unwrap();
    assert!(answer.contains("a=candidate:"), "{answer}");
}

#[test]
fn what_a_node_logs_of_a_call_names_nobody() {
    let mut relay = Relay::running();
    relay.set("filter = \"info\"", "filter = \"debug\"");
    relay.signal("TERM");
    relay.ended();
    relay.start();
    let call = relay.json(&["call", "create", "--meeting-id", "secret-meeting"]);
    let id = call["call_id"].as_str().unwrap();
    relay.json(&["call", "token", id, "--participant", "Annabel"]);
    relay.json(&["call", "end", id]);
    relay.signal("TERM");
    let (_, log) = relay.ended();
    for secret in ["Annabel", "secret-meeting", relay.admin_token().as_str()] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(!log.contains(id), "call ids are for log.detail = \"messaging\": {log}");
}

#[test]
fn the_commands_trust_the_certificate_that_the_configuration_gives_the_api() {
    let relay = Relay::with_tls(9);
    let url = format!("https://{}", relay.address);
    let began = Instant::now();
    loop {
        let status =
            command().arg("--dir").arg(relay.path("relay")).args(["--url", &url, "status"]).output().unwrap();
        if status.status.success() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", String::from_utf8_lossy(&status.stderr));
        #[allow(clippy::disallowed_methods, reason = "a process that is waited for has no clock of ours")]
        std::thread::sleep(LOOK_AGAIN);
    }
}

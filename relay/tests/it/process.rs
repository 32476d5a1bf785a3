//! A real relay process on loopback, made and asked with its own command line.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than a relay takes to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at its log.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running relay. Dropping it ends the process.
pub(crate) struct Relay {
    dir: tempfile::TempDir,
    child: Child,
    /// Where its API is.
    pub(crate) url: String,
}

impl Relay {
    /// Starts a relay, its API on a port that the system chooses.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        let init = ["init", "--listen", "127.0.0.1:0", "--media-listen", "127.0.0.1"];
        let made = command(&node).args(init).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = command(&node);
        command.arg("node").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut relay = Self { dir, child: command.spawn().unwrap(), url: String::new() };
        relay.url = format!("http://{}", relay.address());
        relay
    }

    /// Creates a call, and gives its id.
    pub(crate) fn create(&self) -> String {
        text(&self.json(&["call", "create"]), "call_id")
    }

    /// The address with which one participant joins a call: with no key there is no end-to-end encryption.
    pub(crate) fn invitation(&self, call: &str, participant: &str, key: &str) -> String {
        let token = self.token(call, participant, &[]);
        let fragment = if key.is_empty() { String::new() } else { format!("#key={key}") };
        format!("{}/call?call={call}&token={token}{fragment}", self.url)
    }

    /// A join token.
    pub(crate) fn token(&self, call: &str, participant: &str, more: &[&str]) -> String {
        let args = [&["call", "token", call, "--participant", participant], more].concat();
        text(&self.json(&args), "token")
    }

    /// Everybody in a call, as `GET /v1/calls/{id}` shows them.
    pub(crate) fn participants(&self, call: &str) -> Vec<Value> {
        self.json(&["call", "show", call])["participants"].as_array().unwrap().clone()
    }

    /// The value of one metric.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let response = reqwest::get(format!("{}/metrics", self.url)).await.unwrap();
        let text = response.text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
    }

    /// Runs a verb that must succeed, and gives what it prints.
    fn json(&self, args: &[&str]) -> Value {
        let mut command = command(&self.dir.path().join("node"));
        let output = command.args(["--json", "--url", &self.url]).args(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {error}{}", self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until it says where its API is.
    #[allow(clippy::disallowed_methods, reason = "polls a condition of another process, with a deadline")]
    fn address(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let ready = log.lines().find(|line| line.contains(" ready "));
            if let Some(address) = ready.and_then(|line| line.split("api=").nth(1)?.split(' ').next()) {
                return address.to_owned();
            }
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {log}");
            assert!(Instant::now() < deadline, "it does not start: {log}");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(node: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-relay"));
    command.arg("--dir").arg(node).stdin(Stdio::null());
    for variable in ["TRUNKLINE_RELAY_URL", "TRUNKLINE_RELAY_TOKEN", "TRUNKLINE_LOG"] {
        command.env_remove(variable);
    }
    command
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
}

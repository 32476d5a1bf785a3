//! Real gateway processes, driven by their own command line.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A gateway's directory, and its process while there is one.
pub(crate) struct Gateway {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Gateway {
    /// Makes a gateway that listens on loopback, on ports that the system chooses.
    pub(crate) fn init(domain: &str) -> Self {
        Self::init_with(domain, &[])
    }

    /// The same, with more arguments for `init`.
    pub(crate) fn init_with(domain: &str, more: &[&str]) -> Self {
        let gateway = Self { dir: tempfile::tempdir().unwrap(), child: None };
        let any = "127.0.0.1:0";
        let mut args = vec!["init", "--domain", domain, "--listen", any, "--local-api", any];
        args.extend(["--admin-api", any, "--allow-private-ips"]);
        args.extend(more);
        gateway.ok(&args);
        gateway
    }

    /// Starts the process, and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let _ = std::fs::remove_file(self.path("data/listening.json"));
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = command(self.dir.path())
            .arg("run")
            .stdout(Stdio::null())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.wait("ready", |gateway| {
            gateway.try_json(&["status"]).is_some_and(|status| status["ready"] == true)
        });
    }

    /// Makes a gateway and starts it.
    pub(crate) fn running(domain: &str) -> Self {
        let mut gateway = Self::init(domain);
        gateway.start();
        gateway
    }

    /// Asks the process to stop, and gives its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended()
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits until the process has ended, and gives its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not stop: {}", self.log());
            pause();
        }
    }

    /// Runs a verb.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        command(self.dir.path()).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts a verb that goes on.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        command(self.dir.path()).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a verb that must succeed, and gives what it prints.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {error}{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb that must succeed, and gives what it prints as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).unwrap()
    }

    /// A path within its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where it listens, by the name of the listener.
    pub(crate) fn address(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path("data/listening.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        value[name].as_str().unwrap().to_owned()
    }

    /// Established connections to one of its listeners, as the kernel lists them (proc(5), `/proc/net/tcp`).
    pub(crate) fn connections(&self, listener: &str) -> usize {
        let port: u16 = self.address(listener).rsplit(':').next().unwrap().parse().unwrap();
        let local = format!("0100007F:{port:04X}");
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let established = |line: &&str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some(local.as_str()) && fields.nth(1) == Some("01")
        };
        table.lines().filter(established).count()
    }

    /// Waits until something holds.
    pub(crate) fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("it ended with {status} before it was {what}: {}", self.log());
            }
            assert!(Instant::now() < deadline, "it is not {what}: {}", self.log());
            pause();
        }
    }

    /// Peers two gateways with a bundle each way, and waits until their link is up.
    pub(crate) fn peer(&mut self, other: &mut Self, domain: &str, other_domain: &str) {
        self.advertise();
        other.advertise();
        let (invitation, answer) = (self.path("invitation"), self.path("answer"));
        self.ok(&["peer", "invite", other_domain, "--out", text(&invitation)]);
        other.ok(&["peer", "accept", text(&invitation), "--out", text(&answer), "--yes"]);
        self.ok(&["peer", "accept", text(&answer), "--yes"]);
        self.wait("linked", |gateway| gateway.json(&["peer", "show", other_domain])["link"] == "up");
        other.wait("linked", |gateway| gateway.json(&["peer", "show", domain])["link"] == "up");
    }

    /// Tells the configuration the port that the system chose, so that bundles carry it: once, with a restart.
    pub(crate) fn advertise(&mut self) {
        let link = self.address("link");
        let config = std::fs::read_to_string(self.path("gateway.toml")).unwrap();
        let fixed = config.replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"{link}\""), 1).replacen(
            "advertise = []",
            &format!("advertise = [\"{link}\"]"),
            1,
        );
        std::fs::write(self.path("gateway.toml"), fixed).unwrap();
        assert_eq!(self.stop(), Some(0), "{}", self.log());
        self.start();
    }

    fn try_json(&self, args: &[&str]) -> Option<Value> {
        let output = self.cli(&[&["--json"], args].concat());
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-gateway"));
    command.arg("--dir").arg(dir).env_remove("TRUNKLINE_ADMIN_URL").env_remove("TRUNKLINE_ADMIN_TOKEN");
    command
}

#[allow(clippy::disallowed_methods, reason = "polls a condition of another process, with a deadline")]
fn pause() {
    std::thread::sleep(LOOK_AGAIN);
}

//! The demo's processes, for tests that look at them through a browser.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// How long two deployments may take to come up on a machine that does other things, too.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// How long they may take to stop before they are killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks at a process that stops.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Two deployments that stay up until this is dropped.
pub(crate) struct Demo {
    child: Child,
    // A demo that cannot print any more ends.
    _output: Lines<BufReader<ChildStdout>>,
    dir: tempfile::TempDir,
    /// What it said when it was up.
    pub(crate) told: Value,
}

impl Demo {
    /// Two deployments that are peered.
    pub(crate) async fn peered() -> Self {
        Self::start(&[]).await
    }

    /// Two deployments that do not know each other.
    pub(crate) async fn fresh() -> Self {
        Self::start(&["--fresh"]).await
    }

    async fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the demo");
        let log = File::create(dir.path().join("demo.log")).expect("a file for its errors");
        let mut child = Command::new(env!("CARGO_BIN_EXE_trunkline-loadtest"))
            .arg("--json")
            .arg("--dir")
            .arg(dir.path().join("deployments"))
            .arg("demo")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program was built with this test");
        let output = child.stdout.take().expect("its output is a pipe");
        let mut demo = Self { child, _output: BufReader::new(output).lines(), dir, told: Value::Null };
        let line = timeout(READY_WITHIN, demo._output.next_line()).await;
        let told = line.ok().and_then(Result::ok).flatten();
        let told = told.and_then(|line| serde_json::from_str(&line).ok());
        demo.told = told.unwrap_or_else(|| panic!("the demo did not come up: {}", demo.log()));
        demo
    }

    /// What a deployment, `alpha` or `beta`, said of itself under a name.
    pub(crate) fn of(&self, deployment: &str, name: &str) -> &str {
        let told = self.told[deployment][name].as_str();
        told.unwrap_or_else(|| panic!("{deployment}.{name} is not in {:#}", self.told))
    }

    /// The link to somebody's messaging page.
    pub(crate) fn link(&self, person: &str) -> &str {
        self.told["people"][person].as_str().unwrap_or_else(|| panic!("no {person} in {:#}", self.told))
    }

    fn log(&self) -> String {
        read(&self.dir.path().join("demo.log"))
    }

    /// Waits for it to end when it was told to.
    #[allow(clippy::disallowed_methods, reason = "a drop cannot await")]
    fn has_stopped(&mut self) -> bool {
        let deadline = Instant::now() + STOPPED_WITHIN;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        false
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the demo said: {}", self.log());
        }
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // It ends its own processes when it is told to, and leaves them behind when it is killed.
        if let Some(pid) = pid
            && kill_process(pid, Signal::TERM).is_ok()
            && !self.has_stopped()
        {
            let _ = self.child.start_kill();
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

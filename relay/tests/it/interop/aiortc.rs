//! aiortc (Python), installed from PyPI into a virtual environment that is kept for the next run.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{create, participants, token};
use crate::process::Relay;

/// The packages, all of them.
const PACKAGES: &str = include_str!("../../data/aiortc.txt");

/// For downloading the packages, the first time.
const INSTALL_PATIENCE: Duration = Duration::from_secs(120);

/// For the call: a little more than the script allows itself.
const CALL_PATIENCE: Duration = Duration::from_secs(35);

/// For the end of a connection to be seen; less than it takes to notice a client that just vanished.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at a process.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

#[test]
fn aiortc_peers_decode_each_other() {
    let python = python();
    let relay = Relay::running();
    let call = create(&relay);
    let url = format!("http://{}/v1/calls/{call}/participants", relay.address);
    let mut script = Command::new(python);
    script.arg(format!("{DATA}/aiortc_call.py"));
    script.args([url, token(&relay, &call, "Ann"), token(&relay, &call, "Bob")]);
    let output = run(&mut script, CALL_PATIENCE);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said["error"].is_null(), "{said} {errors}");
    // Pictures that differ, and a tone of the amplitude that was sent: Opus may overshoot it a little.
    assert!(said["video_frames"].as_u64() >= Some(15) && said["pictures"].as_u64() >= Some(10), "{said}");
    assert!(said["audio_frames"].as_u64() >= Some(50), "{said}");
    assert!((8_000..16_000).contains(&said["loudest_sample"].as_u64().unwrap()), "{said}");
    // One left over HTTP, the other only closed its connection.
    assert_eq!(said["left"], 204, "{said}");
    let began = Instant::now();
    while participants(&relay, &call) > 0 {
        assert!(began.elapsed() < LEAVE_PATIENCE, "the relay did not see that the connection was closed");
    }
}

/// The interpreter of an environment with the packages. One that is there already is used again.
fn python() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let environment = home.join("aiortc");
    let packages = environment.join("packages.txt");
    let python = environment.join("bin/python");
    if std::fs::read_to_string(&packages).is_ok_and(|there| there == PACKAGES) && python.exists() {
        return python;
    }
    // Made beside its place, so that what is in its place is whole.
    let made = home.join(format!("aiortc-{}", std::process::id()));
    let missing = "aiortc needs Python 3.11 or later: as root, apt-get install python3-venv";
    let venv = Command::new("python3").args(["-m", "venv"]).arg(&made).output();
    let venv = venv.unwrap_or_else(|error| panic!("{missing} ({error})"));
    if !venv.status.success() {
        let _ = std::fs::remove_dir_all(&made);
        panic!(
            "{missing}\n{}{}",
            String::from_utf8_lossy(&venv.stdout),
            String::from_utf8_lossy(&venv.stderr)
        );
    }
    let mut pip = Command::new(made.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    let installed = run(pip.args(["--no-deps", "-r", &format!("{DATA}/aiortc.txt")]), INSTALL_PATIENCE);
    let errors = String::from_utf8_lossy(&installed.stderr);
    if !installed.status.success() {
        let _ = std::fs::remove_dir_all(&made);
        panic!("aiortc cannot be installed from PyPI:\n{errors}");
    }
    std::fs::write(made.join("packages.txt"), PACKAGES).unwrap();
    let _ = std::fs::remove_dir_all(&environment);
    std::fs::rename(&made, &environment).unwrap();
    python
}

/// Runs a program that says little, and ends it when it takes too long.
fn run(command: &mut Command, patience: Duration) -> Output {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > patience {
            child.kill().unwrap();
            let _ = child.wait();
            panic!("{command:?} took more than {patience:?}");
        }
        #[allow(clippy::disallowed_methods, reason = "a process that is waited for has no clock of ours")]
        std::thread::sleep(LOOK_AGAIN);
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status, stdout, stderr }
}

//! The command line: what it takes, and what the manual says that it takes.

use std::io::Cursor;

use super::*;

/// Exit code, stdout, stderr.
fn run(args: &[&str]) -> (u8, String, String) {
    let (mut input, mut out, mut err) = (Cursor::new(Vec::new()), Vec::new(), Vec::new());
    let mut console = Console {
        input: &mut input,
        interactive: false,
        out: &mut out,
        screen: false,
        err: &mut err,
        json: false,
    };
    let args = std::iter::once("trunkline-relay").chain(args.iter().copied()).map(OsString::from);
    let code = execute(args, &mut console);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Command lines of a document's shell blocks that start this program, as arguments.
fn commands_of(document: &str) -> Vec<Vec<String>> {
    let blocks = document.split("```").skip(1).step_by(2).filter(|block| block.starts_with("bash"));
    let joined = blocks.map(|block| block.replace("\\\n", " ")).collect::<Vec<_>>().join("\n");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let line = line.strip_prefix("runuser -u trunkline -- ").unwrap_or(line);
        if line.starts_with("trunkline-relay ") {
            let words = line.split(" #").next().unwrap_or_default().split_whitespace();
            commands.push(words.map(str::to_owned).collect());
        }
    }
    commands
}

#[test]
fn every_command_in_the_operations_manual_is_one() {
    let commands = commands_of(include_str!("../../../docs/OPERATIONS.md"));
    assert!(commands.len() > 10, "{}", commands.len());
    for command in commands {
        if let Err(error) = Cli::try_parse_from(&command) {
            panic!("{}: {error}", command.join(" "));
        }
    }
}

#[test]
fn init_says_the_next_steps_and_they_are_commands() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("relay");
    let (code, out, err) = run(&["init", "--dir", at.to_str().unwrap(), "--node", "7"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let steps: Vec<_> = out.lines().filter_map(|line| line.trim().split_once(". ")).collect();
    assert_eq!(steps.len(), 3, "{out}");
    for (_, step) in steps {
        Cli::try_parse_from(step.split_whitespace()).unwrap();
    }
    let (code, _, err) = run(&["init", "--dir", at.to_str().unwrap()]);
    assert!(code == 1 && err.contains("is not empty"), "{err}");
}

#[test]
fn a_check_shows_a_table_and_fails_with_the_first_failure() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("relay");
    let at = at.to_str().unwrap();
    let ports = [
        "--udp-ports",
        "47000-47019",
        "--media-listen",
        "127.0.0.1",
        "--advertise",
        "127.0.0.1",
        "--tcp-port",
        "0",
    ];
    run(&[&["init", "--dir", at, "--listen", "127.0.0.1:0"], &ports[..]].concat());
    let (code, out, err) = run(&["--dir", at, "node", "--check"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.starts_with("CHECK") && out.contains("media.udp_ports"), "{out}");
    std::fs::remove_file(dir.path().join("relay/ufrag.key")).unwrap();
    let (code, _, err) = run(&["--dir", at, "node", "--check"]);
    assert_eq!(code, 1);
    assert!(err.starts_with("error: 1 of 13 checks failed: media.ufrag_key_file: cannot read"), "{err}");
}

#[test]
fn a_node_that_is_not_there_is_said_in_one_line_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("relay");
    let at = at.to_str().unwrap();
    run(&["init", "--dir", at, "--listen", "127.0.0.1:9", "--tcp-port", "0"]);
    let (code, _, err) = run(&["--dir", at, "status"]);
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
    assert!(err.contains("Start it with `trunkline-relay node --config"), "{err}");
    let (code, _, err) = run(&["node", "--config", "missing.toml"]);
    assert!(code == 1 && err.contains("missing.toml: cannot read the configuration"), "{err}");
    assert!(err.contains("`trunkline-relay init --dir DIR` makes"), "{err}");
    for verb in [&["status"][..], &["node"]] {
        let (code, _, err) = run(&[&["--dir", "no/such"], verb].concat());
        assert!(code == 1 && err.contains("`trunkline-relay init --dir no/such` makes"), "{err}");
    }
}

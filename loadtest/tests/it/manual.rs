//! Every command in the README and in the operators' manual is carried out, block after block, on machines of their
//! own: `manual/network.sh` makes these in namespaces, `manual/host.sh` stands in for what the operating system does.
//!
//! Comments that readers do not see tell the test what the text tells people:
//! - `<!-- test: at beta -->`: the next block is for the machine `beta`; without it, for the machine of the block before
//! - `<!-- test: on beta COMMAND -->`: what happens at a machine meanwhile, by somebody else's hand
//!
//! Within a block a line `# at beta` changes the machine as well.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// The machine that a document begins at.
const FIRST_MACHINE: &str = "alpha";

/// Longer than it takes, and short enough for a hang to be noticed.
const SECONDS_MAX: &str = "300";

/// Commands for one machine.
#[derive(Debug, PartialEq)]
struct Step {
    host: String,
    /// Where in which document.
    title: String,
    commands: String,
}

/// What a document's shell blocks say, in order.
fn steps(name: &str, document: &str) -> Vec<Step> {
    let (mut steps, mut host) = (Vec::<Step>::new(), FIRST_MACHINE.to_owned());
    let mut inside = false;
    let step = |host: &str, number: usize, commands: String| {
        let title = format!("{name}:{}", number + 1);
        Step { host: host.to_owned(), title, commands }
    };
    for (number, line) in document.lines().enumerate() {
        let directive = line.trim().strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->"));
        match (inside, line, directive) {
            (false, "```sh" | "```bash", _) => {
                inside = true;
                steps.push(step(&host, number, String::new()));
            }
            (false, _, Some(directive)) => match directive.split_once(' ') {
                Some(("at", place)) => place.clone_into(&mut host),
                Some(("on", rest)) if rest.contains(' ') => {
                    let (place, command) = rest.split_once(' ').unwrap_or_default();
                    steps.push(step(place, number, format!("{command}\n")));
                }
                _ => panic!("{name}:{}: not a directive: {directive}", number + 1),
            },
            (true, "```", _) => inside = false,
            (true, line, _) => {
                if let Some(place) = line.strip_prefix("# at ") {
                    host = place.split([',', ' ']).next().unwrap_or_default().to_owned();
                    steps.push(step(&host, number, String::new()));
                } else if let Some(step) = steps.last_mut() {
                    let _ = writeln!(step.commands, "{line}");
                }
            }
            (false, ..) => {}
        }
    }
    steps.retain(|step| !step.commands.is_empty());
    steps
}

/// Carries out a document's commands, of which there are at least so many blocks.
fn carry_out(name: &str, blocks_min: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| scratch.path().join(name);
    // What a download would bring along.
    let program = env!("CARGO_BIN_EXE_trunkline-loadtest");
    for name in ["trunkline-gateway", "trunkline-relay"] {
        std::fs::write(at(name), "").expect("a stand-in for the program");
    }
    let copied = Command::new("cp").arg("-r").arg(root.join("config")).arg(scratch.path()).status();
    assert!(copied.expect("cp").success());
    let document = std::fs::read_to_string(root.join(name)).expect("a document of ours");
    let steps = steps(name, &document);
    assert!(steps.len() >= blocks_min, "{} blocks", steps.len());
    let mut list = String::new();
    for (number, step) in steps.iter().enumerate() {
        let file = at(&format!("step-{number}"));
        std::fs::write(&file, &step.commands).expect("a file of commands");
        let _ = writeln!(list, "{} {} {}", step.host, file.display(), step.title);
    }
    std::fs::write(at("files"), list).expect("the list of files");
    let manual = root.join("loadtest/tests/it/manual");
    // Who is not root becomes it in a namespace of users as well. All processes end with the namespace of processes.
    let users: &[&str] =
        if rustix::process::getuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let output = Command::new("timeout")
        .args([SECONDS_MAX, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(users)
        .arg("bash")
        .arg(manual.join("network.sh"))
        .arg(scratch.path())
        .arg(program)
        .arg(&manual)
        .env_remove("TRUNKLINE_ADMIN_URL")
        .env_remove("TRUNKLINE_RELAY_URL")
        .output()
        .expect("timeout, unshare and bash");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.ends_with("== all done\n"), "{}\n{out}\n{err}", output.status);
}

#[test]
fn every_command_in_the_readme_does_what_it_says() {
    carry_out("README.md", 6);
}

#[test]
fn every_command_in_the_operators_manual_does_what_it_says() {
    carry_out("docs/OPERATIONS.md", 28);
}

#[test]
fn the_machine_of_a_command_is_known() {
    let document = "```bash\none\n# at beta, with the file\ntwo\n```\n<!-- test: at relay -->\n\
                    <!-- test: on beta three -->\n```sh\nfour\n```\n```toml\nfive\n```\n";
    let found = steps("M", document);
    let step = |host: &str, title: &str, commands: &str| Step {
        host: host.into(),
        title: title.into(),
        commands: commands.into(),
    };
    let expected = [
        step("alpha", "M:1", "one\n"),
        step("beta", "M:3", "two\n"),
        step("beta", "M:7", "three\n"),
        step("relay", "M:8", "four\n"),
    ];
    assert_eq!(found, expected);
}

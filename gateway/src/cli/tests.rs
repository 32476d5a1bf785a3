//! The command line against an admin API on a real socket, with a stand-in for the hub.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use trunkline_common::token::TokenHash;
use trunkline_gateway_proto::admin::{LinkState, PeerView, QueueView};
use trunkline_gateway_proto::directory::{AdminToken, Directory, PeerState, Role};
use trunkline_gateway_proto::time::Time;
use trunkline_http::serve::{Limits, serve};

use super::*;
use crate::admin::fake_hub::{FakeHub, peer};
use crate::admin::{About, AdminState, Readiness, router};
use crate::config::{Config, IdentityMode};
use crate::identity::Identity;

/// What a run of the command line came to.
struct Outcome {
    code: u8,
    out: String,
    err: String,
}

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }

    fn fine(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.err);
        self
    }

    /// Checks that it failed as it should, and gives the one line.
    fn error(&self, code: u8) -> &str {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        let line = self.err.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n') && line.starts_with("error: "), "{line}");
        line
    }
}

fn run(args: &[&str], answers: &str, interactive: bool) -> Outcome {
    let (mut input, mut out, mut err) = (Cursor::new(answers.as_bytes()), Vec::new(), Vec::new());
    let mut console =
        Console { input: &mut input, interactive, out: &mut out, screen: false, err: &mut err, json: false };
    let args = std::iter::once("trunkline-gateway").chain(args.iter().copied()).map(OsString::from);
    let code = execute(args, &mut console);
    Outcome { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// A gateway's directory whose admin API answers, with a stand-in behind it.
struct Gateway {
    dir: tempfile::TempDir,
    fake: FakeHub,
    _runtime: tokio::runtime::Runtime,
    _stop: watch::Sender<bool>,
}

impl Gateway {
    fn start(domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_str().unwrap().to_owned();
        let init = ["init", "--dir", &at, "--domain", domain, "--admin-api", "127.0.0.1:0"];
        run(&[&init[..], &["--advertise", &format!("gw.{domain}:8443")]].concat(), "", false).fine();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopping) = watch::channel(false);
        let fake = runtime.block_on(async {
            let (hub, fake) = FakeHub::start();
            let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
            let mut directory = Directory::clone(&hub.directory());
            let (hash, created) = (TokenHash::of(token.trim()), Time::from_unix_ms(0));
            directory.put_token(AdminToken { label: "root".into(), hash, role: Role::Admin, created });
            hub.directory_watch().store(Arc::new(directory));
            let identity = Identity::open(&dir.path().join("identity"), domain.parse().unwrap()).unwrap();
            let about = About {
                domain: domain.parse().unwrap(),
                advertise: vec![format!("gw.{domain}:8443")],
                identity_mode: IdentityMode::Pinned,
                replica: Some("gw-1.internal:8442".into()),
                configured: Config::defaults(domain.parse().unwrap()).values(),
                tls: false,
            };
            let readiness = Arc::new(Readiness::default());
            readiness.ready();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let listening = format!(
                r#"{{"link":"127.0.0.1:1","local_api":"127.0.0.1:2","admin_api":"127.0.0.1:{port}"}}"#
            );
            std::fs::write(dir.path().join("data/listening.json"), listening).unwrap();
            let router = router(AdminState::new(hub, identity, about, readiness));
            tokio::spawn(serve(listener, None, router, Limits::default(), stopping));
            fake
        });
        Self { dir, fake, _runtime: runtime, _stop: stop }
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.run_with(args, "", false)
    }

    fn run_with(&self, args: &[&str], answers: &str, interactive: bool) -> Outcome {
        run(&[&["--dir", self.dir.path().to_str().unwrap()], args].concat(), answers, interactive)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_verb_that_shows_something_shows_it_as_a_table_and_as_json() {
    let gateway = Gateway::start("alpha.test");
    gateway.fake.set_peers(vec![peer("beta.test", None)]);
    gateway.run(&["token", "add", "night"]).fine();
    gateway.run(&["admin", "add", "ann", "--role", "admin"]).fine();
    for (args, expected) in [
        (&["status"][..], "alpha.test"),
        (&["admin", "list"], "to be changed"),
        (&["settings", "show"], "session_idle_s"),
        (&["identity", "show"], "pin"),
        (&["identity", "export"], "BEGIN CERTIFICATE"),
        (&["peer", "list"], "beta.test"),
        (&["peer", "show", "beta.test"], "up over quic"),
        (&["network", "list"], "main"),
        (&["network", "show", "main"], "federation"),
        (&["outbox", "show"], "beta.test"),
        (&["outbox", "retry"], "3 peers"),
        (&["token", "list"], "operator"),
        (&["audit", "list"], "TokenAdd"),
        (&["audit", "list", "--oldest", "--search", "tokenadd", "--before", "9"], "TokenAdd"),
        (&["audit", "verify"], "the chain holds"),
        (&["relay", "list"], "no relays"),
        (&["call", "list"], "PARTICIPANTS"),
    ] {
        let shown = gateway.run(args).fine();
        assert!(shown.out.contains(expected), "{args:?}: {}", shown.out);
        let value = gateway.run(&[&["--json"], args].concat()).fine().json();
        assert!(value.is_object(), "{args:?}");
    }
    assert!(gateway.run(&["openapi"]).fine().json()["paths"].is_object());
}

#[test]
fn two_operators_introduce_their_deployments_with_two_files() {
    let (alpha, beta) = (Gateway::start("alpha.test"), Gateway::start("beta.test"));
    let (invitation, answer) = (alpha.file("for-beta.json"), beta.file("for-alpha.json"));
    alpha.run(&["peer", "invite", "beta.test", "--out", text(&invitation)]).fine();
    let accepted =
        beta.run_with(&["peer", "accept", text(&invitation), "--out", text(&answer)], "y\n", true).fine();
    assert!(accepted.err.contains("gw.alpha.test:8443"), "{}", accepted.err);
    let done = alpha.run(&["peer", "accept", text(&answer), "--yes"]).fine();
    assert!(done.out.contains("both sides have each other's details"), "{}", done.out);
    for file in [&invitation, &answer] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_bundle_is_not_trusted_unless_somebody_confirms() {
    let (alpha, beta) = (Gateway::start("alpha.test"), Gateway::start("beta.test"));
    let invitation = alpha.file("for-beta.json");
    alpha.run(&["peer", "invite", "beta.test", "--out", text(&invitation)]).fine();
    let unattended = beta.run(&["peer", "accept", text(&invitation)]);
    assert_eq!(unattended.code, 2);
    assert!(unattended.err.contains("add --yes"), "{}", unattended.err);
    let declined = beta.run_with(&["peer", "accept", text(&invitation)], "n\n", true);
    assert_eq!(declined.code, 1);
    assert!(beta.fake.ops().is_empty());
}

#[test]
fn a_file_that_is_there_is_not_overwritten_and_no_secret_is_made_for_it() {
    let gateway = Gateway::start("alpha.test");
    let file = gateway.file("taken");
    std::fs::write(&file, "mine").unwrap();
    for args in [
        &["peer", "invite", "beta.test", "--out", text(&file)][..],
        &["token", "add", "night", "--out", text(&file)],
        &["network", "token", "main", "--out", text(&file)],
    ] {
        assert!(gateway.run(args).error(1).contains("exists"));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert!(gateway.fake.ops().is_empty());
}

#[test]
fn an_error_is_one_line_that_says_what_to_do_and_the_code_says_whose_it_is() {
    let gateway = Gateway::start("alpha.test");
    let taken = gateway.dir.path().to_str().unwrap();
    for (args, code, expected) in [
        (&["peer", "show", "nobody.test"][..], 1, "there is no peer `nobody.test`"),
        (&["peer", "pause", "nobody.test"], 1, "there is no peer `nobody.test`"),
        (&["peer", "accept", "no-such-file"], 1, "cannot read no-such-file"),
        (&["peer", "add", "beta.test"], 1, "exactly one"),
        (&["peer", "frobnicate"], 2, "unrecognized subcommand 'frobnicate'"),
        (&["peer"], 2, "--help"),
        (&["network", "show", "Not An Id"], 2, "not a network id"),
        (&["network", "update", "main", "--permit", "x"], 2, "DOMAIN/NETWORK"),
        (&["outbox", "purge", "beta.test"], 2, "add --yes"),
        (&["init", "--domain", "x.test"], 1, "is not empty"),
        (&["run", "--config", "no-such.toml"], 1, "no-such.toml: cannot read"),
    ] {
        let outcome = gateway.run(args);
        assert!(outcome.error(code).contains(expected), "{args:?}: {}", outcome.err);
    }
    let elsewhere = run(&["--dir", &format!("{taken}/networks"), "status"], "", false);
    assert!(elsewhere.error(1).contains("gateway.toml"), "{}", elsewhere.err);
}

#[test]
fn a_gateway_that_does_not_run_is_said_to_be_unreachable_with_what_starts_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    run(&["init", "--dir", at, "--domain", "alpha.test", "--admin-api", "127.0.0.1:0"], "", false).fine();
    let outcome = run(&["--dir", at, "status"], "", false);
    let line = outcome.error(1);
    assert!(line.contains("cannot reach the admin API") && line.contains("run --config"), "{line}");
}

#[test]
fn an_update_changes_what_is_given_and_keeps_the_rest() {
    let gateway = Gateway::start("alpha.test");
    gateway
        .run(&["network", "update", "main", "--federation", "restricted", "--permit", "beta.test/main"])
        .fine();
    let op = gateway.fake.ops().pop().unwrap().1;
    for expected in ["Restricted", "beta.test", "allow_guests: true"] {
        assert!(op.contains(expected), "{op}");
    }
}

#[test]
fn init_says_the_next_two_steps_and_as_json_where_everything_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let said = run(&["init", "--dir", &at("a"), "--domain", "alpha.test"], "", false).fine();
    assert!(
        said.out.contains("run --config") && said.out.contains("http://127.0.0.1:8441/console"),
        "{}",
        said.out
    );
    let made = run(&["init", "--dir", &at("b"), "--domain", "b.test", "--json"], "", false).fine().json();
    assert!(Path::new(made["admin_token_file"].as_str().unwrap()).is_file());
}

/// Runs `init` in a directory of its own, with answers as somebody at a terminal types them.
fn init_asked(args: &[&str], answers: &str) -> (tempfile::TempDir, Outcome) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("new");
    let outcome = run(&[&["init", "--dir", text(&at)], args].concat(), answers, true);
    (dir, outcome)
}

fn config_of(dir: &tempfile::TempDir) -> Config {
    Config::load(&dir.path().join("new/gateway.toml")).unwrap()
}

#[test]
fn init_at_a_terminal_asks_for_what_is_missing_and_asks_again_with_the_reason() {
    let (dir, said) =
        init_asked(&[], "not a domain\nalpha.test\nno-port\ngw.alpha.test:9443, 10.0.0.1:9443\n");
    let said = said.fine();
    for expected in [
        "`not a domain` is no domain",
        "`no-port` is not host:port",
        "[alpha.test:8443]",
        "10.0.0.1:9443 is private",
    ] {
        assert!(said.err.contains(expected), "{expected} is not in {}", said.err);
    }
    let config = config_of(&dir);
    assert_eq!(config.domain.as_str(), "alpha.test");
    assert_eq!(config.link.advertise, ["gw.alpha.test:9443", "10.0.0.1:9443"]);
}

#[test]
fn an_empty_answer_takes_the_default_and_dns_leaves_it_to_dns() {
    let (dir, said) = init_asked(&["--listen", "127.0.0.1:9443"], "alpha.test\n\n");
    said.fine();
    assert_eq!(config_of(&dir).link.advertise, ["alpha.test:9443"]);
    let (dir, said) = init_asked(&["--domain", "alpha.test"], "dns\n");
    said.fine();
    assert!(config_of(&dir).link.advertise.is_empty());
}

#[test]
fn init_with_nobody_to_ask_says_what_is_missing() {
    let nobody = run(&["init", "--dir", "nowhere"], "alpha.test\n", false);
    assert!(nobody.error(2).contains("--domain"), "{}", nobody.err);
    let (_dir, cut_short) = init_asked(&[], "alpha.test\n");
    assert_eq!(cut_short.code, 1);
    assert!(cut_short.err.contains("nothing was changed"), "{}", cut_short.err);
}

#[test]
fn init_writes_a_service_unit_with_its_own_paths() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a");
    run(&["init", "--dir", text(&at), "--domain", "alpha.test"], "", false).fine();
    let unit = std::fs::read_to_string(at.join("trunkline-gateway.service")).unwrap();
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    assert!(
        start.ends_with(&format!("run --config {}/gateway.toml", text(&at.canonicalize().unwrap()))),
        "{start}"
    );
}

#[test]
fn status_says_first_what_is_wrong_and_what_to_do() {
    let gateway = Gateway::start("alpha.test");
    let healthy = |domain| PeerView { keys_held: vec!["k".into()], ..peer(domain, None) };
    gateway.fake.set_peers(vec![healthy("fine.test")]);
    assert!(gateway.run(&["status"]).fine().out.starts_with("Nothing is wrong.\n"));
    let down = PeerView {
        link: LinkState::Down,
        last_error: Some("TCP to 192.0.2.1:8443: Connection refused".into()),
        ..healthy("beta.test")
    };
    let paused = PeerView { state: PeerState::Paused, ..healthy("gamma.test") };
    gateway.fake.set_peers(vec![healthy("fine.test"), paused, down]);
    let out = gateway.run(&["status"]).fine().out;
    let (first, rest) = out.split_once('\n').unwrap();
    assert!(first.starts_with("beta.test: The link is down for") && first.contains("refused"), "{out}");
    assert!(
        rest.contains("peer resume gamma.test") && rest.contains("domain:") && !rest.contains("fine.test"),
        "{out}"
    );
    let last = out.lines().last().unwrap();
    assert!(last.starts_with("gw-1.internal:8442  leads"), "{out}");
}

#[test]
fn watching_takes_a_terminal() {
    let gateway = Gateway::start("alpha.test");
    assert!(gateway.run(&["status", "--watch"]).error(2).contains("terminal"));
}

#[test]
fn waiting_for_the_outbox_ends_at_once_when_nothing_waits_and_at_its_limit_when_something_does() {
    let gateway = Gateway::start("alpha.test");
    gateway.fake.set_peers(vec![peer("beta.test", None)]);
    let done = gateway.run(&["outbox", "wait"]).fine();
    assert_eq!((done.out.as_str(), done.err.as_str()), ("nothing waits for any peer\n", ""));
    let outbox = QueueView { depth: 3, bytes: 30, oldest: Some(Time::from_unix_ms(1)) };
    let stuck = PeerView { outbox, link: LinkState::Down, ..peer("beta.test", None) };
    gateway.fake.set_peers(vec![stuck]);
    let late = gateway.run(&["outbox", "wait", "beta.test", "--timeout", "1ms"]);
    assert!(
        late.error(1).contains("3 envelopes still wait for beta.test: beta.test is down"),
        "{}",
        late.err
    );
    assert!(gateway.run(&["outbox", "wait", "nobody.test"]).error(1).contains("no peer `nobody.test`"));
}

#[test]
fn what_came_after_the_wait_began_is_not_waited_for() {
    let gateway = Gateway::start("alpha.test");
    let outbox =
        QueueView { depth: 3, bytes: 30, oldest: Some(console::now() + std::time::Duration::from_secs(60)) };
    gateway.fake.set_peers(vec![PeerView { outbox, ..peer("beta.test", None) }]);
    gateway.run(&["outbox", "wait", "--timeout", "1ms"]).fine();
}

#[test]
fn the_doctor_puts_failures_first_and_exits_with_1() {
    let gateway = Gateway::start("alpha.test");
    let down =
        PeerView { link: LinkState::Down, last_error: Some("no answer".into()), ..peer("beta.test", None) };
    gateway.fake.set_peers(vec![down]);
    let found = gateway.run(&["doctor"]);
    assert_eq!(found.code, 1, "{}", found.err);
    assert!(found.out.starts_with("Failed\n  peer, beta.test: The link is down"), "{}", found.out);
    assert!(found.out.trim_end().ends_with("2 failed, 0 warnings"), "{}", found.out);
    assert_eq!(found.err.lines().count(), 1, "{}", found.err);
    let value = gateway.run(&["--json", "doctor"]).json();
    assert_eq!(value["ok"], false);
    assert_eq!(value["checks"][0]["outcome"], "failed");
}

#[test]
fn the_doctor_of_a_gateway_that_does_not_run_says_so_and_looks_at_what_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let init = ["init", "--dir", at, "--domain", "a.test", "--listen", any, "--local-api", any];
    run(&[&init[..], &["--admin-api", any, "--advertise", "gw.a.test:8443"]].concat(), "", false).fine();
    let found = run(&["--dir", at, "--json", "doctor"], "", false);
    assert_eq!(found.code, 1);
    let checks = found.json()["checks"].clone();
    let outcome = |subject: &str| {
        let checks = checks.as_array().unwrap();
        checks.iter().find(|check| check["subject"] == subject).map(|check| check["outcome"].clone())
    };
    assert_eq!(checks[0]["check"], "gateway");
    assert!(checks[0]["finding"].as_str().unwrap().contains("does not run"), "{checks:#}");
    assert_eq!(outcome("store"), Some("ok".into()));
    assert_eq!(outcome("keys and tokens"), Some("ok".into()));
}

#[test]
fn a_check_of_a_fresh_gateway_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let init = ["init", "--dir", at, "--domain", "a.test", "--listen", any, "--local-api", any];
    run(&[&init[..], &["--admin-api", any, "--advertise", "gw.a.test:8443"]].concat(), "", false).fine();
    let checked = run(&["--dir", at, "run", "--check", "--json"], "", false).fine().json();
    assert_eq!(checked["ok"], true, "{checked:#}");
}

#[test]
fn a_check_names_what_would_keep_the_gateway_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run(
        &["init", "--dir", at, "--domain", "a.test", "--listen", "127.0.0.1:0", "--local-api", &address],
        "",
        false,
    )
    .fine();
    std::fs::write(dir.path().join("deployment.key"), "nonsense").unwrap();
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    let checked = run(&["--dir", at, "run", "--check"], "", false);
    assert_eq!(checked.code, 1);
    assert_eq!(checked.err.lines().count(), 1, "{}", checked.err);
    for expected in ["data_dir", "deployment key", "local_api.listen"] {
        let line = checked.out.lines().find(|line| line.starts_with(expected)).unwrap();
        assert!(line.contains("FAILED"), "{line}");
    }
}

/// Command lines of a document's shell blocks that start this program, as arguments.
fn commands_of(document: &str) -> Vec<Vec<String>> {
    let blocks = document.split("```").skip(1).step_by(2).filter(|block| block.starts_with("bash"));
    let joined = blocks.map(|block| block.replace("\\\n", " ")).collect::<Vec<_>>().join("\n");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let line = line.strip_prefix("runuser -u trunkline -- ").unwrap_or(line);
        if line.starts_with("trunkline-gateway ") {
            let words = line.split(" #").next().unwrap_or_default().split_whitespace();
            commands.push(words.map(str::to_owned).collect());
        }
    }
    commands
}

#[test]
fn every_command_in_the_operations_manual_is_one() {
    let commands = commands_of(include_str!("../../../docs/OPERATIONS.md"));
    assert!(commands.len() > 40, "{}", commands.len());
    let pin = trunkline_gateway_proto::pin::Pin::from_bytes([7; 32]).to_string();
    for command in commands {
        let words = command.iter().map(|word| if word == "PIN" { pin.as_str() } else { word });
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{}: {error}", command.join(" "));
        }
    }
}

#[test]
fn a_recovered_token_waits_for_the_next_start_and_is_never_overwritten() {
    let gateway = Gateway::start("alpha.test");
    std::fs::remove_file(gateway.file("data/bootstrap.json")).unwrap();
    let made = gateway.run(&["--json", "token", "recover"]).fine().json();
    let waiting = std::fs::read_to_string(gateway.file("data/bootstrap.json")).unwrap();
    assert!(waiting.contains(made["label"].as_str().unwrap()));
    assert!(!waiting.contains(made["token"].as_str().unwrap()));
    assert!(gateway.run(&["token", "recover"]).error(1).contains("bootstrap.json"));
}

#[test]
fn a_token_that_is_recovered_at_one_of_several_replicas_says_which_one_takes_it_and_when() {
    let gateway = Gateway::start("alpha.test");
    std::fs::remove_file(gateway.file("data/bootstrap.json")).unwrap();
    let alone = gateway.run(&["token", "recover"]).fine();
    assert!(alone.err.contains("restart the gateway"), "{}", alone.err);
    std::fs::remove_file(gateway.file("data/bootstrap.json")).unwrap();
    let config = std::fs::read_to_string(gateway.file("gateway.toml")).unwrap();
    let config =
        config.replacen("store = \"redb\"", "store = \"postgres://trunkline@127.0.0.1/trunkline\"", 1);
    let config = config.replacen("advertise = \"\"", "advertise = \"gw-1.internal:8442\"", 1);
    std::fs::write(gateway.file("gateway.toml"), config).unwrap();
    let one_of_several = gateway.run(&["token", "recover"]).fine().err;
    assert!(
        one_of_several.contains("of this directory") && !one_of_several.contains("restart"),
        "{one_of_several}"
    );
}

//! Real gateway processes whose store is in a database, and those that move there.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use trunkline_gateway::config::{Config, engine};
use trunkline_gateway::store::Store;
use trunkline_gateway::store::redb::RedbStore;
use trunkline_gateway_proto::store::{Commit, Head, Lane, NetworkKey, Op, PeerKey, Record, Stream};
use trunkline_gateway_proto::time::Time;
use trunkline_testkit::postgres;

use crate::process::{Gateway, text};

/// The address of an empty database, whose password stands where `gateway.toml` says.
fn database(gateway: &Gateway) -> String {
    let password = gateway.path("database.password");
    std::fs::write(&password, format!("{}\n", postgres::PASSWORD)).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    edit(gateway, "# store_password_file", "store_password_file");
    let server = postgres::shared();
    server.url(&server.database())
}

fn edit(gateway: &Gateway, from: &str, to: &str) {
    let file = gateway.path("gateway.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    assert!(config.contains(from), "{config}");
    std::fs::write(file, config.replacen(from, to, 1)).unwrap();
}

fn setting(url: &str) -> String {
    format!("store = \"{url}\"")
}

/// The line that a verb fails with; what is logged stands before it.
fn error(gateway: &Gateway, args: &[&str]) -> String {
    let output = gateway.cli(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    error.lines().last().unwrap().to_owned()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check<'a>(checks: &'a Value, what: &str) -> &'a Value {
    checks["checks"].as_array().unwrap().iter().find(|check| check["what"] == what).unwrap()
}

#[test]
fn a_gateway_moves_to_a_database_and_back_with_two_commands_each_way() {
    let (mut alpha, mut beta) = (Gateway::running("alpha.test"), Gateway::running("beta.test"));
    alpha.peer(&mut beta, "alpha.test", "beta.test");
    let url = database(&alpha);
    let to_database = ["store", "migrate", "--from", "redb", "--to", &url];
    let nothing = error(&alpha, &["store", "migrate", "--from", &url, "--to", "redb"]);
    assert!(nothing.contains("there is no store in the database"), "{nothing}");
    assert!(error(&alpha, &to_database).contains("in use by another trunkline-gateway"));
    let audit = alpha.json(&["audit", "list"])["entries"].clone();
    assert_eq!(alpha.stop(), Some(0));

    let output = alpha.cli(&["store", "migrate", "--from", "redb", "--to", "postgres"]);
    assert_eq!(output.status.code(), Some(2), "`store` names no database yet");
    let said = alpha.ok(&to_database);
    assert!(
        said.contains("and compared them") && said.contains(&format!("set `{}`", setting(&url))),
        "{said}"
    );
    assert!(error(&alpha, &["run"]).contains("was moved to the database"), "on the old store");
    assert!(alpha.ok(&["store", "check"]).contains("was moved to the database"));
    let checked: Value = serde_json::from_slice(&alpha.cli(&["--json", "run", "--check"]).stdout).unwrap();
    assert!(check(&checked, "store")["why"].as_str().unwrap().contains("was moved to the database"));

    edit(&alpha, "store = \"redb\"", &setting(&url));
    let checked = alpha.json(&["run", "--check"]);
    let store = check(&checked, "store");
    assert!(store["why"].as_str().unwrap().contains("no synchronous standby"), "{store}");
    let doctor: Value = serde_json::from_slice(&alpha.cli(&["--json", "doctor"]).stdout).unwrap();
    let doctor = doctor["checks"].as_array().unwrap();
    assert_eq!(doctor.iter().filter(|check| check["check"] == "database").count(), 2, "{doctor:#?}");
    assert!(!doctor.iter().any(|check| check["subject"] == "store"), "{doctor:#?}");

    alpha.start();
    alpha.wait("linked", |alpha| alpha.json(&["peer", "show", "beta.test"])["link"] == "up");
    assert_eq!(alpha.json(&["audit", "verify"])["ok"], true);
    assert_eq!(alpha.json(&["audit", "list"])["entries"], audit);

    // Both look without disturbing the gateway that runs.
    let checked = alpha.json(&["store", "check"]);
    assert_eq!(checked["ok"], true);
    assert!(checked["readable"].as_u64().unwrap() > 0);
    let exported = lines(&alpha.ok(&["store", "export"]));
    assert!(exported.iter().any(|line| line["state"] == "peer" && line["domain"] == "beta.test"));
    let checked = alpha.json(&["run", "--check"]);
    assert_eq!(checked["ok"], true, "{checked:#}");
    let store = check(&checked, "store")["why"].as_str().unwrap().to_owned();
    assert!(store.contains("in use, by the gateway that runs on this data_dir"), "{store}");
    alpha.ok(&["peer", "pause", "beta.test"]);
    alpha.ok(&["peer", "resume", "beta.test"]);

    assert!(
        error(&alpha, &["store", "migrate", "--from", "postgres", "--to", "redb"])
            .contains("is in use by another")
    );
    assert_eq!(alpha.stop(), Some(0));
    let moved = alpha.json(&["store", "migrate", "--from", "postgres", "--to", "redb"]);
    assert_eq!(
        (&moved["store"], &moved["configured"], &moved["before"]),
        (&"redb".into(), &false.into(), &false.into())
    );
    let again = alpha.json(&["store", "migrate", "--from", "postgres", "--to", "redb"]);
    assert_eq!(again["before"], true);
    assert!(error(&alpha, &["run"]).contains("was moved to the store in"), "on the database");
    edit(&alpha, &setting(&url), "store = \"redb\"");
    alpha.start();
    assert_eq!(alpha.json(&["audit", "verify"])["ok"], true);
    alpha.wait("linked", |alpha| alpha.json(&["peer", "show", "beta.test"])["link"] == "up");
}

/// Puts envelopes, or what could be some, into the store of a gateway that does not run: so many MiB.
fn fill(gateway: &Gateway, mib: u64) {
    let config = Config::load(&gateway.path("gateway.toml")).unwrap();
    let store = RedbStore::open(&engine::embedded(&config).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let stream = Stream::Outbox { peer: PeerKey(7), lane: Lane(3) };
    let (at, network) = (Time::from_unix_ms(1_800_000_000_000), NetworkKey(1));
    let head = Head { id: [7; 16], network, expires: Time::from_unix_ms(1_900_000_000_000), at };
    for block in 0..mib {
        let records = vec![Record { head, body: vec![7; 16 << 10].into() }; 64];
        let ops = vec![Op::Append { stream, first_seq: block * 64 + 1, records }];
        runtime.block_on(store.commit(Commit { ops, now: at })).unwrap();
    }
}

#[test]
fn a_move_that_is_killed_goes_on_when_it_is_run_again() {
    let mut alpha = Gateway::running("alpha.test");
    assert_eq!(alpha.stop(), Some(0));
    fill(&alpha, 96);
    let url = database(&alpha);
    let name = url.rsplit('/').next().unwrap().to_owned();
    let server = postgres::shared();
    let blocks = || {
        let there = server.answer(&name, "SELECT to_regclass('trunkline.blocks') IS NOT NULL");
        let count = || server.answer(&name, "SELECT count(*) FROM trunkline.blocks");
        if there == "t" { count().parse::<u64>().unwrap() } else { 0 }
    };
    let migrate = ["store", "migrate", "--from", "redb", "--to", &url];
    let mut running = alpha.spawn(&migrate);
    alpha.wait("copying", |_| blocks() >= 8);
    running.kill().unwrap();
    running.wait().unwrap();
    edit(&alpha, "store = \"redb\"", &setting(&url));
    let unfinished = error(&alpha, &["store", "check"]);
    let again = "run `trunkline-gateway store migrate --from redb --to postgres` again";
    assert!(unfinished.contains("is not finished") && unfinished.contains(again), "{unfinished}");
    // Its lease has to run out.
    let moved = alpha.json(&migrate);
    assert!(moved["records"].as_u64().unwrap() >= 96 * 64, "{moved}");
    assert!(moved["copied"].as_u64() < moved["records"].as_u64(), "{moved}");
    assert_eq!(alpha.json(&["store", "check"])["readable"], moved["records"]);
    alpha.start();
}

#[test]
fn the_statements_of_the_manual_give_a_user_all_that_a_gateway_needs() {
    let server = postgres::shared();
    let (user, shared) = (format!("u{}", std::process::id()), server.database());
    server.query("postgres", &format!("REVOKE ALL ON DATABASE {shared} FROM PUBLIC"));
    let manual = include_str!("../../../docs/OPERATIONS.md");
    let blocks = manual.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let statements: Vec<_> = blocks.flat_map(|block| block.trim().lines()).collect();
    assert_eq!(statements.len(), 3, "{statements:?}");
    for statement in statements {
        let password = format!("'{}'", postgres::PASSWORD.replace('\'', "''"));
        let statement = statement.replace("'a long random one'", &password);
        server.query("postgres", &statement.replace("trunkline", &user).replace("shared", &shared));
    }
    for name in [&user, &shared] {
        let mut alpha = Gateway::running("alpha.test");
        assert_eq!(alpha.stop(), Some(0));
        database(&alpha);
        let url = format!("postgres://{user}@127.0.0.1:{}/{name}", server.port());
        alpha.ok(&["store", "migrate", "--from", "redb", "--to", &url]);
        edit(&alpha, "store = \"redb\"", &setting(&url));
        alpha.start();
    }
}

#[test]
fn when_the_database_does_not_take_the_password_it_is_said_where_that_is_read_from() {
    let mut alpha = Gateway::running("alpha.test");
    assert_eq!(alpha.stop(), Some(0));
    let url = postgres::shared().url("postgres");
    let migrate = ["store", "migrate", "--from", "redb", "--to", &url];
    let missing = error(&alpha, &migrate);
    assert!(missing.contains("store_password_file") && missing.contains("is not set"), "{missing}");
    database(&alpha);
    let file = alpha.path("database.password");
    std::fs::write(&file, "wrong\n").unwrap();
    let wrong = error(&alpha, &migrate);
    let from = format!("is read from {} (store_password_file)", text(&file));
    assert!(wrong.contains(&from) && !wrong.contains("wrong"), "{wrong}");
}

#[test]
fn a_database_that_is_lost_is_given_up_by_taking_the_old_store_back() {
    let mut alpha = Gateway::running("alpha.test");
    assert_eq!(alpha.stop(), Some(0));
    let url = database(&alpha);
    alpha.ok(&["store", "migrate", "--from", "redb", "--to", &url]);
    let unasked = alpha.cli(&["store", "take-back", "redb"]);
    assert_eq!(unasked.status.code(), Some(2));
    let said = alpha.ok(&["store", "take-back", "redb", "--yes"]);
    assert!(said.contains("let none start on the database"), "{said}");
    assert!(error(&alpha, &["store", "take-back", "redb", "--yes"]).contains("was not moved away"));
    alpha.start();
}

#[test]
fn an_export_names_domains_and_no_people_unless_asked_for_everything() {
    let mut alpha = Gateway::init("alpha.test");
    alpha.start();
    let (mut beta, file) = (Gateway::running("beta.test"), alpha.path("export"));
    alpha.peer(&mut beta, "alpha.test", "beta.test");
    alpha.ok(&["peer", "pause", "beta.test"]);
    let token = std::fs::read_to_string(alpha.path("networks/main.token")).unwrap();
    let envelope = serde_json::json!({
        "from": "ann@alpha.test", "to": ["bob@beta.test", "eve@beta.test"], "kind": "message",
        "conversation": "secret-talk", "payload": "aGVsbG8=",
    });
    let url = format!("http://{}/v1/envelopes", alpha.address("local_api"));
    let sent = std::process::Command::new("curl")
        .args(["-fsS", "-H", &format!("authorization: Bearer {}", token.trim())])
        .args(["-H", "content-type: application/json", "-d", &envelope.to_string(), &url])
        .output()
        .unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert!(error(&alpha, &["store", "export"]).contains("in use by another trunkline-gateway"));
    assert_eq!(alpha.stop(), Some(0));

    let text_of = alpha.ok(&["store", "export"]);
    for private in ["ann", "bob", "eve", "secret-talk", "aGVsbG8", "root"] {
        assert!(!text_of.contains(private), "{private}: {text_of}");
    }
    let exported = lines(&text_of);
    let records: Vec<_> =
        exported.iter().filter(|line| line["stream"] == "outbox" && line["kind"] == "record").collect();
    let [record] = records[..] else { panic!("{exported:#?}") };
    for (field, expected) in [
        ("of", serde_json::json!("beta.test")),
        ("from", serde_json::json!("alpha.test")),
        ("to", serde_json::json!(["beta.test"])),
        ("network", serde_json::json!("main")),
        ("recipients", serde_json::json!(2)),
        ("payload_bytes", serde_json::json!(5)),
        ("left", serde_json::json!(false)),
        ("seq", serde_json::json!(1)),
    ] {
        assert_eq!(record[field], expected, "{record:#}");
    }
    let position =
        exported.iter().find(|line| line["kind"] == "position" && line["stream"] == "outbox").unwrap();
    assert_eq!((&position["next_seq"], &position["left_up_to"]), (&2.into(), &0.into()));

    alpha.ok(&["store", "export", "--payloads", "--out", text(&file)]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let exported = lines(&std::fs::read_to_string(&file).unwrap());
    let record = exported.iter().find(|line| line["stream"] == "outbox" && line["kind"] == "record").unwrap();
    for (field, value) in envelope.as_object().unwrap() {
        assert_eq!(record["envelope"][field], *value);
    }
    // Nothing is overwritten.
    assert!(error(&alpha, &["store", "export", "--out", text(&file)]).contains("cannot write"));
}

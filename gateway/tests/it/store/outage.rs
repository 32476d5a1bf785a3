//! PostgreSQL: connections that break, servers that stop, and gateways that are in each other's way.

use trunkline_gateway::store::Term;
use trunkline_testkit::postgres::proxy::{Cut, Proxy};

use super::crash::{check_survivor_on, run_script_on, script};
use super::*;

/// Lasts until it is taken: no test waits for its end.
const LONG: Duration = Duration::from_secs(60);

/// A lease that a test waits for.
const SHORT: Duration = Duration::from_millis(400);

/// Longer than an outage of a test, when that is to be survived.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store behind a proxy, with the options that open it there.
fn behind_proxy(database: &Database, patience: Duration) -> (Proxy, PostgresOptions) {
    let Database { server, name } = database;
    let proxy = Proxy::start(server.port()).unwrap();
    let url = server.url(name).replace(&server.port().to_string(), &proxy.port().to_string());
    (proxy, postgres_options(&url, 7).timed(LONG, patience))
}

/// Waits for what happens soon, in the database.
#[allow(clippy::disallowed_methods, reason = "nobody tells of it")]
pub(super) fn eventually(mut happened: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not happen");
}

/// The commits of a run of the script, with those that opening and closing make.
fn commits_of_a_run() -> u32 {
    let database = Database::new();
    let outcome = run_script_on(PostgresStore::open(&database.options(7)));
    assert_eq!(outcome.error, None);
    database.sql("SELECT commits FROM leases").parse().unwrap()
}

#[test]
fn a_connection_lost_around_any_commit_is_made_anew_and_each_commit_is_there_once() {
    let commits = commits_of_a_run();
    assert!(commits > u32::try_from(script().len()).unwrap() / 2);
    for cut in [Cut::Before, Cut::After] {
        for commit in 0..commits {
            let (proxy, options) = behind_proxy(&Database::new(), PATIENCE);
            // The first is that of the tables.
            proxy.cut_at(1 + commit, cut);
            let outcome = run_script_on(PostgresStore::open(&options));
            assert_eq!((outcome.error.as_ref(), proxy.cuts()), (None, 1), "{cut:?} commit {commit}");
            check_survivor_on(
                || PostgresStore::open(&options),
                &outcome,
                &format!("{cut:?} commit {commit}"),
            );
        }
    }
}

#[test]
fn a_commit_whose_outcome_stays_unknown_is_not_acknowledged_and_whole_or_not_there() {
    for cut in [Cut::Before, Cut::After] {
        for commit in 0..4 {
            let (proxy, options) = behind_proxy(&Database::new(), Duration::ZERO);
            proxy.cut_at(2 + commit, cut);
            let outcome = run_script_on(PostgresStore::open(&options));
            let fault = format!("{cut:?} commit {commit}");
            assert!(
                matches!(outcome.error, Some(StoreError::Unavailable(_))),
                "{fault}: {:?}",
                outcome.error
            );
            check_survivor_on(|| PostgresStore::open(&options), &outcome, &fault);
        }
    }
}

#[test]
fn who_reads_after_a_takeover_what_the_other_removed_calls_nothing_damaged() {
    let database = Database::new();
    let options = || database.options(7).timed(LONG, Duration::ZERO);
    let old = PostgresStore::open(&options()).unwrap();
    commit(&old, vec![append(INBOX, 1, 3, 100)]).unwrap();
    let term = database.sql("SELECT token || ' ' || commits FROM leases");
    let (token, commits) = term.split_once(' ').unwrap();
    let term = Term { token: token.parse().unwrap(), commits: commits.parse().unwrap() };
    let new = PostgresStore::open_or_seize(&options(), Some(term)).unwrap();
    // Another part begins, and the first one is dropped.
    commit_at(&new, START + HOUR * 2, vec![append(INBOX, 4, 3, 100), truncate(INBOX, 3)]).unwrap();
    commit_at(&new, START + HOUR * 4, vec![append(INBOX, 7, 3, 100)]).unwrap();
    let late = wait(old.read(INBOX, 0, usize::MAX)).unwrap_err();
    assert!(matches!(late, StoreError::Locked { .. }), "{late}");
    assert_eq!(seqs(&read(&new, INBOX, 0)), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn tables_of_the_next_release_serve_this_one() {
    let database = Database::new();
    let store = PostgresStore::open(&database.options(7)).unwrap();
    commit(&store, vec![append(INBOX, 1, 3, 100), put("a", "b")]).unwrap();
    let model = Model::of(&store);
    // As the next one may change them while this one runs: something is added, nothing taken away.
    database.sql(
        "BEGIN; INSERT INTO schema_versions (part, version) VALUES ('gateway', 99);
         ALTER TABLE blocks ADD COLUMN more bytea; ALTER TABLE leases ADD COLUMN more text DEFAULT 'x';
         ALTER TABLE state ADD COLUMN more integer; CREATE TABLE more (more integer); COMMIT",
    );
    commit(&store, vec![append(INBOX, 4, 3, 100), put("c", "d")]).unwrap();
    drop(store);
    let store = PostgresStore::open(&database.options(7)).unwrap();
    assert_ne!(Model::of(&store), model);
    assert_eq!(seqs(&read(&store, INBOX, 0)), [1, 2, 3, 4, 5, 6]);
    assert_eq!(database.sql("SELECT max(version) FROM schema_versions WHERE part = 'gateway'"), "99");
}

#[test]
fn reads_and_commits_go_on_after_an_outage() {
    let (proxy, options) = behind_proxy(&Database::new(), PATIENCE);
    let store = PostgresStore::open(&options).unwrap();
    commit(&store, vec![append(INBOX, 1, 3, 100)]).unwrap();
    assert_eq!(read(&store, INBOX, 0).len(), 3);
    proxy.close();
    let (written, seen) = (
        store.commit(Commit { ops: vec![append(INBOX, 4, 3, 100)], now: START }),
        store.read(INBOX, 0, usize::MAX),
    );
    proxy.open();
    wait(written).unwrap();
    assert!(wait(seen).unwrap().len() >= 3);
    assert_eq!(seqs(&read(&store, INBOX, 0)), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_outage_that_lasts_ends_all_promises_until_the_store_is_opened_again() {
    let (proxy, options) = behind_proxy(&Database::new(), Duration::from_millis(100));
    let store = PostgresStore::open(&options).unwrap();
    commit(&store, vec![append(INBOX, 1, 3, 100)]).unwrap();
    proxy.close();
    let failed = commit(&store, vec![append(INBOX, 4, 3, 100)]).unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(_)), "{failed}");
    assert_eq!(store.failed(), Some(failed.clone()));
    let down = PostgresStore::open(&options).unwrap_err();
    assert!(matches!(down, StoreError::Unavailable(_)), "{down}");
    proxy.open();
    assert_eq!(commit(&store, vec![put("a", "b")]).unwrap_err(), failed, "what it knows may be old");
    assert_eq!(wait(store.read(INBOX, 0, 9)).unwrap_err(), failed);
    let store = PostgresStore::open(&options).unwrap();
    assert_eq!(seqs(&read(&store, INBOX, 0)), [1, 2, 3]);
    commit(&store, vec![append(INBOX, 4, 3, 100)]).unwrap();
}

#[test]
fn a_server_that_crashes_loses_nothing_acknowledged() {
    let server = Server::start();
    let name = server.database();
    let options = postgres_options(&server.url(&name), 7).timed(LONG, Duration::from_millis(100));
    let mut model = Model::default();
    for round in 0..4_u64 {
        let store = PostgresStore::open(&options).unwrap();
        assert_eq!(Model::of(&store), model);
        let ops = |seq: u64| vec![append(INBOX, seq, 2, 900), put("last", &seq.to_string())];
        let answers: Vec<_> = (0..20)
            .map(|n| round * 1000 + n * 2 + 1)
            .map(|seq| (seq, store.commit(Commit { ops: ops(seq), now: START })))
            .collect();
        let crash = std::thread::scope(|scope| {
            scope.spawn(|| server.crash());
            answers.into_iter().map(|(seq, answer)| (seq, wait(answer))).collect::<Vec<_>>()
        });
        server.restart();
        let mut asked = model.clone();
        for (seq, answer) in crash {
            asked.apply(&ops(seq));
            if answer.is_ok() {
                model.clone_from(&asked);
            }
        }
        drop(store);
        let store = PostgresStore::open(&options).unwrap();
        let survivor = Model::of(&store);
        for (block, records) in &model.blocks {
            assert_eq!(survivor.blocks.get(block), Some(records), "round {round}");
        }
        assert!(survivor.blocks.len() <= asked.blocks.len(), "round {round}");
        // In order, without a gap: what is there of the rest is its beginning.
        let all = asked.blocks.keys().take(survivor.blocks.len());
        assert!(survivor.blocks.keys().eq(all), "round {round}");
        model = survivor;
    }
}

#[test]
fn a_second_gateway_is_refused_while_the_lease_is_held_and_let_in_when_it_is_given_back() {
    let database = Database::new();
    let first = PostgresStore::open(&database.options(7).timed(SHORT, PATIENCE)).unwrap();
    // A renewed lease never runs out, however short it is.
    let error = PostgresStore::open(&database.options(7)).unwrap_err();
    assert!(matches!(&error, StoreError::Locked { path } if path.contains("database")), "{error}");
    commit(&first, vec![append(INBOX, 1, 3, 100)]).unwrap();
    drop(first);
    let second = PostgresStore::open(&database.options(7).timed(LONG, PATIENCE)).unwrap();
    assert_eq!(read(&second, INBOX, 0).len(), 3);
}

#[test]
fn a_store_that_takes_long_to_open_keeps_its_lease_meanwhile() {
    let database = &Database::new();
    let store = PostgresStore::open(&database.options(7)).unwrap();
    commit(&store, vec![append(INBOX, 1, 3, 100)]).unwrap();
    drop(store);
    let number = |sql: &str| database.sql(sql).parse::<i64>().unwrap();
    let (token, commits) = ("SELECT token FROM leases", "SELECT commits FROM leases");
    let (token_before, commits_before) = (number(token), number(commits));
    // As if there were a million blocks to go through: what of them is gone takes several leases to tell.
    let _ = database.sql(
        "ALTER TABLE gone RENAME TO gone_rows; INSERT INTO gone_rows VALUES (-1, -1);
         CREATE VIEW gone AS WITH slow AS MATERIALIZED (SELECT part, block, pg_sleep(4) FROM gone_rows)
             SELECT part, block FROM slow;
         CREATE RULE into_rows AS ON INSERT TO gone DO INSTEAD
             INSERT INTO gone_rows VALUES (NEW.part, NEW.block)",
    );
    let opened = std::thread::scope(|scope| {
        let lease = Duration::from_millis(1500);
        let opening = scope.spawn(move || PostgresStore::open(&database.options(7).timed(lease, PATIENCE)));
        eventually(|| number(token) == token_before + 1);
        let late = PostgresStore::open(&database.options(7)).unwrap_err();
        assert!(matches!(late, StoreError::Locked { .. }), "{late}");
        assert!(!opening.is_finished());
        opening.join().unwrap()
    });
    let store = opened.unwrap();
    let renewed = number(commits) - commits_before;
    assert!(number(token) == token_before + 1 && renewed > 6, "{renewed}");
    commit(&store, vec![append(INBOX, 4, 3, 100)]).unwrap();
    assert_eq!(seqs(&read(&store, INBOX, 0)), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_holder_that_was_taken_over_from_changes_nothing_any_more() {
    let database = Database::new();
    let stale = PostgresStore::open(&database.options(7).timed(LONG, PATIENCE)).unwrap();
    commit(&stale, vec![append(INBOX, 1, 3, 100)]).unwrap();
    // As if it had stood still for longer than its lease.
    database.sql("UPDATE leases SET expires = '-infinity'");
    let store = PostgresStore::open(&database.options(7).timed(LONG, PATIENCE)).unwrap();
    commit(&store, vec![append(INBOX, 4, 3, 100)]).unwrap();
    let model = Model::of(&store);
    let fenced = commit(&stale, vec![append(INBOX, 4, 3, 9), append(outbox(1, 1), 1, 1, 9)]).unwrap_err();
    assert!(matches!(fenced, StoreError::Locked { .. }), "{fenced}");
    assert_eq!(commit(&stale, vec![put("a", "b")]).unwrap_err(), fenced);
    assert_eq!(wait(stale.read(INBOX, 0, 9)).unwrap_err(), fenced);
    drop(stale);
    assert_eq!(Model::of(&store), model);
    commit(&store, vec![append(INBOX, 7, 3, 100)]).unwrap();
}

#[test]
fn a_database_that_does_not_let_us_make_tables_says_so_and_may_be_mended() {
    let Database { server, name } = Database::new();
    server.query(&name, &format!("CREATE USER {name} PASSWORD '{}'", postgres::PASSWORD.replace('\'', "''")));
    let url = server.url(&name).replace(postgres::USER, &name);
    let refused = PostgresStore::open(&postgres_options(&url, 7)).unwrap_err();
    let StoreError::Unavailable(why) = &refused else { panic!("{refused}") };
    assert!(why.contains("permission denied for database"), "{why}");
    server.query(&name, &format!("GRANT CREATE ON DATABASE {name} TO {name}"));
    let store = PostgresStore::open(&postgres_options(&url, 7)).unwrap();
    commit(&store, vec![append(INBOX, 1, 3, 100)]).unwrap();
}

#[test]
fn a_database_that_went_back_is_noticed() {
    let database = Database::new();
    let (proxy, options) = behind_proxy(&database, PATIENCE);
    let store = PostgresStore::open(&options).unwrap();
    // As a standby that was behind would have it, once it is the primary.
    database.sql("UPDATE leases SET commits = commits - 1");
    proxy.close();
    proxy.open();
    let failed = commit(&store, vec![append(INBOX, 4, 3, 100)]).unwrap_err();
    assert!(matches!(&failed, StoreError::Failed(why) if why.contains("lost transactions")), "{failed}");
}

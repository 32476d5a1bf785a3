//! PostgreSQL: what becomes of partitions whose blocks are gone.

use std::time::Instant;

use trunkline_testkit::postgres::proxy::{Cut, Proxy};

use super::outage::eventually;
use super::*;

/// So many hours after the start of all, a block that stays and one that leaves with the next: each hour has a partition.
fn hour(store: &Arc<PostgresStore>, hour: u32, model: &mut Model) {
    let seq = u64::from(hour) + 1;
    let ops = vec![
        append(INBOX, seq, 1, 300),
        append(outbox(1, 1), seq, 1, 5000),
        truncate(outbox(1, 1), seq - 1),
        put("hour", &seq.to_string()),
    ];
    commit_at(store, START + HOUR * hour, ops.clone()).unwrap();
    model.apply(&ops);
}

/// Of the part that all hours but the last few were merged into, and those few.
const PARTS_FEW: i64 = 6;

fn parts(database: &Database) -> i64 {
    let (parts, tables) = (
        "SELECT count(*) FROM parts",
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'blocks'::regclass",
    );
    let counts = database.sql(&format!("SELECT ({parts}), ({tables})"));
    let (parts, tables) = counts.split_once('|').unwrap();
    assert_eq!(parts, tables);
    parts.parse().unwrap()
}

#[test]
fn many_partitions_that_hold_little_become_one_and_everything_reads_as_before() {
    let database = Database::new();
    let store = PostgresStore::open(&database.options(7)).unwrap();
    let mut model = Model::default();
    for next in 0..33 {
        hour(&store, next, &mut model);
    }
    // While they are being copied, or just have been.
    let ops = vec![Op::Remove { stream: INBOX, first_seq: 7 }, truncate(INBOX, 2)];
    commit_at(&store, START + HOUR * 33, ops.clone()).unwrap();
    model.apply(&ops);
    eventually(|| parts(&database) < PARTS_FEW);
    assert_eq!(Model::of(&store), model);
    assert_eq!(
        database.sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'merging%' AND relkind = 'r'"),
        "0"
    );
    // What lies there leaves as from any other.
    let ops = vec![Op::Remove { stream: INBOX, first_seq: 20 }, truncate(INBOX, 10)];
    commit_at(&store, START + HOUR * 33, ops.clone()).unwrap();
    model.apply(&ops);
    for next in 34..70 {
        hour(&store, next, &mut model);
    }
    eventually(|| {
        commit_at(&store, START + HOUR * 70, vec![put("more", "")]).unwrap();
        parts(&database) < 32 + PARTS_FEW
    });
    model.apply(&[put("more", "")]);
    drop(store);
    let store = PostgresStore::open(&database.options(7)).unwrap();
    assert_eq!(Model::of(&store), model);
    let ops = vec![truncate(INBOX, u64::MAX), truncate(outbox(1, 1), u64::MAX), append(INBOX, 1000, 1, 9)];
    commit_at(&store, START + HOUR * 100, ops).unwrap();
    eventually(|| parts(&database) == 1);
    assert_eq!(database.sql("SELECT count(*) FROM gone"), "0");
}

#[test]
fn a_connection_lost_around_a_merge_loses_nothing() {
    for cut in [Cut::Before, Cut::After] {
        for commits in 34..36 {
            let database = Database::new();
            let Database { server, name } = &database;
            let proxy = Proxy::start(server.port()).unwrap();
            let url = server.url(name).replace(&server.port().to_string(), &proxy.port().to_string());
            let store = PostgresStore::open(&postgres_options(&url, 7)).unwrap();
            let mut model = Model::default();
            proxy.cut_at(commits, cut);
            for next in 0..34 {
                hour(&store, next, &mut model);
            }
            eventually(|| {
                commit_at(&store, START + HOUR * 34, vec![put("more", "")]).unwrap();
                parts(&database) < PARTS_FEW
            });
            model.apply(&[put("more", "")]);
            assert_eq!((Model::of(&store), proxy.cuts()), (model.clone(), 1), "{cut:?} {commits}");
            drop(store);
            let store = PostgresStore::open(&postgres_options(&url, 7)).unwrap();
            assert_eq!(Model::of(&store), model, "{cut:?} {commits}");
        }
    }
}

#[test]
fn a_dump_that_takes_long_keeps_no_commit_waiting_and_partitions_go_after_it() {
    let database = Database::new();
    let store = PostgresStore::open(&database.options(7)).unwrap();
    let mut model = Model::default();
    (0..2).for_each(|next| hour(&store, next, &mut model));
    std::thread::scope(|scope| {
        // As `pg_dump` does it: everything, in one transaction.
        let dump = "BEGIN; LOCK TABLE blocks IN ACCESS SHARE MODE; SELECT pg_sleep(4); COMMIT";
        let dump = scope.spawn(|| database.sql(dump));
        let locked = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessShareLock'
            AND relation = 'blocks_1'::regclass
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        eventually(|| database.sql(locked) == "1");
        for next in 2..6 {
            let begun = Instant::now();
            hour(&store, next, &mut model);
            commit_at(&store, START + HOUR * next, vec![truncate(INBOX, 2)]).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        assert!(!dump.is_finished());
    });
    model.apply(&[truncate(INBOX, 2)]);
    assert_eq!((parts(&database), Model::of(&store)), (6, model.clone()));
    drop(store);
    let store = PostgresStore::open(&database.options(7)).unwrap();
    eventually(|| parts(&database) == 4);
    assert_eq!(Model::of(&store), model);
}

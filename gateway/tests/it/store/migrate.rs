//! From one engine to the other, and back.

use std::sync::atomic::{AtomicU64, Ordering};

use trunkline_gateway::store::migrate::{End, MigrateError, Moved, left_for, migrate, take_back};
use trunkline_gateway::store::note;

use super::*;

/// Makes a test of each function for each pair of engines.
macro_rules! between_all_engines {
    ($($name:ident),* $(,)?) => {
        mod redb_to_postgres {
            $(#[test] fn $name() { super::$name(&$crate::store::Ground::redb(), &$crate::store::Ground::postgres()) })*
        }
        mod postgres_to_redb {
            $(#[test] fn $name() { super::$name(&$crate::store::Ground::postgres(), &$crate::store::Ground::redb()) })*
        }
        mod redb_to_redb {
            $(#[test] fn $name() { super::$name(&$crate::store::Ground::redb(), &$crate::store::Ground::redb()) })*
        }
    };
}

between_all_engines![
    a_moved_store_holds_the_same,
    a_move_that_was_stopped_at_any_commit_goes_on_and_never_do_both_stores_start,
    a_source_that_went_on_after_a_stopped_move_is_moved_as_it_is,
    a_store_goes_back_with_all_that_came_since,
    a_target_that_is_not_empty_is_refused,
    a_move_begun_from_another_store_is_not_gone_on_with,
    a_blank_source_is_refused,
    a_store_whose_other_one_is_lost_is_taken_back_as_it_was,
];

/// A store whose commits fail from some moment on, as if the process had ended.
struct Interrupted {
    store: Arc<dyn Store>,
    commits_left: Arc<AtomicU64>,
}

impl Store for Interrupted {
    fn commit(&self, commit: Commit) -> StoreFuture<()> {
        let left = self.commits_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match left {
            Ok(_) => self.store.commit(commit),
            Err(_) => Box::pin(async { Err(StoreError::Failed("interrupted".into())) }),
        }
    }

    fn read(&self, stream: Stream, from_seq: u64, bytes_max: usize) -> StoreFuture<Vec<(u64, Record)>> {
        self.store.read(stream, from_seq, bytes_max)
    }

    fn recover(&self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        self.store.recover(visit)
    }

    fn id(&self) -> [u8; 16] {
        self.store.id()
    }
}

/// Moves, with so many commits to both stores together.
fn run(from: &Ground, to: &Ground, commits: u64) -> Result<Moved, MigrateError> {
    let commits_left = Arc::new(AtomicU64::new(commits));
    let open = |ground: &Ground| Interrupted {
        store: ground.open().unwrap(),
        commits_left: Arc::clone(&commits_left),
    };
    let (source, target) = (open(from), open(to));
    let end = |store, name, engine| End { store, name, engine };
    migrate(end(&source, "source", "redb"), end(&target, "target", "postgres"), &|| START, &mut |_, _, _| ())
}

fn whole(from: &Ground, to: &Ground) -> Result<Moved, MigrateError> {
    run(from, to, u64::MAX)
}

/// Whether a gateway would start.
fn starts(ground: &Ground) -> Result<(), StoreError> {
    note::recover(&*ground.open().unwrap(), &mut |_| ())
}

/// Blocks of all kinds of streams, some of which have lost their front, their middle or everything.
fn filled(ground: &Ground) -> Model {
    let store = ground.open().unwrap();
    let mut model = Model::default();
    let mut ask = |ops: Vec<Op>| {
        commit(&store, ops.clone()).unwrap();
        model.apply(&ops);
    };
    let receipts = Stream::Receipts { network: NetworkKey(1) };
    for n in 0..6_u64 {
        ask(vec![
            put(&format!("p{n}"), "value"),
            append(outbox(1, 0), n * 10 + 1, 10, 60_000),
            append(INBOX, n * 4 + 100, 4, 100 * usize::try_from(n).unwrap()),
            append(receipts, n + 1, 1, 9),
            append(Stream::Audit, n * 2 + 1, 2, 700_000),
        ]);
    }
    ask(vec![truncate(outbox(1, 0), 20), truncate(receipts, 6)]);
    ask(vec![Op::Remove { stream: INBOX, first_seq: 108 }, put("q", ""), Op::Delete { key: b"p3".into() }]);
    drop(store);
    model
}

fn model(ground: &Ground) -> Model {
    let store = ground.open().unwrap();
    Model::of(&store)
}

fn a_moved_store_holds_the_same(from: &Ground, to: &Ground) {
    let expected = filled(from);
    let moved = whole(from, to).unwrap();
    assert_eq!((moved.records, moved.copied, moved.state, moved.streams), (72, 72, 6, 3));
    assert!(!moved.before);
    assert_eq!(model(to), expected);
    starts(to).unwrap();
    // The old one says where everything is, and holds it still.
    let error = starts(from).unwrap_err();
    assert!(
        matches!(&error, StoreError::Moved(why) if why.contains("moved to the target")
        && why.contains("store migrate --from postgres --to redb")),
        "{error}"
    );
    let mut old = model(from);
    old.state.retain(|key, _| expected.state.contains_key(key));
    assert_eq!(old, expected);
    // Numbering goes on where it was.
    let store = to.open().unwrap();
    commit(
        &store,
        vec![append(outbox(1, 0), 61, 1, 9), append(Stream::Receipts { network: NetworkKey(1) }, 7, 1, 9)],
    )
    .unwrap();
    drop(store);
    // Once more does no harm.
    assert!(whole(from, to).unwrap().before);
    assert_eq!(seqs(&read(&to.open().unwrap(), outbox(1, 0), 61)), [61]);
}

fn a_move_that_was_stopped_at_any_commit_goes_on_and_never_do_both_stores_start(from: &Ground, to: &Ground) {
    let expected = filled(from);
    let mut runs = 0;
    let mut both_refused = false;
    // Each run makes one commit more than it takes to see what the last one did.
    while let Err(error) = run(from, to, 1) {
        assert!(error.to_string().contains("interrupted"), "{error}");
        let (old, new) = (starts(from), starts(to));
        let new = new.expect_err("a target that is not finished does not start");
        assert!(
            matches!(&new, StoreError::Moved(why) if why.contains("--from redb --to postgres` again")),
            "{new}"
        );
        both_refused |= old.is_err();
        runs += 1;
        assert!(runs < 100);
    }
    assert!(runs >= 4 && both_refused, "{runs}");
    assert_eq!(model(to), expected);
    starts(to).unwrap();
    starts(from).unwrap_err();
}

fn a_source_that_went_on_after_a_stopped_move_is_moved_as_it_is(from: &Ground, to: &Ground) {
    let mut expected = filled(from);
    run(from, to, 3).unwrap_err();
    let store = from.open().unwrap();
    let ops = vec![
        truncate(outbox(1, 0), 40),
        append(outbox(1, 0), 61, 3, 500),
        Op::Remove { stream: INBOX, first_seq: 112 },
        Op::Clear { stream: Stream::Audit },
        put("p0", "other"),
        Op::Delete { key: b"p1".into() },
    ];
    commit(&store, ops.clone()).unwrap();
    expected.apply(&ops);
    drop(store);
    run(from, to, 2).unwrap_err();
    // A store that went back to a backup has other records in the same places.
    let store = from.open().unwrap();
    let mut other = record(9, 30);
    other.head.id = [9; 16];
    let ops = vec![
        Op::Clear { stream: INBOX },
        Op::Append { stream: INBOX, first_seq: 120, records: vec![other; 4] },
        append(INBOX, 200, 1, 20),
    ];
    commit(&store, ops.clone()).unwrap();
    expected.apply(&ops);
    drop(store);
    whole(from, to).unwrap();
    assert_eq!(model(to), expected);
}

fn a_store_goes_back_with_all_that_came_since(from: &Ground, to: &Ground) {
    let mut expected = filled(from);
    whole(from, to).unwrap();
    let store = to.open().unwrap();
    let ops = vec![truncate(outbox(1, 0), 50), append(outbox(1, 0), 61, 2, 800), put("new", "1")];
    commit(&store, ops.clone()).unwrap();
    expected.apply(&ops);
    drop(store);
    let moved = whole(to, from).unwrap();
    assert_eq!(moved.copied, 2, "what is there still is not copied again");
    assert_eq!(model(from), expected);
    starts(from).unwrap();
    starts(to).unwrap_err();
    // And there again.
    whole(from, to).unwrap();
    assert_eq!(model(to), expected);
    starts(to).unwrap();
}

fn a_target_that_is_not_empty_is_refused(from: &Ground, to: &Ground) {
    filled(from);
    commit(&to.open().unwrap(), vec![put("a", "b")]).unwrap();
    let error = whole(from, to).unwrap_err();
    assert!(
        matches!(&error, MigrateError::Refused(why) if why.contains("the target is not empty")),
        "{error}"
    );
    starts(from).unwrap();
    starts(to).unwrap();
}

fn a_move_begun_from_another_store_is_not_gone_on_with(from: &Ground, to: &Ground) {
    let other = Ground::redb();
    filled(&other);
    filled(from);
    run(&other, to, 2).unwrap_err();
    let error = whole(from, to).unwrap_err();
    assert!(
        matches!(&error, MigrateError::Refused(why) if why.contains("begun from another store")),
        "{error}"
    );
    whole(&other, to).unwrap();
    let error = whole(from, &other).unwrap_err();
    assert!(
        matches!(&error, MigrateError::Refused(why) if why.contains("was moved to another store")),
        "{error}"
    );
    starts(from).unwrap();
    starts(to).unwrap();
}

fn a_store_whose_other_one_is_lost_is_taken_back_as_it_was(from: &Ground, to: &Ground) {
    let expected = filled(from);
    fn end(store: &dyn Store) -> End<'_> {
        End { store, name: "source", engine: "redb" }
    }
    let store = from.open().unwrap();
    let error = left_for(end(&*store)).unwrap_err();
    assert!(error.to_string().contains("was not moved away"), "{error}");
    drop(store);
    whole(from, to).unwrap();
    let store = from.open().unwrap();
    assert_eq!(left_for(end(&*store)).unwrap().name, "target");
    take_back(end(&*store), START).unwrap();
    drop(store);
    starts(from).unwrap();
    assert_eq!(model(from), expected);
}

fn a_blank_source_is_refused(from: &Ground, to: &Ground) {
    let error = whole(from, to).unwrap_err();
    assert!(matches!(&error, MigrateError::Refused(why) if why.contains("there is nothing in")), "{error}");
}

#[test]
fn a_target_that_does_not_keep_what_it_was_given_is_noticed_before_the_source_is_marked() {
    struct Forgetful(Arc<dyn Store>);
    impl Store for Forgetful {
        fn commit(&self, mut commit: Commit) -> StoreFuture<()> {
            for op in &mut commit.ops {
                if let Op::Append { stream: INBOX, records, .. } = op
                    && let Some(record) = records.first_mut()
                {
                    record.body = vec![0; record.body.len()].into();
                }
            }
            self.0.commit(commit)
        }
        fn read(&self, stream: Stream, from_seq: u64, bytes_max: usize) -> StoreFuture<Vec<(u64, Record)>> {
            self.0.read(stream, from_seq, bytes_max)
        }
        fn recover(&self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
            self.0.recover(visit)
        }
        fn id(&self) -> [u8; 16] {
            self.0.id()
        }
    }
    let (from, to) = (Ground::redb(), Ground::redb());
    filled(&from);
    let (source, target) = (from.open().unwrap(), Forgetful(to.open().unwrap()));
    let source = End { store: &*source, name: "source", engine: "redb" };
    let target = End { store: &target, name: "target", engine: "redb" };
    let error = migrate(source, target, &|| START, &mut |_, _, _| ()).unwrap_err();
    assert!(matches!(&error, MigrateError::Differs { what, .. } if what.contains("Inbox")), "{error}");
    note::recover(source.store, &mut |_| ()).unwrap();
}

//! A disk that stops, or fails, at any moment.

use trunkline_testkit::disk::Fault;

use super::*;

/// A run of everything a store does: blocks of one and of several parts, removals of all kinds, state, keys that
/// are made and destroyed.
pub(super) fn script() -> Vec<(Time, Vec<Op>)> {
    let later = START + HOUR;
    vec![
        (START, vec![put("a", "1"), append(outbox(1, 0), 1, 3, 500), append(outbox(1, 1), 1, 2, 9_000)]),
        (START, vec![append(outbox(1, 0), 4, 2, 500), append(INBOX, 1, 5, 300), put("b", "2")]),
        (START, vec![truncate(outbox(1, 0), 3), append(outbox(2, 7), 1, 1, 40_000)]),
        (
            later,
            vec![Op::Remove { stream: outbox(1, 1), first_seq: 1 }, append(INBOX, 6, 1, 10), put("a", "3")],
        ),
        (
            later,
            vec![truncate(INBOX, 5), Op::Delete { key: b"b".into() }, Op::Clear { stream: outbox(1, 0) }],
        ),
        (later, vec![]),
        (later, vec![append(Stream::Audit, 1, 1, 100), append(outbox(1, 0), 6, 4, 2_000), put("c", "4")]),
    ]
}

/// What must be there after a run, and what may be.
pub(super) struct Outcome {
    acknowledged: Model,
    asked: Model,
    pub(super) error: Option<StoreError>,
}

fn run_script(disk: &Disk) -> Outcome {
    run_script_on(open(disk))
}

pub(super) fn run_script_on(opened: Result<Arc<impl Store + ?Sized>, StoreError>) -> Outcome {
    let mut acknowledged = Model::default();
    let store = match opened {
        Ok(store) => store,
        Err(error) => return Outcome { asked: Model::default(), acknowledged, error: Some(error) },
    };
    for (now, ops) in script() {
        let mut asked = acknowledged.clone();
        asked.apply(&ops);
        match commit_at(&store, now, ops) {
            Ok(()) => acknowledged = asked,
            Err(error) => return Outcome { acknowledged, asked, error: Some(error) },
        }
    }
    Outcome { asked: acknowledged.clone(), acknowledged, error: None }
}

/// Every acknowledged commit is there, and the one in flight is there whole or not at all; the store goes on.
fn check_survivor(disk: &Disk, outcome: &Outcome, fault: &str) {
    check_survivor_on(|| open(disk), outcome, fault);
}

pub(super) fn check_survivor_on<S: Store + ?Sized>(
    open: impl Fn() -> Result<Arc<S>, StoreError>,
    outcome: &Outcome,
    fault: &str,
) {
    let store = open().unwrap_or_else(|error| panic!("{fault}: {error}"));
    let survivor = Model::of(&store);
    assert!(survivor == outcome.acknowledged || survivor == outcome.asked, "{fault}: {survivor:?}");
    let more = vec![append(outbox(1, 0), 100, 3, 700), put("z", "z")];
    commit_at(&store, START + HOUR * 2, more.clone()).unwrap();
    let mut expected = survivor;
    expected.apply(&more);
    drop(store);
    assert_eq!(Model::of(&open().unwrap()), expected, "{fault}");
}

fn operations_of_a_run() -> u64 {
    let disk = Disk::new(1);
    let outcome = run_script(&disk);
    assert_eq!(outcome.error, None);
    disk.operations()
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    let operations = operations_of_a_run();
    for seed in 1..=2 {
        for operation in 1..=operations {
            let disk = Disk::new(seed * 10_000 + operation);
            disk.fault_at(operation, Fault::Crash);
            let outcome = run_script(&disk);
            // The machine stops for certain, in case the store finished before the operation came.
            disk.crash();
            disk.forget_faults();
            check_survivor(&disk, &outcome, &format!("seed {seed}, crash at operation {operation}"));
        }
    }
}

#[test]
fn a_crash_while_recovering_from_a_crash_loses_nothing_acknowledged() {
    let operations = operations_of_a_run();
    trunkline_testkit::seeds::run("crash while recovering", 60, |seed, mut rng| {
        let disk = Disk::new(seed);
        disk.fault_at(1 + rng.range(0..operations), Fault::Crash);
        let outcome = run_script(&disk);
        disk.crash();
        for _ in 0..3 {
            disk.fault_at(disk.operations() + 1 + rng.range(0..30), Fault::Crash);
            drop(open(&disk));
            disk.crash();
            disk.forget_faults();
        }
        check_survivor(&disk, &outcome, "crashes while opening");
    });
}

#[test]
fn a_failed_write_or_sync_stops_the_store_until_it_is_opened_again() {
    let operations = operations_of_a_run();
    for operation in 1..=operations {
        let disk = Disk::new(operation);
        disk.fault_at(operation, Fault::Error);
        let outcome = run_script(&disk);
        if let Some(error) = &outcome.error {
            assert!(matches!(error, StoreError::Failed(_)), "{error}");
        }
        disk.crash();
        check_survivor(&disk, &outcome, &format!("error at operation {operation}"));
    }
}

#[test]
fn after_a_failed_sync_every_commit_gets_the_same_answer_and_no_write_follows() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 100)]).unwrap();
    disk.fail_sync_at(disk.syncs() + 1);
    let failed = commit(&store, vec![append(INBOX, 3, 2, 100)]).unwrap_err();
    assert!(matches!(&failed, StoreError::Failed(_)), "{failed}");
    let operations = disk.operations();
    for seq in [5, 7] {
        assert_eq!(commit(&store, vec![append(INBOX, seq, 2, 100)]).unwrap_err(), failed);
    }
    assert_eq!(disk.operations(), operations, "nothing more was written");
}

#[test]
fn a_failed_sync_of_the_key_file_stops_the_store() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    // The first sync of a commit that needs a new key is that of the key file.
    disk.fail_sync_at(disk.syncs() + 1);
    let failed = commit(&store, vec![append(INBOX, 1, 2, 100)]).unwrap_err();
    assert!(matches!(&failed, StoreError::Failed(why) if why.contains(KEYS)), "{failed}");
    assert_eq!(commit(&store, vec![put("a", "b")]).unwrap_err(), failed);
}

#[test]
fn short_writes_are_completed() {
    let operations = operations_of_a_run();
    trunkline_testkit::seeds::run("short writes", 20, |seed, mut rng| {
        let disk = Disk::new(seed);
        for _ in 0..5 {
            disk.fault_at(1 + rng.range(0..operations), Fault::Short);
        }
        let outcome = run_script(&disk);
        assert_eq!(outcome.error, None);
        disk.crash();
        check_survivor(&disk, &outcome, "short writes");
    });
}

//! What was put in comes out, until it is taken out.

use super::*;

on_both_engines![
    records_read_back_in_order_and_from_anywhere,
    a_read_stops_at_its_limit_but_gives_at_least_one,
    bodies_of_any_length_come_back,
    a_truncation_removes_whole_blocks_only,
    one_block_and_a_whole_stream_can_be_removed,
    a_reopened_store_recovers_everything,
    ops_of_one_commit_are_carried_out_in_order,
    commits_that_wait_together_are_all_carried_out_in_order,
    a_block_below_the_last_one_is_refused_and_stops_the_store,
    dropping_the_store_carries_out_what_was_asked,
    a_reader_overtaken_by_removals_and_destroyed_keys_sees_no_damage,
];

fn records_read_back_in_order_and_from_anywhere(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 10, 100), append(outbox(1, 3), 5, 2, 10)]).unwrap();
    commit(&store, vec![append(INBOX, 11, 5, 100)]).unwrap();
    let all = read(&store, INBOX, 0);
    assert_eq!(seqs(&all), (1..16).collect::<Vec<_>>());
    assert!(all.iter().all(|(seq, its)| *its == record(*seq, 100)));
    assert_eq!(seqs(&read(&store, INBOX, 8)), (8..16).collect::<Vec<_>>());
    assert_eq!(seqs(&read(&store, INBOX, 11)), (11..16).collect::<Vec<_>>());
    assert_eq!(seqs(&read(&store, INBOX, 16)), [0; 0]);
    assert_eq!(seqs(&read(&store, outbox(1, 3), 6)), [6]);
    assert_eq!(seqs(&read(&store, outbox(1, 2), 0)), [0; 0]);
}

fn a_read_stops_at_its_limit_but_gives_at_least_one(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 4, 100), append(INBOX, 5, 4, 100)]).unwrap();
    let up_to = |bytes_max| seqs(&wait(store.read(INBOX, 3, bytes_max)).unwrap());
    assert_eq!(up_to(0), [3]);
    assert_eq!(up_to(299), [3, 4]);
    assert_eq!(up_to(300), [3, 4, 5]);
}

fn bodies_of_any_length_come_back(ground: &Ground) {
    let store = ground.open().unwrap();
    let mut first_seq = 1;
    for len in [0, 1, 4_055, 4_056, 4_057, 35_000, 131_072, 300_001] {
        commit(&store, vec![append(INBOX, first_seq, 3, len)]).unwrap();
        let back = read(&store, INBOX, first_seq);
        assert!(back.iter().all(|(seq, its)| *its == record(*seq, len)), "{len}");
        first_seq += 3;
    }
}

fn a_truncation_removes_whole_blocks_only(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 3, 50), append(INBOX, 4, 3, 50), append(INBOX, 9, 3, 50)]).unwrap();
    commit(&store, vec![truncate(INBOX, 5)]).unwrap();
    assert_eq!(seqs(&read(&store, INBOX, 0)), [4, 5, 6, 9, 10, 11]);
    commit(&store, vec![truncate(INBOX, 8), truncate(outbox(1, 1), 100)]).unwrap();
    assert_eq!(seqs(&read(&store, INBOX, 0)), [9, 10, 11]);
}

fn one_block_and_a_whole_stream_can_be_removed(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 9_000), append(INBOX, 3, 2, 50), append(outbox(1, 0), 1, 1, 9)])
        .unwrap();
    commit(
        &store,
        vec![Op::Remove { stream: INBOX, first_seq: 1 }, Op::Remove { stream: INBOX, first_seq: 2 }],
    )
    .unwrap();
    assert_eq!(seqs(&read(&store, INBOX, 0)), [3, 4]);
    commit(&store, vec![Op::Clear { stream: INBOX }]).unwrap();
    assert_eq!(seqs(&read(&store, INBOX, 0)), [0; 0]);
    assert_eq!(seqs(&read(&store, outbox(1, 0), 0)), [1]);
}

fn a_reopened_store_recovers_everything(ground: &Ground) {
    let mut model = Model::default();
    let mut store = ground.open().unwrap();
    let commits = [
        vec![put("a", "1"), put("b", ""), append(outbox(1, 0), 1, 3, 700), append(outbox(1, 1), 1, 9, 5_000)],
        vec![append(outbox(1, 0), 4, 3, 700), append(Stream::Audit, 1, 1, 30), put("a", "2")],
        vec![truncate(outbox(1, 0), 3), Op::Delete { key: b"b".into() }, Op::Delete { key: b"c".into() }],
        vec![append(outbox(1, 0), 7, 1, 0), append(Stream::Receipts { network: NetworkKey(3) }, 8, 2, 64)],
    ];
    for ops in commits {
        commit(&store, ops.clone()).unwrap();
        model.apply(&ops);
        assert_eq!(Model::of(&store), model);
        drop(store);
        store = ground.open().unwrap();
        assert_eq!(Model::of(&store), model);
    }
}

fn ops_of_one_commit_are_carried_out_in_order(ground: &Ground) {
    let store = ground.open().unwrap();
    let ops = vec![
        append(INBOX, 1, 2, 10),
        Op::Clear { stream: INBOX },
        append(INBOX, 3, 2, 10),
        truncate(INBOX, 3),
        put("k", "old"),
        Op::Delete { key: b"k".into() },
        put("k", "new"),
    ];
    commit(&store, ops.clone()).unwrap();
    let mut model = Model::default();
    model.apply(&ops);
    assert_eq!(Model::of(&store), model);
}

fn commits_that_wait_together_are_all_carried_out_in_order(ground: &Ground) {
    let store = ground.open().unwrap();
    let answers: Vec<_> = (0..100)
        .map(|n| store.commit(Commit { ops: vec![append(INBOX, n * 2 + 1, 2, 40)], now: START }))
        .collect();
    for answer in answers {
        wait(answer).unwrap();
    }
    assert_eq!(seqs(&read(&store, INBOX, 0)), (1..201).collect::<Vec<_>>());
}

fn a_block_below_the_last_one_is_refused_and_stops_the_store(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 5, 2, 10)]).unwrap();
    let refused = commit(&store, vec![append(INBOX, 6, 2, 10)]).unwrap_err();
    assert!(matches!(&refused, StoreError::Failed(why) if why.contains("place is taken")), "{refused}");
    assert_eq!(commit(&store, vec![put("a", "b")]).unwrap_err(), refused);
}

fn dropping_the_store_carries_out_what_was_asked(ground: &Ground) {
    let store = ground.open().unwrap();
    for n in 0..20 {
        drop(store.commit(Commit { ops: vec![append(INBOX, n + 1, 1, 40)], now: START }));
    }
    drop(store);
    assert_eq!(read(&ground.open().unwrap(), INBOX, 0).len(), 20);
}

fn a_reader_overtaken_by_removals_and_destroyed_keys_sees_no_damage(ground: &Ground) {
    let store = ground.open().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let seqs = seqs(&read(&store, INBOX, 0));
                assert!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a hole in {seqs:?}");
                reads += 1;
            }
            reads
        });
        for n in 0..300_u32 {
            let first_seq = u64::from(n) * 3 + 1;
            let ops = vec![append(INBOX, first_seq, 3, 2_000), truncate(INBOX, first_seq.saturating_sub(4))];
            commit_at(&store, START + HOUR * n, ops).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 0);
    assert_eq!(read(&store, INBOX, 0).len(), 6);
}

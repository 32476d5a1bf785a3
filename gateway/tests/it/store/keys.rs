//! Sealing at rest, and the life of data keys.

use redb::{Database, ReadableTable, TableDefinition};

use super::*;

const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");
const BODIES: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("bodies");

on_both_engines![
    every_scope_has_its_own_key_and_a_new_one_every_hour,
    a_key_that_nothing_needs_any_more_is_erased,
    an_idle_scopes_key_is_erased_when_its_hour_is_over,
    a_key_is_erased_when_its_hour_is_over_even_if_nobody_comes,
    a_key_seals_only_in_the_run_that_made_it,
    opening_seals_the_state_anew_and_erases_its_old_key,
    nothing_that_rests_is_in_the_clear,
];

fn nothing_that_rests_is_in_the_clear(ground: &Ground) {
    let store = ground.open().unwrap();
    let marker = b"ann@alpha.test says the secret word";
    let mut marked = record(1, 0);
    marked.head.id = *b"sixteen byte tag";
    marked.body = Bytes::copy_from_slice(marker);
    let ops = vec![
        Op::Append { stream: INBOX, first_seq: 1, records: vec![marked.clone(), marked] },
        Op::Put { key: b"k".into(), value: Bytes::copy_from_slice(marker) },
    ];
    commit(&store, ops).unwrap();
    drop(store);
    let bytes = ground.content();
    assert!(!contains(&bytes, marker) && !contains(&bytes, b"sixteen byte tag"));
    assert!(!contains(&bytes, &[7; 32]), "the deployment key rests there");
}

fn every_scope_has_its_own_key_and_a_new_one_every_hour(ground: &Ground) {
    let store = ground.open().unwrap();
    let all = |seq| {
        vec![append(outbox(1, 0), seq, 1, 9), append(outbox(2, 0), seq, 1, 9), append(INBOX, seq, 1, 9)]
    };
    commit(&store, all(1)).unwrap();
    assert_eq!(ground.slots().len(), 3);
    // Lanes share the key of their peer, inbox and receipts that of their network.
    let receipts = Stream::Receipts { network: NetworkKey(1) };
    commit(&store, vec![append(outbox(1, 9), 1, 1, 9), append(receipts, 1, 1, 9)]).unwrap();
    commit_at(&store, START + HOUR - Duration::from_millis(1), all(2)).unwrap();
    assert_eq!(ground.slots().len(), 3);
    commit_at(&store, START + HOUR, all(3)).unwrap();
    assert_eq!(ground.slots().len(), 6);
}

fn a_key_that_nothing_needs_any_more_is_erased(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 100)]).unwrap();
    let [first] = ground.slots().try_into().unwrap();
    commit_at(&store, START + HOUR, vec![append(INBOX, 3, 2, 100)]).unwrap();
    assert!(ground.slots().contains(&first), "its block is still there");
    commit_at(&store, START + HOUR, vec![truncate(INBOX, 2)]).unwrap();
    // The answer comes before the key is erased, the answer to the next commit after it.
    commit_at(&store, START + HOUR, vec![]).unwrap();
    assert!(!ground.slots().contains(&first));
    assert!(!contains(&ground.content(), &first[33..65]), "the wrapped key is gone");
    assert_eq!(seqs(&read(&store, INBOX, 0)), [3, 4]);
}

fn an_idle_scopes_key_is_erased_when_its_hour_is_over(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 100)]).unwrap();
    commit(&store, vec![truncate(INBOX, 2)]).unwrap();
    commit(&store, vec![]).unwrap();
    assert_eq!(ground.slots().len(), 1, "it still seals");
    commit_at(&store, START + HOUR, vec![]).unwrap();
    commit_at(&store, START + HOUR, vec![]).unwrap();
    assert_eq!(ground.slots().len(), 0);
}

fn a_key_is_erased_when_its_hour_is_over_even_if_nobody_comes(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 100)]).unwrap();
    commit_at(&store, START + HOUR - Duration::from_millis(30), vec![truncate(INBOX, 2)]).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !ground.slots().is_empty() {
        assert!(std::time::Instant::now() < deadline, "the key is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_block_whose_key_was_destroyed_cannot_be_brought_back() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 100)]).unwrap();
    drop(store);
    // What somebody may have copied, or what free pages still hold.
    let (old, _keys) = (bytes_of(&disk, STORE), bytes_of(&disk, KEYS));
    let store = open(&disk).unwrap();
    commit(&store, vec![truncate(INBOX, 2)]).unwrap();
    commit(&store, vec![]).unwrap();
    drop(store);
    disk.tamper(STORE, |bytes| *bytes = old);
    let error = open(&disk).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("data key")), "{error}");
}

fn a_key_seals_only_in_the_run_that_made_it(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 1, 1, 100)]).unwrap();
    drop(store);
    let store = ground.open().unwrap();
    commit(&store, vec![append(INBOX, 2, 1, 100)]).unwrap();
    assert_eq!(ground.slots().len(), 2, "the second run took a key of its own");
    drop(store);
    ground.open().unwrap();
    assert_eq!(ground.slots().len(), 2, "both are kept for their blocks");
}

fn opening_seals_the_state_anew_and_erases_its_old_key(ground: &Ground) {
    let store = ground.open().unwrap();
    commit(&store, vec![put("a", "1"), put("b", "2")]).unwrap();
    let before = ground.slots();
    drop(store);
    let store = ground.open().unwrap();
    let after = ground.slots();
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after);
    let mut model = Model::default();
    model.apply(&[put("a", "1"), put("b", "2")]);
    assert_eq!(Model::of(&store), model);
}

#[test]
fn slots_are_used_again() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    let len = bytes_of(&disk, KEYS).len();
    for n in 0..1_200_u32 {
        let ops = vec![append(outbox(n, 0), 1, 1, 9), Op::Clear { stream: outbox(n.wrapping_sub(1), 0) }];
        commit_at(&store, START + HOUR * n, ops).unwrap();
    }
    assert_eq!(bytes_of(&disk, KEYS).len(), len);
}

/// Changes the store file as somebody would who has no key.
fn rearrange(disk: &Disk, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = Database::builder().create_with_backend(Medium(disk.open(STORE))).unwrap();
    let transaction = db.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn blocks_swapped_between_streams_do_not_open() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    // Two lanes of one peer: the same data key seals both, at the same place.
    commit(&store, vec![append(outbox(1, 0), 1, 2, 100), append(outbox(1, 1), 1, 2, 100)]).unwrap();
    drop(store);
    rearrange(&disk, |transaction| {
        let mut heads = transaction.open_table(HEADS).unwrap();
        let rows: Vec<(u64, Vec<u8>)> = heads
            .iter()
            .unwrap()
            .map(|row| row.unwrap())
            .map(|(k, v)| (k.value(), v.value().to_vec()))
            .collect();
        heads.insert(rows[0].0, rows[1].1.as_slice()).unwrap();
        heads.insert(rows[1].0, rows[0].1.as_slice()).unwrap();
    });
    let store = open(&disk).unwrap();
    let error = store.recover(&mut |_| ()).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("does not decrypt")), "{error}");
    let mut damaged = Vec::new();
    assert_eq!(store.check(&mut |stream, seq| damaged.push((stream, seq))), Ok(0));
    damaged.sort();
    assert_eq!(damaged, [(outbox(1, 0), 1), (outbox(1, 1), 1)]);
}

#[test]
fn swapped_bodies_do_not_open_though_their_heads_do() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 20_000), append(INBOX, 3, 1, 100)]).unwrap();
    drop(store);
    rearrange(&disk, |transaction| {
        let mut bodies = transaction.open_table(BODIES).unwrap();
        let rows: Vec<((u64, u16), Vec<u8>)> = bodies
            .iter()
            .unwrap()
            .map(|row| row.unwrap())
            .map(|(k, v)| (k.value(), v.value().to_vec()))
            .collect();
        bodies.insert(rows[0].0, rows[1].1.as_slice()).unwrap();
        bodies.insert(rows[1].0, rows[0].1.as_slice()).unwrap();
    });
    let store = open(&disk).unwrap();
    store.recover(&mut |_| ()).unwrap();
    let error = wait(store.read(INBOX, 1, 1)).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("does not decrypt")), "{error}");
    assert_eq!(seqs(&read(&store, INBOX, 3)), [3]);
}

#[test]
fn a_header_changed_in_the_clear_does_not_open() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    commit(&store, vec![append(INBOX, 1, 2, 100)]).unwrap();
    drop(store);
    for at in [8, 18, 20, 24, 32, 39, 42, 46] {
        let flip = |transaction: &redb::WriteTransaction| {
            let mut heads = transaction.open_table(HEADS).unwrap();
            let (key, mut value) =
                heads.first().unwrap().map(|(k, v)| (k.value(), v.value().to_vec())).unwrap();
            value[at] ^= 1;
            heads.insert(key, value.as_slice()).unwrap();
        };
        rearrange(&disk, flip);
        let store = open(&disk).unwrap();
        assert!(matches!(store.recover(&mut |_| ()), Err(StoreError::Corrupt(_))), "byte {at}");
        drop(store);
        rearrange(&disk, flip);
    }
    let store = open(&disk).unwrap();
    store.recover(&mut |_| ()).unwrap();
}

//! What a store says when it cannot be opened, or read.

use super::*;

fn filled(disk: &Disk) -> Model {
    let store = open(disk).unwrap();
    let mut model = Model::default();
    for n in 0..8_u64 {
        let ops = vec![
            put(&format!("key {n}"), "value"),
            append(outbox(1, 0), n * 10 + 1, 10, 1_500),
            append(outbox(2, 5), n * 4 + 1, 4, 100),
        ];
        commit(&store, ops.clone()).unwrap();
        model.apply(&ops);
    }
    model
}

#[test]
fn a_wrong_deployment_key_is_named_as_such() {
    let disk = Disk::new(1);
    filled(&disk);
    let error =
        RedbStore::open_on(&options(8), Medium(disk.open(STORE)), Medium(disk.open(KEYS))).unwrap_err();
    assert!(matches!(&error, StoreError::WrongKey { path } if path.ends_with(KEYS)), "{error}");
    // The right one still opens it.
    open(&disk).unwrap();
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path(), Zeroizing::new([7; 32]));
    let first = RedbStore::open(&options).unwrap();
    let error = RedbStore::open(&options).unwrap_err();
    assert!(matches!(&error, StoreError::Locked { path } if path.ends_with(STORE)), "{error}");
    drop(first);
    RedbStore::open(&options).unwrap();
}

#[test]
fn the_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    drop(RedbStore::open(&Options::new(dir.path(), Zeroizing::new([7; 32]))).unwrap());
    for name in [STORE, KEYS] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// Neither a panic nor wrong data may come of it: an error, or everything as it was.
fn open_damaged(disk: &Disk, model: &Model, damage: &str) -> Option<StoreError> {
    let store = match open(disk) {
        Ok(store) => store,
        Err(error) => {
            assert!(matches!(error, StoreError::Corrupt(_)), "{damage}: {error}");
            return Some(error);
        }
    };
    assert_eq!(Model::of(&store), *model, "{damage}");
    None
}

#[test]
fn a_truncated_store_file_is_damage() {
    let disk = Disk::new(1);
    let model = filled(&disk);
    let whole = bytes_of(&disk, STORE);
    for len in [1, 100, 4_096, whole.len() / 4, whole.len() / 2, whole.len() - 4_096, whole.len() - 1] {
        disk.tamper(STORE, |bytes| bytes.truncate(len));
        let error = open_damaged(&disk, &model, &format!("cut to {len}")).expect("a cut file does not open");
        assert!(error.to_string().contains(STORE) && error.to_string().contains("restore"), "{error}");
        disk.tamper(STORE, |bytes| bytes.clone_from(&whole));
    }
    assert_eq!(open_damaged(&disk, &model, "whole again"), None);
}

#[test]
fn a_store_file_that_is_something_else_is_damage() {
    let disk = Disk::new(1);
    let model = filled(&disk);
    disk.tamper(STORE, |bytes| bytes.fill(b'x'));
    assert!(open_damaged(&disk, &model, "all x").is_some());
}

#[test]
fn a_flipped_bit_anywhere_in_the_store_file_is_noticed_or_harmless() {
    let disk = Disk::new(1);
    let model = filled(&disk);
    let whole = bytes_of(&disk, STORE);
    let mut noticed = 0;
    trunkline_testkit::seeds::run("flipped bits in the store", 60, |_, mut rng| {
        // Mostly where there is something: half of the first 512 KiB are pages in use.
        let at = rng.index(whole.len().min(512 * 1024));
        disk.tamper(STORE, |bytes| {
            bytes.clone_from(&whole);
            bytes[at] ^= 1 << rng.index(8);
        });
        noticed += usize::from(open_damaged(&disk, &model, &format!("byte {at}")).is_some());
    });
    assert!(noticed > 0, "no flip hit anything");
}

#[test]
fn a_missing_or_damaged_key_file_is_damage() {
    let disk = Disk::new(1);
    let model = filled(&disk);
    let whole = bytes_of(&disk, KEYS);
    type Change = fn(&mut Vec<u8>);
    let damages: [(&str, Change); 5] = [
        ("missing", Vec::clear),
        ("cut within its header", |bytes| bytes.truncate(60)),
        ("cut behind its header", |bytes| bytes.truncate(128)),
        ("zeroed", |bytes| bytes.fill(0)),
        ("overwritten magic", |bytes| bytes[0] ^= 1),
    ];
    for (damage, change) in damages {
        disk.tamper(KEYS, change);
        let error = open_damaged(&disk, &model, damage).expect(damage);
        assert!(error.to_string().contains(KEYS), "{damage}: {error}");
        disk.tamper(KEYS, |bytes| bytes.clone_from(&whole));
    }
    assert_eq!(open_damaged(&disk, &model, "whole again"), None);
}

#[test]
fn a_damaged_slot_that_a_block_needs_is_damage() {
    let disk = Disk::new(1);
    let model = filled(&disk);
    let used =
        bytes_of(&disk, KEYS)[128..].chunks(128).filter(|slot| slot.iter().any(|byte| *byte != 0)).count();
    for slot in 1..=used {
        disk.tamper(KEYS, |bytes| bytes[slot * 128 + 40] ^= 1);
        let error = open_damaged(&disk, &model, "flipped slot").expect("a needed key is missed");
        assert!(error.to_string().contains("data key"), "{error}");
        disk.tamper(KEYS, |bytes| bytes[slot * 128 + 40] ^= 1);
    }
    assert_eq!(open_damaged(&disk, &model, "whole again"), None);
}

#[test]
fn a_missing_store_file_beside_keys_is_damage_and_not_a_new_store() {
    let disk = Disk::new(1);
    let model = filled(&disk);
    disk.tamper(STORE, Vec::clear);
    let error = open_damaged(&disk, &model, "missing").expect("an emptied store is noticed");
    assert!(error.to_string().contains("missing or empty"), "{error}");
}

#[test]
fn the_key_file_of_another_store_is_refused() {
    let (disk, other) = (Disk::new(1), Disk::new(2));
    let model = filled(&disk);
    filled(&other);
    let strange = bytes_of(&other, KEYS);
    disk.tamper(KEYS, |bytes| bytes.clone_from(&strange));
    let error = open_damaged(&disk, &model, "strange keys").expect("strange keys are noticed");
    assert!(error.to_string().contains("another store"), "{error}");
}

#[test]
fn a_full_disk_says_so_and_the_store_opens_again_once_there_is_space() {
    let disk = Disk::new(1);
    let mut model = filled(&disk);
    let store = open(&disk).unwrap();
    disk.set_capacity(Some(1));
    let mut seq = 1;
    let full = loop {
        let ops = vec![append(INBOX, seq, 50, 4_000)];
        match commit(&store, ops.clone()) {
            Ok(()) => model.apply(&ops),
            Err(error) => break error,
        }
        seq += 50;
        assert!(seq < 1_000_000, "the disk never gets full");
    };
    assert_eq!(full, StoreError::Full { path: "data".to_owned() });
    assert_eq!(commit(&store, vec![put("a", "b")]).unwrap_err(), full);
    drop(store);
    disk.set_capacity(None);
    let store = open(&disk).unwrap();
    assert_eq!(Model::of(&store), model);
    commit(&store, vec![append(INBOX, seq, 50, 4_000)]).unwrap();
}

#[test]
fn check_counts_what_can_be_read() {
    let disk = Disk::new(1);
    filled(&disk);
    let store = open(&disk).unwrap();
    let mut damaged = 0;
    assert_eq!(store.check(&mut |_, _| damaged += 1), Ok(112));
    assert_eq!(damaged, 0);
}

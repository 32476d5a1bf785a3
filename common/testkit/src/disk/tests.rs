use std::io::ErrorKind;

use super::*;
use crate::seeds;

const SECTOR: u64 = 512;

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_was_written_is_read_back_before_any_sync() {
    let file = Disk::new(1).open("a");
    file.write_all_at(10, b"hello").unwrap();
    assert_eq!(read(&file), b"\0\0\0\0\0\0\0\0\0\0hello");
    let past_the_end = file.read_at(12, &mut [0; 4]).unwrap_err();
    assert_eq!(past_the_end.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn what_was_synced_survives_every_crash() {
    seeds::run("synced survives", 200, |seed, mut rng| {
        let disk = Disk::new(seed);
        let file = disk.open("a");
        let synced = rng.bytes(3_000);
        file.write_all_at(0, &synced).unwrap();
        file.sync().unwrap();
        // Unsynced bytes next to it, in a sector that the synced ones share, must not touch them.
        file.write_all_at(3_000, &rng.bytes(2_000)).unwrap();
        disk.crash();
        let survived = read(&disk.open("a"));
        assert_eq!(survived.get(..3_000), Some(&synced[..]));
    });
}

#[test]
fn an_open_file_is_dead_after_a_crash_and_a_new_one_is_not() {
    let disk = Disk::new(1);
    let file = disk.open("a");
    disk.crash();
    assert!(is_crash(&file.write_at(0, b"x").unwrap_err()));
    assert!(is_crash(&file.sync().unwrap_err()));
    assert!(is_crash(&file.len().unwrap_err()));
    disk.open("a").write_all_at(0, b"x").unwrap();
}

#[test]
fn a_crash_leaves_each_unsynced_sector_in_a_version_that_it_had() {
    let mut outcomes = BTreeSet::new();
    seeds::run("sector versions", 300, |seed, _| {
        let disk = Disk::new(seed);
        let file = disk.open("a");
        file.write_all_at(0, &[0; 1024]).unwrap();
        file.sync().unwrap();
        file.write_all_at(0, &[1; 1024]).unwrap();
        file.write_all_at(0, &[2; 1024]).unwrap();
        disk.crash();
        let survived = read(&disk.open("a"));
        let (first, second) = survived.split_at(512);
        for sector in [first, second] {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn itself");
        }
        outcomes.insert((first[0], second[0]));
    });
    assert_eq!(outcomes.len(), 9, "every pair of versions comes up: {outcomes:?}");
}

#[test]
fn an_unsynced_length_may_be_lost_and_an_unsynced_cut_never_brings_old_bytes_back() {
    let mut lengths = BTreeSet::new();
    seeds::run("lengths", 300, |seed, _| {
        let disk = Disk::new(seed);
        let file = disk.open("a");
        file.write_all_at(0, &[7; 2048]).unwrap();
        file.sync().unwrap();
        file.set_len(SECTOR).unwrap();
        file.set_len(3 * SECTOR).unwrap();
        disk.crash();
        let survived = read(&disk.open("a"));
        lengths.insert(survived.len());
        if survived.len() == 3 * 512 {
            assert!(survived[512..].iter().all(|byte| *byte == 0));
        }
    });
    assert_eq!(lengths, BTreeSet::from([512, 3 * 512, 2048]));
}

#[test]
fn the_same_seed_survives_the_same_way() {
    let run = |seed| {
        let disk = Disk::new(seed);
        let file = disk.open("a");
        for sector in 0..20 {
            file.write_all_at(sector * SECTOR, &[1; 700]).unwrap();
        }
        disk.crash();
        read(&disk.open("a"))
    };
    assert_eq!(run(5), run(5));
    assert!((0..20).any(|seed| run(seed) != run(5)));
}

#[test]
fn a_crash_can_be_put_at_every_operation() {
    let work = |disk: &Disk| -> io::Result<()> {
        let file = disk.open("a");
        file.write_all_at(0, b"one")?;
        file.sync()?;
        file.set_len(512)?;
        file.write_all_at(3, b"two")?;
        file.sync()
    };
    let whole = Disk::new(1);
    work(&whole).unwrap();
    assert_eq!(whole.operations(), 5);
    assert_eq!(whole.syncs(), 2);
    for operation in 1..=5 {
        let disk = Disk::new(operation);
        disk.fault_at(operation, Fault::Crash);
        assert!(is_crash(&work(&disk).unwrap_err()));
        assert_eq!(disk.operations(), operation);
        let survived = read(&disk.open("a"));
        if operation > 2 {
            assert!(survived.starts_with(b"one"));
        }
    }
}

#[test]
fn a_failed_sync_loses_what_a_later_one_does_not_bring_back() {
    let mut lost = false;
    seeds::run("failed sync", 50, |seed, _| {
        let disk = Disk::new(seed);
        let file = disk.open("a");
        disk.fail_sync_at(1);
        file.write_all_at(0, b"gone").unwrap();
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
        assert_eq!(read(&file), b"gone", "the page cache still shows it");
        file.sync().unwrap();
        disk.crash();
        lost |= !read(&disk.open("a")).starts_with(b"gone");
    });
    assert!(lost);
}

#[test]
fn a_full_disk_takes_what_fits_and_lets_old_bytes_be_overwritten() {
    let disk = Disk::new(1);
    let file = disk.open("a");
    disk.open("b").write_all_at(0, &[1; 40]).unwrap();
    disk.set_capacity(Some(100));
    assert_eq!(file.write_at(0, &[2; 100]).unwrap(), 60);
    assert_eq!(file.write_at(60, &[2; 40]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.set_len(61).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_all_at(0, &[3; 60]).unwrap();
    file.sync().unwrap();
    disk.set_capacity(None);
    file.write_all_at(60, &[2; 40]).unwrap();
}

#[test]
fn a_short_write_says_how_much_it_wrote() {
    let disk = Disk::new(1);
    let file = disk.open("a");
    disk.fault_at(1, Fault::Short);
    let len = file.write_at(0, &[1; 100]).unwrap();
    assert!((1..100).contains(&len));
    assert_eq!(file.len().unwrap(), as_offset(len));
    disk.fault_at(2, Fault::Short);
    file.write_all_at(0, &[2; 100]).unwrap();
    assert_eq!(read(&file), [2; 100]);
}

#[test]
fn a_write_can_fail_without_a_crash() {
    let disk = Disk::new(1);
    let file = disk.open("a");
    disk.fault_at(1, Fault::Error);
    assert_eq!(file.write_at(0, b"x").unwrap_err().raw_os_error(), Some(5));
    assert!(file.is_empty().unwrap());
    file.write_all_at(0, b"x").unwrap();
}

#[test]
fn tampered_bytes_are_what_is_read_and_what_survives() {
    let disk = Disk::new(1);
    disk.open("a").write_all_at(0, b"good").unwrap();
    disk.tamper("a", |bytes| bytes[0] ^= 1);
    disk.crash();
    assert_eq!(read(&disk.open("a")), b"food");
    assert_eq!(disk.names(), ["a"]);
}

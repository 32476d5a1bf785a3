//! The machine under the gateway: its clock, and the disk under the store.

use std::path::Path;

use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::console::bytes;
use trunkline_postgres::Address;

use super::{Check, clock, now};
use crate::config::Config;
use crate::store::{STORE_FILE, space};

/// No machine that runs this has an earlier time: 2025-01-01.
const EARLIEST: Time = Time::from_unix_ms(1_735_689_600_000);

/// What is known of the clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    synchronised: Option<bool>,
    now: Time,
}

/// What is known of the disk under the store.
#[derive(Clone, Copy, Debug)]
struct Disk {
    free_bytes: u64,
    reserve_bytes: u64,
    store_bytes: u64,
}

/// What kind of file system the store is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Memory,
    Network(&'static str),
    Layer,
}

pub(super) fn examine(config: &Config) -> Vec<Check> {
    let dir = &config.data_dir;
    let clock = time(Clock { synchronised: clock::synchronised(), now: now() });
    if Address::is_meant(&config.store) {
        // Its disk, and what is on it, are the database's to tell.
        return vec![clock, beside_database(dir)];
    }
    vec![clock, disk(config), file_system(dir)]
}

/// The disk of a gateway whose store is in a database.
fn beside_database(dir: &Path) -> Check {
    match space::space(dir) {
        Ok(space) => room_beside_database(dir, space.available_bytes),
        Err(error) => unreadable("disk", dir, &error),
    }
}

fn disk(config: &Config) -> Check {
    let dir = &config.data_dir;
    match space::space(dir) {
        Ok(space) => room(
            dir,
            Disk {
                free_bytes: space.available_bytes,
                reserve_bytes: config.limits.disk_reserve_bytes.0,
                store_bytes: dir.join(STORE_FILE).metadata().map_or(0, |file| file.len()),
            },
        ),
        Err(error) => unreadable("disk", dir, &error),
    }
}

fn file_system(dir: &Path) -> Check {
    match rustix::fs::statfs(dir) {
        Ok(stat) => durable(dir, kind(stat.f_type)),
        Err(error) => unreadable("file system", dir, &error.into()),
    }
}

fn unreadable(check: &str, dir: &Path, error: &std::io::Error) -> Check {
    let finding = format!("It cannot be looked at: {error}.");
    Check::failed(
        check,
        dir.display().to_string(),
        finding,
        "Make data_dir a directory of the gateway's user.",
    )
}

fn time(clock: Clock) -> Check {
    let matters = "Times between gateways are relative, so envelopes do not mind; certificates with a date, bundles \
                   and one-time codes of the console do.";
    let subject = "system clock";
    if clock.now < EARLIEST {
        return Check::failed(
            "clock",
            subject,
            format!("The clock stands years in the past. {matters}"),
            "Set it, and keep it right with chrony or systemd-timesyncd.",
        );
    }
    match clock.synchronised {
        Some(true) => Check::ok("clock", subject, "The kernel says that the clock is kept right."),
        Some(false) => Check::warning(
            "clock",
            subject,
            format!("Nothing keeps the clock right. {matters}"),
            "Run chrony or systemd-timesyncd.",
        ),
        None => Check::ok(
            "clock",
            subject,
            format!("The time is plausible; the kernel does not say more. {matters}"),
        ),
    }
}

fn room(dir: &Path, disk: Disk) -> Check {
    let Disk { free_bytes, reserve_bytes, store_bytes } = disk;
    let subject = dir.display().to_string();
    let left = free_bytes.saturating_sub(reserve_bytes);
    let finding = format!(
        "{} are free; {} of them are kept in reserve (limits.disk_reserve_bytes), and the store takes {}.",
        bytes(free_bytes),
        bytes(reserve_bytes.min(free_bytes)),
        bytes(store_bytes)
    );
    if left == 0 {
        let advice = "Free space or enlarge the disk: the gateway refuses new envelopes until then. See `Disk full` in \
                      OPERATIONS.md.";
        Check::failed("disk", subject, finding, advice)
    } else if left < store_bytes.max(reserve_bytes) {
        let advice = "Enlarge the disk, or find out what waits (`outbox show`): the store cannot double any more \
                      before new envelopes are refused.";
        Check::warning("disk", subject, finding, advice)
    } else {
        Check::ok("disk", subject, finding)
    }
}

fn room_beside_database(dir: &Path, free_bytes: u64) -> Check {
    let subject = dir.display().to_string();
    let finding = format!(
        "{} are free here, where the gateway keeps a few small files. The store is in the database: watch the disk of \
         that server.",
        bytes(free_bytes)
    );
    if free_bytes == 0 {
        let advice = "Free space: certificates and tokens cannot be written until then.";
        Check::warning("disk", subject, finding, advice)
    } else {
        Check::ok("disk", subject, finding)
    }
}

fn durable(dir: &Path, kind: Kind) -> Check {
    let subject = dir.display().to_string();
    match kind {
        Kind::Local => Check::ok("file system", subject, "The store lies on a local file system."),
        Kind::Memory => Check::failed(
            "file system",
            subject,
            "The store lies in memory: what waits is lost when the machine stops, though it was acknowledged.",
            "Move data_dir to a disk.",
        ),
        Kind::Network(name) => Check::warning(
            "file system",
            subject,
            format!("The store lies on {name}: its locks and its syncs are as good as that server's."),
            "Move data_dir to a local disk.",
        ),
        Kind::Layer => Check::warning(
            "file system",
            subject,
            "The store lies in a container's own layer: it goes when the container is made anew.",
            "Mount a volume at data_dir.",
        ),
    }
}

/// By the magic numbers of statfs(2).
fn kind(magic: i64) -> Kind {
    match magic & 0xffff_ffff {
        0x0102_1994 | 0x8584_58f6 => Kind::Memory,
        0x6969 => Kind::Network("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Kind::Network("SMB"),
        0x00c3_6400 => Kind::Network("Ceph"),
        0x0102_1997 => Kind::Network("9p"),
        0x794c_7630 => Kind::Layer,
        _ => Kind::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_clock_is_judged_by_the_kernel_and_by_sense() {
        let at = |synchronised, now| time(Clock { synchronised, now }).outcome;
        let today = Time::from_unix_ms(1_800_000_000_000);
        assert_eq!(at(Some(true), today), Outcome::Ok);
        assert_eq!(at(None, today), Outcome::Ok);
        assert_eq!(at(Some(false), today), Outcome::Warning);
        assert_eq!(at(Some(true), Time::default()), Outcome::Failed);
    }

    #[test]
    fn a_disk_is_judged_by_its_reserve_and_by_how_the_store_may_grow() {
        let with = |free_bytes, store_bytes| {
            room(Path::new("/data"), Disk { free_bytes, reserve_bytes: GIB, store_bytes }).outcome
        };
        assert_eq!(with(100 * GIB, GIB), Outcome::Ok);
        assert_eq!(with(10 * GIB, 20 * GIB), Outcome::Warning);
        assert_eq!(with(GIB + GIB / 2, 0), Outcome::Warning);
        assert_eq!(with(GIB / 2, 0), Outcome::Failed);
    }

    #[test]
    fn where_the_store_is_in_a_database_the_disk_here_is_not_said_to_hold_it() {
        let mut config = Config::defaults("alpha.test".parse().unwrap());
        config.data_dir = std::env::temp_dir();
        let of_disk = |config: &Config| -> Vec<_> {
            examine(config).into_iter().filter(|check| check.check != "clock").collect()
        };
        assert_eq!(of_disk(&config).len(), 2);
        config.store = "postgres://trunkline@db.test/trunkline?sslmode=require".into();
        let checks = of_disk(&config);
        let [disk] = &checks[..] else { panic!("{checks:?}") };
        assert!(disk.check == "disk" && disk.finding.contains("The store is in the database"), "{disk:?}");
        assert_eq!(room_beside_database(Path::new("/data"), 0).outcome, Outcome::Warning);
    }

    #[test]
    fn a_store_in_memory_is_a_failure_and_one_on_a_server_a_warning() {
        let judged = |magic| durable(Path::new("/data"), kind(magic)).outcome;
        assert_eq!(judged(0x0102_1994), Outcome::Failed);
        assert_eq!(judged(0x6969), Outcome::Warning);
        assert_eq!(judged(0x794c_7630), Outcome::Warning);
        assert_eq!(judged(0xef53), Outcome::Ok);
    }
}

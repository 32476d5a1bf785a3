//! The store: what both engines keep to, and what each does with what it rests on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redb::StorageBackend;
use trunkline_gateway::store::postgres::{Options as PostgresOptions, PostgresStore};
use trunkline_gateway::store::redb::{Options, RedbStore};
use trunkline_gateway::store::{Store, StoreError, StoreFuture};
use trunkline_gateway_proto::store::{
    BlockInfo, Commit, Head, Lane, NetworkKey, Op, PeerKey, Record, Recovered, Stream,
};
use trunkline_gateway_proto::time::Time;
use trunkline_postgres::Access;
use trunkline_testkit::disk::{Disk, File};
use trunkline_testkit::postgres::{self, Server};
use zeroize::Zeroizing;

/// Makes two tests of each function: on the embedded engine, and on PostgreSQL.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod on_redb {
            $(#[test] fn $name() { super::$name(&$crate::store::Ground::redb()) })*
        }
        mod on_postgres {
            $(#[test] fn $name() { super::$name(&$crate::store::Ground::postgres()) })*
        }
    };
}

mod crash;
mod keys;
mod look;
mod migrate;
mod open;
mod outage;
mod roundtrip;
mod tidy;

const STORE: &str = "gateway.redb";
const KEYS: &str = "gateway.keys";
const HOUR: Duration = Duration::from_secs(3600);

/// A time at which a test may begin.
const START: Time = Time::from_unix_ms(1_700_000_000_000);

const INBOX: Stream = Stream::Inbox { network: NetworkKey(1) };

fn outbox(peer: u32, lane: u8) -> Stream {
    Stream::Outbox { peer: PeerKey(peer), lane: Lane(lane) }
}

/// A file of the test disk, as redb wants it.
#[derive(Debug)]
struct Medium(File);

impl StorageBackend for Medium {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all_at(offset, data)
    }
}

fn options(key: u8) -> Options {
    Options { cache_bytes: 1 << 20, ..Options::new("data", Zeroizing::new([key; 32])) }
}

fn open(disk: &Disk) -> Result<Arc<RedbStore>, StoreError> {
    RedbStore::open_on(&options(7), Medium(disk.open(STORE)), Medium(disk.open(KEYS)))
}

/// What a store rests on.
enum Ground {
    Redb(Disk),
    Postgres(Database),
}

/// A database of a test.
struct Database {
    server: &'static Server,
    name: String,
}

impl Database {
    fn new() -> Self {
        let server = postgres::shared();
        Self { server, name: server.database() }
    }

    fn options(&self, key: u8) -> PostgresOptions {
        postgres_options(&self.server.url(&self.name), key)
    }

    /// Runs SQL where the store's tables are.
    fn sql(&self, sql: &str) -> String {
        self.server.answer(&self.name, &format!("SET search_path TO trunkline; {sql}"))
    }
}

fn postgres_options(url: &str, key: u8) -> PostgresOptions {
    let password = Some(Zeroizing::new(postgres::PASSWORD.to_owned()));
    let access = Access::new(url.parse().unwrap(), "test", password, None).unwrap();
    PostgresOptions::new(access, Zeroizing::new([key; 32]))
}

impl Ground {
    fn redb() -> Self {
        Self::Redb(Disk::new(1))
    }

    fn postgres() -> Self {
        Self::Postgres(Database::new())
    }

    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        self.open_with(7)
    }

    fn open_with(&self, key: u8) -> Result<Arc<dyn Store>, StoreError> {
        match self {
            Self::Redb(disk) => {
                let (store, keys) = (Medium(disk.open(STORE)), Medium(disk.open(KEYS)));
                Ok(RedbStore::open_on(&options(key), store, keys)?)
            }
            Self::Postgres(database) => Ok(PostgresStore::open(&database.options(key))?),
        }
    }

    /// Wrapped data keys that rest.
    fn slots(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Redb(disk) => {
                let bytes = bytes_of(disk, KEYS);
                let slots = bytes[128..].chunks(128).filter(|slot| slot.iter().any(|byte| *byte != 0));
                slots.map(<[u8]>::to_vec).collect()
            }
            Self::Postgres(database) => {
                let rows =
                    database.sql("SELECT encode(content, 'hex') FROM key_slots WHERE slot > 0 ORDER BY slot");
                rows.lines().map(from_hex).collect()
            }
        }
    }

    /// All that rests, one behind the other.
    fn content(&self) -> Vec<u8> {
        match self {
            Self::Redb(disk) => [bytes_of(disk, STORE), bytes_of(disk, KEYS)].concat(),
            Self::Postgres(database) => {
                let rows = "SELECT encode(heads || body, 'hex') FROM blocks UNION ALL
                    SELECT encode(value, 'hex') FROM state UNION ALL
                    SELECT encode(content, 'hex') FROM key_slots";
                database.sql(rows).lines().flat_map(from_hex).collect()
            }
        }
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Waits for an answer.
fn wait<T>(answer: StoreFuture<T>) -> Result<T, StoreError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}

fn commit(store: &Arc<impl Store + ?Sized>, ops: Vec<Op>) -> Result<(), StoreError> {
    commit_at(store, START, ops)
}

fn commit_at(store: &Arc<impl Store + ?Sized>, now: Time, ops: Vec<Op>) -> Result<(), StoreError> {
    wait(store.commit(Commit { ops, now }))
}

fn read(store: &Arc<impl Store + ?Sized>, stream: Stream, from_seq: u64) -> Vec<(u64, Record)> {
    wait(store.read(stream, from_seq, usize::MAX)).unwrap()
}

fn seqs(records: &[(u64, Record)]) -> Vec<u64> {
    records.iter().map(|(seq, _)| *seq).collect()
}

/// A record that can be told from others by `tag`.
fn record(tag: u64, len: usize) -> Record {
    let (small, mut id) = (u32::try_from(tag).unwrap(), [0; 16]);
    id[..8].copy_from_slice(&tag.to_le_bytes());
    let body: Vec<u8> =
        (0..len).map(|at| (small as usize * 31 + at * 7 + at / 251).to_le_bytes()[0]).collect();
    Record {
        head: Head { id, network: NetworkKey(small), expires: START + HOUR * (small % 9 + 1), at: START },
        body: Bytes::from(body),
    }
}

/// A block of `count` records of `len` bytes each.
fn append(stream: Stream, first_seq: u64, count: u64, len: usize) -> Op {
    let records = (first_seq..first_seq + count).map(|seq| record(seq, len)).collect();
    Op::Append { stream, first_seq, records }
}

fn truncate(stream: Stream, up_to: u64) -> Op {
    Op::Truncate { stream, up_to }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()) }
}

/// What a store should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    state: BTreeMap<Vec<u8>, Bytes>,
    blocks: BTreeMap<(Stream, u64), Vec<Record>>,
}

impl Model {
    fn apply(&mut self, ops: &[Op]) {
        for op in ops {
            match op.clone() {
                Op::Append { stream, first_seq, records } => {
                    self.blocks.insert((stream, first_seq), records);
                }
                Op::Truncate { stream, up_to } => self.blocks.retain(|(its, first_seq), records| {
                    *its != stream || first_seq + records.len() as u64 - 1 > up_to
                }),
                Op::Remove { stream, first_seq } => {
                    self.blocks.remove(&(stream, first_seq));
                }
                Op::Clear { stream } => self.blocks.retain(|(its, _), _| *its != stream),
                Op::Put { key, value } => {
                    self.state.insert(key, value);
                }
                Op::Delete { key } => {
                    self.state.remove(&key);
                }
            }
        }
    }

    /// What a store does hold: what it recovers, whose blocks must read as they say.
    fn of(store: &Arc<impl Store + ?Sized>) -> Self {
        let mut model = Self::default();
        let mut blocks = Vec::new();
        store
            .recover(&mut |recovered| match recovered {
                Recovered::State { key, value } => {
                    assert!(blocks.is_empty(), "all state comes before any block");
                    model.state.insert(key, value);
                }
                Recovered::Block { stream, info, heads } => blocks.push((stream, info, heads)),
            })
            .unwrap();
        for (stream, info, heads) in blocks {
            let mut records = read(store, stream, info.first_seq);
            records.truncate(info.count as usize);
            assert!(
                records
                    .iter()
                    .map(|(seq, _)| *seq)
                    .eq(info.first_seq..info.first_seq + u64::from(info.count))
            );
            let records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
            assert!(records.iter().map(|record| record.head).eq(heads));
            assert_eq!(measure(info.first_seq, &records), info);
            model.blocks.insert((stream, info.first_seq), records);
        }
        model
    }
}

fn measure(first_seq: u64, records: &[Record]) -> BlockInfo {
    BlockInfo {
        first_seq,
        count: u32::try_from(records.len()).unwrap(),
        bytes: records.iter().map(|record| record.body.len() as u64).sum(),
        expires_min: records.iter().map(|record| record.head.expires).min().unwrap(),
    }
}

/// A file's bytes as they rest.
fn bytes_of(disk: &Disk, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    disk.tamper(name, |content| bytes.clone_from(content));
    bytes
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

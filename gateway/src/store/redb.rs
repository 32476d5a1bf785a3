//! The embedded engine: redb, with everything sealed.
//!
//! Two files in one directory: `gateway.redb` and `gateway.keys`. Neither is of use without the other, nor
//! without the deployment key.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use ::redb::backends::FileBackend;
use ::redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
};
use tracing::info;
use trunkline_common::token;
use trunkline_gateway_proto::store::{Commit, Op, Record, Recovered, Stream};
use trunkline_gateway_proto::time::Time;
use zeroize::Zeroizing;

use super::batch;
use super::block::{BlockNumber, Damaged, Header, PartKey};
use super::fault::{Faults, KEYS_FILE, STORE_FILE};
use super::index::SharedIndex;
use super::keyfile::{Found, KeyFile, StoreId};
use super::reader::{self, Reader};
use super::seal::KeyRing;
use super::writer::Writer;
use super::{Store, StoreError, StoreFuture, inspect};

/// Memory that redb may fill with pages. More saves reads when a backlog drains.
pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Up to this size the whole file is verified whenever it is opened; a larger one only after a crash. More finds
/// damage in larger stores sooner, and costs about two seconds of start-up for each GiB.
const VERIFY_BYTES_MAX: u64 = 4 << 30;

/// Layout of the tables. A store of another format is refused.
const FORMAT: u64 = 1;

pub(super) const HEADS: TableDefinition<'_, BlockNumber, &[u8]> = TableDefinition::new("heads");
pub(super) const BODIES: TableDefinition<'_, PartKey, &[u8]> = TableDefinition::new("bodies");
pub(super) const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// What a store is opened with.
#[derive(Clone)]
pub struct Options {
    /// Directory of its files; made when missing.
    pub dir: PathBuf,
    /// Wraps its data keys.
    pub deployment_key: Zeroizing<[u8; 32]>,
    /// See [`CACHE_BYTES`].
    pub cache_bytes: usize,
}

impl Options {
    /// With defaults.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, deployment_key: Zeroizing<[u8; 32]>) -> Self {
        Self { dir: dir.into(), deployment_key, cache_bytes: CACHE_BYTES }
    }
}

/// The embedded engine. Dropping the last handle carries out what was asked, and closes the files.
pub struct RedbStore {
    commits: Option<mpsc::Sender<batch::Job>>,
    reads: Option<mpsc::Sender<batch::Read>>,
    id: StoreId,
    reader: Reader,
    threads: Vec<JoinHandle<()>>,
}

impl RedbStore {
    /// Opens the store in a directory, or makes one. Blocks: what is left by a crash is read as a whole.
    ///
    /// # Errors
    /// When another process has it open, it is damaged, or the deployment key is not its own.
    pub fn open(options: &Options) -> Result<Arc<Self>, StoreError> {
        let faults = Faults::new(&options.dir);
        let files = std::fs::create_dir_all(&options.dir).and_then(|()| {
            let files = (open_file(&faults, STORE_FILE)?, open_file(&faults, KEYS_FILE)?);
            // New files must not be forgotten by a power cut.
            File::open(&options.dir)?.sync_all()?;
            Ok(files)
        });
        let (store, keys) =
            files.map_err(|error| faults.io(&format!("opening {}", options.dir.display()), &error))?;
        let store = FileBackend::new(store).map_err(|error| faults.opening(STORE_FILE, error))?;
        let keys = FileBackend::new(keys).map_err(|error| faults.opening(KEYS_FILE, error))?;
        Self::open_on(options, store, keys)
    }

    /// Opens a store on other media than files, for tests. The directory only names it in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(
        options: &Options,
        store: impl StorageBackend,
        keys: impl StorageBackend,
    ) -> Result<Arc<Self>, StoreError> {
        let faults = Faults::new(&options.dir);
        let (mut keyfile, found) = KeyFile::open(Box::new(keys), &options.deployment_key, &faults)?;
        if matches!(found, Found::Blank) {
            discard_unfinished(&store).map_err(|error| faults.io(STORE_FILE, &error))?;
        }
        let db = faults.contain(|| open_database(options, store, &faults))?;
        let id = faults.contain(|| store_id(&db, &faults))?;
        let found =
            match (id, found) {
                (Some(id), Found::Keys(its, keys)) if id == its => keys,
                (Some(_), Found::Keys(..)) => {
                    return Err(
                        faults.corrupt(KEYS_FILE, &format!("it belongs to another store than {STORE_FILE}"))
                    );
                }
                (Some(_), Found::Blank) => {
                    return Err(faults
                        .corrupt(KEYS_FILE, &format!("it is missing or empty, while {STORE_FILE} is not")));
                }
                (None, Found::Keys(_, keys)) if !keys.is_empty() => {
                    return Err(faults
                        .corrupt(STORE_FILE, &format!("it is missing or empty, while {KEYS_FILE} is not")));
                }
                (None, _) => {
                    let id = token::random();
                    keyfile.create(id)?;
                    create_tables(&db, &id, &faults)?;
                    info!(dir = %options.dir.display(), "made a new store");
                    Vec::new()
                }
            };
        let ring = KeyRing::new(keyfile, found);
        let db = Arc::new(db);
        let index = SharedIndex::default();
        let reader =
            Reader { db: Arc::clone(&db), keys: ring.keys(), index: index.clone(), faults: faults.clone() };
        let mut writer = Writer { db, ring, index, faults: faults.clone(), buffer: Vec::new(), poison: None };
        faults.contain(|| take_stock(&reader, &mut writer))?;
        Self::start(reader, writer).map_err(|error| faults.io("starting the store's threads", &error))
    }

    /// Goes through everything in the store: all state, then all blocks, opened. What does not open is told, and
    /// passed. Blocks.
    ///
    /// # Errors
    /// When the disk fails, or the tables themselves cannot be walked.
    pub fn walk(&self, visit: &mut dyn FnMut(inspect::Found)) -> Result<(), StoreError> {
        self.reader.faults.contain(|| self.reader.walk(visit))
    }

    /// Walks, calls `damage` for each block that does not open, with its stream and first sequence number, and gives
    /// the number of records that can be read.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn check(&self, damage: &mut dyn FnMut(Stream, u64)) -> Result<u64, StoreError> {
        let mut readable = 0_u64;
        self.walk(&mut |found| readable = readable.saturating_add(found.readable(damage)))?;
        Ok(readable)
    }

    fn start(reader: Reader, writer: Writer) -> io::Result<Arc<Self>> {
        let (commits, jobs) = mpsc::channel();
        let id = writer.ring.store();
        let (reads, mut threads) = reader::start(&reader)?;
        let writing = std::thread::Builder::new().name("store-write".to_owned());
        threads.push(writing.spawn(move || writer.run(&jobs))?);
        Ok(Arc::new(Self { commits: Some(commits), reads: Some(reads), id, reader, threads }))
    }
}

impl Store for RedbStore {
    fn commit(&self, commit: Commit) -> StoreFuture<()> {
        batch::ask(|reply| {
            if let Some(commits) = &self.commits {
                commits.send(batch::Job { commit, reply }).ok();
            }
        })
    }

    fn read(&self, stream: Stream, from_seq: u64, bytes_max: usize) -> StoreFuture<Vec<(u64, Record)>> {
        batch::ask(|reply| {
            if let Some(reads) = &self.reads {
                reads.send(batch::Read { stream, from_seq, bytes_max, reply }).ok();
            }
        })
    }

    fn recover(&self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        self.reader.faults.contain(|| self.reader.recover(visit))
    }

    fn id(&self) -> StoreId {
        self.id
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // The threads end when there is nobody left to ask them.
        self.commits = None;
        self.reads = None;
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore").finish_non_exhaustive()
    }
}

fn open_file(faults: &Faults, name: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(faults.path(name))
}

/// Clears away what is left when the process ended while it made a new store: redb writes its magic number last,
/// and a store's key file exists before anything is kept.
fn discard_unfinished(store: &impl StorageBackend) -> io::Result<()> {
    let mut magic = [0; 9];
    if store.len()? >= 9 {
        store.read(0, &mut magic)?;
        if magic == [0; 9] {
            store.set_len(0)?;
        }
    }
    Ok(())
}

/// The settings are reasoned about in docs/decisions/0003-redb-settings.md.
fn open_database(
    options: &Options,
    backend: impl StorageBackend,
    faults: &Faults,
) -> Result<Database, StoreError> {
    let bytes = backend.len().map_err(|error| faults.io(STORE_FILE, &error))?;
    Builder::new()
        .set_cache_size(options.cache_bytes)
        .set_check_integrity_on_open(bytes <= VERIFY_BYTES_MAX)
        .create_with_backend(backend)
        .map_err(|error| faults.opening(STORE_FILE, error))
}

/// The id of an existing store.
pub(super) fn store_id(db: &impl ReadableDatabase, faults: &Faults) -> Result<Option<StoreId>, StoreError> {
    let snapshot = db.begin_read().map_err(|error| faults.redb(error))?;
    let meta = match snapshot.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(faults.opening(STORE_FILE, error)),
    };
    let format = meta.get("format").map_err(|error| faults.redb(error))?;
    match format.map(|format| format.value().try_into().map(u64::from_le_bytes)) {
        Some(Ok(FORMAT)) => {}
        Some(Ok(format)) => {
            let what = format!("its format is {format}, and this version reads {FORMAT}");
            return Err(faults.corrupt(STORE_FILE, &what));
        }
        _ => return Err(faults.corrupt(STORE_FILE, "it does not say what format it has")),
    }
    let id = meta.get("store_id").map_err(|error| faults.redb(error))?;
    match id.map(|id| id.value().try_into()) {
        Some(Ok(id)) => Ok(Some(id)),
        _ => Err(faults.corrupt(STORE_FILE, "it does not say which store it is")),
    }
}

fn create_tables(db: &Database, id: &StoreId, faults: &Faults) -> Result<(), StoreError> {
    let transaction = db.begin_write().map_err(|error| faults.redb(error))?;
    {
        transaction.open_table(HEADS).map_err(|error| faults.redb(error))?;
        transaction.open_table(BODIES).map_err(|error| faults.redb(error))?;
        transaction.open_table(STATE).map_err(|error| faults.redb(error))?;
        let mut meta = transaction.open_table(META).map_err(|error| faults.redb(error))?;
        meta.insert("format", &FORMAT.to_le_bytes()[..]).map_err(|error| faults.redb(error))?;
        meta.insert("store_id", &id[..]).map_err(|error| faults.redb(error))?;
    }
    transaction.commit().map_err(|error| faults.redb(error))
}

/// Learns which blocks there are and which keys they need, seals the state anew, and destroys other keys.
fn take_stock(reader: &Reader, writer: &mut Writer) -> Result<(), StoreError> {
    let faults = &reader.faults;
    let snapshot = reader.db.begin_read().map_err(|error| faults.redb(error))?;
    let heads = snapshot.open_table(HEADS).map_err(|error| faults.opening(STORE_FILE, error))?;
    for row in heads.iter().map_err(|error| faults.redb(error))? {
        let (key, value) = row.map_err(|error| faults.redb(error))?;
        let block = key.value();
        let damaged = |Damaged| reader.damaged(block);
        let header = Header::decode(value.value()).map_err(damaged)?;
        if !writer.index.lock().restore(block, header.stream, header.first_seq, header.count) {
            return Err(damaged(Damaged));
        }
        if !writer.ring.used(header.key) {
            return Err(reader.no_key());
        }
    }
    writer.index.lock().commit();
    let state = snapshot.open_table(STATE).map_err(|error| faults.opening(STORE_FILE, error))?;
    let mut ops = Vec::new();
    for row in state.iter().map_err(|error| faults.redb(error))? {
        let (key, value) = row.map_err(|error| faults.redb(error))?;
        let value = reader.state(key.value(), value.value())?;
        ops.push(Op::Put { key: key.value().to_vec(), value: value.into() });
    }
    // The oldest time there is: no key is too old at it, and none that is made now becomes current for long.
    let commits = [Commit { ops, now: Time::default() }];
    writer.commit(&commits)?;
    writer.sweep(Time::default());
    writer.poison.clone().map_or(Ok(()), Err)
}

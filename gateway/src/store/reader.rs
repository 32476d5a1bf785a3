//! Reading: each read is one redb transaction, and sees one state of the store.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ::redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};
use trunkline_gateway_proto::store::{Record, Recovered, Stream};

use super::StoreError;
use super::batch::Read;
use super::block::{self, BlockNumber, Damaged, Header, PartKey};
use super::fault::{Faults, KEYS_FILE, STORE_FILE};
use super::index::{Entry, SharedIndex};
use super::inspect::Found;
use super::redb::{BODIES, HEADS, STATE};
use super::seal::Keys;

/// Threads that read. More help when many peers read from a slow disk at once.
const READERS: usize = 2;

/// Blocks looked up at once. More holds the index for longer.
const RUN_MAX: usize = 64;

/// Reads blocks and state.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) db: Arc<Database>,
    pub(super) keys: Keys,
    pub(super) index: SharedIndex,
    pub(super) faults: Faults,
}

/// Why a block was not read.
enum Unread {
    Error(StoreError),
    /// Its row or its data key is gone.
    Gone(StoreError),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::Error(error)
    }
}

/// Why a part of a block was not read.
enum Part {
    Damaged(Damaged),
    Error(StoreError),
}

impl From<Damaged> for Part {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

/// Starts the reader threads. They end when the sender is dropped.
pub(super) fn start(reader: &Reader) -> std::io::Result<(Sender<Read>, Vec<JoinHandle<()>>)> {
    let (sender, jobs) = channel();
    let jobs = Arc::new(Mutex::new(jobs));
    let threads = (0..READERS).map(|index| {
        let (reader, jobs) = (reader.clone(), Arc::clone(&jobs));
        std::thread::Builder::new().name(format!("store-read-{index}")).spawn(move || serve(&reader, &jobs))
    });
    Ok((sender, threads.collect::<Result<_, _>>()?))
}

fn serve(reader: &Reader, jobs: &Mutex<Receiver<Read>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Whoever asked may have gone.
        if !job.reply.is_closed() {
            let answer = reader.faults.contain(|| reader.read(job.stream, job.from_seq, job.bytes_max));
            job.reply.send(answer).ok();
        }
    }
}

impl Reader {
    /// See [`super::Store::read`].
    fn read(
        &self,
        stream: Stream,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        loop {
            match self.read_once(stream, from_seq, bytes_max) {
                Ok(records) => return Ok(records),
                Err((_, Unread::Error(error))) => return Err(error),
                // Removed, and its key destroyed, after it was looked up: as it should be, but look again.
                Err((entry, Unread::Gone(_))) if !self.index.lock().contains(stream, entry) => {}
                Err((_, Unread::Gone(error))) => return Err(error),
            }
        }
    }

    fn read_once(
        &self,
        stream: Stream,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Record)>, (Entry, Unread)> {
        // Looked at first: what is durable by now is in the snapshot.
        let up_to = self.index.lock().committed();
        let mut tables = None;
        let mut found = Vec::new();
        let (mut from, mut bytes) = (from_seq, 0_usize);
        loop {
            let run = self.index.lock().run(stream, from, up_to, RUN_MAX);
            for entry in &run {
                let tables = match &mut tables {
                    Some(tables) => tables,
                    none => none.insert(Tables::open(self).map_err(|error| (*entry, error.into()))?),
                };
                let block = self.entry(tables, stream, *entry).map_err(|unread| (*entry, unread))?;
                for (seq, record) in block {
                    if seq < from_seq {
                        continue;
                    }
                    bytes = bytes.saturating_add(record.body.len());
                    if bytes > bytes_max && !found.is_empty() {
                        return Ok(found);
                    }
                    found.push((seq, record));
                    from = seq.saturating_add(1);
                }
            }
            if run.len() < RUN_MAX {
                return Ok(found);
            }
        }
    }

    fn entry(&self, tables: &Tables, stream: Stream, entry: Entry) -> Result<Vec<(u64, Record)>, Unread> {
        let gone = || Unread::Gone(self.faults.corrupt(STORE_FILE, "a block that was there is gone"));
        let row = tables.heads.get(entry.block).map_err(|error| self.faults.redb(error))?.ok_or_else(gone)?;
        let (header, records) = self.block(tables, entry.block, row.value())?;
        if (header.stream, header.first_seq) != (stream, entry.first_seq) {
            return Err(self.damaged(entry.block).into());
        }
        Ok(records)
    }

    /// All records of a block, whose bodies share one buffer.
    fn block(
        &self,
        tables: &Tables,
        block: BlockNumber,
        value: &[u8],
    ) -> Result<(Header, Vec<(u64, Record)>), Unread> {
        let damaged = |Damaged| Unread::Error(self.damaged(block));
        let header = Header::decode(value).map_err(damaged)?;
        let cipher = self.keys.cipher(header.key).ok_or_else(|| Unread::Gone(self.no_key()))?;
        let part = |part, open: &mut dyn FnMut(&[u8]) -> Result<(), Damaged>| {
            let row =
                tables.bodies.get((block, part)).map_err(|error| Part::Error(self.faults.redb(error)))?;
            Ok(open(row.ok_or(Damaged)?.value())?)
        };
        block::open_block(&cipher, block, value, part).map_err(|error| match error {
            Part::Damaged(found) => damaged(found),
            Part::Error(error) => Unread::Error(error),
        })
    }

    /// See [`super::Store::recover`].
    pub(super) fn recover(&self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        let snapshot = self.db.begin_read().map_err(|error| self.faults.redb(error))?;
        let state = snapshot.open_table(STATE).map_err(|error| self.faults.redb(error))?;
        for row in state.iter().map_err(|error| self.faults.redb(error))? {
            let (key, value) = row.map_err(|error| self.faults.redb(error))?;
            let value = self.state(key.value(), value.value())?;
            visit(Recovered::State { key: key.value().to_vec(), value: value.into() });
        }
        let heads = snapshot.open_table(HEADS).map_err(|error| self.faults.redb(error))?;
        for row in heads.iter().map_err(|error| self.faults.redb(error))? {
            let (key, value) = row.map_err(|error| self.faults.redb(error))?;
            let (block, value) = (key.value(), value.value());
            let damaged = |Damaged| self.damaged(block);
            let header = Header::decode(value).map_err(damaged)?;
            let cipher = self.keys.cipher(header.key).ok_or_else(|| self.no_key())?;
            let (heads, _) = block::open_heads(&cipher, block, value).map_err(damaged)?;
            visit(Recovered::Block { stream: header.stream, info: header.info(), heads });
        }
        Ok(())
    }

    /// Opens everything; see [`super::redb::RedbStore::walk`].
    pub(super) fn walk(&self, visit: &mut dyn FnMut(Found)) -> Result<(), StoreError> {
        let snapshot = self.db.begin_read().map_err(|error| self.faults.redb(error))?;
        let state = snapshot.open_table(STATE).map_err(|error| self.faults.redb(error))?;
        for row in state.iter().map_err(|error| self.faults.redb(error))? {
            let (key, value) = row.map_err(|error| self.faults.redb(error))?;
            let opened = self.state(key.value(), value.value()).ok();
            visit(Found::State { key: key.value().to_vec(), value: opened.map(Into::into) });
        }
        let tables = Tables::open(self)?;
        for row in tables.heads.iter().map_err(|error| self.faults.redb(error))? {
            let (key, value) = row.map_err(|error| self.faults.redb(error))?;
            let block = key.value();
            let header = Header::decode(value.value()).map_err(|Damaged| self.damaged(block))?;
            let records = match self.block(&tables, block, value.value()) {
                Ok((_, records)) => Some(records),
                Err(Unread::Error(StoreError::Corrupt(_)) | Unread::Gone(_)) => None,
                Err(Unread::Error(error)) => return Err(error),
            };
            visit(Found::Block { stream: header.stream, first_seq: header.first_seq, records });
        }
        Ok(())
    }

    /// Opens a state entry's value.
    pub(super) fn state(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let damaged = |Damaged| self.faults.corrupt(STORE_FILE, "a state entry does not decrypt");
        let id = block::state_key_id(value).map_err(damaged)?;
        let cipher = self.keys.cipher(id).ok_or_else(|| self.no_key())?;
        block::open_state(&cipher, key, value).map_err(damaged)
    }

    pub(super) fn no_key(&self) -> StoreError {
        let what = format!(
            "it does not hold a data key that {STORE_FILE} needs, as when the two files are not of one time"
        );
        self.faults.corrupt(KEYS_FILE, &what)
    }

    pub(super) fn damaged(&self, block: BlockNumber) -> StoreError {
        self.faults.corrupt(STORE_FILE, &format!("block {block} does not decrypt"))
    }
}

/// The tables of a snapshot.
struct Tables {
    heads: ReadOnlyTable<BlockNumber, &'static [u8]>,
    bodies: ReadOnlyTable<PartKey, &'static [u8]>,
    /// Keeps the pages that are read from being used again.
    _snapshot: ReadTransaction,
}

impl Tables {
    fn open(reader: &Reader) -> Result<Self, StoreError> {
        let snapshot = reader.db.begin_read().map_err(|error| reader.faults.redb(error))?;
        Ok(Self {
            heads: snapshot.open_table(HEADS).map_err(|error| reader.faults.redb(error))?,
            bodies: snapshot.open_table(BODIES).map_err(|error| reader.faults.redb(error))?,
            _snapshot: snapshot,
        })
    }
}

//! Reading: each read is one redb transaction, and sees one state of the store.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ::redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable};
use bytes::Bytes;
use tokio::sync::oneshot;
use trunkline_gateway_proto::store::{Record, Recovered, Stream};

use super::StoreError;
use super::block::{self, BlockKey, Damaged, Header, PartKey};
use super::fault::{Faults, KEYS_FILE, STORE_FILE};
use super::redb::{BODIES, HEADS, STATE};
use super::seal::{KeyId, Keys};

/// Threads that read. More help when many peers read from a slow disk at once.
const READERS: usize = 2;

/// Reads blocks and state.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) db: Arc<Database>,
    pub(super) keys: Keys,
    pub(super) faults: Faults,
}

/// Why a block was not read.
enum Unread {
    Error(StoreError),
    /// Its data key is gone. When the block is, too, that is as it should be: the reader was overtaken.
    NoKey(BlockKey, KeyId),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::Error(error)
    }
}

/// A read that somebody waits for.
pub(super) struct Job {
    pub(super) stream: Stream,
    pub(super) from_seq: u64,
    pub(super) bytes_max: usize,
    pub(super) reply: oneshot::Sender<Result<Vec<(u64, Record)>, StoreError>>,
}

/// Starts the reader threads. They end when the sender is dropped.
pub(super) fn start(reader: &Reader) -> std::io::Result<(Sender<Job>, Vec<JoinHandle<()>>)> {
    let (sender, jobs) = channel();
    let jobs = Arc::new(Mutex::new(jobs));
    let threads = (0..READERS).map(|index| {
        let (reader, jobs) = (reader.clone(), Arc::clone(&jobs));
        std::thread::Builder::new().name(format!("store-read-{index}")).spawn(move || serve(&reader, &jobs))
    });
    Ok((sender, threads.collect::<Result<_, _>>()?))
}

fn serve(reader: &Reader, jobs: &Mutex<Receiver<Job>>) {
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
        let mut missed = None;
        loop {
            match self.read_once(stream, from_seq, bytes_max) {
                Ok(records) => return Ok(records),
                Err(Unread::Error(error)) => return Err(error),
                // The block was removed, and its key destroyed, after this transaction began. A later one does
                // not meet that block any more, unless the key is missing for another reason.
                Err(Unread::NoKey(block, key)) if missed == Some((block, key)) => {
                    return Err(self.no_key());
                }
                Err(Unread::NoKey(block, key)) => missed = Some((block, key)),
            }
        }
    }

    fn read_once(
        &self,
        stream: Stream,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Record)>, Unread> {
        let snapshot = self.db.begin_read().map_err(|error| self.faults.redb(error))?;
        let heads = snapshot.open_table(HEADS).map_err(|error| self.faults.redb(error))?;
        let bodies = snapshot.open_table(BODIES).map_err(|error| self.faults.redb(error))?;
        let (first, last) = block::stream_range(stream);
        // The block that holds `from_seq` may begin before it.
        let before = heads.range::<&BlockKey>(&first..=&block::block_key(stream, from_seq));
        let before = before.map_err(|error| self.faults.redb(error))?.next_back().transpose();
        let start = before.map_err(|error| self.faults.redb(error))?.map_or(first, |(key, _)| *key.value());

        let mut found = Vec::new();
        let mut bytes = 0_usize;
        for row in heads.range::<&BlockKey>(&start..=&last).map_err(|error| self.faults.redb(error))? {
            let (key, value) = row.map_err(|error| self.faults.redb(error))?;
            let (key, value) = (key.value(), value.value());
            let (_, first_seq) = block::parse_block_key(key).map_err(|Damaged| self.damaged(key))?;
            let header = Header::decode(value).map_err(|Damaged| self.damaged(key))?;
            if first_seq.saturating_add(u64::from(header.count)) <= from_seq {
                continue;
            }
            for (seq, record) in self.block(&bodies, key, value)? {
                if seq < from_seq {
                    continue;
                }
                bytes = bytes.saturating_add(record.body.len());
                if bytes > bytes_max && !found.is_empty() {
                    return Ok(found);
                }
                found.push((seq, record));
            }
        }
        Ok(found)
    }

    /// All records of a block, whose bodies share one buffer.
    fn block(
        &self,
        bodies: &ReadOnlyTable<&'static PartKey, &'static [u8]>,
        key: &BlockKey,
        value: &[u8],
    ) -> Result<Vec<(u64, Record)>, Unread> {
        let damaged = |Damaged| Unread::Error(self.damaged(key));
        let (_, first_seq) = block::parse_block_key(key).map_err(damaged)?;
        let header = Header::decode(value).map_err(damaged)?;
        let cipher = self.keys.cipher(header.key).ok_or(Unread::NoKey(*key, header.key))?;
        // Opening the heads proves the header, whose length may then be believed.
        let (heads, lens) = block::open_heads(&cipher, key, value).map_err(damaged)?;
        let len = usize::try_from(header.bytes).map_err(|_| damaged(Damaged))?;
        let mut body = vec![0; len];
        let mut filled = 0;
        for part in 0..header.parts {
            let row = bodies.get(&block::part_key(key, part)).map_err(|error| self.faults.redb(error))?;
            let row = row.ok_or(Damaged).map_err(damaged)?;
            let out = body.get_mut(filled..).unwrap_or_default();
            filled += block::open_part(&cipher, key, &header, part, row.value(), out).map_err(damaged)?;
        }
        if filled != len {
            return Err(damaged(Damaged));
        }
        block::records(first_seq, heads, &lens, &Bytes::from(body)).map_err(damaged)
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
            let (key, value) = (key.value(), value.value());
            let damaged = |Damaged| self.damaged(key);
            let (stream, first_seq) = block::parse_block_key(key).map_err(damaged)?;
            let header = Header::decode(value).map_err(damaged)?;
            let cipher = self.keys.cipher(header.key).ok_or_else(|| self.no_key())?;
            let (heads, _) = block::open_heads(&cipher, key, value).map_err(damaged)?;
            visit(Recovered::Block { stream, info: header.info(first_seq), heads });
        }
        Ok(())
    }

    /// Opens every block; see [`super::redb::RedbStore::check`].
    pub(super) fn check(&self, damage: &mut dyn FnMut(Stream, u64)) -> Result<u64, StoreError> {
        let snapshot = self.db.begin_read().map_err(|error| self.faults.redb(error))?;
        let heads = snapshot.open_table(HEADS).map_err(|error| self.faults.redb(error))?;
        let bodies = snapshot.open_table(BODIES).map_err(|error| self.faults.redb(error))?;
        let mut records = 0;
        for row in heads.iter().map_err(|error| self.faults.redb(error))? {
            let (key, value) = row.map_err(|error| self.faults.redb(error))?;
            let (stream, first_seq) =
                block::parse_block_key(key.value()).map_err(|Damaged| self.damaged(key.value()))?;
            match self.block(&bodies, key.value(), value.value()) {
                Ok(block) => records += u64::try_from(block.len()).unwrap_or(u64::MAX),
                Err(Unread::Error(StoreError::Corrupt(_)) | Unread::NoKey(..)) => damage(stream, first_seq),
                Err(Unread::Error(error)) => return Err(error),
            }
        }
        Ok(records)
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

    pub(super) fn damaged(&self, key: &BlockKey) -> StoreError {
        let what = match block::parse_block_key(key) {
            Ok((stream, first_seq)) => format!("the block at {first_seq} of {stream:?} does not decrypt"),
            Err(Damaged) => "a block has an impossible key".to_owned(),
        };
        self.faults.corrupt(STORE_FILE, &what)
    }
}

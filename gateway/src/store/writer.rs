//! Writing: one thread carries out all commits, in order. Several that wait become one redb transaction.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use ::redb::{Database, Table, WriteTransaction};
use tracing::error;
use trunkline_gateway_proto::store::{Commit, Op, Record, Stream};
use trunkline_gateway_proto::time::Time;

use super::StoreError;
use super::batch::{COALESCE_MAX, Job, now, scope};
use super::block::{self, BlockNumber, Header, PartKey, Sealer};
use super::fault::{Faults, STORE_FILE};
use super::index::SharedIndex;
use super::redb::{BODIES, HEADS, STATE};
use super::seal::KeyRing;

/// Longest wait for a commit while no key has to be looked after. It only bounds what the clock calls get.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) db: Arc<Database>,
    pub(super) ring: KeyRing,
    pub(super) index: SharedIndex,
    pub(super) faults: Faults,
    /// Sealed rows are made here.
    pub(super) buffer: Vec<u8>,
    /// Set by the first error, and the answer to everything from then on: what the disk holds is unknown.
    pub(super) poison: Option<StoreError>,
}

impl Writer {
    /// Serves until every sender is gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut commits = Vec::with_capacity(COALESCE_MAX);
        let mut replies = Vec::with_capacity(COALESCE_MAX);
        let mut last = (Instant::now(), Time::default());
        loop {
            let job = match jobs.recv_timeout(self.patience(last.1)) {
                Ok(job) => job,
                Err(RecvTimeoutError::Disconnected) => return,
                // Nobody has come for so long that a key's hour is over.
                Err(RecvTimeoutError::Timeout) => {
                    last = (Instant::now(), last.1 + last.0.elapsed());
                    self.sweep(last.1);
                    continue;
                }
            };
            let mut next = Ok(job);
            while let Ok(job) = next {
                commits.push(job.commit);
                replies.push(job.reply);
                next = if commits.len() < COALESCE_MAX { jobs.try_recv() } else { Err(TryRecvError::Empty) };
            }
            let answer = self.commit(&commits);
            for reply in replies.drain(..) {
                reply.send(answer.clone()).ok();
            }
            last = (Instant::now(), now(&commits));
            self.sweep(last.1);
            commits.clear();
        }
    }

    /// How long to wait for a commit before looking after the keys.
    fn patience(&self, now: Time) -> Duration {
        if self.poison.is_some() { PATIENCE_MAX } else { self.ring.retires_in(now).min(PATIENCE_MAX) }
    }

    /// Carries out commits as one transaction.
    pub(super) fn commit(&mut self, commits: &[Commit]) -> Result<(), StoreError> {
        if let Some(poison) = &self.poison {
            return Err(poison.clone());
        }
        let faults = self.faults.clone();
        let done = faults.contain(|| self.transact(commits));
        self.poison_on_error(&done);
        done
    }

    /// Destroys data keys that are without use at `now`.
    pub(super) fn sweep(&mut self, now: Time) {
        if self.poison.is_none() {
            let swept = self.ring.sweep(now);
            self.poison_on_error(&swept);
        }
    }

    fn poison_on_error(&mut self, done: &Result<(), StoreError>) {
        if let Err(cause) = done {
            error!(%cause, "the store stops acknowledging");
            self.poison = Some(cause.clone());
        }
    }

    fn transact(&mut self, commits: &[Commit]) -> Result<(), StoreError> {
        if commits.iter().all(|commit| commit.ops.is_empty()) {
            return Ok(());
        }
        let ops = || commits.iter().flat_map(|commit| &commit.ops);
        self.ring.begin(ops().filter_map(scope), now(commits))?;
        let transaction = self.begin()?;
        {
            let mut tables = Tables::open(&transaction, &self.faults)?;
            for op in ops() {
                self.carry_out(&mut tables, op)?;
            }
        }
        transaction.commit().map_err(|error| self.faults.redb(error))?;
        self.index.lock().commit();
        Ok(())
    }

    /// Begins a transaction with the settings of docs/decisions/0003-redb-settings.md, which are redb's own:
    /// durable at once, one phase, no saved allocator state.
    fn begin(&self) -> Result<WriteTransaction, StoreError> {
        self.db.begin_write().map_err(|error| self.faults.redb(error))
    }

    fn carry_out(&mut self, tables: &mut Tables<'_>, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::Append { stream, first_seq, records } => self.append(tables, *stream, *first_seq, records),
            Op::Truncate { stream, up_to } => self.truncate(tables, *stream, *up_to),
            Op::Clear { stream } => self.truncate(tables, *stream, u64::MAX),
            Op::Remove { stream, first_seq } => {
                let removed = self.index.lock().remove(*stream, *first_seq);
                removed.map_or(Ok(()), |block| self.remove(tables, block))
            }
            Op::Put { key, value } => self.put(tables, key, value),
            Op::Delete { key } => {
                tables.state.remove(key.as_slice()).map_err(|error| self.faults.redb(error))?;
                Ok(())
            }
        }
    }

    fn append(
        &mut self,
        tables: &mut Tables<'_>,
        stream: Stream,
        first_seq: u64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let Self { ring, index, buffer, faults, .. } = self;
        let mut sealer = Sealer::new(ring, index, stream, first_seq, records)?;
        let (block, key) = (sealer.block, sealer.header.key);
        buffer.clear();
        sealer.heads(buffer)?;
        tables.heads.insert(block, buffer.as_slice()).map_err(|error| faults.redb(error))?;
        buffer.clear();
        while let Some(part) = sealer.part(buffer)? {
            tables.bodies.insert((block, part), buffer.as_slice()).map_err(|error| faults.redb(error))?;
            buffer.clear();
        }
        if ring.used(key) { Ok(()) } else { Err(block::refused(stream, first_seq, "its data key is gone")) }
    }

    fn truncate(&mut self, tables: &mut Tables<'_>, stream: Stream, up_to: u64) -> Result<(), StoreError> {
        loop {
            let removed = self.index.lock().pop_through(stream, up_to);
            match removed {
                Some(block) => self.remove(tables, block)?,
                None => return Ok(()),
            }
        }
    }

    fn remove(&mut self, tables: &mut Tables<'_>, block: BlockNumber) -> Result<(), StoreError> {
        let damaged = || self.faults.corrupt(STORE_FILE, "a block that was there is gone");
        let row = tables.heads.remove(block).map_err(|error| self.faults.redb(error))?;
        let header = row.and_then(|row| Header::decode(row.value()).ok()).ok_or_else(damaged)?;
        for part in 0..header.parts {
            tables.bodies.remove((block, part)).map_err(|error| self.faults.redb(error))?;
        }
        self.ring.released(header.key);
        Ok(())
    }

    fn put(&mut self, tables: &mut Tables<'_>, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        block::seal_state(&mut self.ring, key, value, &mut self.buffer)?;
        tables.state.insert(key, self.buffer.as_slice()).map_err(|error| self.faults.redb(error))?;
        Ok(())
    }
}

/// The tables of a transaction.
struct Tables<'t> {
    heads: Table<'t, BlockNumber, &'static [u8]>,
    bodies: Table<'t, PartKey, &'static [u8]>,
    state: Table<'t, &'static [u8], &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction, faults: &Faults) -> Result<Self, StoreError> {
        Ok(Self {
            heads: transaction.open_table(HEADS).map_err(|error| faults.redb(error))?,
            bodies: transaction.open_table(BODIES).map_err(|error| faults.redb(error))?,
            state: transaction.open_table(STATE).map_err(|error| faults.redb(error))?,
        })
    }
}

//! A disk in memory that forgets what was not synced, and fails where it is told to.
//!
//! What a write leaves behind is certain only once a later [`File::sync`] succeeded. A crash, or a failed sync,
//! decides from the seed what else reached the medium: nothing, all of it, or any sectors of
//! [`SECTOR_BYTES`], each in one of the versions that it went through (`survival`).
//!
//! Every write, length change and sync is one **operation**, counted from 1. A test runs once without a fault,
//! asks [`Disk::operations`] how many there were, then crashes at each of them in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rng::Rng;

mod survival;

use survival::Pending;

/// What reaches the medium as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A disk with named files. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

/// An open file. Stops working when the disk crashes; open it again to see what survived.
#[derive(Clone, Debug)]
pub struct File {
    state: Arc<Mutex<State>>,
    name: Arc<str>,
    /// The boot of the disk it was opened in.
    boot: u64,
}

/// What is to happen at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops in the middle of it. A write or sync may have done its work, in part or not at all.
    Crash,
    /// It fails with EIO. A failed sync leaves the medium as a crash would, while reads go on showing what was
    /// written, and a later sync does not mend it: as Linux does.
    Error,
    /// A write stores only a part, at least one byte when there are two, and says how much. Nothing happens to
    /// other operations.
    Short,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    files: BTreeMap<Arc<str>, Content>,
    boot: u64,
    operations: u64,
    syncs: u64,
    faults: BTreeMap<u64, Fault>,
    failing_syncs: BTreeSet<u64>,
    capacity_bytes: Option<usize>,
}

/// One file's bytes: as programs see them, and as they would be after a crash.
#[derive(Debug, Default)]
struct Content {
    visible: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

impl Disk {
    /// An empty disk that draws its decisions from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::new(seed),
            files: BTreeMap::new(),
            boot: 0,
            operations: 0,
            syncs: 0,
            faults: BTreeMap::new(),
            failing_syncs: BTreeSet::new(),
            capacity_bytes: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Opens a file, which is empty and durably there when it is new.
    #[must_use]
    pub fn open(&self, name: &str) -> File {
        let mut state = self.lock();
        let name: Arc<str> = name.into();
        state.files.entry(Arc::clone(&name)).or_default();
        File { state: Arc::clone(&self.state), name, boot: state.boot }
    }

    /// The names of the files there are.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().files.keys().map(ToString::to_string).collect()
    }

    /// Writes, length changes and syncs so far, failed ones included.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Syncs so far, failed ones included.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Lets `fault` happen at operation number `operation`, counted as [`Self::operations`] does: the next one
    /// is `operations() + 1`.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.lock().faults.insert(operation, fault);
    }

    /// Lets sync number `sync` fail with EIO, counted as [`Self::syncs`] does: the next one is `syncs() + 1`.
    pub fn fail_sync_at(&self, sync: u64) {
        self.lock().failing_syncs.insert(sync);
    }

    /// Takes back all faults that have not happened yet, and the capacity.
    pub fn forget_faults(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.failing_syncs.clear();
        state.capacity_bytes = None;
    }

    /// Lets writes that would make the files longer than `bytes`, all together, fail with ENOSPC after storing
    /// what fits; `None` for a disk without end.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity_bytes = bytes;
    }

    /// Stops the machine now: open files fail from here on, and what was not synced survives by chance.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// Damages a file where it rests, as a bad sector or a careless operator would: `change` gets its bytes.
    /// What is pending becomes durable first.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let content = state.files.entry(name.into()).or_default();
        change(&mut content.visible);
        content.settle();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl File {
    /// The length in bytes.
    ///
    /// # Errors
    /// When the disk crashed since the file was opened.
    pub fn len(&self) -> io::Result<u64> {
        let mut state = self.lock()?;
        Ok(as_offset(state.content(&self.name).visible.len()))
    }

    /// Whether the file is empty.
    ///
    /// # Errors
    /// As [`Self::len`].
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads as many bytes as `out` has, as they were last written, synced or not.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends before; when the disk crashed.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.lock()?;
        let start = as_index(offset)?;
        let bytes = start
            .checked_add(out.len())
            .and_then(|end| state.content(&self.name).visible.get(start..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes some of `data` and returns how much; extends the file, with zeros before `offset`, when needed.
    ///
    /// # Errors
    /// EIO or ENOSPC when told to; when the disk crashed.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let mut state = self.lock()?;
        let start = as_index(offset)?;
        let fault = state.begin();
        if fault == Some(Fault::Error) {
            return Err(eio());
        }
        let mut len = state.room(&self.name, start, data.len());
        if len == 0 && !data.is_empty() {
            return Err(enospc());
        }
        if fault == Some(Fault::Short) && len > 1 {
            len = 1 + state.rng.index(len - 1);
        }
        let written = data.get(..len).unwrap_or(data);
        state.content(&self.name).push(Pending::Write { offset: start, data: written.into() });
        if fault == Some(Fault::Crash) {
            state.crash();
            return Err(crashed());
        }
        Ok(len)
    }

    /// Writes all of `data`, in as many operations as it takes.
    ///
    /// # Errors
    /// As [`Self::write_at`]; a part may have been written then.
    pub fn write_all_at(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let len = self.write_at(offset, data)?;
            offset += as_offset(len);
            data = data.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// EIO or ENOSPC when told to; when the disk crashed.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock()?;
        let len = as_index(len)?;
        let fault = state.begin();
        if fault == Some(Fault::Error) {
            return Err(eio());
        }
        if state.room(&self.name, 0, len) < len {
            return Err(enospc());
        }
        state.content(&self.name).push(Pending::SetLen(len));
        if fault == Some(Fault::Crash) {
            state.crash();
            return Err(crashed());
        }
        Ok(())
    }

    /// Makes all that was written to this file durable.
    ///
    /// # Errors
    /// EIO when told to; when the disk crashed, before or during.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.lock()?;
        let fault = state.begin();
        state.syncs += 1;
        let sync = state.syncs;
        let failing = state.failing_syncs.remove(&sync);
        if fault == Some(Fault::Crash) {
            state.crash();
            return Err(crashed());
        }
        if failing || fault == Some(Fault::Error) {
            let state = &mut *state;
            let content = state.files.entry(Arc::clone(&self.name)).or_default();
            content.durable = survival::survivor(&content.durable, &content.pending, &mut state.rng);
            content.pending.clear();
            return Err(eio());
        }
        state.content(&self.name).write_back();
        Ok(())
    }

    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        if state.boot == self.boot { Ok(state) } else { Err(crashed()) }
    }
}

impl State {
    /// Counts an operation and says what is to happen at it.
    fn begin(&mut self) -> Option<Fault> {
        self.operations += 1;
        self.faults.remove(&self.operations)
    }

    fn content(&mut self, name: &Arc<str>) -> &mut Content {
        self.files.entry(Arc::clone(name)).or_default()
    }

    /// How many of `len` bytes at `start` the capacity leaves room for.
    fn room(&mut self, name: &Arc<str>, start: usize, len: usize) -> usize {
        let Some(capacity) = self.capacity_bytes else { return len };
        let used: usize = self.files.values().map(|content| content.visible.len()).sum();
        let own = self.content(name).visible.len();
        // A disk filled by others before the capacity was set still lets a file overwrite what it has.
        let end_max = capacity.saturating_sub(used - own).max(own);
        len.min(end_max.saturating_sub(start))
    }

    fn crash(&mut self) {
        self.boot += 1;
        for content in self.files.values_mut() {
            content.visible = survival::survivor(&content.durable, &content.pending, &mut self.rng);
            content.settle();
        }
    }
}

impl Content {
    fn push(&mut self, change: Pending) {
        change.apply(&mut self.visible);
        self.pending.push(change);
    }

    /// Does the work of a successful sync. What a failed sync lost stays lost.
    fn write_back(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Makes what programs see the truth.
    fn settle(&mut self) {
        self.durable.clone_from(&self.visible);
        self.pending.clear();
    }
}

/// Whether an error says that the disk crashed, and not that one operation failed.
#[must_use]
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Crashed>())
}

#[derive(Debug, thiserror::Error)]
#[error("the disk crashed: open the file again to see what survived")]
struct Crashed;

fn crashed() -> io::Error {
    io::Error::other(Crashed)
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(28)
}

/// A test that panicked with the lock held has failed already; the others go on.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn as_index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

fn as_offset(index: usize) -> u64 {
    u64::try_from(index).expect("invariant: a length in memory fits 64 bits")
}

#[cfg(test)]
mod tests;

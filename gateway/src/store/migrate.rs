//! From one store into another, whatever their engines: all state and all blocks, with their sequence numbers, sealed
//! under the other's keys.
//!
//! # Order
//! 1. The target is noted to be [arriving](Note::Arriving): no gateway starts on it from now on.
//! 2. Blocks, then state. Whatever stops this, the next run compares what both hold, and copies what is missing. A
//!    source that went on in between only makes more of that: what has left it is removed again.
//! 3. Both are read to their end, and compared.
//! 4. The source is noted to have [left](Note::Left): no gateway starts on it from now on.
//! 5. The target's note is removed.
//!
//! Between 4 and 5 a gateway starts on neither, and the next run does what is left. There is no moment at which one
//! would start on both.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use thiserror::Error;
use trunkline_gateway_proto::store::{BlockInfo, Commit, Head, Op, Record, Recovered, Stream};
use trunkline_gateway_proto::time::Time;

use super::note::{self, Note, Other};
use super::{Store, StoreError};

/// Bytes of bodies or state in one commit. More makes fewer commits, and needs more memory.
const COMMIT_BYTES: usize = 4 << 20;

/// Changes in one commit, for those that have no bodies to speak of.
const COMMIT_OPS: usize = 1024;

/// One of the two stores.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// It, held open: nobody else writes to it.
    pub store: &'a dyn Store,
    /// What operators call it.
    pub name: &'a str,
    /// Its engine, as the command line names it.
    pub engine: &'static str,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Records are copied.
    Copying,
    /// Both stores are read and compared.
    Comparing,
}

/// Told of every step: how many records of how many.
pub type Watch<'a> = dyn FnMut(Step, u64, u64) + 'a;

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Streams that hold something.
    pub streams: usize,
    /// Records.
    pub records: u64,
    /// Their bodies' bytes.
    pub bytes: u64,
    /// State entries.
    pub state: usize,
    /// Records that this run copied: an earlier one may have copied others.
    pub copied: u64,
    /// An earlier run had finished.
    pub before: bool,
}

/// Why a store was not moved. Neither is worse off: what was begun goes on with the next run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MigrateError {
    /// One of them.
    #[error("{name}: {source}")]
    Store {
        /// Which.
        name: String,
        /// Why.
        source: StoreError,
    },
    /// It would not be right.
    #[error("{0}")]
    Refused(String),
    /// They are not alike in the end.
    #[error(
        "what was copied into {target} is not what {source_name} holds ({what}): nothing was moved, go on with \
         {source_name}; empty the target and begin anew, and report this"
    )]
    Differs {
        /// The target.
        target: String,
        /// The source.
        source_name: String,
        /// What.
        what: String,
    },
}

impl End<'_> {
    fn other(&self) -> Other {
        Other { id: self.store.id(), name: self.name.to_owned(), engine: self.engine.to_owned() }
    }

    fn failed(&self, source: StoreError) -> MigrateError {
        MigrateError::Store { name: self.name.to_owned(), source }
    }

    fn contents(&self) -> Result<Contents, MigrateError> {
        let mut contents = Contents::default();
        let mut note = None;
        let visit = &mut |found| match found {
            Recovered::State { key, value } if key == note::KEY => note = Some(Note::decode(&value)),
            Recovered::State { key, value } => drop(contents.state.insert(key, value)),
            Recovered::Block { stream, info, heads } => {
                contents.blocks.push((stream, Block { info, heads: brief(&heads) }));
            }
        };
        self.store.recover(visit).map_err(|error| self.failed(error))?;
        contents.note = note.transpose().map_err(|error| self.failed(error))?;
        Ok(contents)
    }
}

/// What a store holds, without bodies.
#[derive(Default)]
struct Contents {
    note: Option<Note>,
    state: BTreeMap<Vec<u8>, Bytes>,
    /// In the order of their arrival.
    blocks: Vec<(Stream, Block)>,
}

/// A block, as far as it takes to see that another is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    info: BlockInfo,
    /// Of its heads.
    heads: u64,
}

impl Block {
    fn last_seq(self) -> u64 {
        self.info.first_seq.saturating_add(u64::from(self.info.count).saturating_sub(1))
    }
}

/// A short sum of heads: a hint. What counts is compared in the end.
fn brief(heads: &[Head]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for Head { id, network, expires, at } in heads {
        hasher.write(id);
        hasher.write_u32(network.0);
        hasher.write_u64(expires.unix_ms());
        hasher.write_u64(at.unix_ms());
    }
    hasher.finish()
}

impl Contents {
    fn is_blank(&self) -> bool {
        self.state.is_empty() && self.blocks.is_empty()
    }

    fn records(&self) -> u64 {
        self.blocks.iter().map(|(_, block)| u64::from(block.info.count)).sum()
    }

    fn by_stream(&self) -> BTreeMap<Stream, Vec<Block>> {
        let mut streams = BTreeMap::<_, Vec<_>>::new();
        for (stream, block) in &self.blocks {
            streams.entry(*stream).or_default().push(*block);
        }
        streams
    }
}

/// Moves everything. `now` is the clock. Blocks, outside the async runtime.
///
/// # Errors
/// When it cannot be done, or not now: what was begun goes on with the next call.
pub fn migrate(
    source: End<'_>,
    target: End<'_>,
    now: &dyn Fn() -> Time,
    watch: &mut Watch<'_>,
) -> Result<Moved, MigrateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| MigrateError::Refused(format!("cannot start: {error}")))?;
    let (held, there) = (source.contents()?, target.contents()?);
    let mut moved = Moved {
        streams: held.by_stream().len(),
        records: held.records(),
        bytes: held.blocks.iter().map(|(_, block)| block.info.bytes).sum(),
        state: held.state.len(),
        ..Moved::default()
    };
    if admit(source, target, &held, &there)? == Way::Done {
        return Ok(Moved { before: true, ..moved });
    }
    let mut mover = Mover { source, target, now, runtime, ops: Vec::new(), bytes: 0 };
    // What is noted was admitted: it is of this move.
    if !matches!(there.note, Some(Note::Arriving { .. })) {
        let arriving = Note::Arriving { from: source.other(), engine: target.engine.to_owned() };
        mover.commit(target, vec![arriving.put()])?;
    }
    moved.copied = mover.copy(&held, &there, watch)?;
    mover.compare(&held, watch)?;
    if held.note.is_none() {
        let left = Note::Left { to: target.other(), engine: source.engine.to_owned() };
        mover.commit(source, vec![left.put()])?;
    }
    mover.commit(target, vec![note::remove()])?;
    Ok(moved)
}

/// Where a store was moved to.
///
/// # Errors
/// When it was not, or cannot be read.
pub fn left_for(store: End<'_>) -> Result<Other, MigrateError> {
    match store.contents()?.note {
        Some(Note::Left { to, .. }) => Ok(to),
        Some(note) => Err(MigrateError::Refused(note.refusal().to_string())),
        None => Err(MigrateError::Refused(format!(
            "the {} was not moved away: a gateway starts on it as it is",
            store.name
        ))),
    }
}

/// Lets a gateway start again on a store that was [moved away](left_for), as it was then. Where the other one is not
/// lost, that makes two pasts of one deployment.
///
/// # Errors
/// When the store fails.
pub fn take_back(store: End<'_>, now: Time) -> Result<(), MigrateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| MigrateError::Refused(format!("cannot start: {error}")))?;
    let done = runtime.block_on(store.store.commit(Commit { ops: vec![note::remove()], now }));
    done.map_err(|error| store.failed(error))
}

/// Whether there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    Done,
}

/// Only into nothing, into what an earlier run left, or back to where the source came from.
fn admit(source: End<'_>, target: End<'_>, held: &Contents, there: &Contents) -> Result<Way, MigrateError> {
    let refused = |why: String| Err(MigrateError::Refused(why));
    let (source_name, target_name) = (source.name, target.name);
    match &held.note {
        Some(Note::Left { to, .. }) if to.id == target.store.id() => {
            return match &there.note {
                Some(Note::Arriving { from, .. }) if from.id == source.store.id() => Ok(Way::Open),
                None => Ok(Way::Done),
                Some(note) => Err(MigrateError::Refused(format!("{target_name}: {}", note.refusal()))),
            };
        }
        Some(note) => return refused(format!("{source_name}: {}", note.refusal())),
        None if held.is_blank() => {
            return refused(format!(
                "there is nothing in the {source_name}: is this the right configuration?"
            ));
        }
        None => {}
    }
    match &there.note {
        Some(Note::Arriving { from, .. }) if from.id == source.store.id() => Ok(Way::Open),
        Some(Note::Left { to, .. }) if to.id == source.store.id() => Ok(Way::Open),
        Some(Note::Arriving { from, .. }) => refused(format!(
            "the {target_name} has a move in it that was begun from another store, the {}, and is not finished: finish \
             that one, or empty the target",
            from.name
        )),
        Some(Note::Left { to, .. }) => refused(format!(
            "the {target_name} was moved to another store, the {}, than the one to move from: empty it first, when \
             nothing in it is needed any more",
            to.name
        )),
        None if there.is_blank() => Ok(Way::Open),
        None => refused(format!(
            "the {target_name} is not empty: a store is moved into an empty one, or back to where it came from"
        )),
    }
}

struct Mover<'a> {
    source: End<'a>,
    target: End<'a>,
    now: &'a dyn Fn() -> Time,
    runtime: tokio::runtime::Runtime,
    /// For the target, and not committed yet.
    ops: Vec<Op>,
    bytes: usize,
}

impl Mover<'_> {
    fn commit(&self, end: End<'_>, ops: Vec<Op>) -> Result<(), MigrateError> {
        let done = self.runtime.block_on(end.store.commit(Commit { ops, now: (self.now)() }));
        done.map_err(|error| end.failed(error))
    }

    /// Adds a change to the target's next commit, which is made when it is large enough.
    fn push(&mut self, op: Op, bytes: usize) -> Result<(), MigrateError> {
        self.ops.push(op);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= COMMIT_BYTES || self.ops.len() >= COMMIT_OPS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), MigrateError> {
        let ops = std::mem::take(&mut self.ops);
        self.bytes = 0;
        if ops.is_empty() { Ok(()) } else { self.commit(self.target, ops) }
    }

    /// Makes the target hold what the source holds; gives how many records it took.
    fn copy(
        &mut self,
        held: &Contents,
        there: &Contents,
        watch: &mut Watch<'_>,
    ) -> Result<u64, MigrateError> {
        let kept = self.tidy(held, there)?;
        let total = held.records();
        let (mut done, mut copied) = (0_u64, 0_u64);
        for (stream, block) in &held.blocks {
            let count = u64::from(block.info.count);
            if kept.get(stream).is_none_or(|last| block.info.first_seq > *last) {
                let records = self.block(self.source, *stream, block.info)?;
                let records = records.into_iter().map(|(_, record)| record).collect();
                let op = Op::Append { stream: *stream, first_seq: block.info.first_seq, records };
                self.push(op, usize::try_from(block.info.bytes).unwrap_or(usize::MAX))?;
                copied = copied.saturating_add(count);
            }
            done = done.saturating_add(count);
            watch(Step::Copying, done, total);
        }
        for key in there.state.keys().filter(|key| !held.state.contains_key(*key)) {
            self.push(Op::Delete { key: key.clone() }, 0)?;
        }
        for (key, value) in held.state.iter().filter(|(key, value)| there.state.get(*key) != Some(value)) {
            self.push(Op::Put { key: key.clone(), value: value.clone() }, value.len())?;
        }
        self.flush()?;
        Ok(copied)
    }

    /// Removes from the target what the source does not hold (any more); gives up to where each stream is there.
    fn tidy(&mut self, held: &Contents, there: &Contents) -> Result<BTreeMap<Stream, u64>, MigrateError> {
        let mut kept = BTreeMap::new();
        let held = held.by_stream();
        for (stream, blocks) in there.by_stream() {
            let wanted = held.get(&stream).map(Vec::as_slice).unwrap_or_default();
            let by_seq: BTreeMap<u64, Block> =
                wanted.iter().map(|block| (block.info.first_seq, *block)).collect();
            let is_wanted = |block: &Block| by_seq.get(&block.info.first_seq) == Some(block);
            let last = blocks.iter().map(|block| block.last_seq()).max().unwrap_or_default();
            let there = blocks.iter().filter(|block| is_wanted(block)).count();
            let expected = wanted.iter().take_while(|block| block.info.first_seq <= last).count();
            if there != expected {
                // Something is missing below what is there, where nothing can be put.
                self.push(Op::Clear { stream }, 0)?;
                continue;
            }
            for block in blocks.iter().filter(|block| !is_wanted(block)) {
                self.push(Op::Remove { stream, first_seq: block.info.first_seq }, 0)?;
            }
            kept.insert(stream, last);
        }
        self.flush()?;
        Ok(kept)
    }

    /// All records of a block.
    fn block(
        &self,
        end: End<'_>,
        stream: Stream,
        info: BlockInfo,
    ) -> Result<Vec<(u64, Record)>, MigrateError> {
        let bytes_max = usize::try_from(info.bytes).unwrap_or(usize::MAX);
        let read = self.runtime.block_on(end.store.read(stream, info.first_seq, bytes_max));
        let mut records = read.map_err(|error| end.failed(error))?;
        records.truncate(usize::try_from(info.count).unwrap_or(usize::MAX));
        let bytes: u64 = records.iter().map(|(_, record)| record.body.len() as u64).sum();
        let seqs = info.first_seq..info.first_seq.saturating_add(u64::from(info.count));
        if records.iter().map(|(seq, _)| *seq).eq(seqs) && bytes == info.bytes {
            return Ok(records);
        }
        let what = format!("the block at {} of {stream:?} is not as long as it says", info.first_seq);
        Err(end.failed(StoreError::Corrupt(what)))
    }

    /// Reads both stores to their end.
    fn compare(&self, held: &Contents, watch: &mut Watch<'_>) -> Result<(), MigrateError> {
        let there = self.target.contents()?;
        let differs = |what: String| MigrateError::Differs {
            target: self.target.name.to_owned(),
            source_name: self.source.name.to_owned(),
            what,
        };
        if there.state != held.state {
            return Err(differs("its state".to_owned()));
        }
        let (ours, theirs) = (held.by_stream(), there.by_stream());
        if ours != theirs {
            let stream = ours.iter().find(|(stream, blocks)| theirs.get(stream) != Some(blocks));
            let stream = stream.or_else(|| theirs.iter().find(|(stream, _)| !ours.contains_key(stream)));
            return Err(differs(format!("the blocks of {:?}", stream.map(|(stream, _)| stream))));
        }
        let total = held.records().saturating_mul(2);
        let mut done = 0_u64;
        let mut sums = Vec::new();
        for (end, contents) in [(self.source, held), (self.target, &there)] {
            sums.push(self.digest(end, contents, &mut |records| {
                done = done.saturating_add(records);
                watch(Step::Comparing, done, total);
            })?);
        }
        let [ours, theirs] = &sums[..] else { return Err(differs("nothing was read".to_owned())) };
        let other = ours.iter().find(|(stream, sum)| theirs.get(stream) != Some(sum));
        other.map_or(Ok(()), |(stream, _)| Err(differs(format!("the records of {stream:?}"))))
    }

    /// SHA-256 of each stream: sequence numbers, heads and bodies.
    fn digest(
        &self,
        end: End<'_>,
        contents: &Contents,
        watch: &mut dyn FnMut(u64),
    ) -> Result<BTreeMap<Stream, Vec<u8>>, MigrateError> {
        let mut sums = BTreeMap::<Stream, Context>::new();
        for (stream, block) in &contents.blocks {
            let sum = sums.entry(*stream).or_insert_with(|| Context::new(&SHA256));
            for (seq, Record { head, body }) in self.block(end, *stream, block.info)? {
                sum.update(&seq.to_le_bytes());
                sum.update(&head.id);
                sum.update(&head.network.0.to_le_bytes());
                sum.update(&head.expires.unix_ms().to_le_bytes());
                sum.update(&head.at.unix_ms().to_le_bytes());
                sum.update(&(body.len() as u64).to_le_bytes());
                sum.update(&body);
            }
            watch(u64::from(block.info.count));
        }
        Ok(sums.into_iter().map(|(stream, sum)| (stream, sum.finish().as_ref().to_vec())).collect())
    }
}

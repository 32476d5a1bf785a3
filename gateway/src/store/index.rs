//! Which blocks there are, in memory: a stream's blocks are found, and removed, without a search on the disk. It
//! costs 24 bytes for each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trunkline_gateway_proto::store::Stream;

use super::block::BlockNumber;

/// The index, as the writer changes it and the readers look into it. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct SharedIndex {
    index: Arc<Mutex<Index>>,
}

impl SharedIndex {
    /// To be held for one look or one change at a time.
    pub(super) fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blocks of all streams.
#[derive(Debug, Default)]
pub(super) struct Index {
    streams: HashMap<Stream, Blocks>,
    last: BlockNumber,
    /// The last block that is durable. Readers look no further.
    committed: BlockNumber,
}

/// The blocks of one stream in order.
#[derive(Debug, Default)]
struct Blocks {
    entries: VecDeque<Entry>,
    /// How many of them were removed one by one, and only leave when they reach the front or are the majority:
    /// taking them out at once would move all that follow.
    removed: usize,
}

/// A block in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) block: BlockNumber,
    pub(super) first_seq: u64,
    /// Records; zero once removed.
    count: u32,
}

impl Entry {
    fn last_seq(self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.count).saturating_sub(1))
    }
}

impl Index {
    /// Adds a block behind the others of its stream and gives it the next number; `None` when it does not belong
    /// there.
    pub(super) fn append(&mut self, stream: Stream, first_seq: u64, count: u32) -> Option<BlockNumber> {
        let block = self.last.checked_add(1)?;
        self.restore(block, stream, first_seq, count).then_some(block)
    }

    /// Adds a block that was found in the store. Answers whether it belongs there.
    #[must_use]
    pub(super) fn restore(&mut self, block: BlockNumber, stream: Stream, first_seq: u64, count: u32) -> bool {
        let entries = &mut self.streams.entry(stream).or_default().entries;
        let above = entries.back().is_none_or(|last| last.last_seq() < first_seq) && block > self.last;
        let countable = count > 0 && first_seq.checked_add(u64::from(count)).is_some();
        if above && countable {
            entries.push_back(Entry { block, first_seq, count });
            self.last = block;
        }
        above && countable
    }

    /// The last block's number.
    pub(super) fn last(&self) -> BlockNumber {
        self.last
    }

    /// Numbers up to this one were given, though their blocks may be gone.
    pub(super) fn resume_after(&mut self, last: BlockNumber) {
        self.last = self.last.max(last);
    }

    /// All blocks so far are durable.
    pub(super) fn commit(&mut self) {
        self.committed = self.last;
    }

    /// The last block that is durable.
    pub(super) fn committed(&self) -> BlockNumber {
        self.committed
    }

    /// Up to `max` blocks of a stream, from the one that holds `from_seq` or follows it, numbered `up_to` at most.
    pub(super) fn run(&self, stream: Stream, from_seq: u64, up_to: BlockNumber, max: usize) -> Vec<Entry> {
        let Some(blocks) = self.streams.get(&stream) else { return Vec::new() };
        let start = blocks.entries.partition_point(|entry| entry.last_seq() < from_seq);
        let there = blocks.entries.range(start..).filter(|entry| entry.count > 0);
        there.take_while(|entry| entry.block <= up_to).take(max).copied().collect()
    }

    /// Whether a block is there.
    pub(super) fn contains(&self, stream: Stream, entry: Entry) -> bool {
        self.run(stream, entry.first_seq, BlockNumber::MAX, 1).contains(&entry)
    }

    /// Whether a block of this number is there, at its place in the stream.
    pub(super) fn holds(&self, stream: Stream, first_seq: u64, block: BlockNumber) -> bool {
        let found = self.run(stream, first_seq, BlockNumber::MAX, 1);
        found.first().is_some_and(|entry| (entry.block, entry.first_seq) == (block, first_seq))
    }

    /// Takes out the first block when all its records are at or below `up_to`.
    pub(super) fn pop_through(&mut self, stream: Stream, up_to: u64) -> Option<BlockNumber> {
        let blocks = self.streams.get_mut(&stream)?;
        blocks.drop_removed();
        let first = *blocks.entries.front()?;
        if first.last_seq() > up_to {
            return None;
        }
        blocks.entries.pop_front();
        blocks.drop_removed();
        if blocks.entries.is_empty() {
            self.streams.remove(&stream);
        } else if blocks.entries.len() < blocks.entries.capacity() / 4 {
            blocks.entries.shrink_to(blocks.entries.len() * 2);
        }
        Some(first.block)
    }

    /// Takes out one block, when it is there.
    pub(super) fn remove(&mut self, stream: Stream, first_seq: u64) -> Option<BlockNumber> {
        let blocks = self.streams.get_mut(&stream)?;
        let at = blocks.entries.binary_search_by_key(&first_seq, |entry| entry.first_seq).ok()?;
        let entry = blocks.entries.get_mut(at).filter(|entry| entry.count > 0)?;
        entry.count = 0;
        let block = entry.block;
        blocks.removed += 1;
        if blocks.removed * 2 > blocks.entries.len() {
            blocks.entries.retain(|entry| entry.count > 0);
            blocks.removed = 0;
        }
        if blocks.entries.is_empty() {
            self.streams.remove(&stream);
        }
        Some(block)
    }
}

impl Blocks {
    fn drop_removed(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.count == 0) {
            self.entries.pop_front();
            self.removed -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INBOX: Stream = Stream::Inbox { network: trunkline_gateway_proto::store::NetworkKey(1) };

    /// Blocks 1, 3 and 4; 2 belongs to another stream.
    fn three_blocks() -> Index {
        let mut index = Index::default();
        let streams = [(Stream::Audit, 1), (INBOX, 1), (Stream::Audit, 11), (Stream::Audit, 21)];
        for ((stream, first_seq), block) in streams.into_iter().zip(1..) {
            assert_eq!(index.append(stream, first_seq, 10), Some(block));
        }
        index
    }

    fn blocks(index: &Index, from_seq: u64, up_to: u64) -> Vec<u64> {
        index.run(Stream::Audit, from_seq, up_to, 9).into_iter().map(|entry| entry.block).collect()
    }

    #[test]
    fn a_run_begins_with_the_block_that_holds_the_record_or_follows_it() {
        let mut index = three_blocks();
        assert_eq!(blocks(&index, 0, 9), [1, 3, 4]);
        assert_eq!(blocks(&index, 20, 9), [3, 4]);
        assert_eq!(blocks(&index, 11, 3), [3]);
        assert_eq!(blocks(&index, 31, 9), [0; 0]);
        assert_eq!(index.run(Stream::Audit, 0, 9, 1).len(), 1);
        assert_eq!(index.remove(Stream::Audit, 11), Some(3));
        assert_eq!(blocks(&index, 5, 9), [1, 4]);
        assert_eq!(blocks(&index, 15, 9), [4]);
    }

    #[test]
    fn a_truncation_takes_whole_blocks_from_the_front() {
        let mut index = three_blocks();
        assert_eq!(index.pop_through(Stream::Audit, 9), None);
        assert_eq!(index.pop_through(Stream::Audit, 20), Some(1));
        assert_eq!(index.pop_through(Stream::Audit, 20), Some(3));
        assert_eq!(index.pop_through(Stream::Audit, 20), None);
        assert_eq!(index.pop_through(Stream::Audit, u64::MAX), Some(4));
        assert_eq!(index.pop_through(Stream::Audit, u64::MAX), None);
        assert_eq!(index.pop_through(INBOX, 10), Some(2));
    }

    #[test]
    fn a_removed_block_is_not_met_again() {
        let mut index = three_blocks();
        assert_eq!(index.remove(Stream::Audit, 11), Some(3));
        assert_eq!(index.remove(Stream::Audit, 11), None);
        assert_eq!(index.remove(Stream::Audit, 12), None);
        assert_eq!(index.pop_through(Stream::Audit, 30), Some(1));
        assert_eq!(index.pop_through(Stream::Audit, 30), Some(4));
        assert_eq!(index.remove(Stream::Audit, 21), None);
    }

    #[test]
    fn only_a_block_above_the_others_is_appended() {
        let mut index = three_blocks();
        assert_eq!(index.append(Stream::Audit, 30, 1), None);
        assert_eq!(index.append(Stream::Audit, 31, 0), None);
        assert_eq!(index.append(Stream::Audit, u64::MAX, 2), None);
        assert!(!index.restore(4, Stream::Audit, 31, 1), "a number is given once");
        assert_eq!(index.append(Stream::Audit, 31, 1), Some(5));
    }
}

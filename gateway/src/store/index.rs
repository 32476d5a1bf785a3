//! Which blocks there are: 16 bytes of memory for each, so that a truncation that removes nothing costs
//! nothing, and one that removes something knows the keys without a search.

use std::collections::{HashMap, VecDeque};

use trunkline_gateway_proto::store::Stream;

/// The blocks of all streams.
#[derive(Debug, Default)]
pub(super) struct Index {
    streams: HashMap<Stream, Blocks>,
}

/// The blocks of one stream in order.
#[derive(Debug, Default)]
struct Blocks {
    blocks: VecDeque<Block>,
    /// How many of them were removed one by one, and only leave when they reach the front or are the majority:
    /// taking them out at once would move all that follow.
    removed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    first_seq: u64,
    /// Records; zero once removed.
    count: u32,
}

impl Block {
    fn last_seq(self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.count).saturating_sub(1))
    }
}

impl Index {
    /// Adds a block behind the others. Answers whether it belongs there.
    #[must_use]
    pub(super) fn append(&mut self, stream: Stream, first_seq: u64, count: u32) -> bool {
        let block = Block { first_seq, count };
        let blocks = self.streams.entry(stream).or_default();
        let above = blocks.blocks.back().is_none_or(|last| last.last_seq() < first_seq);
        let countable = count > 0 && first_seq.checked_add(u64::from(count)).is_some();
        if above && countable {
            blocks.blocks.push_back(block);
        }
        above && countable
    }

    /// Takes out the first block when all its records are at or below `up_to`; gives its first sequence number.
    pub(super) fn pop_through(&mut self, stream: Stream, up_to: u64) -> Option<u64> {
        let blocks = self.streams.get_mut(&stream)?;
        blocks.drop_removed();
        let first = *blocks.blocks.front()?;
        if first.last_seq() > up_to {
            return None;
        }
        blocks.blocks.pop_front();
        blocks.drop_removed();
        if blocks.blocks.is_empty() {
            self.streams.remove(&stream);
        } else if blocks.blocks.len() < blocks.blocks.capacity() / 4 {
            blocks.blocks.shrink_to(blocks.blocks.len() * 2);
        }
        Some(first.first_seq)
    }

    /// Takes out one block. Answers whether it was there.
    pub(super) fn remove(&mut self, stream: Stream, first_seq: u64) -> bool {
        let Some(blocks) = self.streams.get_mut(&stream) else { return false };
        let Ok(at) = blocks.blocks.binary_search_by_key(&first_seq, |block| block.first_seq) else {
            return false;
        };
        let there = match blocks.blocks.get_mut(at) {
            Some(block) if block.count > 0 => {
                block.count = 0;
                true
            }
            _ => false,
        };
        if there {
            blocks.removed += 1;
            if blocks.removed * 2 > blocks.blocks.len() {
                blocks.blocks.retain(|block| block.count > 0);
                blocks.removed = 0;
            }
            if blocks.blocks.is_empty() {
                self.streams.remove(&stream);
            }
        }
        there
    }
}

impl Blocks {
    fn drop_removed(&mut self) {
        while self.blocks.front().is_some_and(|block| block.count == 0) {
            self.blocks.pop_front();
            self.removed -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_blocks() -> Index {
        let mut index = Index::default();
        for first_seq in [1, 11, 21] {
            assert!(index.append(Stream::Audit, first_seq, 10));
        }
        index
    }

    #[test]
    fn a_truncation_takes_whole_blocks_from_the_front() {
        let mut index = three_blocks();
        assert_eq!(index.pop_through(Stream::Audit, 9), None);
        assert_eq!(index.pop_through(Stream::Audit, 20), Some(1));
        assert_eq!(index.pop_through(Stream::Audit, 20), Some(11));
        assert_eq!(index.pop_through(Stream::Audit, 20), None);
        assert_eq!(index.pop_through(Stream::Audit, u64::MAX), Some(21));
        assert_eq!(index.pop_through(Stream::Audit, u64::MAX), None);
    }

    #[test]
    fn a_removed_block_is_not_met_again() {
        let mut index = three_blocks();
        assert!(index.remove(Stream::Audit, 11));
        assert!(!index.remove(Stream::Audit, 11));
        assert!(!index.remove(Stream::Audit, 12));
        assert_eq!(index.pop_through(Stream::Audit, 30), Some(1));
        assert_eq!(index.pop_through(Stream::Audit, 30), Some(21));
        assert!(!index.remove(Stream::Audit, 21));
    }

    #[test]
    fn only_a_block_above_the_others_is_appended() {
        let mut index = three_blocks();
        assert!(!index.append(Stream::Audit, 30, 1));
        assert!(!index.append(Stream::Audit, 31, 0));
        assert!(!index.append(Stream::Audit, u64::MAX, 2));
        assert!(index.append(Stream::Audit, 31, 1));
    }
}

//! Which parts the blocks lie in, and which data key sealed each: what removing them needs, in memory. It costs some
//! 30 bytes for each block.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use trunkline_gateway_proto::time::Time;

use super::super::block::BlockNumber;
use super::super::seal::KeyId;

/// Number of a part, and name of its table.
pub(super) type PartNumber = i64;

/// How long blocks go into one part. Shorter frees space sooner, and makes more tables: one for each of these spans
/// within the oldest envelope's age.
const PART_AGE_MAX: Duration = Duration::from_secs(3600);

/// How much goes into one part. Less frees space sooner when much passes through, and makes more tables.
const PART_BYTES_MAX: u64 = 256 << 20;

/// Blocks of one span of time, in a table of their own that is dropped as a whole.
#[derive(Clone, Copy, Debug)]
struct Part {
    part: PartNumber,
    first_block: BlockNumber,
    /// Blocks that are not gone.
    live: u64,
}

/// All parts and blocks.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    parts: VecDeque<Part>,
    blocks: HashMap<BlockNumber, KeyId>,
    /// When the last part began, and what has gone into it. A part that another run began takes nothing more.
    since: Option<Time>,
    bytes: u64,
}

impl Ledger {
    /// Adds a part that was found, in the order of their blocks.
    pub(super) fn restore_part(&mut self, part: PartNumber, first_block: BlockNumber) {
        self.parts.push_back(Part { part, first_block, live: 0 });
    }

    /// The part that takes blocks at `now`, from `next` on; with `true` when it is a new one.
    pub(super) fn part(&mut self, now: Time, next: BlockNumber) -> Option<(PartNumber, bool)> {
        let last = self.parts.back().map_or(0, |part| part.part);
        let fresh = self.since.is_some_and(|since| now < since + PART_AGE_MAX) && self.bytes < PART_BYTES_MAX;
        if fresh {
            return Some((last, false));
        }
        let part = last.checked_add(1)?;
        self.parts.push_back(Part { part, first_block: next, live: 0 });
        (self.since, self.bytes) = (Some(now), 0);
        Some((part, true))
    }

    /// A block is there. Answers whether its part is.
    #[must_use]
    pub(super) fn add(&mut self, block: BlockNumber, key: KeyId, bytes: u64) -> bool {
        let Some(part) = self.find(block) else { return false };
        part.live += 1;
        self.blocks.insert(block, key);
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    /// A block is gone: where it was, and what sealed it.
    pub(super) fn remove(&mut self, block: BlockNumber) -> Option<(PartNumber, KeyId)> {
        let key = self.blocks.remove(&block)?;
        let part = self.find(block)?;
        part.live = part.live.saturating_sub(1);
        Some((part.part, key))
    }

    /// Takes out the parts that nothing needs, but never the last one, whose number the next counts from.
    pub(super) fn take_empty(&mut self) -> Vec<PartNumber> {
        let last = self.parts.back().map(|part| part.part);
        let is_empty = |part: &Part| part.live == 0 && Some(part.part) != last;
        let empty = self.parts.iter().filter(|part| is_empty(part)).map(|part| part.part).collect();
        self.parts.retain(|part| !is_empty(part));
        empty
    }

    /// The first block that the oldest part may hold.
    pub(super) fn oldest(&self) -> BlockNumber {
        self.parts.front().map_or(0, |part| part.first_block)
    }

    fn find(&mut self, block: BlockNumber) -> Option<&mut Part> {
        let after = self.parts.partition_point(|part| part.first_block <= block);
        self.parts.get_mut(after.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_unix_ms(1_700_000_000_000);

    #[test]
    fn a_part_takes_blocks_for_an_hour_or_until_it_is_large() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.part(NOW, 1), Some((1, true)));
        assert!(ledger.add(1, KeyId(1), 100));
        assert_eq!(ledger.part(NOW + PART_AGE_MAX / 2, 2), Some((1, false)));
        assert_eq!(ledger.part(NOW + PART_AGE_MAX, 2), Some((2, true)));
        assert!(ledger.add(2, KeyId(1), PART_BYTES_MAX));
        assert_eq!(ledger.part(NOW + PART_AGE_MAX, 3), Some((3, true)));
        assert!(!ledger.add(0, KeyId(1), 1), "no part is that old");
        assert_eq!([1, 2].map(|block| ledger.remove(block)), [Some((1, KeyId(1))), Some((2, KeyId(1)))]);
    }

    #[test]
    fn a_part_is_dropped_once_all_its_blocks_are_gone_and_another_follows_it() {
        let mut ledger = Ledger::default();
        for (hour, first) in [(0, 1), (1, 3), (2, 5)] {
            ledger.part(NOW + PART_AGE_MAX * hour, first);
            assert!(ledger.add(first, KeyId(7), 1) && ledger.add(first + 1, KeyId(7), 1));
        }
        assert_eq!(ledger.remove(3), Some((2, KeyId(7))));
        assert_eq!(ledger.remove(3), None);
        assert_eq!(ledger.take_empty(), [0; 0]);
        assert_eq!(ledger.remove(4), Some((2, KeyId(7))));
        assert_eq!(ledger.take_empty(), [2]);
        assert_eq!((ledger.remove(5), ledger.remove(6)).1, Some((3, KeyId(7))));
        assert_eq!(ledger.take_empty(), [0; 0], "the last part stays");
        assert_eq!(ledger.oldest(), 1);
    }

    #[test]
    fn a_part_of_an_earlier_run_takes_nothing_more() {
        let mut ledger = Ledger::default();
        ledger.restore_part(4, 10);
        assert!(ledger.add(10, KeyId(1), 1));
        assert_eq!(ledger.part(NOW, 11), Some((5, true)));
    }
}

//! Which parts the blocks lie in, and which data key sealed each: what removing them needs, in memory. It costs some
//! 40 bytes for each block.

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

/// What may be live in parts that are made one. More merges more often, and copies more each time.
const MERGED_BYTES_MAX: u64 = PART_BYTES_MAX / 2;

/// Parts are made one when they take so much more room than what is live in them. Less frees it sooner, and copies more
/// often.
const MERGED_WASTE_MIN: u64 = PART_BYTES_MAX;

/// Or when there are so many of them: each is a table, however small.
const MERGED_PARTS_MIN: usize = 32;

/// Blocks of one span of time, in a table of their own that is dropped as a whole.
#[derive(Clone, Copy, Debug)]
struct Part {
    part: PartNumber,
    first_block: BlockNumber,
    /// Blocks that are not gone, and their bytes.
    live: u64,
    live_bytes: u64,
    /// What its table takes.
    bytes: u64,
}

/// All parts and blocks.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    parts: VecDeque<Part>,
    blocks: HashMap<BlockNumber, (KeyId, u32)>,
    /// When the last part began. A part that another run began takes nothing more.
    since: Option<Time>,
    /// Parts that are being made one.
    merging: Vec<PartNumber>,
}

impl Ledger {
    /// Adds a part that was found, in the order of their blocks, with what its table takes.
    pub(super) fn restore_part(&mut self, part: PartNumber, first_block: BlockNumber, bytes: u64) {
        self.parts.push_back(Part { part, first_block, live: 0, live_bytes: 0, bytes });
    }

    /// Adds a block that was found. Answers whether its part is there.
    #[must_use]
    pub(super) fn restore(&mut self, block: BlockNumber, key: KeyId, bytes: u32) -> bool {
        let Some(part) = self.find(block) else { return false };
        part.live += 1;
        part.live_bytes = part.live_bytes.saturating_add(u64::from(bytes));
        self.blocks.insert(block, (key, bytes));
        true
    }

    /// The part that takes blocks at `now`, from `next` on; with `true` when it is a new one.
    pub(super) fn part(&mut self, now: Time, next: BlockNumber) -> Option<(PartNumber, bool)> {
        let last = self.parts.back().map_or((0, 0), |part| (part.part, part.bytes));
        let fresh = self.since.is_some_and(|since| now < since + PART_AGE_MAX) && last.1 < PART_BYTES_MAX;
        if fresh {
            return Some((last.0, false));
        }
        let part = last.0.checked_add(1)?;
        self.restore_part(part, next, 0);
        self.since = Some(now);
        Some((part, true))
    }

    /// A block goes into the last part. Answers whether there is one.
    #[must_use]
    pub(super) fn add(&mut self, block: BlockNumber, key: KeyId, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let there = self.restore(block, key, bytes);
        if let Some(part) = self.parts.back_mut() {
            part.bytes = part.bytes.saturating_add(u64::from(bytes));
        }
        there
    }

    /// A block is gone: where it was, and what sealed it.
    pub(super) fn remove(&mut self, block: BlockNumber) -> Option<(PartNumber, KeyId)> {
        let (key, bytes) = self.blocks.remove(&block)?;
        let part = self.find(block)?;
        part.live = part.live.saturating_sub(1);
        part.live_bytes = part.live_bytes.saturating_sub(u64::from(bytes));
        Some((part.part, key))
    }

    /// Adjacent parts that hold little, to be made one by whoever calls [`Self::end_merge`] then; until that, they stay.
    /// None while others are, and while that would not be worth it.
    pub(super) fn begin_merge(&mut self) -> Option<Vec<PartNumber>> {
        if !self.merging.is_empty() {
            return None;
        }
        let (mut run, mut live, mut bytes) = (Vec::new(), 0_u64, 0_u64);
        for part in self.parts.iter().rev().skip(1).rev() {
            if live.saturating_add(part.live_bytes) > MERGED_BYTES_MAX {
                (live, bytes) = (0, 0);
                run.clear();
            }
            // One that is full of what is live stays as it is.
            if part.live_bytes <= MERGED_BYTES_MAX {
                (live, bytes) = (live.saturating_add(part.live_bytes), bytes.saturating_add(part.bytes));
                run.push(part.part);
            }
            if bytes.saturating_sub(live) >= MERGED_WASTE_MIN || run.len() >= MERGED_PARTS_MIN {
                self.merging = run.clone();
                return Some(run);
            }
        }
        None
    }

    /// The parts of [`Self::begin_merge`] are the first of them now; or stay as they were.
    pub(super) fn end_merge(&mut self, merged: bool) {
        let parts = std::mem::take(&mut self.merging);
        let Some(first) = parts.first().filter(|_| merged) else { return };
        let (mut live, mut live_bytes) = (0, 0);
        self.parts.retain(|part| {
            let is_merged = parts.contains(&part.part);
            if is_merged {
                (live, live_bytes) = (live + part.live, live_bytes + part.live_bytes);
            }
            !is_merged || part.part == *first
        });
        if let Some(part) = self.parts.iter_mut().find(|part| part.part == *first) {
            (part.live, part.live_bytes, part.bytes) = (live, live_bytes, live_bytes);
        }
    }

    /// The parts that nothing needs, but never the last one, whose number the next counts from.
    pub(super) fn empty(&self) -> Vec<PartNumber> {
        let closed = self.parts.iter().rev().skip(1).rev();
        let empty = closed.filter(|part| part.live == 0 && !self.merging.contains(&part.part));
        empty.map(|part| part.part).collect()
    }

    /// Forgets parts that were [empty](Self::empty).
    pub(super) fn drop_parts(&mut self, parts: &[PartNumber]) {
        self.parts.retain(|part| !parts.contains(&part.part));
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
        assert!(ledger.add(2, KeyId(1), usize::try_from(PART_BYTES_MAX).unwrap()));
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
        assert_eq!(ledger.empty(), [0; 0]);
        assert_eq!(ledger.remove(4), Some((2, KeyId(7))));
        assert_eq!(ledger.empty(), [2]);
        ledger.drop_parts(&[2]);
        assert_eq!((ledger.remove(5), ledger.remove(6)).1, Some((3, KeyId(7))));
        assert_eq!(ledger.empty(), [0; 0], "the last part stays");
    }

    #[test]
    fn a_part_of_an_earlier_run_takes_nothing_more() {
        let mut ledger = Ledger::default();
        ledger.restore_part(4, 10, 9000);
        assert!(ledger.restore(10, KeyId(1), 1));
        assert_eq!(ledger.part(NOW, 11), Some((5, true)));
    }

    /// Parts 1 to `count` with two blocks each, and one after them that takes more.
    fn parts_of_two(count: u32, bytes: usize) -> Ledger {
        let mut ledger = Ledger::default();
        for hour in 0..=count {
            let first = u64::from(hour) * 2 + 1;
            assert_eq!(ledger.part(NOW + PART_AGE_MAX * hour, first), Some((i64::from(hour) + 1, true)));
            assert!(ledger.add(first, KeyId(7), bytes) && ledger.add(first + 1, KeyId(7), bytes));
        }
        ledger
    }

    #[test]
    fn parts_are_merged_once_they_take_far_more_room_than_what_is_live_in_them() {
        let quarter = usize::try_from(PART_BYTES_MAX / 4).unwrap();
        let mut ledger = parts_of_two(6, quarter);
        assert_eq!(ledger.begin_merge(), None, "everything is live");
        // Of the first, nothing leaves; of the third everything, of the others one half.
        for block in [4, 5, 6, 7, 9, 11] {
            ledger.remove(block);
        }
        assert_eq!(ledger.begin_merge(), Some(vec![2, 3, 4]));
        assert_eq!(ledger.begin_merge(), None, "one after the other");
        assert_eq!(ledger.empty(), [0; 0], "it is being copied");
        ledger.remove(3);
        ledger.end_merge(true);
        assert_eq!(ledger.remove(8), Some((2, KeyId(7))), "where it lies now");
        assert_eq!(ledger.remove(10), Some((5, KeyId(7))));
        assert_eq!(ledger.empty(), [2, 5]);
    }

    #[test]
    fn many_parts_are_merged_however_small_they_are() {
        let enough = u32::try_from(MERGED_PARTS_MIN).unwrap();
        assert_eq!(parts_of_two(enough - 1, 10).begin_merge(), None);
        let mut ledger = parts_of_two(enough, 10);
        let all: Vec<PartNumber> = (1..=i64::from(enough)).collect();
        assert_eq!(ledger.begin_merge(), Some(all.clone()));
        ledger.end_merge(false);
        assert_eq!(ledger.begin_merge(), Some(all), "it was given up, and is tried again");
        ledger.end_merge(true);
        assert_eq!(ledger.begin_merge(), None);
    }
}

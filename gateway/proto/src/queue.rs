//! One stream as the core sees it: which blocks the store holds, what of it is in memory, what has left.
//!
//! A queue keeps only block measures of what rests ([`BlockInfo`], 40 bytes for up to thousands of records) and a
//! bounded **tail** of recent records, so that a reader who keeps up never touches the disk and a backlog of
//! millions costs next to nothing. A reader who fell behind gets records through [`Found::OnDisk`].

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::store::{BlockInfo, Record, Stream};
use crate::time::Time;

/// Most records in one block. More makes a removal in the middle keep more dead weight.
pub(crate) const BLOCK_RECORDS_MAX: usize = 2048;

/// Most bytes of bodies in one block, unless a single record is larger. More means larger reads.
pub(crate) const BLOCK_BYTES_MAX: usize = 256 * 1024;

/// Where the records after a sequence number are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// In the tail, from this index on.
    InMemory(usize),
    /// In the store; read from this sequence number.
    OnDisk(u64),
    /// There are none.
    Nothing,
}

/// What the store need not keep any more after an acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct Emptied {
    /// Whether there are blocks that lie below it as a whole.
    pub(crate) truncate: bool,
    /// A block that reaches beyond it, of which the rest left before.
    pub(crate) straddling: Option<u64>,
    /// Blocks whose marks go with them.
    pub(crate) marks: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) stream: Stream,
    /// Everything up to here has left.
    pub(crate) acked: u64,
    /// The next record's sequence number.
    pub(crate) next_seq: u64,
    /// Everything up to here is on the disk.
    pub(crate) durable: u64,
    /// Records that have not left.
    pub(crate) depth: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
    blocks: VecDeque<BlockInfo>,
    /// Which records of a block left before those in front of them, by the block's first sequence number.
    gone: BTreeMap<u64, Vec<u8>>,
    tail: VecDeque<(u64, Record)>,
    tail_bytes: usize,
    /// Where the tail starts: every record that has not left from here on is in it. `None`: nothing is.
    tail_from: Option<u64>,
    /// No record expires before this.
    pub(crate) expires_min: Time,
    /// When the oldest record of each block was appended.
    ages: VecDeque<Time>,
    /// When the first record was appended that is in no block yet.
    pending_age: Option<Time>,
}

impl Queue {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            acked: 0,
            next_seq: 1,
            durable: 0,
            depth: 0,
            bytes: 0,
            blocks: VecDeque::new(),
            gone: BTreeMap::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_from: None,
            expires_min: Time::NEVER,
            ages: VecDeque::new(),
            pending_age: None,
        }
    }

    /// Takes over where the store stood; blocks follow through [`Queue::recover_block`].
    pub(crate) fn recover_position(&mut self, acked: u64, next_seq: u64) {
        self.acked = acked;
        self.next_seq = next_seq;
        self.durable = next_seq.saturating_sub(1);
    }

    /// Takes over which records of a block are gone.
    pub(crate) fn recover_gone(&mut self, first_seq: u64, bits: &[u8]) {
        self.gone.insert(first_seq, bits.to_vec());
    }

    /// Takes over a block whose oldest record was appended at `age`.
    pub(crate) fn recover_block(&mut self, info: BlockInfo, age: Time) {
        self.next_seq = self.next_seq.max(last_of(&info) + 1);
        self.durable = self.next_seq - 1;
        self.expires_min = self.expires_min.min(info.expires_min);
        self.blocks.push_back(info);
        self.ages.push_back(age);
    }

    /// So many records of a block that was taken over have not left.
    pub(crate) fn recover_live(&mut self, info: BlockInfo, live: u64) {
        self.depth += live;
        self.bytes += info.bytes * live / u64::from(info.count).max(1);
    }

    /// When the oldest record that waits was appended, as precisely as its block says.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.ages.front().copied().or(self.pending_age).filter(|_| self.depth > 0)
    }

    /// Appends records whose numbers start at the answer. They count as durable once the caller says so.
    pub(crate) fn append(&mut self, records: &[Record], keep_in_memory: bool) -> u64 {
        let first_seq = self.next_seq;
        if self.tail.is_empty() {
            self.tail_from = keep_in_memory.then_some(first_seq);
        } else if !keep_in_memory {
            // The tail must reach to the end: what comes after a hole would never be found.
            self.drop_tail();
        }
        for record in records {
            self.depth += 1;
            self.bytes += record.body.len() as u64;
            self.expires_min = self.expires_min.min(record.head.expires);
            self.pending_age.get_or_insert(record.head.at);
            if self.tail_from.is_some() {
                self.tail_bytes += record.body.len();
                self.tail.push_back((self.next_seq, record.clone()));
            }
            self.next_seq += 1;
        }
        first_seq
    }

    /// Notes a block that the commit being built writes; all that was appended is in blocks then.
    pub(crate) fn push_block(&mut self, info: BlockInfo, age: Time) {
        self.pending_age = None;
        self.ages.push_back(age);
        // Until now nothing but `append` knew of its expiry, and a pass over the others may have forgotten it.
        self.expires_min = self.expires_min.min(info.expires_min);
        self.blocks.push_back(info);
    }

    /// Where the first record after `after` is, as far as it is durable.
    pub(crate) fn find(&self, after: u64) -> Found {
        let from = after.max(self.acked).saturating_add(1);
        if from > self.durable {
            return Found::Nothing;
        }
        if let Some(tail_from) = self.tail_from
            && from >= tail_from
        {
            let index = self.tail.partition_point(|(seq, _)| *seq < from);
            return match self.tail.get(index) {
                Some((seq, _)) if *seq <= self.durable => Found::InMemory(index),
                _ => Found::Nothing,
            };
        }
        // Blocks end at or before the tail's start, or hold what the tail holds: either way they have it.
        let index = self.blocks.partition_point(|block| last_of(block) < from);
        match self.blocks.get(index) {
            Some(block) if block.first_seq <= self.durable => Found::OnDisk(from.max(block.first_seq)),
            _ => Found::Nothing,
        }
    }

    /// The record at an index that [`Queue::find`] gave, or one behind it.
    pub(crate) fn tail_at(&self, index: usize) -> Option<(u64, &Record)> {
        self.tail.get(index).filter(|(seq, _)| *seq <= self.durable).map(|(seq, record)| (*seq, record))
    }

    /// Whether a record has left already. A block that left as a whole has no marks any more: what a read that
    /// was under way brings of it has left all the same.
    pub(crate) fn has_left(&self, seq: u64) -> bool {
        if seq <= self.acked {
            return true;
        }
        if seq > self.durable {
            return false;
        }
        match self.block_from(seq) {
            Some(block) if block.first_seq <= seq => self.is_marked(block.first_seq, seq),
            _ => true,
        }
    }

    fn is_marked(&self, block_first: u64, seq: u64) -> bool {
        let at = seq - block_first;
        let byte = self.gone.get(&block_first).and_then(|bits| bits.get(usize::try_from(at / 8).ok()?));
        byte.is_some_and(|byte| byte & (1 << (at % 8)) != 0)
    }

    /// Forgets the tail up to `seq`: its reader has it elsewhere.
    pub(crate) fn release(&mut self, seq: u64) {
        while let Some((first, record)) = self.tail.front() {
            if *first > seq {
                break;
            }
            self.tail_bytes -= record.body.len();
            self.tail.pop_front();
        }
        if let Some(from) = &mut self.tail_from {
            *from = (*from).max(seq + 1);
        }
    }

    /// Forgets the whole tail: readers go to the disk.
    pub(crate) fn drop_tail(&mut self) {
        self.tail.clear();
        self.tail.shrink_to_fit();
        self.tail_bytes = 0;
        self.tail_from = None;
    }

    pub(crate) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Counts a record as left. The caller moves [`Queue::ack`] or marks it [`Queue::mark_gone`].
    pub(crate) fn leave(&mut self, record_bytes: usize) {
        self.depth = self.depth.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(record_bytes as u64);
        if self.depth == 0 {
            self.bytes = 0;
        }
    }

    /// Counts everything up to `seq` as left, for queues whose reader acknowledges without saying what. Bytes
    /// are those of whole blocks, and a share of the block that straddles.
    pub(crate) fn leave_to(&mut self, seq: u64) {
        let acked = self.acked;
        for index in 0..self.blocks.len() {
            let Some(block) = self.blocks.get(index).copied() else { break };
            if block.first_seq > seq {
                break;
            }
            let leaving = (block.first_seq.max(acked + 1)..=last_of(&block).min(seq))
                .filter(|s| !self.is_marked(block.first_seq, *s))
                .count();
            let share = block.bytes / u64::from(block.count).max(1);
            for _ in 0..leaving {
                self.leave(usize::try_from(share).unwrap_or(usize::MAX));
            }
        }
    }

    /// Everything up to `seq` has left. Answers what the store need not keep any more.
    pub(crate) fn ack(&mut self, seq: u64) -> Emptied {
        self.acked = self.acked.max(seq);
        self.release(seq);
        let mut emptied = Emptied::default();
        while self.blocks.front().is_some_and(|block| last_of(block) <= seq) {
            self.blocks.pop_front();
            self.ages.pop_front();
            emptied.truncate = true;
        }
        // The block that straddles goes as well when the rest of it left before.
        if let Some(block) = self.blocks.front().copied()
            && block.first_seq <= seq
            && (seq + 1..=last_of(&block)).all(|seq| self.is_marked(block.first_seq, seq))
        {
            self.blocks.pop_front();
            self.ages.pop_front();
            emptied.straddling = Some(block.first_seq);
        }
        let front = self.blocks.front().map_or(u64::MAX, |block| block.first_seq);
        let kept = self.gone.split_off(&front);
        emptied.marks = std::mem::replace(&mut self.gone, kept).into_keys().collect();
        emptied
    }

    /// Marks records of one block, in order, as left out of turn. Answers the block's first number and its bits when it
    /// still holds something, or `None` for the bits when it is empty and removed.
    pub(crate) fn mark_gone(&mut self, block_first: u64, seqs: &[u64]) -> Option<(u64, Option<Bytes>)> {
        let at = self.blocks.binary_search_by_key(&block_first, |block| block.first_seq).ok()?;
        let block = *self.blocks.get(at)?;
        let count = block.count as usize;
        let bits = self.gone.entry(block.first_seq).or_insert_with(|| vec![0; count.div_ceil(8)]);
        for seq in seqs {
            let offset = usize::try_from(seq - block.first_seq).expect("within the block");
            if let Some(byte) = bits.get_mut(offset / 8) {
                *byte |= 1 << (offset % 8);
            }
        }
        if self.tail.back().is_some_and(|(last, _)| seqs.iter().any(|seq| seq <= last)) {
            self.tail.retain(|(seq, _)| seqs.binary_search(seq).is_err());
            self.tail_bytes = self.tail.iter().map(|(_, record)| record.body.len()).sum();
        }
        let acked = self.acked;
        let left = |offset: usize| {
            block.first_seq + offset as u64 <= acked
                || bits.get(offset / 8).is_some_and(|b| b & (1 << (offset % 8)) != 0)
        };
        if (0..count).all(left) {
            self.gone.remove(&block.first_seq);
            self.blocks.remove(at);
            self.ages.remove(at);
            return Some((block.first_seq, None));
        }
        Some((block.first_seq, Some(Bytes::copy_from_slice(bits))))
    }

    /// Blocks of which some records left out of turn.
    pub(crate) fn marks(&self) -> Vec<u64> {
        self.gone.keys().copied().collect()
    }

    /// The first block at or after `from` of which a record may have expired by `now`.
    pub(crate) fn expiring(&self, from: u64, now: Time) -> Option<BlockInfo> {
        let start = self.blocks.partition_point(|block| last_of(block) < from);
        self.blocks.iter().skip(start).find(|block| block.expires_min <= now).copied()
    }

    /// The first block at or after `from`.
    pub(crate) fn block_from(&self, from: u64) -> Option<BlockInfo> {
        self.blocks.get(self.blocks.partition_point(|block| last_of(block) < from)).copied()
    }

    /// No record of the block expires before `at`.
    pub(crate) fn set_expiry(&mut self, block_first: u64, at: Time) {
        if let Ok(index) = self.blocks.binary_search_by_key(&block_first, |block| block.first_seq)
            && let Some(block) = self.blocks.get_mut(index)
        {
            block.expires_min = at;
        }
    }

    /// Works out anew when the next record may expire.
    pub(crate) fn refresh_expiry(&mut self) {
        let blocks = self.blocks.iter().map(|block| block.expires_min).min().unwrap_or(Time::NEVER);
        let pending = self
            .tail
            .iter()
            .rev()
            .take_while(|(seq, _)| *seq > self.durable)
            .map(|(_, r)| r.head.expires)
            .min();
        self.expires_min = blocks.min(pending.unwrap_or(Time::NEVER));
    }
}

/// The last sequence number of a block.
pub(crate) fn last_of(block: &BlockInfo) -> u64 {
    block.first_seq + u64::from(block.count) - 1
}

//! Which number of the receiver's stream each packet of an encoding has.
//!
//! A run is a stretch without anything left out: numbers of the encoding and of the stream go up together in it, also
//! those of packets that are late. Where packets are left out, or another encoding takes over, a run ends and another
//! begins, and the stream goes on without a hole. What is missing keeps its number, since it may still come and be of
//! what is sent, unless frame numbers tell that it is of what was left out.

use std::collections::VecDeque;

use super::selector::Portion;
use crate::encoding::Encoding;
use crate::source::Source;

/// Runs that packets and retransmissions are still found in. Leaving out every other picture makes 15 a second.
const RUNS_MAX: usize = 128;

/// Numbers between two packets that go out, at most. Receivers take a packet half a cycle of sequence numbers ahead for one behind
/// (RFC 3711, section 3.3.1), and never understand the stream again; before that many they may miss some of what goes out. More
/// keeps numbers for longer holes, which senders are not asked to fill.
const AHEAD_MAX: u64 = 1000;

/// Pictures that are caught up on are shown one after the other as fast as can be: their time is divided by 2 to this.
const CATCH_UP_SHIFT: u8 = 6;

/// A stretch of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Index of the source in the call, and what it was then.
    pub(super) source: usize,
    pub(super) csrc: u32,
    pub(super) encoding: u8,
    generation: u32,
    /// First packet of the encoding, and the one after the last.
    first: u64,
    end: u64,
    /// The number the first one got here.
    out: u64,
    /// A timestamp of the encoding, and what became of it here.
    timestamp: (u32, u32),
    timestamp_shift: u8,
    /// What to add to the frame numbers of dependency descriptors.
    pub(super) frame_delta: u16,
    /// The layers that were shown then: also what comes late, or again, is chosen by them.
    pub(super) portion: Portion,
}

impl Run {
    fn is_of(&self, source: &Source, at: u8, encoding: &Encoding) -> bool {
        self.csrc == source.csrc && self.encoding == at && self.generation == encoding.generation
    }

    /// The encoding it is of, if that still sends with the same SSRC.
    pub(super) fn encoding<'a>(&self, sources: &'a [Option<Source>]) -> Option<(&'a Source, &'a Encoding)> {
        let source = sources.get(self.source)?.as_ref()?;
        let encoding = source.encoding(self.encoding)?;
        self.is_of(source, self.encoding, encoding).then_some((source, encoding))
    }

    /// What a timestamp of the encoding is in the stream.
    pub(super) fn timestamp(&self, theirs: u32) -> u32 {
        let (from, to) = self.timestamp;
        #[expect(clippy::cast_possible_wrap, reason = "timestamps differ modulo 2^32")]
        let ahead = theirs.wrapping_sub(from) as i32 >> self.timestamp_shift;
        to.wrapping_add_signed(ahead)
    }

    fn number(&self, index: u64) -> u64 {
        self.out + (index - self.first)
    }
}

/// What begins: see [`Runs::begin`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    /// The index of the source in the call.
    pub(super) source: usize,
    /// Index and timestamp of its first packet.
    pub(super) index: u64,
    pub(super) timestamp: u32,
    /// What the timestamp becomes.
    pub(super) timestamp_out: u32,
    /// See [`Run::frame_delta`].
    pub(super) frame_delta: u16,
    /// See [`Run::portion`].
    pub(super) portion: Portion,
    /// It is old, and to be shown as fast as can be.
    pub(super) catches_up: bool,
}

/// All runs that are remembered.
#[derive(Debug)]
pub(super) struct Runs {
    /// The newest first.
    runs: VecDeque<Run>,
    /// The packet after the last that was decided on, in the newest run's encoding.
    next: u64,
    /// The newest run goes on.
    open: bool,
    /// Number of the frame that was left out last.
    skipped: Option<u16>,
    /// The highest number given out, or kept for what is missing.
    pub(super) highest: u64,
    /// The highest number that a packet was sealed under.
    sealed: u64,
}

impl Runs {
    /// None yet; the first number is one more than `highest`.
    pub(super) fn new(highest: u64) -> Self {
        Self { runs: VecDeque::new(), next: 0, open: false, skipped: None, highest, sealed: highest }
    }

    /// The newest.
    pub(super) fn newest(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// Whether a packet was decided on before, or would have been if it had come in time. `Some` with its run and number when
    /// it is to be sent.
    pub(super) fn late(
        &self,
        source: &Source,
        at: u8,
        encoding: &Encoding,
        index: u64,
    ) -> Option<Option<(Run, u64)>> {
        if index >= self.next || !self.newest()?.is_of(source, at, encoding) {
            return None;
        }
        let holds = |run: &&Run| run.is_of(source, at, encoding) && (run.first..run.end).contains(&index);
        let run = self.runs.iter().find(holds).map(|run| (*run, run.number(index)));
        Some(run.filter(|(_, number)| !self.is_too_far(*number)))
    }

    /// Something new: the newest run ends, and another begins with its first packet.
    pub(super) fn begin(&mut self, source: &Source, at: u8, encoding: &Encoding, what: Beginning) -> Run {
        if self.is_too_far(self.highest + 1) {
            self.take_back();
        }
        let run = Run {
            source: what.source,
            csrc: source.csrc,
            encoding: at,
            generation: encoding.generation,
            first: what.index,
            end: what.index + 1,
            out: self.highest + 1,
            timestamp: (what.timestamp, what.timestamp_out),
            timestamp_shift: if what.catches_up { CATCH_UP_SHIFT } else { 0 },
            frame_delta: what.frame_delta,
            portion: what.portion,
        };
        self.push(run);
        self.next = what.index + 1;
        self.highest = run.number(what.index);
        run
    }

    /// The next packet in order: its run and number. `frame` is the number of the frame that it starts, if it does.
    pub(super) fn follow(&mut self, index: u64, frame: Option<u16>, portion: Portion) -> Option<(Run, u64)> {
        if self.open && self.newest().is_some_and(|run| run.portion != portion) {
            // What is missing before it belongs to the layers before.
            self.close(index);
            self.next = index;
            self.skipped = None;
        }
        if !self.open {
            // Nothing is missing when the frames on both sides of the hole are neighbours.
            let skipped = self.skipped.zip(frame);
            let complete = skipped.is_some_and(|(before, frame)| frame == before.wrapping_add(1));
            let first = if complete { index } else { self.next.min(index) };
            let before = *self.runs.front()?;
            self.push(Run { first, end: first, out: self.highest + 1, portion, ..before });
        }
        let before = *self.runs.front()?;
        if self.is_too_far(before.number(index)) {
            self.take_back();
            self.push(Run { first: index, end: index, out: self.highest + 1, portion, ..before });
        }
        let run = self.runs.front_mut()?;
        run.end = index + 1;
        let number = run.number(index);
        self.next = index + 1;
        self.highest = self.highest.max(number);
        Some((*run, number))
    }

    /// Caught up: from this packet on time runs as it does. `timestamp` is what the encoding's became.
    pub(super) fn catch_up(
        &mut self,
        index: u64,
        timestamp: (u32, u32),
        portion: Portion,
    ) -> Option<(Run, u64)> {
        let before = *self.runs.front()?;
        let mut first = self.next.min(index);
        if self.is_too_far(self.highest + 1 + (index - first)) {
            self.take_back();
            first = index;
        }
        self.push(Run {
            first,
            end: index + 1,
            out: self.highest + 1,
            timestamp,
            timestamp_shift: 0,
            portion,
            ..before
        });
        let run = *self.runs.front()?;
        self.next = index + 1;
        self.highest = run.number(index);
        Some((run, run.number(index)))
    }

    /// A packet in order is left out, of the frame with this number.
    pub(super) fn skip(&mut self, index: u64, frame: Option<u16>) {
        if self.open {
            // What is missing before it may still come, and belong to what was sent.
            self.close(index);
        } else if index > self.next {
            // Between two frames that are left out there may be one that is not.
            let between = self.skipped.zip(frame).map(|(before, frame)| frame.wrapping_sub(before));
            if between.is_none_or(|frames| frames > 1)
                && let Some(before) = self.runs.front().copied()
            {
                self.push(Run { first: self.next, end: index, out: self.highest + 1, ..before });
                self.close(index);
            }
        }
        self.next = index + 1;
        self.skipped = frame;
    }

    /// The newest run ends before a packet.
    fn close(&mut self, index: u64) {
        if let Some(run) = self.runs.front_mut() {
            run.end = index;
            if index > run.first {
                self.highest = self.highest.max(run.number(index - 1));
            }
        }
        self.open = false;
    }

    /// A packet was sealed under a number.
    pub(super) fn sealed(&mut self, number: u64) {
        self.sealed = self.sealed.max(number);
    }

    /// Whether a number is so far ahead of what went out that it must not.
    fn is_too_far(&self, number: u64) -> bool {
        number.saturating_sub(self.sealed) > AHEAD_MAX
    }

    /// Numbers that no packet was sealed under are not kept any more for those that they were for: these never go out, and
    /// others may have their numbers.
    fn take_back(&mut self) {
        let sealed = self.sealed;
        self.runs.retain_mut(|run| {
            let kept = (sealed + 1).saturating_sub(run.out);
            run.end = run.end.min(run.first.saturating_add(kept));
            kept > 0
        });
        self.highest = sealed;
    }

    /// Whether packets are missing right before one that comes in order.
    pub(super) fn is_after_gap(&self, index: u64) -> bool {
        index > self.next
    }

    /// The run and the packet that went out under a number.
    pub(super) fn sent(&self, number: u64) -> Option<(Run, u64)> {
        let run = self.runs.iter().find(|run| run.out <= number)?;
        let index = run.first + (number - run.out);
        (index < run.end).then_some((*run, index))
    }

    fn push(&mut self, run: Run) {
        if self.runs.len() >= RUNS_MAX {
            self.runs.pop_back();
        }
        self.runs.push_front(run);
        self.open = true;
    }
}

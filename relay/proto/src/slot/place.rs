//! Where each packet goes in a slot's stream, if it goes there at all.

use std::time::{Duration, Instant};

use super::header::frame_number;
use super::runs::{Beginning, Run};
use super::selector::Decision;
use super::{CATCH_UP_PACKETS_MAX, Slot};
use crate::encoding::Encoding;
use crate::history::{Meta, Packet};
use crate::reception::ticks;
use crate::source::Source;

/// Where a packet goes in the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) run: Run,
    pub(super) number: u64,
    /// Only its number is needed.
    pub(super) hollow: bool,
}

impl Slot {
    /// Where a packet goes in the stream. None when it is not for this receiver.
    pub(super) fn place(
        &mut self,
        now: Instant,
        (index, source): (usize, &Source),
        (at, encoding): (u8, &Encoding),
        packet: &Packet<'_>,
    ) -> Option<Place> {
        let meta = &packet.meta;
        let frame = meta.frame.as_ref();
        if self.selector.shows(at, encoding)
            && let Some(late) = self.runs.late(source, at, encoding, meta.index)
        {
            let (run, number) = late?;
            // Its number was kept for it. If it turns out to be of a layer that is left out, an empty packet takes it:
            // the receiver would ask for it for ever.
            let hollow = !run.portion.has(meta);
            if let Some(frame) = frame.filter(|_| hollow) {
                self.selector.left_out(frame);
            }
            return Some(Place { run, number, hollow });
        }
        let shows = self.selector.shows(at, encoding);
        let after_gap = self.runs.is_after_gap(meta.index);
        let decision = self.selector.decide(self.kind, (at, encoding), meta, after_gap);
        let portion = self.selector.portion(encoding);
        match decision {
            Decision::Skip => {
                if shows {
                    self.runs.skip(meta.index, frame.map(|frame| frame.number));
                    // What is missing before it may still come.
                    if let (Some(frame), Some(run)) = (frame, self.runs.newest()) {
                        self.reach(frame.number.wrapping_add(run.frame_delta));
                    }
                }
                None
            }
            Decision::Begin => {
                let elapsed = self.sent_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
                let timestamp_out =
                    self.timestamp.1.wrapping_add(ticks(elapsed, self.kind.clock_rate()).max(1));
                let run = self.runs.begin(
                    source,
                    at,
                    encoding,
                    Beginning {
                        source: index,
                        index: meta.index,
                        timestamp: meta.timestamp,
                        timestamp_out,
                        frame_delta: frame_number(packet)
                            .map_or(0, |frame| self.frame.wrapping_add(1).wrapping_sub(frame)),
                        portion,
                        catches_up: self.catching_up.is_some(),
                    },
                );
                self.take_up(now, (at, encoding), meta);
                Some(Place { run, number: self.runs.highest, hollow: false })
            }
            Decision::Follow if self.catching_up.is_some_and(|newest| meta.index > newest) => {
                self.catching_up = None;
                let (run, number) = self.runs.catch_up(meta.index, self.timestamp, portion)?;
                Some(Place { run, number, hollow: false })
            }
            Decision::Follow => {
                let starts = frame.filter(|frame| frame.start).map(|frame| frame.number);
                let (run, number) = self.runs.follow(meta.index, starts, portion)?;
                Some(Place { run, number, hollow: false })
            }
        }
    }

    /// What begins came late: what was passed over while it was missing goes right after it.
    fn take_up(&mut self, now: Instant, (at, encoding): (u8, &Encoding), meta: &Meta) {
        let Some((first, newest)) = encoding.since_key_frame(now) else { return };
        if first != meta.index || newest - first >= CATCH_UP_PACKETS_MAX || !encoding.has_descriptors {
            return;
        }
        let passed = encoding.pending.iter().position(|index| *index == first).map_or(0, |at| at + 1);
        let to_come = encoding.pending.get(passed..).unwrap_or_default();
        for index in (first + 1..=newest).rev() {
            if encoding.history.contains(index) && !to_come.contains(&index) {
                self.queue.push_front(at, index);
            }
        }
    }

    /// A frame number of the stream is taken, or kept for what may still come.
    pub(super) fn reach(&mut self, frame: u16) {
        if frame.wrapping_sub(self.frame) < 0x8000 {
            self.frame = frame;
        }
    }
}

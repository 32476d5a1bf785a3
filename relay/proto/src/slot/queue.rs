//! Packets of a slot that wait until its owner's line has room (pacing): by number, their bytes are kept with the source.

use std::collections::VecDeque;

/// Packets that wait at a time. More is older than anybody wants to see it.
const QUEUE_MAX: usize = 1024;

/// What waits, in the order it came.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    packets: VecDeque<(u8, u64)>,
}

impl Queue {
    /// A packet of an encoding has to wait. False when too many do.
    pub(crate) fn push(&mut self, encoding: u8, index: u64) -> bool {
        let fits = self.packets.len() < QUEUE_MAX;
        if fits {
            self.packets.push_back((encoding, index));
        }
        fits
    }

    /// A packet goes before all others. One that finds no room is left out.
    pub(crate) fn push_front(&mut self, encoding: u8, index: u64) {
        if self.packets.len() < QUEUE_MAX && !self.packets.contains(&(encoding, index)) {
            self.packets.push_front((encoding, index));
        }
    }

    /// The next one: encoding and index.
    #[must_use]
    pub(crate) fn front(&self) -> Option<(u8, u64)> {
        self.packets.front().copied()
    }

    /// The next one went.
    pub(crate) fn pop(&mut self) {
        self.packets.pop_front();
    }

    /// Whether nothing waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Nothing waits any more.
    pub(crate) fn clear(&mut self) {
        self.packets.clear();
    }
}

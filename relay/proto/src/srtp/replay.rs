//! Which packets were opened: a window per SSRC (RFC 3711, section 3.3.2), and a bounded number of SSRCs.

use super::OpenError;

/// SSRCs that one participant may send RTP with, and as many RTCP. A camera with three layers and retransmissions takes
/// six; more let one participant take more memory, 160 bytes each.
pub const SSRCS_MAX: usize = 64;

/// The highest index opened, and which of the `WORDS * 64` up to it were opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window<const WORDS: usize> {
    highest: u64,
    /// A ring of bits: an index has the one at its remainder.
    seen: [u64; WORDS],
}

impl<const WORDS: usize> Window<WORDS> {
    const BITS: u64 = WORDS as u64 * 64;

    fn new(index: u64) -> Self {
        let mut window = Self { highest: index, seen: [0; WORDS] };
        window.set(index);
        window
    }

    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether `index` was certainly not opened before.
    pub(super) fn is_new(&self, index: u64) -> bool {
        index > self.highest || self.highest - index < Self::BITS && !self.is_set(index)
    }

    fn commit(&mut self, index: u64) {
        if index > self.highest {
            if index - self.highest >= Self::BITS {
                self.seen = [0; WORDS];
            } else {
                (self.highest + 1..index).for_each(|skipped| self.clear(skipped));
            }
            self.highest = index;
        }
        self.set(index);
    }

    fn place(index: u64) -> (usize, u64) {
        let word = usize::try_from(index % Self::BITS / 64).unwrap_or_default();
        (word, 1 << (index % 64))
    }

    fn is_set(&self, index: u64) -> bool {
        let (word, bit) = Self::place(index);
        self.seen.get(word).is_some_and(|seen| seen & bit != 0)
    }

    fn set(&mut self, index: u64) {
        let (word, bit) = Self::place(index);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen |= bit;
        }
    }

    fn clear(&mut self, index: u64) {
        let (word, bit) = Self::place(index);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen &= !bit;
        }
    }
}

/// The windows of one participant's SSRCs. There are few, and all of their numbers fit into a few cache lines.
#[derive(Debug, Default)]
pub(super) struct Streams<const WORDS: usize> {
    ssrcs: Vec<u32>,
    windows: Vec<Window<WORDS>>,
}

impl<const WORDS: usize> Streams<WORDS> {
    /// Where the window of an SSRC is, or will be.
    pub(super) fn slot(&mut self, ssrc: u32) -> Result<Slot<'_, WORDS>, OpenError> {
        let at = self.ssrcs.iter().position(|known| *known == ssrc);
        if at.is_none() && self.ssrcs.len() >= SSRCS_MAX {
            return Err(OpenError::TooManySsrcs);
        }
        Ok(Slot { at: at.unwrap_or(self.ssrcs.len()), ssrc, streams: self })
    }

    pub(super) fn forget(&mut self, ssrc: u32) {
        if let Some(at) = self.ssrcs.iter().position(|known| *known == ssrc) {
            self.ssrcs.swap_remove(at);
            self.windows.swap_remove(at);
        }
    }
}

/// The place of one SSRC.
pub(super) struct Slot<'a, const WORDS: usize> {
    streams: &'a mut Streams<WORDS>,
    ssrc: u32,
    at: usize,
}

impl<const WORDS: usize> Slot<'_, WORDS> {
    /// Its window, unless nothing of this SSRC was opened yet.
    pub(super) fn window(&self) -> Option<&Window<WORDS>> {
        self.streams.windows.get(self.at)
    }

    /// Notes that a packet was opened.
    pub(super) fn commit(self, index: u64) {
        if let Some(window) = self.streams.windows.get_mut(self.at) {
            window.commit(index);
        } else {
            self.streams.ssrcs.push(self.ssrc);
            self.streams.windows.push(Window::new(index));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_is_new_once_and_only_within_the_window() {
        let mut window = Window::<2>::new(1000);
        assert!(!window.is_new(1000));
        assert!(window.is_new(1001) && window.is_new(999) && window.is_new(873));
        assert!(!window.is_new(872), "128 behind is too old to tell");
        window.commit(873);
        assert!(!window.is_new(873));
        window.commit(1001);
        assert!(!window.is_new(873), "it is too old now");
        assert!(window.is_new(999) && !window.is_new(1000) && !window.is_new(1001));
        window.commit(10_000);
        assert!(window.is_new(9999) && window.is_new(9873) && !window.is_new(9872) && !window.is_new(10_000));
    }

    #[test]
    fn ssrcs_are_bounded_until_one_is_forgotten() {
        let mut streams = Streams::<2>::default();
        let max = u32::try_from(SSRCS_MAX).unwrap();
        for ssrc in 0..max {
            streams.slot(ssrc).unwrap().commit(u64::from(ssrc));
        }
        assert_eq!(streams.slot(max).err(), Some(OpenError::TooManySsrcs));
        for ssrc in 0..max {
            assert_eq!(streams.slot(ssrc).unwrap().window().unwrap().highest(), u64::from(ssrc));
        }
        streams.forget(7);
        streams.forget(7);
        streams.slot(max).unwrap().commit(5);
        assert_eq!(streams.slot(max).unwrap().window().unwrap().highest(), 5);
        assert_eq!(streams.slot(max - 1).unwrap().window().unwrap().highest(), u64::from(max - 1));
        assert_eq!(streams.slot(7).err(), Some(OpenError::TooManySsrcs));
    }

    proptest! {
        #[test]
        fn a_window_agrees_with_a_set_of_all_that_was_opened(
            start in 0_u64..1000,
            steps in prop::collection::vec(-200_i64..200, 0..300),
        ) {
            let mut window = Window::<2>::new(start);
            let mut opened = HashSet::from([start]);
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step);
                let highest = opened.iter().copied().max().unwrap();
                prop_assert_eq!(window.highest(), highest);
                let new = !opened.contains(&at) && at + 128 > highest;
                prop_assert_eq!(window.is_new(at), new);
                if new {
                    window.commit(at);
                    opened.insert(at);
                }
            }
        }
    }
}

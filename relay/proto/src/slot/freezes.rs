//! How smoothly pictures leave for a receiver: gaps that it must see as freezes (as `freezeCount` of webrtc-stats counts
//! them, at the sending end).

use std::time::{Duration, Instant};

/// A gap of so much more than the usual is a freeze, and one of so many times the usual, whichever is longer.
const FREEZE_EXTRA: Duration = Duration::from_millis(150);
const FREEZE_TIMES: u32 = 3;

/// How much one gap counts for what is usual: one over this.
const USUAL_SHARE: u32 = 16;

/// Gaps that are seen, and what is usual.
#[derive(Debug, Default)]
pub(crate) struct Freezes {
    /// Freezes so far.
    pub count: u64,
    taken: u64,
    last: Option<Instant>,
    usual: Option<Duration>,
}

impl Freezes {
    /// A picture left. What is caught up on does not count: it follows faster than it was made.
    pub(crate) fn picture(&mut self, now: Instant, catches_up: bool) {
        let Some(last) = self.last.replace(now).filter(|_| !catches_up) else { return };
        let gap = now.saturating_duration_since(last);
        let usual = self.usual.get_or_insert(gap);
        if gap > (*usual * FREEZE_TIMES).max(*usual + FREEZE_EXTRA) {
            self.count += 1;
        }
        *usual = (*usual * (USUAL_SHARE - 1) + gap) / USUAL_SHARE;
    }

    /// Freezes since this was asked last.
    pub(crate) fn take_new(&mut self) -> u64 {
        let before = std::mem::replace(&mut self.taken, self.count);
        self.count.saturating_sub(before)
    }

    /// Nothing is shown on purpose.
    pub(crate) fn pause(&mut self) {
        self.last = None;
        self.usual = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_far_above_the_usual_is_a_freeze_and_a_pause_is_none() {
        let start = Instant::now();
        let mut freezes = Freezes::default();
        let mut at = start;
        for gap in [33, 33, 33, 150, 33, 400, 33] {
            at += Duration::from_millis(gap);
            freezes.picture(at, false);
        }
        assert_eq!(freezes.count, 1);
        freezes.pause();
        freezes.picture(at + Duration::from_secs(60), false);
        assert_eq!(freezes.count, 1);
        assert_eq!((freezes.take_new(), freezes.take_new()), (1, 0));
    }
}

//! Packets of a source that did not come yet, and when to ask for them again (RFC 4585 generic NACK).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets missing at a time. A longer hole is not asked for: a key frame repairs it sooner.
const MISSING_MAX: usize = 512;

/// How long a packet may be late before it is asked for. Networks reorder within a few milliseconds.
const REORDER_DELAY: Duration = Duration::from_millis(8);

/// Between two requests for one packet, at least; otherwise a quarter more than the round trip.
const REPEAT_MIN: Duration = Duration::from_millis(30);

/// The round-trip time that is assumed until it is known.
const RTT_ASSUMED: Duration = Duration::from_millis(80);

/// Requests for one packet.
const ATTEMPTS_MAX: u8 = 10;

/// A packet that is older is of no use to a picture that is to be seen live.
const AGE_MAX: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug)]
struct Missing {
    index: u64,
    since: Instant,
    due: Instant,
    attempts: u8,
}

/// What is missing of one source.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    missing: VecDeque<Missing>,
    /// Packets that were never seen.
    pub lost: u64,
    /// Packets that came after they had been asked for.
    pub repaired: u64,
    /// Requests for packets.
    pub asked: u64,
}

impl Losses {
    /// The packets after `newest` up to but without `index` are missing. True when the hole is too long to be asked
    /// for: it is to be given up, and the source needs a key frame.
    pub(crate) fn gap(&mut self, now: Instant, newest: u64, index: u64) -> bool {
        let hole = index.saturating_sub(newest).saturating_sub(1);
        if hole.saturating_add(self.missing.len() as u64) > MISSING_MAX as u64 {
            return true;
        }
        let due = now + REORDER_DELAY;
        self.missing.extend((newest + 1..index).map(|index| Missing { index, since: now, due, attempts: 0 }));
        false
    }

    /// A packet below the newest came. Whether it had been missing.
    pub(crate) fn arrived(&mut self, index: u64) -> bool {
        let Ok(at) = self.missing.binary_search_by_key(&index, |missing| missing.index) else { return false };
        if self.missing.remove(at).is_some_and(|missing| missing.attempts > 0) {
            self.repaired += 1;
        }
        true
    }

    /// What to ask for now, in ascending order; counts as asked. Gives up what is too old.
    pub(crate) fn poll(&mut self, now: Instant, rtt: Option<Duration>, mut ask: impl FnMut(u64)) {
        let repeat = (rtt.unwrap_or(RTT_ASSUMED) * 5 / 4).max(REPEAT_MIN);
        let before = self.missing.len();
        self.missing.retain_mut(|missing| {
            if missing.due > now {
                return true;
            }
            if missing.attempts >= ATTEMPTS_MAX || now.saturating_duration_since(missing.since) > AGE_MAX {
                return false;
            }
            missing.attempts += 1;
            missing.due = now + repeat;
            self.asked += 1;
            ask(missing.index);
            true
        });
        self.lost += (before - self.missing.len()) as u64;
    }

    /// Whether anything is missing.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty()
    }

    /// Neither a hole of so many packets nor what is missing before it is asked for.
    pub(crate) fn give_up(&mut self, hole: u64) {
        self.lost = self.lost.saturating_add(hole).saturating_add(self.missing.len() as u64);
        self.missing.clear();
    }

    /// The source began anew.
    pub(crate) fn clear(&mut self) {
        self.missing.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(losses: &mut Losses, now: Instant) -> Vec<u64> {
        let mut list = Vec::new();
        losses.poll(now, Some(Duration::from_millis(40)), |index| list.push(index));
        list
    }

    #[test]
    fn a_reordered_packet_is_not_asked_for() {
        let now = Instant::now();
        let mut losses = Losses::default();
        assert!(!losses.gap(now, 10, 12));
        assert!(asked(&mut losses, now + Duration::from_millis(5)).is_empty());
        assert!(losses.arrived(11));
        assert!(asked(&mut losses, now + Duration::from_millis(50)).is_empty());
        assert_eq!((losses.lost, losses.repaired), (0, 0));
    }

    #[test]
    fn a_lost_packet_is_asked_for_until_it_comes() {
        let now = Instant::now();
        let mut losses = Losses::default();
        assert!(!losses.gap(now, 10, 14));
        assert_eq!(asked(&mut losses, now + Duration::from_millis(10)), [11, 12, 13]);
        assert!(asked(&mut losses, now + Duration::from_millis(30)).is_empty());
        assert!(losses.arrived(12));
        assert_eq!(asked(&mut losses, now + Duration::from_millis(61)), [11, 13]);
        assert_eq!(losses.repaired, 1);
    }

    #[test]
    fn a_packet_that_never_comes_is_given_up() {
        let now = Instant::now();
        let mut losses = Losses::default();
        assert!(!losses.gap(now, 10, 12));
        let requests: usize =
            (1..400).map(|tick| asked(&mut losses, now + Duration::from_millis(10) * tick).len()).sum();
        assert_eq!(requests, usize::from(ATTEMPTS_MAX));
        assert!(losses.is_empty());
        assert_eq!(losses.lost, 1);
    }

    #[test]
    fn a_hole_too_long_asks_for_a_key_frame_instead() {
        let mut losses = Losses::default();
        assert!(losses.gap(Instant::now(), 10, 2000));
        losses.give_up(1989);
        assert!(losses.is_empty());
        assert_eq!(losses.lost, 1989);
    }
}

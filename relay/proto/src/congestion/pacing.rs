//! Pacing: a bucket of bytes that fills a little faster than the line is estimated to empty it. Packets leave in trains,
//! and what the estimate is wrong by drains.

use super::whole;

/// How much faster than the estimate. Higher empties bursts sooner into the line's queue.
const FACTOR: f64 = 1.35;

/// What the bucket holds: this much time. Longer makes longer trains, and longer queues.
const BURST_US: i64 = 40_000;

/// And at least this, two packets, for lines so slow that a train would be one.
const BURST_BYTES_MIN: f64 = 2_700.0;

/// What is sent beyond the bucket (audio, which nothing holds) is owed for this long at most.
const OWED_US: i64 = 500_000;

/// Somebody who waits is told when there are this many bytes: one packet of any size.
const PACKET_BYTES: f64 = 1_500.0;

/// Bytes that may leave.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    bytes: f64,
    at_us: Option<i64>,
    bps: f64,
    waiting: bool,
}

impl Pacer {
    /// Somebody waits for its turn.
    pub(super) fn set_waiting(&mut self, waiting: bool) {
        self.waiting = waiting;
    }

    /// Bytes that may leave at an estimate.
    pub(super) fn allowance(&mut self, now_us: i64, estimate_bps: f64) -> usize {
        self.fill(now_us, estimate_bps);
        whole(self.bytes)
    }

    /// Bytes leave.
    pub(super) fn sent(&mut self, now_us: i64, estimate_bps: f64, bytes: usize) {
        self.fill(now_us, estimate_bps);
        let owed = self.bps / 8.0 * (OWED_US as f64 / 1e6);
        self.bytes = (self.bytes - bytes as f64).max(-owed);
    }

    /// When there is enough for somebody who waits.
    pub(super) fn timeout_us(&self) -> Option<i64> {
        let at_us = self.at_us.filter(|_| self.waiting)?;
        let missing = (PACKET_BYTES - self.bytes).max(0.0);
        Some(at_us.saturating_add(wait_us(missing, self.bps)))
    }

    fn fill(&mut self, now_us: i64, estimate_bps: f64) {
        self.bps = FACTOR * estimate_bps;
        let per_us = self.bps / 8e6;
        let burst = (per_us * BURST_US as f64).max(BURST_BYTES_MIN);
        let elapsed_us = self.at_us.map_or(BURST_US * 100, |before| (now_us - before).max(0));
        self.bytes = (self.bytes + per_us * elapsed_us as f64).min(burst);
        self.at_us = Some(self.at_us.map_or(now_us, |before| before.max(now_us)));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a cast from a float saturates")]
fn wait_us(bytes: f64, bps: f64) -> i64 {
    (bytes * 8e6 / bps.max(1.0)).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_in_a_second_is_little_more_than_the_estimate() {
        let (mut pacer, mut sent) = (Pacer::default(), 0);
        for ms in 0..1_000 {
            while pacer.allowance(ms * 1_000, 1e6) >= 1_200 {
                pacer.sent(ms * 1_000, 1e6, 1_200);
                sent += 1_200;
            }
        }
        let expected = 125_000.0 * FACTOR;
        assert!((expected * 0.97..expected * 1.07).contains(&f64::from(sent)), "{sent}");
    }

    #[test]
    fn who_waits_is_told_when_a_packet_may_leave() {
        let mut pacer = Pacer::default();
        pacer.set_waiting(true);
        pacer.sent(0, 1e6, 20_000);
        let at = pacer.timeout_us().expect("somebody waits");
        assert!(pacer.allowance(at - 1_000, 1e6) < 1_500);
        assert!(pacer.allowance(at, 1e6) >= 1_500);
        pacer.set_waiting(false);
        assert_eq!(pacer.timeout_us(), None);
    }
}

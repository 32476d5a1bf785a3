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

/// Bytes that may leave.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    bytes: f64,
    at_us: Option<i64>,
    bps: f64,
}

impl Pacer {
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

    fn fill(&mut self, now_us: i64, estimate_bps: f64) {
        self.bps = FACTOR * estimate_bps;
        let per_us = self.bps / 8e6;
        let burst = (per_us * BURST_US as f64).max(BURST_BYTES_MIN);
        let elapsed_us = self.at_us.map_or(BURST_US * 100, |before| (now_us - before).max(0));
        self.bytes = (self.bytes + per_us * elapsed_us as f64).min(burst);
        self.at_us = Some(self.at_us.map_or(now_us, |before| before.max(now_us)));
    }
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
}

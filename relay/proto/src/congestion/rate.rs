//! The rate that the delay allows: additive and multiplicative increase, multiplicative decrease
//! (draft-ietf-rmcat-gcc-02, section 5.5).

use super::trend::Signal;
use super::{RATE_MAX, RATE_MIN};

/// What remains of the throughput when the queue grows. Lower drains it faster and uses less of the line.
const DECREASE: f64 = 0.85;

/// What remains of the estimate at least, where less was sent than it allows and the queue is not long: such a growth is
/// rarely our doing.
const DECREASE_UNUSED: f64 = 0.9;

/// A queue this long is somebody's doing in any case.
const QUEUE_LONG_US: i64 = 100_000;

/// Growth per second where the limit is not known to be near.
const INCREASE_PER_S: f64 = 0.08;

/// Least growth, in bits per second per second.
const INCREASE_MIN: f64 = 4_000.0;

/// The packet that is added per response time near the limit.
const PACKET_BITS: f64 = 9_600.0;

/// Or this share of the rate per second, where that is more: a fast line is not climbed packet by packet.
const INCREASE_NEAR_PER_S: f64 = 0.025;

/// What a response time is besides the round trip: how long it takes to see that a queue grows.
const RESPONSE_S: f64 = 0.1;

/// How fast the memory of the throughput at decreases follows.
const CAPACITY_GAIN: f64 = 0.05;

/// A decrease has to have had its effect before the next: a round trip, within these bounds.
const DECREASE_APART_US_MIN: i64 = 50_000;
const DECREASE_APART_US_MAX: i64 = 300_000;

/// What remains at a loss while others fill the queue, and how long a queue may be before we stop to grow with them.
const COMPETE_DECREASE: f64 = 0.75;
const COMPETE_QUEUE_US: i64 = 250_000;

/// What throughput was at the last decreases, with its variance relative to the mean.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    bps: f64,
    variance: f64,
}

impl Capacity {
    fn spread(&self) -> f64 {
        3.0 * (self.variance * self.bps).sqrt()
    }
}

/// What is known when the rate is to change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// What the queue does.
    pub(super) signal: Signal,
    /// What arrives, over a longer and a shorter time.
    pub(super) arriving_bps: Option<f64>,
    pub(super) arriving_lately_bps: Option<f64>,
    /// The rate grows no further than this: far beyond what is sent nobody knows what the line carries.
    pub(super) most_bps: f64,
    /// Less is sent than the rate allows: throughput does not say what the line carries.
    pub(super) is_unused: bool,
    /// How long the queue is.
    pub(super) queue_us: i64,
    /// The round trip.
    pub(super) rtt_us: i64,
}

/// The rate.
#[derive(Debug)]
pub(super) struct Rate {
    bps: f64,
    capacity: Option<Capacity>,
    changed_us: Option<i64>,
    decreased_us: Option<i64>,
}

impl Rate {
    /// Begins with a rate.
    pub(super) fn new(bps: f64) -> Self {
        Self { bps, capacity: None, changed_us: None, decreased_us: None }
    }

    /// The rate.
    pub(super) fn bps(&self) -> f64 {
        self.bps
    }

    /// A probe showed that more arrives.
    pub(super) fn raise(&mut self, bps: f64) {
        let bps = bps.clamp(RATE_MIN, RATE_MAX);
        if bps > self.bps {
            self.bps = bps;
            self.capacity = self.capacity.filter(|capacity| bps <= capacity.bps + capacity.spread());
        }
    }

    /// Nothing is heard: less is safer.
    pub(super) fn shrink(&mut self, factor: f64, least: f64) {
        self.bps = (self.bps * factor).max(least.min(self.bps)).clamp(RATE_MIN, RATE_MAX);
    }

    /// Feedback came while others fill the queue: as they do, a packet more per round trip, and less at a loss.
    pub(super) fn compete(&mut self, now_us: i64, seen: &Seen, lost: bool) {
        let elapsed_s = self.elapsed_s(now_us);
        let rtt_us = seen.rtt_us.clamp(DECREASE_APART_US_MIN, 1_000_000);
        if lost {
            if self.decreased_us.is_none_or(|before| now_us - before >= rtt_us) {
                self.decreased_us = Some(now_us);
                self.bps = (self.bps * COMPETE_DECREASE).max(RATE_MIN);
            }
        } else if seen.queue_us < COMPETE_QUEUE_US {
            let rtt_s = rtt_us as f64 / 1e6;
            let most = seen.most_bps.max(self.bps);
            self.bps = (self.bps + PACKET_BITS / rtt_s / rtt_s * elapsed_s).min(most).min(RATE_MAX);
        }
    }

    fn elapsed_s(&mut self, now_us: i64) -> f64 {
        let before_us = self.changed_us.replace(now_us);
        before_us.map_or(0.0, |before| (now_us - before).clamp(0, 1_000_000) as f64 / 1e6)
    }

    /// Feedback came. Whether the rate fell.
    pub(super) fn update(&mut self, now_us: i64, seen: &Seen) -> bool {
        let elapsed_s = self.elapsed_s(now_us);
        match seen.signal {
            Signal::Over => return self.decrease(now_us, seen),
            Signal::Under => {}
            Signal::Normal => self.increase(elapsed_s, seen),
        }
        false
    }

    fn increase(&mut self, elapsed_s: f64, seen: &Seen) {
        let Some(arriving) = seen.arriving_bps else { return };
        if self.capacity.is_some_and(|capacity| arriving > capacity.bps + capacity.spread()) {
            self.capacity = None;
        }
        let fast = self.bps * INCREASE_PER_S;
        let grown = if self.capacity.is_some() {
            let response_s = seen.rtt_us.clamp(0, 1_000_000) as f64 / 1e6 + RESPONSE_S;
            fast.min((PACKET_BITS / response_s).max(self.bps * INCREASE_NEAR_PER_S))
        } else {
            fast
        };
        let most = seen.most_bps.max(self.bps);
        self.bps = (self.bps + grown.max(INCREASE_MIN) * elapsed_s).min(most).clamp(RATE_MIN, RATE_MAX);
    }

    fn decrease(&mut self, now_us: i64, seen: &Seen) -> bool {
        let apart_us = seen.rtt_us.clamp(DECREASE_APART_US_MIN, DECREASE_APART_US_MAX);
        if self.decreased_us.is_some_and(|before| now_us - before < apart_us) {
            return false;
        }
        // While the queue grows, what arrives is what the line carries now.
        let arriving = seen.arriving_lately_bps.or(seen.arriving_bps).unwrap_or(self.bps / 2.0);
        let unused = seen.is_unused && seen.queue_us < QUEUE_LONG_US;
        let mut to = DECREASE * arriving;
        if unused {
            to = to.max(DECREASE_UNUSED * self.bps);
        } else {
            self.learn(arriving);
        }
        self.decreased_us = Some(now_us);
        let before = self.bps;
        self.bps = to.min(self.bps).clamp(RATE_MIN, RATE_MAX);
        self.bps < before
    }

    fn learn(&mut self, arriving: f64) {
        let fresh = Capacity { bps: arriving, variance: 0.4e3 };
        let capacity = self.capacity.filter(|capacity| (arriving - capacity.bps).abs() <= capacity.spread());
        self.capacity = Some(capacity.map_or(fresh, |old| {
            let error = arriving - old.bps;
            let bps = old.bps + CAPACITY_GAIN * error;
            let variance =
                (1.0 - CAPACITY_GAIN) * old.variance + CAPACITY_GAIN * error * error / bps.max(1.0);
            Capacity { bps, variance: variance.clamp(0.4e3, 2.5e3) }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Seen = Seen {
        signal: Signal::Normal,
        arriving_bps: Some(1e6),
        arriving_lately_bps: Some(1e6),
        most_bps: 1.1e6,
        is_unused: false,
        queue_us: 0,
        rtt_us: 50_000,
    };

    #[test]
    fn it_grows_by_eight_percent_a_second_at_most_and_not_beyond_what_is_proved() {
        let mut rate = Rate::new(1e6);
        (0..=20).for_each(|n| assert!(!rate.update(n * 50_000, &SEEN)));
        assert!((1.07e6..=1.09e6).contains(&rate.bps()), "{}", rate.bps());
        (0..1_000).for_each(|n| assert!(!rate.update(n * 50_000, &SEEN)));
        assert!(rate.bps() <= 1.12e6);
        rate.raise(3e6);
        rate.update(60_000_000, &SEEN);
        assert!(rate.bps() >= 3e6, "what a probe showed stays");
    }

    #[test]
    fn it_falls_below_what_arrives_once_per_round_trip_and_then_grows_slowly() {
        let mut rate = Rate::new(1.2e6);
        let over = Seen { signal: Signal::Over, ..SEEN };
        assert!(rate.update(0, &over));
        assert_eq!(rate.bps(), 0.85e6);
        assert!(!rate.update(10_000, &over));
        rate.update(1_000_000, &SEEN);
        assert!((0.9e6..0.93e6).contains(&rate.bps()), "a packet per response time: {}", rate.bps());
    }

    #[test]
    fn a_growing_queue_takes_little_from_an_estimate_that_is_not_used() {
        let over = Seen {
            signal: Signal::Over,
            arriving_bps: Some(5e4),
            arriving_lately_bps: Some(5e4),
            most_bps: 5e4,
            is_unused: true,
            ..SEEN
        };
        let mut rate = Rate::new(1e6);
        rate.update(0, &over);
        assert_eq!(rate.bps(), 0.9e6);
        rate.update(1_000_000, &Seen { queue_us: 200_000, ..over });
        assert_eq!(rate.bps(), 0.85 * 5e4, "unless the queue is long");
    }
}

//! One sender without transport-wide feedback: what its line carries, from absolute send times, for REMB.

use std::time::Instant;

use super::groups::Groups;
use super::queue::Queue;
use super::rate::{Rate, Seen};
use super::throughput::Throughput;
use super::trend::{Signal, Trend};
use super::{ARRIVING_LATELY_US, ARRIVING_US, INITIAL, micros_since, whole};

/// Absolute send times have 24 bits, in 1/2^18 s.
const CYCLE: i64 = 1 << 24;
const UNITS_PER_S: i64 = 1 << 18;

/// The round trip to a sender is not known here; this is what an ordinary one is.
const RTT_US: i64 = 100_000;

/// Below this share of the rate, what arrives is what was sent and not what the line carries.
const USED_MIN: f64 = 0.65;

/// The rate grows no further beyond what arrives than this. A sender may go by it alone, and not probe: less is slower to climb.
const UNPROVED: f64 = 1.5;
const UNPROVED_BPS: f64 = 10_000.0;

/// How often the rate is looked at.
const UPDATE_US: i64 = 50_000;

/// What one sender's line carries.
#[derive(Debug)]
pub struct Estimator {
    epoch: Instant,
    /// The last send time, as it was, and since the beginning.
    last: Option<(i64, i64)>,
    arriving: Throughput,
    groups: Groups,
    trend: Trend,
    queue: Queue,
    rate: Rate,
    signal: Signal,
    updated_us: Option<i64>,
}

impl Estimator {
    /// Nothing is known.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            last: None,
            arriving: Throughput::default(),
            groups: Groups::default(),
            trend: Trend::default(),
            queue: Queue::default(),
            rate: Rate::new(INITIAL),
            signal: Signal::Normal,
            updated_us: None,
        }
    }

    /// A packet arrived: when it was sent (24 bits, 6.18 fixed point, in seconds), and how large it is.
    pub fn record(&mut self, now: Instant, send_time_24: u32, bytes: usize) {
        let now_us = micros_since(self.epoch, now);
        let sent_us = self.sent_us(send_time_24);
        self.arriving.add(now_us, bytes);
        self.queue.push(now_us, sent_us, now_us);
        if let Some(step) = self.groups.push(sent_us, now_us) {
            let signal = self.trend.push(step);
            if self.signal != Signal::Over {
                self.signal = signal;
            }
        }
        let updated_us = *self.updated_us.get_or_insert(now_us);
        if now_us - updated_us < UPDATE_US {
            return;
        }
        self.updated_us = Some(now_us);
        let is_unused = self.arriving.bps(ARRIVING_US).is_some_and(|bps| bps < USED_MIN * self.rate.bps());
        if self.signal == Signal::Over && self.queue.is_jitter() && is_unused {
            self.signal = Signal::Normal;
        }
        let arriving = self.arriving.bps(ARRIVING_US);
        // A sender probes by itself, and what arrived without a queue is what the line carries.
        if let Some(bps) = arriving.filter(|_| self.signal != Signal::Over) {
            self.rate.raise(bps);
        }
        let seen = Seen {
            signal: self.signal,
            arriving_bps: arriving,
            arriving_lately_bps: self.arriving.bps(ARRIVING_LATELY_US),
            most_bps: UNPROVED * arriving.unwrap_or(0.0) + UNPROVED_BPS,
            is_unused,
            queue_us: self.queue.us(),
            rtt_us: RTT_US,
        };
        self.rate.update(now_us, &seen);
        self.signal = self.trend.signal();
        if self.signal == Signal::Over {
            self.signal = Signal::Normal;
        }
    }

    /// What the line carries, in bits per second, once anything arrived.
    #[must_use]
    pub fn estimate_bps(&self) -> Option<u64> {
        self.updated_us.map(|_| whole(self.rate.bps()) as u64)
    }

    fn sent_us(&mut self, send_time_24: u32) -> i64 {
        let time = i64::from(send_time_24) % CYCLE;
        let units = self.last.map_or(0, |(before, units)| {
            let apart = (time - before).rem_euclid(CYCLE);
            units + if apart >= CYCLE / 2 { apart - CYCLE } else { apart }
        });
        self.last = Some((time, units));
        units.saturating_mul(1_000_000) / UNITS_PER_S
    }
}

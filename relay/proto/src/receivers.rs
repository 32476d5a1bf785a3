//! What the lines of a call's people are like, for operators: every second a reading of everybody who is connected. They name
//! nobody.

use crate::histogram::{BUCKETS, Histogram};
use crate::participant::Participant;

/// Bits per second: sound alone, one small picture, one large one, many.
const BITS_PER_SECOND: [f64; BUCKETS] =
    [50e3, 100e3, 200e3, 300e3, 500e3, 1e6, 2e6, 3e6, 5e6, 10e6, 20e6, 40e6];

/// Seconds: of 0.3 talk becomes slow, of 0.6 hard.
const ROUND_TRIP_SECONDS: [f64; BUCKETS] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0];

/// Shares of packets, 0 to 1: people notice 0.03, and 0.1 disturbs.
const SHARES: [f64; BUCKETS] = [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5];

/// Seconds: below 0.1 is the aim.
const QUEUE_SECONDS: [f64; BUCKETS] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0];

/// Readings since a call began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Receivers {
    /// What the line to them is thought to carry, in bits per second. Of those who tell anything of it.
    pub estimate_bits_per_second: Histogram,
    /// Round-trip times in seconds. Of those who sent a receiver report with one.
    pub round_trip_seconds: Histogram,
    /// Share of packets lost on the way to them, 0 to 1. Of those who receive anything.
    pub lost_down_ratio: Histogram,
    /// Share of packets lost on the way from them, 0 to 1. Of those who send.
    pub lost_up_ratio: Histogram,
    /// How long packets to them wait in a queue on their way, in seconds. Of those who tell when packets arrive.
    pub queue_seconds: Histogram,
}

impl Default for Receivers {
    fn default() -> Self {
        Self {
            estimate_bits_per_second: Histogram::new(&BITS_PER_SECOND),
            round_trip_seconds: Histogram::new(&ROUND_TRIP_SECONDS),
            lost_down_ratio: Histogram::new(&SHARES),
            lost_up_ratio: Histogram::new(&SHARES),
            queue_seconds: Histogram::new(&QUEUE_SECONDS),
        }
    }
}

impl Receivers {
    /// Every histogram with its name, for metrics.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("estimate_bits_per_second", &self.estimate_bits_per_second),
            ("round_trip_seconds", &self.round_trip_seconds),
            ("lost_down_ratio", &self.lost_down_ratio),
            ("lost_up_ratio", &self.lost_up_ratio),
            ("queue_seconds", &self.queue_seconds),
        ]
    }

    /// Adds another call's readings.
    pub fn add(&mut self, other: &Self) {
        self.estimate_bits_per_second.add(&other.estimate_bits_per_second);
        self.round_trip_seconds.add(&other.round_trip_seconds);
        self.lost_down_ratio.add(&other.lost_down_ratio);
        self.lost_up_ratio.add(&other.lost_up_ratio);
        self.queue_seconds.add(&other.queue_seconds);
    }

    /// Takes a reading of one participant. `lost_up` is none when nothing of what it sends is expected.
    pub(crate) fn read(&mut self, participant: &Participant, lost_up: Option<f64>) {
        if let Some(downlink) = participant.downlink.as_deref() {
            if let Some(bits) = downlink.estimate_bps() {
                #[expect(clippy::cast_precision_loss, reason = "an estimate has nowhere near 2^53 bits")]
                self.estimate_bits_per_second.record(bits as f64);
            }
            if downlink.is_agreed() {
                self.queue_seconds.record(downlink.queue_delay().as_secs_f64());
            }
        }
        if let Some(rtt) = participant.rtt {
            self.round_trip_seconds.record(rtt.as_secs_f64());
        }
        if participant.slots.iter().any(|slot| slot.packets > 0) {
            self.lost_down_ratio.record(participant.downlink_loss());
        }
        if let Some(lost) = lost_up {
            self.lost_up_ratio.record(lost);
        }
    }
}

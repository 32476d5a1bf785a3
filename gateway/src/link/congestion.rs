//! How much may be in flight on a QUIC path: what the path was measured to deliver, for as long as its shortest
//! round trip takes, twice.
//!
//! In the manner of BBR (draft-cardwell-iccrg-bbr-congestion-control): bandwidth is the most that was delivered in
//! one of the last rounds, the round trip is the shortest of the last seconds, and now and then the window shrinks
//! to see whether the path has become shorter or longer. Single losses say nothing about capacity; a round that
//! loses more than [`LOSS_TOLERATED`] narrows the window until it loses less. The BBR that comes with the QUIC
//! library never forgets the shortest round trip it ever saw, so a path that becomes longer starves for good.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};

/// Rounds that the bandwidth is the maximum of. More rides out longer dips, and yields later to other traffic.
const ROUNDS: usize = 10;

/// Window in measured capacities. More finds new capacity sooner, and keeps longer queues on the way.
const GAIN_MAX: f64 = 2.0;

/// See [`GAIN_MAX`]; below one, a path that loses too much is emptied.
const GAIN_MIN: f64 = 0.7;

/// Share of a round's bytes that may be lost without narrowing the window. More holds out on worse paths, and
/// pushes harder against others at a full queue.
const LOSS_TOLERATED: f64 = 0.03;

/// How long the shortest round trip counts until it is looked for again.
const RTT_AGE_MAX: Duration = Duration::from_secs(10);

/// The same when rounds take more than twice as long: the path has changed, or its queue is ours.
const RTT_AGE_IN_DOUBT: Duration = Duration::from_secs(2);

/// The shortest look for the shortest round trip.
const LOOK_MIN: Duration = Duration::from_millis(100);

/// What hosts add to a round trip before they get to run. Larger keeps fast local paths busy on loaded machines,
/// and queues so much more.
const SLACK: Duration = Duration::from_millis(5);

/// Smallest window in packets.
const WINDOW_MIN_PACKETS: u64 = 16;

/// Points in time whose deliveries are remembered: sixteen a round trip.
const HISTORY_MAX: usize = 256;

/// Makes controllers with this first window in bytes.
#[derive(Debug)]
pub(super) struct MeasuredConfig {
    pub(super) initial_window: u64,
}

impl ControllerFactory for MeasuredConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Measured::new(now, current_mtu, self.initial_window))
    }
}

/// What had been delivered when.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    delivered: u64,
}

/// A look for the shortest round trip with a small window.
#[derive(Clone, Copy, Debug)]
struct Look {
    began: Instant,
    shortest: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Measured {
    packet_bytes: u64,
    initial_window: u64,
    window: u64,
    gain: f64,
    delivered: u64,
    history: VecDeque<Mark>,
    /// Of the acknowledgements that are being handled: when the newest packet was sent, and all their bytes.
    batch_sent: Option<Instant>,
    batch_bytes: u64,
    /// Most bytes per second of each of the last rounds; the last is the current one.
    rates: VecDeque<f64>,
    /// A round is over when a packet is acknowledged that was sent after it began.
    round_began: Instant,
    round_acked: u64,
    round_lost: u64,
    round_shortest: Option<Duration>,
    /// Whether the round said anything about capacity.
    round_counts: bool,
    /// The shortest round trip, and when it was last seen.
    rtt: Option<Duration>,
    rtt_seen: Instant,
    look: Option<Look>,
}

impl Measured {
    fn new(now: Instant, mtu: u16, initial_window: u64) -> Self {
        Self {
            packet_bytes: mtu.into(),
            initial_window,
            window: initial_window,
            gain: GAIN_MAX,
            delivered: 0,
            history: VecDeque::from([Mark { at: now, delivered: 0 }]),
            batch_sent: None,
            batch_bytes: 0,
            rates: VecDeque::from([0.0]),
            round_began: now,
            round_acked: 0,
            round_lost: 0,
            round_shortest: None,
            round_counts: false,
            rtt: None,
            rtt_seen: now,
            look: None,
        }
    }

    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.batch_bytes += bytes;
        self.round_acked += bytes;
        self.batch_sent = self.batch_sent.max(Some(sent));
        let took = now.saturating_duration_since(sent);
        let shorter = |than: Option<Duration>| Some(than.map_or(took, |than| than.min(took)));
        self.round_shortest = shorter(self.round_shortest);
        if let Some(look) = self.look.as_mut().filter(|look| sent >= look.began) {
            look.shortest = shorter(look.shortest);
        }
        if self.rtt.is_none_or(|rtt| took <= rtt + rtt / 8 + Duration::from_micros(500)) {
            self.rtt_seen = now;
            self.rtt = shorter(self.rtt);
        }
    }

    fn batch_done(&mut self, now: Instant, app_limited: bool) {
        let Some(sent) = self.batch_sent.take() else { return };
        self.measure(now, sent, app_limited);
        if sent >= self.round_began {
            self.round_done(now);
        }
        let rtt = self.rtt.unwrap_or_default();
        if self.history.back().is_none_or(|mark| now.saturating_duration_since(mark.at) >= rtt / 16) {
            self.history.push_back(Mark { at: now, delivered: self.delivered });
            if self.history.len() > HISTORY_MAX {
                self.history.pop_front();
            }
        }
        self.adjust(now);
    }

    /// How fast were the deliveries since the newest acknowledged packet was sent?
    fn measure(&mut self, now: Instant, sent: Instant, app_limited: bool) {
        let later = self.history.partition_point(|mark| mark.at <= sent);
        let Some(mark) = self.history.get(later.saturating_sub(1)) else { return };
        let took = now.saturating_duration_since(mark.at).as_secs_f64();
        if took <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
        let rate = (self.delivered - mark.delivered) as f64 / took;
        // Who has nothing to send learns nothing about the path, unless it was faster than ever.
        if !app_limited || rate > self.rate() {
            self.round_counts = true;
            if let Some(current) = self.rates.back_mut() {
                *current = current.max(rate);
            }
        }
    }

    fn round_done(&mut self, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
        let lost = self.round_lost as f64 / (self.round_lost + self.round_acked).max(1) as f64;
        self.gain = if lost > LOSS_TOLERATED {
            (self.gain * 0.85).max(GAIN_MIN)
        } else {
            (self.gain + 0.1).min(GAIN_MAX)
        };
        if self.round_counts {
            self.rates.push_back(0.0);
            if self.rates.len() > ROUNDS {
                self.rates.pop_front();
            }
        }
        if let (None, Some(rtt), Some(shortest)) = (self.look, self.rtt, self.round_shortest) {
            let age = now.saturating_duration_since(self.rtt_seen);
            let in_doubt = shortest > rtt * 2 + SLACK;
            if age > RTT_AGE_MAX || (in_doubt && age > RTT_AGE_IN_DOUBT) {
                self.look = Some(Look { began: now, shortest: None });
            }
        }
        self.round_began = now;
        self.round_acked = 0;
        self.round_lost = 0;
        self.round_shortest = None;
        self.round_counts = false;
    }

    fn adjust(&mut self, now: Instant) {
        let grown = self.window.saturating_add(std::mem::take(&mut self.batch_bytes));
        if let Some(Look { began, shortest: Some(shortest) }) = self.look {
            // Two round trips: one until the small window shows, one to see the path with it.
            if now.saturating_duration_since(began) >= (shortest * 2).max(LOOK_MIN) {
                self.rtt = Some(shortest);
                self.rtt_seen = now;
                self.look = None;
            }
        }
        let rtt = self.rtt.unwrap_or_default();
        self.window = if self.look.is_some() {
            self.window.min(self.capacity(rtt, 0.5))
        } else {
            // Up no faster than deliveries, down at once.
            grown.min(self.capacity(rtt + SLACK, self.gain))
        }
        .max(WINDOW_MIN_PACKETS * self.packet_bytes);
    }

    /// Bytes that the path carries in a time, so many times over.
    fn capacity(&self, time: Duration, gain: f64) -> u64 {
        let rate = self.rate();
        if rate == 0.0 {
            return self.initial_window;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is positive"
        )]
        let bytes = (rate * time.as_secs_f64() * gain) as u64;
        bytes
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn lost(&mut self, persistent: bool, bytes: u64) {
        // A mark of congestion (ECN) comes without lost bytes: it counts as a packet.
        self.round_lost += bytes.max(self.packet_bytes);
        if persistent {
            self.rates = VecDeque::from([0.0]);
            self.window = WINDOW_MIN_PACKETS * self.packet_bytes;
        }
    }
}

impl Controller for Measured {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &quinn_proto::RttEstimator,
    ) {
        self.acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, _in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.batch_done(now, app_limited);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, persistent: bool, lost_bytes: u64) {
        self.lost(persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.packet_bytes = new_mtu.into();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use trunkline_testkit::rng::Rng;

    use super::*;

    const PACKET: u64 = 1200;

    /// A path in virtual time: a bottleneck with a queue, a delay, and losses by chance.
    struct Path {
        rtt_us: u64,
        bytes_per_s: u64,
        queue_bytes: u64,
        loss: f64,
        rng: Rng,
        start: Instant,
        now_us: u64,
        busy_until_us: u64,
        in_flight: u64,
        /// When a packet's fate is known, when it was sent, and whether it arrived.
        fates: BinaryHeap<Reverse<(u64, u64, bool)>>,
        delivered: u64,
        queued_max: u64,
        control: Measured,
    }

    impl Path {
        fn new(rtt_ms: u64, megabytes_per_s: u64, queue_bytes: u64, loss: f64) -> Self {
            let start = Instant::now();
            Self {
                rtt_us: rtt_ms * 1000,
                bytes_per_s: megabytes_per_s * 1_000_000,
                queue_bytes,
                loss,
                rng: Rng::new(1),
                start,
                now_us: 0,
                busy_until_us: 0,
                in_flight: 0,
                fates: BinaryHeap::new(),
                delivered: 0,
                queued_max: 0,
                control: Measured::new(start, 1200, 64 * 1024),
            }
        }

        fn at(&self, us: u64) -> Instant {
            self.start + Duration::from_micros(us)
        }

        fn send(&mut self) {
            while self.in_flight + PACKET <= self.control.window() {
                let waiting_us = self.busy_until_us.saturating_sub(self.now_us);
                let queued = waiting_us * self.bytes_per_s / 1_000_000;
                let arrives = queued <= self.queue_bytes && !self.rng.chance(self.loss);
                if queued <= self.queue_bytes {
                    self.queued_max = self.queued_max.max(queued);
                    let takes_us = PACKET * 1_000_000 / self.bytes_per_s;
                    self.busy_until_us = self.busy_until_us.max(self.now_us) + takes_us;
                }
                let known = self.busy_until_us.max(self.now_us) + self.rtt_us;
                self.fates.push(Reverse((known, self.now_us, arrives)));
                self.in_flight += PACKET;
            }
        }

        /// Runs for a time, and answers the share of the bottleneck that was used.
        fn run(&mut self, seconds: u64) -> f64 {
            let (end_us, before) = (self.now_us + seconds * 1_000_000, self.delivered);
            self.send();
            while let Some(Reverse((known, sent, arrived))) = self.fates.pop() {
                self.now_us = known;
                self.in_flight -= PACKET;
                let (now, sent) = (self.at(known), self.at(sent));
                if arrived {
                    self.delivered += PACKET;
                    self.control.acked(now, sent, PACKET);
                    self.control.batch_done(now, false);
                } else {
                    self.control.lost(false, PACKET);
                }
                self.send();
                if self.now_us >= end_us {
                    break;
                }
            }
            (self.delivered - before) as f64 / (seconds * self.bytes_per_s) as f64
        }
    }

    #[test]
    fn a_long_path_is_filled() {
        let mut path = Path::new(150, 50, 8_000_000, 0.0);
        path.run(5);
        let used = path.run(12);
        assert!(used > 0.9, "{used}");
    }

    #[test]
    fn single_losses_do_not_slow_a_long_path_down() {
        let mut path = Path::new(150, 50, 8_000_000, 0.01);
        path.run(5);
        let used = path.run(12);
        assert!(used > 0.9, "{used}");
    }

    #[test]
    fn a_path_that_becomes_much_longer_is_filled_again() {
        let mut path = Path::new(1, 20, 4_000_000, 0.0);
        path.run(5);
        path.rtt_us = 150_000;
        path.run(10);
        let used = path.run(10);
        assert!(used > 0.85, "{used}");
    }

    #[test]
    fn a_path_that_becomes_shorter_keeps_no_long_queue() {
        let mut path = Path::new(150, 20, 8_000_000, 0.0);
        path.run(5);
        path.rtt_us = 10_000;
        path.run(15);
        path.queued_max = 0;
        let used = path.run(10);
        assert!(used > 0.9, "{used}");
        assert!(path.queued_max < 1_000_000, "{}", path.queued_max);
    }

    #[test]
    fn a_queue_never_grows_beyond_what_the_path_holds() {
        let mut path = Path::new(50, 20, 64_000_000, 0.0);
        path.run(25);
        assert!(path.queued_max < 3_000_000, "{}", path.queued_max);
    }

    #[test]
    fn a_short_queue_is_used_without_losing_much_at_it() {
        let mut path = Path::new(50, 20, 100_000, 0.0);
        path.run(5);
        let used = path.run(10);
        assert!(used > 0.8, "{used}");
    }

    #[test]
    fn after_a_blackout_the_window_is_small_and_grows_again() {
        let mut path = Path::new(50, 20, 1_000_000, 0.0);
        path.run(5);
        path.control.lost(true, PACKET);
        assert_eq!(path.control.window(), WINDOW_MIN_PACKETS * PACKET);
        path.run(3);
        let used = path.run(5);
        assert!(used > 0.9, "{used}");
    }

    #[test]
    fn a_sender_with_little_to_send_does_not_shrink_what_was_measured() {
        let mut path = Path::new(50, 20, 1_000_000, 0.0);
        path.run(5);
        let rate = path.control.rate();
        let mut now = path.now_us;
        for _ in 0..1000 {
            now += 60_000;
            let (acked, sent) = (path.at(now), path.at(now - 50_000));
            path.control.acked(acked, sent, PACKET);
            path.control.batch_done(acked, true);
        }
        assert!(path.control.rate() >= rate);
    }
}

//! One direction of one protocol: when does what arrive. Knows no sockets and reads no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::profile::{Cut, Profile, Rate, Stats};
use crate::rng::Rng;

/// How long a datagram is held back for others to overtake it.
const REORDER_HOLD_MIN: Duration = Duration::from_millis(2);
const REORDER_HOLD_SPREAD: Duration = Duration::from_millis(8);

/// Bytes of a TCP segment on an Ethernet path: the unit in which TCP bytes are lost.
const SEGMENT_BYTES: usize = 1448;

/// How long TCP takes at least to notice a loss and send again.
const RETRANSMIT_MIN: Duration = Duration::from_millis(2);

/// Decides about everything that one direction carries.
#[derive(Debug)]
pub(super) struct Pipe {
    rng: Rng,
    /// When the bottleneck has passed on all that waits before it.
    free_at: Option<Instant>,
    counters: Arc<Counters>,
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Arrives(Instant),
    ArrivesTwice(Instant, Instant),
}

/// [`Stats`] as they are counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    carried: AtomicU64,
    carried_bytes: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
}

impl Pipe {
    pub(super) fn new(rng: Rng, counters: Arc<Counters>) -> Self {
        Self { rng, free_at: None, counters }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Decides about one datagram of `bytes` that entered at `now`.
    pub(super) fn datagram(&mut self, profile: &Profile, now: Instant, bytes: usize) -> Fate {
        if profile.cut != Cut::Open || self.draws(profile.loss) {
            return self.lose();
        }
        let Some(passed) = self.pass(profile.rate, now, bytes, true) else {
            return self.lose();
        };
        let mut due = self.arrival(profile, passed);
        if self.draws(profile.reorder) {
            due += REORDER_HOLD_MIN + self.rng.duration(REORDER_HOLD_SPREAD);
            add(&self.counters.reordered, 1);
        }
        if self.draws(profile.duplicate) {
            add(&self.counters.duplicated, 1);
            return Fate::ArrivesTwice(due, self.arrival(profile, passed));
        }
        Fate::Arrives(due)
    }

    /// Decides when `bytes` of a TCP connection that were read at `now` arrive. `round_trip` is what TCP needs to
    /// learn of a loss. The caller keeps the order.
    pub(super) fn segments(
        &mut self,
        profile: &Profile,
        now: Instant,
        bytes: usize,
        round_trip: Duration,
    ) -> Instant {
        let passed = self.pass(profile.rate, now, bytes, false).unwrap_or(now);
        let mut due = self.arrival(profile, passed);
        let segments = i32::try_from(bytes.div_ceil(SEGMENT_BYTES)).unwrap_or(i32::MAX);
        if profile.loss > 0.0 && self.draws(1.0 - (1.0 - profile.loss).powi(segments)) {
            due += round_trip.max(RETRANSMIT_MIN);
            add(&self.counters.lost, 1);
        }
        due
    }

    /// When the queue before the bottleneck has room for more; `now` when it has.
    pub(super) fn room_at(&self, rate: Option<Rate>, now: Instant) -> Instant {
        match (rate, self.free_at) {
            (Some(rate), Some(free_at)) => {
                free_at.checked_sub(passing(rate.queue_bytes, rate.bytes_per_s)).unwrap_or(now).max(now)
            }
            _ => now,
        }
    }

    /// Sends `bytes` through the bottleneck; `None` when its queue is full and `bounded` says that it matters.
    fn pass(&mut self, rate: Option<Rate>, now: Instant, bytes: usize, bounded: bool) -> Option<Instant> {
        let Some(rate) = rate else {
            self.free_at = None;
            return Some(now);
        };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let starts = self.free_at.map_or(now, |free_at| free_at.max(now));
        let full = passing(rate.queue_bytes.saturating_sub(bytes), rate.bytes_per_s);
        // One packet always fits, or a queue smaller than a packet would be a cut.
        if bounded && starts > now && starts - now > full {
            return None;
        }
        let passed = starts + passing(bytes, rate.bytes_per_s);
        self.free_at = Some(passed);
        Some(passed)
    }

    fn arrival(&mut self, profile: &Profile, passed: Instant) -> Instant {
        let jitter =
            if profile.jitter.is_zero() { Duration::ZERO } else { self.rng.duration(profile.jitter) };
        passed + profile.delay + jitter
    }

    /// Draws only where there is something to decide, so that one knob does not shift what another one does.
    fn draws(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.chance(probability)
    }

    fn lose(&self) -> Fate {
        add(&self.counters.lost, 1);
        Fate::Lost
    }
}

impl Counters {
    pub(super) fn carried(&self, packets: usize, bytes: usize) {
        add(&self.carried, packets);
        add(&self.carried_bytes, bytes);
    }

    pub(super) fn lost(&self, packets: usize) {
        add(&self.lost, packets);
    }

    pub(super) fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            carried: read(&self.carried),
            carried_bytes: read(&self.carried_bytes),
            lost: read(&self.lost),
            duplicated: read(&self.duplicated),
            reordered: read(&self.reordered),
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// How long `bytes` take at a rate.
fn passing(bytes: u64, bytes_per_s: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(seed: u64) -> Pipe {
        Pipe::new(Rng::new(seed), Arc::default())
    }

    #[test]
    fn a_seed_decides_every_datagrams_fate() {
        let profile = Profile {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(3),
            loss: 0.2,
            reorder: 0.2,
            duplicate: 0.2,
            ..Profile::default()
        };
        let now = Instant::now();
        let run = |seed| {
            let mut pipe = pipe(seed);
            (0..200).map(|_| pipe.datagram(&profile, now, 1_000)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn loss_and_duplication_come_as_often_as_they_should() {
        let profile = Profile { loss: 0.01, duplicate: 0.05, ..Profile::default() };
        let mut pipe = pipe(3);
        let now = Instant::now();
        for _ in 0..100_000 {
            pipe.datagram(&profile, now, 1_000);
        }
        let stats = pipe.counters().read();
        assert!((900..1_100).contains(&stats.lost), "{stats:?}");
        assert!((4_600..5_300).contains(&stats.duplicated), "{stats:?}");
    }

    #[test]
    fn a_bottleneck_spaces_datagrams_and_loses_what_its_queue_cannot_hold() {
        let rate = Rate { bytes_per_s: 1_000_000, queue_bytes: 10_000 };
        let profile = Profile { rate: Some(rate), ..Profile::default() };
        let mut pipe = pipe(4);
        let now = Instant::now();
        let fates: Vec<Fate> = (0..20).map(|_| pipe.datagram(&profile, now, 1_000)).collect();
        let arrived = fates.iter().filter(|fate| **fate != Fate::Lost).count();
        assert_eq!(arrived, 10);
        assert_eq!(fates[0], Fate::Arrives(now + Duration::from_millis(1)));
        assert_eq!(fates[9], Fate::Arrives(now + Duration::from_millis(10)));
        let later = now + Duration::from_millis(5);
        assert_eq!(pipe.datagram(&profile, later, 1_000), Fate::Arrives(later + Duration::from_millis(6)));
    }

    #[test]
    fn a_queue_smaller_than_a_packet_still_lets_one_through_at_a_time() {
        let rate = Rate { bytes_per_s: 1_000_000, queue_bytes: 10 };
        let profile = Profile { rate: Some(rate), ..Profile::default() };
        let mut pipe = pipe(5);
        let now = Instant::now();
        assert!(matches!(pipe.datagram(&profile, now, 1_000), Fate::Arrives(_)));
        assert_eq!(pipe.datagram(&profile, now, 1_000), Fate::Lost);
        let later = now + Duration::from_millis(1);
        assert!(matches!(pipe.datagram(&profile, later, 1_000), Fate::Arrives(_)));
    }

    #[test]
    fn tcp_waits_for_the_bottleneck_instead_of_losing() {
        let rate = Rate { bytes_per_s: 1_000_000, queue_bytes: 10_000 };
        let profile = Profile { rate: Some(rate), ..Profile::default() };
        let mut pipe = pipe(6);
        let now = Instant::now();
        assert_eq!(pipe.room_at(profile.rate, now), now);
        let due = pipe.segments(&profile, now, 30_000, Duration::ZERO);
        assert_eq!(due, now + Duration::from_millis(30));
        assert_eq!(pipe.room_at(profile.rate, now), now + Duration::from_millis(20));
    }

    #[test]
    fn a_tcp_loss_costs_a_round_trip() {
        let profile = Profile { loss: 1.0, ..Profile::delayed(Duration::from_millis(10)) };
        let now = Instant::now();
        let due = pipe(7).segments(&profile, now, 100, Duration::from_millis(20));
        assert_eq!(due, now + Duration::from_millis(30));
    }
}

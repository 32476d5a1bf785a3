//! One direction of somebody's line: a bottleneck with a queue before it, then the way, on which packets get lost and
//! late.

use std::time::{Duration, Instant};

use trunkline_testkit::rng::Rng;

/// Bytes of IP and UDP headers.
const HEADERS: usize = 28;

/// How long one delay holds where delays vary. Within it packets keep their distance, as on a radio link whose scheduler
/// has its turns.
const JITTER_HOLDS: Duration = Duration::from_millis(20);

/// Losses in bursts (Gilbert): the way is good or bad, and in the bad state it loses everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bursts {
    /// The chance that a packet meets the beginning of a bad stretch.
    pub(super) begin: f64,
    /// The chance that a bad stretch is over with a packet.
    pub(super) end: f64,
}

/// What a line is like.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Bits per second from these times on, the first at zero.
    pub(super) rate: Vec<(Duration, u64)>,
    /// The way itself.
    pub(super) delay: Duration,
    /// How long the last packet of a full queue waits. More is dropped.
    pub(super) queue: Duration,
    /// Share of packets that get lost at random.
    pub(super) loss: f64,
    /// And in bursts.
    pub(super) bursts: Option<Bursts>,
    /// Up to so much later. Packets keep their order.
    pub(super) jitter: Duration,
}

impl Line {
    /// A line without faults, 20 ms long, whose queue holds 300 ms: what home routers have.
    pub(super) fn steady(bps: u64) -> Self {
        Self {
            rate: vec![(Duration::ZERO, bps)],
            delay: Duration::from_millis(20),
            queue: Duration::from_millis(300),
            loss: 0.0,
            bursts: None,
            jitter: Duration::ZERO,
        }
    }

    /// The same with another rate from a time on, in seconds.
    pub(super) fn then(mut self, at_s: u64, bps: u64) -> Self {
        self.rate.push((Duration::from_secs(at_s), bps));
        self
    }

    /// Its rate after a time.
    pub(super) fn rate_at(&self, at: Duration) -> u64 {
        self.rate.iter().rev().find(|(from, _)| *from <= at).map_or(1, |(_, bps)| *bps)
    }
}

/// A line in use.
#[derive(Debug)]
pub(super) struct Link {
    line: Line,
    began: Instant,
    rng: Rng,
    busy_until: Instant,
    last_arrival: Instant,
    bad: bool,
    jitter: (u64, Duration),
}

impl Link {
    /// Times of the line's rates count from `began`.
    pub(super) fn new(line: Line, began: Instant, rng: Rng) -> Self {
        let zero = (u64::MAX, Duration::ZERO);
        Self { line, began, rng, busy_until: began, last_arrival: began, bad: false, jitter: zero }
    }

    /// How long a packet would wait now before it is its turn.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.busy_until.saturating_duration_since(now)
    }

    /// The way without the queue.
    pub(super) fn delay(&self) -> Duration {
        self.line.delay
    }

    /// A packet of so many bytes after IP and UDP headers: when it arrives, unless it is dropped or lost.
    pub(super) fn send(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        // All draws are made for every packet, so that a seed means the same losses whatever the queue does.
        let lost = self.rng.chance(self.line.loss);
        if let Some(bursts) = self.line.bursts {
            self.bad = if self.bad { !self.rng.chance(bursts.end) } else { self.rng.chance(bursts.begin) };
        }
        if self.wait(now) > self.line.queue {
            return None;
        }
        self.busy_until = self.served(self.busy_until.max(now), bytes + HEADERS);
        if lost || self.bad {
            return None;
        }
        let arrival = self.busy_until + self.line.delay + self.late(self.busy_until);
        self.last_arrival = self.last_arrival.max(arrival);
        Some(self.last_arrival)
    }

    /// When so many bytes are through that begin at `from`.
    fn served(&self, from: Instant, bytes: usize) -> Instant {
        let mut at = from.saturating_duration_since(self.began);
        let mut bits = bytes as f64 * 8.0;
        loop {
            let rate = self.line.rate_at(at).max(1) as f64;
            let next = self.line.rate.iter().map(|(from, _)| *from).find(|from| *from > at);
            let needs = Duration::from_secs_f64(bits / rate);
            match next {
                Some(next) if at + needs > next => {
                    bits -= (next - at).as_secs_f64() * rate;
                    at = next;
                }
                _ => return self.began + at + needs,
            }
        }
    }

    fn late(&mut self, at: Instant) -> Duration {
        let stretch = at.saturating_duration_since(self.began).as_nanos() / JITTER_HOLDS.as_nanos();
        let stretch = u64::try_from(stretch).unwrap_or(0);
        if self.jitter.0 != stretch {
            self.jitter = (stretch, self.rng.duration(self.line.jitter));
        }
        self.jitter.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(line: Line) -> (Link, Instant) {
        let now = Instant::now();
        (Link::new(line, now, Rng::new(1)), now)
    }

    #[test]
    fn packets_wait_for_each_other_and_a_full_queue_drops() {
        let (mut link, now) = link(Line::steady(1_000_000));
        let arrivals: Vec<_> = (0..100).filter_map(|_| link.send(now, 1222)).collect();
        // 10 ms each; the 32nd would wait 310 ms.
        assert_eq!(arrivals.len(), 31);
        assert_eq!(arrivals[0] - now, Duration::from_millis(30));
        assert_eq!(arrivals[30] - now, Duration::from_millis(330));
    }

    #[test]
    fn what_is_under_way_when_the_rate_changes_goes_on_at_the_new_one() {
        let (mut link, now) = link(Line::steady(1_000_000).then(1, 100_000));
        let sent = now + Duration::from_millis(995);
        let arrival = link.send(sent, 1222).expect("sent");
        assert_eq!((arrival - sent).as_millis(), 5 + 50 + 20);
    }

    #[test]
    fn bursts_lose_several_in_a_row() {
        let bursts = Some(Bursts { begin: 0.01, end: 0.25 });
        let (mut link, now) = link(Line { bursts, ..Line::steady(1_000_000_000) });
        let came: Vec<bool> =
            (0..100_000).map(|n| link.send(now + Duration::from_millis(n), 100).is_some()).collect();
        let lost = came.iter().filter(|came| !**came).count();
        let bursts = came.windows(2).filter(|pair| pair[0] && !pair[1]).count();
        assert!((3_000..5_000).contains(&lost), "{lost} lost of 3,850 expected");
        assert!((3.0..5.0).contains(&(lost as f64 / bursts as f64)), "four in a row");
    }

    #[test]
    fn packets_that_are_late_keep_their_order() {
        let (mut link, now) = link(Line { jitter: Duration::from_millis(100), ..Line::steady(100_000_000) });
        let sent = (0..1000).map(|n| now + Duration::from_millis(n));
        let arrivals: Vec<_> = sent.clone().filter_map(|at| link.send(at, 100)).collect();
        assert!(arrivals.is_sorted() && arrivals.len() == 1000);
        let late: Vec<_> = sent.zip(&arrivals).map(|(sent, at)| *at - sent).collect();
        assert!(late.iter().max().expect("some") > &Duration::from_millis(90));
        assert!(late.iter().min().expect("some") < &Duration::from_millis(60));
    }
}

//! A download that competes for somebody's line: TCP with CUBIC (RFC 9438), which fills the queue until something is
//! dropped.

use std::time::{Duration, Instant};

/// Payload of one segment as [`super::link::Link`] counts it: 1500 bytes with all headers.
pub(super) const SEGMENT: usize = 1472;

/// RFC 9438, section 4: how fast the window grows, and what a loss leaves of it.
const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// The first window (RFC 6928).
const WINDOW_FIRST: f64 = 10.0;

/// One greedy flow.
#[derive(Debug)]
pub(super) struct Flow {
    from: Instant,
    until: Instant,
    window: f64,
    threshold: f64,
    in_flight: u64,
    next: u64,
    /// Losses before it belong to a reduction that was made.
    recovered: u64,
    window_max: f64,
    began: Option<Instant>,
    /// What Reno would have: CUBIC is no slower.
    reno: f64,
    /// Segments that arrived.
    pub(super) delivered: u64,
}

impl Flow {
    pub(super) fn new(from: Instant, until: Instant) -> Self {
        Self {
            from,
            until,
            window: WINDOW_FIRST,
            threshold: f64::MAX,
            in_flight: 0,
            next: 0,
            recovered: 0,
            window_max: 0.0,
            began: None,
            reno: WINDOW_FIRST,
            delivered: 0,
        }
    }

    /// When it begins, as long as it has not.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (self.next == 0).then_some(self.from)
    }

    /// The number of the next segment, if one may be sent now.
    pub(super) fn poll_segment(&mut self, now: Instant) -> Option<u64> {
        if !(self.from..self.until).contains(&now) || self.in_flight as f64 >= self.window {
            return None;
        }
        self.in_flight += 1;
        self.next += 1;
        Some(self.next - 1)
    }

    /// The other side has one, and this side knows, so long after it was sent.
    pub(super) fn acknowledged(&mut self, now: Instant, round_trip: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.delivered += 1;
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let began = *self.began.get_or_insert(now);
        let k = ((self.window_max - self.window_max * BETA).max(0.0) / C).cbrt();
        let t = (now.saturating_duration_since(began) + round_trip).as_secs_f64();
        let target = C * (t - k).powi(3) + self.window_max;
        self.reno += 3.0 * (1.0 - BETA) / (1.0 + BETA) / self.window;
        let target = target.clamp(self.window, self.window * 1.5);
        self.window = (self.window + (target - self.window) / self.window).max(self.reno);
    }

    /// One was dropped, and this side has noticed.
    pub(super) fn lost(&mut self, segment: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if segment < self.recovered {
            return;
        }
        self.recovered = self.next;
        self.window_max = self.window;
        self.window = (self.window * BETA).max(2.0);
        self.threshold = self.window;
        self.reno = self.window;
        self.began = None;
    }
}

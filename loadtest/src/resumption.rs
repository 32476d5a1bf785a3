//! How long nothing moves after something was broken.
//!
//! Envelopes that were on the way when the lights went out say nothing: their answers may sit in a socket's buffer. What
//! counts is one that was asked for afterwards and was new to the gateway that took it.

use std::time::Duration;

use serde::Serialize;

use crate::report::round;

/// Follows one flow from a failure until it moves again.
#[derive(Debug, Default)]
pub(crate) struct Resumption {
    /// When it was broken, and from when on it was surely broken.
    mark: Option<(u64, u64)>,
    /// The first envelope that was taken afterwards, and when it was.
    taken: Option<((u32, u32), u64)>,
    arrived_us: Option<u64>,
    /// When something arrived last, and the longest that nothing did.
    last_us: u64,
    silent_us: u64,
}

/// How long it took a flow to move again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Until an envelope was accepted.
    pub accepted: Duration,
    /// The longest that nothing arrived, until that one did.
    pub arrived: Duration,
    /// Until that one arrived, behind all that had queued.
    pub caught_up: Duration,
}

/// Pauses after failures of a kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pauses(Vec<Pause>);

/// What is said of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct PausesReport {
    /// How many there were.
    pub times: usize,
    accepted_again_s: Spread,
    arrived_again_s: Spread,
    caught_up_s: Spread,
}

/// Seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Spread {
    median: f64,
    max: f64,
}

impl Resumption {
    /// Something was broken at `broken_us`, and the last that it could still do was done at `dead_us`.
    pub(crate) fn mark(&mut self, broken_us: u64, dead_us: u64) {
        *self = Self { mark: Some((broken_us, dead_us)), last_us: broken_us, ..Self::default() };
    }

    /// An envelope that was asked to be taken at `asked_us` was new, and taken; `arrived` says whether it has arrived
    /// before this answer did.
    pub(crate) fn taken(&mut self, envelope: (u32, u32), asked_us: u64, now_us: u64, arrived: bool) {
        if self.taken.is_none() && self.mark.is_some_and(|(_, dead_us)| asked_us >= dead_us) {
            self.taken = Some((envelope, now_us));
            self.arrived_us = arrived.then_some(now_us);
        }
    }

    /// An envelope arrived for the first time.
    pub(crate) fn arrived(&mut self, envelope: (u32, u32), now_us: u64) {
        if self.arrived_us.is_none() {
            self.silent_us = self.silent_us.max(now_us.saturating_sub(self.last_us));
            self.last_us = now_us;
        }
        if self.arrived_us.is_none() && self.taken.is_some_and(|(taken, _)| taken == envelope) {
            self.arrived_us = Some(now_us);
        }
    }

    /// How long it took; `None` while it does not move.
    pub(crate) fn pause(&self) -> Option<Pause> {
        let ((broken_us, _), (_, taken_us)) = (self.mark?, self.taken?);
        let since = |us: u64| Duration::from_micros(us.saturating_sub(broken_us));
        let arrived = Duration::from_micros(self.silent_us);
        Some(Pause { accepted: since(taken_us), arrived, caught_up: since(self.arrived_us?) })
    }
}

impl Pause {
    /// The longer of two, each way.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            accepted: self.accepted.max(other.accepted),
            arrived: self.arrived.max(other.arrived),
            caught_up: self.caught_up.max(other.caught_up),
        }
    }
}

impl Pauses {
    /// One more.
    pub(crate) fn add(&mut self, pause: Pause) {
        self.0.push(pause);
    }

    /// What is said of them; `None` when there was none.
    pub(crate) fn report(&self) -> Option<PausesReport> {
        let spread = |of: fn(&Pause) -> Duration| {
            let mut sorted: Vec<Duration> = self.0.iter().map(of).collect();
            sorted.sort_unstable();
            let middle = [sorted.len().checked_sub(1)? / 2, sorted.len() / 2];
            let median = (*sorted.get(middle[0])? + *sorted.get(middle[1])?) / 2;
            Some(Spread { median: round(median.as_secs_f64()), max: round(sorted.last()?.as_secs_f64()) })
        };
        Some(PausesReport {
            times: self.0.len(),
            accepted_again_s: spread(|pause| pause.accepted)?,
            arrived_again_s: spread(|pause| pause.arrived)?,
            caught_up_s: spread(|pause| pause.caught_up)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_after_the_end_ends_the_pause() {
        let mut resumption = Resumption::default();
        resumption.taken((0, 1), 5, 6, false);
        resumption.mark(10, 20);
        resumption.taken((0, 2), 15, 30, false);
        resumption.arrived((0, 2), 31);
        assert_eq!(resumption.pause(), None);
        resumption.taken((0, 3), 25, 40, false);
        resumption.taken((0, 4), 26, 41, false);
        resumption.arrived((0, 4), 45);
        assert_eq!(resumption.pause(), None);
        resumption.arrived((0, 3), 50);
        let us = Duration::from_micros;
        assert_eq!(resumption.pause(), Some(Pause { accepted: us(30), arrived: us(21), caught_up: us(40) }));
    }

    #[test]
    fn an_envelope_may_arrive_before_the_answer_that_it_was_taken() {
        let mut resumption = Resumption::default();
        resumption.mark(10, 10);
        resumption.arrived((0, 3), 30);
        resumption.taken((0, 3), 25, 40, true);
        let us = Duration::from_micros;
        assert_eq!(resumption.pause(), Some(Pause { accepted: us(30), arrived: us(20), caught_up: us(30) }));
    }

    #[test]
    fn the_report_names_the_median_and_the_longest() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.report(), None);
        for s in [4, 1, 2, 3] {
            let pause = Duration::from_secs(s);
            pauses.add(Pause { accepted: pause, arrived: pause * 2, caught_up: pause * 3 });
        }
        let report = pauses.report().unwrap();
        assert_eq!(report.accepted_again_s, Spread { median: 2.5, max: 4.0 });
        assert_eq!(report.arrived_again_s, Spread { median: 5.0, max: 8.0 });
    }
}

//! Who may make a sender produce a key frame, and how often: one authority per source, so that a hundred receivers,
//! or one that can decode nothing, cost the sender and everybody else no more than one.

use std::time::{Duration, Instant};

/// Between two requests to one sender. Shorter starts pictures sooner, and lets many newcomers cost more bandwidth.
const SOURCE_INTERVAL: Duration = Duration::from_millis(300);

/// Between two requests taken from one receiver, at first. It doubles while the receiver goes on asking although
/// key frames came: it cannot decode them (a wrong key), and would otherwise ask once a second for ever.
const RECEIVER_INTERVAL: Duration = Duration::from_millis(500);

/// What that doubling ends at.
const RECEIVER_INTERVAL_MAX: Duration = Duration::from_secs(32);

/// A receiver that was quiet for so long starts anew.
const RECEIVER_FORGIVEN: Duration = Duration::from_secs(64);

/// How long a key frame may take before it is asked for again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two requests for those who wait although a key frame came: it was lost on their way.
const REMIND_INTERVAL: Duration = Duration::from_secs(2);

/// Requests for one key frame without an answer. The sender may have paused; the next receiver asks anew.
const ATTEMPTS_MAX: u32 = 5;

/// The authority over one source.
#[derive(Debug, Default)]
pub(crate) struct Authority {
    wanted: bool,
    attempts: u32,
    asked_at: Option<Instant>,
    /// Requests sent.
    pub requests: u64,
}

impl Authority {
    /// Somebody needs a key frame.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
        self.attempts = 0;
    }

    /// Somebody still waits for one. It is asked for again if nobody did for a while.
    pub(crate) fn remind(&mut self, now: Instant) {
        if self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= REMIND_INTERVAL) {
            self.want();
        }
    }

    /// A key frame began to arrive.
    pub(crate) fn arrived(&mut self) {
        self.wanted = false;
        self.attempts = 0;
    }

    /// Whether the sender is to be asked now; then it counts as asked. `answers` says whether the arrival of a key
    /// frame can be seen at all (by its dependency descriptor): if not, asking once has to do.
    pub(crate) fn poll(&mut self, now: Instant, answers: bool) -> bool {
        if !self.wanted {
            return false;
        }
        let pause = if self.attempts == 0 { SOURCE_INTERVAL } else { ANSWER_TIMEOUT };
        if self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < pause) {
            return false;
        }
        self.asked_at = Some(now);
        self.attempts += 1;
        self.requests += 1;
        if !answers || self.attempts >= ATTEMPTS_MAX {
            self.wanted = false;
        }
        true
    }

    /// Whether a request is waiting to be sent, now or later.
    #[must_use]
    pub(crate) fn is_waiting(&self) -> bool {
        self.wanted
    }
}

/// What one receiver has asked for in one slot.
#[derive(Debug, Default)]
pub(crate) struct Asker {
    taken_at: Option<Instant>,
    interval: Option<Duration>,
}

impl Asker {
    /// Whether a request of this receiver counts.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let Some(at) = self.taken_at else {
            self.taken_at = Some(now);
            self.interval = Some(RECEIVER_INTERVAL);
            return true;
        };
        let interval = self.interval.unwrap_or(RECEIVER_INTERVAL);
        let since = now.saturating_duration_since(at);
        if since < interval {
            return false;
        }
        self.interval = Some(if since > RECEIVER_FORGIVEN {
            RECEIVER_INTERVAL
        } else {
            (interval * 2).min(RECEIVER_INTERVAL_MAX)
        });
        self.taken_at = Some(now);
        true
    }

    /// Another source is shown: its first key frame is not held against the receiver.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_receivers_cost_one_request() {
        let now = Instant::now();
        let mut authority = Authority::default();
        let mut sent = 0;
        for _ in 0..100 {
            authority.want();
            sent += u32::from(authority.poll(now, true));
        }
        assert_eq!(sent, 1);
    }

    #[test]
    fn a_request_that_gets_no_answer_is_repeated_and_given_up() {
        let start = Instant::now();
        let mut authority = Authority::default();
        authority.want();
        let sent =
            (0..600).filter(|tick| authority.poll(start + Duration::from_millis(50) * *tick, true)).count();
        assert_eq!(sent, 5);
        assert!(!authority.is_waiting());
    }

    #[test]
    fn an_answered_request_is_not_repeated() {
        let now = Instant::now();
        let mut authority = Authority::default();
        authority.want();
        assert!(authority.poll(now, true));
        authority.arrived();
        assert!(!authority.poll(now + Duration::from_secs(9), true));
    }

    #[test]
    fn a_receiver_that_asks_for_ever_is_heard_ever_less() {
        let start = Instant::now();
        let mut asker = Asker::default();
        let heard = (0..600).filter(|second| asker.allow(start + Duration::from_secs(1) * *second)).count();
        assert!((15..30).contains(&heard), "{heard} of 600");
    }

    #[test]
    fn a_receiver_that_was_quiet_is_heard_at_once() {
        let start = Instant::now();
        let mut asker = Asker::default();
        for second in 0..120 {
            let _ = asker.allow(start + Duration::from_secs(second));
        }
        let later = start + Duration::from_secs(400);
        assert!(asker.allow(later));
        assert!(asker.allow(later + Duration::from_secs(1)));
    }
}

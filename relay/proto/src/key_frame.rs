//! Who may make a sender produce a key frame, and how often: one authority per source, so that a hundred receivers,
//! or one that can decode nothing, cost the sender and everybody else no more than one.

use std::time::{Duration, Instant};

/// Between two requests to one sender: the first one soon after another, and ever later while requests go on. Shorter
/// starts pictures sooner, and lets many newcomers, or one that wants to do harm, cost more bandwidth.
const SOURCE_INTERVALS: [Duration; 6] = [
    // What a network that stood still for a second or two lost is asked for again as soon as it is back.
    Duration::from_millis(300),
    Duration::from_millis(300),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// A sender that was asked for nothing for so long is asked again as soon as at first.
const SOURCE_FORGIVEN: Duration = Duration::from_secs(8);

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

/// Sources whose askers one slot remembers. A receiver that goes through more of them is heard by each source as if it
/// were new: that takes it many requests, and the sources have intervals of their own.
const ASKERS_MAX: usize = 16;

/// Requests for one key frame without an answer. The sender may have paused; the next receiver asks anew.
const ATTEMPTS_MAX: u32 = 5;

/// The authority over one source.
#[derive(Debug, Default)]
pub(crate) struct Authority {
    wanted: bool,
    attempts: u32,
    asked_at: Option<Instant>,
    /// Which of [`SOURCE_INTERVALS`] is between the last request and the next one.
    step: usize,
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
        let interval = SOURCE_INTERVALS.get(self.step).copied().unwrap_or(ANSWER_TIMEOUT);
        let pause = if self.attempts == 0 { interval } else { ANSWER_TIMEOUT };
        let since = self.asked_at.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < pause) {
            return false;
        }
        self.step = match since {
            Some(since) if since < SOURCE_FORGIVEN => (self.step + 1).min(SOURCE_INTERVALS.len() - 1),
            _ => 0,
        };
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

/// What one receiver has asked for of one source.
#[derive(Clone, Copy, Debug)]
struct Asker {
    /// The source.
    csrc: u32,
    taken_at: Instant,
    interval: Duration,
}

impl Asker {
    /// Whether another request of this receiver counts.
    fn allow(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.taken_at);
        if since < self.interval {
            return false;
        }
        self.interval = if since > RECEIVER_FORGIVEN {
            RECEIVER_INTERVAL
        } else {
            (self.interval * 2).min(RECEIVER_INTERVAL_MAX)
        };
        self.taken_at = now;
        true
    }
}

/// What one receiver has asked for in one slot, of each source that it shows or showed. It is kept while the receiver is
/// there, so that showing something else in between is no way to be heard more often.
#[derive(Debug, Default)]
pub(crate) struct Askers(Vec<Asker>);

impl Askers {
    /// Whether a request for a key frame of a source counts. The first one does.
    pub(crate) fn allow(&mut self, now: Instant, csrc: u32) -> bool {
        if let Some(asker) = self.0.iter_mut().find(|asker| asker.csrc == csrc) {
            return asker.allow(now);
        }
        let asker = Asker { csrc, taken_at: now, interval: RECEIVER_INTERVAL };
        if self.0.len() < ASKERS_MAX {
            // Most slots show few sources for long.
            self.0.reserve_exact(1);
            self.0.push(asker);
        } else if let Some(oldest) = self.0.iter_mut().min_by_key(|asker| asker.taken_at) {
            *oldest = asker;
        }
        true
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
    fn a_sender_that_is_asked_for_ever_is_asked_ever_less_until_it_is_left_alone() {
        let start = Instant::now();
        let mut authority = Authority::default();
        let mut sent = Vec::new();
        for tick in 0..1000_u64 {
            let after = Duration::from_millis(10) * u32::try_from(tick).unwrap();
            authority.want();
            if authority.poll(start + after, true) {
                sent.push(after.as_millis());
                authority.arrived();
            }
        }
        assert_eq!(sent, [0, 300, 600, 900, 1500, 2500, 4500, 6500, 8500]);
        let later = start + Duration::from_secs(20);
        for (after, asked) in [(0, true), (200, false), (300, true)] {
            authority.want();
            assert_eq!(authority.poll(later + Duration::from_millis(after), true), asked, "{after} ms");
        }
    }

    #[test]
    fn a_receiver_that_asks_for_ever_is_heard_ever_less() {
        let start = Instant::now();
        let mut askers = Askers::default();
        let heard =
            (0..600).filter(|second| askers.allow(start + Duration::from_secs(1) * *second, 7)).count();
        assert!((15..30).contains(&heard), "{heard} of 600");
    }

    #[test]
    fn a_receiver_that_shows_other_sources_in_between_is_heard_no_more_often() {
        let start = Instant::now();
        let mut askers = Askers::default();
        let mut heard = [0; 4];
        for tick in 0..6000_u32 {
            let (now, csrc) = (start + Duration::from_millis(100) * tick, tick % 4);
            heard[csrc as usize] += u32::from(askers.allow(now, csrc));
        }
        assert!(heard.iter().all(|heard| (15..30).contains(heard)), "{heard:?} in 600 s");
    }

    #[test]
    fn what_is_remembered_of_a_receiver_is_bounded() {
        let start = Instant::now();
        let mut askers = Askers::default();
        for csrc in 0..1000 {
            assert!(askers.allow(start + Duration::from_millis(1) * csrc, csrc));
        }
        assert_eq!(askers.0.len(), ASKERS_MAX);
        assert!(!askers.allow(start + Duration::from_millis(1000), 999), "the last one is among them");
    }

    #[test]
    fn a_receiver_that_was_quiet_is_heard_at_once() {
        let start = Instant::now();
        let mut askers = Askers::default();
        for second in 0..120 {
            let _ = askers.allow(start + Duration::from_secs(second), 7);
        }
        let later = start + Duration::from_secs(400);
        assert!(askers.allow(later, 7));
        assert!(askers.allow(later + Duration::from_secs(1), 7));
    }
}

//! What waited while this process stood still: it was stopped, its machine was paused, or had no time for it.
//!
//! Who sent a request in the meantime may have given up, and asked another replica since. Carried out now, it would come out
//! of order, or twice.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often time is looked at when nothing else does.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After it, what connects for so long may have waited in the listen queue.
const QUEUED: Duration = Duration::from_millis(250);

/// Finds out when the process stood still.
pub(super) struct Standstill {
    longest: Duration,
    times: Mutex<Times>,
}

struct Times {
    /// Looked at last.
    last: Instant,
    /// When it last went on after standing still.
    over: Option<Instant>,
}

impl Standstill {
    /// Standing still for longer than `longest` is one.
    pub(super) fn new(longest: Duration, now: Instant) -> Self {
        Self { longest, times: Mutex::new(Times { last: now, over: None }) }
    }

    /// Looks at the time. Whoever comes first finds it out, for all.
    fn look(&self, now: Instant) -> Option<Instant> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(times.last) > self.longest {
            times.over = Some(now);
        }
        times.last = times.last.max(now);
        times.over
    }

    /// Looks at the time for as long as it is polled.
    pub(super) async fn watch<T>(&self) -> T {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look(Instant::now());
        }
    }

    /// Whether what came on a connection that was accepted at `since` may have waited meanwhile.
    pub(super) fn is_stale(&self, since: Instant, now: Instant) -> bool {
        self.look(now).is_some_and(|over| since <= over + QUEUED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_when_the_process_stood_still_is_stale_and_what_comes_later_is_not() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let standstill = Standstill::new(Duration::from_secs(3), start);
        assert!(!standstill.is_stale(at(0), at(2900)));
        assert!(!standstill.is_stale(at(2000), at(5800)));
        // A request is looked at before anything else is.
        assert!(standstill.is_stale(at(5000), at(9000)));
        assert!(standstill.is_stale(at(0), at(9001)), "and all others of before");
        assert!(standstill.is_stale(at(9100), at(9500)), "it waited to be accepted");
        assert!(!standstill.is_stale(at(9300), at(9500)));
        assert!(standstill.is_stale(at(5000), at(20_000)));
        assert!(!standstill.is_stale(at(20_300), at(20_400)), "which was another one");
    }
}

//! Wall-clock time that moves only when the test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rng::Rng;

/// Milliseconds since the Unix epoch, shared by all clones.
#[derive(Clone, Debug)]
pub struct Clock {
    now_ms: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that stands at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { now_ms: Arc::new(AtomicU64::new(now_ms)) }
    }

    /// A clock that stands somewhere in the years 2020 to 2050: no test should care where.
    #[must_use]
    pub fn seeded(rng: &mut Rng) -> Self {
        Self::new(rng.range(1_577_836_800_000..2_524_608_000_000))
    }

    /// What the clock shows, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    /// Moves the clock on by `by`, and returns what it shows then. Parts of a millisecond are lost.
    pub fn advance(&self, by: Duration) -> u64 {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst) + by_ms
    }

    /// Sets the clock: forward to the next event of a simulation, or backward as an operator might.
    pub fn set(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_shows_the_same_time() {
        let clock = Clock::new(1_000);
        let other = clock.clone();
        assert_eq!(clock.advance(Duration::from_millis(250)), 1_250);
        assert_eq!(other.now_ms(), 1_250);
        other.set(40);
        assert_eq!(clock.now_ms(), 40);
    }

    #[test]
    fn a_seeded_clock_starts_where_its_seed_says() {
        let start = |seed| Clock::seeded(&mut Rng::new(seed)).now_ms();
        assert_eq!(start(9), start(9));
        assert_ne!(start(9), start(10));
    }
}

//! Lock-out after failed log-ins, per source, and per name where there are names. Tokens are too long to guess; this
//! keeps a scanner from filling logs, and an operator hears of it. Passwords are not, so here it also limits guesses.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::bucket;
use crate::problem::{Problem, TOO_MANY_REQUESTS};

/// Failed log-ins of one source before it is locked out. Fewer locks out an operator with a stale token sooner.
pub const FAILURES_MAX: u32 = 10;

/// How long failures count, and how long a lock-out lasts. Longer slows guessing down and operators too.
pub const LOCKOUT: Duration = Duration::from_secs(60);

/// Sources or names remembered. More costs some 100 bytes each; beyond it the oldest is forgotten.
pub const SOURCES_MAX: usize = 4096;

/// Which sources failed to log in lately, and which may not try again yet.
#[derive(Debug, Default)]
pub struct Lockout {
    sources: Failed<IpAddr>,
}

/// The same for anything that tells who tries: names at a log-in page, for one.
#[derive(Debug)]
pub struct Failed<K> {
    keys: Mutex<HashMap<K, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

/// What one more failure did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Counted.
    Counted,
    /// That was one too many: the source is locked out from now on.
    LockedOut,
}

impl Lockout {
    /// How long `source` must still wait; `None` when it may try.
    pub fn remaining(&self, source: IpAddr, now: Instant) -> Option<Duration> {
        self.sources.remaining(&bucket(source), now)
    }

    /// Counts a failed log-in.
    pub fn failed(&self, source: IpAddr, now: Instant) -> Outcome {
        self.sources.failed(&bucket(source), now)
    }

    /// Forgets a source's failures: it logged in.
    pub fn succeeded(&self, source: IpAddr) {
        self.sources.succeeded(&bucket(source));
    }
}

impl<K> Default for Failed<K> {
    fn default() -> Self {
        Self { keys: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Failed<K> {
    /// How long `key` must still wait; `None` when it may try.
    pub fn remaining(&self, key: &K, now: Instant) -> Option<Duration> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = keys.get(key)?;
        let ends = failures.last + LOCKOUT;
        (failures.count >= FAILURES_MAX && now < ends).then(|| ends.saturating_duration_since(now))
    }

    /// Counts a failed log-in.
    pub fn failed(&self, key: &K, now: Instant) -> Outcome {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= SOURCES_MAX && !keys.contains_key(key) {
            keys.retain(|_, failures| now.saturating_duration_since(failures.last) < LOCKOUT);
            let oldest = keys.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.filter(|_| keys.len() >= SOURCES_MAX) {
                keys.remove(&oldest);
            }
        }
        let failures = keys.entry(key.clone()).or_insert(Failures { count: 0, last: now });
        if now.saturating_duration_since(failures.last) >= LOCKOUT {
            failures.count = 0;
        }
        failures.count += 1;
        failures.last = now;
        if failures.count == FAILURES_MAX { Outcome::LockedOut } else { Outcome::Counted }
    }

    /// Forgets its failures: it logged in.
    pub fn succeeded(&self, key: &K) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// The refusal of a source that is locked out.
#[must_use]
pub fn locked_out(wait: Duration) -> Problem {
    let seconds = wait.as_secs() + 1;
    let detail = format!("too many failed log-ins: try again in {seconds} s, with what is valid");
    Problem::new(TOO_MANY_REQUESTS, detail).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn a_source_is_locked_out_after_too_many_failures_and_let_in_again_later() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        for _ in 1..FAILURES_MAX {
            assert_eq!(lockout.failed(source(1), now), Outcome::Counted);
            assert_eq!(lockout.remaining(source(1), now), None);
        }
        assert_eq!(lockout.failed(source(1), now), Outcome::LockedOut);
        assert_eq!(lockout.remaining(source(1), now), Some(LOCKOUT));
        assert_eq!(lockout.remaining(source(2), now), None);
        assert_eq!(lockout.remaining(source(1), now + LOCKOUT), None);
        assert_eq!(lockout.failed(source(1), now + LOCKOUT), Outcome::Counted);
    }

    #[test]
    fn a_successful_log_in_clears_the_failures() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        for _ in 1..FAILURES_MAX {
            lockout.failed(source(1), now);
        }
        lockout.succeeded(source(1));
        assert_eq!(lockout.failed(source(1), now), Outcome::Counted);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        for n in 0..FAILURES_MAX {
            lockout.failed(format!("2001:db8::{n:x}").parse().unwrap(), now);
        }
        assert!(lockout.remaining("2001:db8::ffff".parse().unwrap(), now).is_some());
        assert!(lockout.remaining("2001:db8:0:1::1".parse().unwrap(), now).is_none());
    }

    #[test]
    fn the_map_stays_bounded() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        for n in 0..SOURCES_MAX + 100 {
            let bits = u32::try_from(n).unwrap();
            lockout.failed(IpAddr::V4(bits.into()), now + Duration::from_millis(n as u64));
        }
        assert_eq!(lockout.sources.keys.lock().unwrap().len(), SOURCES_MAX);
    }
}

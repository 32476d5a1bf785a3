//! When to try again after the database did not answer, and what to say of it: one line when it begins, one when it is
//! over. Pure.

use std::time::Duration;

/// The first wait. Shorter asks a server that is just starting more often.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The longest. Longer finds a server that is back later, shorter lets many programs knock at one that is not.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// The tries since the last answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outage {
    last: Option<Duration>,
}

impl Outage {
    /// A try failed: how long to wait, and whether it is the first.
    pub fn failed(&mut self) -> (Duration, bool) {
        let wait = self.last.map_or(WAIT_MIN, |last| last.saturating_mul(2).min(WAIT_MAX));
        (wait, self.last.replace(wait).is_none())
    }

    /// It answered: whether an outage is over.
    pub fn answered(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_asked_about_less_and_less_often() {
        let mut outage = Outage::default();
        assert!(!outage.answered());
        let tries: Vec<_> = (0..7).map(|_| outage.failed()).collect();
        let waits: Vec<_> = tries.iter().map(|(wait, _)| wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(tries.iter().filter(|(_, first)| *first).count(), 1);
        assert!(outage.answered() && !outage.answered());
        assert_eq!(outage.failed(), (WAIT_MIN, true));
    }
}

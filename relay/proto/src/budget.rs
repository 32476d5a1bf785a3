//! How much of something there may be: so much at once, and more as time goes by.

use std::time::{Duration, Instant};

use crate::reception::ticks;

/// What a budget allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// At once. It should be earned within a second, since a longer pause earns no more.
    pub burst: u32,
    /// Earned each second.
    pub per_s: u32,
}

/// What is left of an allowance.
#[derive(Debug)]
pub(crate) struct Budget {
    allowance: Allowance,
    left: u32,
    filled_at: Option<Instant>,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self { allowance, left: allowance.burst, filled_at: None }
    }

    /// Takes some off, if there is as much.
    pub(crate) fn spend(&mut self, now: Instant, amount: u64) -> bool {
        let Allowance { burst, per_s } = self.allowance;
        let elapsed = now.saturating_duration_since(*self.filled_at.get_or_insert(now));
        let earned = ticks(elapsed.min(Duration::from_secs(1)), per_s);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(burst);
            self.filled_at = Some(now);
        }
        let after = u32::try_from(amount).ok().and_then(|amount| self.left.checked_sub(amount));
        self.left = after.unwrap_or(self.left);
        after.is_some()
    }

    /// One was not needed after all.
    pub(crate) fn give_back(&mut self) {
        self.left = self.left.saturating_add(1).min(self.allowance.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWANCE: Allowance = Allowance { burst: 10, per_s: 100 };

    #[test]
    fn what_is_spent_is_earned_again_with_time_and_no_more_than_that() {
        let now = Instant::now();
        let mut budget = Budget::new(ALLOWANCE);
        assert!(budget.spend(now, 10) && !budget.spend(now, 1));
        let later = now + Duration::from_millis(30);
        assert!(budget.spend(later, 3) && !budget.spend(later, 1));
        let much_later = now + Duration::from_secs(60);
        assert!(!budget.spend(much_later, 11));
        assert!(budget.spend(much_later, 10) && !budget.spend(much_later, 1));
    }

    #[test]
    fn what_is_given_back_can_be_spent_again() {
        let now = Instant::now();
        let mut budget = Budget::new(ALLOWANCE);
        budget.give_back();
        assert!(budget.spend(now, 10) && !budget.spend(now, 1));
        budget.give_back();
        assert!(budget.spend(now, 1) && !budget.spend(now, 1));
    }
}

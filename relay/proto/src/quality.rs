//! How good a connection is, as people are told: worse at once, better when it lasts, and never so often that the bars on a
//! tile tremble.

use std::time::{Duration, Instant};

use crate::event::{Quality, QualityCause};

/// A quality and what spoils it.
pub(crate) type Judged = (Quality, Option<QualityCause>);

/// How long a connection has to be better than people were told. Longer is calmer, and slower to forgive.
const BETTER_AFTER: Duration = Duration::from_secs(3);

/// Between two notices of one participant. A notice goes to everybody in the call, so shorter costs most in the largest.
const NOTICE_INTERVAL: Duration = Duration::from_secs(2);

/// When to tell.
#[derive(Debug, Default)]
pub(crate) struct Steady {
    told_at: Option<Instant>,
    /// Since when it is better than people were told, or bad for another reason, and the worst of that time.
    otherwise: Option<(Instant, Judged)>,
}

impl Steady {
    /// What people are to be told now, if anything, when this was `told` last and that is `judged` now.
    pub(crate) fn follow(&mut self, now: Instant, told: Judged, judged: Judged) -> Option<Judged> {
        let news = if judged == told {
            self.otherwise = None;
            return None;
        } else if judged.0 > told.0 {
            self.otherwise = None;
            judged
        } else {
            let (since, worst) = self.otherwise.get_or_insert((now, judged));
            if judged.0 >= worst.0 {
                *worst = judged;
            }
            if now.saturating_duration_since(*since) < BETTER_AFTER {
                return None;
            }
            *worst
        };
        let since = self.told_at.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < NOTICE_INTERVAL) {
            return None;
        }
        *self = Self { told_at: Some(now), otherwise: None };
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Judged = (Quality::Good, None);
    const FAIR: Judged = (Quality::Fair, Some(QualityCause::Bandwidth));
    const POOR: Judged = (Quality::Poor, Some(QualityCause::DownlinkLoss));

    /// What is told when one after the other is judged every second.
    fn told(judged: &[Judged]) -> Vec<(u64, Judged)> {
        let (start, mut steady, mut last) = (Instant::now(), Steady::default(), GOOD);
        let mut told = Vec::new();
        for (second, judged) in (0..).zip(judged) {
            if let Some(news) = steady.follow(start + Duration::from_secs(second), last, *judged) {
                last = news;
                told.push((second, news));
            }
        }
        told
    }

    #[test]
    fn worse_is_told_at_once_and_better_when_it_lasted() {
        assert_eq!(told(&[GOOD, POOR, GOOD, GOOD, GOOD, GOOD, GOOD]), [(1, POOR), (5, GOOD)]);
    }

    #[test]
    fn what_is_better_for_a_moment_is_not_told() {
        assert_eq!(told(&[POOR, GOOD, GOOD, POOR, GOOD, GOOD, POOR, GOOD]), [(0, POOR)]);
    }

    #[test]
    fn what_trembles_while_it_gets_better_is_told_for_its_worst() {
        let judged = [POOR, GOOD, FAIR, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD];
        assert_eq!(told(&judged), [(0, POOR), (4, FAIR), (8, GOOD)]);
    }

    #[test]
    fn nothing_is_told_twice_within_two_seconds() {
        assert_eq!(told(&[FAIR, POOR, POOR]), [(0, FAIR), (2, POOR)]);
    }
}

//! Whether the queue is somebody else's: flows that grow until they lose fill it whatever we do, and a sender that always
//! makes room for them ends with nothing. Alone, what arrives stays what the line carries however often we fall; next to
//! such a flow every fall is followed by another, and less arrives each time.

/// Time between two looks at what arrives, and how many of them make one period.
const SAMPLE_US: i64 = 500_000;
const PERIOD: usize = 4;
const SAMPLES: usize = 2 * PERIOD + 1;

/// What arrives after a period, as a share of what did before: in the last one, and in the one before. Higher takes
/// lines that fade for rivals.
const DECLINE: f64 = 0.7;
const DECLINE_BEFORE: f64 = 0.85;

/// A rival that was there is expected back for this long: one period of less and two falls are enough then. Longer takes
/// more of what is not a rival for one.
const SUSPECT_US: i64 = 60_000_000;
const SUSPECT_FALLS: u32 = 2;

/// For how long the queue is then left to the loss of packets. Longer gets a larger part, and keeps a queue longer once
/// the rival is gone.
const COMPETE_US: i64 = 10_000_000;

/// A queue this short is nobody's.
const EMPTY_US: i64 = 4_000;

/// Looks for rivals.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    /// What arrived, the latest last, and how often the rate fell until then.
    samples: [(f64, u32); SAMPLES],
    falls: u32,
    sampled_us: i64,
    until_us: i64,
}

impl Rivals {
    /// The rate fell because the queue grew.
    pub(super) fn fell(&mut self) {
        self.falls = self.falls.wrapping_add(1);
    }

    /// Whether somebody else fills the queue.
    pub(super) fn update(&mut self, now_us: i64, arriving_bps: Option<f64>, queue_us: i64) -> bool {
        let competing = now_us < self.until_us;
        if competing && queue_us < EMPTY_US {
            self.until_us = now_us;
        }
        if let Some(arriving_bps) = arriving_bps
            && now_us - self.sampled_us >= SAMPLE_US
        {
            self.sampled_us = now_us;
            self.samples.rotate_left(1);
            if let Some(last) = self.samples.last_mut() {
                *last = (arriving_bps, self.falls);
            }
            if !competing && self.declines(self.suspected(now_us)) {
                self.until_us = now_us + COMPETE_US;
                self.samples = Default::default();
            }
        }
        now_us < self.until_us
    }

    /// Whether there was one a while ago.
    pub(super) fn suspected(&self, now_us: i64) -> bool {
        self.until_us > 0 && now_us - self.until_us < SUSPECT_US
    }

    fn declines(&self, suspect: bool) -> bool {
        let (Some(first), Some(middle), Some(last)) =
            (self.samples.first(), self.samples.get(PERIOD), self.samples.last())
        else {
            return false;
        };
        let falls = last.1.wrapping_sub(middle.1);
        if suspect {
            return falls >= SUSPECT_FALLS && last.0 < DECLINE_BEFORE * middle.0;
        }
        let before = middle.1 != first.1 && middle.0 < DECLINE_BEFORE * first.0;
        before && falls > 0 && last.0 < DECLINE * middle.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a rival is seen when so much arrives at each half second.
    fn seen(arriving: &[f64]) -> bool {
        let mut rivals = Rivals::default();
        (1..).zip(arriving).any(|(n, bps)| {
            rivals.fell();
            rivals.update(n * SAMPLE_US, Some(*bps), 50_000)
        })
    }

    #[test]
    fn less_and_less_is_a_rival_and_a_line_that_became_slower_is_none() {
        let less: Vec<f64> = (0..20).map(|n| 2e6 * 0.8_f64.powi(n)).collect();
        assert!(seen(&less));
        let drop: Vec<f64> = (0..20).map(|n| if n < 10 { 2e6 } else { 3e5 }).collect();
        assert!(!seen(&drop));
        let fade: Vec<f64> = (0..20).map(|n| 3e6 - 1e5 * f64::from(n)).collect();
        assert!(!seen(&fade));
    }

    #[test]
    fn an_empty_queue_ends_it() {
        let mut rivals = Rivals { until_us: 5_000_000, ..Rivals::default() };
        assert!(rivals.update(1_000_000, None, 30_000));
        assert!(!rivals.update(2_000_000, None, 0));
        assert!(!rivals.update(2_100_000, None, 30_000));
    }
}

//! Whether the queue grows: the slope of the delay over the last groups, against a threshold that adapts to how much it
//! swings (draft-ietf-rmcat-gcc-02, sections 5.3 to 5.5, with a line through the points instead of the Kalman filter).

use super::groups::Step;

/// Groups that the line goes through. More is steadier and slower.
const WINDOW: usize = 20;

/// Groups after which a slope counts in full.
const GROUPS_FULL: u32 = 60;

/// How much of the smoothed delay stays with every group.
const SMOOTHING: f64 = 0.9;

/// What a slope is multiplied with before it is compared. Higher is more sensitive.
const GAIN: f64 = 4.0;

/// The threshold at first, and its bounds, in ms. Lower is more sensitive, and starves next to flows that fill queues.
const THRESHOLD_MS: f64 = 12.5;
const THRESHOLD_MS_MIN: f64 = 6.0;
const THRESHOLD_MS_MAX: f64 = 600.0;

/// How fast the threshold follows upward and downward, per ms.
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;

/// What is further above the threshold than this is a path that changed, and does not move it.
const THRESHOLD_SPIKE_MS: f64 = 15.0;

/// For how long the slope has to stay above the threshold.
const OVER_MS_MIN: f64 = 10.0;

/// What the slope of the delay says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Signal {
    /// The queue stays as it is.
    #[default]
    Normal,
    /// It grows.
    Over,
    /// It drains.
    Under,
}

/// The line through the delays of the last groups.
#[derive(Debug)]
pub(super) struct Trend {
    groups: u32,
    delay_ms: f64,
    smoothed_ms: f64,
    /// Arrival and smoothed delay.
    points: [(f64, f64); WINDOW],
    len: usize,
    place: usize,
    first_us: i64,
    slope_before: f64,
    threshold_ms: f64,
    moved_ms: Option<f64>,
    /// For how long, and how often, the slope was above the threshold.
    over_ms: Option<f64>,
    over_times: u32,
    signal: Signal,
}

impl Default for Trend {
    fn default() -> Self {
        Self {
            groups: 0,
            delay_ms: 0.0,
            smoothed_ms: 0.0,
            points: [(0.0, 0.0); WINDOW],
            len: 0,
            place: 0,
            first_us: 0,
            slope_before: 0.0,
            threshold_ms: THRESHOLD_MS,
            moved_ms: None,
            over_ms: None,
            over_times: 0,
            signal: Signal::Normal,
        }
    }
}

impl Trend {
    /// The next group.
    pub(super) fn push(&mut self, step: Step) -> Signal {
        if self.groups == 0 {
            self.first_us = step.at_us;
        }
        self.groups = self.groups.saturating_add(1);
        let at_ms = ms(step.at_us.saturating_sub(self.first_us));
        self.delay_ms += ms(step.arrived_us.saturating_sub(step.sent_us));
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.delay_ms;
        if let Some(point) = self.points.get_mut(self.place) {
            *point = (at_ms, self.smoothed_ms);
        }
        self.place = (self.place + 1) % WINDOW;
        self.len = (self.len + 1).min(WINDOW);
        let slope = if self.len == WINDOW { self.slope() } else { self.slope_before };
        self.judge(slope, ms(step.sent_us), at_ms);
        self.signal
    }

    /// What the last group said.
    pub(super) fn signal(&self) -> Signal {
        self.signal
    }

    /// Least squares.
    fn slope(&self) -> f64 {
        let n = WINDOW as f64;
        let (sum_x, sum_y) = self.points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        let (mean_x, mean_y) = (sum_x / n, sum_y / n);
        let (above, below) = self.points.iter().fold((0.0, 0.0), |(above, below), (x, y)| {
            (above + (x - mean_x) * (y - mean_y), below + (x - mean_x) * (x - mean_x))
        });
        if below > 0.0 { above / below } else { self.slope_before }
    }

    fn judge(&mut self, slope: f64, apart_ms: f64, at_ms: f64) {
        if self.groups < 2 {
            return;
        }
        let gained = f64::from(self.groups.min(GROUPS_FULL)) * slope * GAIN;
        if gained > self.threshold_ms {
            // At first it is not known since when: half of the time is the fair guess.
            self.over_ms = Some(self.over_ms.map_or(apart_ms / 2.0, |over| over + apart_ms));
            self.over_times += 1;
            let long = self.over_ms.is_some_and(|over| over > OVER_MS_MIN) && self.over_times > 1;
            if long && slope >= self.slope_before {
                self.over_ms = Some(0.0);
                self.over_times = 0;
                self.signal = Signal::Over;
            }
        } else {
            self.over_ms = None;
            self.over_times = 0;
            self.signal = if gained < -self.threshold_ms { Signal::Under } else { Signal::Normal };
        }
        self.slope_before = slope;
        self.adapt(gained.abs(), at_ms);
    }

    fn adapt(&mut self, gained: f64, at_ms: f64) {
        let elapsed = (at_ms - self.moved_ms.unwrap_or(at_ms)).clamp(0.0, 100.0);
        self.moved_ms = Some(at_ms);
        if gained > self.threshold_ms + THRESHOLD_SPIKE_MS {
            return;
        }
        let speed = if gained < self.threshold_ms { THRESHOLD_DOWN } else { THRESHOLD_UP };
        let moved = self.threshold_ms + speed * (gained - self.threshold_ms) * elapsed;
        self.threshold_ms = moved.clamp(THRESHOLD_MS_MIN, THRESHOLD_MS_MAX);
    }
}

fn ms(us: i64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signals for groups 10 ms apart, each delayed by as much more as `more` says.
    fn signals(more: impl Fn(i64) -> i64, groups: i64) -> Vec<Signal> {
        let (mut trend, mut at_us) = (Trend::default(), 0);
        (0..groups)
            .map(|n| {
                let arrived_us = 10_000 + more(n);
                at_us += arrived_us;
                trend.push(Step { sent_us: 10_000, arrived_us, at_us })
            })
            .collect()
    }

    #[test]
    fn a_queue_that_stays_is_no_reason_for_less() {
        assert!(signals(|_| 0, 500).iter().all(|signal| *signal == Signal::Normal));
        assert!(
            signals(|n| if n % 2 == 0 { 2_000 } else { -2_000 }, 500).iter().all(|s| *s == Signal::Normal)
        );
    }

    #[test]
    fn a_queue_that_grows_is_found_within_half_a_second_and_one_that_drains_after_it() {
        let signals = signals(
            |n| {
                if n < 100 {
                    0
                } else if n < 150 {
                    2_000
                } else {
                    -2_000
                }
            },
            250,
        );
        assert!(signals[..100].iter().all(|signal| *signal == Signal::Normal));
        assert!(signals[100..150].contains(&Signal::Over));
        assert_eq!(signals[200], Signal::Under);
    }
}

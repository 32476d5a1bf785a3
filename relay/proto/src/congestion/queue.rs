//! How long the queue is: the least delay of late against the least there was. Both clocks are somebody's own, so only
//! differences count.

/// The least delay of this long is what the queue adds now. Longer ignores more jitter.
const LATELY_US: i64 = 75_000;

/// The least delay of this long, at least, is taken for an empty queue. Longer remembers an empty queue for longer, and
/// clocks that drift, or paths that became longer, too.
const BASE_US: i64 = 30_000_000;

/// What packets sent at least this far apart differ by is jitter, and how much a new difference counts. Only what delays
/// fall by is looked at, since a queue that grows is none.
const JITTER_APART_US: i64 = 5_000;
const JITTER_GAIN: f64 = 1.0 / 16.0;

/// Less than this is on every line. Lower takes for jitter what packets wait for each other on slow lines.
const JITTER_US_MIN: f64 = 8_000.0;
const JITTER_US_MAX: i64 = 1_000_000;

/// A queue shorter than so many times the jitter, within this limit, is not told from it. More bears worse lines, and
/// sees queues later on them.
const JITTER_TIMES: f64 = 3.0;
const JITTER_QUEUE_US_MAX: f64 = 75_000.0;

/// The least value of between one and two periods.
#[derive(Debug)]
struct Least {
    period_us: i64,
    since_us: i64,
    current: Option<i64>,
    before: Option<i64>,
}

impl Least {
    const fn new(period_us: i64) -> Self {
        Self { period_us, since_us: 0, current: None, before: None }
    }

    fn push(&mut self, now_us: i64, value: i64) {
        if now_us.saturating_sub(self.since_us) >= self.period_us {
            self.before = self.current.take();
            self.since_us = now_us;
        }
        self.current = Some(self.current.map_or(value, |least| least.min(value)));
    }

    fn get(&self) -> Option<i64> {
        match (self.current, self.before) {
            (Some(current), Some(before)) => Some(current.min(before)),
            (current, before) => current.or(before),
        }
    }
}

/// The delays of packets.
#[derive(Debug)]
pub(super) struct Queue {
    lately: Least,
    base: Least,
    /// The last packet that counted for the jitter: when it was sent, and its delay.
    before: Option<(i64, i64)>,
    jitter_us: f64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { lately: Least::new(LATELY_US), base: Least::new(BASE_US), before: None, jitter_us: 0.0 }
    }
}

impl Queue {
    /// When a packet was sent, and when it arrived by another clock.
    pub(super) fn push(&mut self, now_us: i64, sent_us: i64, arrived_us: i64) {
        let delay_us = arrived_us.saturating_sub(sent_us);
        self.lately.push(now_us, delay_us);
        self.base.push(now_us, delay_us);
        let (before_us, before_delay_us) = *self.before.get_or_insert((sent_us, delay_us));
        if sent_us.saturating_sub(before_us) < JITTER_APART_US {
            return;
        }
        // As much as delays fall by, they grow by at other times.
        let fell_us = before_delay_us.saturating_sub(delay_us).clamp(0, JITTER_US_MAX) * 2;
        self.jitter_us += JITTER_GAIN * (fell_us as f64 - self.jitter_us);
        self.before = Some((sent_us, delay_us));
    }

    /// How much delays differ from packet to packet.
    pub(super) fn jitter_us(&self) -> f64 {
        self.jitter_us
    }

    /// Whether delays differ by so much that what they say within a short time is no measure.
    pub(super) fn is_jittery(&self) -> bool {
        self.jitter_us > JITTER_US_MIN
    }

    /// Whether the queue is so short that delays which seem to grow are nothing but jitter.
    pub(super) fn is_jitter(&self) -> bool {
        (self.us() as f64) < (JITTER_TIMES * self.jitter_us).min(JITTER_QUEUE_US_MAX)
    }

    /// How long the queue is.
    pub(super) fn us(&self) -> i64 {
        match (self.lately.get(), self.base.get()) {
            (Some(lately), Some(base)) => lately.saturating_sub(base).max(0),
            _ => 0,
        }
    }
}

/// A queue this long that stays for that long is too long, however slowly it came. Shorter keeps queues shorter, and
/// takes more of what other flows do for ours.
const STANDING_US: i64 = 80_000;
const STANDING_FOR_US: i64 = 500_000;

/// How long sending less may take to show, how much of the queue may remain then, and after how many times without
/// success it is taken for the way itself, which became longer.
const STANDING_AGAIN_US: i64 = 1_500_000;
const STANDING_REMAINS: f64 = 0.8;
const STANDING_TRIES: u32 = 2;

/// What to do about a queue that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Send less.
    Long,
    /// It is no queue.
    Path,
}

/// Looks for a queue that stays.
#[derive(Debug, Default)]
pub(super) struct Standing {
    since_us: Option<i64>,
    /// When less was sent, and how long the queue was then.
    tried: Option<(i64, i64)>,
    tries: u32,
}

impl Standing {
    /// The queue is so long.
    pub(super) fn update(&mut self, now_us: i64, queue_us: i64) -> Verdict {
        if queue_us < STANDING_US {
            *self = Self::default();
            return Verdict::Fine;
        }
        let since_us = *self.since_us.get_or_insert(now_us);
        if now_us - since_us < STANDING_FOR_US {
            return Verdict::Fine;
        }
        if let Some((at_us, before_us)) = self.tried {
            if now_us - at_us < STANDING_AGAIN_US {
                return Verdict::Fine;
            }
            let helped = (queue_us as f64) < STANDING_REMAINS * before_us as f64;
            self.tries = if helped { 0 } else { self.tries + 1 };
            if self.tries >= STANDING_TRIES {
                *self = Self::default();
                return Verdict::Path;
            }
        }
        self.tried = Some((now_us, queue_us));
        Verdict::Long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_what_the_least_delay_grew_by_whatever_the_clocks_and_the_jitter() {
        let mut queue = Queue::default();
        let jitter = |n: i64| n * 7919 % 30_000;
        for n in 0..200 {
            queue.push(n * 5_000, n * 5_000, n * 5_000 - 9_000_000 + jitter(n));
        }
        assert!(queue.us() < 5_000, "{}", queue.us());
        for n in 200..300 {
            queue.push(n * 5_000, n * 5_000, n * 5_000 - 9_000_000 + 80_000 + jitter(n));
        }
        assert!((75_000..90_000).contains(&queue.us()), "{}", queue.us());
    }

    #[test]
    fn a_queue_that_stays_is_drained_and_one_that_does_not_drain_is_the_way_itself() {
        let verdicts = |queue_us: fn(i64) -> i64| {
            let mut standing = Standing::default();
            let all = (0..80).map(|n| standing.update(n * 100_000, queue_us(n)));
            all.filter(|verdict| *verdict != Verdict::Fine).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(|n| 200_000 - n * 10_000), [Verdict::Long]);
        assert_eq!(
            verdicts(|n| if n < 30 { 50_000 } else { 200_000 })[..3],
            [Verdict::Long, Verdict::Long, Verdict::Path]
        );
        assert_eq!(verdicts(|n| if n % 4 == 0 { 0 } else { 200_000 }), []);
    }

    #[test]
    fn delays_that_differ_are_jitter_and_a_queue_that_is_longer_is_none() {
        let mut queue = Queue::default();
        let push = |queue: &mut Queue, n: i64, more_us: i64| {
            queue.push(n * 10_000, n * 10_000, n * 10_000 + more_us + n * 7919 % 50_000);
        };
        (0..100).for_each(|n| push(&mut queue, n, 0));
        assert!(queue.is_jittery() && queue.is_jitter());
        (100..200).for_each(|n| push(&mut queue, n, 150_000));
        assert!(!queue.is_jitter(), "{}", queue.us());
        let mut calm = Queue::default();
        (0..100).for_each(|n| calm.push(n * 10_000, n * 10_000, n * 10_000 + n * 300));
        assert!(!calm.is_jittery(), "a queue that grows is no jitter: {}", calm.jitter_us());
    }
}

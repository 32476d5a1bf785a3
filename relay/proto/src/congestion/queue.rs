//! How long the queue is: the least delay of late against the least there was. Both clocks are somebody's own, so only
//! differences count.

/// The least delay of this long is what the queue adds now. Longer ignores more jitter.
const LATELY_US: i64 = 150_000;

/// The least delay of this long, at least, is taken for an empty queue. Longer remembers an empty queue for longer, and
/// clocks that drift, or paths that became longer, too.
const BASE_US: i64 = 15_000_000;

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
}

impl Default for Queue {
    fn default() -> Self {
        Self { lately: Least::new(LATELY_US), base: Least::new(BASE_US) }
    }
}

impl Queue {
    /// A packet's delay, from one clock to the other.
    pub(super) fn push(&mut self, now_us: i64, delay_us: i64) {
        self.lately.push(now_us, delay_us);
        self.base.push(now_us, delay_us);
    }

    /// How long the queue is.
    pub(super) fn us(&self) -> i64 {
        match (self.lately.get(), self.base.get()) {
            (Some(lately), Some(base)) => lately.saturating_sub(base).max(0),
            _ => 0,
        }
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
            queue.push(n * 5_000, -9_000_000 + jitter(n));
        }
        assert!(queue.us() < 5_000, "{}", queue.us());
        for n in 200..300 {
            queue.push(n * 5_000, -9_000_000 + 80_000 + jitter(n));
        }
        assert!((75_000..90_000).contains(&queue.us()), "{}", queue.us());
    }
}

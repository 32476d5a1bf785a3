//! The receiver's clock: reference times have 24 bits in 64 ms and wrap around.

use crate::rtcp::TICKS_PER_REFERENCE;

/// Microseconds of one tick, and of one step of the reference time.
pub(super) const TICK_US: i64 = 250;
const REFERENCE_US: i64 = TICK_US * TICKS_PER_REFERENCE as i64;

/// Steps until the reference time wraps around.
const CYCLE: i64 = 1 << 24;

/// Where the receiver's clock and ours move apart by more than this between two messages, one of them jumped.
const JUMP_US: i64 = 10_000_000;

/// Reference times without their wrapping.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The last reference time, as it was, and since the beginning; and our time then.
    last: Option<(i32, i64, i64)>,
}

impl Clock {
    /// The receiver's time in us, and whether it is another time line than before.
    pub(super) fn reference_us(&mut self, now_us: i64, reference: i32) -> (i64, bool) {
        let Some((before, steps, at_us)) = self.last else {
            self.last = Some((reference, 0, now_us));
            return (0, false);
        };
        let apart = (i64::from(reference) - i64::from(before)).rem_euclid(CYCLE);
        let apart = if apart >= CYCLE / 2 { apart - CYCLE } else { apart };
        let jumped = (apart * REFERENCE_US - (now_us - at_us)).abs() > JUMP_US;
        let steps = if jumped { 0 } else { steps + apart };
        self.last = Some((reference, steps, now_us));
        (steps * REFERENCE_US, jumped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_times_wrap_around_and_messages_overtake_each_other() {
        let mut clock = Clock::default();
        let last = (1 << 23) - 1;
        assert_eq!(clock.reference_us(0, last), (0, false));
        assert_eq!(clock.reference_us(70_000, -(1 << 23)), (64_000, false));
        assert_eq!(clock.reference_us(80_000, last - 1), (-64_000, false), "it was overtaken");
        assert_eq!(clock.reference_us(90_000, 0), (0, true));
        assert_eq!(clock.reference_us(90_000, 2), (128_000, false));
    }
}

//! Packets that left together are one group: how much further apart two groups arrive than they left is what their
//! queues grew by (draft-ietf-rmcat-gcc-02, section 5.2).

/// Packets sent within this time are one group. Longer hides queues for longer, shorter measures the sender's bursts.
const BURST_US: i64 = 5_000;

/// A group that arrives as one burst spans at most this much.
const BURST_SPAN_US: i64 = 100_000;

/// Two groups that seem to arrive this far apart, or before one another, tell of a clock that jumped.
const JUMP_US: i64 = 3_000_000;

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent_us: i64,
    sent_us: i64,
    first_arrived_us: i64,
    arrived_us: i64,
}

/// How far apart two groups were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// When they left.
    pub(super) sent_us: i64,
    /// When they arrived.
    pub(super) arrived_us: i64,
    /// The arrival of the later one.
    pub(super) at_us: i64,
}

/// Makes groups of packets.
#[derive(Debug, Default)]
pub(super) struct Groups {
    before: Option<Group>,
    current: Option<Group>,
}

impl Groups {
    /// A packet, in about the order in which they were sent. When it begins a group: how the two before it compare.
    pub(super) fn push(&mut self, sent_us: i64, arrived_us: i64) -> Option<Step> {
        let fresh = Group { first_sent_us: sent_us, sent_us, first_arrived_us: arrived_us, arrived_us };
        let Some(current) = &mut self.current else {
            self.current = Some(fresh);
            return None;
        };
        if sent_us < current.first_sent_us {
            // It was overtaken, and its group is gone.
            return None;
        }
        let apart_us = arrived_us.saturating_sub(current.arrived_us);
        let grown_us = apart_us.saturating_sub(sent_us.saturating_sub(current.sent_us));
        let bunched = grown_us < 0
            && apart_us <= BURST_US
            && arrived_us.saturating_sub(current.first_arrived_us) < BURST_SPAN_US;
        if sent_us.saturating_sub(current.first_sent_us) <= BURST_US || bunched {
            current.sent_us = current.sent_us.max(sent_us);
            current.arrived_us = current.arrived_us.max(arrived_us);
            return None;
        }
        let ended = *current;
        self.current = Some(fresh);
        let before = self.before.replace(ended)?;
        let step = Step {
            sent_us: ended.sent_us.saturating_sub(before.sent_us),
            arrived_us: ended.arrived_us.saturating_sub(before.arrived_us),
            at_us: ended.arrived_us,
        };
        if step.arrived_us.saturating_sub(step.sent_us).abs() > JUMP_US {
            *self = Self::default();
            return None;
        }
        // Groups that overtake each other say nothing of queues.
        (step.arrived_us >= 0).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_one_burst_are_one_group() {
        let mut groups = Groups::default();
        let packets = [(0, 50), (4, 54), (10, 60), (11, 75), (30, 95), (50, 115)];
        let steps: Vec<_> =
            packets.iter().filter_map(|(sent, arrived)| groups.push(sent * 1000, arrived * 1000)).collect();
        let expected = [(7, 21, 75), (19, 20, 95)].map(|(sent, arrived, at)| Step {
            sent_us: sent * 1000,
            arrived_us: arrived * 1000,
            at_us: at * 1000,
        });
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_was_held_up_and_came_at_once_is_one_group() {
        let mut groups = Groups::default();
        assert_eq!(groups.push(0, 50_000), None);
        for sent in 1..8 {
            assert_eq!(groups.push(sent * 10_000, 200_000 + sent), None);
        }
        let step = groups.push(100_000, 300_000).expect("the held up group ends");
        assert_eq!((step.sent_us, step.arrived_us), (70_000, 150_007));
    }

    #[test]
    fn a_clock_that_jumps_begins_anew() {
        let mut groups = Groups::default();
        for (sent, arrived) in [(0, 0), (20_000, 20_000), (40_000, i64::MAX), (60_000, i64::MIN), (80_000, 0)]
        {
            let step = groups.push(sent, arrived);
            assert!(step.is_none_or(|step| step.arrived_us.abs() <= JUMP_US), "{step:?}");
        }
    }
}

//! What is in other branches of a call: their people, and who of them wants what of a source here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::{Allowance, Budget};
use crate::event::{Quality, QualityCause, Role};
use crate::exchange::{Branch, Branches};
use crate::media::ENCODINGS_MAX;
use crate::rtp::layers_allocation::LayersAllocation;

/// How long what there is to catch up on may take to come from another branch, before its sender is asked for a key frame
/// after all. Longer makes a picture late when it never comes.
const CATCH_UP_WAIT: Duration = Duration::from_millis(150);

/// What a sender says of its layers is told again after so long, though it is the same: others believe it for twice as long.
/// Shorter tells what is known already more often.
const ALLOCATION_AGAIN: Duration = Duration::from_secs(5);

/// How often others are told of changes to it. Encoders change what they send a few times in a second at most; more lets a sender
/// keep all branches busy.
const ALLOCATIONS: Allowance = Allowance { burst: 20, per_s: 20 };

/// Whose a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A participant's of this branch, by index.
    Here(usize),
    /// Somebody's of another branch, by index.
    Elsewhere(usize),
}

impl Owner {
    /// The index of a participant of this branch.
    #[must_use]
    pub(crate) fn here(self) -> Option<usize> {
        if let Self::Here(index) = self { Some(index) } else { None }
    }
}

/// Somebody who is on another branch.
#[derive(Debug)]
pub(crate) struct Away {
    pub branch: Branch,
    pub name: Arc<str>,
    pub role: Role,
    /// It understands sound with redundancy.
    pub redundancy: bool,
    /// Order of joining.
    pub order: u64,
    /// When it last spoke, in order of speaking, as this branch heard it.
    pub spoke: u64,
    pub quality: (Quality, Option<QualityCause>),
    /// Indexes of its sources in the call.
    pub sources: Vec<usize>,
}

/// What other branches have to do with a source.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    /// Of a source of another branch: whether it is sending, as that says.
    pub live: Option<bool>,
    /// Of a source of another branch: which encodings of it that was told are wanted here, and how high pictures may be.
    pub told_wanted: (u8, Option<u32>),
    /// Encodings that were not wanted before, since when: their branch is about to say what there is to catch up on.
    awaited: (u8, Option<Instant>),
    /// Of a source here: whether other branches were told that it is sending.
    pub told_live: bool,
    allocation: ToldAllocation,
    /// Branches that want each of its encodings.
    wanted: [Branches; ENCODINGS_MAX],
    /// The largest height that each of them wants.
    heights: Vec<(Branch, u32)>,
}

/// What other branches were told that a sender sends, and when.
#[derive(Debug)]
struct ToldAllocation {
    last: Option<(Instant, Box<[u8]>)>,
    budget: Budget,
}

impl Default for ToldAllocation {
    fn default() -> Self {
        Self { last: None, budget: Budget::new(ALLOCATIONS) }
    }
}

impl Elsewhere {
    /// Whether other branches are to be told what a sender says of its layers; they are, then.
    pub(crate) fn tells_allocation(&mut self, now: Instant, value: &[u8]) -> bool {
        let ToldAllocation { last, budget } = &mut self.allocation;
        let is_known = last.as_ref().is_some_and(|(at, told)| {
            **told == *value && now.saturating_duration_since(*at) < ALLOCATION_AGAIN
        });
        let tells = !is_known && LayersAllocation::parse(value).is_some() && budget.spend(now, 1);
        if tells {
            *last = Some((now, value.into()));
        }
        tells
    }

    /// There is a branch more, which was told nothing yet.
    pub(crate) fn forget_allocation(&mut self) {
        self.allocation.last = None;
    }

    /// A branch says which encodings it wants. Gives those, a bit for each, that it did not want before.
    pub(crate) fn want(&mut self, branch: Branch, encodings: u8, height: Option<u32>) -> u8 {
        let mut new = 0;
        for (at, branches) in (0_u8..).zip(&mut self.wanted) {
            let bit = bit(at);
            if encodings & bit == 0 {
                branches.remove(branch);
            } else if !branches.contains(branch) {
                branches.insert(branch);
                new |= bit;
            }
        }
        self.heights.retain(|(known, _)| *known != branch);
        if encodings != 0 {
            self.heights.push((branch, height.unwrap_or(u32::MAX)));
        }
        new
    }

    /// What is wanted here, as the branch of the source is told now.
    pub(crate) fn tell_wanted(&mut self, now: Instant, encodings: u8, height: Option<u32>) {
        let new = encodings & !self.told_wanted.0;
        self.told_wanted = (encodings, height);
        self.awaited =
            ((self.awaited.0 & encodings) | new, if new == 0 { self.awaited.1 } else { Some(now) });
    }

    /// What there is to catch up on came.
    pub(crate) fn caught_up(&mut self, encoding: u8) {
        self.awaited.0 &= !bit(encoding);
    }

    /// Whether there may soon be something to catch up on, so that nobody has to be asked for a key frame.
    #[must_use]
    pub(crate) fn awaits(&self, now: Instant, encoding: u8) -> bool {
        let recent = |at| now.saturating_duration_since(at) < CATCH_UP_WAIT;
        self.awaited.0 & bit(encoding) != 0 && self.awaited.1.is_some_and(recent)
    }

    /// Branches that want an encoding.
    #[must_use]
    pub(crate) fn takers(&self, encoding: usize) -> Branches {
        self.wanted.get(encoding).copied().unwrap_or_default()
    }

    /// The largest height that any branch wants; zero when none does.
    #[must_use]
    pub(crate) fn height(&self) -> u32 {
        self.heights.iter().map(|(_, height)| *height).max().unwrap_or(0)
    }
}

/// The bit of an encoding.
#[must_use]
pub(crate) fn bit(encoding: u8) -> u8 {
    1_u8.checked_shl(encoding.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sender_says_of_its_layers_is_told_when_it_is_news_and_once_in_a_while() {
        let now = Instant::now();
        let mut elsewhere = Elsewhere::default();
        // Nothing is sent; one stream of one layer with 10, then 11 kbit/s; what cannot be read.
        let (none, ten, eleven, bad) = ([0], [0x01, 0x00, 10], [0x01, 0x00, 11], [0x01]);
        assert!(LayersAllocation::parse(&ten).is_some() && LayersAllocation::parse(&bad).is_none());
        assert!(elsewhere.tells_allocation(now, &ten) && !elsewhere.tells_allocation(now, &ten));
        assert!(!elsewhere.tells_allocation(now, &bad));
        assert!(elsewhere.tells_allocation(now, &eleven) && elsewhere.tells_allocation(now, &none));
        assert!(elsewhere.tells_allocation(now + ALLOCATION_AGAIN, &none), "before others forget it");
        elsewhere.forget_allocation();
        assert!(elsewhere.tells_allocation(now + ALLOCATION_AGAIN, &none), "to a new branch");
        let later = now + ALLOCATION_AGAIN * 2;
        let told = (0..1000)
            .filter(|at| elsewhere.tells_allocation(later, if at % 2 == 0 { &ten[..] } else { &none[..] }));
        assert_eq!(told.count(), 20, "no more than any encoder changes");
    }

    #[test]
    fn what_a_branch_wants_is_new_once() {
        let (one, two) = (Branch::new(1).expect("few"), Branch::new(2).expect("few"));
        let mut elsewhere = Elsewhere::default();
        assert_eq!(elsewhere.want(one, 0b001, Some(180)), 0b001);
        assert_eq!(elsewhere.want(one, 0b101, Some(720)), 0b100);
        assert_eq!(elsewhere.want(two, 0b100, Some(360)), 0b100);
        assert!(elsewhere.takers(2).contains(one) && elsewhere.takers(2).contains(two));
        assert_eq!(elsewhere.height(), 720);
        assert_eq!(elsewhere.want(one, 0, None), 0);
        assert!(!elsewhere.takers(2).contains(one) && elsewhere.takers(0).is_empty());
        assert_eq!(elsewhere.height(), 360);
        assert_eq!(elsewhere.want(one, 0b001, None), 0b001);
        assert_eq!(elsewhere.height(), u32::MAX);
    }
}

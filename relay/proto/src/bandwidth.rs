//! Who gets how much of one receiver's bandwidth: a layer for each of its video slots. Pure: rates, sizes and the time
//! go in, layers come out.
//!
//! What the layers chosen take together is never more than the budget. Within it, what people chose to look at (a shared
//! screen, a pin) has all that it wants, or nothing more that fits, before others get anything; then the speaker and
//! everybody else get the smallest picture, then the speaker and at last everybody else what they want. Within a
//! class everybody gets the lowest layer first, then everybody the next: the largest slot first, and of equal ones
//! the first. Nobody gets a layer above the lowest that not all of the class have, or have enough of; but what is shown
//! already stays, as long as nobody else's turn takes the bandwidth. Whoever's lowest layer does not fit is paused, and
//! not waited for; what is left goes to those whose layers fit, also of worse classes, since bandwidth that nobody uses
//! helps nobody. So a better class is paused beside a worse one only when its lowest layer does not fit into what is
//! left, or waits for its time after a step down.
//!
//! Steps down are made at once. Steps up wait: see [`Allocator`].

use std::cmp::Reverse;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// A step up needs a budget so much larger than what it takes, in percent. More keeps the picture calmer, and leaves
/// bandwidth unused.
const HEADROOM_PERCENT: u64 = 110;

/// No step up for so long after a step down. Longer keeps the picture calmer, and smaller for longer.
const HOLD: Duration = Duration::from_secs(1);

/// What turned out to be too much is not tried again for so long, twice as long each time, and no longer than that. More
/// forgives a line less.
const REGRET_HOLD: Duration = Duration::from_secs(5);
const REGRET_HOLD_MAX: Duration = Duration::from_secs(40);

/// A step down so soon after a step up says that the step up was wrong. Longer blames it for what others did.
const REGRET: Duration = Duration::from_secs(10);

/// A budget below so many percent of what was shown before a step up is a line that became worse. More forgives wrong steps,
/// which make an estimate smaller by 15 % and more.
const WORSE_PERCENT: u64 = 75;

/// How often one slot rises again after a step down within [`STEADY_WINDOW`], while the budget is steady. More follows smaller
/// changes.
const STEADY_RETURNS_MAX: usize = 2;

/// See [`STEADY_RETURNS_MAX`].
const STEADY_WINDOW: Duration = Duration::from_secs(60);

/// A budget so many percent of what it was at a slot's last step is no longer a steady one: the line got better, and
/// the slot may follow without being counted. Less takes the tremble of an estimate for change: after congestion one
/// falls to 85 % and comes back.
const GROWTH_PERCENT: u64 = 130;

/// Which slots come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A shared screen, or what the receiver pinned.
    First,
    /// The current speaker.
    Speaker,
    /// Everybody else.
    Rest,
}

impl Priority {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::First, Self::Speaker, Self::Rest];
}

/// Up to which layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HowFar {
    /// The smallest pictures.
    Smallest,
    /// All that is wanted.
    All,
}

/// Who is given layers, one after the other. What people chose to look at comes before everything; then nobody is left
/// out so that the speaker may be larger.
const ROUNDS: [(Priority, HowFar); 5] = [
    (Priority::First, HowFar::All),
    (Priority::Speaker, HowFar::Smallest),
    (Priority::Rest, HowFar::Smallest),
    (Priority::Speaker, HowFar::All),
    (Priority::Rest, HowFar::All),
];

/// A layer that a source offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it takes, with all that it needs of layers below it. Smooth it: a layer that seems to grow for a moment
    /// over the budget is left at once.
    pub bits_per_s: u64,
    /// Height of its pictures in pixels, when known.
    pub height: Option<u32>,
}

/// What one slot wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Names what the slot shows. When that changes, nothing waits for what was before.
    pub source: u32,
    /// Its class.
    pub priority: Priority,
    /// How large the slot is, in pixels. None: as large as it can be.
    pub height_max: Option<u32>,
    /// The layers that there are, in ascending order of what they take. Among those of one class, layers of the same
    /// index count as equally good.
    pub layers: &'a [Layer],
    /// The layer that the slot has now. None: it is paused, or was not shown yet.
    pub current: Option<usize>,
}

impl Wish<'_> {
    fn height(&self, layer: usize) -> Option<u32> {
        self.layers.get(layer).and_then(|layer| layer.height)
    }

    fn cost(&self, level: Option<usize>) -> u64 {
        level.and_then(|level| self.layers.get(level)).map_or(0, |layer| layer.bits_per_s)
    }
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation<'a> {
    /// For each slot the index of its layer. None: it is paused, or there is nothing to show.
    pub layers: &'a [Option<usize>],
    /// The budget at which the next step up would be made, headroom included: what to probe for. When it is not more
    /// than the budget, a step up only waits. None when everybody has all that they want.
    pub next_bps: Option<u64>,
    /// When a step up that waits may be made: to ask again then. None when none waits.
    pub again_at: Option<Instant>,
}

/// What is remembered of a slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    source: u32,
    priority: Priority,
    height_max: Option<u32>,
    /// Nothing of the source was shown yet.
    fresh: bool,
    /// It had more than it has, and lost that because the budget did not allow it.
    fell: bool,
    /// First steps up after that, while the budget was steady.
    returns: [Option<Instant>; STEADY_RETURNS_MAX],
    /// How many layers its source had at most.
    layers: usize,
    /// The budget at the last step up or first picture, or at a step down after it.
    stepped_at_bps: Option<u64>,
}

impl Slot {
    fn new(wish: &Wish<'_>) -> Self {
        Self {
            source: wish.source,
            priority: wish.priority,
            height_max: wish.height_max,
            fresh: true,
            fell: false,
            returns: [None; STEADY_RETURNS_MAX],
            layers: wish.layers.len(),
            stepped_at_bps: None,
        }
    }

    /// What somebody else is shown in begins anew. What somebody asks for is not counted, nor are layers that are new.
    fn notice(&mut self, wish: &Wish<'_>) {
        let asked = (self.priority, self.height_max) != (wish.priority, wish.height_max);
        if self.source != wish.source {
            *self = Self::new(wish);
        } else if asked || self.layers < wish.layers.len() {
            *self = Self { fresh: self.fresh, ..Self::new(wish) };
        }
    }

    fn is_growth(&self, budget: u64) -> bool {
        self.stepped_at_bps.is_none_or(|before| percent(before, GROWTH_PERCENT) <= budget)
    }

    /// From when on it may rise again. None: at once.
    fn returns_at(&self, budget: u64) -> Option<Instant> {
        if !self.fell || self.is_growth(budget) {
            return None;
        }
        let free_at = self.returns.iter().map(|at| at.and_then(|at| at.checked_add(STEADY_WINDOW)));
        free_at.min().flatten()
    }

    fn step_up(&mut self, now: Instant, budget: u64) {
        let is_counted = std::mem::take(&mut self.fell) && !self.is_growth(budget);
        if is_counted && let Some(oldest) = self.returns.iter_mut().min() {
            *oldest = Some(now);
        }
        self.stepped_at_bps = Some(budget);
    }
}

/// The choices for one receiver, and what they wait for.
///
/// A step up needs 10 % more budget than it takes. After a step down that the budget made necessary none is made for a
/// second. A step up that is followed by a step down within 10 s was wrong, unless the line became so much worse that
/// what was shown before does not fit either: none that takes as much is made for 5 s, and for up to 40 s when that
/// happens again, unless the line is thought to carry clearly more than it was then. While the budget is steady a slot
/// rises again at most twice a minute. What a slot shows first is chosen at once, and so is what somebody asks for by
/// pinning or enlarging, unless the line was just found too narrow. A slot that others of better class, or larger ones,
/// take bandwidth from, steps down without such consequences.
#[derive(Debug)]
pub struct Allocator {
    slots: Vec<Slot>,
    stepped_down: Option<Instant>,
    /// The last step up since the last step down.
    tried: Option<Try>,
    /// The last one that was wrong, until when it is not made again, and how long that was.
    failed: Option<(Try, Instant, Duration)>,
    /// What everything takes that is shown already, with the steps up made so far.
    taken: u64,
    /// These are only kept for their memory.
    places: Vec<Place>,
    order: Vec<usize>,
    chosen: Vec<Option<usize>>,
}

impl Default for Allocator {
    fn default() -> Self {
        Self::new()
    }
}

/// A slot while layers are given out.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Pictures that are large enough: the smallest ones at least as high as the slot.
    height_cap: Option<u32>,
    /// The largest slots first.
    rank: Reverse<u32>,
    /// The layer that it has now, or the best below it that is not too large.
    kept: Option<usize>,
    /// What it was given.
    level: Option<usize>,
    /// What it may be given next.
    next: Option<usize>,
}

impl Place {
    fn new(wish: &Wish<'_>) -> Self {
        let is_enough = |height: &u32| wish.height_max.is_some_and(|height_max| *height >= height_max);
        let mut place = Self {
            height_cap: wish.layers.iter().filter_map(|layer| layer.height).filter(is_enough).min(),
            rank: Reverse(wish.height_max.unwrap_or(u32::MAX)),
            kept: None,
            level: None,
            next: None,
        };
        let has = |layer: &usize| wish.current.is_some_and(|current| *layer <= current);
        place.kept = (0..wish.layers.len()).rev().filter(has).find(|layer| place.fits(wish, *layer));
        place.next = place.after(wish);
        place
    }

    /// Whether a layer's pictures are not larger than needed.
    fn fits(&self, wish: &Wish<'_>, layer: usize) -> bool {
        match (wish.height(layer), self.height_cap) {
            (Some(height), Some(cap)) => height <= cap,
            _ => true,
        }
    }

    fn after(&self, wish: &Wish<'_>) -> Option<usize> {
        let from = self.level.map_or(0, |level| level.saturating_add(1));
        (from..wish.layers.len()).find(|layer| self.fits(wish, *layer))
    }

    fn give(&mut self, wish: &Wish<'_>, layer: usize) {
        self.level = Some(layer);
        self.next = self.after(wish);
    }

    /// Whether a layer's pictures are as small as there are for it.
    fn is_smallest(&self, wish: &Wish<'_>, layer: usize) -> bool {
        let first = (0..wish.layers.len()).find(|layer| self.fits(wish, *layer));
        first == Some(layer)
            || first
                .is_some_and(|first| wish.height(first).is_some() && wish.height(first) == wish.height(layer))
    }

    /// Whether the next layer is none that it has already.
    fn is_next_up(&self) -> bool {
        self.next > self.kept
    }
}

/// A step up.
#[derive(Clone, Copy, Debug)]
struct Try {
    at: Instant,
    /// The budget that was thought to be there.
    budget: u64,
    /// What everything took before it and with it.
    before: u64,
    after: u64,
}

/// What becomes of a wish for one more layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Granted,
    /// It takes more than there is.
    TooMuch,
    /// It would fit, but its time has not come.
    Waits(Instant),
}

impl Allocator {
    /// Of a receiver that was shown nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            stepped_down: None,
            tried: None,
            failed: None,
            taken: 0,
            places: Vec::new(),
            order: Vec::new(),
            chosen: Vec::new(),
        }
    }

    /// Chooses a layer for each slot, in the order of the slots. `budget_bps` is what there is for video; None when
    /// nobody knows, and then everybody gets what they want.
    pub fn allocate(&mut self, now: Instant, budget_bps: Option<u64>, wishes: &[Wish<'_>]) -> Allocation<'_> {
        self.slots.truncate(wishes.len());
        for (slot, wish) in self.slots.iter_mut().zip(wishes) {
            slot.notice(wish);
        }
        self.slots.extend(wishes.iter().skip(self.slots.len()).map(Slot::new));
        self.places.clear();
        self.places.extend(wishes.iter().map(Place::new));

        let (mut next_bps, mut again_at) = (None, None);
        if let Some(budget) = budget_bps {
            let mut used = 0;
            self.taken = kept(wishes, &self.places);
            for (priority, how_far) in ROUNDS {
                self.order.clear();
                let of_class = wishes.iter().enumerate().filter(|(_, wish)| wish.priority == priority);
                self.order.extend(of_class.map(|(at, _)| at));
                let waits = self.give_class(now, budget, wishes, how_far, &mut used);
                again_at = earlier(again_at, waits);
            }
            next_bps = self.next_bps(wishes, used);
            self.remember(now, budget, wishes);
        } else {
            for (place, wish) in self.places.iter_mut().zip(wishes) {
                while let Some(next) = place.next {
                    place.give(wish, next);
                }
            }
        }
        for (slot, place) in self.slots.iter_mut().zip(&self.places) {
            slot.fresh &= place.level.is_none();
        }
        self.chosen.clear();
        self.chosen.extend(self.places.iter().map(|place| place.level));
        Allocation { layers: &self.chosen, next_bps, again_at }
    }

    /// Gives the slots in `order` their layers, one after the other, and adds what they take to `used`. Says when the first
    /// that waits may ask again.
    fn give_class(
        &mut self,
        now: Instant,
        budget: u64,
        wishes: &[Wish<'_>],
        how_far: HowFar,
        used: &mut u64,
    ) -> Option<Instant> {
        let mut again_at = None;
        let mut is_short = false;
        loop {
            let places = &self.places;
            // Of slots as large as each other those come first that have the layer already: what is shown stays.
            self.order.sort_unstable_by_key(|at| {
                (places.get(*at).map(|place| (place.rank, place.is_next_up())), *at)
            });
            let may_rise = !is_short;
            let mut any = false;
            for at in &self.order {
                let (Some(wish), Some(slot)) = (wishes.get(*at), self.slots.get(*at)) else { continue };
                let Some(place) = self.places.get_mut(*at) else { continue };
                let Some(next) = place.next.filter(|_| may_rise || !place.is_next_up()) else { continue };
                if how_far == HowFar::Smallest && !place.is_smallest(wish, next) {
                    continue;
                }
                let total = used.saturating_sub(wish.cost(place.level)).saturating_add(wish.cost(Some(next)));
                let has = wish.cost(place.level.max(place.kept));
                let taken = self.taken.saturating_sub(has).saturating_add(wish.cost(Some(next)));
                let waits = Waits { failed: self.failed, stepped_down: self.stepped_down };
                match waits.judge(now, budget, (slot, place), (total, taken)) {
                    Verdict::Granted => {
                        *used = total;
                        if place.is_next_up() {
                            self.taken = taken;
                        }
                        place.give(wish, next);
                        any = true;
                    }
                    Verdict::TooMuch => is_short |= place.level.is_some(),
                    Verdict::Waits(until) => {
                        again_at = earlier(again_at, Some(until));
                        is_short = true;
                    }
                }
            }
            if !any {
                return again_at;
            }
        }
    }

    /// What all would take with the next step up, and headroom.
    fn next_bps(&self, wishes: &[Wish<'_>], used: u64) -> Option<u64> {
        let steps = wishes.iter().zip(&self.places).enumerate().filter_map(|(at, (wish, place))| {
            let more = wish.cost(Some(place.next?)).saturating_sub(wish.cost(place.level));
            Some(((wish.priority, place.level, place.rank, at), more))
        });
        let (_, more) = steps.min()?;
        Some(percent(used.saturating_add(more), HEADROOM_PERCENT))
    }

    /// Notes which steps were made, and why.
    fn remember(&mut self, now: Instant, budget: u64, wishes: &[Wish<'_>]) {
        let before = kept(wishes, &self.places);
        let is_short = before > budget;
        let (mut up, mut down) = (false, false);
        for (slot, place) in self.slots.iter_mut().zip(&self.places) {
            if is_short && place.level < place.kept {
                down = true;
                slot.fell = true;
                slot.stepped_at_bps = Some(slot.stepped_at_bps.map_or(budget, |before| before.min(budget)));
            } else if place.level > place.kept && slot.fresh {
                slot.stepped_at_bps = Some(budget);
            } else if place.level > place.kept {
                up = true;
                slot.step_up(now, budget);
            }
        }
        if down {
            // One wrong step up may be followed by several down: it is blamed once.
            if let Some(tried) = self.tried.take() {
                self.regret(now, tried);
            }
            // It is not to blame where soon not even what was shown before it fits: the line became worse.
            self.failed = self.failed.filter(|(failed, ..)| budget >= failed.before * WORSE_PERCENT / 100);
            self.stepped_down = Some(now);
        } else if up {
            self.tried = Some(Try { at: now, budget, before, after: self.taken });
        }
    }

    /// Less is shown than with the last step up.
    fn regret(&mut self, now: Instant, tried: Try) {
        self.failed = if now.saturating_duration_since(tried.at) > REGRET {
            None
        } else {
            let hold =
                self.failed.map_or(REGRET_HOLD, |(.., hold)| hold.saturating_mul(2)).min(REGRET_HOLD_MAX);
            now.checked_add(hold).map(|until| (tried, until, hold))
        };
    }
}

/// What steps up wait for.
struct Waits {
    failed: Option<(Try, Instant, Duration)>,
    stepped_down: Option<Instant>,
}

impl Waits {
    /// Whether a slot gets the next layer, with which everything so far takes `total`, and everything `taken` when the others
    /// stay as they are.
    fn judge(
        &self,
        now: Instant,
        budget: u64,
        (slot, place): (&Slot, &Place),
        (total, taken): (u64, u64),
    ) -> Verdict {
        let is_free = !place.is_next_up() || slot.fresh && place.level.is_none();
        let needed = if is_free { total } else { percent(total, HEADROOM_PERCENT) };
        if needed > budget {
            return Verdict::TooMuch;
        }
        if is_free {
            return Verdict::Granted;
        }
        let held_until = self.stepped_down.and_then(|stepped_down| stepped_down.checked_add(HOLD));
        // What failed is tried sooner when the line is clearly better than it was thought to be then.
        let failed = self.failed.filter(|(failed, ..)| {
            percent(taken, HEADROOM_PERCENT) >= failed.after
                && budget < percent(failed.budget, GROWTH_PERCENT)
        });
        match held_until.max(failed.map(|(_, until, _)| until)).max(slot.returns_at(budget)) {
            Some(until) if until > now => Verdict::Waits(until),
            _ => Verdict::Granted,
        }
    }
}

/// What everything takes that is shown already.
fn kept(wishes: &[Wish<'_>], places: &[Place]) -> u64 {
    wishes.iter().zip(places).map(|(wish, place)| wish.cost(place.kept)).fold(0, u64::saturating_add)
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

/// So many percent of a rate, rounded up.
fn percent(bits_per_s: u64, percent: u64) -> u64 {
    bits_per_s.saturating_mul(percent).div_ceil(100)
}

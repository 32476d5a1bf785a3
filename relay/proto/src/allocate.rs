//! Who sees and hears whom: which source each slot shows. Pure over lists of sources, which are as short as the sections of an
//! offer; the call carries it out.

/// A receiver's slot, as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What it shows now.
    pub shows: Option<usize>,
    /// What its owner pinned to it, as far as that is there. A pinned slot shows nothing else, and nothing where another slot
    /// shows that already.
    pub pin: Option<Option<usize>>,
}

/// Chooses what each slot is to show: what is pinned, and in the others the first of `wanted` (most wanted first)
/// that no slot shows yet. A source that stays wanted stays in its slot. What is no longer wanted, but whose slot
/// nobody needs, goes on when `keep` says that it may.
#[must_use]
pub(crate) fn choose(
    places: &[Place],
    wanted: impl Iterator<Item = usize>,
    keep: impl Fn(usize) -> bool,
) -> Vec<Option<usize>> {
    let free = places.iter().filter(|place| place.pin.is_none()).count();
    let pinned: Vec<usize> = places.iter().filter_map(|place| place.pin.flatten()).collect();
    let wanted: Vec<usize> = wanted.filter(|source| !pinned.contains(source)).take(free).collect();

    let mut shown: Vec<usize> = Vec::with_capacity(places.len());
    let mut once = |source: &usize| {
        let first = !shown.contains(source);
        shown.extend(first.then_some(*source));
        first
    };
    let mut chosen: Vec<Option<usize>> = places
        .iter()
        .map(|place| match place.pin {
            Some(pin) => pin.filter(&mut once),
            None => place.shows.filter(|source| wanted.contains(source) && once(source)),
        })
        .collect();
    let rest: Vec<usize> =
        wanted.iter().filter(|source| !chosen.contains(&Some(**source))).copied().collect();
    let mut rest = rest.into_iter();
    // Empty slots first, so that what may be kept is kept.
    let mut open: Vec<usize> = (0..places.len())
        .filter(|at| {
            places.get(*at).is_some_and(|place| place.pin.is_none()) && chosen.get(*at) == Some(&None)
        })
        .collect();
    let kept = |at: &usize| {
        places
            .get(*at)
            .and_then(|place| place.shows)
            .is_some_and(|source| keep(source) && !pinned.contains(&source))
    };
    open.sort_by_key(|at| (kept(at), *at));
    for at in open {
        let Some(slot) = chosen.get_mut(at) else { continue };
        *slot = rest.next();
        if slot.is_none() && kept(&at) {
            *slot = places.get(at).and_then(|place| place.shows).filter(&mut once);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(shows: Option<usize>) -> Place {
        Place { shows, pin: None }
    }

    #[test]
    fn the_most_wanted_fill_the_slots_in_order() {
        let chosen = choose(&[free(None), free(None)], [7, 8, 9].into_iter(), |_| false);
        assert_eq!(chosen, [Some(7), Some(8)]);
    }

    #[test]
    fn who_stays_wanted_stays_in_the_slot() {
        let chosen = choose(&[free(Some(9)), free(Some(7))], [7, 8].into_iter(), |_| false);
        assert_eq!(chosen, [Some(8), Some(7)]);
    }

    #[test]
    fn a_pinned_source_is_shown_once_and_takes_no_second_slot() {
        let pinned = Place { shows: Some(1), pin: Some(Some(7)) };
        assert_eq!(choose(&[free(None), pinned], [7, 8].into_iter(), |_| false), [Some(8), Some(7)]);
    }

    #[test]
    fn what_is_pinned_twice_is_shown_once() {
        let pinned = Place { shows: Some(7), pin: Some(Some(7)) };
        assert_eq!(choose(&[pinned, pinned], [7, 8].into_iter(), |_| false), [Some(7), None]);
    }

    #[test]
    fn a_pin_on_who_is_not_there_keeps_the_slot_empty() {
        let pinned = Place { shows: None, pin: Some(None) };
        assert_eq!(choose(&[pinned, free(None)], [7, 8].into_iter(), |_| false), [None, Some(7)]);
    }

    #[test]
    fn what_nobody_needs_the_slot_of_may_stay() {
        let places = [free(Some(5)), free(None), free(Some(6))];
        assert_eq!(choose(&places, [7].into_iter(), |_| true), [Some(5), Some(7), Some(6)]);
        assert_eq!(choose(&places, [7, 8].into_iter(), |_| true), [Some(8), Some(7), Some(6)]);
        assert_eq!(choose(&places, [7].into_iter(), |source| source == 6), [Some(7), None, Some(6)]);
    }
}

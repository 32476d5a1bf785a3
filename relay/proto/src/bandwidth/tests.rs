//! Who gets which layer, and when.

use proptest::prelude::*;

use super::*;

/// Simulcast of a camera.
const CAMERA: [Layer; 3] = [layer(150, 180), layer(500, 360), layer(1500, 720)];

const fn layer(kbits_per_s: u64, height: u32) -> Layer {
    Layer { bits_per_s: kbits_per_s * 1000, height: Some(height) }
}

fn wish(priority: Priority, height_max: Option<u32>) -> Wish<'static> {
    Wish { source: 1, priority, height_max, layers: &CAMERA, current: None }
}

fn kbits(budget: u64) -> Option<u64> {
    Some(budget * 1000)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A receiver whose slots get what is chosen.
struct Receiver {
    allocator: Allocator,
    wishes: Vec<Wish<'static>>,
    start: Instant,
    next_bps: Option<u64>,
    again_at: Option<f64>,
}

impl Receiver {
    fn new(wishes: &[Wish<'static>]) -> Self {
        let start = Instant::now();
        Self { allocator: Allocator::new(), wishes: wishes.to_vec(), start, next_bps: None, again_at: None }
    }

    fn cameras(count: usize) -> Self {
        Self::new(&vec![wish(Priority::Rest, None); count])
    }

    fn at(&mut self, at_s: f64, budget: Option<u64>) -> Vec<Option<usize>> {
        let allocation = self.allocator.allocate(self.start + seconds(at_s), budget, &self.wishes);
        self.next_bps = allocation.next_bps;
        self.again_at = allocation.again_at.map(|again_at| again_at.duration_since(self.start).as_secs_f64());
        for (wish, layer) in self.wishes.iter_mut().zip(allocation.layers) {
            wish.current = *layer;
        }
        allocation.layers.to_vec()
    }
}

#[test]
fn without_a_budget_everybody_gets_what_the_slot_has_room_for() {
    let heights = [None, Some(1080), Some(720), Some(361), Some(360), Some(90)];
    let mut receiver = Receiver::new(&heights.map(|height| wish(Priority::Rest, height)));
    let expected = [Some(2), Some(2), Some(2), Some(2), Some(1), Some(0)];
    assert_eq!(receiver.at(0.0, None), expected);
    assert_eq!((receiver.next_bps, receiver.again_at), (None, None));
    assert_eq!(receiver.at(0.1, kbits(100_000)), expected);
    assert_eq!((receiver.next_bps, receiver.again_at), (None, None));
}

#[test]
fn layers_of_one_height_are_all_of_use_and_those_of_no_known_height_too() {
    const LAYERS: [Layer; 5] =
        [layer(100, 180), layer(130, 180), layer(200, 360), layer(210, 180), layer(400, 360)];
    const UNKNOWN: [Layer; 2] =
        [Layer { bits_per_s: 1, height: None }, Layer { bits_per_s: 2, height: None }];
    let small = Wish { layers: &LAYERS, ..wish(Priority::Rest, Some(180)) };
    let unknown = Wish { layers: &UNKNOWN, ..small };
    let nothing = Wish { layers: &[], ..small };
    assert_eq!(Receiver::new(&[small, unknown, nothing]).at(0.0, None), [Some(3), Some(1), None]);
}

#[test]
fn the_first_allocation_is_made_at_once() {
    let mut receiver = Receiver::cameras(1);
    assert_eq!(receiver.at(0.0, kbits(600)), [Some(1)]);
    assert_eq!(receiver.next_bps, kbits(1650), "the next step with headroom");
    assert_eq!(Receiver::cameras(1).at(0.0, kbits(150)), [Some(0)], "a first picture needs no headroom");
    assert_eq!(Receiver::cameras(1).at(0.0, kbits(149)), [None]);
}

#[test]
fn what_people_chose_comes_first_then_a_small_picture_of_everybody_then_the_speaker() {
    let all = [Priority::Rest, Priority::Speaker, Priority::First];
    let allocated = |budget| Receiver::new(&all.map(|class| wish(class, None))).at(0.0, kbits(budget));
    assert_eq!(allocated(160), [None, None, Some(0)]);
    assert_eq!(allocated(700), [None, Some(0), Some(1)]);
    assert_eq!(allocated(1660), [None, Some(0), Some(2)]);
    assert_eq!(allocated(2300), [Some(0), Some(0), Some(2)]);
    assert_eq!(allocated(2600), [Some(0), Some(1), Some(2)]);
    assert_eq!(allocated(4000), [Some(1), Some(2), Some(2)]);
}

#[test]
fn who_does_not_fit_does_not_keep_others_from_what_is_left() {
    const SLIDES: [Layer; 1] = [layer(2000, 1080)];
    let screen = Wish { layers: &SLIDES, ..wish(Priority::First, None) };
    let mut receiver = Receiver::new(&[screen, wish(Priority::First, None), wish(Priority::Rest, None)]);
    assert_eq!(receiver.at(0.0, kbits(800)), [None, Some(1), Some(0)]);
}

#[test]
fn within_a_class_the_largest_come_first_and_all_get_a_layer_before_any_gets_the_next() {
    let slots =
        [wish(Priority::Rest, Some(180)), wish(Priority::Rest, Some(720)), wish(Priority::Rest, Some(360))];
    let allocated = |budget| Receiver::new(&slots).at(0.0, kbits(budget));
    assert_eq!(allocated(160), [None, Some(0), None]);
    assert_eq!(allocated(320), [None, Some(0), Some(0)]);
    assert_eq!(allocated(460), [Some(0), Some(0), Some(0)]);
    assert_eq!(allocated(900), [Some(0), Some(1), Some(0)]);
    assert_eq!(allocated(1270), [Some(0), Some(1), Some(1)], "nobody is two layers ahead");
    assert_eq!(allocated(2400), [Some(0), Some(2), Some(1)]);
    assert_eq!(Receiver::cameras(3).at(0.0, kbits(890)), [Some(1), Some(0), Some(0)], "the first of equals");
}

#[test]
fn steps_down_are_made_at_once_and_steps_up_a_second_after() {
    let mut receiver = Receiver::cameras(1);
    assert_eq!(receiver.at(0.0, kbits(2000)), [Some(2)]);
    assert_eq!(receiver.at(20.0, kbits(1499)), [Some(1)]);
    assert_eq!(receiver.at(20.1, kbits(2000)), [Some(1)]);
    assert_eq!((receiver.again_at, receiver.next_bps), (Some(21.0), kbits(1650)));
    assert_eq!(receiver.at(20.9, kbits(2000)), [Some(1)]);
    assert_eq!(receiver.at(21.0, kbits(1649)), [Some(1)], "without headroom");
    assert_eq!(receiver.at(21.1, kbits(1650)), [Some(2)]);
    assert_eq!(receiver.at(60.0, kbits(1500)), [Some(2)], "what is shown stays without it");
}

#[test]
fn a_paused_slot_is_shown_again_with_headroom() {
    let mut receiver = Receiver::cameras(1);
    receiver.at(0.0, kbits(600));
    assert_eq!(receiver.at(10.0, kbits(100)), [None]);
    assert_eq!(receiver.at(10.9, kbits(600)), [None]);
    assert_eq!(receiver.at(11.0, kbits(160)), [None], "with headroom");
    assert_eq!(receiver.at(11.1, kbits(600)), [Some(1)]);
}

#[test]
fn steps_up_that_turn_out_wrong_are_tried_less_and_less_often() {
    let mut receiver = Receiver::cameras(1);
    receiver.at(0.0, kbits(2000));
    let mut now = 100.0;
    receiver.at(now, kbits(1000));
    now += 1.0;
    receiver.at(now, kbits(20_000));
    now += 9.0;
    assert_eq!(receiver.at(now, kbits(1400)), [Some(1)]);
    for hold in [5.0, 10.0, 20.0, 40.0, 40.0] {
        assert_eq!(receiver.at(now + hold - 0.01, kbits(20_000)), [Some(1)], "after {hold} s");
        now += hold;
        // Ever larger, so that none of these counts as steady.
        assert_eq!(receiver.at(now, kbits(20_000)), [Some(2)], "after {hold} s");
        now += 9.0;
        assert_eq!(receiver.at(now, kbits(1400)), [Some(1)]);
    }
    now += 40.0;
    assert_eq!(receiver.at(now, kbits(20_000)), [Some(2)]);
    now += 11.0;
    assert_eq!(receiver.at(now, kbits(1400)), [Some(1)], "this one was right for a while");
    assert_eq!(receiver.at(now + 1.0, kbits(20_000)), [Some(2)]);
}

#[test]
fn a_line_that_became_worse_is_no_mistake_and_one_that_became_better_is_believed() {
    let mut receiver = Receiver::cameras(1);
    receiver.at(0.0, kbits(600));
    assert_eq!(receiver.at(5.0, kbits(2000)), [Some(2)]);
    assert_eq!(receiver.at(6.0, kbits(1000)), [Some(1)], "seems to be a mistake");
    assert_eq!(receiver.at(6.2, kbits(300)), [Some(0)], "and is none");
    assert_eq!(receiver.at(7.2, kbits(2000)), [Some(2)]);
    assert_eq!(receiver.at(8.0, kbits(1000)), [Some(1)]);
    assert_eq!(receiver.at(9.1, kbits(2500)), [Some(1)], "this was one");
    assert_eq!(receiver.at(9.2, kbits(2600)), [Some(2)]);
}

#[test]
fn several_steps_down_after_one_step_up_are_one_mistake() {
    let mut receiver = Receiver::cameras(1);
    receiver.at(0.0, kbits(600));
    receiver.at(1.0, kbits(2000));
    assert_eq!(receiver.at(2.0, kbits(600)), [Some(1)]);
    assert_eq!(receiver.at(2.5, kbits(490)), [Some(0)]);
    assert_eq!(receiver.at(6.9, kbits(2000)), [Some(1)]);
    assert_eq!(receiver.at(7.0, kbits(2000)), [Some(2)], "five seconds, not ten");
}

#[test]
fn a_line_that_gets_better_is_followed_without_counting() {
    const FINE: [Layer; 5] =
        [layer(100, 90), layer(200, 180), layer(400, 360), layer(800, 540), layer(1600, 720)];
    let mut receiver = Receiver::new(&[Wish { layers: &FINE, ..wish(Priority::Rest, None) }]);
    for (at, budget, expected) in [(0.0, 120, 0), (1.0, 230, 1), (2.0, 450, 2), (3.0, 900, 3), (4.0, 1800, 4)]
    {
        assert_eq!(receiver.at(at, kbits(budget)), [Some(expected)]);
    }
}

#[test]
fn layers_that_are_new_are_not_counted() {
    let mut receiver = Receiver::cameras(1);
    for count in 1..=3 {
        receiver.wishes[0].layers = &CAMERA[..count];
        assert_eq!(receiver.at(0.1, kbits(2000)), [Some(count - 1)]);
    }
}

#[test]
fn what_another_is_shown_in_waits_for_nothing_but_better_layers() {
    let mut receiver = Receiver::cameras(2);
    receiver.at(0.0, kbits(1200));
    assert_eq!(receiver.at(10.0, kbits(400)), [Some(0), Some(0)]);
    receiver.wishes[0] = Wish { source: 9, current: None, ..receiver.wishes[0] };
    assert_eq!(receiver.at(10.1, kbits(1200)), [Some(0), Some(0)], "a picture at once, small at first");
    assert_eq!(receiver.at(11.0, kbits(1200)), [Some(1), Some(1)]);
    receiver.wishes[0] = Wish { source: 7, current: None, ..receiver.wishes[0] };
    assert_eq!(receiver.at(16.0, kbits(1200)), [Some(1), Some(1)], "on a good line all at once");
}

#[test]
fn bandwidth_that_goes_to_a_better_class_is_no_mistake_of_anybody() {
    let mut receiver = Receiver::cameras(2);
    assert_eq!(receiver.at(0.0, kbits(1700)), [Some(1), Some(1)]);
    receiver.wishes[1].priority = Priority::First;
    assert_eq!(receiver.at(1.0, kbits(1700)), [Some(0), Some(2)]);
    receiver.wishes[1].priority = Priority::Rest;
    receiver.wishes[1].height_max = Some(180);
    assert_eq!(receiver.at(2.0, kbits(1700)), [Some(1), Some(0)], "nothing waits");
}

#[test]
fn what_somebody_asks_for_is_not_counted() {
    let mut receiver = Receiver::cameras(1);
    for at in 0..10 {
        let height = if at % 2 == 0 { 180 } else { 720 };
        receiver.wishes[0].height_max = Some(height);
        assert_eq!(receiver.at(f64::from(at), kbits(2000)), [Some(if height == 180 { 0 } else { 2 })]);
    }
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    prop::collection::vec((1_u64..2000, prop::option::of(90_u32..1080)), 0..6).prop_map(|mut layers| {
        layers.sort_by_key(|(kbits, _)| *kbits);
        layers.into_iter().map(|(kbits, height)| Layer { bits_per_s: kbits * 1000, height }).collect()
    })
}

fn priorities() -> impl Strategy<Value = Priority> {
    prop::sample::select(Priority::ALL.to_vec())
}

proptest! {
    #[test]
    fn what_is_chosen_fits_and_no_better_class_is_paused_when_it_could_take_a_worse_ones_place(
        slots in prop::collection::vec((priorities(), prop::option::of(90_u32..1080), layers()), 0..8),
        budgets in prop::collection::vec((0_u64..4000, 0_u64..20_000, any::<bool>()), 1..30),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut allocator = Allocator::new();
        let mut current = vec![None; slots.len()];
        for (budget, after_ms, is_known) in budgets {
            now += Duration::from_millis(after_ms);
            let budget = kbits(budget).filter(|_| is_known);
            let wishes: Vec<_> = slots
                .iter()
                .zip(&current)
                .zip(0..)
                .map(|(((priority, height_max, layers), current), source)| {
                    Wish { source, priority: *priority, height_max: *height_max, layers, current: *current }
                })
                .collect();
            let allocation = allocator.allocate(now, budget, &wishes);
            prop_assert_eq!(allocation.layers.len(), wishes.len());
            let sum: u64 = wishes.iter().zip(allocation.layers).map(|(wish, level)| wish.cost(*level)).sum();
            prop_assert!(sum <= budget.unwrap_or(u64::MAX), "{} of {:?}", sum, budget);
            for (wish, level) in wishes.iter().zip(allocation.layers) {
                let Some(level) = level else { continue };
                let height = wish.layers[*level].height.unwrap_or(0);
                let enough = wish.layers.iter().filter_map(|layer| layer.height);
                let enough = enough.filter(|height| wish.height_max.is_some_and(|max| *height >= max)).min();
                prop_assert!(height <= enough.unwrap_or(u32::MAX), "no larger than the slot needs");
            }
            if let Some(again_at) = allocation.again_at {
                prop_assert!(again_at > now, "who waits, waits for later");
            } else {
                // Nobody waits: whoever is paused does not fit besides the better classes and its own.
                for (wish, level) in wishes.iter().zip(allocation.layers) {
                    if level.is_some() || wish.layers.is_empty() {
                        continue;
                    }
                    let before: u64 = wishes
                        .iter()
                        .zip(allocation.layers)
                        .filter(|(other, _)| other.priority <= wish.priority)
                        .map(|(other, level)| other.cost(*level))
                        .sum();
                    let lowest = Place::new(wish).next.map_or(0, |lowest| wish.layers[lowest].bits_per_s);
                    prop_assert!(percent(before + lowest, HEADROOM_PERCENT) > budget.unwrap_or(u64::MAX));
                }
            }
            current = allocation.layers.to_vec();
        }
    }

    #[test]
    fn on_a_steady_line_a_slot_rises_again_twice_a_minute_however_its_estimate_trembles(
        line in 200_u64..4000,
        tremble in prop::collection::vec(85_u64..108, 1..50),
    ) {
        let mut receiver = Receiver::cameras(1);
        receiver.at(0.0, None);
        let (mut returns, mut fell) = (Vec::new(), false);
        let mut before = receiver.wishes[0].current;
        // The estimate wanders, half a second at each place.
        for (tick, part) in (0_u32..3000).zip(tremble.iter().flat_map(|part| [part; 5]).cycle()) {
            let at = f64::from(tick) * 0.1;
            let now = receiver.at(at, kbits(line * part / 100))[0];
            if now > before && std::mem::take(&mut fell) {
                returns.push(at);
            }
            fell |= now < before;
            before = now;
        }
        for window in returns.windows(STEADY_RETURNS_MAX + 1) {
            prop_assert!(window[STEADY_RETURNS_MAX] - window[0] >= 60.0, "{:?}", returns);
        }
    }

    #[test]
    fn after_a_drop_everything_is_back_within_ten_seconds(line in 600_u64..4000, low in 0_u64..300) {
        let mut receiver = Receiver::cameras(1);
        receiver.at(0.0, kbits(line));
        let before = receiver.at(1.0, kbits(line));
        receiver.at(60.0, kbits(low));
        receiver.at(69.9, kbits(low));
        receiver.at(70.0, kbits(line / 2));
        receiver.at(73.0, kbits(line));
        let after = receiver.at(76.0, kbits(line));
        prop_assert!(after >= before, "{:?} {:?}", before, after);
    }
}

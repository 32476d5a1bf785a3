//! What the whole does, over links of many kinds, and what it makes of reports that lie.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::simulation::{Bps, Scenario, run};
use super::{Downlink, uplink::Estimator};
use crate::rtcp::{Packet, Writer, packets};

const SEEDS: std::ops::Range<u64> = 1..9;

const EVERY_RATE: [(f64, Bps); 5] =
    [(3e5, |_| 3e5), (5e5, |_| 5e5), (1e6, |_| 1e6), (3e6, |_| 3e6), (1e7, |_| 1e7)];

#[test]
fn a_steady_link_is_used_within_ten_seconds_and_its_queue_stays_short() {
    for (bps, rate) in EVERY_RATE {
        for seed in SEEDS {
            let outcome = run(&Scenario { rate, layers: &[2e7], ..Scenario::default() }, seed);
            let share = outcome.share(10, 30, bps);
            assert!(share >= 0.85, "{share:.2} of {bps} with seed {seed}");
            let queue_ms = outcome.queue_p95_ms();
            // A packet alone takes 32 ms of the slowest.
            let most_ms = if bps < 5e5 { 130.0 } else { 100.0 };
            assert!(queue_ms < most_ms, "{queue_ms:.0} ms of queue at {bps} with seed {seed}");
        }
    }
}

#[test]
fn a_long_way_is_used_as_well() {
    for seed in SEEDS {
        let outcome = run(&Scenario { rate: |_| 1e6, delay_ms: 150, ..Scenario::default() }, seed);
        let share = outcome.share(10, 30, 1e6);
        let queue_ms = outcome.queue_p95_ms();
        assert!(share >= 0.85 && queue_ms < 130.0, "{share:.2}, {queue_ms:.0} ms with seed {seed}");
    }
}

#[test]
fn after_a_drop_four_fifths_are_back_within_ten_seconds() {
    for seed in SEEDS {
        let rate = |s: f64| if (15.0..25.0).contains(&s) { 3e5 } else { 2e6 };
        let outcome = run(&Scenario { rate, seconds: 45, layers: &[2e6], ..Scenario::default() }, seed);
        let back = outcome.reaches(25, 1.6e6);
        assert!(back.is_some_and(|second| second <= 35), "{back:?} with seed {seed}");
        let low = outcome.share(18, 25, 3e5);
        assert!(low >= 0.5, "{low:.2} of what is left meanwhile, with seed {seed}");
    }
}

#[test]
fn after_an_outage_four_fifths_are_back_within_ten_seconds() {
    for seed in SEEDS {
        let rate = |s: f64| if (15.0..17.0).contains(&s) { 1e4 } else { 2e6 };
        let outcome = run(&Scenario { rate, layers: &[2e6], ..Scenario::default() }, seed);
        let back = outcome.reaches(17, 1.6e6);
        assert!(back.is_some_and(|second| second <= 27), "{back:?} with seed {seed}");
    }
}

#[test]
fn random_loss_leaves_most_of_the_line() {
    for (loss, least) in [(0.05, 0.6), (0.2, 0.3)] {
        for seed in SEEDS {
            let wide =
                Scenario { rate: |_| 1e7, loss, loss_back: loss, layers: &[2e6], ..Scenario::default() };
            let share = run(&wide, seed).share(10, 30, 2e6);
            assert!(share >= least, "{share:.2} at {loss} with seed {seed}");
            let narrow = Scenario { rate: |_| 1e6, loss, loss_back: loss, ..Scenario::default() };
            let share = run(&narrow, seed).share(10, 30, 1e6);
            assert!(share >= least, "{share:.2} of a bottleneck at {loss} with seed {seed}");
        }
    }
}

#[test]
fn jitter_leaves_half_of_the_line() {
    for seed in SEEDS {
        let outcome = run(&Scenario { rate: |_| 2e6, jitter_ms: 100, ..Scenario::default() }, seed);
        let share = outcome.share(10, 30, 2e6);
        assert!(share >= 0.5, "{share:.2} with seed {seed}");
    }
}

#[test]
fn next_to_a_greedy_flow_there_is_a_part_for_the_call() {
    for queue_ms in [50.0, 100.0, 200.0, 300.0, 500.0] {
        for seed in SEEDS {
            let scenario = Scenario {
                rate: |_| 3e6,
                queue_ms,
                greedy_from: Some(10),
                seconds: 90,
                ..Scenario::default()
            };
            let outcome = run(&scenario, seed);
            let share = outcome.share(20, 90, 3e6);
            assert!(share >= 0.2, "{share:.2} with a queue of {queue_ms} ms and seed {seed}");
            let other = outcome.greedy[20..].iter().sum::<f64>() / 70.0 / 3e6;
            assert!(other >= 0.15, "{other:.2} for the other, with a queue of {queue_ms} ms and seed {seed}");
        }
    }
}

#[test]
fn coarse_layers_are_climbed_by_probing_and_not_beyond_what_there_is() {
    for seed in SEEDS {
        let layers: &[f64] = &[1.5e5, 5e5, 1.5e6];
        let outcome = run(&Scenario { rate: |_| 2.5e6, layers, smooth: false, ..Scenario::default() }, seed);
        let top = outcome.reaches(0, 1.4e6);
        assert!(top.is_some_and(|second| second <= 5), "{top:?} with seed {seed}");
        let outcome = run(&Scenario { rate: |_| 1.2e6, layers, smooth: false, ..Scenario::default() }, seed);
        let (share, queue_ms) = (outcome.share(5, 30, 5e5), outcome.queue_p95_ms());
        assert!((0.95..1.3).contains(&share), "{share:.2} with seed {seed}");
        assert!(queue_ms < 50.0, "{queue_ms:.0} ms with seed {seed}");
        assert!(outcome.padding < 0.02 * 30.0 * 1.2e6, "{:.0} bits of padding", outcome.padding);
    }
}

/// Sends for a while without hearing anything.
fn send(downlink: &mut Downlink, now: &mut Instant, packets: u32, apart: Duration) {
    for _ in 0..packets {
        *now += apart;
        downlink.sent(*now, 1_200, false);
    }
}

#[test]
fn nothing_known_is_no_limit() {
    let mut now = Instant::now();
    let mut downlink = Downlink::new(now);
    send(&mut downlink, &mut now, 100, Duration::from_millis(1));
    assert_eq!(downlink.estimate_bps(), None);
    assert_eq!(downlink.allowance(now), usize::MAX);
    downlink.want(Some(1_000_000));
    assert_eq!((downlink.poll_probe(now), downlink.poll_timeout()), (0, None));
    downlink.agree();
    assert_eq!(downlink.estimate_bps(), Some(300_000));
}

#[test]
fn without_transport_feedback_remb_and_reported_loss_limit() {
    let mut now = Instant::now();
    let mut downlink = Downlink::new(now);
    downlink.remb(now, 2_000_000);
    assert_eq!(downlink.estimate_bps(), Some(2_000_000));
    downlink.remb(now, 1);
    assert_eq!(downlink.estimate_bps(), Some(30_000));
    downlink.remb(now, u64::MAX);
    assert_eq!(downlink.estimate_bps(), Some(50_000_000));
    // A megabit per second, of which a third is lost.
    for _ in 0..3 {
        send(&mut downlink, &mut now, 100, Duration::from_millis(10));
        downlink.report_loss(now, 0.33, Some(Duration::from_millis(80)));
    }
    let limited = downlink.estimate_bps().expect("loss limits");
    assert!(limited < 1_000_000, "{limited}");
    assert!(downlink.loss() > 0.1 && downlink.rtt() == Some(Duration::from_millis(80)));
    for _ in 0..60 {
        send(&mut downlink, &mut now, 100, Duration::from_millis(10));
        downlink.report_loss(now, 0.0, None);
    }
    assert!(downlink.estimate_bps().is_some_and(|bps| bps > limited), "and grows without");
    downlink.report_loss(now, f64::NAN, None);
    assert!(downlink.loss() <= 1.0);
}

#[test]
fn what_is_not_heard_of_is_sent_less() {
    let mut now = Instant::now();
    let mut downlink = Downlink::new(now);
    send(&mut downlink, &mut now, 20, Duration::from_millis(10));
    feed(&mut downlink, now, 0, 0, &[Some(0); 20]);
    let before = downlink.estimate_bps().expect("feedback came");
    send(&mut downlink, &mut now, 300, Duration::from_millis(10));
    let after = downlink.estimate_bps().expect("feedback came");
    assert!(after < before && after >= 30_000, "{after} of {before}");
    send(&mut downlink, &mut now, 1_500, Duration::from_millis(10));
    assert_eq!(downlink.estimate_bps(), Some(30_000), "nobody may be there");
}

#[test]
fn a_pause_is_no_silence_and_where_everything_stopped_a_probe_asks() {
    let mut now = Instant::now();
    let mut downlink = Downlink::new(now);
    send(&mut downlink, &mut now, 20, Duration::from_millis(10));
    feed(&mut downlink, now, 0, 0, &[Some(0); 20]);
    let before = downlink.estimate_bps();
    now += Duration::from_secs(30);
    send(&mut downlink, &mut now, 20, Duration::from_millis(10));
    assert_eq!(downlink.estimate_bps(), before, "nothing was sent that could be heard of");
    downlink.want(Some(2_000_000));
    assert_eq!(downlink.poll_probe(now), 0, "feedback is on its way");
    now += Duration::from_secs(2);
    assert!(downlink.poll_probe(now) > 0);
}

#[test]
fn on_another_way_everything_begins_anew_and_what_was_under_way_says_nothing() {
    let mut now = Instant::now();
    let mut downlink = Downlink::new(now);
    send(&mut downlink, &mut now, 20, Duration::from_millis(10));
    feed(&mut downlink, now, 0, 0, &[Some(0); 20]);
    send(&mut downlink, &mut now, 300, Duration::from_millis(10));
    assert!(downlink.estimate_bps().is_some_and(|bps| bps < 300_000), "nothing was heard");
    let next = downlink.next_sequence();
    downlink.moved();
    assert_eq!((downlink.estimate_bps(), downlink.next_sequence()), (Some(300_000), next));
    feed(&mut downlink, now, 20, 40, &[None; 200]);
    assert_eq!(downlink.loss(), 0.0, "what was lost on the old way");
    send(&mut downlink, &mut now, 20, Duration::from_millis(10));
    feed(&mut downlink, now, next, 50, &[Some(0); 20]);
    assert!(downlink.estimate_bps().is_some_and(|bps| bps >= 300_000));
}

fn feed(downlink: &mut Downlink, now: Instant, base: u16, reference: i32, arrivals: &[Option<i32>]) {
    let mut out = vec![0; 1 << 17];
    let mut writer = Writer::new(&mut out);
    if !writer.transport_feedback(1, 2, base, reference, 0, arrivals.iter().copied()) {
        return;
    }
    let len = writer.len();
    if let Some(Ok(Packet::TransportFeedback(feedback))) = packets(&out[..len]).next() {
        downlink.feedback(now, &feedback);
    }
}

proptest! {
    #[test]
    fn whatever_is_reported_the_estimate_keeps_its_bounds(
        steps in prop::collection::vec(
            (
                (0..40_u32, 0..50_000_u64, any::<u8>()),
                (any::<u16>(), -200..200_i32, prop_oneof![4 => Just(None), 1 => any::<i32>().prop_map(Some)]),
                prop::collection::vec(prop::option::of(-500..4000_i32), 0..60),
            ),
            1..60,
        ),
    ) {
        let mut now = Instant::now();
        let mut downlink = Downlink::new(now);
        downlink.agree();
        downlink.want(Some(5_000_000));
        for ((count, apart_us, what), (base, near, far), deltas) in steps {
            send(&mut downlink, &mut now, count, Duration::from_micros(apart_us));
            let padding = downlink.poll_probe(now);
            prop_assert!(padding <= 100_000, "a probe is short: {}", padding);
            if padding > 0 && what & 1 == 0 {
                downlink.sent(now, padding, true);
            }
            // Mostly what was sent, sometimes not.
            let base = if what & 0x30 == 0 { base } else { downlink.next_sequence().wrapping_sub(base % 64) };
            let reference = far.map_or(near, |far| far >> 8);
            let arrivals: Vec<_> = deltas
                .into_iter()
                .scan(0, |ticks, delta| {
                    *ticks += delta.unwrap_or(0);
                    Some(delta.map(|_| *ticks))
                })
                .collect();
            feed(&mut downlink, now, base, reference, &arrivals);
            if what & 0x0f == 2 {
                feed(&mut downlink, now, base, reference, &arrivals);
                downlink.report_loss(now, f64::from(what) / 200.0, Some(Duration::from_micros(apart_us)));
            }
            let estimate = downlink.estimate_bps().expect("feedback is agreed");
            prop_assert!((30_000..=50_000_000).contains(&estimate));
            prop_assert!((0.0..=1.0).contains(&downlink.loss()));
            let _ = (downlink.queue_delay(), downlink.rtt(), downlink.poll_timeout());
            prop_assert!(downlink.allowance(now) <= 500_000);
        }
    }

    #[test]
    fn whatever_times_a_sender_claims_the_estimate_keeps_its_bounds(
        packets in prop::collection::vec((any::<u32>(), 0..200_000_u64, 0..2000_usize), 1..200),
    ) {
        let mut now = Instant::now();
        let mut estimator = Estimator::new(now);
        for (claim, apart_us, bytes) in packets {
            now += Duration::from_micros(apart_us);
            estimator.record(now, claim, bytes);
            if let Some(estimate) = estimator.estimate_bps() {
                prop_assert!((30_000..=50_000_000).contains(&estimate));
            }
        }
    }
}

/// A sender with absolute send times over a link of this rate, that sends what it is told: the last estimate.
fn uplink_estimate(rate_bps: f64, seconds: u64) -> u64 {
    let epoch = Instant::now();
    let (mut estimator, mut free_s, mut next_s) = (Estimator::new(epoch), 0.0_f64, 0.0_f64);
    let mut told = 300_000;
    while next_s < seconds as f64 {
        let bytes = 1_000;
        free_s = free_s.max(next_s) + bytes as f64 * 8.0 / rate_bps;
        let [high, middle, low] =
            crate::rtp::extension::absolute_send_time_value(Duration::from_secs_f64(next_s));
        let now = epoch + Duration::from_secs_f64(free_s + 0.02);
        estimator.record(now, u32::from_be_bytes([0, high, middle, low]), bytes);
        told = estimator.estimate_bps().unwrap_or(told);
        next_s += bytes as f64 * 8.0 / told as f64;
    }
    told
}

#[test]
fn a_sender_that_does_as_it_is_told_finds_its_line_across_a_wrap_of_its_clock() {
    for rate in [4e5, 1e6, 2e6] {
        let estimate = uplink_estimate(rate, 100) as f64 / rate;
        assert!((0.75..1.2).contains(&estimate), "{estimate:.2} of {rate}");
    }
}

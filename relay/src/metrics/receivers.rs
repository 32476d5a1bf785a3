//! What the lines of people are like, in Prometheus' text format. The workers fill the buckets, so there is nothing to
//! record here, and the recorder takes only single measures.

use std::fmt::Write;

use trunkline_relay_proto::receivers::Receivers;

/// Histograms of the workers: the name there, the metric, what it says.
pub(super) const HISTOGRAMS: [(&str, &str, &str); 5] = [
    (
        "estimate_bits_per_second",
        "trunkline_relay_receiver_estimate_bits_per_second",
        "What the line to a participant is thought to carry, once a second each",
    ),
    (
        "round_trip_seconds",
        "trunkline_relay_receiver_round_trip_seconds",
        "Round-trip time to a participant, once a second each",
    ),
    (
        "lost_down_ratio",
        "trunkline_relay_receiver_lost_down_ratio",
        "Share of packets lost on the way to a participant, 0 to 1, once a second each",
    ),
    (
        "lost_up_ratio",
        "trunkline_relay_receiver_lost_up_ratio",
        "Share of packets lost on the way from a participant, 0 to 1, once a second each",
    ),
    (
        "queue_seconds",
        "trunkline_relay_receiver_queue_seconds",
        "How long packets to a participant wait in queues on their way, once a second each",
    ),
];

/// All histograms as text.
pub(super) fn render(receivers: &Receivers) -> String {
    let mut text = String::new();
    for (name, histogram) in receivers.named() {
        let Some((_, metric, help)) = HISTOGRAMS.iter().find(|(known, ..)| *known == name) else { continue };
        let (count, sum) = (histogram.count(), histogram.sum());
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {metric} {help}\n# TYPE {metric} histogram\n");
        for (bound, count) in histogram.cumulative() {
            let _ = writeln!(text, "{metric}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = write!(text, "{metric}_bucket{{le=\"+Inf\"}} {count}\n{metric}_sum {sum}\n");
        let _ = write!(text, "{metric}_count {count}\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_histogram_of_the_workers_is_rendered_with_cumulative_buckets() {
        let mut receivers = Receivers::default();
        receivers.round_trip_seconds.record(0.02);
        receivers.round_trip_seconds.record(7.0);
        let text = render(&receivers);
        for line in [
            "# TYPE trunkline_relay_receiver_round_trip_seconds histogram",
            "trunkline_relay_receiver_round_trip_seconds_bucket{le=\"0.01\"} 0",
            "trunkline_relay_receiver_round_trip_seconds_bucket{le=\"0.025\"} 1",
            "trunkline_relay_receiver_round_trip_seconds_bucket{le=\"+Inf\"} 2",
            "trunkline_relay_receiver_round_trip_seconds_sum 7.02",
            "trunkline_relay_receiver_round_trip_seconds_count 2",
            "trunkline_relay_receiver_estimate_bits_per_second_bucket{le=\"1000000\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for (_, metric, _) in HISTOGRAMS {
            assert!(text.contains(&format!("{metric}_count ")), "{metric}");
        }
    }
}

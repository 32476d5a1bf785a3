//! Metrics of the data plane for Prometheus. They name nobody.

use metrics::{counter, gauge};
use trunkline_relay_proto::flow::Refusal;

use super::plane::{Counters, Way};

/// Tells the current recorder what the data plane counted.
#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
pub fn observe(counters: &Counters) {
    for (name, text) in [
        ("trunkline_ingress_datagrams_total", "Datagrams that came, by the way they went"),
        ("trunkline_ingress_bytes_total", "Their bytes, headers of the tunnel included"),
        ("trunkline_ingress_batches_total", "Times that any came, by the way they went"),
        ("trunkline_ingress_sent_datagrams_total", "Datagrams sent, by the way they went"),
        ("trunkline_ingress_sent_in_trains_datagrams_total", "Of these, in trains of two or more"),
        ("trunkline_ingress_sent_messages_total", "Messages handed to the system for them"),
        ("trunkline_ingress_send_dropped_datagrams_total", "Datagrams not sent, by reason"),
        ("trunkline_ingress_dropped_datagrams_total", "Datagrams that went no further, by reason"),
        ("trunkline_ingress_flows_begun_total", "UDP flows that a check began"),
        ("trunkline_ingress_flows_moved_total", "UDP flows that another check moved to another route"),
        ("trunkline_ingress_busy_seconds_total", "How long the threads worked"),
    ] {
        metrics::describe_counter!(name, text);
    }
    metrics::describe_gauge!("trunkline_ingress_flows", "UDP flows now");
    let ways = [
        ("upstream", &counters.upstream, &counters.tunnel),
        ("downstream", &counters.downstream, &counters.public),
    ];
    for (way, Way { datagrams, bytes, batches }, sent) in ways {
        counter!("trunkline_ingress_datagrams_total", "way" => way).absolute(*datagrams);
        counter!("trunkline_ingress_bytes_total", "way" => way).absolute(*bytes);
        counter!("trunkline_ingress_batches_total", "way" => way).absolute(*batches);
        counter!("trunkline_ingress_sent_datagrams_total", "way" => way).absolute(sent.datagrams);
        counter!("trunkline_ingress_sent_in_trains_datagrams_total", "way" => way)
            .absolute(sent.datagrams_in_trains);
        counter!("trunkline_ingress_sent_messages_total", "way" => way).absolute(sent.messages);
        for (reason, count) in [("full", sent.dropped_full), ("unreachable", sent.dropped_unreachable)] {
            counter!("trunkline_ingress_send_dropped_datagrams_total", "way" => way, "reason" => reason)
                .absolute(count);
        }
    }
    let refused = Refusal::NAMED.map(|(refusal, name)| (name, counters.flow.refused(refusal)));
    let tunnel =
        [("tunnel_stranger", counters.tunnel_stranger), ("tunnel_malformed", counters.tunnel_malformed)];
    for (reason, count) in refused.into_iter().chain(tunnel) {
        counter!("trunkline_ingress_dropped_datagrams_total", "reason" => reason).absolute(count);
    }
    counter!("trunkline_ingress_flows_begun_total").absolute(counters.flow.made);
    counter!("trunkline_ingress_flows_moved_total").absolute(counters.flow.moved);
    counter!("trunkline_ingress_busy_seconds_total").absolute(counters.busy.as_secs());
    gauge!("trunkline_ingress_flows").set(counters.flows as f64);
}

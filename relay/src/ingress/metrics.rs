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
    observe_connections(counters);
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

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
fn observe_connections(counters: &Counters) {
    let (connections, lobby) = (&counters.connections, &counters.lobby);
    metrics::describe_gauge!(
        "trunkline_ingress_connections",
        "Media connections that are open, by transport"
    );
    for (transport, open) in [("tcp", connections.open_tcp), ("tls", connections.open_tls)] {
        gauge!("trunkline_ingress_connections", "transport" => transport).set(open as f64);
    }
    metrics::describe_counter!(
        "trunkline_ingress_connections_admitted_total",
        "Media connections that showed a good check, by transport"
    );
    for (transport, admitted) in [("tcp", lobby.admitted_tcp), ("tls", lobby.admitted_tls)] {
        counter!("trunkline_ingress_connections_admitted_total", "transport" => transport).absolute(admitted);
    }
    metrics::describe_counter!(
        "trunkline_ingress_connections_refused_total",
        "Media connections that did not get in, by reason"
    );
    for (reason, count) in lobby.refusals().chain([("full", connections.refused_full)]) {
        counter!("trunkline_ingress_connections_refused_total", "reason" => reason).absolute(count);
    }
    for (name, text, count) in [
        ("trunkline_ingress_connections_accepted_total", "Media connections accepted", lobby.accepted),
        ("trunkline_ingress_connections_closed_total", "Media connections that ended", connections.closed),
        (
            "trunkline_ingress_connections_idled_total",
            "Of these, those from which nothing came any more",
            connections.idled,
        ),
        (
            "trunkline_ingress_frames_total",
            "Frames that came over media connections",
            connections.upstream.datagrams,
        ),
        (
            "trunkline_ingress_slow_dropped_packets_total",
            "Packets dropped because their media connection was too slow",
            connections.dropped_slow,
        ),
        (
            "trunkline_ingress_frames_dropped_total",
            "Frames that found no room on their way to a node",
            connections.dropped_room,
        ),
    ] {
        metrics::describe_counter!(name, text);
        counter!(name).absolute(count);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn what_is_counted_is_rendered_and_drops_by_reason() {
        let mut counters = Counters { flows: 3, tunnel_stranger: 4, ..Counters::default() };
        counters.upstream.datagrams = 5;
        counters.flow.refuse(Refusal::Forged, 6);
        counters.connections.open_tls = 7;
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || observe(&counters));
        let text = recorder.handle().render();
        for line in [
            "trunkline_ingress_flows 3",
            "trunkline_ingress_dropped_datagrams_total{reason=\"tunnel_stranger\"} 4",
            "trunkline_ingress_datagrams_total{way=\"upstream\"} 5",
            "trunkline_ingress_dropped_datagrams_total{reason=\"forged\"} 6",
            "trunkline_ingress_connections{transport=\"tls\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}

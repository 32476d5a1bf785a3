//! Metrics for Prometheus. They name nobody: no people, no calls, no addresses.
//!
//! What happens in the API is recorded as it happens. What the workers count anyway is read from a [`View`] when
//! somebody scrapes.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use trunkline_relay_proto::counters::Counters;
use trunkline_relay_proto::receivers::Receivers;

use crate::node::{ConnectionCounters, WorkerLoad};
use crate::tcp::LobbyCounters;
use crate::tunnel::TunnelCounters;
use crate::udp::SocketCounters;

mod receivers;

/// How often histograms move their samples into buckets. Rarer holds more samples in memory between scrapes.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Buckets for durations in seconds: a join takes a millisecond, and the aim is below 60.
const SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What the counts that begin so have in common: a label instead of a name each.
const DROPPED: &str = "dropped_";

/// Counts of the workers: the name there, the metric, what it says.
const COUNTS: [(&str, &str, &str); 21] = [
    (
        "datagrams_in",
        "trunkline_relay_received_datagrams_total",
        "Datagrams that arrived, over UDP and on connections",
    ),
    ("bytes_in", "trunkline_relay_received_bytes_total", "Bytes of datagrams that arrived"),
    ("media_in", "trunkline_relay_received_media_packets_total", "RTP packets opened and taken"),
    (
        "media_out",
        "trunkline_relay_forwarded_media_packets_total",
        "RTP packets sealed for a receiver, retransmissions not among them",
    ),
    ("bytes_out", "trunkline_relay_sent_bytes_total", "Bytes of datagrams sealed or written"),
    (
        "retransmissions_out",
        "trunkline_relay_retransmitted_packets_total",
        "Retransmissions sent to receivers",
    ),
    (
        "shared_out",
        "trunkline_relay_shared_packets_sent_total",
        "Packets handed to other workers that a large call is on, once for all of them",
    ),
    (
        "shared_in",
        "trunkline_relay_shared_packets_received_total",
        "Packets taken in from other workers that a large call is on",
    ),
    (
        "probe_bytes_out",
        "trunkline_relay_sent_probe_bytes_total",
        "Bytes sent only to find out what lines carry",
    ),
    ("nacks_out", "trunkline_relay_nacks_sent_total", "Packets asked for again from senders"),
    ("nacks_in", "trunkline_relay_nacks_received_total", "Packets that receivers asked for again"),
    (
        "key_frame_requests_out",
        "trunkline_relay_key_frame_requests_sent_total",
        "Key frames asked for from senders",
    ),
    (
        "key_frame_requests_in",
        "trunkline_relay_key_frame_requests_received_total",
        "Key frames that receivers asked for",
    ),
    (
        "freezes",
        "trunkline_relay_slot_freezes_total",
        "Pictures that came so late after the one before that receivers must see a freeze",
    ),
    (
        "layer_switches_up",
        "trunkline_relay_layer_switches_up_total",
        "Times that a receiver got more of a source than before, as its line carries",
    ),
    (
        "layer_switches_down",
        "trunkline_relay_layer_switches_down_total",
        "Times that a receiver got less of a source than before",
    ),
    (
        "slot_pauses",
        "trunkline_relay_slot_pauses_total",
        "Times that nothing of a source was sent for a slot, for want of bandwidth",
    ),
    (
        "silence_withheld",
        "trunkline_relay_silence_withheld_packets_total",
        "Silent audio that was not forwarded",
    ),
    ("joins", "trunkline_relay_joins_total", "Participants that joined"),
    ("handshakes", "trunkline_relay_handshakes_total", "DTLS handshakes that completed"),
    ("migrations", "trunkline_relay_migrations_total", "Network paths that changed during a call"),
];

static PROCESS: LazyLock<Process> = LazyLock::new(Process::new);

/// A node at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Counts of all calls since the process started.
    pub counters: Counters,
    /// What the lines of people are and were like since the process started.
    pub receivers: Receivers,
    /// Counts of all sockets since the process started.
    pub sockets: SocketCounters,
    /// Counts of all TCP and TLS connections since the process started.
    pub connections: ConnectionCounters,
    /// What happened at the TCP port, if there is one.
    pub lobby: Option<LobbyCounters>,
    /// What came through the tunnel since the process started.
    pub tunnel: TunnelCounters,
    /// What each worker is at.
    pub load: Vec<WorkerLoad>,
    /// Whether it drains.
    pub draining: bool,
}

/// What the API records as it happens.
struct Process {
    handle: PrometheusHandle,
    join_seconds: Histogram,
}

impl Process {
    fn new() -> Self {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        let process = metrics::with_local_recorder(&recorder, || {
            metrics::describe_histogram!(
                "trunkline_relay_join_seconds",
                Unit::Seconds,
                "From the last byte of an offer to the answer"
            );
            metrics::describe_counter!(
                "trunkline_relay_api_requests_total",
                "HTTP requests by route, method and status"
            );
            metrics::describe_counter!(
                "trunkline_failed_logins_total",
                "Requests with a token that opens nothing"
            );
            metrics::describe_gauge!(
                "trunkline_relay_events_connections",
                "Events connections that are open"
            );
            metrics::describe_counter!(
                "trunkline_relay_records_written_total",
                "Call records synced to the disk"
            );
            metrics::describe_counter!(
                "trunkline_relay_records_lost_total",
                "Call records that could not be written"
            );
            metrics::describe_counter!(
                "trunkline_relay_recreated_calls_total",
                "Calls made again from their id: their node was lost, restarted, or handed them over"
            );
            metrics::describe_counter!(
                "trunkline_relay_handed_over_calls_total",
                "Calls whose people were told to join at another node"
            );
            // They are there before anything happens, so that an alarm on them works from the start.
            counter!("trunkline_failed_logins_total").absolute(0);
            counter!("trunkline_relay_records_written_total").absolute(0);
            counter!("trunkline_relay_records_lost_total").absolute(0);
            counter!("trunkline_relay_recreated_calls_total").absolute(0);
            counter!("trunkline_relay_handed_over_calls_total").absolute(0);
            gauge!("trunkline_relay_events_connections").set(0.0);
            Self { handle, join_seconds: histogram!("trunkline_relay_join_seconds") }
        });
        // A program that embeds the relay may have its own.
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::debug!(
                "another metrics recorder is installed: only the relay's own metrics are exported"
            );
        }
        process
    }
}

/// Begins to record; what was recorded before is lost.
pub fn install() {
    LazyLock::force(&PROCESS);
}

/// An offer was answered.
pub fn join_answered(took: Duration) {
    PROCESS.join_seconds.record(took);
}

/// Moves samples into buckets: call every [`UPKEEP_EVERY`], scraped or not, or they pile up.
pub fn upkeep() {
    PROCESS.handle.run_upkeep();
}

/// Everything in Prometheus' text format.
#[must_use]
pub fn render(view: &View) -> String {
    let recorder = builder().build_recorder();
    metrics::with_local_recorder(&recorder, || observe(view));
    format!("{}{}{}", PROCESS.handle.render(), recorder.handle().render(), receivers::render(&view.receivers))
}

/// What the process records as it happens, without a node: an ingress has none.
#[must_use]
pub fn render_process() -> String {
    PROCESS.handle.render()
}

fn builder() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .expect("invariant: the list of buckets is not empty")
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
fn observe(view: &View) {
    metrics::describe_gauge!("trunkline_relay_info", "Always 1; the version is a label");
    gauge!("trunkline_relay_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::describe_gauge!("trunkline_relay_calls", "Calls now");
    let calls: usize = view.load.iter().map(|worker| worker.calls).sum();
    gauge!("trunkline_relay_calls").set(calls as f64);
    metrics::describe_gauge!(
        "trunkline_relay_call_branches",
        "Further workers that calls larger than one worker are on now"
    );
    let branches: usize = view.load.iter().map(|worker| worker.branches).sum();
    gauge!("trunkline_relay_call_branches").set(branches as f64);
    metrics::describe_gauge!("trunkline_relay_participants", "Participants of all calls now");
    let participants: usize = view.load.iter().map(|worker| worker.participants).sum();
    gauge!("trunkline_relay_participants").set(participants as f64);
    metrics::describe_gauge!("trunkline_relay_draining", "1 while the node drains, else 0");
    gauge!("trunkline_relay_draining").set(if view.draining { 1.0 } else { 0.0 });
    metrics::describe_gauge!(
        "trunkline_relay_worker_busy_ratio",
        "Share of its time that a worker was busy lately, 0 to 1"
    );
    for (worker, load) in view.load.iter().enumerate() {
        gauge!("trunkline_relay_worker_busy_ratio", "worker" => worker.to_string()).set(load.busy);
    }
    observe_sockets(&view.sockets);
    observe_connections(&view.connections, &view.lobby.unwrap_or_default());
    for (_, metric, text) in COUNTS {
        metrics::describe_counter!(metric, text);
    }
    metrics::describe_counter!("trunkline_relay_dropped_datagrams_total", "Packets dropped, by reason");
    for (reason, count) in view.tunnel.dropped() {
        counter!("trunkline_relay_dropped_datagrams_total", "reason" => reason).absolute(count);
    }
    metrics::describe_counter!(
        "trunkline_relay_tunnelled_datagrams_total",
        "Datagrams of clients that came through an ingress"
    );
    counter!("trunkline_relay_tunnelled_datagrams_total").absolute(view.tunnel.datagrams);
    for (name, count) in view.counters.named() {
        if let Some(reason) = name.strip_prefix(DROPPED) {
            counter!("trunkline_relay_dropped_datagrams_total", "reason" => reason).absolute(count);
        } else if let Some((_, metric, _)) = COUNTS.iter().find(|(known, ..)| *known == name) {
            counter!(*metric).absolute(count);
        }
    }
}

fn observe_sockets(sockets: &SocketCounters) {
    for (metric, text, count) in [
        ("trunkline_relay_sent_datagrams_total", "UDP datagrams sent", sockets.datagrams),
        (
            "trunkline_relay_sent_in_trains_datagrams_total",
            "UDP datagrams sent in trains of two or more (UDP_SEGMENT)",
            sockets.datagrams_in_trains,
        ),
        ("trunkline_relay_send_messages_total", "Messages handed to the kernel", sockets.messages),
        (
            "trunkline_relay_send_offload_refused_total",
            "Trains that the system refused, and that were sent as single datagrams",
            sockets.offload_refused,
        ),
    ] {
        metrics::describe_counter!(metric, text);
        counter!(metric).absolute(count);
    }
    metrics::describe_counter!(
        "trunkline_relay_send_dropped_datagrams_total",
        "Datagrams not sent, by reason"
    );
    for (reason, count) in [("full", sockets.dropped_full), ("unreachable", sockets.dropped_unreachable)] {
        counter!("trunkline_relay_send_dropped_datagrams_total", "reason" => reason).absolute(count);
    }
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
fn observe_connections(connections: &ConnectionCounters, lobby: &LobbyCounters) {
    metrics::describe_gauge!("trunkline_relay_connections", "Media connections now, by transport");
    metrics::describe_counter!(
        "trunkline_relay_connections_admitted_total",
        "Media connections that showed a good check, by transport"
    );
    for (transport, open, admitted) in
        [("tcp", connections.open_tcp, lobby.admitted_tcp), ("tls", connections.open_tls, lobby.admitted_tls)]
    {
        gauge!("trunkline_relay_connections", "transport" => transport).set(open as f64);
        counter!("trunkline_relay_connections_admitted_total", "transport" => transport).absolute(admitted);
    }
    metrics::describe_counter!(
        "trunkline_relay_connections_refused_total",
        "Media connections closed before they were anybody's, by reason"
    );
    for (reason, count) in lobby.refusals().chain([("no_call", connections.refused)]) {
        counter!("trunkline_relay_connections_refused_total", "reason" => reason).absolute(count);
    }
    for (metric, text, count) in [
        ("trunkline_relay_connections_accepted_total", "Media connections accepted", lobby.accepted),
        (
            "trunkline_relay_accept_failures_total",
            "Times that no media connection could be accepted: file descriptors ran out",
            lobby.accept_failed,
        ),
        (
            "trunkline_relay_connection_datagrams_total",
            "Datagrams handed to media connections, dropped ones included",
            connections.datagrams,
        ),
        (
            "trunkline_relay_connection_writes_total",
            "System calls that wrote to media connections",
            connections.writes,
        ),
        (
            "trunkline_relay_connection_dropped_datagrams_total",
            "Datagrams dropped because their connection was too slow",
            connections.dropped,
        ),
    ] {
        metrics::describe_counter!(metric, text);
        counter!(metric).absolute(count);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn view() -> View {
        let counters = Counters { media_out: 42, dropped_replay: 3, ..Counters::default() };
        let sockets = SocketCounters { dropped_full: 7, ..SocketCounters::default() };
        let load = |busy| WorkerLoad { busy, calls: 1, branches: 2, participants: 3 };
        let connections =
            ConnectionCounters { open_tls: 4, dropped: 9, refused: 2, ..ConnectionCounters::default() };
        let load = vec![load(0.25), load(0.5)];
        View {
            counters,
            receivers: Receivers::default(),
            sockets,
            connections,
            lobby: None,
            tunnel: TunnelCounters::default(),
            load,
            draining: true,
        }
    }

    #[test]
    fn counts_of_the_workers_are_rendered_and_drops_by_reason() {
        install();
        join_answered(Duration::from_millis(2));
        upkeep();
        let text = render(&view());
        for line in [
            "trunkline_relay_forwarded_media_packets_total 42",
            "trunkline_relay_dropped_datagrams_total{reason=\"replay\"} 3",
            "trunkline_relay_calls 2",
            "trunkline_relay_participants 6",
            "trunkline_relay_send_dropped_datagrams_total{reason=\"full\"} 7",
            "trunkline_relay_worker_busy_ratio{worker=\"1\"} 0.5",
            "trunkline_relay_draining 1",
            "trunkline_relay_connections{transport=\"tls\"} 4",
            "trunkline_relay_connections_refused_total{reason=\"no_call\"} 2",
            "trunkline_relay_connections_refused_total{reason=\"ufrag_forged\"} 0",
            "trunkline_relay_connection_dropped_datagrams_total 9",
            "trunkline_relay_join_seconds_count 1",
            "trunkline_relay_records_lost_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_count_has_a_metric_and_every_metric_a_count() {
        let counted: BTreeSet<_> = Counters::default()
            .named()
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with(DROPPED))
            .collect();
        assert_eq!(counted, COUNTS.iter().map(|(name, ..)| *name).collect());
    }

    /// Names of metrics that stand in a text.
    fn named_in(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("trunkline_")).map(str::to_owned).collect()
    }

    #[test]
    fn the_dashboard_and_the_manual_name_only_metrics_that_there_are() {
        install();
        counter!("trunkline_relay_api_requests_total", "route" => "/healthz").increment(0);
        for counted in ["trunkline_ingress_moved_total", "trunkline_ingress_api_requests_total"] {
            counter!(counted).increment(0);
        }
        for shown in [
            "trunkline_ingress_node_up",
            "trunkline_ingress_events_connections",
            "trunkline_ingress_registry_nodes",
            "trunkline_ingress_registry_age_seconds",
            "trunkline_relay_registry_age_seconds",
        ] {
            gauge!(shown).set(0.0);
        }
        crate::ingress::metrics::observe(&crate::ingress::plane::Counters::default());
        join_answered(Duration::from_millis(2));
        let known = named_in(&render(&view()));
        let manual = include_str!("../../docs/OPERATIONS.md");
        let relay = manual.split("\n# Operating a relay").nth(1).expect("the manual has a part on the relay");
        let dashboard = include_str!("../../config/grafana-relay.json");
        let _: serde_json::Value = serde_json::from_str(dashboard).expect("the dashboard is JSON");
        for name in named_in(dashboard).union(&named_in(relay)) {
            assert!(known.contains(name), "{name} is no metric");
        }
        assert!(named_in(dashboard).len() > 15, "the dashboard shows what there is");
    }
}

//! Metrics for Prometheus. Deployments and networks may be labels; people never are.
//!
//! What the hub measures as it happens goes through the functions here into histograms. What it counts anyway
//! (queues, totals, peers) is read from an [`Overview`] when somebody scrapes, so that a removed peer leaves no
//! stale series behind.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use trunkline_gateway_proto::admin::{LinkState, Overview, PeerView};
use trunkline_gateway_proto::time::Time;

use crate::relays::{RelayView, State};
use crate::replica::Standing;

/// How often histograms move their samples into buckets. Rarer holds more samples in memory between scrapes.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Buckets for durations in seconds: a commit to a good disk takes half a millisecond, a slow peer seconds.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Buckets for records per commit.
const RECORDS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// Buckets for bytes per commit.
const BYTES: [f64; 8] = [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0];

static PROCESS: LazyLock<Process> = LazyLock::new(Process::new);

/// Histograms of this process. Handles are kept, because looking one up for every commit costs more than
/// recording into it.
struct Process {
    handle: PrometheusHandle,
    commit_seconds: Histogram,
    commit_records: Histogram,
    commit_bytes: Histogram,
    ack_seconds: Histogram,
}

impl Process {
    fn new() -> Self {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        let process = metrics::with_local_recorder(&recorder, || {
            metrics::describe_histogram!(
                "trunkline_gateway_commit_seconds",
                Unit::Seconds,
                "From handing a group commit to the store until it is synced"
            );
            metrics::describe_histogram!("trunkline_gateway_commit_records", "Records in one group commit");
            metrics::describe_histogram!("trunkline_gateway_commit_bytes", "Bytes in one group commit");
            metrics::describe_histogram!(
                "trunkline_gateway_ack_seconds",
                Unit::Seconds,
                "From submission until the peer acknowledged, that is, until it was synced there"
            );
            Self {
                handle,
                commit_seconds: histogram!("trunkline_gateway_commit_seconds"),
                commit_records: histogram!("trunkline_gateway_commit_records"),
                commit_bytes: histogram!("trunkline_gateway_commit_bytes"),
                ack_seconds: histogram!("trunkline_gateway_ack_seconds"),
            }
        });
        // Other crates may count through the same registry. A program that embeds the gateway may have its own.
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::debug!(
                "another metrics recorder is installed: only the gateway's own metrics are exported"
            );
        }
        process
    }
}

/// A group commit reached the disk.
#[allow(clippy::cast_precision_loss, reason = "a histogram's bucket does not care about the last bits")]
pub fn commit_observed(duration: Duration, records: usize, bytes: usize) {
    PROCESS.commit_seconds.record(duration);
    PROCESS.commit_records.record(records as f64);
    PROCESS.commit_bytes.record(bytes as f64);
}

/// An envelope was acknowledged so long after its submission.
pub fn ack_latency(latency: Duration) {
    PROCESS.ack_seconds.record(latency);
}

/// Moves samples into buckets: call every [`UPKEEP_EVERY`], scraped or not, or they pile up.
pub fn upkeep() {
    PROCESS.handle.run_upkeep();
}

/// Everything in Prometheus' text format. `followers` are the replicas that follow this one, when it leads; `not_after`
/// is our certificate's end.
#[must_use]
pub fn render(
    standing: &Standing,
    followers: usize,
    overview: Option<&Overview>,
    relays: &[RelayView],
    not_after: Time,
) -> String {
    let recorder = builder().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        observe_process(standing, followers, not_after);
        if let Some(overview) = overview {
            observe(overview);
        }
        observe_relays(relays);
    });
    format!("{}{}", PROCESS.handle.render(), recorder.handle().render())
}

fn builder() -> PrometheusBuilder {
    let buckets = [("_seconds", &SECONDS[..]), ("_records", &RECORDS[..]), ("_bytes", &BYTES[..])];
    buckets.into_iter().fold(PrometheusBuilder::new(), |builder, (suffix, buckets)| {
        let matcher = Matcher::Suffix(suffix.to_owned());
        builder.set_buckets_for_metric(matcher, buckets).expect("invariant: no list of buckets is empty")
    })
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
fn observe_process(standing: &Standing, followers: usize, not_after: Time) {
    metrics::describe_gauge!("trunkline_gateway_info", "Always 1; the version is a label");
    gauge!("trunkline_gateway_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::describe_gauge!(
        "trunkline_gateway_standing",
        "1 for what this process does: leading, with the store open; following another replica; or seeking one"
    );
    for name in ["leading", "following", "seeking"] {
        gauge!("trunkline_gateway_standing", "standing" => name)
            .set(f64::from(u8::from(standing.name() == name)));
    }
    if matches!(standing, Standing::Leading) {
        metrics::describe_gauge!(
            "trunkline_gateway_followers",
            "Replicas that follow this one; told by the one that leads only"
        );
        gauge!("trunkline_gateway_followers").set(followers as f64);
    }
    metrics::describe_gauge!(
        "trunkline_gateway_certificate_not_after_timestamp_seconds",
        Unit::Seconds,
        "When our certificate towards peers ends; matters in CA mode only"
    );
    gauge!("trunkline_gateway_certificate_not_after_timestamp_seconds")
        .set(not_after.unix_ms() as f64 / 1000.0);
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
fn observe(overview: &Overview) {
    let totals = &overview.totals;
    metrics::describe_counter!(
        "trunkline_gateway_envelopes_total",
        "Envelopes since the process started, by what became of them"
    );
    for (event, count) in [
        ("submitted", totals.submitted),
        ("duplicate_submit", totals.duplicate_submits),
        ("delivered", totals.delivered),
        ("expired", totals.expired),
        ("refused", totals.refused),
        ("purged", totals.purged),
        ("received", totals.received),
        ("rejected", totals.rejected),
        ("duplicate", totals.duplicates),
        ("local", totals.local),
    ] {
        counter!("trunkline_gateway_envelopes_total", "event" => event).absolute(count);
    }
    metrics::describe_counter!("trunkline_gateway_commits_total", "Group commits since the process started");
    counter!("trunkline_gateway_commits_total").absolute(totals.commits);
    metrics::describe_gauge!("trunkline_gateway_outbox_envelopes", "Envelopes waiting for a peer");
    metrics::describe_gauge!("trunkline_gateway_outbox_bytes", Unit::Bytes, "Their bytes");
    metrics::describe_gauge!(
        "trunkline_gateway_outbox_oldest_age_seconds",
        Unit::Seconds,
        "Age of the oldest envelope waiting for a peer; 0 when none waits"
    );
    metrics::describe_gauge!("trunkline_gateway_link_up", "1 when envelopes flow to and from the peer");
    metrics::describe_gauge!(
        "trunkline_gateway_link_alarm",
        "1 when the peer's watermark went backwards and an operator must decide"
    );
    metrics::describe_counter!(
        "trunkline_gateway_peer_envelopes_total",
        "Envelopes to and from a peer since the process started"
    );
    for peer in &overview.peers {
        observe_peer(overview, peer);
    }
    metrics::describe_gauge!(
        "trunkline_gateway_inbox_envelopes",
        "Envelopes waiting for a network's messaging server"
    );
    metrics::describe_gauge!(
        "trunkline_gateway_inbox_bytes",
        Unit::Bytes,
        "Bytes of envelopes waiting for a network's messaging server"
    );
    metrics::describe_gauge!(
        "trunkline_gateway_receipts",
        "Receipts waiting for a network's messaging server"
    );
    for network in &overview.networks {
        let id = network.spec.id.to_string();
        gauge!("trunkline_gateway_inbox_envelopes", "network" => id.clone()).set(network.inbox.depth as f64);
        gauge!("trunkline_gateway_inbox_bytes", "network" => id.clone()).set(network.inbox.bytes as f64);
        gauge!("trunkline_gateway_receipts", "network" => id).set(network.receipts.depth as f64);
    }
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
fn observe_peer(overview: &Overview, peer: &PeerView) {
    let name = peer.domain.to_string();
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let oldest = peer.outbox.oldest.map_or(Duration::ZERO, |oldest| overview.at.since(oldest));
    gauge!("trunkline_gateway_outbox_envelopes", "peer" => name.clone()).set(peer.outbox.depth as f64);
    gauge!("trunkline_gateway_outbox_bytes", "peer" => name.clone()).set(peer.outbox.bytes as f64);
    gauge!("trunkline_gateway_outbox_oldest_age_seconds", "peer" => name.clone()).set(oldest.as_secs_f64());
    gauge!("trunkline_gateway_link_up", "peer" => name.clone()).set(flag(peer.link == LinkState::Up));
    gauge!("trunkline_gateway_link_alarm", "peer" => name.clone()).set(flag(peer.link == LinkState::Alarm));
    for (event, count) in [("sent", peer.sent), ("received", peer.received), ("refused", peer.refused)] {
        counter!("trunkline_gateway_peer_envelopes_total", "peer" => name.clone(), "event" => event)
            .absolute(count);
    }
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only floating point; 2^53 is far away")]
fn observe_relays(relays: &[RelayView]) {
    if relays.is_empty() {
        return;
    }
    metrics::describe_gauge!(
        "trunkline_gateway_relay_up",
        "1 when a relay of the deployment answers as it should"
    );
    metrics::describe_gauge!("trunkline_gateway_relay_calls", "Calls on a relay of the deployment");
    metrics::describe_gauge!(
        "trunkline_gateway_relay_participants",
        "People in calls on a relay of the deployment"
    );
    for relay in relays.iter().filter(|relay| relay.state != State::Unknown) {
        let up = relay.state == State::Up;
        gauge!("trunkline_gateway_relay_up", "relay" => relay.name.clone()).set(if up { 1.0 } else { 0.0 });
        if up {
            gauge!("trunkline_gateway_relay_calls", "relay" => relay.name.clone()).set(relay.calls as f64);
            gauge!("trunkline_gateway_relay_participants", "relay" => relay.name.clone())
                .set(relay.participants as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_gateway_proto::admin::Totals;

    use super::*;

    #[test]
    fn histograms_and_totals_are_rendered() {
        commit_observed(Duration::from_millis(1), 3, 4096);
        ack_latency(Duration::from_millis(7));
        upkeep();
        let overview = Overview {
            domain: "alpha.test".parse().unwrap(),
            at: Time::from_unix_ms(0),
            peers: Vec::new(),
            networks: Vec::new(),
            totals: Totals { delivered: 42, ..Totals::default() },
        };
        let text = render(&Standing::Leading, 0, Some(&overview), &[], Time::from_unix_ms(0));
        assert!(text.contains("trunkline_gateway_envelopes_total{event=\"delivered\"} 42"), "{text}");
        for name in ["commit_seconds", "commit_records", "commit_bytes", "ack_seconds"] {
            assert!(text.contains(&format!("trunkline_gateway_{name}_count 1")), "{name}: {text}");
        }
    }

    #[test]
    fn a_peer_that_is_gone_leaves_no_series() {
        let mut overview = Overview {
            domain: "alpha.test".parse().unwrap(),
            at: Time::from_unix_ms(0),
            peers: vec![peer()],
            networks: Vec::new(),
            totals: Totals::default(),
        };
        assert!(
            render(&Standing::Leading, 0, Some(&overview), &[], Time::from_unix_ms(0))
                .contains("trunkline_gateway_link_up{peer=\"beta.test\"} 1")
        );
        overview.peers.clear();
        assert!(
            !render(&Standing::Leading, 0, Some(&overview), &[], Time::from_unix_ms(0)).contains("beta.test")
        );
    }

    #[test]
    fn a_relay_that_is_down_has_no_calls_and_one_that_was_not_asked_is_neither() {
        let text = render(
            &Standing::Leading,
            0,
            None,
            &[relay("a", State::Up), relay("b", State::Down), relay("c", State::Unknown)],
            Time::default(),
        );
        for line in ["relay_up{relay=\"a\"} 1", "relay_up{relay=\"b\"} 0", "relay_calls{relay=\"a\"} 3"] {
            assert!(text.contains(&format!("trunkline_gateway_{line}")), "{line}: {text}");
        }
        assert!(!text.contains("relay_calls{relay=\"b\"}") && !text.contains("relay=\"c\""), "{text}");
    }

    #[test]
    fn who_leads_tells_how_many_follow_and_nobody_else_does() {
        let text = |standing| render(&standing, 2, None, &[], Time::default());
        assert!(text(Standing::Leading).contains("trunkline_gateway_followers 2\n"));
        assert!(!text(Standing::Seeking).contains("trunkline_gateway_followers"));
    }

    #[test]
    fn the_manual_names_only_metrics_that_there_are() {
        commit_observed(Duration::from_millis(1), 3, 4096);
        ack_latency(Duration::from_millis(7));
        let overview = Overview {
            domain: "alpha.test".parse().unwrap(),
            at: Time::default(),
            peers: vec![peer()],
            networks: Vec::new(),
            totals: Totals::default(),
        };
        let text = render(&Standing::Leading, 0, Some(&overview), &[relay("a", State::Up)], Time::default());
        let manual = include_str!("../../docs/OPERATIONS.md").split("\n# Operating a relay").next().unwrap();
        let words = manual.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<_> = words.filter(|word| word.starts_with("trunkline_gateway_")).collect();
        assert!(named.len() > 10, "{named:?}");
        for name in named {
            assert!(
                text.contains(&format!("# TYPE {name} ")) || name.ends_with("inbox_envelopes"),
                "{name} is no metric"
            );
        }
    }

    fn relay(name: &str, state: State) -> RelayView {
        RelayView {
            name: name.into(),
            url: "http://127.0.0.1:8444".into(),
            kind: None,
            state,
            error: None,
            since: None,
            node: None,
            draining: false,
            calls: 3,
            calls_max: None,
            participants: 5,
            busy: None,
            started_at: None,
        }
    }

    fn peer() -> PeerView {
        serde_json::from_value(serde_json::json!({
            "domain": "beta.test", "label": "", "state": "active", "link": "up", "transport": "quic",
            "since": 0, "last_error": null, "next_dial": null, "trust": "pinned", "pins": [],
            "keys_issued": [], "keys_held": [], "next_certificate_ready": null, "endpoints": [],
            "local_domains": [], "claimed_domains": null, "allow_private_ips": false,
            "outbox": {"depth": 0, "bytes": 0, "oldest": null}, "sent": 1, "received": 2, "refused": 0
        }))
        .unwrap()
    }
}

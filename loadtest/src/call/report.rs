//! What came of a call.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::relay::Mode;
use super::site::{Transport, Via};
use crate::Judged;
use crate::report::round;

/// Share of packets that may be missing after repair when packets are lost on purpose.
const LOSS_AFTER_REPAIR_MAX: f64 = 0.001;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CallReport {
    pub(super) scenario: &'static str,
    pub(super) via: Via,
    pub(super) transport: Transport,
    pub(super) participants: u32,
    pub(super) publishers: u32,
    pub(super) mode: Mode,
    /// Sections for pictures, and whether cameras send three encodings, of which one picture is seen large.
    pub(super) slots_video: usize,
    pub(super) simulcast: bool,
    pub(super) adaptive: bool,
    pub(super) video_burst: u32,
    pub(super) fps: u32,
    pub(super) audio: bool,
    pub(super) build: &'static str,
    pub(super) srtp_profile: Option<&'static str>,
    /// Media packets the relay sealed for a receiver in the measured turns.
    pub(super) forwarded_packets: u64,
    /// Relay CPU time, all threads, for each of them: the median of the turns.
    pub(super) cpu_ns_per_packet: Option<f64>,
    /// The same of the bare job. Null where packets are lost on purpose.
    pub(super) limit_ns_per_packet: Option<f64>,
    pub(super) ratio_to_limit: Option<f64>,
    /// CPU time of the ingress, all threads, for each packet in either direction: the median of the turns. Null without
    /// an ingress, as the next three.
    pub(super) ingress_cpu_ns_per_packet: Option<f64>,
    /// The same of receiving and forwarding the same packets, and nothing else. Null for TCP and TLS, too.
    pub(super) ingress_limit_ns_per_packet: Option<f64>,
    pub(super) ingress_ratio_to_limit: Option<f64>,
    /// What the ingress adds to latency: the median, over turns of two small calls with the same traffic, one through the
    /// ingress and one on a node without, of the differences of their percentiles.
    pub(super) added_latency_ms: Option<Percentiles>,
    /// Share of packets that receivers should have got and did not, after repair if there is any.
    pub(super) loss: f64,
    /// From the moment a publisher wrote a payload to the moment its receiver read it, of the opened packets.
    pub(super) latency_ms: Percentiles,
    /// From the request with the offer to the keys.
    pub(super) join_ms: Percentiles,
    pub(super) cpu_ms_per_join: f64,
    /// Resident memory everybody's joining cost, before there was media.
    pub(super) rss_bytes_per_participant: f64,
    /// Share of datagrams that left the relay in trains. Null when it sent none, or does not say.
    pub(super) gso_fraction: Option<f64>,
    /// Allocations of the relay for each forwarded packet. Null when it is another program.
    pub(super) allocations_per_packet: Option<f64>,
    /// Packets that clients received, and how many of them they opened: the others were counted by their headers, so that
    /// the clients leave the cores to the relay.
    pub(super) received_packets: u64,
    pub(super) opened_packets: u64,
    /// Packets that came twice, could not be opened, or belong to no slot; clients that failed.
    pub(super) wrong: u64,
}

/// The middle and the slow end, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    /// Of latencies in microseconds.
    pub(crate) fn of_us(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| round(histogram.value_at_quantile(quantile) as f64 / 1e3);
        Self { p50: at(0.5), p99: at(0.99) }
    }

    /// Of durations.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            round(times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3)
        };
        Self { p50: at(50), p99: at(99) }
    }
}

impl Judged for CallReport {
    fn flawless(&self) -> bool {
        let loss_max = if self.limit_ns_per_packet.is_some() { 0.0 } else { LOSS_AFTER_REPAIR_MAX };
        self.loss <= loss_max && self.wrong == 0 && self.forwarded_packets > 0
    }
}

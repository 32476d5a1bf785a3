//! What was, for charts: the last twenty minutes of all peers together, and of each.
//!
//! # Layout
//! - [`Ring`]: the last samples of something
//! - [`Peers`]: what an overview adds to the rings of peers; pure
//! - [`History`], [`run`]: the one task that looks at the hub, and what it leaves for others to see

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::admin::{LinkState, Overview, PeerView, Totals};
use trunkline_gateway_proto::directory::PeerState;
use trunkline_gateway_proto::time::Time;
use trunkline_http::serve::{Stopping, stopped};

use crate::hub::Hub;

/// How often the hub is looked at. Oftener makes finer charts, and asks more of the task that owns the core.
pub const EVERY: Duration = Duration::from_secs(2);

/// Samples that are kept: twenty minutes. More reach further back, and cost memory for every peer.
pub const SAMPLES_MAX: usize = 600;

/// Peers that have a history of their own, and a place in `sample` events. Each costs some 30 kB of memory, and 250
/// bytes of every event.
pub const PEERS_MAX: usize = 256;

/// The last samples of something.
#[derive(Clone, Debug)]
pub struct Ring<T> {
    samples: VecDeque<T>,
    max: usize,
}

impl<T: Clone> Ring<T> {
    /// An empty one that keeps the last `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { samples: VecDeque::new(), max }
    }

    /// Adds one; the oldest goes when there are too many.
    pub fn push(&mut self, sample: T) {
        while self.samples.len() >= self.max.max(1) {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        self.samples.iter().cloned().collect()
    }
}

/// One moment of a peer, or of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// When.
    pub at: Time,
    /// Envelopes acknowledged since the sample before.
    pub sent: u64,
    /// Envelopes accepted since then.
    pub received: u64,
    /// Envelopes refused by peers since then.
    pub refused: u64,
    /// Envelopes that wait.
    pub depth: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Age of the oldest; 0 when none waits.
    pub oldest_age_s: f32,
    /// From submission to acknowledgement, of late.
    pub latency_ms: Option<f32>,
}

/// Counters that only grow, until the process or its store starts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    sent: u64,
    received: u64,
    refused: u64,
}

impl Counted {
    fn of_peer(peer: &PeerView) -> Self {
        Self { sent: peer.sent, received: peer.received, refused: peer.refused }
    }

    fn of_all(totals: &Totals) -> Self {
        Self { sent: totals.delivered, received: totals.received, refused: totals.refused }
    }

    /// What was counted since `before`. A counter that went back started again from nothing.
    fn since(self, before: Self) -> Self {
        let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Self {
            sent: grown(self.sent, before.sent),
            received: grown(self.received, before.received),
            refused: grown(self.refused, before.refused),
        }
    }
}

#[derive(Clone, Debug)]
struct Track {
    counted: Counted,
    ring: Ring<Sample>,
    /// When it was seen last, in samples since the start.
    round: u64,
}

/// The rings of all peers, and of their sum.
#[derive(Clone, Debug)]
pub struct Peers {
    all: Track,
    peers: BTreeMap<Domain, Track>,
    /// Samples so far.
    rounds: u64,
}

impl Default for Peers {
    fn default() -> Self {
        Self { all: Track::new(Counted::default()), peers: BTreeMap::new(), rounds: 0 }
    }
}

impl Track {
    fn new(counted: Counted) -> Self {
        Self { counted, ring: Ring::new(SAMPLES_MAX), round: 0 }
    }
}

impl Peers {
    /// Adds what an overview shows. The first one only tells where counting begins.
    pub fn add(&mut self, overview: &Overview) {
        let Self { all, peers, rounds } = self;
        let totals = Counted::of_all(&overview.totals);
        let first = *rounds == 0;
        *rounds += 1;
        if first {
            all.counted = totals;
        }
        let mut latency = (0.0_f64, 0.0_f64);
        let mut recent = (0.0_f64, 0.0_f64);
        let (mut depth, mut bytes, mut oldest) = (0_u64, 0_u64, None);
        for peer in &overview.peers {
            depth = depth.saturating_add(peer.outbox.depth);
            bytes = bytes.saturating_add(peer.outbox.bytes);
            oldest = [oldest, peer.outbox.oldest].into_iter().flatten().min();
            let counted = Counted::of_peer(peer);
            let mut sent = 0;
            if peers.contains_key(&peer.domain) || peers.len() < PEERS_MAX {
                // What a peer did before anybody looked belongs to no interval. One that came since then began at nothing.
                let begin = if first { counted } else { Counted::default() };
                let track = peers.entry(peer.domain.clone()).or_insert_with(|| Track::new(begin));
                let grown = counted.since(track.counted);
                sent = grown.sent;
                track.counted = counted;
                track.round = *rounds;
                track.ring.push(Sample {
                    at: overview.at,
                    sent: grown.sent,
                    received: grown.received,
                    refused: grown.refused,
                    depth: peer.outbox.depth,
                    bytes: peer.outbox.bytes,
                    oldest_age_s: age_s(overview.at, peer.outbox.oldest),
                    latency_ms: peer.latency_ms.map(narrow),
                });
            }
            if let Some(ms) = peer.latency_ms {
                #[allow(clippy::cast_precision_loss, reason = "a weight")]
                let weight = sent as f64;
                latency = (latency.0 + ms * weight, latency.1 + weight);
                recent = (recent.0 + ms, recent.1 + 1.0);
            }
        }
        // A peer that was removed takes its past with it.
        peers.retain(|_, track| track.round == *rounds);
        // Peers count by what they acknowledged in this interval; when nobody did, those that did of late.
        let (sum, weight) = if latency.1 > 0.0 { latency } else { recent };
        let grown = totals.since(all.counted);
        all.counted = totals;
        all.ring.push(Sample {
            at: overview.at,
            sent: grown.sent,
            received: grown.received,
            refused: grown.refused,
            depth,
            bytes,
            oldest_age_s: age_s(overview.at, oldest),
            latency_ms: (weight > 0.0).then(|| narrow(sum / weight)),
        });
    }

    /// The samples of one peer, or of the sum, oldest first.
    #[must_use]
    pub fn samples(&self, peer: Option<&Domain>) -> Vec<Sample> {
        match peer {
            None => self.all.ring.to_vec(),
            Some(domain) => self.peers.get(domain).map(|track| track.ring.to_vec()).unwrap_or_default(),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a chart shows three digits")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn age_s(now: Time, oldest: Option<Time>) -> f32 {
    oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f32())
}

/// A `sample` event.
#[derive(Debug, Serialize)]
struct SampleEvent<'a> {
    at_ms: u64,
    totals: Totals,
    peers: Vec<SamplePeer<'a>>,
    /// Peers beyond [`PEERS_MAX`].
    left_out: usize,
}

#[derive(Debug, Serialize)]
struct SamplePeer<'a> {
    domain: &'a Domain,
    state: PeerState,
    link: LinkState,
    transport: Option<&'a str>,
    depth: u64,
    bytes: u64,
    oldest: Option<Time>,
    sent: u64,
    received: u64,
    refused: u64,
    latency_ms: Option<f64>,
}

/// An overview as a `sample` event carries it, as JSON.
fn event(overview: &Overview) -> String {
    let peers = overview.peers.iter().take(PEERS_MAX).map(|peer| SamplePeer {
        domain: &peer.domain,
        state: peer.state,
        link: peer.link,
        transport: peer.transport.as_deref(),
        depth: peer.outbox.depth,
        bytes: peer.outbox.bytes,
        oldest: peer.outbox.oldest,
        sent: peer.sent,
        received: peer.received,
        refused: peer.refused,
        latency_ms: peer.latency_ms,
    });
    let event = SampleEvent {
        at_ms: overview.at.unix_ms(),
        totals: overview.totals,
        peers: peers.collect(),
        left_out: overview.peers.len().saturating_sub(PEERS_MAX),
    };
    serde_json::to_string(&event).expect("invariant: names and numbers are JSON")
}

/// What is remembered, and the newest sample as it is told.
#[derive(Debug)]
pub struct History {
    peers: Mutex<Peers>,
    newest: watch::Sender<Arc<str>>,
}

impl Default for History {
    fn default() -> Self {
        Self { peers: Mutex::default(), newest: watch::Sender::new("".into()) }
    }
}

impl History {
    /// The samples of one peer, or of the sum, oldest first.
    #[must_use]
    pub fn samples(&self, peer: Option<&Domain>) -> Vec<Sample> {
        self.peers().samples(peer)
    }

    /// `sample` events from now on, as JSON. Who is slow gets the newest.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<str>> {
        self.newest.subscribe()
    }

    /// Remembers an overview, and tells those who follow.
    pub fn record(&self, overview: &Overview) {
        self.peers().add(overview);
        if self.newest.receiver_count() > 0 {
            self.newest.send_replace(event(overview).into());
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the hub every [`EVERY`], until told to stop. While storage is broken there is nothing to see.
pub async fn run(hub: Hub, history: Arc<History>, mut stopping: Stopping) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            _ = ticks.tick() => {}
        }
        if let Ok(overview) = hub.pulse().await {
            history.record(&overview);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake_hub::peer;

    fn overview(at_ms: u64, peers: Vec<PeerView>, delivered: u64) -> Overview {
        Overview {
            domain: "alpha.test".parse().unwrap(),
            at: Time::from_unix_ms(at_ms),
            peers,
            networks: Vec::new(),
            totals: Totals { delivered, ..Totals::default() },
        }
    }

    fn at(sent: u64) -> PeerView {
        PeerView { sent, ..peer("beta.test", None) }
    }

    fn sent(samples: &[Sample]) -> Vec<u64> {
        samples.iter().map(|sample| sample.sent).collect()
    }

    #[test]
    fn a_ring_keeps_the_last_samples_in_order() {
        let mut ring = Ring::new(3);
        for n in 0..5 {
            ring.push(n);
        }
        assert_eq!(ring.to_vec(), [2, 3, 4]);
    }

    #[test]
    fn samples_tell_what_happened_between_them() {
        let mut peers = Peers::default();
        for (at_ms, count) in [(0, 100), (2000, 107), (4000, 107), (6000, 110)] {
            peers.add(&overview(at_ms, vec![at(count)], count));
        }
        let beta = "beta.test".parse().unwrap();
        assert_eq!(sent(&peers.samples(Some(&beta))), [0, 7, 0, 3]);
        assert_eq!(sent(&peers.samples(None)), [0, 7, 0, 3]);
    }

    #[test]
    fn counters_that_begin_again_are_no_negative_rates() {
        let mut peers = Peers::default();
        for count in [100, 5, 6] {
            peers.add(&overview(0, vec![at(count)], count));
        }
        assert_eq!(sent(&peers.samples(None)), [0, 5, 1]);
    }

    #[test]
    fn a_new_peer_counts_from_nothing_and_a_removed_one_is_forgotten() {
        let mut peers = Peers::default();
        peers.add(&overview(0, Vec::new(), 0));
        peers.add(&overview(0, vec![at(4)], 4));
        let beta = "beta.test".parse().unwrap();
        assert_eq!(sent(&peers.samples(Some(&beta))), [4]);
        peers.add(&overview(0, Vec::new(), 4));
        assert!(peers.samples(Some(&beta)).is_empty());
        assert_eq!(peers.samples(None).len(), 3);
    }

    #[test]
    fn the_sum_has_the_oldest_of_all_and_the_latency_of_those_that_were_sent_to() {
        let mut peers = Peers::default();
        let beta = |sent| PeerView { sent, latency_ms: Some(10.0), ..peer("beta.test", None) };
        let mut gamma = PeerView { sent: 0, latency_ms: Some(900.0), ..peer("gamma.test", None) };
        gamma.outbox.depth = 2;
        gamma.outbox.oldest = Some(Time::from_unix_ms(1000));
        peers.add(&overview(2000, vec![beta(0), gamma.clone()], 0));
        peers.add(&overview(4000, vec![beta(5), gamma], 5));
        let samples = peers.samples(None);
        assert_eq!(samples[0].latency_ms, Some(455.0));
        assert_eq!(samples[1].latency_ms, Some(10.0));
        assert_eq!((samples[1].depth, samples[1].oldest_age_s), (2, 3.0));
    }

    #[test]
    fn more_peers_than_there_is_room_for_count_in_the_sum_only() {
        let mut history = Peers::default();
        let mut many: Vec<_> = (0..PEERS_MAX + 9).map(|n| peer(&format!("p{n}.test"), None)).collect();
        for peer in &mut many {
            peer.outbox.depth = 1;
        }
        let overview = overview(0, many, 0);
        history.add(&overview);
        assert_eq!(history.peers.len(), PEERS_MAX);
        assert_eq!(history.samples(None)[0].depth, PEERS_MAX as u64 + 9);
        let event: serde_json::Value = serde_json::from_str(&event(&overview)).unwrap();
        assert_eq!(event["peers"].as_array().unwrap().len(), PEERS_MAX);
        assert_eq!(event["left_out"], 9);
    }
}

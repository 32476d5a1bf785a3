//! Whether the gateway is well: for orchestrators, monitoring and `status`.

use std::future::Future;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::header::{CONTENT_TYPE, HeaderName};
use serde::Serialize;
use tokio::sync::watch;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::admin::{LinkState, Overview, Totals};
use trunkline_gateway_proto::directory::PeerState;
use trunkline_gateway_proto::time::Time;

use super::{AdminState, Answer, fail};
use crate::hub::{HubError, Queue};
use crate::metrics as gateway_metrics;
use crate::replica::Replica;

/// A hub that does not answer for so long is stuck: nothing it does takes that long.
const HUB_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How far the process has come, for whoever asks whether it can do its work.
#[derive(Debug)]
pub struct Readiness {
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Stopping,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Starting) }
    }
}

impl Readiness {
    /// Listeners are bound, the hub runs.
    pub fn ready(&self) {
        self.phase.send_replace(Phase::Ready);
    }

    /// A drain began: answers without an end are to end now.
    pub fn stopping(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// Waits until a drain begins.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.phase.subscribe();
        async move {
            // An error means that the process is past even that.
            let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
        }
    }

    fn obstacle(&self) -> Option<&'static str> {
        match *self.phase.borrow() {
            Phase::Starting => Some("the gateway is starting: its listeners are not up yet"),
            Phase::Ready => None,
            Phase::Stopping => Some("the gateway is stopping: it finishes what it has and takes no new work"),
        }
    }
}

/// Everything at a glance.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    domain: Domain,
    version: &'static str,
    uptime_s: u64,
    ready: bool,
    /// Why it is not ready.
    reason: Option<String>,
    /// Of several replicas, the one that answers this, which is the one that leads.
    leader: Option<String>,
    /// All that it knows, itself first; none where there can be no others.
    replicas: Vec<Replica>,
    peers: PeerCounts,
    networks: usize,
    outbox_depth: u64,
    outbox_oldest: Option<Time>,
    inbox_depth: u64,
    totals: Totals,
}

#[derive(Debug, Default, Serialize)]
struct PeerCounts {
    all: usize,
    up: usize,
    down: usize,
    paused: usize,
    invited: usize,
    alarm: usize,
}

pub(super) async fn healthz() -> &'static str {
    "alive\n"
}

pub(super) async fn readyz(State(state): State<AdminState>) -> Answer<&'static str> {
    ready(&state).await.map_err(fail::not_ready)?;
    Ok("ready\n")
}

pub(super) async fn metrics(State(state): State<AdminState>) -> ([(HeaderName, &'static str); 1], String) {
    // A hub that is stuck or stopping still lets its process metrics be seen.
    let overview = tokio::time::timeout(HUB_ANSWERS_WITHIN, state.hub.overview()).await;
    let overview = overview.ok().and_then(Result::ok);
    let not_after = state.identity.current().certificate.not_after;
    let (standing, followers) = (state.hub.standing(), state.hub.followers().list().len());
    let relays = state.relays.list();
    let text = gateway_metrics::render(&standing, followers, overview.as_ref(), &relays, not_after);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

pub(super) async fn openapi() -> Json<serde_json::Value> {
    Json(super::openapi::document())
}

pub(super) async fn status(State(state): State<AdminState>) -> Answer<Json<Status>> {
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    let reason = ready(&state).await.err();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: state.started.elapsed().as_secs(),
        ready: reason.is_none(),
        reason,
        leader: state.about.replica.clone(),
        replicas: state.about.replica.as_deref().map(|own| state.hub.replicas(own)).unwrap_or_default(),
        peers: count_peers(&overview),
        networks: overview.networks.len(),
        outbox_depth: overview.peers.iter().map(|peer| peer.outbox.depth).sum(),
        outbox_oldest: overview.peers.iter().filter_map(|peer| peer.outbox.oldest).min(),
        inbox_depth: overview.networks.iter().map(|network| network.inbox.depth).sum(),
        totals: overview.totals,
        domain: overview.domain,
    }))
}

/// Why the gateway cannot do its work, when it cannot.
async fn ready(state: &AdminState) -> Result<(), String> {
    if let Some(obstacle) = state.readiness.obstacle() {
        return Err(obstacle.to_owned());
    }
    match tokio::time::timeout(HUB_ANSWERS_WITHIN, probe(state)).await {
        Err(_) => Err(format!("the hub has not answered for {} s", HUB_ANSWERS_WITHIN.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(())) => Ok(()),
    }
}

/// An acknowledgement of nothing: it erases nothing, and fails when nothing can be made durable.
async fn probe(state: &AdminState) -> Result<(), HubError> {
    let network = state.hub.directory().networks().next().map(|network| network.key);
    match network {
        Some(network) => state.hub.ack(Queue::Inbox(network), 0).await,
        None => match state.hub.overview().await {
            // The one that leads can say more, and does.
            Err(HubError::Elsewhere(_)) => Ok(()),
            overview => overview.map(drop),
        },
    }
}

fn count_peers(overview: &Overview) -> PeerCounts {
    let mut counts = PeerCounts { all: overview.peers.len(), ..PeerCounts::default() };
    for peer in &overview.peers {
        match (peer.state, peer.link) {
            (PeerState::Invited, _) => counts.invited += 1,
            (PeerState::Paused, _) => counts.paused += 1,
            (PeerState::Active, LinkState::Up) => counts.up += 1,
            (PeerState::Active, LinkState::Alarm) => counts.alarm += 1,
            (PeerState::Active, LinkState::Down | LinkState::Connecting) => counts.down += 1,
        }
    }
    counts
}

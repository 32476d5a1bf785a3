//! What waits for peers, and what an operator does about it.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::admin::{AdminOp, AdminReply, Departure, LaneView, LinkState, QueueView};
use trunkline_gateway_proto::store::{LANES, Lane};
use trunkline_gateway_proto::time::Time;
use trunkline_http::extract::OptionalJson;

use super::auth::Actor;
use super::{AdminState, Answer, fail};
use super::{Body, JsonBody};

/// Everything that waits.
#[derive(Debug, Serialize)]
pub(super) struct OutboxView {
    /// Envelopes.
    depth: u64,
    /// Their bytes.
    bytes: u64,
    /// When the oldest was submitted.
    oldest: Option<Time>,
    /// Per peer.
    peers: Vec<PeerOutbox>,
}

/// What waits for one peer.
#[derive(Debug, Serialize)]
struct PeerOutbox {
    domain: Domain,
    #[serde(flatten)]
    queue: QueueView,
    link: LinkState,
    next_dial: Option<Time>,
    last_error: Option<String>,
    latency_ms: Option<f64>,
    lanes: Vec<LaneView>,
    departures: Vec<Departure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retry {
    domain: Option<Domain>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Purge {
    domain: Domain,
    #[serde(default)]
    lane: Option<Lane>,
}

/// How many were concerned.
#[derive(Debug, Serialize)]
pub(super) struct Count {
    count: u64,
}

pub(super) async fn show(State(state): State<AdminState>) -> Answer<Json<OutboxView>> {
    let overview = state.hub.overview().await.map_err(fail::hub)?;
    let peers: Vec<PeerOutbox> = overview
        .peers
        .into_iter()
        .map(|peer| PeerOutbox {
            domain: peer.domain,
            queue: peer.outbox,
            link: peer.link,
            next_dial: peer.next_dial,
            last_error: peer.last_error,
            latency_ms: peer.latency_ms,
            lanes: peer.lanes,
            departures: peer.departures,
        })
        .collect();
    Ok(Json(OutboxView {
        depth: peers.iter().map(|peer| peer.queue.depth).sum(),
        bytes: peers.iter().map(|peer| peer.queue.bytes).sum(),
        oldest: peers.iter().filter_map(|peer| peer.queue.oldest).min(),
        peers,
    }))
}

pub(super) async fn retry(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    OptionalJson(retry): OptionalJson<Retry>,
) -> Answer<Json<Count>> {
    count(&state, &actor, AdminOp::OutboxRetry(retry.domain)).await
}

pub(super) async fn purge(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(purge): Body<Purge>,
) -> Answer<Json<Count>> {
    if purge.lane.is_some_and(|lane| lane.0 >= LANES) {
        return Err(fail::invalid(format!("lane: expected 0 to {}", LANES - 1)));
    }
    count(&state, &actor, AdminOp::OutboxPurge { domain: purge.domain, lane: purge.lane }).await
}

async fn count(state: &AdminState, actor: &Actor, op: AdminOp) -> Answer<Json<Count>> {
    let count = match state.hub.admin(&actor.label, op).await.map_err(fail::admin)? {
        AdminReply::Count(count) => count,
        _ => 0,
    };
    Ok(Json(Count { count }))
}

//! What was, for charts.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use trunkline_common::ids::Domain;
use trunkline_http::extract::Query;

use super::{AdminState, Answer, fail};
use crate::history::{EVERY, Sample};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Of {
    peer: Option<Domain>,
}

#[derive(Debug, Serialize)]
pub(super) struct HistoryView {
    every_s: u64,
    samples: Vec<Sample>,
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Query(Of { peer }): Query<Of>,
) -> Answer<Json<HistoryView>> {
    let samples = state.history.samples(peer.as_ref());
    if let Some(domain) = peer.filter(|_| samples.is_empty()) {
        let known = state.hub.directory().peer_by_domain(domain.as_str()).is_some();
        if !known {
            return Err(fail::not_found("peer", domain.as_str()));
        }
    }
    Ok(Json(HistoryView { every_s: EVERY.as_secs(), samples }))
}

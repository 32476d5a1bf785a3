//! The deployment's relays and the calls on them, and what an operator does about them.

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use trunkline_gateway_proto::admin::AdminOp;
use trunkline_http::extract::{Named, OptionalJson};

use super::auth::Actor;
use super::{AdminState, Answer, fail};
use crate::relays::{CallsView, EVERY, RelayView, Sample};

#[derive(Debug, Serialize)]
pub(super) struct RelaysView {
    relays: Vec<RelayView>,
}

#[derive(Debug, Serialize)]
pub(super) struct CallsHistory {
    every_s: u64,
    samples: Vec<Sample>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Drain {
    deadline_s: Option<u64>,
}

pub(super) async fn list(State(state): State<AdminState>) -> Json<RelaysView> {
    Json(RelaysView { relays: state.relays.watch() })
}

pub(super) async fn calls(State(state): State<AdminState>) -> Json<CallsView> {
    Json(state.relays.calls())
}

pub(super) async fn history(State(state): State<AdminState>) -> Json<CallsHistory> {
    Json(CallsHistory { every_s: EVERY.as_secs(), samples: state.relays.history() })
}

pub(super) async fn end(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(call): Named<String>,
) -> Answer<StatusCode> {
    state.relays.end(&call).await.map_err(|error| fail::relay(&error))?;
    note(&state, &actor, "call.end", call).await
}

pub(super) async fn drain(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(name): Named<String>,
    OptionalJson(Drain { deadline_s }): OptionalJson<Drain>,
) -> Answer<StatusCode> {
    state.relays.drain(&name, deadline_s).await.map_err(|error| fail::relay(&error))?;
    note(&state, &actor, "relay.drain", name).await
}

pub(super) async fn undrain(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(name): Named<String>,
) -> Answer<StatusCode> {
    state.relays.undrain(&name).await.map_err(|error| fail::relay(&error))?;
    note(&state, &actor, "relay.undrain", name).await
}

/// What was done stands in the audit log; when that cannot be written, whoever asked is told.
async fn note(state: &AdminState, actor: &Actor, action: &'static str, target: String) -> Answer<StatusCode> {
    state.hub.admin(&actor.label, AdminOp::Note { action, target }).await.map_err(fail::admin)?;
    Ok(StatusCode::NO_CONTENT)
}

//! Creating calls, looking at them, ending them, and minting join tokens.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use trunkline_http::extract::{Json, Named, OptionalJson};
use trunkline_http::problem::Problem;
use trunkline_relay_proto::event::{EndReason, Role};

use super::limits::{JSON_BYTES_MAX, MEETING_ID_CHARS_MAX};
use super::{Answer, Api, fail, now_s};
use crate::node::{CallId, CallInfo, CallSnapshot, CallSummary, CreateCall, Mode};
use crate::token::{Grant, NAME_CHARS_MAX, TTL_DEFAULT, TTL_MAX, is_name};

/// `POST /v1/calls`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallCreate {
    max_participants: Option<usize>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    force_tcp: bool,
    meeting_id: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Calls {
    calls: Vec<CallSummary>,
    participants: usize,
    draining: bool,
    workers: Vec<f64>,
}

/// `POST /v1/calls/{call}/tokens`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenMint {
    participant: String,
    #[serde(default)]
    role: Role,
    ttl_s: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Token {
    token: String,
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    OptionalJson(asked): OptionalJson<CallCreate, JSON_BYTES_MAX>,
) -> Answer<(StatusCode, JsonAnswer<CallInfo>)> {
    let CallCreate { max_participants, mode, force_tcp, meeting_id } = asked;
    let ceiling = api.participants_max(mode);
    let participants_max = max_participants.unwrap_or(ceiling);
    if !(1..=ceiling).contains(&participants_max) {
        let detail =
            format!("max_participants: expected 1 to {ceiling} in this mode, found {participants_max}");
        return Err(fail::malformed(detail));
    }
    if meeting_id.as_ref().is_some_and(|id| id.chars().count() > MEETING_ID_CHARS_MAX) {
        return Err(fail::malformed(format!(
            "meeting_id: expected at most {MEETING_ID_CHARS_MAX} characters"
        )));
    }
    let call = CreateCall { participants_max: Some(participants_max), mode, force_tcp, meeting_id };
    let info = api.node.create(call).map_err(fail::node)?;
    Ok((StatusCode::CREATED, JsonAnswer(info)))
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> JsonAnswer<Calls> {
    let calls = api.node.list();
    JsonAnswer(Calls {
        participants: calls.iter().map(|call| call.participants).sum(),
        calls,
        draining: api.is_draining(),
        workers: api.node.load().iter().map(|worker| worker.busy).collect(),
    })
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Named(id): Named<String>,
) -> Answer<JsonAnswer<CallSnapshot>> {
    api.node.snapshot(&call_id(&id)?).await.map(JsonAnswer).map_err(fail::node)
}

pub(super) async fn end(State(api): State<Arc<Api>>, Named(id): Named<String>) -> Answer<StatusCode> {
    api.book.deleting(&id);
    let ended = call_id(&id).and_then(|call| api.node.end(&call, EndReason::CallEnded).map_err(fail::node));
    ended.map(|()| StatusCode::NO_CONTENT).inspect_err(|_| api.book.not_deleted(&id))
}

pub(super) async fn token(
    State(api): State<Arc<Api>>,
    Named(call): Named<String>,
    Json(asked): Json<TokenMint, JSON_BYTES_MAX>,
) -> Answer<(StatusCode, JsonAnswer<Token>)> {
    let TokenMint { participant, role, ttl_s } = asked;
    if !is_name(&participant) {
        let detail = format!("participant: expected a name of 1 to {NAME_CHARS_MAX} characters, on one line");
        return Err(fail::malformed(detail));
    }
    let ttl = ttl_s.map_or(TTL_DEFAULT, Duration::from_secs);
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(fail::malformed(format!("ttl_s: expected 1 to {}", TTL_MAX.as_secs())));
    }
    if !api.node.has(&call_id(&call)?) {
        return Err(fail::no_call());
    }
    let grant = Grant { participant: participant.into(), call, role };
    let token = api
        .tokens
        .mint(&grant, now_s() + ttl.as_secs())
        .map_err(|error| Problem::new(fail::NOT_CONFIGURED, error.to_string()))?;
    Ok((StatusCode::CREATED, JsonAnswer(Token { token })))
}

/// A call's id. One that no node gave out names no call.
pub(super) fn call_id(text: &str) -> Answer<CallId> {
    text.parse().map_err(|_| fail::no_call())
}

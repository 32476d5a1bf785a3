//! Admin tokens.

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use trunkline_common::token::{self, TokenHash};
use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::directory::Role;
use trunkline_gateway_proto::time::Time;
use trunkline_http::extract::Named;

use super::auth::Actor;
use super::{AdminState, Answer, fail};
use super::{Body, JsonBody};

/// Text before an admin token, so that a leaked one can be recognised.
pub const ADMIN_TOKEN_PREFIX: &str = "tla";

/// Longest label of a token in bytes: it stands in every audit entry.
const LABEL_BYTES_MAX: usize = 64;

#[derive(Debug, Serialize)]
pub(super) struct TokensView {
    tokens: Vec<TokenView>,
}

#[derive(Debug, Serialize)]
struct TokenView {
    label: String,
    role: Role,
    created: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenAdd {
    label: String,
    role: Role,
}

#[derive(Debug, Serialize)]
pub(super) struct TokenAdded {
    label: String,
    role: Role,
    token: String,
}

pub(super) async fn list(State(state): State<AdminState>) -> Json<TokensView> {
    let view = |token: &trunkline_gateway_proto::directory::AdminToken| TokenView {
        label: token.label.clone(),
        role: token.role,
        created: token.created,
    };
    Json(TokensView { tokens: state.hub.directory().tokens().map(view).collect() })
}

pub(super) async fn add(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    JsonBody(add): Body<TokenAdd>,
) -> Answer<(StatusCode, Json<TokenAdded>)> {
    let TokenAdd { label, role } = add;
    check_label(&label)?;
    let token = token::generate(ADMIN_TOKEN_PREFIX);
    let op = AdminOp::TokenAdd { label: label.clone(), token: TokenHash::of(&token), role };
    state.hub.admin(&actor.label, op).await.map_err(fail::admin)?;
    Ok((StatusCode::CREATED, Json(TokenAdded { label, role, token: token.to_string() })))
}

pub(super) async fn remove(
    State(state): State<AdminState>,
    Extension(actor): Extension<Actor>,
    Named(label): Named<String>,
) -> Answer<StatusCode> {
    state.hub.admin(&actor.label, AdminOp::TokenRemove(label)).await.map_err(fail::admin)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `gateway` and `init` are who the audit log names for what these did themselves. Labels stand in paths, where `.` and `..`
/// mean something else.
fn check_label(label: &str) -> Answer<()> {
    let byte_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
    let begins = label.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let reserved = matches!(label, "gateway" | "init");
    let ok = begins && label.len() <= LABEL_BYTES_MAX && label.bytes().all(byte_ok) && !reserved;
    if ok {
        return Ok(());
    }
    Err(fail::invalid(format!(
        "label: expected 1 to {LABEL_BYTES_MAX} letters, digits, `-`, `_`, `.` or `@`, a letter or digit first, \
         and not `gateway` or `init`"
    )))
}

//! Who asks, and whether they may: the admin token, join tokens, and the session's URL.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::request::Parts;
use trunkline_common::redact;
use trunkline_http::auth::{bearer, source};
use trunkline_http::lockout::{Outcome, locked_out};
use trunkline_http::problem::{FORBIDDEN, Problem, UNAUTHENTICATED};

use super::Api;
use crate::token::{Grant, TokenError};

/// Lets a request through that carries the admin token.
pub(super) async fn require_admin(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let source = source(request.extensions());
    if let Some(wait) = api.lockout.remaining(source, Instant::now()) {
        return Err(locked_out(wait));
    }
    if !bearer(request.headers()).is_some_and(|token| api.admin.matches(token)) {
        // A browser or a probe that sends nothing guesses nothing.
        if request.headers().contains_key(AUTHORIZATION) {
            count_failure(&api, source);
        }
        let detail =
            "send `Authorization: Bearer <token>` with the node's admin token, from its api.admin_token_file";
        return Err(Problem::new(UNAUTHENTICATED, detail));
    }
    api.lockout.succeeded(source);
    Ok(next.run(request).await)
}

fn count_failure(api: &Api, source: IpAddr) {
    metrics::counter!("trunkline_failed_logins_total").increment(1);
    if api.lockout.failed(source, Instant::now()) == Outcome::LockedOut {
        tracing::warn!(source = %redact::ip(&source), "too many failed log-ins: source locked out");
    }
}

/// What the join token of a request allows in a call.
pub(super) fn join_token(api: &Api, parts: &Parts, call: &str) -> Result<Grant, Problem> {
    let refused = |detail: String| api.failed_logins.refuse(source(&parts.extensions), detail);
    let Some(token) = bearer(&parts.headers) else {
        let detail = "send `Authorization: Bearer <token>` with a join token for this call";
        return Err(Problem::new(UNAUTHENTICATED, detail));
    };
    let grant = api.tokens.verify(token).map_err(|error| match error {
        // Whoever shows these had a valid one, and guesses nothing.
        TokenError::Expired | TokenError::NotYet => Problem::new(UNAUTHENTICATED, error.to_string()),
        TokenError::Invalid => refused(error.to_string()),
    })?;
    if grant.call != call {
        return Err(Problem::new(FORBIDDEN, "this join token is for another call"));
    }
    Ok(grant)
}

/// Checks a token that comes with a session's URL; the URL alone is enough.
pub(super) fn session_token(api: &Api, parts: &Parts, call: &str, participant: &str) -> Result<(), Problem> {
    if !parts.headers.contains_key(AUTHORIZATION) {
        return Ok(());
    }
    if *join_token(api, parts, call)?.participant == *participant {
        return Ok(());
    }
    Err(Problem::new(FORBIDDEN, "this join token is for another participant"))
}

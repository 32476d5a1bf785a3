//! Who asks, and whether they may: bearer tokens with a role, checked per route.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use trunkline_common::redact;
use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::directory::Role;
use trunkline_http::auth::{bearer, source};
use trunkline_http::lockout::{Outcome, locked_out};
use trunkline_http::problem::Problem;

use super::AdminState;
use super::fail;

/// The administrator who asks: handlers find it in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    /// The token's label, for the audit log.
    pub(crate) label: String,
}

/// Lets a request through when its token's role is `needed` or above.
pub(crate) async fn require(
    State((state, needed)): State<(AdminState, Role)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let source = source(request.extensions());
    if let Some(wait) = state.lockout.remaining(source, Instant::now()) {
        return Err(locked_out(wait));
    }
    let directory = state.hub.directory();
    let known = bearer(request.headers()).and_then(|token| directory.admin_by_token(token));
    let Some(token) = known else {
        let given = request.headers().contains_key(AUTHORIZATION);
        // A browser or a probe that sends nothing guesses nothing.
        if given {
            count_failure(&state, source).await;
        }
        return Err(fail::unauthenticated());
    };
    state.lockout.succeeded(source);
    if token.role < needed {
        return Err(fail::forbidden(token.role, needed));
    }
    request.extensions_mut().insert(Actor { label: token.label.clone() });
    Ok(next.run(request).await)
}

async fn count_failure(state: &AdminState, source: IpAddr) {
    if state.lockout.failed(source, Instant::now()) == Outcome::LockedOut {
        let target = redact::ip(&source).to_string();
        tracing::warn!(source = %target, "too many failed log-ins at the admin API: source locked out");
        // Once per lock-out, so a scanner cannot fill the audit log.
        let note = AdminOp::Note { action: "login.lockout", target };
        if let Err(error) = state.hub.admin("gateway", note).await {
            tracing::warn!(%error, "a lock-out could not be noted in the audit log");
        }
    }
}

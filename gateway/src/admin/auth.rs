//! Who asks, and whether they may: bearer tokens and console sessions, each with a role, checked per route.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method};
use trunkline_common::redact;
use trunkline_common::token::TokenHash;
use trunkline_gateway_proto::admin::AdminOp;
use trunkline_gateway_proto::administrator::Administrator;
use trunkline_gateway_proto::directory::Role;
use trunkline_http::auth::{bearer, source};
use trunkline_http::lockout::{Outcome, locked_out};
use trunkline_http::problem::Problem;

use super::routes::Access;
use super::session::{cookie, label_of};
use super::{AdminState, fail};

/// How often an answer without an end asks whether its caller may still see it. A console that lost its session must
/// notice within a second.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The administrator who asks: handlers find it in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    /// For the audit log: the token's label, or `console:` and a name.
    pub(crate) label: String,
    /// What they may do.
    pub(crate) role: Role,
    /// How they proved it.
    pub(super) by: By,
}

/// How somebody proved to be an administrator.
#[derive(Clone, Debug)]
pub(super) enum By {
    /// With this token.
    Token(TokenHash),
    /// With this session's cookie.
    Session(Mine),
}

/// The session of whoever asks.
#[derive(Clone, Debug)]
pub(super) struct Mine {
    /// The hash of its cookie.
    pub(super) secret: TokenHash,
    /// Whose it is.
    pub(super) name: String,
    /// What requests that change something carry beside the cookie.
    pub(super) csrf: String,
    /// How long it still lasts when nothing more is asked.
    pub(super) left: Duration,
}

/// Lets a request through when whoever asks may use the route.
pub(crate) async fn require(
    State((state, access)): State<(AdminState, Access)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    state.hub.knows().map_err(fail::hub)?;
    let cookie = state.logins.cookie_of(request.headers());
    let actor = match cookie {
        Some(secret) if !request.headers().contains_key(AUTHORIZATION) => {
            by_session(&state, access, &request, &secret)?
        }
        _ => {
            let given = request.headers().contains_key(AUTHORIZATION);
            let token = bearer(request.headers()).map(TokenHash::of);
            by_token(&state, source(request.extensions()), given, token).await?
        }
    };
    if let Access::Role(needed) = access
        && actor.role < needed
    {
        return Err(fail::forbidden(actor.role, needed));
    }
    request.extensions_mut().insert(actor.clone());
    let response = next.run(request).await;
    Ok(if is_endless(response.headers()) { while_allowed(state, actor, response) } else { response })
}

async fn by_token(
    state: &AdminState,
    source: IpAddr,
    given: bool,
    token: Option<TokenHash>,
) -> Result<Actor, Problem> {
    let directory = state.hub.directory();
    let known = token.and_then(|hash| directory.token_by_hash(&hash));
    // A token that opens something is never refused because of others that did not: many programs may share one address,
    // and nobody guesses a token. For the same reason it takes back no failures.
    let Some(token) = known else {
        if let Some(wait) = state.lockout.remaining(source, Instant::now()) {
            return Err(locked_out(wait));
        }
        // A browser or a probe that sends nothing guesses nothing.
        if given {
            count_failure(state, source).await;
        }
        return Err(fail::unauthenticated());
    };
    Ok(Actor { label: token.label.clone(), role: token.role, by: By::Token(token.hash) })
}

/// A cookie cannot be guessed, so one that opens nothing counts as no failure, and a source that is locked out keeps
/// the sessions it has.
fn by_session(
    state: &AdminState,
    access: Access,
    request: &Request,
    secret: &TokenHash,
) -> Result<Actor, Problem> {
    let (mine, record) = state.resume(secret).map_err(fail::ended)?;
    if !cookie::is_same_origin(request.uri(), request.headers()) {
        return Err(fail::foreign_origin());
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && !has_csrf(request.headers(), &mine.csrf) {
        return Err(fail::csrf());
    }
    if access != Access::Own {
        check_due(state, &record)?;
    }
    Ok(Actor { label: label_of(&record.name), role: record.role, by: By::Session(mine) })
}

/// What an administrator has to do before anything else.
fn check_due(state: &AdminState, record: &Administrator) -> Result<(), Problem> {
    if record.must_change_password {
        return Err(fail::password_change_needed());
    }
    if state.must_enable_totp(record) {
        return Err(fail::totp_enrolment_needed());
    }
    Ok(())
}

/// Compared by hash, so that the time it takes tells nothing.
fn has_csrf(headers: &HeaderMap, csrf: &str) -> bool {
    let given = headers.get(cookie::CSRF_HEADER).and_then(|given| given.to_str().ok());
    given.is_some_and(|given| TokenHash::of(csrf).matches(given))
}

fn is_endless(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// An answer that ends when its caller's session or token does.
fn while_allowed(state: AdminState, actor: Actor, response: Response) -> Response {
    let ended = async move {
        let mut ticks = tokio::time::interval(LOOK_AGAIN);
        loop {
            ticks.tick().await;
            let allowed = match &actor.by {
                By::Session(mine) => {
                    let record = state.hub.directory().administrator(&mine.name).cloned();
                    let owes = record.is_none_or(|record| check_due(&state, &record).is_err());
                    !owes && state.is_logged_in(&mine.secret)
                }
                By::Token(hash) => state.hub.directory().token_by_hash(hash).is_some(),
            };
            if !allowed {
                return;
            }
        }
    };
    let (parts, body) = response.into_parts();
    // An answer that breaks off ends like one that is over: its reader asks again, and hears why.
    let frames = body.into_data_stream().take_while(|frame| std::future::ready(frame.is_ok()));
    let frames = frames.map(|frame| Ok::<_, Infallible>(frame.unwrap_or_default()));
    Response::from_parts(parts, Body::from_stream(frames.take_until(Box::pin(ended))))
}

/// Counts a failed log-in against its source.
pub(super) async fn count_failure(state: &AdminState, source: IpAddr) {
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

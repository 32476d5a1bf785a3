//! The HTTP API: calls for calling services, joining for people, and what operators need.
//!
//! # Layout
//! In the order a request meets them:
//! - [`routes`]: every route with who may use it, from which the router and the OpenAPI document are both made
//! - [`cors`]: web pages of other origins
//! - [`ingress`]: what ingresses say and are told
//! - `auth`: the admin token, join tokens, the session's URL
//! - `calls`, `participants`, `events`, `operate`: the handlers
//! - `ice_servers`: the TURN server that clients are told of
//! - [`fail`]: the problems that only a relay has
//! - [`limits`]: every bound there is
//! - [`openapi`]: the document that describes the API

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next, from_fn_with_state};
use axum::response::Response;
use tokio::sync::Semaphore;
use trunkline_common::token::TokenHash;
use trunkline_http::auth::{Budget, FailedLogins};
use trunkline_http::lockout::Lockout;
use trunkline_http::problem::{Problem, method_not_allowed, not_found};
use trunkline_http::serve::Stopping;

mod auth;
mod calls;
pub mod cors;
mod events;
pub mod fail;
mod ice_servers;
pub mod ingress;
pub mod limits;
pub mod openapi;
mod operate;
mod participants;
pub mod routes;
#[cfg(test)]
mod tests;

pub use operate::Health;

use crate::config::Config;
use crate::metrics::View;
use crate::node::{Mode, Node, SessionId};
use crate::records::{Book, Reader};
use crate::token::Tokens;
use crate::web;
use cors::Origins;
use routes::{Access, ROUTES};

/// What the handlers share.
#[derive(Debug)]
pub struct Api {
    number: u16,
    node: Node,
    tokens: Tokens,
    admin: TokenHash,
    book: Arc<Book>,
    records: Option<Reader>,
    stopping: Stopping,
    lockout: Lockout,
    failed_logins: FailedLogins,
    joins: Budget<IpAddr>,
    changes: Budget<SessionId>,
    requests: Budget<SessionId>,
    events: Arc<Semaphore>,
    origins: Origins,
    ingresses: Arc<[IpAddr]>,
    metrics_open: bool,
    conference_participants_max: usize,
    broadcast_participants_max: usize,
}

/// What the API of a node is made of.
#[derive(Debug)]
pub struct Parts {
    /// Holds the calls.
    pub node: Node,
    /// Checks join tokens.
    pub tokens: Tokens,
    /// What the admin token is known by.
    pub admin: TokenHash,
    /// Where calls are recorded; who hears of their ends tells it.
    pub book: Arc<Book>,
}

/// What handlers answer.
type Answer<T> = Result<T, Problem>;

impl Api {
    /// The API of a node.
    #[must_use]
    pub fn new(parts: Parts, config: &Config, stopping: Stopping) -> Self {
        let Parts { node, tokens, admin, book } = parts;
        let records = config
            .records
            .directory
            .as_ref()
            .map(|directory| Reader::new(directory.clone(), config.records.prefix.clone()));
        Self {
            number: config.node,
            node,
            tokens,
            admin,
            book,
            records,
            stopping,
            lockout: Lockout::default(),
            failed_logins: FailedLogins::default(),
            joins: Budget::new(config.limits.joins_per_s, "joins from this address"),
            changes: Budget::bursting(
                limits::CHANGES_PER_S,
                limits::CHANGES_BURST,
                "changes of this session",
            ),
            requests: Budget::new(limits::EVENTS_REQUESTS_PER_S, "requests of this session"),
            events: Arc::new(Semaphore::new(config.limits.events_max)),
            origins: config.api.origins.clone().into(),
            ingresses: config.ingress.from.iter().map(IpAddr::to_canonical).collect(),
            metrics_open: config.metrics.open,
            conference_participants_max: config.limits.conference_participants_max,
            broadcast_participants_max: config.limits.broadcast_participants_max,
        }
    }

    fn participants_max(&self, mode: Mode) -> usize {
        match mode {
            Mode::Conference => self.conference_participants_max,
            Mode::Broadcast => self.broadcast_participants_max,
        }
    }

    fn is_draining(&self) -> bool {
        self.node.drain_state().is_some()
    }

    fn view(&self) -> View {
        let (counters, sockets, connections) = self.node.counters();
        let lobby = self.node.lobby_counters();
        let (tunnel, load) = (self.node.tunnel_counters(), self.node.load());
        let (receivers, draining) = (self.node.receivers(), self.is_draining());
        View { counters, receivers, sockets, connections, lobby, tunnel, load, draining }
    }
}

/// The API. Serve it so that requests carry `ConnectInfo<SocketAddr>`: budgets count per source.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let mut router = Router::new();
    for route in ROUTES {
        let handler = (route.handler)();
        let guarded = match route.access {
            Access::Admin => true,
            Access::Metrics => !api.metrics_open,
            Access::Open | Access::Join | Access::Session => false,
        };
        let handler = if guarded {
            handler.route_layer(from_fn_with_state(Arc::clone(&api), auth::require_admin))
        } else {
            handler
        };
        router = router.route(route.path, handler);
    }
    let origins = Arc::clone(&api.origins);
    router
        .route_layer(middleware::from_fn(count))
        .merge(web::router())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(origins, cors::layer))
        .layer(from_fn_with_state(Arc::clone(&api), ingress::layer))
        .with_state(api)
}

/// Counts a request by route, method and status.
async fn count(path: MatchedPath, request: Request, next: Next) -> Response {
    // Callers may make up methods, but no series.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    let labels = [("route", path.as_str().to_owned()), ("method", method), ("status", status)];
    metrics::counter!("trunkline_relay_api_requests_total", &labels).increment(1);
    response
}

/// Seconds since the Unix epoch.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

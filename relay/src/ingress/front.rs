//! The HTTP front of an ingress: the nodes' API at one address. It remembers nothing of calls.
//!
//! New calls go to the least busy node. Everything about a call goes to the node that has it, and the call is made again
//! elsewhere when its node is lost or hands it over (docs/decisions/0016).
//!
//! # Layout
//! - here: what it serves
//! - `calls`: creating and listing calls, and requests about one; `joins`: who lets somebody in
//! - `events`: events connections
//! - `message`: what goes to a node, and comes back
//! - `upstream`: the nodes, polled and asked
//! - [`limits`]: every bound there is

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use reqwest::Certificate;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};
use trunkline_http::problem::{OVERLOADED, Problem, ProblemType, method_not_allowed, not_found};
use trunkline_http::serve::tls::Tls;
use trunkline_http::serve::{self, Stopping};

mod calls;
mod events;
mod joins;
pub mod limits;
mod message;
mod upstream;

use crate::api::openapi;
use crate::web;
use limits::{BODIES_KIB_MAX, EVENTS_MAX, NO_NODE_RETRY, REQUESTS_MAX};
pub use upstream::{Upstream, Upstreams};

/// Only the node itself can do this.
pub const NODE_ONLY: ProblemType =
    ProblemType::new("node-only", StatusCode::NOT_FOUND, "This is a matter of one node");
/// No node can be asked.
pub const NO_NODE: ProblemType =
    ProblemType::new("no-node", StatusCode::SERVICE_UNAVAILABLE, "No relay node can do this now");

/// Why the front does not start.
#[derive(Debug, Error)]
pub enum FrontError {
    /// The HTTP client that asks nodes.
    #[error("the client that asks nodes cannot start: {0}")]
    Client(#[from] reqwest::Error),
    /// Whom nodes are checked against.
    #[error("api.nodes_ca: cannot read {}: {problem}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// How the front serves.
pub struct Settings {
    /// Its certificate; without it the front speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Bounds of its connections.
    pub limits: serve::Limits,
    /// What `/metrics` shows.
    pub metrics: fn() -> String,
}

/// Reads authorities that nodes are checked against: PEM.
///
/// # Errors
/// When the file cannot be read, or has no certificate.
pub fn authorities(path: &Path) -> Result<Vec<Certificate>, FrontError> {
    let unreadable = |problem: String| FrontError::Authorities { path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let read = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))?;
    if read.is_empty() { Err(unreadable("there is no certificate in it".to_owned())) } else { Ok(read) }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What a request takes of the front's bounds, for as long as this lives.
struct Room<'a> {
    _request: SemaphorePermit<'a>,
    _body: SemaphorePermit<'a>,
}

/// What the handlers share.
struct Front {
    upstreams: Arc<Upstreams>,
    /// Requests that are read or wait for nodes,
    requests: Semaphore,
    /// and the KiB of their bodies.
    bodies: Semaphore,
    events: Arc<Semaphore>,
    metrics: fn() -> String,
    stopping: Stopping,
}

/// Serves until told to stop. It knows which nodes live before it takes the first request.
pub async fn serve(listener: TcpListener, settings: Settings, upstreams: Arc<Upstreams>, stopping: Stopping) {
    describe_metrics();
    upstreams.poll_all().await;
    upstreams.watch_all(stopping.clone());
    let front = Front {
        upstreams,
        requests: Semaphore::new(REQUESTS_MAX),
        bodies: Semaphore::new(BODIES_KIB_MAX),
        events: Arc::new(Semaphore::new(EVENTS_MAX)),
        metrics: settings.metrics,
        stopping: stopping.clone(),
    };
    serve::serve(
        listener,
        settings.tls.as_deref().map(Tls::acceptor),
        router(front),
        settings.limits,
        stopping,
    )
    .await;
}

fn describe_metrics() {
    metrics::describe_gauge!("trunkline_ingress_node_up", "1 while a node answers, else 0");
    metrics::describe_gauge!("trunkline_ingress_events_connections", "Events connections that are open");
    metrics::describe_counter!(
        "trunkline_ingress_moved_total",
        "Events connections whose node was lost, and whose clients were told to join again"
    );
    metrics::describe_counter!(
        "trunkline_ingress_api_requests_total",
        "HTTP requests by route, method and status"
    );
    metrics::gauge!("trunkline_ingress_events_connections").set(0.0);
    metrics::counter!("trunkline_ingress_moved_total").absolute(0);
}

fn router(front: Front) -> Router {
    Router::new()
        .route("/v1/calls", any(calls::all))
        .route("/v1/calls/{call}", any(calls::one))
        .route("/v1/calls/{call}/tokens", any(calls::tokens))
        .route("/v1/calls/{call}/participants", any(joins::participants))
        .route("/v1/calls/{call}/participants/{session}", any(calls::session))
        .route("/v1/calls/{call}/participants/{session}/events", any(events::open))
        .route("/v1/records", any(node_only))
        .route("/v1/drain", any(node_only))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/openapi.json", get(async || axum::Json(openapi::document())))
        .route_layer(middleware::from_fn(count))
        .merge(web::router())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(front))
}

async fn node_only() -> Problem {
    let detail = "records and draining are matters of one node: ask that node itself, at its own address";
    Problem::new(NODE_ONLY, detail)
}

async fn metrics(State(front): State<Arc<Front>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (front.metrics)())
}

async fn readyz(State(front): State<Arc<Front>>) -> Result<&'static str, Problem> {
    if *front.stopping.borrow() {
        return Err(Problem::new(NO_NODE, "this ingress is stopping: use another").retry_after(NO_NODE_RETRY));
    }
    let table = front.upstreams.table();
    if table.live().into_iter().any(|at| table.is_up(at)) {
        return Ok("ready\n");
    }
    Err(no_node("none of the nodes answers"))
}

fn no_node(detail: &str) -> Problem {
    Problem::new(NO_NODE, format!("{detail}: try again in a moment")).retry_after(NO_NODE_RETRY)
}

impl Front {
    /// Room for one more request to nodes, with a body of so many bytes.
    fn admit(&self, body_bytes: usize) -> Result<Room<'_>, Problem> {
        let busy = |_| {
            Problem::new(OVERLOADED, "too many requests wait for nodes: try again in a moment")
                .retry_after(NO_NODE_RETRY)
        };
        let kib = u32::try_from(body_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let request = self.requests.try_acquire().map_err(busy)?;
        let body = self.bodies.try_acquire_many(kib).map_err(busy)?;
        Ok(Room { _request: request, _body: body })
    }
}

/// Counts a request by route, method and status.
async fn count(path: MatchedPath, request: Request, next: Next) -> Response {
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        // Callers may make up methods, but no series.
        _ => "other",
    };
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    let labels = [("route", path.as_str().to_owned()), ("method", method.to_owned()), ("status", status)];
    metrics::counter!("trunkline_ingress_api_requests_total", &labels).increment(1);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_take_no_more_room_together_than_there_is() {
        let front = Front {
            upstreams: Arc::new(Upstreams::new(Vec::new(), Vec::new(), None).unwrap()),
            requests: Semaphore::new(REQUESTS_MAX),
            bodies: Semaphore::new(BODIES_KIB_MAX),
            events: Arc::new(Semaphore::new(EVENTS_MAX)),
            metrics: String::new,
            stopping: tokio::sync::watch::channel(false).1,
        };
        let rooms: Vec<_> = (0..256).map(|_| front.admit(1 << 20).unwrap()).collect();
        assert_eq!(front.admit(1).err().unwrap().kind(), OVERLOADED);
        // What has no body waits for no room.
        assert!(front.admit(0).is_ok());
        drop(rooms);
        let rooms: Vec<_> = (0..REQUESTS_MAX).map(|_| front.admit(1000).unwrap()).collect();
        assert!(front.admit(0).is_err());
        drop(rooms);
    }
}

//! The local API: how a deployment's own messaging servers hand envelopes in and take them out.
//!
//! # Layout
//! - [`auth`]: which network is calling
//! - [`limits`]: every bound there is
//! - `envelopes`: submission, with its JSON in `json` and its protobuf in `protobuf`
//! - `feed`: inbox and receipts in both formats (`inbox`, `receipts`), by request (`poll`) or WebSocket (`stream`)
//! - [`webhook`]: pushing the inbox to a messaging server
//! - [`problem`]: the problems that only a gateway has

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use trunkline_common::limits::PAYLOAD_BYTES_MAX;
use trunkline_common::token::TokenHash;
use trunkline_http::auth::{Budget, FailedLogins};
use trunkline_http::problem::{method_not_allowed, not_found};
use trunkline_http::serve::Stopping;

use crate::hub::Hub;

pub mod auth;
pub mod limits;
pub mod problem;
pub mod webhook;

mod envelopes;
mod feed;
mod inbox;
mod json;
mod poll;
mod protobuf;
mod receipts;
mod stream;
#[cfg(test)]
mod tests;

use feed::Feed;

/// What an operator can set.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Largest payload of an envelope, in bytes.
    pub payload_bytes_max: usize,
    /// Requests per second with one token; without a limit when `None`.
    pub requests_per_s_max: Option<NonZeroU32>,
}

impl Default for Config {
    fn default() -> Self {
        Self { payload_bytes_max: PAYLOAD_BYTES_MAX, requests_per_s_max: None }
    }
}

/// What the handlers share.
struct Api {
    hub: Hub,
    config: Config,
    stopping: Stopping,
    failed_logins: FailedLogins,
    token_budget: Option<Budget<TokenHash>>,
    body_room: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// The local API, to be served with [`trunkline_http::serve::serve`]. Polls and streams end early once told to stop.
pub fn router(hub: Hub, config: Config, stopping: Stopping) -> Router {
    let api = Arc::new(api(hub, config, stopping));
    let mut router = Router::new().route("/v1/envelopes", post(envelopes::submit));
    for (path, feed) in [("/v1/inbox", Feed::Inbox), ("/v1/receipts", Feed::Receipts)] {
        router = router
            .route(
                path,
                get(move |api, tenant, headers, query| poll::read(feed, api, tenant, headers, query)),
            )
            .route(&format!("{path}/ack"), post(move |api, tenant, body| poll::ack(feed, api, tenant, body)))
            .route(
                &format!("{path}/stream"),
                get(move |api, tenant, query, upgrade| stream::open(feed, api, tenant, query, upgrade)),
            );
    }
    router
        .route_layer(middleware::from_fn(count))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
}

fn api(hub: Hub, config: Config, stopping: Stopping) -> Api {
    Api {
        hub,
        config,
        stopping,
        failed_logins: FailedLogins::default(),
        token_budget: config
            .requests_per_s_max
            .map(|per_second| Budget::new(per_second, "requests with this token")),
        body_room: Arc::new(Semaphore::new(limits::BODIES_BYTES_MAX / limits::BODIES_UNIT_BYTES)),
        streams: Arc::new(Semaphore::new(limits::STREAMS_MAX)),
    }
}

/// Counts a request by path and status.
async fn count(path: MatchedPath, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics::counter!("trunkline_gateway_local_api_requests_total", "path" => path.as_str().to_owned(), "status" => status)
        .increment(1);
    response
}

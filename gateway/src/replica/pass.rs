//! Operators' requests that come in at a follower: the leader answers them.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri, Version};
use trunkline_http::problem::Problem;

use super::trust::NAME;
use super::{CALLER, DIRECTORY_VERSION, Standing};
use crate::hub::{Hub, HubError};
use crate::store::StoreError;

/// How long an answer waits until what was changed is known here. It comes within a round trip.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Answers a request, or has the leader answer it when it concerns all replicas. What remains is each process's own:
/// health, metrics, and the console's pages.
pub(crate) async fn pass(State(hub): State<Hub>, request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with("/admin/") {
        return next.run(request).await;
    }
    match hub.standing() {
        Standing::Following(leader) => {
            let failed = |why: String| {
                let cause = StoreError::Unavailable(format!("replica at {}: {why}", leader.address()));
                Problem::from(HubError::Store(cause)).into_response()
            };
            let Some(request) = addressed(request) else {
                return failed("the request cannot be passed on".into());
            };
            match leader.send(request).await {
                Ok(mut answer) => {
                    if let Some(version) = answer.headers_mut().remove(DIRECTORY_VERSION) {
                        known(&hub, &version).await;
                    }
                    answer
                }
                Err(error) => failed(error.to_string()),
            }
        }
        Standing::Leading | Standing::Seeking => next.run(request).await,
    }
}

/// The request as HTTP/2 carries it (RFC 9113, section 8.2.2), with who asks.
fn addressed(mut request: Request) -> Option<Request> {
    let caller = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(caller)| *caller);
    let headers = request.headers_mut();
    for hop in [CONNECTION, TRANSFER_ENCODING, UPGRADE, CALLER] {
        headers.remove(hop);
    }
    // Kept for whoever compares it with an origin.
    let host = headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Some(caller) = caller {
        headers.insert(CALLER, HeaderValue::try_from(caller.to_string()).ok()?);
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = parts.authority.or(host).or_else(|| Some(Authority::from_static(NAME)));
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.version_mut() = Version::HTTP_2;
    Some(request)
}

/// Waits until this replica knows what the leader knew when it answered.
async fn known(hub: &Hub, version: &HeaderValue) {
    let Some(version) = version.to_str().ok().and_then(|version| version.parse::<u64>().ok()) else { return };
    let reached = async {
        let mut changes = hub.changes();
        while hub.directory_version() < version && changes.next().await {}
    };
    // Later is late, but not wrong.
    let _ = tokio::time::timeout(KNOWN_WITHIN, reached).await;
}

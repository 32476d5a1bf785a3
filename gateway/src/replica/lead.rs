//! The leader's side: what followers may ask.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message;
use tokio::sync::mpsc;
use trunkline_gateway_proto::store::NetworkKey;
use trunkline_http::serve::Limits;

use super::{CALLER, DIRECTORY_VERSION, KEEP_ALIVE, PREFIX, Standing, relay, wire};
use crate::clock::now;
use crate::hub::{Hub, HubError};
use crate::identity::Identity;
use crate::link::{LinkEvent, Links};

/// Largest request: a batch of submissions, whose bounds the follower has checked.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// Bounds of the server for replicas. A follower has one connection, on which every link and every waiting reader is a
/// request.
pub(crate) const LIMITS: Limits = Limits {
    connections_max: 256,
    // Replicas may share a machine; strangers are not to keep them out.
    per_source_max: Some(16),
    streams_max: 100_000,
    first_request: Duration::from_secs(2),
    next_request: Duration::from_secs(75),
    stall: Duration::from_secs(10),
    keep_alive: Some(KEEP_ALIVE),
    // Who led and stood still leads no more.
    standstill_max: None,
    drain: Duration::from_secs(1),
};

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) hub: Hub,
    /// Gives links their numbers.
    pub(crate) links: Arc<Links>,
    /// Where links report to.
    pub(crate) events: mpsc::Sender<LinkEvent>,
    /// What peers are shown here.
    pub(crate) identity: Arc<Identity>,
}

/// What followers are served: their questions, and operators' requests that they pass on, by `admin`.
pub(crate) fn router(lead: Parts, admin: Router) -> Router {
    let path = |what: &str| format!("{PREFIX}{what}");
    let hub = lead.hub.clone();
    let admin = admin.layer(from_fn_with_state(hub.clone(), passed_on));
    Router::new()
        .route(&path("directory"), get(directory))
        .route(&path("pin"), get(pin))
        .route(&path("submit"), post(submit))
        .route(&path("read"), post(read))
        .route(&path("ack"), post(ack))
        .route(&path("link"), post(link))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(lead)
        .fallback_service(admin)
        .layer(from_fn_with_state(hub, while_leading))
}

/// Answers 503 while this replica does not lead: what it knows may be old.
async fn while_leading(State(hub): State<Hub>, request: Request, next: Next) -> Response {
    if matches!(hub.standing(), Standing::Leading) {
        next.run(request).await
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

/// Serves a request of an operator that came in at a follower, as if it had come in here.
async fn passed_on(State(hub): State<Hub>, mut request: Request, next: Next) -> Response {
    let caller = request.headers_mut().remove(CALLER);
    let caller = caller.and_then(|caller| caller.to_str().ok()?.parse::<SocketAddr>().ok());
    if let Some(caller) = caller {
        request.extensions_mut().insert(ConnectInfo(caller));
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(DIRECTORY_VERSION, HeaderValue::from(hub.directory_version()));
    response
}

/// The pin of the certificate that peers are shown here.
async fn pin(State(lead): State<Parts>) -> String {
    lead.identity.current().pin().to_string()
}

async fn submit(State(lead): State<Parts>, body: Bytes) -> Response {
    let Ok(wire::Submit { network, batch }) = wire::Submit::decode(body) else { return malformed() };
    let results = lead.hub.submit(NetworkKey(network), batch).await;
    respond(results.map(|results| wire::Submitted { results }))
}

async fn read(State(lead): State<Parts>, body: Bytes) -> Response {
    let Ok(wire::Read { queue: Some(queue), after, max, wait_ms }) = wire::Read::decode(body) else {
        return malformed();
    };
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let records = lead.hub.read(queue.into(), after, max, Duration::from_millis(wait_ms)).await;
    respond(records.map(|records| wire::Records { records: records.into_iter().map(Into::into).collect() }))
}

async fn ack(State(lead): State<Parts>, body: Bytes) -> Response {
    let Ok(wire::Ack { queue: Some(queue), up_to }) = wire::Ack::decode(body) else { return malformed() };
    respond(lead.hub.ack(queue.into(), up_to).await)
}

async fn link(State(lead): State<Parts>, body: Body) -> Response {
    match relay::take(body, lead.links.next_link(), lead.events).await {
        Some(answer) => Response::new(answer),
        None => malformed(),
    }
}

/// Who is who, now and whenever it changes, for as long as this replica leads.
async fn directory(State(lead): State<Parts>, headers: HeaderMap) -> Response {
    let (hub, changes) = (lead.hub.clone(), lead.hub.changes());
    // Looked at once more, as an end of leading is told of from here on only.
    if !matches!(lead.hub.standing(), Standing::Leading) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    // Goes with the stream.
    let place = lead.hub.followers().add(&headers, now());
    let state = (hub, changes, true, place);
    let changes = stream::unfold(state, |(hub, mut changes, first, place)| async move {
        if !first && !changes.next().await {
            return None;
        }
        let (version, directory) = (hub.directory_version(), hub.directory());
        let mut out = BytesMut::new();
        wire::put_directory(version, &directory.to_json(), &mut out);
        Some((Ok::<_, Infallible>(out.freeze()), (hub, changes, false, place)))
    });
    Response::new(Body::from_stream(changes))
}

fn respond(answer: Result<impl Message, HubError>) -> Response {
    match answer {
        Ok(answer) => Response::new(Body::from(answer.encode_to_vec())),
        // The cause is in this replica's log.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn malformed() -> Response {
    StatusCode::BAD_REQUEST.into_response()
}

//! Joining, changing and leaving: WHIP (RFC 9725), with more media sections and new offers allowed.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, LINK, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use trunkline_http::auth::{bucket, source};
use trunkline_http::extract::{media_type, read_body, unsupported};
use trunkline_http::problem::{BAD_REQUEST, Problem};

use super::calls::call_id;
use super::routes::{FRAGMENT, SDP};
use super::{Answer, Api, auth, fail, ice_servers, ingress};
use crate::metrics as relay_metrics;
use crate::node::{SessionId, SessionInfo};
use crate::sdp::{FRAGMENT_BYTES_MAX, OFFER_BYTES_MAX};

/// What can be posted (the registered counterpart of `Accept-Patch`).
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// RFC 5789, section 3.1
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

const PATCH_TYPES: HeaderValue = HeaderValue::from_static("application/sdp, application/trickle-ice-sdpfrag");

/// The session's URL is a secret: nothing on the way may keep it.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

pub(super) async fn join(
    State(api): State<Arc<Api>>,
    Path(call): Path<String>,
    request: Request,
) -> Answer<Response> {
    let (parts, body) = request.into_parts();
    api.joins.count(&bucket(source(&parts.extensions)))?;
    let grant = auth::join_token(&api, &parts, &call)?;
    let asked = ingress::asked(&parts);
    let id = call_id(&call)?;
    let most = api.participants_max(id.settings().mode);
    if media_type(&parts.headers) != Some(SDP) {
        return Err(unsupported(SDP));
    }
    let offer = text(Request::from_parts(parts, body), OFFER_BYTES_MAX).await?;
    let began = Instant::now();
    api.node.admit(&id, asked, most).map_err(fail::node)?;
    let joined = api.node.join(&id, &grant.participant, grant.role, &offer).await.map_err(fail::node)?;
    relay_metrics::join_answered(began.elapsed());
    let location = format!("/v1/calls/{id}/participants/{}", joined.session.expose());
    let mut response = (StatusCode::CREATED, joined.answer).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(SDP));
    headers.insert(LOCATION, value(&location)?);
    headers.insert(ETAG, value(&joined.etag)?);
    headers.insert(ACCEPT_PATCH, PATCH_TYPES);
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Some(server) = api.node.ice_server() {
        headers.insert(LINK, ice_servers::link(&server)?);
    }
    Ok(response)
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Path((call, session)): Path<(String, String)>,
    request: Request,
) -> Answer<Response> {
    let (parts, body) = request.into_parts();
    let session = authorized(&api, &parts, &call, &session)?;
    api.changes.count(&session)?;
    let if_match = if_match(&parts.headers)?;
    let kind = media_type(&parts.headers).map(str::to_owned);
    let request = Request::from_parts(parts, body);
    let (media_type, changed) = match kind.as_deref() {
        Some(SDP) => {
            let offer = text(request, OFFER_BYTES_MAX).await?;
            // A fragment without credentials changes nothing: it only asks whether the ICE session is still that one.
            let precondition = api.node.fragment(&session, if_match.as_deref(), "").await;
            precondition.map_err(fail::node)?;
            (SDP, api.node.update(&session, &offer).await.map(Some))
        }
        Some(FRAGMENT) => {
            let Some(if_match) = if_match else {
                let detail = "send `If-Match` with the last `ETag`, or `*` to restart ICE";
                return Err(Problem::new(fail::NO_PRECONDITION, detail));
            };
            let fragment = text(request, FRAGMENT_BYTES_MAX).await?;
            (FRAGMENT, api.node.fragment(&session, Some(&if_match), &fragment).await)
        }
        _ => return Err(unsupported("application/sdp, or application/trickle-ice-sdpfrag")),
    };
    let Some((text, etag)) = changed.map_err(fail::node)? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(ETAG, value(&etag)?);
    headers.insert(CACHE_CONTROL, NO_STORE);
    Ok(response)
}

pub(super) async fn leave(
    State(api): State<Arc<Api>>,
    Path((call, session)): Path<(String, String)>,
    request: Request,
) -> Answer<StatusCode> {
    let (parts, _) = request.into_parts();
    let session = authorized(&api, &parts, &call, &session)?;
    api.node.leave(&session).map(|()| StatusCode::NO_CONTENT).map_err(fail::node)
}

/// What can be posted, to everybody; the TURN server, to whoever may join.
pub(super) async fn join_options(
    State(api): State<Arc<Api>>,
    Path(call): Path<String>,
    request: Request,
) -> Answer<Response> {
    let (parts, _) = request.into_parts();
    let mut response =
        (StatusCode::NO_CONTENT, [(ALLOW, "OPTIONS, POST"), (ACCEPT_POST, SDP)]).into_response();
    if parts.headers.contains_key(AUTHORIZATION) {
        auth::join_token(&api, &parts, &call)?;
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, NO_STORE);
        if let Some(server) = api.node.ice_server() {
            headers.insert(LINK, ice_servers::link(&server)?);
        }
    }
    Ok(response)
}

pub(super) async fn session_options() -> impl IntoResponse {
    let allow = HeaderValue::from_static("OPTIONS, PATCH, DELETE");
    (StatusCode::NO_CONTENT, [(ALLOW, allow), (ACCEPT_PATCH, PATCH_TYPES)])
}

/// The session of a URL; a token that comes with the URL must be valid too.
pub(super) fn authorized(api: &Api, parts: &Parts, call: &str, session: &str) -> Answer<SessionId> {
    let session: SessionId = session.parse().map_err(|_| fail::no_session())?;
    let SessionInfo { call: of, participant } = api.node.find(&session).map_err(fail::node)?;
    if of.as_str() != call {
        return Err(fail::no_session());
    }
    auth::session_token(api, parts, call, &participant)?;
    Ok(session)
}

async fn text(request: Request, bytes_max: usize) -> Answer<String> {
    let body = read_body(request, bytes_max).await?;
    String::from_utf8(body.into()).map_err(|_| Problem::new(BAD_REQUEST, "the body is not UTF-8 text"))
}

/// `If-Match`: `*` or one entity tag (RFC 9725 has no use for more).
fn if_match(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Problem::new(BAD_REQUEST, "`If-Match` is no entity tag"))?;
    Ok(Some(text.trim().to_owned()))
}

fn value(text: &str) -> Answer<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| Problem::new(BAD_REQUEST, "this is no header value"))
}

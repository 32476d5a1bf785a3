//! What ingresses say of the requests they bring, and what they are told. Only those that the configuration lists are
//! believed; from anywhere else these headers mean nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use trunkline_http::auth::source;

use super::Api;
use crate::node::{Asked, CallId};

/// Asks for a call that no node knows to be made again from its id: `1`.
pub const RECREATE: HeaderName = HeaderName::from_static("trunkline-recreate");

/// Tells an ingress how a call stands with the node: `here`, `moved`, `ended` or `unknown`.
pub const STANDING: HeaderName = HeaderName::from_static("trunkline-call");

/// Tells an ingress that the node drains: `1`.
pub const DRAINING: HeaderName = HeaderName::from_static("trunkline-draining");

/// Tells a node, on `/healthz`, that the ingress had taken it for dead: `1`. Its calls may have been made again elsewhere.
pub const PRESUMED_DEAD: HeaderName = HeaderName::from_static("trunkline-presumed-dead");

/// The client's address, as the ingress saw it. The last one counts: whatever stands before it, the ingress was told.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Marks a request that an ingress brought.
#[derive(Clone, Copy, Debug)]
struct Brought;

/// Takes the client's address from an ingress, and tells the ingress how the call stands.
pub(super) async fn layer(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    if !api.ingresses.contains(&source(request.extensions()).to_canonical()) {
        return next.run(request).await;
    }
    let call = call_of(request.uri().path());
    if let Some(client) = client(request.headers()) {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 0)));
    }
    request.extensions_mut().insert(Brought);
    let mut response = next.run(request).await;
    if let Some(call) = call {
        let headers = response.headers_mut();
        headers.insert(STANDING, HeaderValue::from_static(api.node.standing(&call).as_str()));
        if api.is_draining() {
            headers.insert(DRAINING, HeaderValue::from_static("1"));
        }
    }
    response
}

/// Who asks to join.
pub(super) fn asked(parts: &http::request::Parts) -> Asked {
    if parts.extensions.get::<Brought>().is_none() {
        return Asked::Directly;
    }
    let recreate = parts.headers.get(RECREATE).is_some_and(|value| value == "1");
    if recreate { Asked::ToRecreate } else { Asked::ThroughIngress }
}

/// Whether an ingress says that it had taken this node for dead.
pub(super) fn presumed_dead(parts: &http::request::Parts) -> bool {
    parts.extensions.get::<Brought>().is_some()
        && parts.headers.get(PRESUMED_DEAD).is_some_and(|value| value == "1")
}

fn client(headers: &HeaderMap) -> Option<IpAddr> {
    let value = headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next()?.trim().parse().ok()
}

fn call_of(path: &str) -> Option<CallId> {
    path.strip_prefix("/v1/calls/")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_is_the_one_that_the_ingress_saw() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            client(&headers).map(|client| client.to_string())
        };
        assert_eq!(with(&["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(with(&["198.51.100.9, 2001:db8::1"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(with(&["198.51.100.9", "192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        for bad in [&[][..], &[""], &["192.0.2.1:80"], &["192.0.2.1,"], &["unknown"]] {
            assert_eq!(with(bad), None, "{bad:?}");
        }
    }
}

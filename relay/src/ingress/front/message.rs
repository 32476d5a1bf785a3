//! A request on its way to nodes, and a node's answer on its way back.

use std::net::IpAddr;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::api::ingress::{DRAINING, FORWARDED_FOR, PRESUMED_DEAD, RECREATE, STANDING};

/// Headers that belong to one connection (RFC 9110, section 7.6.1), or that only this program may set.
const NOT_PASSED_ON: [HeaderName; 18] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::FORWARDED,
    FORWARDED_FOR,
    RECREATE,
    STANDING,
    DRAINING,
    PRESUMED_DEAD,
];

/// A request that goes to nodes, to one after another if need be.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// It is about a call: a node that does not have it says how the call stands with it.
    pub(super) about_call: bool,
}

/// A node's answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
    /// How the call stands with the node.
    pub(super) standing: Option<String>,
    /// It takes nobody new.
    pub(super) draining: bool,
}

/// What came of asking a node.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Answered(Answer),
    /// It is down, for certain.
    Gone,
    /// It did not answer, and may live.
    Silent,
}

impl Request {
    /// A request as it came from a client, whose address goes along, for a path at a node.
    pub(super) fn new(parts: &http::request::Parts, path: String, body: Bytes, client: IpAddr) -> Self {
        let mut headers = passed_on(&parts.headers);
        if let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string()) {
            headers.insert(FORWARDED_FOR, client);
        }
        let target = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        Self { method: parts.method.clone(), target, headers, body, about_call: false }
    }

    /// The same, as one about a call that nodes must answer for.
    pub(super) fn about_call(self) -> Self {
        Self { about_call: true, ..self }
    }

    /// The same, which asks for the call to be made again.
    pub(super) fn to_recreate(&self) -> Self {
        let mut request = self.clone();
        request.headers.insert(RECREATE, HeaderValue::from_static("1"));
        request
    }
}

impl Answer {
    pub(super) fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let standing = headers.get(STANDING).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let draining = headers.contains_key(DRAINING);
        Self { status, headers: passed_on(headers), body, standing, draining }
    }

    /// Whether the node itself says that it does not have a call, or cannot take it. Something on the way that says so,
    /// or a node that takes this ingress for a client, says nothing of where the call is.
    pub(super) fn answers(&self, request: &Request) -> bool {
        let lacks = matches!(self.status, StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE);
        !(request.about_call && lacks && self.standing.is_none())
    }

    pub(super) fn stands(&self, standing: &str) -> bool {
        self.standing.as_deref() == Some(standing)
    }
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let websocket = name.as_str().starts_with("sec-websocket-");
        if !websocket && !NOT_PASSED_ON.contains(name) && !named.contains(name) {
            passed.append(name.clone(), value.clone());
        }
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_connection_or_to_the_ingress_alone_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("trunkline-recreate", "1"),
            ("sec-websocket-key", "x"),
            ("authorization", "Bearer x"),
            ("origin", "https://a.test"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut left: Vec<_> = passed_on(&headers).keys().map(|name| name.as_str().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["authorization", "origin"]);
    }
}

//! Every route, once: the router, the checks of who may use it, and the OpenAPI document are made from it.

use std::sync::Arc;

use axum::routing::{MethodRouter, delete, get, options, patch, post};

use super::{Api, calls, events, operate, participants};

/// `application/sdp` (RFC 8866).
pub const SDP: &str = "application/sdp";

/// `application/trickle-ice-sdpfrag` (RFC 8840).
pub const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// JSON.
pub const JSON: &str = "application/json";

/// The methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody who can reach the port: these routes name no people and change nothing.
    Open,
    /// Whoever has the node's admin token.
    Admin,
    /// `/metrics`: open or not, as the configuration says.
    Metrics,
    /// Whoever has a join token for the call.
    Join,
    /// Whoever knows the session's URL.
    Session,
}

/// A body: its media type, and its schema when it is JSON.
pub type Body = (&'static str, &'static str);

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, as axum and OpenAPI both write it.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// One sentence.
    pub summary: &'static str,
    /// Query parameters: name, type, meaning.
    pub query: &'static [(&'static str, &'static str, &'static str)],
    /// Bodies that it takes; one of them.
    pub takes: &'static [Body],
    /// Status of success.
    pub status: u16,
    /// Body of success, if there is one.
    pub gives: Option<Body>,
    /// Makes the handler.
    pub handler: fn() -> MethodRouter<Arc<Api>>,
}

impl Method {
    /// As HTTP writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

const fn route(
    method: Method,
    path: &'static str,
    access: Access,
    summary: &'static str,
    handler: fn() -> MethodRouter<Arc<Api>>,
) -> Route {
    Route { method, path, access, summary, query: &[], takes: &[], status: 204, gives: None, handler }
}

impl Route {
    const fn takes(self, takes: &'static [Body]) -> Self {
        Self { takes, ..self }
    }

    const fn gives(self, status: u16, media_type: &'static str, schema: &'static str) -> Self {
        Self { status, gives: Some((media_type, schema)), ..self }
    }

    const fn asks(self, query: &'static [(&'static str, &'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    const fn answers(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

const CALLS: &str = "/v1/calls";
const CALL: &str = "/v1/calls/{call}";
const TOKENS: &str = "/v1/calls/{call}/tokens";
const PARTICIPANTS: &str = "/v1/calls/{call}/participants";
const SESSION: &str = "/v1/calls/{call}/participants/{session}";
const EVENTS: &str = "/v1/calls/{call}/participants/{session}/events";

/// Every route, in the order the documentation lists them.
pub static ROUTES: &[Route] = &[
    route(Method::Post, CALLS, Access::Admin, "Create a call.", || post(calls::create))
        .takes(&[(JSON, "CallCreate")])
        .gives(201, JSON, "CallInfo"),
    route(Method::Get, CALLS, Access::Admin, "All calls, and how busy the node is.", || get(calls::list))
        .gives(200, JSON, "Calls"),
    route(Method::Get, CALL, Access::Admin, "One call: who is on it, and its counters.", || get(calls::show))
        .gives(200, JSON, "Call"),
    route(Method::Delete, CALL, Access::Admin, "End a call.", || delete(calls::end)),
    route(Method::Post, TOKENS, Access::Admin, "Mint a join token for one participant.", || post(calls::token))
        .takes(&[(JSON, "TokenMint")])
        .gives(201, JSON, "Token"),
    route(
        Method::Post,
        PARTICIPANTS,
        Access::Join,
        "Join (WHIP, RFC 9725): an SDP offer is answered; `Location` is the session, `ETag` its ICE session.",
        || post(participants::join),
    )
    .takes(&[(SDP, "")])
    .gives(201, SDP, ""),
    route(Method::Options, PARTICIPANTS, Access::Open, "What can be posted here.", || {
        options(participants::join_options)
    }),
    route(
        Method::Patch,
        SESSION,
        Access::Session,
        "A new offer (more sections, an ICE restart), or a fragment (RFC 8840): candidates, answered with 204, or an ICE \
         restart, answered with a fragment.",
        || patch(participants::change),
    )
    .takes(&[(SDP, ""), (FRAGMENT, "")])
    .gives(200, SDP, ""),
    route(Method::Delete, SESSION, Access::Session, "Leave.", || delete(participants::leave)),
    route(Method::Options, SESSION, Access::Open, "What can be patched here.", || {
        options(participants::session_options)
    }),
    route(Method::Get, EVENTS, Access::Session, "Events and requests of a participant (WebSocket).", || {
        get(events::open)
    })
    .answers(101),
    route(Method::Get, "/v1/records", Access::Admin, "Call records, oldest first.", || get(operate::records))
        .asks(&[
            ("since", "integer", "Records after this `msg_ts`: `next` of the page before. 0 unless given."),
            ("max", "integer", "At most so many, up to 1000; 256 unless given."),
        ])
        .gives(200, JSON, "Records"),
    route(
        Method::Post,
        "/v1/drain",
        Access::Admin,
        "Take no new calls nor participants, and end those there are at a deadline.",
        || post(operate::drain),
    )
    .takes(&[(JSON, "DrainStart")])
    .gives(200, JSON, "Drain"),
    route(Method::Delete, "/v1/drain", Access::Admin, "Undo a drain.", || delete(operate::undrain))
        .gives(200, JSON, "Drain"),
    route(Method::Get, "/metrics", Access::Metrics, "Prometheus metrics. They name nobody.", || {
        get(operate::metrics)
    })
    .gives(200, "text/plain", ""),
    route(Method::Get, "/healthz", Access::Open, "That the process is alive, and how busy it is.", || {
        get(operate::healthz)
    })
    .gives(200, JSON, "Health"),
    route(Method::Get, "/readyz", Access::Open, "Whether the node takes calls: 503 while it drains.", || {
        get(operate::readyz)
    })
    .gives(200, "text/plain", ""),
    route(Method::Get, "/openapi.json", Access::Open, "This document.", || get(operate::openapi))
        .gives(200, JSON, ""),
];

//! Problem documents (RFC 9457): the one shape of every HTTP error.
//!
//! A [`ProblemType`] is a stable name with its status; a [`Problem`] adds what happened this time and what to do.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};

/// What every `type` starts with; the name follows.
pub const TYPE_PREFIX: &str = "urn:trunkline:problem:";

/// A kind of problem. Callers may depend on its name and its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemType {
    /// What follows [`TYPE_PREFIX`].
    pub name: &'static str,
    /// The HTTP status it comes with.
    pub status: StatusCode,
    /// The same sentence every time.
    pub title: &'static str,
}

impl ProblemType {
    /// A kind of problem.
    #[must_use]
    pub const fn new(name: &'static str, status: StatusCode, title: &'static str) -> Self {
        Self { name, status, title }
    }
}

/// The path, query or headers do not say what they should.
pub const BAD_REQUEST: ProblemType =
    ProblemType::new("bad-request", StatusCode::BAD_REQUEST, "The request cannot be understood");
/// The body is not JSON.
pub const INVALID_JSON: ProblemType =
    ProblemType::new("invalid-json", StatusCode::BAD_REQUEST, "The body is not valid JSON");
/// No token, or none that opens anything.
pub const UNAUTHENTICATED: ProblemType =
    ProblemType::new("unauthenticated", StatusCode::UNAUTHORIZED, "A valid bearer token is needed");
/// The token does not allow this.
pub const FORBIDDEN: ProblemType =
    ProblemType::new("forbidden", StatusCode::FORBIDDEN, "This token does not allow that");
/// No such resource.
pub const NOT_FOUND: ProblemType =
    ProblemType::new("not-found", StatusCode::NOT_FOUND, "There is nothing here");
/// The resource is there, the method is not.
pub const METHOD_NOT_ALLOWED: ProblemType =
    ProblemType::new("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "Not with this method");
/// None of the formats in `Accept` is offered.
pub const NOT_ACCEPTABLE: ProblemType =
    ProblemType::new("not-acceptable", StatusCode::NOT_ACCEPTABLE, "None of the accepted formats is offered");
/// The body did not arrive in time.
pub const TIMEOUT: ProblemType =
    ProblemType::new("timeout", StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive");
/// It clashes with what is there.
pub const CONFLICT: ProblemType =
    ProblemType::new("conflict", StatusCode::CONFLICT, "It clashes with what is there");
/// The body, or something in it, is larger than allowed.
pub const TOO_LARGE: ProblemType =
    ProblemType::new("too-large", StatusCode::PAYLOAD_TOO_LARGE, "Larger than is accepted here");
/// The body is in a format that is not taken here.
pub const UNSUPPORTED_MEDIA_TYPE: ProblemType = ProblemType::new(
    "unsupported-media-type",
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "This format is not taken here",
);
/// The body was read, and does not mean anything that can be done.
pub const MALFORMED: ProblemType =
    ProblemType::new("malformed", StatusCode::UNPROCESSABLE_ENTITY, "The content is not as specified");
/// Too many requests or failed log-ins.
pub const TOO_MANY_REQUESTS: ProblemType =
    ProblemType::new("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "Too many requests");
/// A mistake of this program.
pub const INTERNAL: ProblemType =
    ProblemType::new("internal", StatusCode::INTERNAL_SERVER_ERROR, "The server made a mistake");
/// The process is going down.
pub const STOPPING: ProblemType =
    ProblemType::new("stopping", StatusCode::SERVICE_UNAVAILABLE, "The server is stopping");
/// The process stood still, and does not carry out what waited meanwhile: whoever sent it may have asked elsewhere.
pub const STOOD_STILL: ProblemType =
    ProblemType::new("stood-still", StatusCode::SERVICE_UNAVAILABLE, "The server stood still for a while");
/// More at once than there is room for.
pub const OVERLOADED: ProblemType =
    ProblemType::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too much at once");

/// One problem: answered as `application/problem+json`.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemType,
    detail: String,
    retry_after: Option<Duration>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem of a kind. `detail` says what is wrong and what to do, to the caller only: it may repeat what
    /// the caller sent, so it is never logged.
    #[must_use]
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, members: Map::new() }
    }

    /// Adds when to try again, rounded up to whole seconds.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Adds an extension member (RFC 9457, section 3.2).
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ProblemType {
        self.kind
    }

    /// What is wrong, and what to do.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut document = self.members.clone();
        document.insert("type".into(), format!("{TYPE_PREFIX}{}", self.kind.name).into());
        document.insert("title".into(), self.kind.title.into());
        document.insert("status".into(), self.kind.status.as_u16().into());
        document.insert("detail".into(), self.detail.as_str().into());
        Value::Object(document)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status, self.document().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.kind.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(delay) = self.retry_after {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// Answers whatever has no route: use as the router's `fallback`.
pub async fn not_found() -> Problem {
    Problem::new(NOT_FOUND, "there is no such path: see docs/API.md for those there are")
}

/// Answers a method a route does not have: use as the router's `method_not_allowed_fallback`.
pub async fn method_not_allowed() -> Problem {
    Problem::new(METHOD_NOT_ALLOWED, "the `Allow` header lists the methods this path has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_names_its_type_and_keeps_its_extension_members() {
        let problem = Problem::new(TOO_LARGE, "make it smaller").with("line", 3);
        let document = problem.document();
        assert_eq!(document["type"], "urn:trunkline:problem:too-large");
        assert_eq!(document["status"], 413);
        assert_eq!(document["line"], 3);
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        let response = Problem::new(STOPPING, "").retry_after(Duration::from_millis(1_001)).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}

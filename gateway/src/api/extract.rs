//! Extractors whose refusals are problem documents, and the reading of bodies with a bound on size and time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::problem::{
    BAD_REQUEST, INVALID_JSON, MALFORMED, Problem, TIMEOUT, TOO_LARGE, UNSUPPORTED_MEDIA_TYPE,
};

/// How long a body may take to arrive. Longer lets slower callers in, and lets a stalled one hold its memory.
pub const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// Largest JSON body unless an endpoint says otherwise.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;

/// Room that is reserved for a body before any of it is here, whatever its `Content-Length` promises.
const RESERVE_BYTES_MAX: usize = 1024 * 1024;

/// A JSON body of at most `BYTES_MAX` bytes, with `Content-Type: application/json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T, const BYTES_MAX: usize = JSON_BYTES_MAX>(pub T);

/// The query string.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<T>(pub T);

impl<S, T, const BYTES_MAX: usize> FromRequest<S> for Json<T, BYTES_MAX>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        if media_type(request.headers()) != Some("application/json") {
            return Err(unsupported("application/json"));
        }
        let body = read_body(request, BYTES_MAX).await?;
        serde_json::from_slice(&body).map(Self).map_err(|error| json_problem(&error))
    }
}

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::new(BAD_REQUEST, rejection.body_text())),
        }
    }
}

/// The media type of a body, without its parameters.
#[must_use]
pub fn media_type(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or(text).trim())
}

/// The refusal of a body in another format than `expected`.
#[must_use]
pub fn unsupported(expected: &str) -> Problem {
    Problem::new(UNSUPPORTED_MEDIA_TYPE, format!("send the body as Content-Type: {expected}"))
}

/// The refusal of JSON that does not read as what was expected.
#[must_use]
pub fn json_problem(error: &serde_json::Error) -> Problem {
    use serde_json::error::Category;
    let kind = match error.classify() {
        Category::Data => MALFORMED,
        Category::Io | Category::Syntax | Category::Eof => INVALID_JSON,
    };
    Problem::new(kind, error.to_string())
}

/// The length a body announces.
#[must_use]
pub fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a whole body.
///
/// # Errors
/// [`TOO_LARGE`] beyond `bytes_max`, [`TIMEOUT`] after [`BODY_DEADLINE`], [`BAD_REQUEST`] when it breaks off.
pub async fn read_body(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    let announced = announced_length(request.headers()).unwrap_or(0);
    if announced > bytes_max {
        return Err(too_large(bytes_max));
    }
    match tokio::time::timeout(BODY_DEADLINE, collect(request.into_body(), announced, bytes_max)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(
            TIMEOUT,
            format!("the body was not here after {} s: send less at a time", BODY_DEADLINE.as_secs()),
        )),
    }
}

async fn collect(mut body: Body, announced: usize, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut first = None;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(BAD_REQUEST, "the body broke off before its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        // A body that came in one piece is not copied.
        match first.take() {
            None if whole.is_empty() => first = Some(data),
            None => whole.extend_from_slice(&data),
            Some(head) => {
                whole.reserve(announced.min(RESERVE_BYTES_MAX).max(head.len() + data.len()));
                whole.extend_from_slice(&head);
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(TOO_LARGE, format!("the body is larger than {bytes_max} bytes: send less at a time"))
        .with("bytes_max", bytes_max)
}

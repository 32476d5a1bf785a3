//! Extractors whose refusals are problem documents, and the reading of bodies with a bound on size and time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::problem::{
    BAD_REQUEST, INVALID_JSON, MALFORMED, Problem, TIMEOUT, TOO_LARGE, UNSUPPORTED_MEDIA_TYPE,
};

/// How long a body may take to arrive. Longer lets slower callers in, and lets a stalled one hold its memory.
pub const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// Largest JSON body unless an endpoint says otherwise.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;

/// Room that is reserved for a body before any of it is here, whatever its `Content-Length` promises.
const RESERVE_BYTES_MAX: usize = 1024 * 1024;

/// What axum says before it names the field.
const AXUM_PREFIX: &str = "into the target type: ";

/// A JSON body of at most `BYTES_MAX` bytes, with `Content-Type: application/json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T, const BYTES_MAX: usize = JSON_BYTES_MAX>(pub T);

/// The same, which may be left out as all of its fields may; its `Content-Type` does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct OptionalJson<T, const BYTES_MAX: usize = JSON_BYTES_MAX>(pub T);

/// The one path parameter, parsed.
#[derive(Clone, Copy, Debug)]
pub struct Named<T>(pub T);

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
        parse_json(&body).map(Self)
    }
}

impl<S, T, const BYTES_MAX: usize> FromRequest<S> for OptionalJson<T, BYTES_MAX>
where
    S: Send + Sync,
    T: DeserializeOwned + Default,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let body = read_body(request, BYTES_MAX).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        serde_json::from_slice(&body).map(Self).map_err(|error| json_problem(&error))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => {
                Err(Problem::new(BAD_REQUEST, format!("in the path: {}", rejection.body_text())))
            }
        }
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

/// Reads JSON.
///
/// # Errors
/// [`INVALID_JSON`] when it is none, [`MALFORMED`] when it is not what was expected: with field, line and column.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let problem = json_problem(&error);
        // The fast parser does not know which field it was in. axum's does, at a price that only errors pay.
        match axum::Json::<T>::from_bytes(body) {
            Err(rejection) if problem.kind() == MALFORMED => {
                let text = rejection.body_text();
                let detail = text.split_once(AXUM_PREFIX).map_or(text.as_str(), |(_, detail)| detail);
                Problem::new(MALFORMED, detail)
            }
            _ => problem,
        }
    })
}

/// The refusal of JSON that does not read as what was expected, with line and column. [`parse_json`] also names
/// the field.
#[must_use]
pub fn json_problem(error: &serde_json::Error) -> Problem {
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};

    type Chunk = Result<Bytes, std::io::Error>;

    async fn read(
        chunks: impl futures_util::Stream<Item = Chunk> + Send + 'static,
    ) -> Result<Bytes, Problem> {
        read_body(Request::new(Body::from_stream(chunks)), 8).await
    }

    fn chunk(text: &'static str) -> Chunk {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        assert_eq!(read(stream::iter([chunk("ab"), chunk("cd"), chunk("efgh")])).await.unwrap(), "abcdefgh");
        assert_eq!(read(stream::iter([chunk("ab")])).await.unwrap(), "ab");
        assert_eq!(read(stream::empty()).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_body_without_an_announced_length_is_bounded_too() {
        let problem = read(stream::iter([chunk("abcde"), chunk("fghi")])).await.unwrap_err();
        assert_eq!(problem.kind(), TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_refused() {
        let broken = Err(std::io::ErrorKind::ConnectionReset.into());
        let problem = read(stream::iter([chunk("ab"), broken])).await.unwrap_err();
        assert_eq!(problem.kind(), BAD_REQUEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up_after_the_deadline() {
        let drip = stream::repeat(()).then(|()| async {
            tokio::time::sleep(BODY_DEADLINE / 3).await;
            chunk("a")
        });
        assert_eq!(read(drip).await.unwrap_err().kind(), TIMEOUT);
    }
}

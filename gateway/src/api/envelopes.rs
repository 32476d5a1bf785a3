//! `POST /v1/envelopes`: one envelope as JSON, a batch as NDJSON, a batch as protobuf. A batch is one commit.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use trunkline_gateway_proto::wire;
use trunkline_http::extract::{announced_length, media_type, parse_json, read_body, unsupported};
use trunkline_http::problem::{INTERNAL, MALFORMED, OVERLOADED, Problem, ProblemType, TOO_LARGE};

use super::Api;
use super::auth::Tenant;
use super::json::{EnvelopeIn, ResultOut, envelope_id, rejected};
use super::limits::{
    BATCH_BYTES_MAX, BATCH_ENVELOPES_MAX, BODIES_UNIT_BYTES, BODIES_WAIT, ENVELOPE_OVERHEAD_BYTES,
    INLINE_PARSE_BYTES_MAX,
};
use super::protobuf;

/// What the core may answer for an envelope of which nothing was accepted.
pub(super) const SUBMIT_PROBLEMS: [ProblemType; 10] = [
    MALFORMED,
    TOO_LARGE,
    ProblemType::new("sender-domain", StatusCode::FORBIDDEN, "The sender is not of this network"),
    ProblemType::new(
        "unknown-domain",
        StatusCode::UNPROCESSABLE_ENTITY,
        "No peer has any of the recipients' domains",
    ),
    ProblemType::new("federation-disabled", StatusCode::FORBIDDEN, "This network does not federate"),
    ProblemType::new("not-permitted", StatusCode::FORBIDDEN, "The policy does not permit that network"),
    ProblemType::new("guest", StatusCode::FORBIDDEN, "Guests may not do this"),
    ProblemType::new("blocked", StatusCode::FORBIDDEN, "An address is blocked"),
    ProblemType::new("quota", StatusCode::INSUFFICIENT_STORAGE, "Too much waits for that peer already"),
    ProblemType::new("disk-full", StatusCode::INSUFFICIENT_STORAGE, "The disk is almost full"),
];

/// Where a name is none of [`SUBMIT_PROBLEMS`]: it stands in the member `reason`.
const REFUSED: ProblemType =
    ProblemType::new("refused", StatusCode::UNPROCESSABLE_ENTITY, "The envelope was refused");

/// One line of an NDJSON batch.
enum Line {
    /// The n-th submission.
    Submitted(usize),
    /// It never became one.
    Bad(Problem),
}

/// What an NDJSON body was read as.
struct Lines {
    /// With line numbers, from 1.
    lines: Vec<(usize, Line)>,
    submissions: Vec<wire::Submission>,
}

pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    tenant: Tenant,
    request: Request,
) -> Result<Response, Problem> {
    match media_type(request.headers()) {
        Some("application/json") => single(&api, tenant, request).await,
        Some("application/x-ndjson") => lines(&api, tenant, request).await,
        Some(protobuf::MEDIA_TYPE) => batch(&api, tenant, request).await,
        _ => Err(unsupported("application/json, application/x-ndjson or application/x-protobuf")),
    }
}

async fn single(api: &Api, tenant: Tenant, request: Request) -> Result<Response, Problem> {
    let payload_bytes_max = api.config.payload_bytes_max;
    let body_bytes_max = payload_bytes_max.div_ceil(3) * 4 + ENVELOPE_OVERHEAD_BYTES;
    let room = room(api, request.headers(), body_bytes_max).await?;
    let body = read_body(request, body_bytes_max).await?;
    let envelope: EnvelopeIn = off_thread(body, parse_json).await??;
    check_payload(&envelope, payload_bytes_max)?;
    let results = api.hub.submit(tenant.network, vec![envelope.into_submission()]).await?;
    drop(room);
    let result = results.first().ok_or_else(missing_result)?;
    if result.problem.is_empty() {
        Ok((StatusCode::ACCEPTED, axum::Json(ResultOut::from(result))).into_response())
    } else {
        Err(problem_of(result))
    }
}

async fn lines(api: &Api, tenant: Tenant, request: Request) -> Result<Response, Problem> {
    let room = room(api, request.headers(), BATCH_BYTES_MAX).await?;
    let body = read_body(request, BATCH_BYTES_MAX).await?;
    let payload_bytes_max = api.config.payload_bytes_max;
    let Lines { lines, submissions } =
        off_thread(body, move |body| parse_lines(body, payload_bytes_max)).await??;
    let results =
        if submissions.is_empty() { Vec::new() } else { api.hub.submit(tenant.network, submissions).await? };
    drop(room);
    let mut out = Vec::with_capacity(lines.len() * 128);
    for (number, line) in lines {
        let problem = match line {
            Line::Bad(problem) => problem,
            Line::Submitted(index) => {
                let result = results.get(index).ok_or_else(missing_result)?;
                if result.problem.is_empty() {
                    write_json(&mut out, &ResultOut::from(result))?;
                    out.push(b'\n');
                    continue;
                }
                problem_of(result)
            }
        };
        write_json(&mut out, &problem.with("line", number).document())?;
        out.push(b'\n');
    }
    Ok((StatusCode::ACCEPTED, [(CONTENT_TYPE, "application/x-ndjson")], out).into_response())
}

/// The hot path: what a server in a hurry uses.
async fn batch(api: &Api, tenant: Tenant, request: Request) -> Result<Response, Problem> {
    let room = room(api, request.headers(), BATCH_BYTES_MAX).await?;
    let body = read_body(request, BATCH_BYTES_MAX).await?;
    let submissions = protobuf::decode_batch(&body)?;
    drop(body);
    let results =
        if submissions.is_empty() { Vec::new() } else { api.hub.submit(tenant.network, submissions).await? };
    drop(room);
    let body = wire::SubmitResults { results }.encode_to_vec();
    Ok((StatusCode::ACCEPTED, [(CONTENT_TYPE, protobuf::MEDIA_TYPE)], body).into_response())
}

/// Waits until there is memory for a body of the announced length; without one, for the largest.
async fn room(api: &Api, headers: &HeaderMap, bytes_max: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let bytes = announced_length(headers).unwrap_or(bytes_max).min(bytes_max);
    let units = u32::try_from(bytes.div_ceil(BODIES_UNIT_BYTES)).unwrap_or(u32::MAX);
    let permit = Arc::clone(&api.body_room).acquire_many_owned(units);
    match tokio::time::timeout(BODIES_WAIT, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        // The semaphore is never closed.
        Ok(Err(_)) | Err(_) => {
            Err(Problem::new(OVERLOADED, "too many submissions are under way: send them one after the other")
                .retry_after(BODIES_WAIT))
        }
    }
}

/// Runs `parse` here when the body is small, and away from the threads that serve everybody when it is not.
async fn off_thread<T: Send + 'static>(
    body: Bytes,
    parse: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T, Problem> {
    if body.len() <= INLINE_PARSE_BYTES_MAX {
        return Ok(parse(&body));
    }
    let parsed = tokio::task::spawn_blocking(move || parse(&body)).await;
    parsed
        .map_err(|_| Problem::new(INTERNAL, "the body could not be parsed: this is a mistake of the gateway"))
}

fn parse_lines(body: &[u8], payload_bytes_max: usize) -> Result<Lines, Problem> {
    let mut lines = Vec::new();
    let mut submissions = Vec::new();
    for (index, text) in body.split(|byte| *byte == b'\n').enumerate() {
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        if lines.len() == BATCH_ENVELOPES_MAX {
            return Err(protobuf::too_many());
        }
        let line = match parse_line(text, payload_bytes_max) {
            Ok(envelope) => {
                submissions.push(envelope.into_submission());
                Line::Submitted(submissions.len() - 1)
            }
            Err(problem) => Line::Bad(problem),
        };
        lines.push((index + 1, line));
    }
    Ok(Lines { lines, submissions })
}

fn parse_line(text: &[u8], payload_bytes_max: usize) -> Result<EnvelopeIn, Problem> {
    let envelope: EnvelopeIn = parse_json(text).map_err(|problem| {
        // The parser sees one line only, so the line it names is always the first: the member `line` is right.
        Problem::new(problem.kind(), problem.detail().replace(" at line 1 column ", " at column "))
    })?;
    check_payload(&envelope, payload_bytes_max)?;
    Ok(envelope)
}

fn check_payload(envelope: &EnvelopeIn, bytes_max: usize) -> Result<(), Problem> {
    if envelope.payload_bytes() <= bytes_max {
        return Ok(());
    }
    let detail = format!("the payload has {} bytes, at most {bytes_max} are taken", envelope.payload_bytes());
    Err(Problem::new(TOO_LARGE, detail).with("bytes_max", bytes_max))
}

/// What a result says when nothing was accepted.
fn problem_of(result: &wire::SubmitResult) -> Problem {
    let known = SUBMIT_PROBLEMS.iter().find(|kind| kind.name == result.problem);
    let mut problem = Problem::new(*known.unwrap_or(&REFUSED), result.detail.clone());
    if known.is_none() {
        problem = problem.with("reason", result.problem.as_str());
    }
    if let Some(id) = envelope_id(&result.id) {
        problem = problem.with("id", id.to_text());
    }
    if !result.rejected.is_empty() {
        problem = problem.with("rejected", serde_json::to_value(rejected(result)).unwrap_or_default());
    }
    problem
}

fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) -> Result<(), Problem> {
    serde_json::to_writer(out, value).map_err(|error| Problem::new(INTERNAL, error.to_string()))
}

fn missing_result() -> Problem {
    Problem::new(INTERNAL, "the result of an envelope is missing: submit it again with the same id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Config, api};
    use crate::hub::Hub;
    use trunkline_gateway_proto::directory::Directory;

    #[tokio::test(start_paused = true)]
    async fn a_submission_without_room_for_its_body_is_turned_away_after_a_while() {
        let (hub, _commands) = Hub::for_test(Directory::default());
        let (_stop, stopping) = tokio::sync::watch::channel(false);
        let api = api(hub, Config::default(), stopping);
        let headers = HeaderMap::new();
        let first = room(&api, &headers, BATCH_BYTES_MAX).await.unwrap();
        let second = room(&api, &headers, BATCH_BYTES_MAX).await.unwrap();
        assert_eq!(room(&api, &headers, BATCH_BYTES_MAX).await.unwrap_err().kind(), OVERLOADED);
        drop((first, second));
        assert!(room(&api, &headers, BATCH_BYTES_MAX).await.is_ok());
    }
}

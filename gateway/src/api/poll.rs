//! Reading and acknowledging a queue by request: `GET /v1/inbox`, `POST /v1/inbox/ack`, and the same for
//! receipts.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use trunkline_gateway_proto::store::Record;
use trunkline_http::extract::{Json, Query};
use trunkline_http::problem::{BAD_REQUEST, Problem};
use trunkline_http::serve::stopped;

use super::Api;
use super::auth::Tenant;
use super::feed::{Feed, Format};
use super::limits::{READ_BYTES_MAX, READ_DEFAULT, READ_MAX, WAIT_MAX};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    max: Option<usize>,
    wait_s: Option<u64>,
    after: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AckBody {
    up_to: u64,
}

pub(super) async fn read(
    feed: Feed,
    State(api): State<Arc<Api>>,
    tenant: Tenant,
    headers: HeaderMap,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Problem> {
    let format = Format::accepted(&headers)?;
    let max = query.max.unwrap_or(READ_DEFAULT);
    if !(1..=READ_MAX).contains(&max) {
        return Err(Problem::new(BAD_REQUEST, format!("`max` must be from 1 to {READ_MAX}")));
    }
    let wait = Duration::from_secs(query.wait_s.unwrap_or(0));
    if wait > WAIT_MAX {
        return Err(Problem::new(BAD_REQUEST, format!("`wait_s` must be at most {}", WAIT_MAX.as_secs())));
    }
    let mut stopping = api.stopping.clone();
    let mut records = tokio::select! {
        records = api.hub.read(feed.queue(tenant.network), query.after, max, wait) => records?,
        // A poll that waits has nothing yet, and must not hold up the process.
        () = stopped(&mut stopping), if !wait.is_zero() => Vec::new(),
    };
    bound(&mut records);
    let body = match format {
        Format::Json => feed.json_batch(&records)?.into(),
        Format::Protobuf => feed.protobuf_batch(&records),
    };
    let headers = [(CONTENT_TYPE, format.media_type()), (CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

pub(super) async fn ack(
    feed: Feed,
    State(api): State<Arc<Api>>,
    tenant: Tenant,
    Json(body): Json<AckBody>,
) -> Result<StatusCode, Problem> {
    api.hub.ack(feed.queue(tenant.network), body.up_to).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Keeps as many records as fit into one answer, and at least one: the others are handed out next time.
pub(super) fn bound(records: &mut Vec<(u64, Record)>) {
    let mut bytes = 0;
    let fits = records.iter().take_while(|(_, record)| {
        bytes += record.body.len();
        bytes <= READ_BYTES_MAX
    });
    let count = fits.count().max(1);
    records.truncate(count);
}

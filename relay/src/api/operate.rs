//! For those who run the node: records, drain, health, metrics and the API's own description.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json as JsonAnswer;
use axum::extract::State;
use http::header::{CONTENT_TYPE, HeaderName};
use http::request::Parts;
use serde::{Deserialize, Serialize};
use trunkline_http::extract::{OptionalJson, Query};
use trunkline_http::problem::{INTERNAL, Problem};

use super::limits::{DRAIN_MAX, DRAINING_RETRY, JSON_BYTES_MAX, RECORDS_DEFAULT};
use super::{Answer, Api, fail, ingress};
use crate::metrics as relay_metrics;
use crate::node::Totals;
use crate::records::{PAGE_MAX, Page};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordsQuery {
    #[serde(default)]
    since: u64,
    max: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainStart {
    deadline_s: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Drain {
    draining: bool,
    calls: usize,
}

/// How a node is, for whoever can reach it. It names nobody. An ingress reads it each second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `alive` or `stopping`.
    pub status: Cow<'static, str>,
    /// Its number.
    pub node: u16,
    /// It takes nobody new.
    pub draining: bool,
    /// Calls on it,
    pub calls: usize,
    /// and how many it takes.
    pub calls_max: usize,
    /// People in them.
    pub participants: usize,
    /// Share of the last second that its media threads worked, 0 to 1.
    pub busy: f64,
    /// When it started, in seconds since the Unix epoch.
    pub started_at: u64,
}

pub(super) async fn records(
    State(api): State<Arc<Api>>,
    Query(RecordsQuery { since, max }): Query<RecordsQuery>,
) -> Answer<JsonAnswer<Page>> {
    let Some(reader) = api.records.clone() else {
        let detail = "call records are off: the operator switches them on with records.directory";
        return Err(Problem::new(fail::NOT_CONFIGURED, detail));
    };
    let max = max.unwrap_or(RECORDS_DEFAULT);
    if !(1..=PAGE_MAX).contains(&max) {
        return Err(fail::malformed(format!("max: expected 1 to {PAGE_MAX}, found {max}")));
    }
    let read = tokio::task::spawn_blocking(move || reader.since(since, max)).await;
    match read {
        Ok(Ok(page)) => Ok(JsonAnswer(page)),
        Ok(Err(error)) => {
            tracing::error!(%error, "call records cannot be read: look at records.directory and its disk");
            Err(Problem::new(INTERNAL, "call records cannot be read: the operator sees why in the log"))
        }
        Err(_) => Err(Problem::new(INTERNAL, "reading call records was broken off")),
    }
}

pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    OptionalJson(DrainStart { deadline_s }): OptionalJson<DrainStart, JSON_BYTES_MAX>,
) -> Answer<JsonAnswer<Drain>> {
    let deadline = deadline_s.map(Duration::from_secs);
    if deadline.is_some_and(|deadline| deadline > DRAIN_MAX) {
        return Err(fail::malformed(format!("deadline_s: expected 0 to {}", DRAIN_MAX.as_secs())));
    }
    api.node.drain(deadline);
    tracing::info!(deadline_s, "draining: no new calls nor participants");
    Ok(JsonAnswer(state(&api)))
}

pub(super) async fn undrain(State(api): State<Arc<Api>>) -> JsonAnswer<Drain> {
    api.node.undrain();
    tracing::info!("the drain was undone: taking calls");
    JsonAnswer(state(&api))
}

fn state(api: &Api) -> Drain {
    Drain { draining: api.is_draining(), calls: api.node.list().len() }
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> ([(HeaderName, &'static str); 1], String) {
    let text = relay_metrics::render(&api.view());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

pub(super) async fn healthz(State(api): State<Arc<Api>>, parts: Parts) -> JsonAnswer<Health> {
    if ingress::presumed_dead(&parts) {
        api.node.presumed_dead(Instant::now());
    }
    let Totals { calls, calls_max, participants, started_s } = api.node.totals();
    let load = api.node.load();
    let workers = u32::try_from(load.len().max(1)).unwrap_or(u32::MAX);
    let stopping = *api.stopping.borrow();
    JsonAnswer(Health {
        status: if stopping { "stopping".into() } else { "alive".into() },
        node: api.number,
        draining: stopping || api.is_draining(),
        calls,
        calls_max,
        participants,
        busy: load.iter().map(|worker| worker.busy).sum::<f64>() / f64::from(workers),
        started_at: started_s,
    })
}

pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Answer<&'static str> {
    if *api.stopping.borrow() {
        let detail = "the node is stopping: use another";
        return Err(Problem::new(fail::NOT_READY, detail).retry_after(DRAINING_RETRY));
    }
    if api.is_draining() {
        let detail = "the node is draining: `DELETE /v1/drain` undoes it";
        return Err(Problem::new(fail::NOT_READY, detail).retry_after(DRAINING_RETRY));
    }
    Ok("ready\n")
}

pub(super) async fn openapi() -> JsonAnswer<serde_json::Value> {
    JsonAnswer(super::openapi::document())
}

//! Reading the audit log, and checking that nobody changed it.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use trunkline_gateway_proto::audit::{self, Entry};
use trunkline_gateway_proto::store::Record;
use trunkline_http::extract::Query;

use super::{AdminState, Answer, fail};

/// Entries in one answer, at most.
const PAGE_MAX: usize = 1000;

/// Entries in one answer unless asked otherwise.
const PAGE: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<u64>,
    max: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct AuditView {
    entries: Vec<EntryView>,
}

#[derive(Debug, Serialize)]
struct EntryView {
    seq: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// What checking the chain found.
#[derive(Debug, Serialize)]
pub(super) struct AuditVerified {
    /// Whether every entry fits the one before it.
    ok: bool,
    /// Entries looked at.
    entries: u64,
    /// Whether the first entry is the first there ever was.
    from_genesis: bool,
    /// Sequence number of the first entry that does not fit.
    broken_at: Option<u64>,
    /// Hash of the last entry: note it elsewhere, and a rewritten log shows.
    head: Option<String>,
}

pub(super) async fn list(
    State(state): State<AdminState>,
    Query(page): Query<Page>,
) -> Answer<Json<AuditView>> {
    let max = page.max.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let records = state.hub.audit(page.after, max).await.map_err(fail::hub)?;
    let entries =
        records.iter().map(|(seq, record)| Ok(EntryView { seq: *seq, entry: decode(*seq, record)? }));
    Ok(Json(AuditView { entries: entries.collect::<Answer<_>>()? }))
}

pub(super) async fn verify(State(state): State<AdminState>) -> Answer<Json<AuditVerified>> {
    let mut seen = AuditVerified { ok: true, entries: 0, from_genesis: true, broken_at: None, head: None };
    let mut after = None;
    loop {
        let records = state.hub.audit(after, PAGE_MAX).await.map_err(fail::hub)?;
        let Some((last, _)) = records.last() else { return Ok(Json(seen)) };
        after = Some(*last);
        for (seq, record) in &records {
            seen.entries += 1;
            // An entry that does not read as one was changed as well.
            let Ok(entry) = decode(*seq, record) else {
                return Ok(Json(AuditVerified { ok: false, broken_at: Some(*seq), ..seen }));
            };
            let previous = match seen.head.take() {
                Some(previous) => previous,
                None => {
                    seen.from_genesis = entry.previous == audit::genesis();
                    entry.previous.clone()
                }
            };
            match audit::verify(previous, [&entry]) {
                Ok(hash) => seen.head = Some(hash),
                Err(_) => return Ok(Json(AuditVerified { ok: false, broken_at: Some(*seq), ..seen })),
            }
        }
    }
}

fn decode(seq: u64, record: &Record) -> Answer<Entry> {
    serde_json::from_slice(&record.body)
        .map_err(|error| fail::damaged(format!("audit entry {seq} does not read as one: {error}")))
}

//! Reading the audit log in either direction, searching it, and checking that nobody changed it.

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

/// Entries that one request looks at, at most, when it searches. More finds rare things with fewer requests, and keeps
/// the store reading longer.
const SEARCHED_MAX: usize = 10_000;

/// Characters of what is searched for, at most.
const QUERY_CHARS_MAX: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<u64>,
    before: Option<u64>,
    max: Option<usize>,
    order: Option<Order>,
    q: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Oldest,
    Newest,
}

#[derive(Debug, Serialize)]
pub(super) struct AuditView {
    entries: Vec<EntryView>,
    /// Where to go on: as `before` for the newest first, as `after` for the oldest first. `None` when that was all.
    next: Option<u64>,
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
    let order = page.order.unwrap_or(if page.before.is_some() { Order::Newest } else { Order::Oldest });
    let needle = page.q.as_deref().map(str::trim).filter(|q| !q.is_empty()).map(str::to_lowercase);
    if needle.as_ref().is_some_and(|needle| needle.chars().count() > QUERY_CHARS_MAX) {
        return Err(fail::invalid(format!("q: expected at most {QUERY_CHARS_MAX} characters")));
    }
    let (first, last) = state.hub.audit_range().await.map_err(fail::hub)?;
    // Both ends exclusive, and never beyond what there is.
    let after = page.after.unwrap_or(0).max(first.saturating_sub(1));
    let before = page.before.unwrap_or(u64::MAX).min(last.saturating_add(1));
    let mut search = Search { state: &state, needle, max, entries: Vec::new(), looked_at: 0 };
    let next = match order {
        Order::Oldest => search.forwards(after, before).await?,
        Order::Newest => search.backwards(after, before).await?,
    };
    Ok(Json(AuditView { entries: search.entries, next }))
}

/// A pass over a part of the log.
struct Search<'a> {
    state: &'a AdminState,
    needle: Option<String>,
    max: usize,
    entries: Vec<EntryView>,
    looked_at: usize,
}

impl Search<'_> {
    /// From behind `after` up to `before`, both excluded. Answers where to go on.
    async fn forwards(&mut self, mut after: u64, before: u64) -> Answer<Option<u64>> {
        while after.saturating_add(1) < before {
            let records = self.state.hub.audit(Some(after), self.step(before - after - 1)).await;
            let records = records.map_err(fail::hub)?;
            if records.is_empty() {
                return Ok(None);
            }
            for (seq, record) in &records {
                if *seq >= before {
                    return Ok(None);
                }
                after = *seq;
                if self.take(*seq, record)? {
                    return Ok((after.saturating_add(1) < before).then_some(after));
                }
            }
        }
        Ok(None)
    }

    /// The same from the end. The log is read forwards, so a stretch at a time is turned around.
    async fn backwards(&mut self, after: u64, mut before: u64) -> Answer<Option<u64>> {
        while after.saturating_add(1) < before {
            let step = self.step(before - after - 1);
            let start = (before - 1).saturating_sub(step as u64).max(after);
            for (seq, record) in self.stretch(start, before).await?.into_iter().rev() {
                if self.take(seq, &record)? {
                    return Ok((seq > after.saturating_add(1)).then_some(seq));
                }
            }
            before = start.saturating_add(1);
        }
        Ok(None)
    }

    /// All entries between two, both excluded: an answer of the hub ends where it has become large enough.
    async fn stretch(&self, mut after: u64, before: u64) -> Answer<Vec<(u64, Record)>> {
        let mut all = Vec::new();
        while after.saturating_add(1) < before {
            let left = usize::try_from(before - after - 1).unwrap_or(PAGE_MAX).min(PAGE_MAX);
            let records = self.state.hub.audit(Some(after), left).await.map_err(fail::hub)?;
            let Some((last, _)) = records.last() else { break };
            after = *last;
            all.extend(records.into_iter().filter(|(seq, _)| *seq < before));
        }
        Ok(all)
    }

    /// How many entries to read at once.
    fn step(&self, left: u64) -> usize {
        let wanted = if self.needle.is_some() { PAGE_MAX } else { self.max - self.entries.len() };
        usize::try_from(left).unwrap_or(PAGE_MAX).min(wanted).clamp(1, PAGE_MAX)
    }

    /// Looks at an entry; answers whether that was enough for one request.
    fn take(&mut self, seq: u64, record: &Record) -> Answer<bool> {
        let entry = decode(seq, record)?;
        self.looked_at += 1;
        let found = self.needle.as_ref().is_none_or(|needle| {
            let fields = [&entry.actor, &entry.action, &entry.target, &entry.outcome];
            fields.iter().any(|field| field.to_lowercase().contains(needle))
        });
        if found {
            self.entries.push(EntryView { seq, entry });
        }
        Ok(self.entries.len() >= self.max || self.looked_at >= SEARCHED_MAX)
    }
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

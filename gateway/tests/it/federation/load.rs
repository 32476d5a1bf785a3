//! Two messaging servers: one writes numbered envelopes of several conversations all the time, and submits each
//! until it is accepted; the other one reads, acknowledges, and holds what came against what it should be.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::site::{LocalApi, Site};
use super::{LOOK_AGAIN, PATIENCE, eventually};

/// Conversations that go on at the same time: more than there are lanes.
const CONVERSATIONS: u64 = 24;

/// Envelopes per request: one of each conversation.
const BATCH: u64 = CONVERSATIONS;

/// A server that writes.
pub(super) struct Load {
    accepted: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    api: LocalApi,
}

/// A server that reads.
pub(super) struct Reader {
    seen: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

impl Load {
    /// Writes from one deployment to another, batch after batch.
    pub(super) fn start(from: &Site, to: &Site) -> Self {
        Self::paced(from, to, Duration::ZERO)
    }

    /// Writes a batch, waits, writes the next one.
    pub(super) fn paced(from: &Site, to: &Site, pause: Duration) -> Self {
        Self::through(&from.api, from.user("ann"), to.user("bob"), pause)
    }

    /// Writes to a local API.
    pub(super) fn through(api: &LocalApi, sender: String, recipient: String, pause: Duration) -> Self {
        let accepted = Arc::new(AtomicU64::new(0));
        let (stop, stopping) = watch::channel(false);
        let count = Arc::clone(&accepted);
        let writer = api.clone();
        let task = tokio::spawn(async move {
            for round in 0.. {
                if *stopping.borrow() {
                    return;
                }
                let batch = batch(round, &sender, &recipient);
                let started = Instant::now();
                while !submit(&writer, &batch).await {
                    assert!(started.elapsed() < PATIENCE, "a batch is refused for ever");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                count.fetch_add(BATCH, Ordering::SeqCst);
                tokio::time::sleep(pause).await;
            }
        });
        Self { accepted, stop, task, api: api.clone() }
    }

    /// Envelopes accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until so many more were accepted.
    pub(super) async fn more(&self, count: u64) {
        let enough = self.accepted() + count;
        eventually("more is accepted", async || self.accepted() >= enough).await;
    }

    /// Stops in the middle of whatever it does.
    pub(super) fn abandon(self) {
        self.task.abort();
    }

    /// Writes no more, and answers how many were accepted.
    pub(super) async fn stop(self) -> u64 {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.accepted.load(Ordering::SeqCst)
    }

    /// Writes no more; reads receipts until each envelope has exactly one, which says delivered.
    pub(super) async fn stop_and_read_receipts(self) -> u64 {
        let api = self.api.clone();
        let accepted = self.stop().await;
        let mut seqs = HashMap::new();
        let started = Instant::now();
        while (seqs.len() as u64) < accepted {
            assert!(started.elapsed() < PATIENCE, "{} receipts of {accepted}", seqs.len());
            let Ok(answer) = api.get("/v1/receipts?max=1000&wait_s=1").await else { continue };
            let receipts = answer["receipts"].as_array().unwrap();
            for receipt in receipts {
                assert_eq!(receipt["state"], "delivered", "{receipt}");
                let (id, seq) = (receipt["id"].as_str().unwrap(), receipt["seq"].as_u64().unwrap());
                let before = seqs.insert(id.to_owned(), seq);
                assert!(before.is_none_or(|before| before == seq), "two receipts for one envelope");
            }
            if let Some(last) = receipts.last() {
                let (status, _) = api.post("/v1/receipts/ack", &json!({ "up_to": last["seq"] })).await;
                assert_eq!(status, 204);
            }
        }
        accepted
    }
}

impl Reader {
    /// Reads everything that comes to a deployment.
    pub(super) fn start(site: &Site) -> Self {
        Self::through(&site.api)
    }

    /// Reads from a local API.
    pub(super) fn through(api: &LocalApi) -> Self {
        let seen = Arc::new(AtomicU64::new(0));
        let (stop, mut stopping) = watch::channel(false);
        let (api, count) = (api.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut ledger = Ledger::default();
            loop {
                let read = tokio::select! {
                    read = read(&api) => read,
                    _ = stopping.wait_for(|stop| *stop) => return ledger.count,
                };
                // While the gateway is away, or storage is.
                let Some(envelopes) = read else {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                };
                envelopes.iter().for_each(|envelope| ledger.enter(envelope));
                count.store(ledger.count, Ordering::SeqCst);
                if let Some(last) = envelopes.last() {
                    // One that fails is repeated after the next read, which hands the same ones out again.
                    let ack =
                        api.request(Method::POST, "/v1/inbox/ack").json(&json!({ "up_to": last["seq"] }));
                    let _ = ack.send().await;
                }
            }
        });
        Self { seen, stop, task }
    }

    /// Different envelopes seen so far.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Waits until so many more came.
    pub(super) async fn more(&self, count: u64) {
        let enough = self.seen() + count;
        eventually("more comes", async || self.seen() >= enough).await;
    }

    /// Waits until everything that was accepted came, and a moment for what should not come.
    pub(super) async fn finish(self, accepted: u64) {
        eventually("all that was accepted comes", async || self.seen() >= accepted).await;
        self.stop.send_replace(true);
        assert_eq!(self.task.await.unwrap(), accepted, "more came than was accepted");
    }
}

/// What came: per conversation the number expected next, and under which sequence number each came.
#[derive(Default)]
struct Ledger {
    next: HashMap<u64, u64>,
    seqs: HashMap<String, u64>,
    count: u64,
}

impl Ledger {
    fn enter(&mut self, envelope: &Value) {
        let id = envelope["id"].as_str().unwrap();
        let seq = envelope["seq"].as_u64().unwrap();
        if let Some(before) = self.seqs.get(id) {
            assert_eq!(*before, seq, "an envelope was delivered twice");
            return;
        }
        self.seqs.insert(id.to_owned(), seq);
        self.count += 1;
        let (conversation, number) = numbers(id);
        let next = self.next.entry(conversation).or_default();
        assert_eq!(number, *next, "conversation {conversation}: lost or out of order");
        *next += 1;
    }
}

/// Envelope number `round` of each conversation, a line each.
fn batch(round: u64, from: &str, to: &str) -> String {
    let mut lines = String::new();
    for conversation in 0..CONVERSATIONS {
        let line = json!({
            "id": format!("00000000-0000-4000-{conversation:04x}-{round:012x}"),
            "from": from, "to": [to], "kind": "message", "conversation": format!("c{conversation}"),
            "payload": "bm90IGxvbmcsIGJ1dCBub3QgbnVsbCBlaXRoZXI=",
        });
        writeln!(lines, "{line}").unwrap();
    }
    lines
}

/// Conversation and number of an id that [`batch`] made.
fn numbers(id: &str) -> (u64, u64) {
    let mut parts = id.split('-').skip(3).map(|part| u64::from_str_radix(part, 16).unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

/// Whether all of a batch is accepted now, or was before.
async fn submit(api: &LocalApi, batch: &str) -> bool {
    let request = api.request(Method::POST, "/v1/envelopes").header("content-type", "application/x-ndjson");
    let Ok(response) = request.body(batch.to_owned()).send().await else { return false };
    if response.status() != 202 {
        return false;
    }
    let Ok(text) = response.text().await else { return false };
    let results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len() as u64, BATCH);
    results.iter().all(|result| result["duplicate"] == true || result["accepted"].get(0).is_some())
}

async fn read(api: &LocalApi) -> Option<Vec<Value>> {
    let mut answer = api.get("/v1/inbox?max=256&wait_s=1").await.ok()?;
    serde_json::from_value(answer["envelopes"].take()).ok()
}

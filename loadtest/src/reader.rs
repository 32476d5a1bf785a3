//! A messaging server that takes envelopes and receipts: long polls, and acknowledgements on the side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use trunkline_gateway_proto::wire::State;

use crate::error::LoadError;
use crate::flow::{Stamp, now_us, run_of_id};
use crate::http::{Client, Media};
use crate::ledger::Ledger;
use crate::submit::Api;

/// Records asked for at once. More means fewer requests, and larger answers.
const READ_MAX: usize = 1024;

/// Longest wait of one poll.
const WAIT_S: u32 = 3;

/// Pause between acknowledgements. Each covers all that came before it, so more of them only cost commits.
const ACK_PAUSE: Duration = Duration::from_millis(10);

/// Pause before a gateway that is away is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What takes the records of a queue.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Path of the queue.
    const PATH: &'static str;

    /// Takes an answer of the queue; answers the last sequence number in it.
    fn take(&self, answer: Bytes) -> Result<Option<u64>, prost::DecodeError>;

    /// Where a failure that no retry mends is left for whoever waits.
    fn fail(&self, error: LoadError);
}

/// Reads a queue in the background until it is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    tasks: [JoinHandle<()>; 2],
}

/// A network's inbox: arrivals go to the ledgers of their flows.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    ledgers: Mutex<Vec<Arc<Ledger>>>,
    /// Highest sequence number that was handed out.
    seen: AtomicU64,
    /// Handed out again because it was not acknowledged yet. That is no duplicate.
    handed_out_again: AtomicU64,
    /// Envelopes of no flow that is known here.
    foreign: AtomicU64,
    failure: Mutex<Option<LoadError>>,
}

/// A network's receipts, counted by flow.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    counts: Mutex<Vec<(u64, Outcome)>>,
    seen: AtomicU64,
    failure: Mutex<Option<LoadError>>,
}

/// What the receipts of a flow say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Outcome {
    /// Acknowledged by the other deployment.
    pub delivered: u64,
    /// Refused, expired or purged.
    pub failed: u64,
    /// When the last one was read, by [`now_us`].
    #[serde(skip)]
    pub last_us: u64,
}

/// The fields of an `InboxBatch` that the ledger needs. What is not named here is skipped without being copied.
#[derive(Clone, PartialEq, Message)]
struct InboxBatch {
    #[prost(message, repeated, tag = "1")]
    envelopes: Vec<InboxItem>,
}

#[derive(Clone, PartialEq, Message)]
struct InboxItem {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(message, optional, tag = "3")]
    envelope: Option<Envelope>,
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(bytes = "bytes", tag = "15")]
    payload: Bytes,
}

/// The fields of a `ReceiptBatch` that are counted.
#[derive(Clone, PartialEq, Message)]
struct ReceiptBatch {
    #[prost(message, repeated, tag = "1")]
    receipts: Vec<Receipt>,
}

#[derive(Clone, PartialEq, Message)]
struct Receipt {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(enumeration = "State", tag = "4")]
    state: i32,
}

impl Reader {
    /// Starts to read `sink`'s queue at `api`.
    pub(crate) fn start<S: Sink>(api: &Api, sink: Arc<S>) -> Self {
        let (acks, to_ack) = watch::channel(0);
        let polls = Client::of(api, 0);
        let acknowledges = Client::of(api, 0);
        Self { tasks: [tokio::spawn(poll(polls, sink, acks)), tokio::spawn(ack::<S>(acknowledges, to_ack))] }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn poll<S: Sink>(mut client: Client, sink: Arc<S>, acks: watch::Sender<u64>) {
    let mut after = None;
    loop {
        let from = after.map_or_else(String::new, |seq| format!("&after={seq}"));
        let path = format!("{}?max={READ_MAX}&wait_s={WAIT_S}{from}", S::PATH);
        match client.call(Method::GET, &path, Media::Protobuf, Bytes::new()).await {
            Ok(answer) => match sink.take(answer) {
                Ok(Some(last)) => {
                    after = Some(last);
                    acks.send_replace(last);
                }
                Ok(None) => {}
                Err(error) => {
                    let request = format!("GET {}", S::PATH);
                    return sink.fail(LoadError::Answer { request, why: error.to_string() });
                }
            },
            Err(error) if error.passes() => {
                // Whoever comes back hands out again what was not acknowledged: ask for exactly that.
                after = None;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return sink.fail(error),
        }
    }
}

async fn ack<S: Sink>(mut client: Client, mut to_ack: watch::Receiver<u64>) {
    let path = format!("{}/ack", S::PATH);
    while to_ack.changed().await.is_ok() {
        let up_to = *to_ack.borrow_and_update();
        let body = Bytes::from(format!("{{\"up_to\":{up_to}}}"));
        while client.call(Method::POST, &path, Media::Json, body.clone()).await.is_err_and(|e| e.passes()) {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        tokio::time::sleep(ACK_PAUSE).await;
    }
}

impl Inbox {
    /// An inbox that knows these flows.
    pub(crate) fn of(ledgers: impl IntoIterator<Item = Arc<Ledger>>) -> Arc<Self> {
        let ledgers = Mutex::new(ledgers.into_iter().collect());
        Arc::new(Self { ledgers, ..Self::default() })
    }

    /// From now on it knows this flow, too.
    pub(crate) fn add(&self, ledger: &Arc<Ledger>) {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(ledger));
    }

    /// Envelopes that belong to no flow it knows: there should be none.
    pub(crate) fn foreign(&self) -> u64 {
        self.foreign.load(Ordering::Acquire)
    }

    /// Envelopes that were handed out again because they were not acknowledged.
    pub(crate) fn handed_out_again(&self) -> u64 {
        self.handed_out_again.load(Ordering::Acquire)
    }

    /// Waits until `count` different envelopes of a flow have arrived.
    ///
    /// # Errors
    /// When the reader gave up, or nothing arrives any more for `patience`.
    pub(crate) async fn wait_for(
        &self,
        ledger: &Ledger,
        count: u64,
        patience: Duration,
    ) -> Result<(), LoadError> {
        let (mut seen, mut since) = (ledger.arrived(), now_us());
        while ledger.arrived() < count {
            ledger.changed().await;
            self.check()?;
            let now = now_us();
            if ledger.arrived() > seen {
                (seen, since) = (ledger.arrived(), now);
            } else if Duration::from_micros(now - since) > patience {
                let what = format!("another arrival ({seen} of {count} envelopes are here)");
                return Err(LoadError::TimedOut { what, waited: patience });
            }
        }
        Ok(())
    }

    /// # Errors
    /// What made its reader give up, once.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }
}

impl Sink for Inbox {
    const PATH: &'static str = "/v1/inbox";

    fn take(&self, answer: Bytes) -> Result<Option<u64>, prost::DecodeError> {
        let batch = InboxBatch::decode(answer)?;
        let seen = self.seen.load(Ordering::Acquire);
        let mut last = None;
        let mut arrivals = Vec::with_capacity(batch.envelopes.len());
        let (mut again, mut foreign) = (0, 0);
        for item in &batch.envelopes {
            last = Some(item.seq);
            if item.seq <= seen {
                again += 1;
                continue;
            }
            let payload = item.envelope.as_ref().map_or(&[][..], |envelope| &envelope.payload[..]);
            match Stamp::read(payload) {
                Some(stamp) => arrivals.push((stamp, payload)),
                None => foreign += 1,
            }
        }
        let ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = 0;
        for ledger in ledgers.iter() {
            let run = ledger.flow().run();
            let before = known;
            let its = arrivals.iter().filter(|(stamp, _)| stamp.run == run).inspect(|_| known += 1).copied();
            let its: Vec<_> = its.collect();
            if known > before {
                ledger.enter(its);
            }
        }
        foreign += arrivals.len() - known;
        drop(ledgers);
        self.seen.fetch_max(last.unwrap_or(0), Ordering::AcqRel);
        self.handed_out_again.fetch_add(again, Ordering::AcqRel);
        self.foreign.fetch_add(foreign as u64, Ordering::AcqRel);
        Ok(last)
    }

    fn fail(&self, error: LoadError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl Receipts {
    /// What came back about a flow so far.
    pub(crate) fn of(&self, run: u64) -> Outcome {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().find(|(its, _)| *its == run).map_or_else(Outcome::default, |(_, outcome)| *outcome)
    }

    /// Waits until `count` receipts of a flow are here.
    ///
    /// # Errors
    /// When none comes any more for `patience`.
    pub(crate) async fn wait_for(
        &self,
        run: u64,
        count: u64,
        patience: Duration,
    ) -> Result<Outcome, LoadError> {
        let (mut seen, mut since) = (0, now_us());
        loop {
            if let Some(error) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(error);
            }
            let outcome = self.of(run);
            let have = outcome.delivered + outcome.failed;
            if have >= count {
                return Ok(outcome);
            }
            let now = now_us();
            if have > seen {
                (seen, since) = (have, now);
            } else if Duration::from_micros(now - since) > patience {
                let what = format!("another receipt ({have} of {count} are here)");
                return Err(LoadError::TimedOut { what, waited: patience });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Sink for Receipts {
    const PATH: &'static str = "/v1/receipts";

    fn take(&self, answer: Bytes) -> Result<Option<u64>, prost::DecodeError> {
        let batch = ReceiptBatch::decode(answer)?;
        let seen = self.seen.load(Ordering::Acquire);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_us();
        for receipt in batch.receipts.iter().filter(|receipt| receipt.seq > seen) {
            let run = run_of_id(&receipt.id).unwrap_or(0);
            let at = counts.iter().position(|(its, _)| *its == run).unwrap_or_else(|| {
                counts.push((run, Outcome::default()));
                counts.len() - 1
            });
            let Some((_, outcome)) = counts.get_mut(at) else { continue };
            if receipt.state() == State::Delivered {
                outcome.delivered += 1
            } else {
                outcome.failed += 1
            }
            outcome.last_us = now;
        }
        let last = batch.receipts.last().map(|receipt| receipt.seq);
        self.seen.fetch_max(last.unwrap_or(0), Ordering::AcqRel);
        Ok(last)
    }

    fn fail(&self, error: LoadError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use trunkline_gateway_proto::wire;

    use super::*;
    use crate::flow::Flow;
    use crate::ledger::Verdict;

    /// The answer a gateway gives for these (sequence number, counter) of conversation 0.
    fn answer(flow: &Flow, items: &[(u64, u32)]) -> Bytes {
        let item = |(seq, counter): &(u64, u32)| {
            let mut batch = BytesMut::new();
            flow.submission(0, *counter, 1, &mut batch);
            let submitted = wire::SubmitBatch::decode(batch.freeze()).unwrap().envelopes.remove(0);
            let envelope = wire::Envelope {
                id: submitted.id,
                from: submitted.from,
                to: submitted.to,
                network: "main".to_owned(),
                payload: submitted.payload,
                ..wire::Envelope::default()
            };
            wire::InboxItem { seq: *seq, received_at_ms: 5, envelope: Some(envelope) }
        };
        wire::InboxBatch { envelopes: items.iter().map(item).collect() }.encode_to_vec().into()
    }

    #[test]
    fn an_unacknowledged_envelope_handed_out_again_is_no_duplicate_but_one_with_a_new_number_is() {
        let ledger = Ledger::new(Flow::new("a@alpha.test", "b@beta.test", 1, 64).unwrap());
        let inbox = Inbox::of([Arc::clone(&ledger)]);
        assert_eq!(inbox.take(answer(ledger.flow(), &[(1, 0), (2, 1)])).unwrap(), Some(2));
        assert_eq!(inbox.take(answer(ledger.flow(), &[(1, 0), (2, 1), (3, 2)])).unwrap(), Some(3));
        assert_eq!((ledger.verdict(&[3]), inbox.handed_out_again()), (Verdict::default(), 2));
        inbox.take(answer(ledger.flow(), &[(4, 1)])).unwrap();
        assert_eq!(ledger.verdict(&[3]).duplicated, 1);
        assert_eq!(inbox.foreign(), 0);
    }

    #[test]
    fn an_envelope_of_an_unknown_flow_is_foreign() {
        let inbox = Inbox::of([]);
        let flow = Flow::new("a@alpha.test", "b@beta.test", 1, 64).unwrap();
        inbox.take(answer(&flow, &[(1, 0)])).unwrap();
        assert_eq!(inbox.foreign(), 1);
    }

    #[test]
    fn receipts_are_counted_once_and_by_flow() {
        let receipts = Receipts::default();
        let mut id = vec![0; 16];
        id[5] = 9;
        let receipt = |seq, state: State| wire::Receipt {
            seq,
            id: id.clone().into(),
            state: state.into(),
            ..wire::Receipt::default()
        };
        let batch =
            wire::ReceiptBatch { receipts: vec![receipt(1, State::Delivered), receipt(2, State::Refused)] };
        for _ in 0..2 {
            assert_eq!(receipts.take(batch.encode_to_vec().into()).unwrap(), Some(2));
        }
        let outcome = receipts.of(9);
        assert_eq!((outcome.delivered, outcome.failed), (1, 1));
    }
}

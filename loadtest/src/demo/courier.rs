//! The messaging server's way to its gateway: submits, and takes what comes. It sees addresses and sealed bytes.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use trunkline_common::ids::Address;
use trunkline_common::limits::CONVERSATION_BYTES_MAX;

use super::directory::Directory;
use crate::error::LoadError;
use crate::fleet;
use crate::http::{Client, Media};
use crate::submit::Api;

/// Longest wait of one poll, in seconds.
const WAIT_S: u32 = 20;

/// Pause before a gateway that is away is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How long a gateway may take to answer a submission.
const SUBMITTED_WITHIN: Duration = Duration::from_secs(10);

/// What a page hands in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    /// The envelope's id, chosen by the page: it is bound to the payload.
    pub(crate) id: uuid::Uuid,
    /// For whom.
    pub(crate) to: Address,
    /// What it is.
    pub(crate) kind: Kind,
    /// Which conversation it belongs to.
    pub(crate) conversation: String,
    /// How long it may be tried for.
    #[serde(default)]
    pub(crate) ttl_s: Option<NonZeroU64>,
    /// Base64.
    pub(crate) payload: String,
}

/// What pages may send.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Something to read.
    Message,
    /// An invitation to a call.
    Call,
    /// A public key.
    Control,
}

impl Draft {
    /// Checks what the gateway would, for what goes to a neighbour and so past it.
    ///
    /// # Errors
    /// A sentence with the field and the fix.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.conversation.len() > CONVERSATION_BYTES_MAX {
            return Err(format!("conversation: expected at most {CONVERSATION_BYTES_MAX} bytes"));
        }
        let payload = STANDARD.decode(&self.payload);
        payload.map(drop).map_err(|_| {
            "payload: this is not base64: expected the standard alphabet, with padding".to_owned()
        })
    }
}

/// Takes and brings envelopes.
pub(crate) struct Courier {
    domain: String,
    api: Api,
    submits: Mutex<Client>,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Call => "call",
            Self::Control => "control",
        }
    }
}

impl Courier {
    /// For the people of a deployment.
    pub(crate) fn new(domain: &str, api: Api) -> Self {
        let submits = Mutex::new(Client::of(&api, 0));
        Self { domain: domain.to_owned(), api, submits }
    }

    /// Hands an envelope in, or to a neighbour: that one needs no gateway.
    ///
    /// # Errors
    /// As the gateway says.
    pub(crate) async fn submit(
        &self,
        directory: &Directory,
        from: &str,
        draft: &Draft,
    ) -> Result<Value, LoadError> {
        let Draft { id, to, kind, conversation, ttl_s, payload } = draft;
        let mut envelope = json!({
            "id": id, "from": from, "to": [to], "kind": kind.name(), "conversation": conversation,
            "payload": payload,
        });
        // Before it is on its way: its receipt may be back before the answer is.
        let first = directory.sends(*id, from);
        if to.domain() == self.domain {
            if !first {
                return Ok(json!({ "id": id, "accepted": [], "rejected": [], "duplicate": true }));
            }
            hand_over(directory, from, to.as_str(), envelope);
            let accepted = json!([{ "domain": self.domain, "recipients": 1 }]);
            return Ok(json!({ "id": id, "accepted": accepted, "rejected": [] }));
        }
        if let (Some(ttl_s), Some(envelope)) = (ttl_s, envelope.as_object_mut()) {
            envelope.insert("ttl_s".to_owned(), json!(ttl_s));
        }
        let body = Bytes::from(envelope.to_string());
        let submitted = async {
            let mut client = self.submits.lock().await;
            client.call(Method::POST, "/v1/envelopes", Media::Json, body).await
        };
        let answer = tokio::time::timeout(SUBMITTED_WITHIN, submitted).await.map_err(|_| {
            LoadError::TimedOut { what: "the gateway's answer".to_owned(), waited: SUBMITTED_WITHIN }
        })??;
        fleet::parse("POST /v1/envelopes", &answer)
    }

    /// Takes envelopes and receipts, until it is dropped.
    pub(crate) fn take(&self, directory: &Arc<Directory>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (queue, field, put) in
            [("inbox", "envelopes", envelope as Put), ("receipts", "receipts", receipt as Put)]
        {
            let client = Client::of(&self.api, 0);
            let directory = Arc::clone(directory);
            tasks.spawn(async move {
                let mut queue = Queue { client, queue, field };
                loop {
                    if queue.round(&directory, put).await.is_err() {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            });
        }
        tasks
    }
}

/// Puts a record into the mailboxes that it is for.
type Put = fn(&Directory, &Value);

struct Queue {
    client: Client,
    queue: &'static str,
    field: &'static str,
}

impl Queue {
    /// Waits for records, keeps them, and acknowledges them after that.
    async fn round(&mut self, directory: &Directory, put: Put) -> Result<(), LoadError> {
        let path = format!("/v1/{}?wait_s={WAIT_S}", self.queue);
        let answer = self.client.call(Method::GET, &path, Media::Json, Bytes::new()).await?;
        let answer = fleet::parse(&path, &answer)?;
        let records = answer.get(self.field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        records.iter().for_each(|record| put(directory, record));
        let Some(last) = records.last().and_then(|record| record.get("seq")) else { return Ok(()) };
        let ack = Bytes::from(json!({ "up_to": last }).to_string());
        self.client.call(Method::POST, &format!("/v1/{}/ack", self.queue), Media::Json, ack).await?;
        Ok(())
    }
}

/// An envelope for people here. One that is for nobody here is dropped, as it would be by a real server that
/// knows the address no more.
fn envelope(directory: &Directory, envelope: &Value) {
    let to = envelope.get("to").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for to in to.iter().filter_map(Value::as_str) {
        if let Some(person) = directory.by_address(to) {
            let names = [("id", "id"), ("from", "from"), ("kind", "kind"), ("conversation", "conversation")];
            let names = names.into_iter().chain([("payload", "payload"), ("at", "received_at")]);
            person.mailbox.put("envelope", picked(envelope, names));
        }
    }
}

/// A receipt, for the one who sent the envelope. It names no sender, so that is remembered here.
fn receipt(directory: &Directory, receipt: &Value) {
    let id = receipt.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
    if let Some(sender) = id.and_then(|id| directory.sender_of(&id)) {
        let names = ["id", "to", "state", "reason", "at"].map(|name| (name, name));
        sender.mailbox.put("receipt", picked(receipt, names.into_iter()));
    }
}

/// Delivers between two people of one deployment.
fn hand_over(directory: &Directory, from: &str, to: &str, mut draft: Value) {
    let id = draft.get("id").cloned().unwrap_or_default();
    let known = directory.by_address(to).is_some();
    let reason = if known { Value::Null } else { json!("nobody here has this address") };
    let state = if known { "delivered" } else { "refused" };
    if let Some(fields) = draft.as_object_mut() {
        fields.insert("received_at".to_owned(), Value::Null);
    }
    envelope(directory, &draft);
    if let Some(sender) = directory.by_address(from) {
        let told = json!({ "id": id, "to": [to], "state": state, "reason": reason });
        let names = ["id", "to", "state", "reason"].map(|name| (name, name));
        sender.mailbox.put("receipt", picked(&told, names.into_iter()));
    }
}

/// Some of a record's fields, by other names.
fn picked(record: &Value, names: impl Iterator<Item = (&'static str, &'static str)>) -> Map<String, Value> {
    names
        .filter_map(|(name, of)| {
            Some((name.to_owned(), record.get(of).filter(|field| !field.is_null())?.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(to: &str, conversation: &str, payload: &str) -> Result<Draft, serde_json::Error> {
        serde_json::from_value(json!({
            "id": "8c0d5c3e-7d4b-4f4e-9a39-0d5d7bfb4b11", "to": to, "kind": "message",
            "conversation": conversation, "payload": payload,
        }))
    }

    #[test]
    fn what_goes_past_the_gateway_is_checked_as_it_would_there() {
        let good = draft("amir@alpha.test", "c", "aGVsbG8=").expect("it is good");
        assert_eq!(good.check(), Ok(()));
        assert!(draft(&format!("{}@alpha.test", "a".repeat(400)), "c", "aGVsbG8=").is_err());
        for (conversation, payload, field) in
            [("c".repeat(257), "", "conversation"), ("c".to_owned(), "a", "payload")]
        {
            let found = draft("amir@alpha.test", &conversation, payload).expect("it is read").check();
            assert!(found.is_err_and(|why| why.starts_with(field)), "{field}");
        }
    }

    #[tokio::test]
    async fn a_neighbour_gets_an_envelope_once() {
        let api = Api { addresses: vec![([127, 0, 0, 1], 9).into()], token: String::new() };
        let courier = Courier::new("alpha.test", api);
        let directory = Directory::of("alpha.test");
        let draft = draft("amir@alpha.test", "c", "aGVsbG8=").expect("it is good");
        let first = courier.submit(&directory, "ann@alpha.test", &draft).await.expect("it is taken");
        assert!(first.get("duplicate").is_none(), "{first}");
        let again = courier.submit(&directory, "amir@alpha.test", &draft).await.expect("it is taken");
        assert_eq!(again["duplicate"], true, "{again}");
    }
}

//! A person without a browser: what the messaging page does, through the same server and in the same format.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::sealed::{Bound, Contact, Identity, KeyNotice, conversation};
use crate::error::LoadError;
use crate::fleet;
use crate::http::{Client, Media};

/// How long anything may take that a person waits for. It takes milliseconds.
const WITHIN: Duration = Duration::from_secs(20);

/// Longest event that is read.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Somebody with a link.
pub(crate) struct Person {
    /// Such as `ann@alpha.test`.
    pub(crate) address: String,
    identity: Identity,
    client: Client,
    contacts: HashMap<String, Contact>,
    events: Events,
    opened: VecDeque<Opened>,
    receipts: HashMap<String, Value>,
}

/// Something that was sealed for this person.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Who sealed it.
    pub(crate) from: String,
    /// `message` or `call`.
    pub(crate) kind: String,
    /// What was in it.
    pub(crate) content: Value,
}

/// What became of something that was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is at the other deployment.
    Delivered,
    /// It is not, and this is why.
    Failed(String),
}

impl Person {
    /// Opens a link, as a browser does.
    ///
    /// # Errors
    /// When it opens nothing.
    pub(crate) async fn open(server: SocketAddr, token: &str) -> Result<Self, LoadError> {
        let mut client = Client::new(server, token);
        let me = ask(&mut client, Method::GET, "/api/me", None).await?;
        let events = Client::new(server, token).follow("/api/events?after=0").await?;
        Ok(Self {
            address: text(&me, "address")?,
            identity: Identity::generate().map_err(sealing)?,
            client,
            contacts: HashMap::new(),
            events: Events { body: events, bytes: Vec::new() },
            opened: VecDeque::new(),
            receipts: HashMap::new(),
        })
    }

    /// Tells somebody one's own key, and asks for theirs.
    ///
    /// # Errors
    /// When the envelope is not taken.
    pub(crate) async fn introduce(&mut self, to: &str) -> Result<(), LoadError> {
        self.tell_key(to, true).await
    }

    /// Waits until somebody's key is known, and answers who asks meanwhile.
    ///
    /// # Errors
    /// When it does not come.
    pub(crate) async fn knows(&mut self, who: &str) -> Result<(), LoadError> {
        let deadline = Instant::now() + WITHIN;
        while !self.contacts.contains_key(who) {
            self.pump(deadline, "a public key").await?;
        }
        Ok(())
    }

    /// The number to compare with somebody.
    ///
    /// # Errors
    /// Before their key is known.
    pub(crate) fn safety_number(&self, who: &str) -> Result<String, LoadError> {
        let contact = self.contacts.get(who).ok_or_else(|| unknown(who))?;
        Ok(super::sealed::safety_number((&self.address, self.identity.public()), (who, &contact.key)))
    }

    /// Seals something and hands it in: the envelope's id, or why it was refused at once.
    ///
    /// # Errors
    /// When there is no answer, or the recipient's key is not known.
    pub(crate) async fn send(
        &mut self,
        to: &str,
        kind: &str,
        content: &Value,
    ) -> Result<Result<Uuid, String>, LoadError> {
        let (id, conversation) = (Uuid::new_v4(), conversation(&self.address, to));
        let contact = self.contacts.get_mut(to).ok_or_else(|| unknown(to))?;
        let id_text = id.to_string();
        let bound = Bound { kind, conversation: &conversation, from: &self.address, to, id: &id_text };
        let payload = self.identity.seal(contact, &bound, content.to_string().as_bytes()).map_err(sealing)?;
        match self.submit(id, to, kind, &conversation, &payload).await {
            Ok(_) => Ok(Ok(id)),
            Err(LoadError::Refused { status: 400..500, body, .. }) => Ok(Err(reason(&body))),
            Err(error) => Err(error),
        }
    }

    /// Sends something and waits for what becomes of it.
    ///
    /// # Errors
    /// When nothing does.
    pub(crate) async fn send_and_see(
        &mut self,
        to: &str,
        kind: &str,
        content: &Value,
    ) -> Result<Outcome, LoadError> {
        match self.send(to, kind, content).await? {
            Ok(id) => self.outcome(id).await,
            Err(reason) => Ok(Outcome::Failed(reason)),
        }
    }

    /// Waits for the receipt of an envelope.
    ///
    /// # Errors
    /// When it does not come.
    pub(crate) async fn outcome(&mut self, id: Uuid) -> Result<Outcome, LoadError> {
        let (deadline, id) = (Instant::now() + WITHIN, id.to_string());
        loop {
            if let Some(receipt) = self.receipts.remove(&id) {
                let field = |name: &str| receipt.get(name).and_then(Value::as_str);
                let state = field("state").unwrap_or("unknown");
                return Ok(match state {
                    "delivered" => Outcome::Delivered,
                    state => Outcome::Failed(field("reason").unwrap_or(state).to_owned()),
                });
            }
            self.pump(deadline, "a receipt").await?;
        }
    }

    /// Waits for the next thing that somebody sealed for this person.
    ///
    /// # Errors
    /// When nothing comes, or what comes does not open.
    pub(crate) async fn receive(&mut self) -> Result<Opened, LoadError> {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(opened) = self.opened.pop_front() {
                return Ok(opened);
            }
            self.pump(deadline, "a message").await?;
        }
    }

    /// Starts a call at the own deployment.
    ///
    /// # Errors
    /// When the relay gives none.
    pub(crate) async fn start_call(&mut self) -> Result<Value, LoadError> {
        ask(&mut self.client, Method::POST, "/api/calls", None).await
    }

    /// A join token for somebody, for a call that this person started.
    ///
    /// # Errors
    /// When the relay gives none.
    pub(crate) async fn join_token(&mut self, call: &str, who: &str) -> Result<String, LoadError> {
        let path = format!("/api/calls/{call}/tokens");
        let answer = ask(&mut self.client, Method::POST, &path, Some(&json!({ "participant": who }))).await?;
        text(&answer, "token")
    }

    /// Ends a call that this person started.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub(crate) async fn end_call(&mut self, call: &str) -> Result<(), LoadError> {
        ask(&mut self.client, Method::DELETE, &format!("/api/calls/{call}"), None).await.map(drop)
    }

    async fn tell_key(&mut self, to: &str, wanted: bool) -> Result<(), LoadError> {
        let notice = serde_json::to_vec(&self.identity.notice(wanted)).unwrap_or_default();
        let conversation = conversation(&self.address, to);
        self.submit(Uuid::new_v4(), to, "control", &conversation, &notice).await.map(drop)
    }

    async fn submit(
        &mut self,
        id: Uuid,
        to: &str,
        kind: &str,
        conversation: &str,
        payload: &[u8],
    ) -> Result<Value, LoadError> {
        let draft = json!({
            "id": id, "to": to, "kind": kind, "conversation": conversation, "payload": STANDARD.encode(payload),
        });
        ask(&mut self.client, Method::POST, "/api/envelopes", Some(&draft)).await
    }

    /// Takes one event.
    async fn pump(&mut self, deadline: Instant, what: &str) -> Result<(), LoadError> {
        let next = tokio::time::timeout_at(deadline, self.events.next()).await;
        let (event, data) = next.map_err(|_| {
            let what = format!("the arrival of {what} for {}", self.address);
            LoadError::TimedOut { what, waited: WITHIN }
        })??;
        match event.as_str() {
            "envelope" => self.take(&data).await,
            "receipt" => {
                self.receipts.insert(text(&data, "id")?, data);
                Ok(())
            }
            // Of a call of one's own: whoever is on it is told by the relay.
            "call-over" => Ok(()),
            other => Err(LoadError::Answer {
                request: "GET /api/events".to_owned(),
                why: format!("an event `{other}`"),
            }),
        }
    }

    async fn take(&mut self, envelope: &Value) -> Result<(), LoadError> {
        let field = |name: &str| text(envelope, name);
        let (id, from, kind) = (field("id")?, field("from")?, field("kind")?);
        let conversation = field("conversation")?;
        let payload = STANDARD.decode(field("payload")?);
        let payload = payload.map_err(|error| LoadError::NotAccepted(error.to_string()))?;
        if kind == "control" {
            let notice: KeyNotice = serde_json::from_slice(&payload)
                .map_err(|error| LoadError::NotAccepted(format!("a key notice: {error}")))?;
            let key = notice.key().map_err(sealing)?;
            let known = self.contacts.entry(from.clone()).or_insert_with(|| Contact::pinned(key.clone()));
            if known.key != key {
                return Err(LoadError::NotAccepted(format!("another key says to be of {from}")));
            }
            return if notice.ask { self.tell_key(&from, false).await } else { Ok(()) };
        }
        let contact = self.contacts.get_mut(&from).ok_or_else(|| unknown(&from))?;
        let bound =
            Bound { kind: &kind, conversation: &conversation, from: &from, to: &self.address, id: &id };
        let plain = self.identity.open(contact, &bound, &payload).map_err(sealing)?;
        let content = serde_json::from_slice(&plain)
            .map_err(|error| LoadError::NotAccepted(format!("what was sealed is no JSON: {error}")))?;
        self.opened.push_back(Opened { from, kind, content });
        Ok(())
    }
}

/// Server-sent events, as they come.
struct Events {
    body: Incoming,
    bytes: Vec<u8>,
}

impl Events {
    async fn next(&mut self) -> Result<(String, Value), LoadError> {
        loop {
            while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
                    return Ok(event);
                }
            }
            let over =
                |why: &str| LoadError::Answer { request: "GET /api/events".to_owned(), why: why.to_owned() };
            let frame = self.body.frame().await.ok_or_else(|| over("it ended"))?;
            let frame = frame.map_err(|error| over(&error.to_string()))?;
            self.bytes.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
            if self.bytes.len() > EVENT_BYTES_MAX {
                return Err(over("an event without an end"));
            }
        }
    }
}

/// One event; nothing for a comment.
fn parse(block: &str) -> Option<(String, Value)> {
    let field = |name: &str| {
        block.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start()))
    };
    Some((field("event")?.to_owned(), serde_json::from_str(field("data")?).ok()?))
}

/// The name of a problem document's type.
fn reason(problem: &str) -> String {
    let problem: Value = serde_json::from_str(problem).unwrap_or_default();
    let kind = problem.get("type").and_then(Value::as_str).unwrap_or("unknown");
    kind.rsplit(':').next().unwrap_or(kind).to_owned()
}

async fn ask(
    client: &mut Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, LoadError> {
    let request = format!("{method} {path}");
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let answer = client.call(method, path, Media::Json, body).await?;
    fleet::parse(&request, &answer)
}

/// A field that must be there.
///
/// # Errors
/// When it is not.
pub(crate) fn text(value: &Value, name: &str) -> Result<String, LoadError> {
    let found = value.get(name).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| LoadError::NotAccepted(format!("`{name}` is missing")))
}

fn sealing(error: super::sealed::SealError) -> LoadError {
    LoadError::NotAccepted(error.to_string())
}

fn unknown(who: &str) -> LoadError {
    LoadError::NotAccepted(format!("the key of {who} is not known yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_from_comments() {
        assert_eq!(
            parse("event: receipt\ndata: {\"seq\":1}\n\n"),
            Some(("receipt".to_owned(), json!({"seq": 1})))
        );
        assert_eq!(parse(":\n\n"), None);
    }

    #[test]
    fn the_reason_of_a_refusal_is_the_name_of_its_problem() {
        assert_eq!(reason("{\"type\": \"urn:trunkline:problem:not-permitted\"}"), "not-permitted");
        assert_eq!(reason("no JSON"), "unknown");
    }
}

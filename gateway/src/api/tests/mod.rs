//! The local API over real sockets, with a stand-in for the hub.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use trunkline_common::token::TokenHash;
use trunkline_gateway_proto::directory::{Directory, NetworkRecord, Webhook};
use trunkline_gateway_proto::store::{Head, NetworkKey, Record};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire;
use trunkline_http::serve::{self, Limits};

use super::Config;
use crate::hub::{Command, Hub, HubError, Queue};

mod queues;
mod streams;
mod submission;
mod webhooks;

pub(super) const TOKEN: &str = "tln_right";
pub(super) const NETWORK: NetworkKey = NetworkKey(1);
pub(super) const INBOX: Queue = Queue::Inbox(NETWORK);
pub(super) const RECEIPTS: Queue = Queue::Receipts(NETWORK);

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

type Judge = Box<dyn Fn(&wire::Submission) -> wire::SubmitResult + Send>;

/// What the stand-in for the hub holds.
#[derive(Default)]
pub(super) struct State {
    pub(super) queues: BTreeMap<Queue, BTreeMap<u64, Record>>,
    /// One entry per commit.
    pub(super) batches: Vec<Vec<wire::Submission>>,
    pub(super) acks: Vec<(Queue, u64)>,
    /// Reads asked for.
    pub(super) reads: usize,
    /// Reads whose caller went away.
    pub(super) given_up: usize,
    /// Reads that find nothing are answered at once, as for a network that was removed.
    pub(super) impatient: bool,
    pub(super) judge: Option<Judge>,
    pub(super) error: Option<HubError>,
}

/// A served API.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) hub: Hub,
    pub(super) client: Client,
    pub(super) stop: watch::Sender<bool>,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

pub(super) fn network(webhook: Option<Webhook>) -> NetworkRecord {
    NetworkRecord {
        hidden_domains: Vec::new(),
        key: NETWORK,
        id: "main".parse().unwrap(),
        label: String::new(),
        local_domains: vec!["alpha.test".parse().unwrap()],
        tokens: vec![TokenHash::of(TOKEN)],
        policy: trunkline_gateway_proto::policy::Policy::default(),
        webhook,
    }
}

pub(super) fn directory(webhook: Option<Webhook>) -> Directory {
    let mut directory = Directory::default();
    directory.put_network(network(webhook));
    directory
}

pub(super) async fn served() -> Served {
    served_with(Config::default(), Limits::default()).await
}

pub(super) async fn served_with(config: Config, limits: Limits) -> Served {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (hub, commands) = Hub::for_test(directory(None));
    let state = Arc::new(Mutex::new(State::default()));
    let changed = watch::Sender::new(0);
    tokio::spawn(answer(commands, Arc::clone(&state), changed.clone()));
    let (stop, stopping) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = super::router(hub.clone(), config, stopping.clone());
    tokio::spawn(serve::serve(listener, None, router, limits, stopping));
    let client = Client::builder().no_proxy().build().unwrap();
    Served { address, hub, client, stop, state, changed }
}

/// Stands in for the hub.
async fn answer(
    mut commands: mpsc::Receiver<Command>,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
) {
    while let Some(command) = commands.recv().await {
        let error = state.lock().unwrap().error.clone();
        match command {
            Command::Submit { batch, reply, .. } => {
                let mut state = state.lock().unwrap();
                let accept = |submission: &wire::Submission| match &state.judge {
                    Some(judge) => judge(submission),
                    None => accepted(submission),
                };
                let results = batch.iter().map(accept).collect();
                state.batches.push(batch);
                let _ = reply.send(error.map_or(Ok(results), Err));
            }
            Command::Read { queue, after, max, wait, mut reply } => {
                if let Some(error) = error {
                    let _ = reply.send(Err(error));
                    continue;
                }
                let wait = if state.lock().unwrap().impatient { Duration::ZERO } else { wait };
                state.lock().unwrap().reads += 1;
                changed.send_modify(|version| *version += 1);
                let (state, changed) = (Arc::clone(&state), changed.clone());
                let mut changes = changed.subscribe();
                tokio::spawn(async move {
                    let find = || {
                        let state = state.lock().unwrap();
                        let records = state.queues.get(&queue).into_iter().flatten();
                        let wanted = records.filter(|(seq, _)| after.is_none_or(|after| **seq > after));
                        wanted.take(max).map(|(seq, record)| (*seq, record.clone())).collect::<Vec<_>>()
                    };
                    let found = async {
                        loop {
                            let found = find();
                            if !found.is_empty() || changes.changed().await.is_err() {
                                return found;
                            }
                        }
                    };
                    let found = tokio::select! {
                        found = tokio::time::timeout(wait, found) => found.unwrap_or_default(),
                        () = reply.closed() => {
                            state.lock().unwrap().given_up += 1;
                            changed.send_modify(|version| *version += 1);
                            return;
                        }
                    };
                    let _ = reply.send(Ok(found));
                });
            }
            Command::Ack { queue, up_to, reply } => {
                let mut state = state.lock().unwrap();
                if let Some(records) = state.queues.get_mut(&queue) {
                    records.retain(|seq, _| *seq > up_to);
                }
                state.acks.push((queue, up_to));
                let _ = reply.send(error.map_or(Ok(()), Err));
                changed.send_modify(|version| *version += 1);
            }
            _ => {}
        }
    }
}

pub(super) fn accepted(submission: &wire::Submission) -> wire::SubmitResult {
    wire::SubmitResult {
        id: submission.id.clone(),
        accepted: vec![wire::Accepted { domain: "beta.test".into(), recipients: 1 }],
        ..wire::SubmitResult::default()
    }
}

pub(super) fn refused(submission: &wire::Submission, problem: &str) -> wire::SubmitResult {
    wire::SubmitResult {
        id: submission.id.clone(),
        problem: problem.into(),
        detail: "because".into(),
        ..wire::SubmitResult::default()
    }
}

pub(super) fn envelope(payload: &[u8]) -> wire::Envelope {
    wire::Envelope {
        id: Bytes::from_static(&[0xab; 16]),
        from: "bob@beta.test".into(),
        to: vec!["ann@alpha.test".into()],
        kind: wire::Kind::Message.into(),
        conversation: "c1".into(),
        network: "theirs".into(),
        guest: false,
        payload: Bytes::copy_from_slice(payload),
    }
}

pub(super) fn record(message: &impl Message) -> Record {
    let head = Head {
        id: [0xab; 16],
        network: NETWORK,
        expires: Time::NEVER,
        at: Time::from_unix_ms(1_795_298_625_042),
    };
    Record { head, body: message.encode_to_vec().into() }
}

impl Served {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts records into a queue, and wakes whoever waits for them.
    pub(super) fn put(&self, queue: Queue, records: impl IntoIterator<Item = (u64, Record)>) {
        self.state().queues.entry(queue).or_default().extend(records);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Puts envelopes with these sequence numbers into the inbox.
    pub(super) fn put_envelopes(&self, seqs: impl IntoIterator<Item = u64>) {
        self.put(INBOX, seqs.into_iter().map(|seq| (seq, record(&envelope(b"hello")))));
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path)).bearer_auth(TOKEN)
    }

    pub(super) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path)).bearer_auth(TOKEN)
    }

    /// Waits until the stand-in's state is as wanted.
    pub(super) async fn until(&self, mut wanted: impl FnMut(&State) -> bool) {
        let mut changes = self.changed.subscribe();
        let reached = async {
            while !wanted(&self.state()) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the wanted state is reached");
    }
}

/// Asserts that a response is a problem document of this type and status, and gives the document.
pub(super) async fn problem(response: Response, status: u16, name: &str) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["type"], format!("urn:trunkline:problem:{name}"), "{document}");
    assert_eq!(document["status"], status);
    assert!(document["title"].is_string() && document["detail"].is_string());
    document
}

//! A stand-in for the hub, for tests of the admin API and the CLI: it keeps a directory and an audit log in
//! memory, and answers like the real one where these tests look.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use trunkline_common::token::TokenHash;
use trunkline_gateway_proto::admin::{
    AdminError, AdminOp, AdminReply, Answer, NetworkSpec, NetworkView, Overview, PeerView, QueueView, Totals,
};
use trunkline_gateway_proto::administrator::AdministratorChange;
use trunkline_gateway_proto::audit::{Entry, genesis};
use trunkline_gateway_proto::directory::{AdminToken, Directory, NetworkRecord, Role};
use trunkline_gateway_proto::key::ApiKey;
use trunkline_gateway_proto::store::{Head, NetworkKey, Record};
use trunkline_gateway_proto::time::Time;

use crate::hub::{AdminFailure, Command, Hub, HubError};
use crate::store::StoreError;

/// What a test sees and sets.
#[derive(Clone, Default)]
pub(crate) struct FakeHub {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    peers: Vec<PeerView>,
    ops: Vec<(String, String)>,
    audit: Vec<Entry>,
    broken: bool,
}

impl FakeHub {
    /// Starts it. The directory knows one token per role, with the role's name as its text.
    pub(crate) fn start() -> (Hub, Self) {
        let mut directory = Directory::default();
        for (label, role) in [("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)]
        {
            let (hash, created) = (TokenHash::of(label), Time::from_unix_ms(0));
            directory.put_token(AdminToken { label: label.into(), hash, role, created });
        }
        directory.put_network(network(0, "main"));
        let (hub, commands) = Hub::for_test(directory);
        let fake = Self::default();
        tokio::spawn(fake.clone().answer(hub.clone(), commands));
        (hub, fake)
    }

    /// Actor and operation of every request so far.
    pub(crate) fn ops(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().ops.clone()
    }

    /// Makes peers appear.
    pub(crate) fn set_peers(&self, peers: Vec<PeerView>) {
        self.state.lock().unwrap().peers = peers;
    }

    /// Makes storage fail from now on.
    pub(crate) fn break_store(&self) {
        self.state.lock().unwrap().broken = true;
    }

    /// Makes the audit log this long.
    pub(crate) fn fill_audit(&self, entries: usize) {
        let entry = Entry {
            at: Time::from_unix_ms(0),
            actor: "root".into(),
            action: "peer.pause".into(),
            target: "beta.test".into(),
            outcome: "ok".into(),
            previous: genesis(),
        };
        self.state.lock().unwrap().audit.resize(entries, entry);
    }

    /// Changes an audit entry behind the log's back.
    pub(crate) fn tamper(&self, index: usize) {
        self.state.lock().unwrap().audit[index].target = "somebody.else".into();
    }

    async fn answer(self, hub: Hub, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            let mut state = self.state.lock().unwrap();
            match command {
                Command::Admin { actor, op, reply } => {
                    let outcome = state.carry_out(&hub, &actor, op);
                    let _ = reply.send(outcome);
                }
                Command::Overview { reply } | Command::Pulse { reply } => {
                    let _ = reply.send(Ok(state.overview(&hub)));
                }
                Command::Ack { reply, .. } => {
                    let outcome = if state.broken { Err(storage()) } else { Ok(()) };
                    let _ = reply.send(outcome);
                }
                Command::Audit { after, max, reply } => {
                    let read = usize::try_from(after.unwrap_or(0)).unwrap_or(usize::MAX);
                    let entries = state.audit.iter().enumerate().skip(read);
                    let records = entries.map(|(n, entry)| (n as u64 + 1, record(entry)));
                    let _ = reply.send(Ok(records.take(max).collect()));
                }
                Command::AuditRange { reply } => {
                    let _ = reply.send(Ok((1, state.audit.len() as u64)));
                }
                Command::Submit { .. } | Command::Read { .. } => {}
            }
        }
    }
}

impl State {
    fn carry_out(&mut self, hub: &Hub, actor: &str, op: AdminOp) -> Result<AdminReply, AdminFailure> {
        if self.broken {
            return Err(storage().into());
        }
        let action = format!("{op:?}").split([' ', '(']).next().unwrap_or_default().to_owned();
        self.ops.push((actor.to_owned(), format!("{op:?}")));
        let reply = self.reply(hub, op)?;
        let previous = self.audit.last().map_or_else(genesis, Entry::hash);
        self.audit.push(Entry {
            at: Time::from_unix_ms(self.audit.len() as u64),
            actor: actor.to_owned(),
            action,
            target: "x".into(),
            outcome: "ok".into(),
            previous,
        });
        Ok(reply)
    }

    fn reply(&self, hub: &Hub, op: AdminOp) -> Result<AdminReply, AdminError> {
        let mut directory = Directory::clone(&hub.directory());
        let absent = |what: &'static str, name: &str| AdminError::NotFound { what, name: name.to_owned() };
        let reply = match op {
            AdminOp::PeerInvite { expires, .. } => {
                AdminReply::Invited { api_key: ApiKey::generate(), nonce: "0123456789abcdef".into(), expires }
            }
            AdminOp::PeerAccept { bundle, .. } => {
                let invitation = bundle.in_reply_to.is_none();
                let answer = Answer { api_key: ApiKey::generate(), in_reply_to: bundle.nonce.clone() };
                AdminReply::Accepted { answer: invitation.then_some(answer) }
            }
            AdminOp::PeerAdd(_) => AdminReply::Added { api_key: ApiKey::generate() },
            AdminOp::PeerPause(domain) if !self.peers.iter().any(|peer| peer.domain == domain) => {
                return Err(absent("peer", domain.as_str()));
            }
            AdminOp::NetworkAdd(spec) => {
                if directory.network_by_id(spec.id.as_str()).is_some() {
                    return Err(AdminError::Conflict(format!("network `{}` exists", spec.id)));
                }
                let key = u32::try_from(directory.networks().count()).unwrap();
                directory.put_network(NetworkRecord {
                    local_domains: spec.local_domains,
                    hidden_domains: spec.hidden_domains,
                    policy: spec.policy,
                    webhook: spec.webhook,
                    ..network(key, spec.id.as_str())
                });
                AdminReply::Done
            }
            AdminOp::TokenAdd { label, token, role } => {
                directory.put_token(AdminToken { label, hash: token, role, created: Time::from_unix_ms(0) });
                AdminReply::Done
            }
            AdminOp::TokenRemove(label) => {
                directory.remove_token(&label).ok_or_else(|| absent("token", &label))?;
                AdminReply::Done
            }
            AdminOp::Administrator(op) => {
                match op.change(&directory, Time::from_unix_ms(0))? {
                    AdministratorChange::Put(record) => directory.put_administrator(record),
                    AdministratorChange::Remove(name) => drop(directory.remove_administrator(&name)),
                    AdministratorChange::Nothing => {}
                }
                AdminReply::Done
            }
            AdminOp::Settings(change) => {
                let settings = directory.settings().changed(&change)?;
                directory.set_settings(settings);
                AdminReply::Done
            }
            AdminOp::OutboxRetry(_) | AdminOp::OutboxPurge { .. } => AdminReply::Count(3),
            _ => AdminReply::Done,
        };
        hub.directory_watch().store(Arc::new(directory));
        Ok(reply)
    }

    fn overview(&self, hub: &Hub) -> Overview {
        let directory = hub.directory();
        let network = |record: &NetworkRecord| NetworkView {
            spec: NetworkSpec {
                id: record.id.clone(),
                label: record.label.clone(),
                local_domains: record.local_domains.clone(),
                hidden_domains: record.hidden_domains.clone(),
                policy: record.policy.clone(),
                webhook: record.webhook.clone(),
            },
            tokens: record.tokens.len(),
            inbox: QueueView::default(),
            receipts: QueueView::default(),
        };
        Overview {
            domain: "alpha.test".parse().unwrap(),
            at: Time::from_unix_ms(0),
            peers: self.peers.clone(),
            networks: directory.networks().map(network).collect(),
            totals: Totals::default(),
        }
    }
}

/// A peer as the hub would show it.
pub(crate) fn peer(domain: &str, next_certificate_ready: Option<bool>) -> PeerView {
    serde_json::from_value(serde_json::json!({
        "domain": domain, "label": "", "state": "active", "link": "up", "transport": "quic",
        "since": 0, "last_error": null, "next_dial": null, "trust": "pinned", "pins": [],
        "keys_issued": [], "keys_held": [], "next_certificate_ready": next_certificate_ready,
        "endpoints": [], "local_domains": [], "claimed_domains": null, "allow_private_ips": false,
        "outbox": {"depth": 0, "bytes": 0, "oldest": null}, "sent": 1, "received": 2, "refused": 0, "latency_ms": null,
        "lanes": [{"lane": 3, "depth": 0, "bytes": 0, "oldest": null, "in_flight": 0}],
        "departures": [{"outcome": "refused", "reason": "blocked", "count": 1, "last": 0}]
    }))
    .unwrap()
}

fn network(key: u32, id: &str) -> NetworkRecord {
    NetworkRecord {
        key: NetworkKey(key),
        id: id.parse().unwrap(),
        label: String::new(),
        local_domains: Vec::new(),
        hidden_domains: Vec::new(),
        tokens: Vec::new(),
        policy: trunkline_gateway_proto::policy::Policy::default(),
        webhook: None,
    }
}

fn record(entry: &Entry) -> Record {
    let head = Head { id: [0; 16], network: NetworkKey(0), expires: Time::NEVER, at: entry.at };
    Record { head, body: Bytes::from(serde_json::to_vec(entry).unwrap()) }
}

fn storage() -> HubError {
    HubError::Store(StoreError::Failed("the disk is gone".into()))
}

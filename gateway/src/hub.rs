//! The hub: the handle through which everything else talks to the one task that owns the core
//! ([`crate::driver`]).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use trunkline_gateway_proto::admin::{AdminError, AdminOp, AdminReply, Overview};
use trunkline_gateway_proto::audit::Entry;
use trunkline_gateway_proto::directory::Directory;
use trunkline_gateway_proto::store::{NetworkKey, Record};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire;

use crate::replica::{Followers, Replica, Standing};
use crate::store::StoreError;

/// A queue that a messaging server reads and acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// Envelopes for a network.
    Inbox(NetworkKey),
    /// What became of a network's envelopes.
    Receipts(NetworkKey),
}

/// Why the hub cannot answer now. Nothing was lost: ask again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HubError {
    /// Storage acknowledges nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another replica leads, at this address: it is asked for such things.
    #[error("the replica at {0} leads: this one cannot say")]
    Elsewhere(String),
    /// The process is going down.
    #[error("the gateway is stopping: try again when it is back")]
    Stopping,
}

/// Why an operator's request failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminFailure {
    /// It cannot be done as asked.
    #[error(transparent)]
    Refused(#[from] AdminError),
    /// The hub cannot answer now.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Something an operator may want to see as it happens. Names deployments, never people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// For example `link.up`, `link.down`, `peer.claim`, `alarm.watermark`, `store.failed`, `audit`.
    pub kind: &'static str,
    /// Which peer, when one is concerned.
    pub peer: Option<String>,
    /// A sentence.
    pub detail: String,
    /// Of an `audit` event: the entry's verb,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// and on what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What a caller asks of the hub.
#[derive(Debug)]
pub(crate) enum Command {
    Submit {
        network: NetworkKey,
        batch: Vec<wire::Submission>,
        reply: oneshot::Sender<Result<Vec<wire::SubmitResult>, HubError>>,
    },
    Read {
        queue: Queue,
        after: Option<u64>,
        max: usize,
        wait: Duration,
        reply: oneshot::Sender<Result<Vec<(u64, Record)>, HubError>>,
    },
    Ack {
        queue: Queue,
        up_to: u64,
        reply: oneshot::Sender<Result<(), HubError>>,
    },
    Admin {
        actor: String,
        op: AdminOp,
        reply: oneshot::Sender<Result<AdminReply, AdminFailure>>,
    },
    Audit {
        after: Option<u64>,
        max: usize,
        reply: oneshot::Sender<Result<Vec<(u64, Record)>, HubError>>,
    },
    AuditRange {
        reply: oneshot::Sender<Result<(u64, u64), HubError>>,
    },
    Overview {
        reply: oneshot::Sender<Result<Overview, HubError>>,
    },
    Pulse {
        reply: oneshot::Sender<Result<Overview, HubError>>,
    },
}

/// A handle on the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    commands: mpsc::Sender<Command>,
    directory: Arc<ArcSwap<Directory>>,
    version: watch::Receiver<u64>,
    standing: watch::Receiver<(Standing, Time)>,
    followers: Followers,
    events: broadcast::Sender<Event>,
}

/// The directory's versions from now on, for as long as this replica stands as it does.
#[derive(Debug)]
pub(crate) struct Changes {
    version: watch::Receiver<u64>,
    standing: watch::Receiver<(Standing, Time)>,
}

impl Changes {
    /// Waits for the next one; `false` when there will be none.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            changed = self.version.changed() => changed.is_ok(),
            _ = self.standing.changed() => false,
        }
    }
}

impl Event {
    /// What is told of an audit entry.
    pub(crate) fn audited(entry: Entry) -> Self {
        let Entry { at, actor, action, target, outcome, .. } = entry;
        let of_peer = ["peer.", "outbox.", "inbox."].iter().any(|area| action.starts_with(area));
        // A purge of all queues names no peer.
        let peer = (of_peer && target.contains('.')).then(|| target.clone());
        let detail = format!("{actor} {action} {target}: {outcome}");
        Self { at_ms: at.unix_ms(), kind: "audit", peer, detail, action: Some(action), target: Some(target) }
    }
}

impl Hub {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        directory: Arc<ArcSwap<Directory>>,
        version: watch::Receiver<u64>,
        standing: watch::Receiver<(Standing, Time)>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let followers = Followers::default();
        Self { commands, directory, version, standing, followers, events }
    }

    /// A handle whose commands a test answers.
    #[cfg(test)]
    pub(crate) fn for_test(directory: Directory) -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(64);
        let (events, _) = broadcast::channel(64);
        let standing = watch::channel((Standing::Leading, Time::default())).1;
        let directory = Arc::new(ArcSwap::from_pointee(directory));
        (Self::new(commands, directory, watch::channel(1).1, standing, events), received)
    }

    /// Who is who, as of the last commit.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// What this process does at the moment.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().0.clone()
    }

    /// Who follows this replica.
    pub(crate) fn followers(&self) -> &Followers {
        &self.followers
    }

    /// The replicas that are known where one leads: itself, which the others reach at `own`, and who follows it.
    #[must_use]
    pub fn replicas(&self, own: &str) -> Vec<Replica> {
        let (standing, since) = self.standing.borrow().clone();
        let version = Some(env!("CARGO_PKG_VERSION").to_owned());
        let this = Replica { address: Some(own.to_owned()), version, leads: true, since };
        let this = matches!(standing, Standing::Leading).then_some(this);
        this.into_iter().chain(self.followers.list()).collect()
    }

    /// Whether the directory says who is who. One of several replicas starts without it: nobody is to be refused then
    /// whom it does not know yet.
    ///
    /// # Errors
    /// When it does not yet.
    pub(crate) fn knows(&self) -> Result<(), HubError> {
        if self.directory_version() == 0 {
            let what =
                "store, which another replica may have open: this one does not know yet who may come in";
            return Err(StoreError::Unavailable(what.to_owned()).into());
        }
        Ok(())
    }

    /// What this process does as it changes, and since when.
    #[must_use]
    pub fn standing_watch(&self) -> watch::Receiver<(Standing, Time)> {
        self.standing.clone()
    }

    /// Counts the directory's changes, as the leader does; zero before there is one.
    pub(crate) fn directory_version(&self) -> u64 {
        *self.version.borrow()
    }

    /// The same as it changes, whoever leads.
    pub(crate) fn directory_version_watch(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    /// The directory's changes from now on.
    pub(crate) fn changes(&self) -> Changes {
        let mut changes = Changes { version: self.version.clone(), standing: self.standing.clone() };
        changes.version.mark_unchanged();
        changes.standing.mark_unchanged();
        changes
    }

    /// The directory as it changes, for what must look at it in another thread (TLS).
    #[must_use]
    pub fn directory_watch(&self) -> Arc<ArcSwap<Directory>> {
        Arc::clone(&self.directory)
    }

    /// Submits a batch for a network: one result per submission, in order. Durable when answered.
    ///
    /// # Errors
    /// When nothing can be made durable now.
    pub async fn submit(
        &self,
        network: NetworkKey,
        batch: Vec<wire::Submission>,
    ) -> Result<Vec<wire::SubmitResult>, HubError> {
        self.ask(|reply| Command::Submit { network, batch, reply }).await
    }

    /// Up to `max` records after sequence number `after` (default: after the last acknowledged one). Waits up
    /// to `wait` for the first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read(
        &self,
        queue: Queue,
        after: Option<u64>,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<(u64, Record)>, HubError> {
        self.ask(|reply| Command::Read { queue, after, max, wait, reply }).await
    }

    /// Erases a queue's records up to and including `up_to`. Durable when answered.
    ///
    /// # Errors
    /// When nothing can be made durable now.
    pub async fn ack(&self, queue: Queue, up_to: u64) -> Result<(), HubError> {
        self.ask(|reply| Command::Ack { queue, up_to, reply }).await
    }

    /// Carries out an operator's request, with an audit entry. `actor` is the token's label. Durable when
    /// answered.
    ///
    /// # Errors
    /// When it cannot be done as asked, or not now.
    pub async fn admin(&self, actor: &str, op: AdminOp) -> Result<AdminReply, AdminFailure> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Admin { actor: actor.to_owned(), op, reply };
        self.commands.send(command).await.map_err(|_| HubError::Stopping)?;
        answer.await.map_err(|_| HubError::Stopping)?
    }

    /// Audit entries after sequence number `after`; each body is an encoded [`trunkline_gateway_proto::audit::Entry`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn audit(&self, after: Option<u64>, max: usize) -> Result<Vec<(u64, Record)>, HubError> {
        self.ask(|reply| Command::Audit { after, max, reply }).await
    }

    /// The first and the last sequence number of the audit log; the last is below the first when it is empty.
    ///
    /// # Errors
    /// When storage failed, or the hub is gone.
    pub async fn audit_range(&self) -> Result<(u64, u64), HubError> {
        self.ask(|reply| Command::AuditRange { reply }).await
    }

    /// Everything there is to see.
    ///
    /// # Errors
    /// When the hub is gone.
    pub async fn overview(&self) -> Result<Overview, HubError> {
        self.ask(|reply| Command::Overview { reply }).await
    }

    /// Peers and totals: an overview without networks, whose policies may be long. For who looks every few seconds.
    ///
    /// # Errors
    /// When the hub is gone.
    pub async fn pulse(&self) -> Result<Overview, HubError> {
        self.ask(|reply| Command::Pulse { reply }).await
    }

    /// Events from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, HubError>>) -> Command,
    ) -> Result<T, HubError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| HubError::Stopping)?;
        answer.await.map_err(|_| HubError::Stopping)?
    }
}

/// Answers a command with why it is not carried out.
pub(crate) fn refuse(command: Command, error: &HubError) {
    // A caller that gave up needs no answer.
    match command {
        Command::Submit { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Read { reply, .. } | Command::Audit { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Ack { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Admin { reply, .. } => drop(reply.send(Err(error.clone().into()))),
        Command::AuditRange { reply } => drop(reply.send(Err(error.clone()))),
        Command::Overview { reply } | Command::Pulse { reply } => drop(reply.send(Err(error.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_audited_change_is_told_with_who_what_and_what_came_of_it() {
        let entry = |action: &str, target: &str| Entry {
            at: Time::from_unix_ms(5),
            actor: "root".into(),
            action: action.into(),
            target: target.into(),
            outcome: "ok".into(),
            previous: String::new(),
        };
        let told = serde_json::to_value(Event::audited(entry("peer.pause", "beta.test"))).unwrap();
        let expected = json!({
            "at_ms": 5, "kind": "audit", "peer": "beta.test", "detail": "root peer.pause beta.test: ok",
            "action": "peer.pause", "target": "beta.test",
        });
        assert_eq!(told, expected);
        for (action, target) in [("outbox.retry", "all"), ("token.add", "night.shift")] {
            assert_eq!(Event::audited(entry(action, target)).peer, None);
        }
    }
}

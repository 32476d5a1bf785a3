//! What both engines do alike: they are asked for what somebody waits for, and several commits that wait become one
//! transaction.

use tokio::sync::oneshot;
use trunkline_gateway_proto::store::{Commit, Op, Record, Stream};
use trunkline_gateway_proto::time::Time;

use super::seal::KeyScope;
use super::{StoreError, StoreFuture};

/// Commits that may share a transaction. More help when many wait, and make the first of them wait longer.
pub(super) const COALESCE_MAX: usize = 16;

/// A commit that somebody waits for.
pub(super) struct Job {
    pub(super) commit: Commit,
    pub(super) reply: Reply<()>,
}

/// A read that somebody waits for.
pub(super) struct Read {
    pub(super) stream: Stream,
    pub(super) from_seq: u64,
    pub(super) bytes_max: usize,
    pub(super) reply: Reply<Vec<(u64, Record)>>,
}

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Asks by `send`, which may fail to, and waits for the answer.
pub(super) fn ask<T: Send + 'static>(send: impl FnOnce(Reply<T>)) -> StoreFuture<T> {
    let (reply, answer) = oneshot::channel();
    send(reply);
    Box::pin(async { answer.await.unwrap_or_else(|_| Err(stopped())) })
}

/// What an operation needs a key for.
pub(super) fn scope(op: &Op) -> Option<KeyScope> {
    match op {
        Op::Append { stream, .. } => Some(KeyScope::Stream(stream.scope())),
        Op::Put { .. } => Some(KeyScope::State),
        Op::Truncate { .. } | Op::Remove { .. } | Op::Clear { .. } | Op::Delete { .. } => None,
    }
}

/// The time of a transaction.
pub(super) fn now(commits: &[Commit]) -> Time {
    commits.iter().map(|commit| commit.now).max().unwrap_or_default()
}

/// The answer of an engine whose thread is gone.
pub(super) fn stopped() -> StoreError {
    StoreError::Failed("the store's thread ended".to_owned())
}

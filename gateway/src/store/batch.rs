//! What both engines' writers do alike: several commits that wait become one transaction.

use tokio::sync::oneshot;
use trunkline_gateway_proto::store::{Commit, Op};
use trunkline_gateway_proto::time::Time;

use super::StoreError;
use super::seal::KeyScope;

/// Commits that may share a transaction. More help when many wait, and make the first of them wait longer.
pub(super) const COALESCE_MAX: usize = 16;

/// A commit that somebody waits for.
pub(super) struct Job {
    pub(super) commit: Commit,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
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

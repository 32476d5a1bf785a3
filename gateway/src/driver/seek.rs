//! How a gateway comes by its store, or by the replica that has it: at the start, and again after either was lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::info;
use trunkline_gateway_proto::recover::{RecoverError, Recovery};

use super::mode::Leading;
use super::{Clock, Options};
use crate::replica::Leader;
use crate::replica::follow::{News, Unreached};
use crate::store::{Store, StoreError, note};

/// How long a leader that refuses connections must have committed nothing to count as gone: a living one renews its
/// lease more often.
const QUIET: Duration = Duration::from_millis(1000);

/// Nothing is acknowledged, until the store can be opened or another replica leads.
pub(super) struct Seeking {
    /// Why.
    pub(super) error: StoreError,
    /// When to look again; `None` when only an operator's restart helps.
    pub(super) next: Option<Instant>,
    /// The store that failed, to be closed first.
    pub(super) failed: Option<Arc<dyn Store>>,
    /// Where the replica was that led until now.
    pub(super) followed: Option<String>,
    pub(super) attempt: Option<JoinHandle<Result<Found, StoreError>>>,
}

/// What an attempt came to.
pub(super) enum Found {
    Store(Box<Leading>),
    Leader(Leader, mpsc::Receiver<News>),
}

impl Seeking {
    /// Looks for the store, in a task of its own.
    pub(super) fn look(&mut self, options: &Arc<Options>, clock: Clock) {
        if self.attempt.is_some() || self.next.is_none_or(|next| next > Instant::now()) {
            return;
        }
        if options.has_space() {
            let (failed, followed) = (self.failed.take(), self.followed.clone());
            self.attempt = Some(tokio::spawn(find(Arc::clone(options), clock, failed, followed)));
        } else {
            self.next = options.look_again(&self.error);
        }
    }
}

/// Whether opening the store again may help: what is on the disk, or in the database, is known then.
pub(super) fn is_passing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Full { .. }
            | StoreError::Held { .. }
            | StoreError::Locked { .. }
            | StoreError::Unavailable(_)
    )
}

/// Opens the store, or finds the replica that has it.
async fn find(
    options: Arc<Options>,
    clock: Clock,
    failed: Option<Arc<dyn Store>>,
    followed: Option<String>,
) -> Result<Found, StoreError> {
    let opening = Arc::clone(&options);
    let opened = blocking(move || {
        drop(failed);
        recover(&opening, &opening.open_store, clock)
    });
    let (held, replica) = match (opened.await, &options.replica) {
        (Err(StoreError::Held { address, term, left }), Some(replica)) => ((address, term, left), replica),
        (opened, _) => return opened.map(|leading| Found::Store(Box::new(leading))),
    };
    let (address, term, left) = held;
    // One that does not renew its lease is asked no longer than that lasts.
    match Leader::find(&replica.trust, &replica.address, &address, left).await {
        Ok((leader, news)) => return Ok(Found::Leader(leader, news)),
        Err(Unreached::Other(why)) => return Err(StoreError::Unavailable(why)),
        Err(Unreached::Gone) => {}
    }
    // An address that never led anywhere may be a mistake of who set it; then the lease's end tells.
    if followed.as_ref() != Some(&address) {
        let why = "refuses connections: is it starting, or is that replica's replica.advertise wrong?";
        return Err(StoreError::Unavailable(format!("replica at {address}, which {why}")));
    }
    tokio::time::sleep(QUIET.min(left)).await;
    info!(address, "the replica that held the store is gone: taking over");
    let opening = Arc::clone(&options);
    let opened = blocking(move || match &opening.replica {
        Some(replica) => recover(&opening, || (replica.seize_store)(term), clock),
        None => Err(StoreError::Failed("no replica".to_owned())),
    });
    opened.await.map(|leading| Found::Store(Box::new(leading)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let ended = |_| StoreError::Failed("opening the store ended in a defect".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// Opens the store and makes the core from it.
pub(super) fn recover(
    options: &Options,
    open: impl FnOnce() -> Result<Arc<dyn Store>, StoreError>,
    clock: Clock,
) -> Result<Leading, StoreError> {
    let now = clock.now();
    let store = open()?;
    let mut recovery = Recovery::new(options.config.clone());
    let mut damage = Ok(());
    note::recover(&*store, &mut |found| {
        if damage.is_ok() {
            damage = recovery.add(now, found);
        }
    })?;
    let core =
        damage.map_err(RecoverError::from).and_then(|()| recovery.finish(now)).map_err(
            |error| match error {
                RecoverError::State(error) => StoreError::Corrupt(error.to_string()),
                foreign @ RecoverError::Domain { .. } => StoreError::Foreign(foreign.to_string()),
            },
        )?;
    Ok(Leading { core, store, commit: None, loads: FuturesUnordered::new() })
}

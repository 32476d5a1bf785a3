//! The certificate that replicas show peers: all of them the same.
//!
//! Until the first rotation each has it in files of its own, which are copies. A rotation puts the pairs into the store, and
//! with the directory they come to every replica. In CA mode the files count.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{error, warn};

use super::Standing;
use crate::hub::Hub;
use crate::identity::{Identity, IdentityError};
use crate::metrics;

/// Uses the pairs that the store has, when it has some. While that is not known peers are shown nothing: an old
/// certificate may be one that they revoked, and they would be told that somebody is in between.
pub(crate) fn settle(hub: &Hub, identity: &Identity) -> Result<(), IdentityError> {
    match hub.knows() {
        Ok(()) => identity.settle(|| hub.directory().identity().cloned()),
        Err(_) => {
            identity.withhold();
            Ok(())
        }
    }
}

/// The same whenever the directory changes.
pub(crate) async fn follow(hub: Hub, identity: Arc<Identity>, mut stop: watch::Receiver<bool>) {
    let mut versions = hub.directory_version_watch();
    loop {
        if let Err(error) = settle(&hub, &identity) {
            error!(%error, "the store's key and certificate are of no use: what was shown to peers until now stays");
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Says so when this replica shows peers another certificate than the one that leads: peers that were told of one key
/// refuse the other. Once the store has the pairs, none does.
pub(crate) async fn compare(hub: Hub, identity: Arc<Identity>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(metrics::UPKEEP_EVERY);
    let mut said = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Standing::Following(leader) = hub.standing() else { continue };
        if identity.is_kept() {
            continue;
        }
        let (ours, theirs) = (identity.current().pin().to_string(), leader.pin().await);
        let differs = theirs.filter(|theirs| *theirs != ours).map(|theirs| (ours, theirs));
        if let Some((ours, theirs)) = differs.as_ref().filter(|_| differs != said) {
            warn!(
                ours,
                theirs,
                leader = leader.address(),
                "this replica shows peers another certificate than the one that leads: copy the files that [identity] \
                 names from there"
            );
        }
        said = differs;
    }
}

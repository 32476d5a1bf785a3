//! What the driver is made with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_gateway_proto::core::Config;
use trunkline_gateway_proto::wire;

use super::SPACE_CHECK;
use super::seek::is_passing;
use crate::replica::Trust;
use crate::store::{Store, StoreError, Term};

/// When peers are asked to come back after storage failed. Sooner finds a freed disk sooner, and asks more often.
const STORAGE_RETRY_MS: u64 = 5000;

/// How often a replica without a leader looks for one, or becomes it. Oftener lets lanes go on sooner, and asks the
/// database more often while there is none.
const SEEK_EVERY: Duration = Duration::from_millis(200);

/// When peers are asked to come back while there is no leader.
const LEADER_RETRY_MS: u64 = 300;

/// Opens the store: at the start, and again after the disk was full or the database away.
pub type OpenStore = Box<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Opens the store although a replica holds it, which has come so far and no further: that one is gone.
pub type SeizeStore = Box<dyn Fn(Term) -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// What makes a gateway one of several.
pub struct Membership {
    /// Whom it takes for another replica.
    pub trust: Trust,
    /// Where the others ask this one.
    pub address: String,
    /// Opens the store when the one that held it is gone.
    pub seize_store: SeizeStore,
}

/// Bytes that the store may still take; `None` when that is not known, which holds nothing back.
pub type FreeBytes = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// What the driver is made with.
pub struct Options {
    /// For the core.
    pub config: Config,
    /// Opens the store.
    pub open_store: OpenStore,
    /// Looks at the room that is left for the store.
    pub free_bytes: FreeBytes,
    /// Free space that is left to others.
    pub disk_reserve_bytes: u64,
    /// Other replicas, when there may be any.
    pub replica: Option<Membership>,
}

impl Options {
    /// What peers hear while nothing can be stored.
    pub(super) fn storage_failed(&self) -> wire::Goaway {
        let alone = self.replica.is_none();
        wire::Goaway {
            reason: wire::Reason::Storage.into(),
            retry_after_ms: if alone { STORAGE_RETRY_MS } else { LEADER_RETRY_MS },
            detail: "storage failed on this side".to_owned(),
        }
    }

    pub(super) fn has_space(&self) -> bool {
        (self.free_bytes)().is_none_or(|free| free >= self.disk_reserve_bytes)
    }

    /// When to look for the store again; `None` when it would be in vain.
    pub(super) fn look_again(&self, error: &StoreError) -> Option<Instant> {
        let pause = if self.replica.is_some() { SEEK_EVERY } else { SPACE_CHECK };
        is_passing(error).then(|| Instant::now() + pause)
    }
}

//! Replicas: gateways of one deployment on one database.
//!
//! One of them at a time **leads**: it holds the lease on the store, and its driver owns the core. The others
//! **follow**: they accept connections of peers and requests of messaging servers as the leader does, and hand what
//! comes in to the leader; requests of operators they pass on as they are. A replica without a leader **seeks** one:
//! it opens the store when nobody holds it, or finds out whom to ask. Why it is so, is told in
//! docs/decisions/0023-replicas.md.
//!
//! # Layout
//! - [`trust`]: who is a replica of this deployment
//! - `wire`: what followers ask of the leader
//! - `lead`: the leader's side
//! - `follow`: the followers' side
//! - `followers`: who follows, and how they tell
//! - `relay`: a peer's link that came in at a follower, between the two
//! - `pass`: operators' requests, passed on
//! - `certificate`: the one that all of them show peers

use std::time::Duration;

use http::HeaderName;
use trunkline_http::serve::KeepAlive;

pub(crate) mod certificate;
pub(crate) mod follow;
mod followers;
pub(crate) mod lead;
pub(crate) mod pass;
mod relay;
pub mod trust;
mod wire;

pub use follow::Leader;
pub(crate) use followers::Followers;
pub use followers::Replica;
pub(crate) use relay::Relay;
pub use trust::Trust;

/// How leader and followers find out that the other's machine or the network in between is gone: well below a lease,
/// so that a leader's followers are free when its lease runs out, and the peers that were linked to a lost follower are
/// dialled before they notice.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { every: Duration::from_millis(500), within: Duration::from_millis(1500) };

/// Where replicas ask each other what operators and peers do not.
const PREFIX: &str = "/replica/1/";

/// The caller's address, of a request that a follower passed on.
const CALLER: HeaderName = HeaderName::from_static("trunkline-caller");

/// The version of the directory after a request that was passed on: whoever asked finds what it changed at the replica
/// it asked.
const DIRECTORY_VERSION: HeaderName = HeaderName::from_static("trunkline-directory-version");

/// What a gateway does at the moment. One without replicas leads, or seeks.
#[derive(Clone, Debug)]
pub enum Standing {
    /// The store is open here.
    Leading,
    /// Another replica has it open.
    Following(Leader),
    /// Neither: nothing can be acknowledged.
    Seeking,
}

impl Standing {
    /// As metrics and the API name it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Following(_) => "following",
            Self::Seeking => "seeking",
        }
    }
}

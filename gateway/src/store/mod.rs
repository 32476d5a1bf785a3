//! Durable storage, behind one trait: what the core asked for ([`trunkline_gateway_proto::store`]) is carried
//! out by an engine.
//!
//! # Layout
//! - [`redb`]: the embedded engine, opened and answered by [`redb::RedbStore`]
//! - `writer`, `reader`: its one writer thread and its reader threads
//! - [`postgres`]: the engine on a PostgreSQL server, opened and answered by [`postgres::PostgresStore`]
//! - `batch`: commits that wait become one transaction
//! - `index`: which blocks there are, so that removing them needs no search
//! - `block`: how blocks and state entries are laid out and sealed
//! - `seal`: the data keys, a new one at least every hour, destroyed once nothing needs them
//! - `keyfile`: the file they rest in, wrapped, overwritten in place
//! - `fault`: from what the disk reports to [`StoreError`]
//! - [`inspect`]: a look at a store that changes nothing
//! - [`migrate`]: from one store into another, whatever their engines
//! - [`note`]: what a store says of its own move
//! - [`space`]: how much room is left

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use thiserror::Error;
use trunkline_gateway_proto::store::{Commit, Record, Recovered, Stream};

mod batch;
mod block;
mod fault;
mod index;
pub mod inspect;
mod keyfile;
pub mod migrate;
pub mod note;
pub mod postgres;
mod reader;
pub mod redb;
mod seal;
pub mod space;
mod writer;

pub(crate) use fault::STORE_FILE;

/// An answer that a store gives later.
pub type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// A storage engine. Commits are carried out in the order of the calls; only the caller batches.
pub trait Store: Send + Sync + 'static {
    /// Carries out one transaction. Answers when all of it is on the disk, synced.
    fn commit(&self, commit: Commit) -> StoreFuture<()>;

    /// Records of a stream in order, from the first at or above `from_seq`, until `bytes_max` bytes of bodies
    /// are exceeded; at least one when there is any. Sees every commit that was answered before the call.
    fn read(&self, stream: Stream, from_seq: u64, bytes_max: usize) -> StoreFuture<Vec<(u64, Record)>>;

    /// Everything that a restart needs: all state, then all blocks with their heads. Called outside the async
    /// runtime, while no commit is under way.
    ///
    /// # Errors
    /// When the store cannot be read or does not decrypt.
    fn recover(&self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError>;

    /// Which store this is: 16 random bytes from when it was made, and never another's.
    fn id(&self) -> [u8; 16];

    /// Why the store stopped answering, when it found out by itself: the next commit and read would say the same.
    fn failed(&self) -> Option<StoreError> {
        None
    }
}

/// How far whoever holds a store has come: one that lives renews it all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The token of the lease.
    pub token: i64,
    /// Transactions under it.
    pub commits: i64,
}

/// What can go wrong with storage: always local, and nothing is acknowledged afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// No space left. The store can be opened again once there is.
    #[error(
        "the disk is full: free space under {path}; a gateway that runs goes on by itself then, and nothing \
         acknowledged is lost"
    )]
    Full {
        /// The store's directory.
        path: String,
    },
    /// The database cannot be reached, or takes no writes. The store can be opened again once it does.
    #[error(
        "no use can be made of the {0}; a gateway that runs tries again by itself, and nothing acknowledged is lost"
    )]
    Unavailable(String),
    /// A write or sync failed: what the disk holds is unknown until a restart reads it back.
    #[error("storage failed and acknowledges nothing any more: {0}; check the disk, then restart")]
    Failed(String),
    /// The store, or its keys, do not read as what was written.
    #[error(
        "the store is damaged: {0}; restore all of it from one backup (gateway.redb with gateway.keys, or the \
         database), or move it away to start empty"
    )]
    Corrupt(String),
    /// It is another deployment's.
    #[error("{0}")]
    Foreign(String),
    /// It was moved away, or a move into it is not finished.
    #[error("{0}")]
    Moved(String),
    /// The deployment key is not the one that wrapped the store's keys.
    #[error("the deployment key does not open {path}: configure the key that this store was made with")]
    WrongKey {
        /// The file of wrapped keys.
        path: String,
    },
    /// Another replica of this deployment holds it, and is asked instead.
    #[error("the replica at {address} holds the store")]
    Held {
        /// Where that one is.
        address: String,
        /// How far it has come.
        term: Term,
        /// How long it holds it without renewing that.
        left: Duration,
    },
    /// Another process has it open.
    #[error("{path} is in use by another trunkline-gateway: stop that one first")]
    Locked {
        /// The store's file.
        path: String,
    },
}

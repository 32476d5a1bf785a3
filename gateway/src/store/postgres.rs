//! The engine on a PostgreSQL server, 15 or newer, with everything sealed. What is built how, and why, is told in
//! docs/decisions/0022-postgresql.md.
//!
//! # Layout
//! - `schema`: the tables
//! - `session`: a connection with its statements, and what its failures mean
//! - `lease`: who may write, and the proof of it in every transaction
//! - `writer`, `changes`: from what was asked to the rows of a transaction, carried out until its outcome is known
//! - `ledger`: which parts the blocks lie in, and when one is dropped
//! - `tidy`: room that is needed no more is given back
//! - `slots`: the rows that the data keys rest in
//! - `reader`: blocks and state
//! - [`look`]: a look that changes nothing

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc as tokio_mpsc;
use tokio::time::Instant;
use trunkline_common::token;
use trunkline_gateway_proto::store::{Commit, Record, Recovered, Stream};
use trunkline_postgres::Access;
use trunkline_postgres::access::ANSWER_MAX;
use zeroize::Zeroizing;

use super::batch::{self, stopped};
use super::keyfile::StoreId;
use super::{Store, StoreError, StoreFuture, Term};

mod changes;
mod lease;
mod ledger;
pub mod look;
mod reader;
mod schema;
mod session;
mod slots;
mod tidy;
mod writer;

pub use lease::LEASE;

/// How long a commit is tried again before the store stops answering. Longer rides over longer failovers unnoticed, and
/// lets callers wait for an answer meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Things that were found and not taken yet, while a store is read as a whole.
const FOUND_MAX: usize = 256;

/// What a store is opened with. Clones are one gateway: they take the lease from each other.
#[derive(Clone)]
pub struct Options {
    place: Arc<Place>,
}

/// Where the store is, and how to get in.
#[derive(Clone)]
struct Place {
    /// What operators call it, in errors.
    name: String,
    access: Access,
    /// Where the password comes from, for when the server does not take it.
    password_file: Option<PathBuf>,
    deployment_key: Zeroizing<[u8; 32]>,
    /// Tells this process from others.
    holder: [u8; 16],
    /// Where other replicas ask this one, when there may be others.
    address: Option<String>,
    lease: Duration,
    patience: Duration,
    /// How long one answer of the server is waited for.
    answer: Duration,
}

impl Options {
    /// With defaults.
    #[must_use]
    pub fn new(access: Access, deployment_key: Zeroizing<[u8; 32]>) -> Self {
        let name = access.name();
        let holder = token::random();
        let place = Place {
            name,
            access,
            password_file: None,
            deployment_key,
            holder,
            address: None,
            lease: LEASE,
            patience: PATIENCE,
            answer: ANSWER_MAX,
        };
        Self { place: Arc::new(place) }
    }

    /// Names the file that the password of `access` was read from.
    #[must_use]
    pub(crate) fn with_password_file(self, password_file: Option<PathBuf>) -> Self {
        Self { place: Arc::new(Place { password_file, ..(*self.place).clone() }) }
    }

    /// What wraps the store's keys.
    pub(crate) fn deployment_key(&self) -> &[u8; 32] {
        &self.place.deployment_key
    }

    /// For one of several replicas, which the others ask at `address` while it holds the store.
    #[must_use]
    pub fn among_replicas(self, address: String) -> Self {
        // Who cannot reach the database for the time of a lease has lost it by then.
        let (lease, patience, answer) = (LEASE, LEASE, LEASE);
        Self {
            place: Arc::new(Place {
                address: Some(address),
                lease,
                patience,
                answer,
                ..(*self.place).clone()
            }),
        }
    }

    /// What operators call the database.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// With other times than [`LEASE`] and [`PATIENCE`], for tests.
    #[must_use]
    pub fn timed(self, lease: Duration, patience: Duration) -> Self {
        let place = Place { lease, patience, ..(*self.place).clone() };
        Self { place: Arc::new(place) }
    }
}

/// The engine. Dropping the last handle carries out what was asked, and gives the lease back.
pub struct PostgresStore {
    commits: Option<tokio_mpsc::UnboundedSender<batch::Job>>,
    reads: tokio_mpsc::UnboundedSender<reader::Job>,
    id: StoreId,
    failed: Failed,
    /// Of one of several replicas.
    held_until: Option<HeldUntil>,
    thread: Option<JoinHandle<()>>,
}

/// Until when the lease is ours without being renewed, by this process's clock, which goes on while the process is
/// stopped.
#[derive(Clone, Debug, Default)]
struct HeldUntil(Arc<Mutex<Option<Instant>>>);

impl HeldUntil {
    fn set(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until < Instant::now())
    }
}

/// Set by the first failure, and the answer to everything from then on.
type Failed = Arc<OnceLock<StoreError>>;

impl PostgresStore {
    /// Opens the store in a database, or makes one. Blocks: its lease is waited for, its blocks' headers are read.
    ///
    /// # Errors
    /// When the database cannot be used, another gateway uses it, it is damaged, or the deployment key is not its own.
    pub fn open(options: &Options) -> Result<Arc<Self>, StoreError> {
        Self::open_or_seize(options, None)
    }

    /// The same, and takes the store from whoever had come as far as `seized`: for who knows that this one is gone. One
    /// that lives after all loses nothing: it cannot commit any more, and knows.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_or_seize(options: &Options, seized: Option<Term>) -> Result<Arc<Self>, StoreError> {
        let place = Arc::clone(&options.place);
        let (commits, jobs) = tokio_mpsc::unbounded_channel();
        let (reads, read_jobs) = tokio_mpsc::unbounded_channel();
        let (opened, open) = mpsc::channel();
        let failed = Failed::default();
        let its_failed = Arc::clone(&failed);
        let held_until = HeldUntil::default();
        let its_held_until = held_until.clone();
        let held_until = place.address.is_some().then_some(held_until);
        let failure = |what: &str, error: &std::io::Error| StoreError::Failed(format!("{what}: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failure("starting the store's runtime", &error))?;
        let serve = async move {
            match writer::open(place, seized, its_failed, its_held_until).await {
                Ok((writer, reader)) => {
                    opened.send(Ok(writer.store())).ok();
                    tokio::spawn(reader.run(read_jobs));
                    writer.run(jobs).await;
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("store-postgres".to_owned());
        let thread = thread.spawn(move || runtime.block_on(serve));
        let thread = thread.map_err(|error| failure("starting the store's thread", &error))?;
        let mut store = Self {
            commits: Some(commits),
            reads,
            id: StoreId::default(),
            failed,
            held_until,
            thread: Some(thread),
        };
        store.id = open.recv().map_err(|_| stopped())??;
        Ok(Arc::new(store))
    }

    /// Has the reader go through everything.
    fn walk<T>(
        &self,
        job: impl FnOnce(tokio_mpsc::Sender<Result<T, StoreError>>) -> reader::Job,
        visit: &mut dyn FnMut(T),
    ) -> Result<(), StoreError> {
        let (found, mut finds) = tokio_mpsc::channel(FOUND_MAX);
        self.reads.send(job(found)).map_err(|_| stopped())?;
        while let Some(found) = finds.blocking_recv() {
            visit(found?);
        }
        Ok(())
    }
}

impl Store for PostgresStore {
    fn commit(&self, commit: Commit) -> StoreFuture<()> {
        batch::ask(|reply| {
            if let Some(commits) = &self.commits {
                commits.send(batch::Job { commit, reply }).ok();
            }
        })
    }

    fn read(&self, stream: Stream, from_seq: u64, bytes_max: usize) -> StoreFuture<Vec<(u64, Record)>> {
        batch::ask(|reply| {
            let read = batch::Read { stream, from_seq, bytes_max, reply };
            self.reads.send(reader::Job::Read(read)).ok();
        })
    }

    fn recover(&self, visit: &mut dyn FnMut(Recovered)) -> Result<(), StoreError> {
        self.walk(reader::Job::Recover, visit)
    }

    fn id(&self) -> StoreId {
        self.id
    }

    fn failed(&self) -> Option<StoreError> {
        let over = || {
            let what = "lease of the store, which ran out before the database confirmed it";
            let over = self.held_until.as_ref().is_some_and(HeldUntil::is_over);
            over.then(|| StoreError::Unavailable(what.to_owned()))
        };
        self.failed.get().cloned().or_else(over)
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // The thread ends when there is nobody left to ask it.
        self.commits = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

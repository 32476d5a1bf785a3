//! Writing: one task carries out all commits, in order, each transaction until its outcome is known.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info, warn};
use trunkline_common::token;
use trunkline_gateway_proto::store::{Commit, Op, Record, Stream};
use trunkline_gateway_proto::time::Time;
use trunkline_postgres::client::Client;
use trunkline_postgres::schema::migrate;

use super::super::batch::{COALESCE_MAX, Job, now, scope};
use super::super::block::{self, BlockNumber, Damaged, HEADER_LEN, Header, Sealer, encode_stream};
use super::super::fault::Faults;
use super::super::index::SharedIndex;
use super::super::keyfile::{Found, KeyFile, StoreId};
use super::super::seal::KeyRing;
use super::super::{StoreError, Term};
use super::changes::{Changes, Row, signed};
use super::lease::{Lease, Outcome};
use super::ledger::Ledger;
use super::reader::Reader;
use super::session::{LIVE, Session, Trouble, warn_of_settings};
use super::slots::Slots;
use super::tidy::{Merged, Merging, drop_parts};
use super::{Failed, HeldUntil, Place, schema};

/// The first wait before a transaction is tried again, doubled each time. Shorter finds a server that is back sooner.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// The longest of these waits.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Renewals that fit into a lease. More keep it over more of them that come late, and each is a transaction.
const RENEWALS: u32 = 4;

/// Headers taken in at once while the store is opened, before the lease is looked after again.
const STOCK_AT_ONCE: usize = 1024;

/// When room is tried to be given back again, after somebody read the blocks for long. Sooner gives it back sooner, and
/// keeps commits waiting for a fifth of a second each time.
const TIDY_AGAIN: Duration = Duration::from_secs(30);

/// Parts dropped in one transaction: each takes some of the server's table of locks.
const DROPPED_AT_ONCE: usize = 64;

/// What giving the lease back may take at the end. Without it, the next gateway waits until it runs out.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// Longest wait for a commit while nothing else is to be done. It only bounds what the clock calls get.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the writer task owns.
pub(super) struct Writer {
    place: Arc<Place>,
    /// The connection, while there is one that is known to work.
    session: Option<Session>,
    lease: Lease,
    /// When the lease has to be renewed.
    renew_at: Instant,
    ring: KeyRing,
    slots: Slots,
    index: SharedIndex,
    ledger: Ledger,
    /// Partitions that are being made one.
    merging: Option<Merging>,
    merged: Option<Merged>,
    /// When room is given back at the earliest.
    tidy_at: Instant,
    /// Sealed rows are made here.
    buffer: Vec<u8>,
    failed: Failed,
    /// Told how long the lease lasts, by our own clock.
    held_until: HeldUntil,
}

/// Opens the store: takes the lease, learns what there is, and seals the state anew.
pub(super) async fn open(
    place: Arc<Place>,
    seized: Option<Term>,
    failed: Failed,
    held_until: HeldUntil,
) -> Result<(Writer, Reader), StoreError> {
    let opened = open_store(Arc::clone(&place), seized, failed, held_until).await;
    opened.map_err(|trouble| trouble.settle(&place))
}

async fn open_store(
    place: Arc<Place>,
    seized: Option<Term>,
    failed: Failed,
    held_until: HeldUntil,
) -> Result<(Writer, Reader), Trouble> {
    let client = place.connect().await?;
    migrate(&client, schema::PART, schema::STEPS).await?;
    check_key(&client, &place).await?;
    let lease = Lease::take(&client, &place, seized).await?;
    warn_of_settings(&client).await?;
    drop(client);
    let session = Session::open(&place).await?;

    let rows = "SELECT slot, content FROM key_slots WHERE lease = $1";
    let rows = session.client.query(rows, &[&lease.lease]).await?;
    let rows = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let rows = rows.collect::<Result<Vec<(i32, Vec<u8>)>, trunkline_postgres::client::Error>>()?;
    let slots = Slots::restore(rows).ok_or_else(|| corrupt(&place, "its key slots are no key slots"))?;
    let faults = Faults::new(Path::new(&place.name));
    let opened = KeyFile::open(Box::new(slots.clone()), &place.deployment_key, &faults);
    let (mut keyfile, found) = opened.map_err(|error| match error {
        StoreError::WrongKey { .. } => Trouble::Final(StoreError::WrongKey { path: place.name.clone() }),
        error => Trouble::Final(error),
    })?;
    let keys = match found {
        Found::Keys(_, keys) => keys,
        Found::Blank => {
            let blank = "SELECT count(*) = 0 FROM (SELECT key FROM state UNION ALL SELECT stream FROM cursors) AS any_row";
            if lease.block > 0 || !session.client.query_one(blank, &[]).await?.try_get::<_, bool>(0)? {
                return Err(corrupt(&place, "its data keys are missing, while its blocks are not"));
            }
            info!(database = place.name, "made a new store");
            keyfile.create(token::random()).map_err(Trouble::Final)?;
            Vec::new()
        }
    };
    let ring = KeyRing::new(keyfile, keys);
    let index = SharedIndex::default();
    let reader = Reader::new(Arc::clone(&place), lease, ring.keys(), index.clone(), Arc::clone(&failed));
    let mut writer = Writer {
        renew_at: Instant::now() + place.lease / RENEWALS,
        place,
        session: Some(session),
        lease,
        ring,
        slots,
        index,
        ledger: Ledger::default(),
        merging: None,
        merged: None,
        tidy_at: Instant::now(),
        buffer: Vec::new(),
        failed,
        held_until,
    };
    writer.take_stock(&reader).await?;
    Ok((writer, reader))
}

/// Whether the deployment key is the store's own, before the lease is taken: it would be kept from those whose is.
async fn check_key(client: &Client, place: &Place) -> Result<(), Trouble> {
    let header = client.query_opt("SELECT content FROM key_slots WHERE slot = 0 LIMIT 1", &[]).await?;
    let Some(header) = header else { return Ok(()) };
    let Some(slots) = Slots::restore([(0, header.try_get(0)?)]) else { return Ok(()) };
    let faults = Faults::new(Path::new(&place.name));
    match KeyFile::open(Box::new(slots), &place.deployment_key, &faults) {
        Err(StoreError::WrongKey { .. }) => {
            Err(Trouble::Final(StoreError::WrongKey { path: place.name.clone() }))
        }
        // What else may be wrong, is seen when all of it is read.
        _ => Ok(()),
    }
}

fn corrupt(place: &Place, what: &str) -> Trouble {
    Trouble::Final(StoreError::Corrupt(format!("{}: {what}", place.name)))
}

impl Writer {
    /// Which store this is.
    pub(super) fn store(&self) -> StoreId {
        self.ring.store()
    }

    /// Serves until every sender is gone, then gives the lease back.
    pub(super) async fn run(mut self, mut jobs: UnboundedReceiver<Job>) {
        let mut commits = Vec::with_capacity(COALESCE_MAX);
        let mut replies = Vec::with_capacity(COALESCE_MAX);
        let mut last = (Instant::now(), Time::default());
        loop {
            let job = match timeout(self.patience(last.1), jobs.recv()).await {
                Ok(Some(job)) => job,
                Ok(None) => break,
                // Nobody has come for so long that the lease is to be renewed, or a key's hour is over.
                Err(_) => {
                    last = (Instant::now(), last.1 + last.0.elapsed());
                    self.sweep(last.1);
                    if self.renew_at <= Instant::now() || self.slots.changed() {
                        // An error is kept for whoever comes next.
                        self.transact(&[], last.1, true).await.ok();
                    }
                    self.tidy().await;
                    continue;
                }
            };
            let mut next = Some(job);
            while let Some(job) = next {
                commits.push(job.commit);
                replies.push(job.reply);
                next = if commits.len() < COALESCE_MAX { jobs.try_recv().ok() } else { None };
            }
            let answer = self.transact(&commits, now(&commits), false).await;
            for reply in replies.drain(..) {
                reply.send(answer.clone()).ok();
            }
            last = (Instant::now(), now(&commits));
            self.sweep(last.1);
            self.tidy().await;
            commits.clear();
        }
        if let Some(session) = &self.session {
            // In vain where the connection is gone: then the lease runs out.
            timeout(RELEASE_MAX, self.lease.release(&session.client)).await.ok();
        }
    }

    /// How long to wait for a commit before looking after the lease and the keys.
    fn patience(&self, now: Time) -> Duration {
        if self.failed.get().is_some() {
            return PATIENCE_MAX;
        }
        if self.slots.changed() {
            return Duration::ZERO;
        }
        let renewal = self.renew_at.saturating_duration_since(Instant::now());
        self.ring.retires_in(now).min(renewal)
    }

    /// Carries out commits as one transaction; with `always`, also when that changes nothing.
    async fn transact(&mut self, commits: &[Commit], now: Time, always: bool) -> Result<(), StoreError> {
        if let Some(failed) = self.failed.get() {
            return Err(failed.clone());
        }
        let done = self.try_transact(commits, now, always).await;
        if let Err(cause) = &done {
            self.fail(cause.clone());
        }
        done
    }

    async fn try_transact(&mut self, commits: &[Commit], now: Time, always: bool) -> Result<(), StoreError> {
        let idle = commits.iter().all(|commit| commit.ops.is_empty()) && !self.slots.changed();
        if idle && !always {
            return Ok(());
        }
        let changes = self.gather(commits, now)?;
        let place = Arc::clone(&self.place);
        self.carry_through(&changes).await.map_err(|trouble| trouble.settle(&place))?;
        self.index.lock().commit();
        Ok(())
    }

    /// Destroys data keys that are without use at `now`: their rows go with the next transaction.
    fn sweep(&mut self, now: Time) {
        if self.failed.get().is_none()
            && let Err(cause) = self.ring.sweep(now)
        {
            self.fail(cause);
        }
    }

    /// Gives back the room of parts that nothing needs any more, or that hold little.
    async fn tidy(&mut self) {
        if self.failed.get().is_some() || self.tidy_at > Instant::now() {
            return;
        }
        if let Some(merging) = self.merging.take_if(|merging| merging.is_over()) {
            self.merged = merging.end();
            if self.merged.is_none() {
                self.ledger.end_merge(false);
            }
        }
        let mut empty = self.ledger.empty();
        empty.truncate(DROPPED_AT_ONCE);
        let tidy = match &self.merged {
            Some(merged) => merged.statements(),
            None if empty.is_empty() => return,
            None => drop_parts(&empty),
        };
        let changes = Changes { last_block: self.index.lock().last(), tidy, ..Changes::default() };
        match self.carry_through(&changes).await {
            Ok(()) if self.merged.take().is_some() => {
                self.ledger.end_merge(true);
                self.begin_merge();
            }
            Ok(()) => self.ledger.drop_parts(&empty),
            Err(Trouble::Busy) => self.tidy_at = Instant::now() + TIDY_AGAIN,
            Err(trouble) => self.fail(trouble.settle(&self.place)),
        }
    }

    /// Begins to make parts one, when that is worth it.
    fn begin_merge(&mut self) {
        if let Some(parts) = self.ledger.begin_merge() {
            self.merging = Some(Merging::begin(Arc::clone(&self.place), self.lease.token(), parts));
        }
    }

    /// Nothing is acknowledged from now on.
    fn fail(&self, cause: StoreError) {
        error!(%cause, "the store stops acknowledging");
        self.failed.set(cause).ok();
    }

    // ------------------------------------------------------------ the database

    /// Tries until the outcome is known: carried out, exactly once, or given up with nothing said.
    async fn carry_through(&mut self, changes: &Changes) -> Result<(), Trouble> {
        let started = Instant::now();
        let mut wait = RETRY_MIN;
        loop {
            let tried = timeout(self.place.answer, self.attempt(changes)).await;
            match tried.unwrap_or_else(|_| Err(Trouble::Passing("it does not answer".to_owned()))) {
                Ok(()) => break,
                Err(Trouble::Passing(why)) => {
                    self.session = None;
                    warn!(why, "the database did not answer a commit: looking again what became of it");
                    if started.elapsed() + wait > self.place.patience {
                        return Err(Trouble::Passing(why));
                    }
                    sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
                Err(Trouble::Busy) => return Err(Trouble::Busy),
                Err(trouble) => {
                    self.session = None;
                    return Err(trouble);
                }
            }
        }
        self.lease.committed(signed(changes.last_block));
        self.renew_at = Instant::now() + self.place.lease / RENEWALS;
        // The server's clock started later.
        self.held_until.set(started + self.place.lease);
        Ok(())
    }

    async fn attempt(&mut self, changes: &Changes) -> Result<(), Trouble> {
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                let session = none.insert(Session::open(&self.place).await?);
                if self.lease.resolve(&session.client).await? == Outcome::Committed {
                    return Ok(());
                }
                session
            }
        };
        let block = signed(changes.last_block);
        let client = &session.client;
        // One round trip: what fails makes all after it fail, and of COMMIT a ROLLBACK.
        let (begun, fenced, written, committed) = tokio::join!(
            biased;
            client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
            self.lease.fence(session, block, self.place.lease),
            changes.write(session, self.lease),
            client.batch_execute("COMMIT"),
        );
        begun?;
        fenced?;
        written?;
        Ok(committed?)
    }

    /// Awaits what may take longer than a lease lasts, and renews the lease meanwhile.
    async fn meanwhile<T>(&mut self, long: impl Future<Output = T>) -> Result<T, Trouble> {
        pin_mut!(long);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.renew_at) => {
                    let last_block = unsigned(self.lease.block);
                    self.carry_through(&Changes { last_block, ..Changes::default() }).await?;
                }
                done = &mut long => return Ok(done),
            }
        }
    }

    /// Learns which blocks there are and which keys they need, seals the state anew, and destroys other keys.
    async fn take_stock(&mut self, reader: &Reader) -> Result<(), Trouble> {
        // On a connection of its own: the writer's renews the lease.
        let client = self.place.connect_to_read_all().await?;
        let parts =
            "SELECT part, first_block, coalesce(pg_total_relation_size(to_regclass('blocks_' || part)), 0)
            FROM parts WHERE lease = $1 ORDER BY part";
        for row in client.query(parts, &[&self.lease.lease]).await? {
            let (first_block, bytes) = (unsigned(row.try_get(1)?), unsigned(row.try_get(2)?));
            self.ledger.restore_part(row.try_get(0)?, first_block, bytes);
        }
        let rows = format!(
            "SELECT block, substring(heads FROM 1 FOR {HEADER_LEN}), octet_length(heads) + octet_length(body)
             FROM blocks WHERE {LIVE} ORDER BY part, block",
            LIVE = *LIVE,
        );
        let none = std::iter::empty::<i32>;
        let rows = self.meanwhile(client.query_raw(&rows, none())).await??.ready_chunks(STOCK_AT_ONCE);
        pin_mut!(rows);
        while let Some(chunk) = self.meanwhile(rows.next()).await? {
            for row in chunk {
                let row = row?;
                let bytes = u32::try_from(row.try_get::<_, i32>(2)?).unwrap_or(0);
                self.restore(unsigned(row.try_get(0)?), row.try_get(1)?, bytes, reader)?;
            }
        }
        {
            let mut index = self.index.lock();
            index.resume_after(unsigned(self.lease.block));
            index.commit();
        }
        let state = self.meanwhile(client.query("SELECT key, value FROM state", &[])).await??;
        let mut ops = Vec::with_capacity(state.len());
        for row in state {
            let (key, value): (Vec<u8>, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let value = reader.state(&key, value).map_err(Trouble::Final)?;
            ops.push(Op::Put { key, value: value.into() });
        }
        // The oldest time there is: no key is too old at it, and none that is made now becomes current for long.
        let commits = [Commit { ops, now: Time::default() }];
        self.transact(&commits, Time::default(), true).await.map_err(Trouble::Final)?;
        self.sweep(Time::default());
        self.transact(&[], Time::default(), false).await.map_err(Trouble::Final)
    }

    /// Takes a block that was found into the index, the ledger and its key's count.
    fn restore(
        &mut self,
        block: BlockNumber,
        header: &[u8],
        bytes: u32,
        reader: &Reader,
    ) -> Result<(), Trouble> {
        let damaged = |Damaged| Trouble::Final(reader.damaged(block));
        let header = Header::decode(header).map_err(damaged)?;
        if !self.index.lock().restore(block, header.stream, header.first_seq, header.count)
            || !self.ledger.restore(block, header.key, bytes)
        {
            return Err(damaged(Damaged));
        }
        if self.ring.used(header.key) { Ok(()) } else { Err(Trouble::Final(reader.no_key())) }
    }

    // ------------------------------------------------------------ the rows

    /// What commits change, sealed. The index and the ledger are ahead of the database from here on.
    fn gather(&mut self, commits: &[Commit], now: Time) -> Result<Changes, StoreError> {
        let ops = || commits.iter().flat_map(|commit| &commit.ops);
        let mut changes = Changes::default();
        if ops().any(|op| scope(op).is_some()) {
            self.ring.begin(ops().filter_map(scope), now)?;
        }
        if ops().any(|op| matches!(op, Op::Append { .. })) {
            let next = self.index.lock().last().saturating_add(1);
            let no_part = || StoreError::Failed("the database has no numbers for parts left".to_owned());
            let (part, begins) = self.ledger.part(now, next).ok_or_else(no_part)?;
            changes.part = part;
            changes.begins = begins.then_some((part, next));
            if begins {
                self.begin_merge();
            }
        }
        for op in ops() {
            self.carry_out(&mut changes, op)?;
        }
        changes.slots = self.slots.take_changes();
        changes.last_block = self.index.lock().last();
        Ok(changes)
    }

    fn carry_out(&mut self, changes: &mut Changes, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::Append { stream, first_seq, records } => self.append(changes, *stream, *first_seq, records),
            Op::Truncate { stream, up_to } => self.truncate(changes, *stream, *up_to),
            Op::Clear { stream } => self.truncate(changes, *stream, u64::MAX),
            Op::Remove { stream, first_seq } => {
                let removed = self.index.lock().remove(*stream, *first_seq);
                let Some(block) = removed else { return Ok(()) };
                let part = self.remove(block)?;
                if changes.blocks.remove(&block).is_none() {
                    changes.gone.insert(block, part);
                }
                Ok(())
            }
            Op::Put { key, value } => self.put(changes, key, value),
            Op::Delete { key } => {
                changes.state.insert(key.clone(), None);
                Ok(())
            }
        }
    }

    fn append(
        &mut self,
        changes: &mut Changes,
        stream: Stream,
        first_seq: u64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let mut sealer = Sealer::new(&mut self.ring, &self.index, stream, first_seq, records)?;
        let (block, key) = (sealer.block, sealer.header.key);
        let (mut heads, mut body) = (Vec::new(), Vec::new());
        sealer.heads(&mut heads)?;
        while sealer.part(&mut body)?.is_some() {}
        let bytes = heads.len().saturating_add(body.len());
        if !self.ring.used(key) || !self.ledger.add(block, key, bytes) {
            return Err(block::refused(stream, first_seq, "its data key or its part is gone"));
        }
        changes.blocks.insert(block, Row { heads, body });
        Ok(())
    }

    fn truncate(&mut self, changes: &mut Changes, stream: Stream, up_to: u64) -> Result<(), StoreError> {
        loop {
            let removed = self.index.lock().pop_through(stream, up_to);
            let Some(block) = removed else { return Ok(()) };
            self.remove(block)?;
            changes.blocks.remove(&block);
            changes.cursors.insert(encode_stream(stream), block);
        }
    }

    fn remove(&mut self, block: BlockNumber) -> Result<super::ledger::PartNumber, StoreError> {
        let lost = || StoreError::Failed(format!("block {block} is not in the ledger"));
        let (part, key) = self.ledger.remove(block).ok_or_else(lost)?;
        self.ring.released(key);
        Ok(part)
    }

    fn put(&mut self, changes: &mut Changes, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        block::seal_state(&mut self.ring, key, value, &mut self.buffer)?;
        changes.state.insert(key.to_vec(), Some(self.buffer.clone()));
        Ok(())
    }
}

/// Numbers as we keep them. Damage that made one negative is found when what it names does not open.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

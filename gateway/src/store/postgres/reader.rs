//! Reading: on a connection of its own, so that no read waits for a commit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::time::{Instant, sleep, timeout};
use trunkline_gateway_proto::store::{Record, Recovered, Stream};
use trunkline_postgres::client::{self, Client, Statement};

use super::super::StoreError;
use super::super::batch::Read;
use super::super::block::{self, BlockNumber, Damaged, Header};
use super::super::index::{Entry, SharedIndex};
use super::super::seal::{Keys, TAG_LEN};
use super::lease::Lease;
use super::session::Trouble;
use super::{Failed, Place};

/// Blocks looked up at once. More holds the index for longer.
const RUN_MAX: usize = 64;

/// Between two tries while the database does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// What the reader is asked for.
pub(super) enum Job {
    Read(Read),
    /// All state and blocks.
    Recover(Sender<Result<Recovered, StoreError>>),
}

/// Reads blocks and state. Clones are the same.
#[derive(Clone)]
pub(super) struct Reader {
    place: Arc<Place>,
    lease: Lease,
    keys: Keys,
    index: SharedIndex,
    failed: Failed,
    /// The connection, while there is one.
    session: Arc<Mutex<Option<Arc<Session>>>>,
}

struct Session {
    client: Client,
    run: Statement,
}

/// Why a read was not answered.
enum Unread {
    Trouble(Trouble),
    Damaged(StoreError),
    /// A block's row or its data key is gone.
    Gone(StreamEntry, StoreError),
}

type StreamEntry = (Stream, Entry);

impl From<Trouble> for Unread {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<client::Error> for Unread {
    fn from(error: client::Error) -> Self {
        Self::Trouble(error.into())
    }
}

impl Reader {
    pub(super) fn new(
        place: Arc<Place>,
        lease: Lease,
        keys: Keys,
        index: SharedIndex,
        failed: Failed,
    ) -> Self {
        Self { place, lease, keys, index, failed, session: Arc::default() }
    }

    /// Serves until every sender is gone.
    pub(super) async fn run(self, mut jobs: UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            let reader = self.clone();
            tokio::spawn(async move {
                match job {
                    Job::Read(read) => {
                        let answer = reader.read(read.stream, read.from_seq, read.bytes_max).await;
                        read.reply.send(answer).ok();
                    }
                    Job::Recover(found) => {
                        if let Err(trouble) = reader.recover(&found).await {
                            found.send(Err(trouble.settle(&reader.place))).await.ok();
                        }
                    }
                }
            });
        }
    }

    /// See [`super::super::Store::read`].
    async fn read(
        &self,
        stream: Stream,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        let started = Instant::now();
        loop {
            if let Some(failed) = self.failed.get() {
                return Err(failed.clone());
            }
            let read = timeout(self.place.answer, self.read_once(stream, from_seq, bytes_max)).await;
            let late = || Err(Unread::Trouble(Trouble::Passing("it does not answer".to_owned())));
            match read.unwrap_or_else(|_| late()) {
                Ok(records) => return Ok(records),
                Err(Unread::Damaged(error)) => return Err(error),
                // Removed, and its key destroyed, after it was looked up: as it should be, but look again.
                Err(Unread::Gone((stream, entry), _)) if !self.index.lock().contains(stream, entry) => {}
                Err(Unread::Gone(_, error)) => return Err(self.cause(error).await),
                Err(Unread::Trouble(Trouble::Passing(_))) if started.elapsed() < self.place.patience => {
                    *self.session.lock().await = None;
                    sleep(RETRY).await;
                }
                Err(Unread::Trouble(trouble)) => return Err(trouble.settle(&self.place)),
            }
        }
    }

    async fn read_once(
        &self,
        stream: Stream,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Record)>, Unread> {
        let session = self.session().await?;
        // Looked at first: what is durable by now is found.
        let up_to = self.index.lock().committed();
        let mut found = Vec::new();
        let (mut from, mut bytes) = (from_seq, 0_usize);
        loop {
            let run = self.index.lock().run(stream, from, up_to, RUN_MAX);
            if run.is_empty() {
                return Ok(found);
            }
            let numbers: Vec<i64> = run.iter().map(|entry| super::changes::signed(entry.block)).collect();
            let left = i64::try_from(bytes_max.saturating_sub(bytes)).unwrap_or(i64::MAX);
            let rows = session.client.query(&session.run, &[&numbers, &left]).await?;
            let mut rows = rows.iter();
            for entry in run {
                let Some(row) = rows.next() else {
                    if found.is_empty() {
                        return Err(self.gone(stream, entry));
                    }
                    // The limit, perhaps: the next round tells.
                    break;
                };
                if row.try_get::<_, i64>(0)? != super::changes::signed(entry.block) {
                    return Err(self.gone(stream, entry));
                }
                let (heads, body): (&[u8], &[u8]) = (row.try_get(1)?, row.try_get(2)?);
                for (seq, record) in self.block((stream, entry), heads, body)? {
                    if seq < from {
                        continue;
                    }
                    bytes = bytes.saturating_add(record.body.len());
                    if bytes > bytes_max && !found.is_empty() {
                        return Ok(found);
                    }
                    found.push((seq, record));
                    from = seq.saturating_add(1);
                }
            }
        }
    }

    /// Why something that was there is not: because another replica, who leads by now, removed it, or because it is lost.
    async fn cause(&self, lost: StoreError) -> StoreError {
        let is_ours = async { self.lease.is_ours(&self.session().await?.client).await };
        match is_ours.await {
            Ok(true) => lost,
            Ok(false) => Trouble::Fenced.settle(&self.place),
            Err(trouble) => trouble.settle(&self.place),
        }
    }

    /// All records of a block.
    fn block(&self, at: StreamEntry, heads: &[u8], body: &[u8]) -> Result<Vec<(u64, Record)>, Unread> {
        let (stream, entry) = at;
        let damaged = |Damaged| Unread::Damaged(self.damaged(entry.block));
        let header = Header::decode(heads).map_err(damaged)?;
        let cipher = self.keys.cipher(header.key).ok_or_else(|| Unread::Gone(at, self.no_key()))?;
        let (header, records) = open(&cipher, entry.block, header, heads, body).map_err(damaged)?;
        if (header.stream, header.first_seq) != (stream, entry.first_seq) {
            return Err(damaged(Damaged));
        }
        Ok(records)
    }

    fn gone(&self, stream: Stream, entry: Entry) -> Unread {
        let what = format!("{}: a block that was there is gone", self.place.name);
        Unread::Gone((stream, entry), StoreError::Corrupt(what))
    }

    /// See [`super::super::Store::recover`].
    async fn recover(&self, found: &Sender<Result<Recovered, StoreError>>) -> Result<(), Trouble> {
        let client = self.place.connect_to_read_all().await?;
        let none = std::iter::empty::<i32>;
        let state = client.query_raw("SELECT key, value FROM state", none()).await?;
        pin_mut!(state);
        while let Some(row) = state.next().await {
            let row = row?;
            let (key, value): (Vec<u8>, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let value = self.state(&key, value).map_err(Trouble::Final)?;
            found.send(Ok(Recovered::State { key, value: value.into() })).await.ok();
        }
        let blocks = "SELECT block, heads FROM blocks ORDER BY part, block";
        let blocks = client.query_raw(blocks, none()).await?;
        pin_mut!(blocks);
        while let Some(row) = blocks.next().await {
            let row = row?;
            let (block, value): (i64, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let block = u64::try_from(block).unwrap_or(0);
            let damaged = |Damaged| Trouble::Final(self.damaged(block));
            let header = Header::decode(value).map_err(damaged)?;
            if self.index.lock().holds(header.stream, header.first_seq, block) {
                let cipher = self.keys.cipher(header.key).ok_or_else(|| Trouble::Final(self.no_key()))?;
                let (heads, _) = block::open_heads(&cipher, block, value).map_err(damaged)?;
                let block = Recovered::Block { stream: header.stream, info: header.info(), heads };
                found.send(Ok(block)).await.ok();
            }
        }
        Ok(())
    }

    async fn session(&self) -> Result<Arc<Session>, Trouble> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let client = self.place.connect().await?;
        // The blocks of a run in order, up to the first that would begin beyond the limit; always one. Each is looked up
        // by its key, in its own partition: LIMIT keeps the planner from reading whole partitions instead.
        let run = client
            .prepare(
                "SELECT block, heads, body FROM (
                     SELECT wanted.block, found.heads, found.body,
                         (sum(octet_length(found.body)) OVER (ORDER BY wanted.block)
                             - octet_length(found.body))::bigint AS before
                     FROM (
                         SELECT block, (SELECT max(part) FROM parts WHERE first_block <= block) AS part
                         FROM unnest($1::bigint[]) AS block
                     ) AS wanted CROSS JOIN LATERAL (
                         SELECT heads, body FROM blocks
                         WHERE blocks.part = wanted.part AND blocks.block = wanted.block LIMIT 1
                     ) AS found
                 ) AS run WHERE before <= $2::bigint ORDER BY block",
            )
            .await?;
        let made = Arc::new(Session { client, run });
        *session = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Opens a state entry's value.
    pub(super) fn state(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let damaged =
            |Damaged| StoreError::Corrupt(format!("{}: a state entry does not decrypt", self.place.name));
        let id = block::state_key_id(value).map_err(damaged)?;
        let cipher = self.keys.cipher(id).ok_or_else(|| self.no_key())?;
        block::open_state(&cipher, key, value).map_err(damaged)
    }

    pub(super) fn no_key(&self) -> StoreError {
        StoreError::Corrupt(format!("{}: it does not hold a data key that it needs", self.place.name))
    }

    pub(super) fn damaged(&self, block: BlockNumber) -> StoreError {
        StoreError::Corrupt(format!("{}: block {block} does not decrypt", self.place.name))
    }
}

/// Opens a block whose parts lie one behind the other.
pub(super) fn open(
    cipher: &aws_lc_rs::aead::LessSafeKey,
    block: BlockNumber,
    header: Header,
    heads: &[u8],
    body: &[u8],
) -> Result<(Header, Vec<(u64, Record)>), Damaged> {
    let mut cuts = block::cuts(header.bytes);
    let mut rest = body;
    let opened = block::open_block(cipher, block, heads, |_, open| {
        let len = cuts.next().and_then(|cut| cut.checked_add(TAG_LEN)).ok_or(Damaged)?;
        let (part, left) = rest.split_at_checked(len).ok_or(Damaged)?;
        rest = left;
        open(part)
    })?;
    if rest.is_empty() { Ok(opened) } else { Err(Damaged) }
}

//! A look at a store that changes nothing in it: no lease is taken, no table made, no entry sealed anew. It works
//! beside a gateway that runs.
//!
//! Everything is read in transactions that are `READ ONLY`, each of which sees one moment (`REPEATABLE READ`) and is
//! short: a gateway that drops a partition waits for whoever reads, and everybody waits for the gateway. So a walk
//! through the store turns its pages one by one, and what leaves meanwhile is not seen, or was.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::time::timeout;
use trunkline_postgres::client::Client;
use trunkline_postgres::schema::SCHEMA;

use super::super::StoreError;
use super::super::batch::stopped;
use super::super::block::{self, Damaged, Header};
use super::super::fault::Faults;
use super::super::inspect::Found;
use super::super::keyfile::{Found as FoundKeys, KeyFile};
use super::super::note::{self, Note};
use super::super::seal::Keys;
use super::session::{LIVE, Trouble};
use super::slots::Slots;
use super::{Options, Place, reader, schema};

/// The oldest server that will do, as it counts its versions.
pub const VERSION_MIN: i32 = 150_000;

/// How long a look may take. Longer waits for servers that are far or busy, and people wait for the answer.
const LOOK_WITHIN: Duration = Duration::from_secs(6);

/// Bytes of bodies in a page of a walk, unless its only block has more. More makes fewer transactions, which a gateway
/// that drops a partition waits for.
const PAGE_BYTES: i64 = 4 << 20;

/// Blocks in a page.
const PAGE_BLOCKS: i64 = 256;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Had before the moment is chosen: partitions that are made one are either not yet, or all there.
const LOCK: &str = "LOCK TABLE ONLY blocks IN ACCESS SHARE MODE";

/// What is known of a database that answers and takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As the server counts: 15.4 is 150004.
    pub version: i32,
    /// Which version our tables are of; none are there before the first start.
    pub tables: Option<i32>,
    /// Which version this release makes.
    pub tables_known: i32,
    /// Whether our user may make tables.
    pub may_create: bool,
    /// Whether the server writes to its disk as it says.
    pub careful: bool,
    /// Whether a synchronous standby is configured.
    pub standby: bool,
    /// Whether a gateway holds the lease.
    pub in_use: bool,
}

/// Looks at the store in a database.
///
/// # Errors
/// When it cannot be reached or takes no writes, is damaged or part of a move, or the deployment key is not its own.
pub fn look(options: &Options) -> Result<Facts, StoreError> {
    apart(&options.place, |place| async move {
        let late = || Trouble::Passing(format!("it has not answered for {} s", LOOK_WITHIN.as_secs()));
        timeout(LOOK_WITHIN, facts(&place)).await.unwrap_or_else(|_| Err(late()))
    })
}

/// Goes through everything in the store: all state, then all blocks, opened. What does not open is told, and passed.
///
/// # Errors
/// When the database fails, or holds no store.
pub fn walk(options: &Options, visit: &mut dyn FnMut(Found)) -> Result<(), StoreError> {
    let (pages, turned) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let walking = scope.spawn(move || {
            apart(&options.place, |place| async move { Walk::begin(place).await?.turn(&pages).await })
        });
        for page in turned {
            Vec::into_iter(page).for_each(&mut *visit);
        }
        walking.join().unwrap_or_else(|_| Err(stopped()))
    })
}

/// On a thread of its own: who asks may be within a runtime.
fn apart<T: Send, F: Future<Output = Result<T, Trouble>>>(
    place: &Arc<Place>,
    task: impl FnOnce(Arc<Place>) -> F + Send,
) -> Result<T, StoreError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Trouble::Passing(error.to_string()))?;
            runtime.block_on(task(Arc::clone(place)))
        });
        let done = thread.join().unwrap_or_else(|_| Err(Trouble::Final(stopped())));
        done.map_err(|trouble| match trouble {
            // Nothing was being written: it says no more than that the database is of no use.
            Trouble::Final(StoreError::Failed(why)) => Trouble::Passing(why).settle(place),
            trouble => trouble.settle(place),
        })
    })
}

async fn facts(place: &Place) -> Result<Facts, Trouble> {
    let client = place.connect().await?;
    client.batch_execute(BEGIN).await?;
    let question = format!(
        "SELECT current_setting('server_version_num')::integer,
            to_regclass('{SCHEMA}.schema_versions') IS NOT NULL,
            CASE WHEN to_regnamespace('{SCHEMA}') IS NULL THEN has_database_privilege(current_database(), 'CREATE')
                ELSE has_schema_privilege('{SCHEMA}', 'CREATE') END,
            current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on',
            current_setting('synchronous_standby_names') <> ''"
    );
    let row = client.query_one(&question, &[]).await?;
    let mut facts = Facts {
        version: row.try_get(0)?,
        tables: None,
        tables_known: i32::try_from(schema::STEPS.len()).unwrap_or(i32::MAX),
        may_create: row.try_get(2)?,
        careful: row.try_get(3)?,
        standby: row.try_get(4)?,
        in_use: false,
    };
    if row.try_get(1)? {
        let version = "SELECT coalesce(max(version), 0) FROM schema_versions WHERE part = $1";
        let version: i32 = client.query_one(version, &[&schema::PART]).await?.try_get(0)?;
        facts.tables = Some(version).filter(|version| *version > 0);
    }
    if facts.tables.is_some() {
        let lease = "SELECT coalesce(bool_or(expires > clock_timestamp()), false) FROM leases";
        facts.in_use = client.query_one(lease, &[]).await?.try_get(0)?;
        let keys = keys(place, &client).await?;
        let found = client.query_opt("SELECT value FROM state WHERE key = $1", &[&note::KEY]).await?;
        if let (Some(keys), Some(row)) = (keys, found) {
            let value = state(&keys, note::KEY, row.try_get(0)?);
            let value = value.map_err(|Damaged| corrupt(place, "the note of its move does not decrypt"))?;
            return Err(Trouble::Final(Note::decode(&value).map_err(Trouble::Final)?.refusal()));
        }
    }
    Ok(facts)
}

/// The data keys of this moment; none where there is no store yet.
async fn keys(place: &Place, client: &Client) -> Result<Option<Keys>, Trouble> {
    let rows = client.query("SELECT slot, content FROM key_slots", &[]).await?;
    let rows = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let rows = rows.collect::<Result<Vec<(i32, Vec<u8>)>, trunkline_postgres::client::Error>>()?;
    let slots = Slots::restore(rows).ok_or_else(|| corrupt(place, "its key slots are no key slots"))?;
    let faults = Faults::new(Path::new(&place.name));
    // Of a copy in memory: nothing can reach the rows.
    let opened = KeyFile::open(Box::new(slots), &place.deployment_key, &faults);
    let (_, found) = opened.map_err(|error| match error {
        StoreError::WrongKey { .. } => Trouble::Final(StoreError::WrongKey { path: place.name.clone() }),
        error => Trouble::Final(error),
    })?;
    match found {
        FoundKeys::Keys(_, found) => Ok(Some(Keys::of(found))),
        FoundKeys::Blank => {
            let blank = "SELECT NOT EXISTS (SELECT FROM state) AND NOT EXISTS (SELECT FROM blocks)";
            if client.query_one(blank, &[]).await?.try_get(0)? {
                Ok(None)
            } else {
                Err(corrupt(place, "its data keys are missing, while its blocks are not"))
            }
        }
    }
}

fn state(keys: &Keys, key: &[u8], value: &[u8]) -> Result<Vec<u8>, Damaged> {
    let cipher = keys.cipher(block::state_key_id(value)?).ok_or(Damaged)?;
    block::open_state(&cipher, key, value)
}

fn corrupt(place: &Place, what: &str) -> Trouble {
    Trouble::Final(StoreError::Corrupt(format!("{}: {what}", place.name)))
}

/// On its way through a store.
struct Walk {
    place: Arc<Place>,
    client: Client,
    keys: Keys,
}

type Pages = mpsc::SyncSender<Vec<Found>>;

impl Walk {
    async fn begin(place: Arc<Place>) -> Result<Self, Trouble> {
        // Says what is wrong, where something is.
        let tables = match facts(&place).await {
            Ok(facts) => facts.tables,
            // A store that was moved away is looked at as well.
            Err(Trouble::Final(StoreError::Moved(_))) => Some(0),
            Err(trouble) => return Err(trouble),
        };
        let client = place.connect().await?;
        let keys = if tables.is_some() { keys(&place, &client).await? } else { None };
        let nothing =
            || Trouble::Passing("there is no store in it: is this the right configuration?".to_owned());
        Ok(Self { keys: keys.ok_or_else(nothing)?, place, client })
    }

    /// Ends early when nobody takes the pages.
    async fn turn(mut self, pages: &Pages) -> Result<(), Trouble> {
        self.client.batch_execute(BEGIN).await?;
        self.look_up_keys().await?;
        let rows = self.client.query("SELECT key, value FROM state ORDER BY key", &[]).await?;
        self.client.batch_execute("COMMIT").await?;
        let mut page = Vec::with_capacity(rows.len());
        for row in rows {
            let (key, value): (Vec<u8>, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let value = state(&self.keys, &key, value).ok();
            page.push(Found::State { key, value: value.map(Into::into) });
        }
        let mut after = 0;
        while pages.send(page).is_ok() {
            match self.page(after).await? {
                Some((next, found)) => (after, page) = (next, found),
                None => break,
            }
        }
        Ok(())
    }

    /// The blocks behind one, and which the last of them is; none at the end.
    async fn page(&mut self, after: i64) -> Result<Option<(i64, Vec<Found>)>, Trouble> {
        // In which part it lies, is looked up each time: it may have been made one with others meanwhile.
        let rows = format!(
            "SELECT block, heads, body FROM (
                 SELECT block, heads, body,
                     (sum(octet_length(body)) OVER (ORDER BY block) - octet_length(body))::bigint AS before
                 FROM (
                     SELECT block, heads, body FROM blocks
                     WHERE part >= coalesce((SELECT max(part) FROM parts WHERE first_block <= $1), 0)
                     AND block > $1 AND {LIVE} ORDER BY part, block LIMIT $2
                 ) AS next
             ) AS page WHERE before <= $3 ORDER BY block",
            LIVE = *LIVE,
        );
        self.client.batch_execute(&format!("{BEGIN}; {LOCK}")).await?;
        let rows = self.client.query(&rows, &[&after, &PAGE_BLOCKS, &PAGE_BYTES]).await?;
        let mut headers = Vec::with_capacity(rows.len());
        for row in &rows {
            let damaged = |Damaged| corrupt(&self.place, "a block does not say which stream it is of");
            headers.push(Header::decode(row.try_get(1)?).map_err(damaged)?);
        }
        if headers.iter().any(|header| self.keys.cipher(header.key).is_none()) {
            // Made since.
            self.look_up_keys().await?;
        }
        self.client.batch_execute("COMMIT").await?;
        let mut found = Vec::with_capacity(rows.len());
        let mut last = None;
        for (row, header) in rows.iter().zip(headers) {
            let block: i64 = row.try_get(0)?;
            let (heads, body): (&[u8], &[u8]) = (row.try_get(1)?, row.try_get(2)?);
            let number = u64::try_from(block).unwrap_or(0);
            let opened = self.keys.cipher(header.key).ok_or(Damaged);
            let opened = opened.and_then(|cipher| reader::open(&cipher, number, header, heads, body));
            let records = opened.ok().map(|(_, records)| records);
            found.push(Found::Block { stream: header.stream, first_seq: header.first_seq, records });
            last = Some(block);
        }
        Ok(last.map(|last| (last, found)))
    }

    async fn look_up_keys(&mut self) -> Result<(), Trouble> {
        if let Some(keys) = keys(&self.place, &self.client).await? {
            self.keys = keys;
        }
        Ok(())
    }
}

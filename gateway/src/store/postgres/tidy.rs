//! Room that is needed no more is given back.
//!
//! A partition without live blocks is dropped. Partitions that hold little are made one, so that the few blocks in them
//! that stay, for a dead peer or of the audit log, do not keep the room that all others lay in: beside the writer, what is
//! live is copied into a table of its own; a later transaction of the writer puts that in place of the partitions. What
//! leaves them in between is in the copy, and known to be gone all the same. Only that transaction counts: whatever becomes
//! of a copy before, by a crash or because another replica leads by now, changes nothing.
//!
//! Both need `blocks` for themselves for a moment. While somebody reads it for long, as a dump does, they wait for
//! another time, and nobody waits for them.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Place;
use super::ledger::PartNumber;
use super::session::{LIVE, Trouble};

/// The beginning of what needs `blocks` for itself. Longer finds moments between reads sooner, and keeps commits waiting
/// in vain for longer.
const ALONE: &str = "SET LOCAL lock_timeout = '200ms'; LOCK TABLE ONLY blocks IN ACCESS EXCLUSIVE MODE;";

/// What drops partitions that nothing needs.
pub(super) fn drop_parts(parts: &[PartNumber]) -> String {
    let numbers = numbers(parts);
    format!(
        "{ALONE} {tables} DELETE FROM parts WHERE part IN ({numbers}); DELETE FROM gone WHERE part IN ({numbers});
         DELETE FROM cursors WHERE block < (SELECT min(first_block) FROM parts)",
        tables = drop_tables(parts),
    )
}

/// A copy that is being made.
pub(super) struct Merging {
    merged: Merged,
    copying: JoinHandle<Result<(), Trouble>>,
}

/// Partitions, and the table that holds what is live in them, as the first of them.
pub(super) struct Merged {
    parts: Vec<PartNumber>,
    table: String,
}

impl Merging {
    /// Begins to copy partitions that take no more blocks, under the lease of this token.
    pub(super) fn begin(place: Arc<Place>, token: i64, parts: Vec<PartNumber>) -> Self {
        // Nobody else makes a table of this name.
        let merged = Merged { table: format!("merging_{token}"), parts };
        let copying = copy(place, token, merged.table.clone(), merged.parts.clone());
        Self { merged, copying: tokio::spawn(copying) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.copying.is_finished()
    }

    /// The copy, once it [is over](Self::is_over); none when it could not be made.
    pub(super) fn end(self) -> Option<Merged> {
        match self.copying.now_or_never()? {
            Ok(Ok(())) => Some(self.merged),
            Ok(Err(trouble)) => {
                warn!(
                    ?trouble,
                    "partitions that hold little stay for now: they could not be copied into one"
                );
                None
            }
            Err(_) => None,
        }
    }
}

async fn copy(place: Arc<Place>, token: i64, table: String, parts: Vec<PartNumber>) -> Result<(), Trouble> {
    let Some(first) = parts.first() else { return Ok(()) };
    let client = place.connect_to_read_all().await?;
    // What crashes and earlier leaders left.
    let left = "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
        AND relname ~ '^merging_[0-9]{1,18}$' AND substring(relname FROM 9)::bigint <= $1";
    for row in client.query(left, &[&token]).await? {
        let left: String = row.try_get(0)?;
        client.batch_execute(&format!("DROP TABLE IF EXISTS {left}")).await?;
    }
    // By itself, and no row is read by the name of `blocks`: that would lock it until all is copied. The condition saves
    // the server a look at each row when the table is attached.
    let made = format!("CREATE TABLE {table} (LIKE blocks INCLUDING STORAGE, CHECK (part = {first}))");
    client.batch_execute(&made).await?;
    // Those that a later release added as well.
    let columns = "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
        WHERE attrelid = 'blocks'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'part'";
    let columns: String = client.query_one(columns, &[]).await?.try_get(0)?;
    let live = parts.iter().map(|part| {
        format!("SELECT {first}, {columns} FROM blocks_{part} AS blocks WHERE {LIVE}", LIVE = *LIVE)
    });
    let live = live.collect::<Vec<_>>().join(" UNION ALL ");
    let filled = format!("INSERT INTO {table} (part, {columns}) {live}");
    client.batch_execute(&filled).await?;
    Ok(client.batch_execute(&format!("ALTER TABLE {table} ADD PRIMARY KEY (part, block)")).await?)
}

impl Merged {
    /// What puts the copy in place of the partitions. Its index is its last step: a copy that a failover left without it
    /// is not whole, and takes nobody's place.
    pub(super) fn statements(&self) -> String {
        let Self { parts, table } = self;
        let Some(first) = parts.first() else { return String::new() };
        format!(
            "{ALONE} {tables}
             ALTER TABLE {table} RENAME TO blocks_{first};
             ALTER INDEX {table}_pkey RENAME TO blocks_{first}_pkey;
             ALTER TABLE blocks ATTACH PARTITION blocks_{first} FOR VALUES IN ({first});
             DELETE FROM parts WHERE part IN ({numbers}) AND part <> {first};
             DELETE FROM gone WHERE part IN ({numbers})
                 AND NOT EXISTS (SELECT FROM blocks_{first} AS copied WHERE copied.block = gone.block);
             UPDATE gone SET part = {first} WHERE part IN ({numbers}) AND part <> {first}",
            tables = drop_tables(parts),
            numbers = numbers(parts),
        )
    }
}

fn drop_tables(parts: &[PartNumber]) -> String {
    parts.iter().map(|part| format!("DROP TABLE blocks_{part};")).collect()
}

fn numbers(parts: &[PartNumber]) -> String {
    parts.iter().map(PartNumber::to_string).collect::<Vec<_>>().join(", ")
}

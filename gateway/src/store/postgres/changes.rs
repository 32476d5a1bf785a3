//! What one transaction changes, row by row, put together from what was asked.

use std::collections::BTreeMap;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use trunkline_postgres::client::error::SqlState;

use super::super::block::{BlockNumber, STREAM_LEN};
use super::lease::Lease;
use super::ledger::PartNumber;
use super::session::{Session, Trouble};
use super::slots::RowChange;

/// A block as it rests.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) heads: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// The changes. What was added and taken away again within one transaction leaves no trace.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The number of the last block that there is, with these.
    pub(super) last_block: BlockNumber,
    /// A new part, before blocks go into it: its number and that of its first block.
    pub(super) begins: Option<(PartNumber, BlockNumber)>,
    /// The part that blocks go into.
    pub(super) part: PartNumber,
    pub(super) blocks: BTreeMap<BlockNumber, Row>,
    /// Up to where a stream's blocks are gone.
    pub(super) cursors: BTreeMap<[u8; STREAM_LEN], BlockNumber>,
    /// Blocks that are gone before their turn.
    pub(super) gone: BTreeMap<BlockNumber, PartNumber>,
    /// What state entries are now; `None` for no more.
    pub(super) state: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(super) slots: Vec<RowChange>,
    /// Statements that give back room, by themselves.
    pub(super) tidy: String,
}

/// What has a value, with its value, and what has none any more.
fn part<'a, K>(entries: impl Iterator<Item = (K, Option<&'a [u8]>)>) -> (Vec<K>, Vec<&'a [u8]>, Vec<K>) {
    let (mut keys, mut values, mut none) = (Vec::new(), Vec::new(), Vec::new());
    for (key, value) in entries {
        match value {
            Some(value) => {
                keys.push(key);
                values.push(value);
            }
            None => none.push(key),
        }
    }
    (keys, values, none)
}

fn numbers<'a>(blocks: impl Iterator<Item = &'a BlockNumber>) -> Vec<i64> {
    blocks.map(|block| signed(*block)).collect()
}

/// Numbers as the database keeps them. Ours stay far below the sign.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Changes {
    /// Writes all of it within a transaction that began. Every statement is sent when this is first polled, one behind the
    /// other, so that what is sent next comes after them.
    pub(super) async fn write(&self, session: &Session, lease: Lease) -> Result<(), Trouble> {
        let mut writes: Vec<BoxFuture<'_, Result<(), Trouble>>> = Vec::new();
        if let Some(begins) = self.begins {
            writes.push(begin_part(begins, session, lease).boxed());
        }
        if !self.tidy.is_empty() {
            writes.push(tidy(&self.tidy, session).boxed());
        }
        if !self.blocks.is_empty() {
            let rows = self.blocks.values();
            let heads: Vec<&[u8]> = rows.clone().map(|row| row.heads.as_slice()).collect();
            let bodies: Vec<&[u8]> = rows.map(|row| row.body.as_slice()).collect();
            let blocks = numbers(self.blocks.keys());
            writes.push(
                async move {
                    session.execute(&session.append, &[&self.part, &blocks, &heads, &bodies]).await
                }
                .boxed(),
            );
        }
        if !self.cursors.is_empty() {
            let streams: Vec<&[u8]> = self.cursors.keys().map(<[u8; _]>::as_slice).collect();
            let blocks = numbers(self.cursors.values());
            writes.push(async move { session.execute(&session.cursors, &[&streams, &blocks]).await }.boxed());
        }
        if !self.gone.is_empty() {
            let parts: Vec<i64> = self.gone.values().copied().collect();
            let blocks = numbers(self.gone.keys());
            writes.push(async move { session.execute(&session.gone, &[&parts, &blocks]).await }.boxed());
        }
        let state = self.state.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
        let (keys, values, deleted) = part(state);
        if !keys.is_empty() {
            writes.push(async move { session.execute(&session.put, &[&keys, &values]).await }.boxed());
        }
        if !deleted.is_empty() {
            writes.push(async move { session.execute(&session.delete, &[&deleted]).await }.boxed());
        }
        let slots = self.slots.iter().map(|(slot, content)| (*slot, content.as_deref()));
        let (slots, contents, emptied) = part(slots);
        let lease = lease.lease;
        if !slots.is_empty() {
            writes.push(
                async move { session.execute(&session.put_slots, &[&lease, &slots, &contents]).await }
                    .boxed(),
            );
        }
        if !emptied.is_empty() {
            writes.push(
                async move { session.execute(&session.delete_slots, &[&lease, &emptied]).await }.boxed(),
            );
        }
        join_all(writes).await.into_iter().collect()
    }
}

/// A table comes. In one message: it must be there before the blocks that need it. Attached, not made as a partition:
/// that would wait for all who read `blocks`.
async fn begin_part(
    (part, first_block): (PartNumber, BlockNumber),
    session: &Session,
    lease: Lease,
) -> Result<(), Trouble> {
    let text = format!(
        "CREATE TABLE blocks_{part} (LIKE blocks INCLUDING ALL);
         ALTER TABLE blocks ATTACH PARTITION blocks_{part} FOR VALUES IN ({part});
         INSERT INTO parts VALUES ({part}, {}, {first_block})",
        lease.lease
    );
    Ok(session.client.batch_execute(&text).await?)
}

async fn tidy(text: &str, session: &Session) -> Result<(), Trouble> {
    match session.client.batch_execute(text).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Err(Trouble::Busy),
        done => Ok(done?),
    }
}

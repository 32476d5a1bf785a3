//! The lease: who may write, and the proof of it in every transaction.
//!
//! Whoever takes the lease raises its **token**. Each transaction begins by raising the lease's count of **commits**
//! by one, on condition that the token is still its own: the row is locked until the transaction ends, so that a
//! takeover waits for it, and after a takeover it changes nothing, and is rolled back. The count also tells what
//! became of a transaction whose answer was lost with the connection. Time is the database's alone.

use std::time::Duration;

use trunkline_postgres::client::Client;
use trunkline_postgres::client::error::SqlState;

use super::super::{StoreError, Term};
use super::Place;
use super::session::{Session, Trouble};

/// How long a lease lasts without being renewed; each commit renews it. Shorter lets another gateway take over
/// sooner after a crash, and takes shorter interruptions for one.
pub const LEASE: Duration = Duration::from_secs(3);

/// The lease on everything: one gateway writes all lanes.
const EVERYTHING: i32 = 0;

/// Between two looks at a lease that is about to run out.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long past its end a lease is waited for.
const GRACE: Duration = Duration::from_millis(200);

/// A lease that is held, unless somebody took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Its number among leases.
    pub(super) lease: i32,
    token: i64,
    /// Transactions carried out under it, whoever held it.
    pub(super) commits: i64,
    /// The last block's number, durable as of the last transaction.
    pub(super) block: i64,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    NotCommitted,
}

impl Lease {
    /// Takes the lease: from ourselves, when it has run out, or from whoever has come as far as `seized`, and no
    /// further since, which is safe at any time, and rude while that one lives. Among replicas, one that another holds is that one's;
    /// otherwise a lease that is not renewed is waited for.
    pub(super) async fn take(client: &Client, place: &Place, seized: Option<Term>) -> Result<Self, Trouble> {
        let take = "UPDATE leases SET token = token + 1, holder = $2, address = $4,
                expires = clock_timestamp() + $3::float8 * interval '1 second'
             WHERE lease = $1 AND (holder = $2 OR expires <= clock_timestamp()
                 OR (token = $5::bigint AND commits = $6::bigint))
             RETURNING token, commits, block";
        let (holder, lasts) = (place.holder.as_slice(), place.lease.as_secs_f64());
        let address = place.address.as_deref().unwrap_or_default();
        let (token, commits) = (seized.map(|term| term.token), seized.map(|term| term.commits));
        let mut patience = None;
        loop {
            let taken =
                client.query_opt(take, &[&EVERYTHING, &holder, &lasts, &address, &token, &commits]).await?;
            if let Some(row) = taken {
                let (token, commits, block) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                return Ok(Self { lease: EVERYTHING, token, commits, block });
            }
            if place.address.is_some() {
                let held = "SELECT address, token, commits FROM leases WHERE lease = $1 AND address <> ''";
                if let Some(row) = client.query_opt(held, &[&EVERYTHING]).await? {
                    let term = Term { token: row.try_get(1)?, commits: row.try_get(2)? };
                    let left = left(client).await?;
                    return Err(Trouble::Held { address: row.try_get(0)?, term, left });
                }
            }
            let patience = match patience {
                Some(patience) => patience,
                None => *patience.insert(tokio::time::Instant::now() + left(client).await? + GRACE),
            };
            if tokio::time::Instant::now() > patience {
                return Err(Trouble::Fenced);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The first statement of a transaction, the next one under this lease. When the lease is not ours any more, it fails
    /// at the server, by a division by zero, and the transaction with it.
    pub(super) async fn fence(self, session: &Session, block: i64, lasts: Duration) -> Result<(), Trouble> {
        let commits = self.commits.checked_add(1).ok_or_else(exhausted)?;
        let seconds = lasts.as_secs_f64();
        let parameters: [&(dyn trunkline_postgres::client::types::ToSql + Sync); 5] =
            [&self.lease, &self.token, &commits, &block, &seconds];
        match session.client.execute(&session.fence, &parameters).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => Err(Trouble::Fenced),
            Err(error) => Err(error.into()),
        }
    }

    /// What became of the transaction after [`Self::commits`], whose answer was not heard. No transaction of ours
    /// is under way: the row is read under its lock.
    pub(super) async fn resolve(self, client: &Client) -> Result<Outcome, Trouble> {
        let row = "SELECT token, commits FROM leases WHERE lease = $1 FOR UPDATE";
        let row = client.query_one(row, &[&self.lease]).await?;
        let (token, commits): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if commits < self.commits || token < self.token {
            let what = "the database has lost transactions that it acknowledged, as after a failover to a standby \
                        that was behind, or a restored backup";
            return Err(Trouble::Final(StoreError::Failed(what.to_owned())));
        }
        if token != self.token {
            return Err(Trouble::Fenced);
        }
        Ok(if commits == self.commits { Outcome::NotCommitted } else { Outcome::Committed })
    }

    /// Tells it from the leases of others, before and after.
    pub(super) fn token(self) -> i64 {
        self.token
    }

    /// Counts a transaction that was carried out.
    pub(super) fn committed(&mut self, block: i64) {
        self.commits = self.commits.saturating_add(1);
        self.block = block;
    }

    /// Whether nobody took it, as far as can be seen.
    pub(super) async fn is_ours(self, client: &Client) -> Result<bool, Trouble> {
        let token = "SELECT token FROM leases WHERE lease = $1";
        Ok(client.query_one(token, &[&self.lease]).await?.try_get::<_, i64>(0)? == self.token)
    }

    /// Lets others have it at once.
    pub(super) async fn release(self, client: &Client) -> Result<(), Trouble> {
        let release = "UPDATE leases SET expires = '-infinity' WHERE lease = $1 AND token = $2";
        client.execute(release, &[&self.lease, &self.token]).await?;
        Ok(())
    }
}

/// How long the lease lasts if it is not renewed.
async fn left(client: &Client) -> Result<Duration, Trouble> {
    let left = "SELECT greatest(0, extract(epoch FROM expires - clock_timestamp()))::float8
        FROM leases WHERE lease = $1 AND expires > '-infinity'";
    let row = client.query_opt(left, &[&EVERYTHING]).await?;
    let seconds = row.map(|row| row.try_get::<_, f64>(0)).transpose()?.unwrap_or_default();
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default().min(LEASE_LEFT_MAX))
}

/// What is believed of a lease's end. Longer would make a start wait for a mistake in somebody's clock.
const LEASE_LEFT_MAX: Duration = Duration::from_secs(60);

fn exhausted() -> Trouble {
    Trouble::Final(StoreError::Failed("the database counts no further commits".to_owned()))
}

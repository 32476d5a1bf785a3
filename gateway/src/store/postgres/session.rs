//! A connection to the database, and what its failures mean.

use std::sync::LazyLock;
use std::time::Duration;

use tracing::warn;
use trunkline_postgres::Failure;
use trunkline_postgres::client::types::ToSql;
use trunkline_postgres::client::{self, Client, Statement};
use trunkline_postgres::failure::is_about_password;

use super::super::block::{STREAM_AT, STREAM_LEN};
use super::super::{StoreError, Term};
use super::Place;

/// Which rows of `blocks` are live: those whose streams' cursors are not past them, and which did not leave by
/// themselves.
pub(super) static LIVE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "NOT EXISTS (SELECT FROM gone WHERE gone.part = blocks.part AND gone.block = blocks.block)
         AND block > coalesce((SELECT cursors.block FROM cursors
             WHERE cursors.stream = substring(heads FROM {} FOR {STREAM_LEN})), 0)",
        STREAM_AT + 1,
    )
});

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may go better on a new connection, and what became of a commit is not known.
    Passing(String),
    /// Somebody else holds the lease.
    Fenced,
    /// Another replica holds the lease: where it is asked, and by which token it holds it.
    Held { address: String, term: Term, left: Duration },
    /// Others need what it needs for itself: it is known not to be done.
    Busy,
    /// It will not go better.
    Final(StoreError),
}

impl Trouble {
    /// What to say when it is not tried again.
    pub(super) fn settle(self, place: &Place) -> StoreError {
        match self {
            Self::Passing(why) => StoreError::Unavailable(format!("{}: {why}", place.name)),
            Self::Busy => StoreError::Unavailable(format!("{}: its tables are in use", place.name)),
            Self::Fenced => StoreError::Locked { path: place.name.clone() },
            Self::Held { address, term, left } => StoreError::Held { address, term, left },
            Self::Final(error) => error,
        }
    }
}

impl Place {
    /// A connection. When the server does not take the password, the error says which one it was given.
    pub(super) async fn connect(&self) -> Result<Client, Trouble> {
        let error = match self.access.connect().await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let is_about_password = is_about_password(&error);
        Err(match Trouble::from(error) {
            Trouble::Passing(why) if is_about_password => Trouble::Passing(match &self.password_file {
                Some(file) => {
                    format!("{why}; the password is read from {} (store_password_file)", file.display())
                }
                None => {
                    format!("{why}; store_password_file is to name a file with the password, and is not set")
                }
            }),
            trouble => trouble,
        })
    }

    /// A connection for statements that answer with much of what there is: they may take as long as they need, and as who
    /// asked takes to look at it.
    pub(super) async fn connect_to_read_all(&self) -> Result<Client, Trouble> {
        let client = self.connect().await?;
        client.batch_execute("SET statement_timeout = 0").await?;
        Ok(client)
    }
}

impl From<client::Error> for Trouble {
    fn from(error: client::Error) -> Self {
        match Failure::from(&error) {
            Failure::Passing(why) => Self::Passing(why),
            Failure::Full => Self::Final(StoreError::Full { path: "the database's server".to_owned() }),
            // Nothing of it was committed: whoever can mend it may, and it is looked again.
            Failure::Final(why) => Self::Final(StoreError::Unavailable(why)),
        }
    }
}

/// Says what of the server's settings could lose what was acknowledged.
pub(super) async fn warn_of_settings(client: &Client) -> Result<(), Trouble> {
    let settings = "SELECT current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on',
        current_setting('synchronous_standby_names') <> ''";
    let row = client.query_one(settings, &[]).await?;
    if !row.try_get::<_, bool>(0)? {
        warn!("the database has fsync or full_page_writes off: a power cut may lose what was acknowledged");
    }
    if !row.try_get::<_, bool>(1)? {
        warn!("the database has no synchronous standby: what it acknowledged is on one machine only");
    }
    Ok(())
}

/// The writer's connection, with its statements.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) fence: Statement,
    pub(super) append: Statement,
    pub(super) cursors: Statement,
    pub(super) gone: Statement,
    pub(super) put: Statement,
    pub(super) delete: Statement,
    pub(super) put_slots: Statement,
    pub(super) delete_slots: Statement,
}

impl Session {
    pub(super) async fn open(place: &Place) -> Result<Self, Trouble> {
        let client = place.connect().await?;
        let prepare = async |text: &str| client.prepare(text).await;
        Ok(Self {
            fence: prepare(
                "WITH ours AS (
                     UPDATE leases SET commits = $3::bigint, block = $4::bigint,
                         expires = clock_timestamp() + $5::float8 * interval '1 second'
                     WHERE lease = $1 AND token = $2 AND commits = $3::bigint - 1 RETURNING lease
                 ) SELECT 1 / count(*) FROM ours",
            )
            .await?,
            append: prepare(
                "INSERT INTO blocks (part, block, heads, body)
                 SELECT $1::bigint, * FROM unnest($2::bigint[], $3::bytea[], $4::bytea[])",
            )
            .await?,
            cursors: prepare(
                "INSERT INTO cursors (stream, block) SELECT * FROM unnest($1::bytea[], $2::bigint[])
                 ON CONFLICT (stream) DO UPDATE SET block = excluded.block",
            )
            .await?,
            gone: prepare("INSERT INTO gone (part, block) SELECT * FROM unnest($1::bigint[], $2::bigint[])")
                .await?,
            put: prepare(
                "INSERT INTO state (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[])
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )
            .await?,
            delete: prepare("DELETE FROM state WHERE key = ANY ($1::bytea[])").await?,
            put_slots: prepare(
                "INSERT INTO key_slots (lease, slot, content)
                 SELECT $1::integer, * FROM unnest($2::integer[], $3::bytea[])
                 ON CONFLICT (lease, slot) DO UPDATE SET content = excluded.content",
            )
            .await?,
            delete_slots: prepare("DELETE FROM key_slots WHERE lease = $1 AND slot = ANY ($2::integer[])")
                .await?,
            client,
        })
    }

    /// Carries out a statement, whose answer is of no interest.
    pub(super) async fn execute(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), Trouble> {
        self.client.execute(statement, parameters).await?;
        Ok(())
    }
}

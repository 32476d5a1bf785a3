//! A connection to the database, and what its failures mean.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};
use tracing::warn;

use super::super::StoreError;
use super::Place;
use super::schema::SCHEMA;

/// How long one host may take to answer a connection. Longer waits for slow networks, and finds the next host later.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long sent bytes may stay unacknowledged, and a silent connection unanswered, before it counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What a transaction of ours may take, and wait for a lock, and idle, before the server ends it: nothing that is
/// left behind by a connection that broke may hold the lease's row for long. The server's figures, so below
/// [`ANSWER_MAX`].
const SESSION: &str = "SET statement_timeout = '15s'; SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '5s'";

/// How long the server may take for one transaction before the connection is given up.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may go better on a new connection, and what became of a commit is not known.
    Passing(String),
    /// Somebody else holds the lease.
    Fenced,
    /// It will not go better.
    Final(StoreError),
}

impl Trouble {
    /// What to say when it is not tried again.
    pub(super) fn settle(self, place: &Place) -> StoreError {
        match self {
            Self::Passing(why) => StoreError::Unavailable(format!("{}: {why}", place.name)),
            Self::Fenced => StoreError::Locked { path: place.name.clone() },
            Self::Final(error) => error,
        }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(found) = error.as_db_error() else {
            // The connection broke, or could not be made; its text names no more than that.
            return Self::Passing(with_causes(&error));
        };
        let text = format!("{} ({})", found.message(), found.code().code());
        let code = found.code();
        if *code == SqlState::DISK_FULL {
            return Self::Final(StoreError::Full { path: "the database's server".to_owned() });
        }
        // Class by class: see appendix A of PostgreSQL's manual.
        let passing = match code.code().get(..2) {
            // Connection, authorization (which a failover may answer differently), resources, operator's
            // intervention and timeouts, rollback by the server, the system's own trouble.
            Some("08" | "28" | "40" | "53" | "57" | "58") => true,
            // No such database.
            Some("3D") => true,
            // Invalid state: a transaction that idled too long, or a primary that became a standby.
            Some("25") => true,
            // A lock that was not had in time, a table that is being upgraded.
            Some("55") => true,
            _ => false,
        };
        if passing { Self::Passing(text) } else { Self::Final(StoreError::Failed(text)) }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Connects. The client answers for as long as the runtime that this is called in runs.
pub(super) async fn connect(place: &Place) -> Result<Client, Trouble> {
    let mut config = place.address.config.clone();
    config.connect_timeout(CONNECT_MAX).tcp_user_timeout(SILENCE_MAX);
    config.keepalives_idle(SILENCE_MAX).keepalives_interval(SILENCE_MAX / 5).keepalives_retries(5);
    if let Some(password) = &place.password {
        config.password(password.as_bytes());
    }
    let (client, connection) = config.connect(place.tls.clone()).await?;
    // Ends with the client; what it reports, the client's next call reports as well.
    tokio::spawn(async move { drop(connection.await) });
    client.batch_execute(&format!("SET search_path TO {SCHEMA}; {SESSION}")).await?;
    // What was answered must survive the server's crash; a stronger setting than that stays.
    let durable = "SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";
    client.execute(durable, &[]).await?;
    Ok(client)
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
        let client = connect(place).await?;
        let prepare = async |text: &str| client.prepare(text).await;
        Ok(Self {
            fence: prepare(
                "UPDATE leases SET commits = $3::bigint, block = $4::bigint,
                    expires = clock_timestamp() + $5::float8 * interval '1 second'
                 WHERE lease = $1 AND token = $2 AND commits = $3::bigint - 1",
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
}

//! Tables, and how they come to be: numbered steps forward, each in a transaction with the note that it was made.
//!
//! Each part of Trunkline that keeps tables has steps of its own. A step is never changed once it was released, and
//! never takes away what the release before it uses: while replicas are upgraded one by one, the older ones work on
//! the newer tables.

use tokio_postgres::{Client, Error};

/// All tables live in a schema of their own, so that a database can be shared.
pub const SCHEMA: &str = "trunkline";

/// Names the lock that lets one process at a time change the tables. Any number that nothing else uses.
const MIGRATION_LOCK: i64 = 0x7472_756e_6b6c_696e;

/// Brings the tables of a part to this release's version, which is how many steps it has, or leaves those of a newer
/// one as they are.
///
/// # Errors
/// When the server refuses, or the connection breaks: nothing is half done then.
pub async fn migrate(client: &Client, part: &str, steps: &[&str]) -> Result<(), Error> {
    // A step may have all rows to go through.
    let begin =
        format!("BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
    client.batch_execute(&begin).await?;
    let made = migrate_locked(client, part, steps).await;
    client.batch_execute(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    made
}

async fn migrate_locked(client: &Client, part: &str, steps: &[&str]) -> Result<(), Error> {
    // Asked for first: `IF NOT EXISTS` needs the right to create even where nothing is to be made.
    let there = client.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&SCHEMA]).await?;
    if there.is_none() {
        client.batch_execute(&format!("CREATE SCHEMA {SCHEMA}")).await?;
    }
    let there = client.query_one("SELECT to_regclass('schema_versions') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        let table = "CREATE TABLE schema_versions (
            part text, version integer, made timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (part, version)
        )";
        client.batch_execute(table).await?;
    }
    let version = "SELECT coalesce(max(version), 0) FROM schema_versions WHERE part = $1";
    let version: i32 = client.query_one(version, &[&part]).await?.try_get(0)?;
    for (number, step) in (1..).zip(steps).filter(|(number, _)| *number > version) {
        client.batch_execute(step).await?;
        client
            .execute("INSERT INTO schema_versions (part, version) VALUES ($1, $2)", &[&part, &number])
            .await?;
    }
    Ok(())
}

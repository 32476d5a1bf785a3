//! The tables, and how they come to be: numbered steps forward, each in a transaction with the note that it was made.
//!
//! A step is never changed once it was released, and never takes away what the release before it uses: while replicas
//! are upgraded one by one, the older ones work on the newer tables.

use tokio_postgres::Client;

use super::session::Trouble;

/// All tables live in a schema of their own, so that a database can be shared.
pub(super) const SCHEMA: &str = "trunkline";

/// Names the lock that lets one process at a time change the tables. Any number that nothing else uses.
const MIGRATION_LOCK: i64 = 0x7472_756e_6b6c_696e;

/// Every step from nothing to now. The version of a database is how many of them it has made.
const STEPS: &[&str] = &[
    // 1: see docs/decisions/0022-postgresql.md for what each table is for.
    "CREATE TABLE leases (
        lease integer PRIMARY KEY,
        token bigint NOT NULL,
        holder bytea NOT NULL,
        expires timestamptz NOT NULL,
        commits bigint NOT NULL,
        block bigint NOT NULL
    ) WITH (fillfactor = 10);
    CREATE TABLE key_slots (
        lease integer NOT NULL,
        slot integer NOT NULL,
        content bytea NOT NULL,
        PRIMARY KEY (lease, slot)
    ) WITH (fillfactor = 50);
    CREATE TABLE state (key bytea PRIMARY KEY, value bytea NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE cursors (stream bytea PRIMARY KEY, block bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE parts (part bigint PRIMARY KEY, lease integer NOT NULL, first_block bigint NOT NULL);
    CREATE TABLE gone (part bigint NOT NULL, block bigint NOT NULL, PRIMARY KEY (part, block));
    CREATE TABLE blocks (
        part bigint NOT NULL,
        block bigint NOT NULL,
        heads bytea NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (part, block)
    ) PARTITION BY LIST (part);
    ALTER TABLE blocks ALTER COLUMN heads SET STORAGE EXTERNAL, ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO leases VALUES (0, 0, '', '-infinity', 0, 0);",
];

/// Brings the tables to this release's version, or leaves those of a newer one as they are when it can use them.
pub(super) async fn migrate(client: &Client) -> Result<(), Trouble> {
    let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
    client.batch_execute(&begin).await?;
    let made = migrate_locked(client).await;
    client.batch_execute(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    made
}

async fn migrate_locked(client: &Client) -> Result<(), Trouble> {
    // Asked for first: `IF NOT EXISTS` needs the right to create even where nothing is to be made.
    let there = client.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&SCHEMA]).await?;
    if there.is_none() {
        client.batch_execute(&format!("CREATE SCHEMA {SCHEMA}")).await?;
    }
    let there = client.query_one("SELECT to_regclass('schema_versions') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        let table = "CREATE TABLE schema_versions (
            version integer PRIMARY KEY, made timestamptz NOT NULL DEFAULT clock_timestamp()
        )";
        client.batch_execute(table).await?;
    }
    let version = client.query_one("SELECT coalesce(max(version), 0) FROM schema_versions", &[]).await?;
    let version: i32 = version.try_get(0)?;
    for (number, step) in (1..).zip(STEPS).filter(|(number, _)| *number > version) {
        client.batch_execute(step).await?;
        client.execute("INSERT INTO schema_versions (version) VALUES ($1)", &[&number]).await?;
    }
    Ok(())
}

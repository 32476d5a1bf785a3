//! The store's tables.

/// Whose steps these are.
pub(super) const PART: &str = "gateway";

/// Every step from nothing to now; see [`trunkline_postgres::schema`].
pub(super) const STEPS: &[&str] = &[
    // 1: see docs/decisions/0022-postgresql.md for what each table is for.
    "CREATE TABLE leases (
        lease integer PRIMARY KEY,
        token bigint NOT NULL,
        holder bytea NOT NULL,
        address text NOT NULL,
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
    INSERT INTO leases VALUES (0, 0, '', '', '-infinity', 0, 0);",
];

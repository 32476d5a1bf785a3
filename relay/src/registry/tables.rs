//! The registry's tables: a row for each node and each ingress. Times are the database's.

use tokio::time::timeout;
use trunkline_postgres::client::{Client, Error, Row};
use trunkline_postgres::{Access, Failure, schema};

use super::proof::Prover;
use super::rows::{IngressRow, NodeRow, StoredIngress, StoredNode, TEXT_BYTES_MAX};
use super::{EXCHANGE_MAX, OLD_AFTER};

/// The part of the tables that these are, and its steps. A step is never changed once it was released.
const PART: &str = "relay";
const STEPS: [&str; 1] = ["
    CREATE TABLE relay_nodes (
        node integer PRIMARY KEY, tunnel text NOT NULL, api text NOT NULL, version text NOT NULL,
        instance text NOT NULL, proof bytea NOT NULL,
        started timestamptz NOT NULL DEFAULT clock_timestamp(), beat timestamptz NOT NULL DEFAULT clock_timestamp()
    ) WITH (fillfactor = 50);
    CREATE TABLE relay_ingresses (
        name text PRIMARY KEY, source text NOT NULL, version text NOT NULL,
        instance text NOT NULL, proof bytea NOT NULL,
        started timestamptz NOT NULL DEFAULT clock_timestamp(), beat timestamptz NOT NULL DEFAULT clock_timestamp()
    ) WITH (fillfactor = 50)
"];

/// Rows that are read at most, the youngest of each table: more than there may be nodes behind an ingress, to notice that
/// there are more.
pub const ROWS_MAX: usize = 300;

/// Ingresses without a beat for this long are taken out: nothing else would, where names of machines change with each
/// start.
const INGRESS_FORGOTTEN_AFTER: &str = "1 day";

/// A connection to the registry.
#[derive(Debug)]
pub struct Registry {
    client: Client,
}

impl Registry {
    /// Connects, and makes the tables if they are not there.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn connect(access: &Access) -> Result<Self, String> {
        bounded(async {
            let client = access.connect().await?;
            schema::migrate(&client, PART, &STEPS).await?;
            Ok(Self { client })
        })
        .await
    }

    /// Connects to look, and changes nothing. `None` when there are no tables yet.
    ///
    /// # Errors
    /// Why not.
    pub async fn look(access: &Access) -> Result<Option<Self>, String> {
        bounded(async {
            let client = access.connect().await?;
            let there = client.query_one("SELECT to_regclass('relay_nodes') IS NOT NULL", &[]).await?;
            Ok(there.try_get::<_, bool>(0)?.then_some(Self { client }))
        })
        .await
    }

    /// Writes a node's row. Answers which other instance wrote it lately, if one did.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn beat_node(&self, row: &NodeRow, prover: &Prover) -> Result<Option<String>, String> {
        let sql = "WITH earlier AS (
                SELECT instance FROM relay_nodes
                WHERE node = $1 AND instance <> $5 AND beat > clock_timestamp() - make_interval(secs => $7)
            )
            INSERT INTO relay_nodes (node, tunnel, api, version, instance, proof) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (node) DO UPDATE SET
                started = CASE WHEN relay_nodes.instance = excluded.instance
                    THEN relay_nodes.started ELSE clock_timestamp() END,
                tunnel = excluded.tunnel, api = excluded.api, version = excluded.version,
                instance = excluded.instance, proof = excluded.proof, beat = clock_timestamp()
            RETURNING (SELECT left(instance, 32) FROM earlier)";
        let (node, tunnel, proof) =
            (i32::from(row.node.node), row.node.tunnel.to_string(), row.prove(prover));
        let old = OLD_AFTER.as_secs_f64();
        bounded(async {
            let answer = self
                .client
                .query_one(sql, &[&node, &tunnel, &row.node.api, &row.version, &row.instance, &proof, &old])
                .await?;
            answer.try_get(0)
        })
        .await
    }

    /// Removes a node's row, unless another instance wrote it since.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn leave_node(&self, row: &NodeRow) -> Result<(), String> {
        let sql = "DELETE FROM relay_nodes WHERE node = $1 AND instance = $2";
        let node = i32::from(row.node.node);
        bounded(async { self.client.execute(sql, &[&node, &row.instance]).await.map(drop) }).await
    }

    /// Writes an ingress's row, and takes out those of long ago.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn beat_ingress(&self, row: &IngressRow, prover: &Prover) -> Result<(), String> {
        let sql =
            "INSERT INTO relay_ingresses (name, source, version, instance, proof) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (name) DO UPDATE SET
                started = CASE WHEN relay_ingresses.instance = excluded.instance
                    THEN relay_ingresses.started ELSE clock_timestamp() END,
                source = excluded.source, version = excluded.version, instance = excluded.instance,
                proof = excluded.proof, beat = clock_timestamp()";
        let sweep = format!(
            "DELETE FROM relay_ingresses WHERE beat < clock_timestamp() - interval '{INGRESS_FORGOTTEN_AFTER}'"
        );
        let (source, proof) = (row.source(), row.prove(prover));
        bounded(async {
            self.client.execute(sql, &[&row.name, &source, &row.version, &row.instance, &proof]).await?;
            self.client.execute(&sweep, &[]).await.map(drop)
        })
        .await
    }

    /// Removes an ingress's row, unless another instance wrote it since.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn leave_ingress(&self, row: &IngressRow) -> Result<(), String> {
        let sql = "DELETE FROM relay_ingresses WHERE name = $1 AND instance = $2";
        bounded(async { self.client.execute(sql, &[&row.name, &row.instance]).await.map(drop) }).await
    }

    /// The nodes, the youngest rows first, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn nodes(&self) -> Result<Vec<StoredNode>, String> {
        let read = |row: &Row| {
            Ok(StoredNode {
                node: row.try_get(0)?,
                tunnel: row.try_get(1)?,
                api: row.try_get(2)?,
                version: row.try_get(3)?,
                instance: row.try_get(4)?,
                proof: row.try_get(5)?,
                age_s: row.try_get(6)?,
            })
        };
        self.read("node, left(tunnel, $1), left(api, $1)", "relay_nodes", read).await
    }

    /// The ingresses, the youngest rows first, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn ingresses(&self) -> Result<Vec<StoredIngress>, String> {
        let read = |row: &Row| {
            Ok(StoredIngress {
                name: row.try_get(0)?,
                source: row.try_get(1)?,
                version: row.try_get(2)?,
                instance: row.try_get(3)?,
                proof: row.try_get(4)?,
                age_s: row.try_get(5)?,
            })
        };
        self.read("left(name, $1), left(source, $1)", "relay_ingresses", read).await
    }

    /// Reads a table. Texts are cut one character beyond what is believed, so that nothing long comes at all.
    async fn read<T>(
        &self,
        columns: &str,
        table: &str,
        read: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Vec<T>, String> {
        let sql = format!(
            "SELECT {columns}, left(version, $1), left(instance, $1), substring(proof FROM 1 FOR $1),
                extract(epoch FROM clock_timestamp() - beat)::float8
            FROM {table} ORDER BY beat DESC LIMIT {ROWS_MAX}"
        );
        let cut = i32::try_from(TEXT_BYTES_MAX + 1).unwrap_or(i32::MAX);
        bounded(async { self.client.query(&sql, &[&cut]).await?.iter().map(read).collect() }).await
    }
}

/// An exchange with the database, for as long as it may take.
async fn bounded<T>(exchange: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match timeout(EXCHANGE_MAX, exchange).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(match Failure::from(&error) {
            Failure::Passing(text) | Failure::Final(text) => text,
            Failure::Full => "the database's disk is full".to_owned(),
        }),
        Err(_) => Err(format!("no answer within {} s", EXCHANGE_MAX.as_secs())),
    }
}

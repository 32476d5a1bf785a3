//! The storage engine of a scenario's deployments: their own disks, or one PostgreSQL server, perhaps with a standby.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use trunkline_common::config::{quoted, with_setting};
use trunkline_common::secret;
use trunkline_gateway::init::CONFIG_FILE;
use trunkline_testkit::postgres::{Care, PASSWORD, Server, USER};

use crate::error::LoadError;
use crate::procfs;

/// The password's file in a gateway's directory.
const PASSWORD_FILE: &str = "database.password";

/// Which engine, and how many gateways share it.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct StoreArgs {
    /// Where gateways keep what they must not lose. For `postgres` a server is started, with its data in the directory of
    /// the run; both deployments have a database there.
    #[arg(long, value_enum, default_value_t = StoreKind::Redb)]
    pub store: StoreKind,
    /// Gateways of each deployment, on one database.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub replicas: u8,
}

/// A storage engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreKind {
    /// The embedded one: each gateway by itself.
    Redb,
    /// A PostgreSQL server.
    Postgres,
}

impl StoreArgs {
    /// # Errors
    /// When there are replicas without a database that they could share.
    pub(crate) fn check(self) -> Result<Self, LoadError> {
        if self.replicas > 1 && self.store != StoreKind::Postgres {
            return Err(LoadError::Usage(
                "--replicas needs --store postgres: they share a database".to_owned(),
            ));
        }
        Ok(self)
    }
}

/// A PostgreSQL server of a scenario. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Database {
    primary: Arc<Server>,
    standby: Option<Arc<Server>>,
}

/// What a database takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Extent {
    /// All its tables and indexes.
    bytes: u64,
    /// Rows that were changed or deleted, and not cleaned up.
    dead_tuples: u64,
}

impl Database {
    /// Starts a server with its data below `root`.
    ///
    /// # Errors
    /// When there is none on this machine, or it does not start.
    pub(crate) async fn start(root: &Path, port: SocketAddr) -> Result<Self, LoadError> {
        // The server may run as another user, who has to get through.
        let mode =
            fs::metadata(root).map_err(LoadError::io("looking at the directory"))?.permissions().mode();
        fs::set_permissions(root, fs::Permissions::from_mode(mode | 0o011))
            .map_err(LoadError::io("letting the database's user into the directory"))?;
        let (dir, port) = (root.join("database"), port.port());
        let server =
            blocking("starting a PostgreSQL server", move || Server::make(&dir, port, Care::Durable));
        Ok(Self { primary: Arc::new(server.await?), standby: None })
    }

    /// Adds a standby, without which nothing is acknowledged from now on.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn add_standby(&mut self, root: &Path, port: SocketAddr) -> Result<(), LoadError> {
        let (dir, port) = (root.join("database-standby"), port.port());
        let primary = Arc::clone(&self.primary);
        let standby = blocking("making a standby", move || {
            let standby = primary.standby(&dir, port)?;
            primary.wait_for_standby()?;
            Ok(standby)
        });
        self.standby = Some(Arc::new(standby.await?));
        Ok(())
    }

    /// Makes an empty database for a deployment.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn create(&self, domain: &str) -> Result<(), LoadError> {
        let sql = format!("CREATE DATABASE {}", name(domain));
        let primary = Arc::clone(&self.primary);
        blocking("making a database", move || primary.ask("postgres", &sql)).await.map(drop)
    }

    /// Tells the gateway in `dir` that its store is the database of its deployment.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub(crate) fn configure(&self, dir: &Path, domain: &str) -> Result<(), LoadError> {
        let file = dir.join(CONFIG_FILE);
        let text = fs::read_to_string(&file).map_err(LoadError::io(format!("reading {}", file.display())))?;
        let text = with_setting(&text, "", "store", &quoted(self.url(domain)));
        let text = with_setting(&text, "", "store_password_file", &quoted(PASSWORD_FILE));
        fs::write(&file, text).map_err(LoadError::io(format!("writing {}", file.display())))?;
        secret::create(&dir.join(PASSWORD_FILE), PASSWORD.as_bytes())
            .map_err(LoadError::io("writing the database's password"))
    }

    fn url(&self, domain: &str) -> String {
        let servers = std::iter::once(&self.primary).chain(&self.standby);
        let hosts: Vec<String> = servers.map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("postgres://{USER}@{}/{}?sslmode=disable", hosts.join(","), name(domain))
    }

    /// Processor time of all the primary's processes so far.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn cpu(&self) -> Result<Duration, LoadError> {
        let gone = || LoadError::Usage("the database does not run".to_owned());
        procfs::family_cpu(self.primary.postmaster().ok_or_else(gone)?)
    }

    /// What a deployment's database takes.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn extent(&self, domain: &str) -> Result<Extent, LoadError> {
        let sql = "SELECT pg_database_size(current_database()), coalesce(sum(n_dead_tup), 0)::bigint
            FROM pg_stat_user_tables";
        let (primary, name) = (Arc::clone(&self.primary), name(domain));
        let answer = blocking("measuring a database", move || primary.ask(&name, sql)).await?;
        let numbers =
            answer.split_once('|').and_then(|(bytes, dead)| Some((bytes.parse().ok()?, dead.parse().ok()?)));
        let (bytes, dead_tuples) = numbers.ok_or_else(|| LoadError::Answer {
            request: sql.to_owned(),
            why: format!("`{answer}` are not two numbers"),
        })?;
        Ok(Extent { bytes, dead_tuples })
    }

    /// Ends the primary as a crash does.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) async fn crash(&self) -> Result<(), LoadError> {
        let primary = Arc::clone(&self.primary);
        blocking("ending the PostgreSQL server", move || primary.end()).await
    }

    /// Starts the primary again.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn restart(&self) -> Result<(), LoadError> {
        let primary = Arc::clone(&self.primary);
        blocking("starting the PostgreSQL server again", move || primary.run()).await
    }

    /// Whether there is a standby.
    pub(crate) fn has_standby(&self) -> bool {
        self.standby.is_some()
    }

    /// The standby takes the place of the primary, which has ended.
    ///
    /// # Errors
    /// When there is none, or it does not.
    pub(crate) async fn promote(&mut self) -> Result<(), LoadError> {
        let Some(standby) = &mut self.standby else {
            return Err(LoadError::Usage("there is no standby to promote".to_owned()));
        };
        std::mem::swap(&mut self.primary, standby);
        let primary = Arc::clone(&self.primary);
        blocking("promoting the standby", move || primary.promote()).await
    }

    /// The primary that a standby took the place of comes back as the standby, with nothing of what it had.
    ///
    /// # Errors
    /// When it cannot be made one.
    pub(crate) async fn follow_again(&self) -> Result<(), LoadError> {
        let Some(standby) = self.standby.clone() else { return Ok(()) };
        let primary = Arc::clone(&self.primary);
        blocking("making the old primary a standby", move || standby.follow(&primary)).await
    }

    /// Waits until the standby has all that the primary has, so that a promotion would lose nothing.
    ///
    /// # Errors
    /// When it takes too long.
    pub(crate) async fn replicated(&self) -> Result<(), LoadError> {
        if self.standby.is_none() {
            return Ok(());
        }
        let primary = Arc::clone(&self.primary);
        blocking("waiting for the standby", move || primary.wait_for_standby()).await
    }
}

/// A deployment's database: the first label of its domain.
fn name(domain: &str) -> String {
    domain.split('.').next().unwrap_or(domain).to_owned()
}

/// The server's programs are waited for aside: this thread drives the load.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(LoadError::io(doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_without_a_shared_database_are_refused() {
        let args = |store, replicas| StoreArgs { store, replicas };
        assert!(args(StoreKind::Redb, 1).check().is_ok());
        assert!(args(StoreKind::Redb, 2).check().is_err());
        assert!(args(StoreKind::Postgres, 3).check().is_ok());
    }
}

//! What `--check` says of the registry. That it does not answer is a warning: nodes and ingresses start without it.

use std::net::IpAddr;
use std::path::Path;

use trunkline_http::cli::check::Outcome;
use trunkline_postgres::settings::Settings;

use super::proof::Prover;
use super::tables::Registry;
use crate::config::Config;
use crate::ingress::config::IngressConfig;
use crate::key;

/// What is said of a database that nobody registered in yet.
const NO_TABLES: &str = "it has no tables yet: the first to start makes them, and needs the right to";

/// For a node.
#[must_use]
pub fn node(config: &Config) -> Outcome {
    let outcome = look(config.registry(), &config.media.ufrag_key_file, async |registry, prover| {
        let ingresses = registry.ingresses().await?.into_iter().filter_map(|row| row.check(prover).ok());
        let listed = |source: IpAddr| config.ingress.from.iter().any(|from| from.to_canonical() == source);
        let unlisted = ingresses.filter(super::rows::Heard::is_fresh).find_map(|ingress| {
            let source = ingress.row.source?.to_canonical();
            (!listed(source)).then_some(source)
        });
        Ok(unlisted.map(|source| {
            format!("an ingress at {source} is registered that ingress.from lacks: it cannot hand calls over to this node")
        }))
    });
    let is_local = config.registry_api.is_none() && config.api.listen.ip().is_loopback();
    match outcome {
        Outcome::Fine if !config.registry.is_empty() && is_local => Outcome::Warning(
            "ingresses are told an address of api.listen that only this machine reaches: expected registry_api"
                .into(),
        ),
        outcome => outcome,
    }
}

/// For an ingress.
#[must_use]
pub fn ingress(config: &IngressConfig) -> Outcome {
    let from = config.tunnel.listen.ip();
    look(config.registry(), &config.media.ufrag_key_file, async |registry, prover| {
        let rows = registry.nodes().await?.into_iter();
        let wrong: Vec<_> = rows
            .filter_map(|row| {
                let node = row.node;
                row.check(prover, from).err().map(|why| format!("node {node}: {why}"))
            })
            .collect();
        Ok((!wrong.is_empty()).then(|| format!("rows are not followed: {}", wrong.join("; "))))
    })
}

/// Connects, and looks; what is found is worth a warning.
fn look(
    database: Option<Settings<'_>>,
    key: &Path,
    find: impl AsyncFnOnce(&Registry, &Prover) -> Result<Option<String>, String> + Send,
) -> Outcome {
    let Some(database) = database else { return Outcome::Fine };
    let access = match database.access("trunkline-relay check") {
        Ok(access) => access,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    // What is wrong with the key, its own check says.
    let Ok(key) = key::read(key) else { return Outcome::Fine };
    // A thread of its own, as whoever checks may be in a runtime.
    let looked = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(async {
                match Registry::look(&access).await? {
                    Some(registry) => find(&registry, &Prover::derive(&key)).await,
                    None => Ok(Some(NO_TABLES.to_owned())),
                }
            })
        });
        looking.join().unwrap_or_else(|_| Err("looking at it failed".to_owned()))
    });
    match looked {
        Ok(None) => Outcome::Fine,
        Ok(Some(warning)) => Outcome::Warning(warning),
        Err(error) => Outcome::Warning(format!(
            "{} cannot be used ({error}): nothing depends on it, but nodes that only it knows are not found",
            access.name()
        )),
    }
}

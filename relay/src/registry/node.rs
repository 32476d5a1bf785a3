//! A node says that it is there, for as long as it runs. Calls and their packets do not wait for any of this.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use trunkline_postgres::Access;

use super::outage::Outage;
use super::proof::Prover;
use super::rows::NodeRow;
use super::tables::Registry;
use super::{Answered, BEAT_EVERY, FAREWELL_MAX, tell_age};

/// How old the last beat is that the database took.
const AGE: &str = "trunkline_relay_registry_age_seconds";

/// A node in the registry.
#[derive(Debug)]
pub struct Registration {
    /// The way in.
    pub access: Access,
    /// Makes the row's proof.
    pub prover: Prover,
    /// What it says.
    pub row: NodeRow,
    /// `ingress.from`: an ingress in the registry that it lacks is worth a warning.
    pub ingresses: Vec<IpAddr>,
}

impl Registration {
    /// Says that the node is there until told to stop, then that it is gone.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        metrics::describe_gauge!(AGE, "Seconds since the registry last took this node's beat");
        let answered = Answered::default();
        let mut registry = None;
        tokio::select! {
            () = self.beat(&mut registry, &answered) => {}
            () = tell_age(&answered, AGE) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if let Some(registry) = registry {
            // Otherwise the row grows old.
            let _ = timeout(FAREWELL_MAX, registry.leave_node(&self.row)).await;
        }
    }

    async fn beat(&self, registry: &mut Option<Registry>, answered: &Answered) {
        let mut outage = Outage::default();
        // What somebody was warned of already.
        let mut unlisted = BTreeSet::new();
        let mut was_here = false;
        loop {
            let wait = match self.exchange(registry).await {
                Ok(said) => {
                    answered.note(Instant::now());
                    if outage.answered() {
                        info!("the registry answers again");
                    }
                    if said.other.is_some() && was_here {
                        let node = self.row.node.node;
                        warn!(
                            node,
                            "another process registers as this node: give each node a number of its own"
                        );
                    }
                    for (name, source) in &said.unlisted {
                        if !unlisted.contains(name) {
                            warn!(ingress = ?name, %source, "an ingress is registered that ingress.from lacks: it cannot hand calls over to this node");
                        }
                    }
                    unlisted = said.unlisted.into_iter().map(|(name, _)| name).collect();
                    was_here = true;
                    BEAT_EVERY
                }
                Err(error) => {
                    *registry = None;
                    let (wait, first) = outage.failed();
                    if first {
                        let database = self.access.name();
                        warn!(%database, %error, "the registry does not answer: ingresses that know this node go on with it");
                    }
                    wait
                }
            };
            sleep(wait).await;
        }
    }

    async fn exchange(&self, registry: &mut Option<Registry>) -> Result<Said, String> {
        let registry = match registry {
            Some(registry) => registry,
            None => registry.insert(Registry::connect(&self.access).await?),
        };
        let other = registry.beat_node(&self.row, &self.prover).await?;
        let ingresses = registry.ingresses().await?.into_iter();
        // One that cannot be believed is not worth a warning here: nothing follows from any of them.
        let believed = ingresses.filter_map(|row| row.check(&self.prover).ok());
        let unlisted = believed.filter(|ingress| ingress.is_fresh()).filter_map(|ingress| {
            let source = ingress.row.source?.to_canonical();
            let listed = self.ingresses.iter().any(|from| from.to_canonical() == source);
            (!listed).then_some((ingress.row.name, source))
        });
        Ok(Said { other, unlisted: unlisted.collect() })
    }
}

/// What a beat told.
struct Said {
    /// Another instance that wrote this node's row.
    other: Option<String>,
    /// Ingresses that the node's configuration lacks.
    unlisted: Vec<(String, IpAddr)>,
}

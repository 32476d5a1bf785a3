//! Nodes that an ingress finds in the registry (see [`crate::registry`]). It reads them every few seconds, says that it is
//! there itself, and tells data plane and front what changed; what changes is decided in [`super::places`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use trunkline_postgres::Access;

use super::config::{IngressConfig, NodeConfig};
use super::front::{Upstream, Upstreams};
use super::places::{Change, Places, Skipped};
use super::plane::Plane;
use crate::registry::outage::Outage;
use crate::registry::proof::Prover;
use crate::registry::rows::{Heard, IngressRow, NodeRow, StoredNode, new_instance};
use crate::registry::tables::{ROWS_MAX, Registry};
use crate::registry::{Answered, BEAT_EVERY, FAREWELL_MAX, tell_age};

/// How long an ingress that starts waits for the registry before it goes on without. Longer is longer until it serves
/// while the database is away; shorter makes it more likely that calls of nodes that only the registry knows have to wait.
const FIRST_READ_MAX: Duration = Duration::from_secs(3);

const AGE: &str = "trunkline_ingress_registry_age_seconds";
const NODES: &str = "trunkline_ingress_registry_nodes";

/// What an ingress does with the registry.
pub struct Registered {
    access: Access,
    prover: Prover,
    row: IngressRow,
    /// Where it sends to nodes from.
    from: IpAddr,
    places: Places,
    plane: Arc<Plane>,
    upstreams: Arc<Upstreams>,
    registry: Option<Registry>,
    answered: Arc<Answered>,
    outage: Outage,
    /// What somebody was warned of already.
    warned: BTreeSet<(i32, &'static str)>,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").field("access", &self.access).finish_non_exhaustive()
    }
}

/// What an ingress says of itself.
fn own_row(config: &IngressConfig) -> IngressRow {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(64).collect();
    IngressRow {
        name: format!("{host} {}", config.tunnel.listen),
        source: Some(config.tunnel.listen.ip()).filter(|ip| !ip.is_unspecified()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: new_instance(),
    }
}

impl Registered {
    /// For an ingress with these parts, which know the nodes of its configuration.
    #[must_use]
    pub fn new(
        config: &IngressConfig,
        access: Access,
        key: &[u8; 32],
        plane: Arc<Plane>,
        upstreams: Arc<Upstreams>,
    ) -> Self {
        metrics::describe_gauge!(AGE, "Seconds since the registry was last read");
        metrics::describe_gauge!(NODES, "Nodes that were in the registry when it was last read");
        metrics::gauge!(NODES).set(0.0);
        upstreams.set_incomplete(true);
        Self {
            access,
            prover: Prover::derive(key),
            row: own_row(config),
            from: config.tunnel.listen.ip(),
            places: Places::new(&config.nodes),
            plane,
            upstreams,
            registry: None,
            answered: Arc::default(),
            outage: Outage::default(),
            warned: BTreeSet::new(),
        }
    }

    /// Reads the registry for the first time, and waits for it only so long. Answers when to read it next.
    pub async fn first(&mut self) -> Duration {
        if let Ok(wait) = timeout(FIRST_READ_MAX, self.turn()).await {
            return wait;
        }
        self.failed(&format!("no answer within {} s", FIRST_READ_MAX.as_secs()))
    }

    /// Follows the registry until told to stop; `wait` is when to read it next.
    pub async fn run(mut self, mut wait: Duration, mut stop: watch::Receiver<bool>) {
        let answered = Arc::clone(&self.answered);
        let following = async {
            loop {
                sleep(wait).await;
                wait = self.turn().await;
            }
        };
        tokio::select! {
            () = following => {}
            () = tell_age(&answered, AGE) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if let Some(registry) = &self.registry {
            let _ = timeout(FAREWELL_MAX, registry.leave_ingress(&self.row)).await;
        }
    }

    /// Reads it once. Answers when to do so again.
    async fn turn(&mut self) -> Duration {
        match self.read().await {
            Ok((good, bad)) => {
                self.answered.note(Instant::now());
                if self.outage.answered() {
                    info!("the registry answers again");
                }
                self.follow(&good, bad);
                BEAT_EVERY
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &str) -> Duration {
        self.registry = None;
        let (wait, first) = self.outage.failed();
        if first {
            let database = self.access.name();
            warn!(%database, %error, "the registry does not answer: going on with the nodes that are known");
        }
        wait
    }

    async fn read(&mut self) -> Result<(Vec<Heard<NodeRow>>, Vec<Bad>), String> {
        let registry = match &self.registry {
            Some(registry) => registry,
            None => self.registry.insert(Registry::connect(&self.access).await?),
        };
        registry.beat_ingress(&self.row, &self.prover).await?;
        nodes(registry, &self.prover, self.from).await
    }

    /// Does what the registry said. Who goes is forgotten by the front first, who comes is known to the data plane first:
    /// nobody is sent where no packets go.
    fn follow(&mut self, good: &[Heard<NodeRow>], bad: Vec<Bad>) {
        #[allow(clippy::cast_precision_loss, reason = "a few hundred at most")]
        metrics::gauge!(NODES).set(good.len() as f64);
        let upstreams = &self.upstreams;
        let (changes, skipped) = self.places.merge(good, |at| upstreams.is_live(at));
        for change in &changes {
            if let Change::Forget(at) = change {
                upstreams.forget(*at);
            }
        }
        if !changes.is_empty() {
            self.plane.set_nodes(self.places.nodes());
        }
        for change in changes {
            match change {
                Change::Put(at, NodeConfig { node, api, .. }) => {
                    let Ok(api) = api.parse::<Url>() else { continue };
                    info!(node, "a node registered");
                    upstreams.put(at, Upstream { node, api });
                }
                Change::Forget(at) => info!(place = at, "a node that is gone was forgotten"),
            }
        }
        upstreams.set_incomplete(false);
        let skipped = skipped.into_iter().map(|Skipped { node, why }| (i32::from(node), why));
        let all: BTreeSet<_> = bad.into_iter().chain(skipped).collect();
        for (node, why) in all.difference(&self.warned) {
            warn!(node, why, "a node's row in the registry is not followed");
        }
        self.warned = all;
    }
}

/// The number in a row that is not believed, and why not.
type Bad = (i32, &'static str);

/// The nodes that are in the registry, and the rows that are not believed.
async fn nodes(
    registry: &Registry,
    prover: &Prover,
    from: IpAddr,
) -> Result<(Vec<Heard<NodeRow>>, Vec<Bad>), String> {
    let rows = registry.nodes().await?;
    if rows.len() >= ROWS_MAX {
        tracing::debug!("the registry has more nodes than are read: the youngest are");
    }
    let mut bad = Vec::new();
    let check = |row: StoredNode| {
        let node = row.node;
        row.check(prover, from).map_err(|why| bad.push((node, why))).ok()
    };
    let good = rows.into_iter().filter_map(check).collect();
    Ok((good, bad))
}

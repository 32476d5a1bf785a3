//! Whole gateways in this process, peered over real sockets on loopback: what two operators and their messaging
//! servers get, whatever happens in between.
//!
//! # Layout
//! - `site`: a gateway with its directory, disk, APIs, and a network of its own in front
//! - `load`: messaging servers that write and read all the time, and compare at the end
//! - one module of tests per subject

use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod delivery;
mod demand;
mod identity;
mod load;
mod manual;
mod moving;
mod policy;
mod replicas;
mod restore;
mod rotation;
mod shutdown;
mod site;
mod storage;
mod trust;
mod weather;

use load::{Load, Reader};
use site::{Site, peer};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks until `condition` holds, and answers after how long.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    started.elapsed()
}

/// Two deployments that are peered.
async fn two_sites() -> (Site, Site) {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    peer(&alpha, &beta).await;
    (alpha, beta)
}

/// What `one` must say to add `other` by hand, as it is known already.
async fn by_hand(one: &Site, other: &Site) -> Value {
    let known = one.peer(other).await;
    json!({
        "domain": other.domain, "pins": [known["pins"][0]["pin"]], "endpoints": known["endpoints"],
        "local_domains": known["local_domains"], "allow_private_ips": true,
    })
}

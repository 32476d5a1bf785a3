//! What is wrong with this gateway, and what to do about it: every check is a sentence of finding and a sentence of
//! advice.
//!
//! Facts are gathered in one place and judged in another: a verdict is a small function from facts to a [`Check`], so
//! that tests give it facts no test machine has.
//!
//! # Layout
//! - [`Check`], [`Outcome`]: what is said
//! - `endpoints`: whether peers can reach us: DNS, ports, what is shown there, who is refused
//! - `machine`: clock, disk and the file system under the store
//! - `database`: the one that the store is in, when it is one
//! - `clock`: what the kernel thinks of its clock
//! - `files`: keys and tokens, and who else may read them; our certificate's days
//! - [`peers`]: each peer, and whether anybody fetches what came
//! - `replicas`: which other gateways share the store with this one
//! - [`offline`]: what can be known while the gateway does not run

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::clock::now;
use crate::config::Config;
use crate::hub::Hub;
use crate::identity::Identity;

mod clock;
pub(crate) mod database;
mod endpoints;
mod files;
mod machine;
pub mod offline;
pub mod peers;
mod replicas;

/// When all dials must have come to something. Longer waits for slow DNS servers; people wait for the answer.
const DIALS_WITHIN: Duration = Duration::from_secs(9);

/// How long files and disk may take: more is a network file system that hangs, or a key command that asks somebody.
const FILES_WITHIN: Duration = Duration::from_secs(8);

/// How long the hub may take to answer.
const HUB_WITHIN: Duration = Duration::from_secs(3);

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Something does not work.
    Failed,
    /// It works, and will not for ever, or not as was meant.
    Warning,
    /// As it should be.
    Ok,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which check: a word that groups those of one kind.
    pub check: String,
    /// Of what: an endpoint, a peer, a file.
    pub subject: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found, in a sentence.
    pub finding: String,
    /// What to do, in a sentence; nothing when all is well.
    pub advice: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(check: &str, subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(check, subject, Outcome::Ok, finding, None)
    }

    /// It works, and will not for ever, or not as was meant.
    pub fn warning(
        check: &str,
        subject: impl Into<String>,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, Outcome::Warning, finding, Some(advice.into()))
    }

    /// Something does not work.
    pub fn failed(
        check: &str,
        subject: impl Into<String>,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, Outcome::Failed, finding, Some(advice.into()))
    }

    fn new(
        check: &str,
        subject: impl Into<String>,
        outcome: Outcome,
        finding: impl Into<String>,
        advice: Option<String>,
    ) -> Self {
        Self { check: check.to_owned(), subject: subject.into(), outcome, finding: finding.into(), advice }
    }
}

/// A running gateway, as far as it is looked at. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Patient {
    /// Its core.
    pub hub: Hub,
    /// Its certificate.
    pub identity: Arc<Identity>,
    /// Its settings.
    pub config: Arc<Config>,
    /// Where it listens for peers.
    pub link: SocketAddr,
}

/// Looks at everything, all at once. Takes about ten seconds at most.
pub async fn examine(patient: &Patient) -> Vec<Check> {
    let began = Instant::now();
    let Patient { config, identity, link, .. } = patient;
    let (files_config, pair) = (Arc::clone(config), identity.current());
    let still = tokio::task::spawn_blocking(move || {
        let mut checks = machine::examine(&files_config);
        checks.extend(database::examine(&files_config));
        checks.extend(files::examine(&files_config, Some(&pair.certificate)));
        checks
    });
    let (reach, queues, still) = tokio::join!(
        Box::pin(endpoints::examine(config, identity.current().pin(), *link, began + DIALS_WITHIN)),
        overview(&patient.hub),
        timeout(FILES_WITHIN, still),
    );
    let still = still.ok().and_then(Result::ok).unwrap_or_else(|| vec![files::hang(config)]);
    let replicas = replicas::examine(config, &patient.hub);
    [reach, queues, replicas, still].concat()
}

async fn overview(hub: &Hub) -> Vec<Check> {
    let failed = |finding: String| {
        let advice = "Look into the log from when it began; nothing that was acknowledged is lost, and a restart \
                      starts from what the store holds.";
        vec![Check::failed("gateway", "core", finding, advice)]
    };
    match timeout(HUB_WITHIN, hub.overview()).await {
        Ok(Ok(overview)) => peers::overview(&overview, now()),
        Ok(Err(error)) => failed(format!("The gateway cannot do its work: {error}.")),
        Err(_) => failed(format!("The core has not answered for {} s.", HUB_WITHIN.as_secs())),
    }
}

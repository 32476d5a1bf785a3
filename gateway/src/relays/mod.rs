//! The deployment's relays, as its operators see them: which are up, what calls are on them, and what was.
//!
//! A relay says what an operator may know of a call with its admin token. Here it is kept by count only: names of people
//! are not read, let alone kept. Nothing of this is on an envelope's way: a relay that is slow, gone or hostile costs one
//! task of its own, bounded in time and bytes.
//!
//! # Layout
//! - [`config`]: the `[[relays]]` of the configuration
//! - `client`: requests to one relay, and what is said when they fail
//! - `answers`: what relays answer, as far as it is read
//! - `view`: what operators are shown
//! - `poll`: the tasks that look

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Notify;

mod answers;
mod client;
pub mod config;
mod poll;
#[cfg(test)]
mod tests;
mod view;

use crate::history::{Ring, SAMPLES_MAX};
use client::{CallError, Client};
pub use config::RelayConfig;
pub use poll::run;
pub use view::{CallView, CallsError, CallsView, Kind, RelayView, Sample, State, Transports};

/// How often relays are looked at while somebody watches.
pub const EVERY: Duration = Duration::from_secs(2);

/// How often otherwise: often enough for metrics and alerts.
const EVERY_IDLE: Duration = Duration::from_secs(15);

/// How long somebody counts as watching after they asked.
const WATCHED: Duration = Duration::from_secs(60);

/// Calls that are looked at in detail in one round, over all relays; the largest of each first. More shows more of a busy
/// deployment, and asks its relays for more.
pub const DETAILED_MAX: usize = 200;

/// Why a request to a relay came to nothing: for the operator, who is told what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RelayError {
    /// The configuration names no such relay.
    #[error("there is no relay `{0}`: `[[relays]]` of the configuration names them")]
    NoSuchRelay(String),
    /// No relay has this call.
    #[error("no relay has the call `{0}`, any more")]
    NoSuchCall(String),
    /// The relay was asked for what only its nodes do.
    #[error(
        "{0} is an ingress, and draining is a matter of one node: give each node a `[[relays]]` entry of its own, and \
         drain it there"
    )]
    Ingress(String),
    /// The relay refused, failed, or cannot be reached. A sentence.
    #[error("relay `{relay}`: {problem}")]
    Failed {
        /// Which.
        relay: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// The relays of this deployment. Cheap to share.
#[derive(Debug, Default)]
pub struct Relays {
    relays: Vec<Relay>,
    history: Mutex<History>,
    asked: Mutex<Option<Instant>>,
    /// Somebody asks again after nobody did.
    woken: Notify,
}

/// One of them.
#[derive(Debug)]
struct Relay {
    name: String,
    url: String,
    client: Client,
    seen: Mutex<Seen>,
    /// Something was changed there: look again.
    changed: Notify,
}

/// What was seen of it last.
#[derive(Clone, Debug, Default)]
struct Seen {
    state: State,
    since: u64,
    error: Option<String>,
    /// Of the last round that went well; nothing of a relay that is down.
    facts: answers::Facts,
    calls: Vec<CallView>,
}

#[derive(Debug)]
struct History(Ring<Sample>);

impl Default for History {
    fn default() -> Self {
        Self(Ring::new(SAMPLES_MAX))
    }
}

impl Relays {
    /// The relays of a configuration. Nothing is asked of them until [`run`] is.
    #[must_use]
    pub fn new(configured: &[RelayConfig]) -> Self {
        let relays = configured.iter().map(|config| Relay {
            name: config.name.clone(),
            url: config.url.clone(),
            client: Client::new(config),
            seen: Mutex::default(),
            changed: Notify::new(),
        });
        Self { relays: relays.collect(), ..Self::default() }
    }

    /// All relays, for somebody who watches.
    #[must_use]
    pub fn watch(&self) -> Vec<RelayView> {
        self.asked();
        self.list()
    }

    /// All relays, without looking at them more often for it.
    #[must_use]
    pub fn list(&self) -> Vec<RelayView> {
        self.relays.iter().map(Relay::view).collect()
    }

    /// All calls, for somebody who watches, and why those of some relays are missing.
    #[must_use]
    pub fn calls(&self) -> CallsView {
        self.asked();
        let mut view = CallsView::default();
        for relay in &self.relays {
            let seen = relay.seen();
            view.calls.extend(seen.calls.iter().cloned());
            if let Some(error) = seen.error.clone() {
                view.errors.push(CallsError { relay: relay.name.clone(), error });
            }
        }
        view
    }

    /// What was, oldest first, for somebody who watches.
    #[must_use]
    pub fn history(&self) -> Vec<Sample> {
        self.asked();
        self.samples().0.to_vec()
    }

    /// Ends a call at the relay that has it.
    ///
    /// # Errors
    /// When none has it, or one that may have it cannot be asked.
    pub async fn end(&self, call: &str) -> Result<(), RelayError> {
        let none = || RelayError::NoSuchCall(call.to_owned());
        // What is put into a path was looked at before.
        if !answers::is_call_id(call) {
            return Err(none());
        }
        // Where it was seen first; it may have moved, or begun since.
        let mut order: Vec<&Relay> = self.relays.iter().collect();
        order.sort_by_key(|relay| !relay.seen().calls.iter().any(|view| view.call_id == call));
        let mut failed = None;
        for relay in order {
            match relay.client.end(call).await {
                Ok(()) => {
                    relay.changed.notify_one();
                    return Ok(());
                }
                Err(CallError::NotThere) => {}
                Err(error) => failed = failed.or_else(|| Some(relay.failed(&error))),
            }
        }
        Err(failed.unwrap_or_else(none))
    }

    /// Tells a node to take nobody new, and perhaps when to end what there is.
    ///
    /// # Errors
    /// When there is no such relay, it is an ingress, or it cannot be asked.
    pub async fn drain(&self, name: &str, deadline_s: Option<u64>) -> Result<(), RelayError> {
        let relay = self.node(name)?;
        let done = relay.client.drain(deadline_s).await;
        relay.changed.notify_one();
        done.map_err(|error| relay.failed(&error))
    }

    /// Undoes that.
    ///
    /// # Errors
    /// As [`Relays::drain`].
    pub async fn undrain(&self, name: &str) -> Result<(), RelayError> {
        let relay = self.node(name)?;
        let done = relay.client.undrain().await;
        relay.changed.notify_one();
        done.map_err(|error| relay.failed(&error))
    }

    fn node(&self, name: &str) -> Result<&Relay, RelayError> {
        let relay = self.relays.iter().find(|relay| relay.name == name);
        let relay = relay.ok_or_else(|| RelayError::NoSuchRelay(name.to_owned()))?;
        match relay.seen().facts.kind {
            Some(Kind::Ingress) => Err(RelayError::Ingress(name.to_owned())),
            _ => Ok(relay),
        }
    }

    fn asked(&self) {
        let before = self.asked.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        if before.is_none_or(|before| before.elapsed() > WATCHED) {
            self.woken.notify_waiters();
        }
    }

    fn is_watched(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.is_some_and(|asked| asked.elapsed() <= WATCHED)
    }

    fn pause(&self) -> Duration {
        if self.is_watched() { EVERY } else { EVERY_IDLE }
    }

    fn samples(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &CallError) -> RelayError {
        match error {
            CallError::NodeOnly => RelayError::Ingress(self.name.clone()),
            error => RelayError::Failed { relay: self.name.clone(), problem: error.to_string() },
        }
    }
}

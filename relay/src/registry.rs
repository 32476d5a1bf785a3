//! The registry: a database in which nodes and ingresses say that they are there, so that ingresses find nodes that
//! nobody listed for them. Nothing depends on it: without an answer from it everybody goes on with what they know
//! (docs/decisions/0024).
//!
//! # Layout
//! - [`settings`]: which database, and the way in; [`check`]: what `--check` says of it
//! - [`rows`]: what is said there, and what of it is believed; [`proof`]: who may say it
//! - [`tables`]: where it is kept; [`outage`]: when to try again, and what to log of that
//! - [`node`]: a node says that it is there. What an ingress does with that is in [`crate::ingress::registered`]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub mod check;
pub mod node;
pub mod outage;
pub mod proof;
pub mod rows;
pub mod settings;
pub mod tables;

/// How often a row is written, and the others are read. Rarer finds new nodes later; more often is work for the database:
/// one small update for each node and ingress.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);

/// A row that was not written for this long says nothing of now: several beats, and the longest wait between two tries of
/// a node that could not reach the database. Longer keeps dead nodes in the list.
pub const OLD_AFTER: Duration = Duration::from_secs(40);

/// How long one exchange with the database may take, connecting included.
pub const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// How long a program that stops may take to remove its row. Without that, the row grows old.
pub const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// When the database last answered.
#[derive(Debug)]
pub struct Answered(Mutex<Instant>);

impl Default for Answered {
    /// Until it answers, what counts is the start.
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Answered {
    /// It did.
    pub fn note(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// How long ago it did.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sets a gauge to the age of the last answer again and again, also while an exchange hangs. Never ends.
pub async fn tell_age(answered: &Answered, gauge: &'static str) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        metrics::gauge!(gauge).set(answered.age(Instant::now()).as_secs_f64());
    }
}

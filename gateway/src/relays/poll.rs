//! The tasks that look: one for each relay, so that none waits for another, and one that remembers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};
use trunkline_http::serve::{Stopping, stopped};

use crate::clock::now;

use super::answers::{Detail, Facts};
use super::client::{CallError, Session};
use super::view::{CallView, Sample, State};
use super::{DETAILED_MAX, Relay, Relays};

/// Calls of one relay that are asked about at the same time. More is quicker, and asks a relay for more at once.
const DETAILED_AT_ONCE: usize = 8;

/// How long one round may spend on calls. What was not answered by then is not known of them.
const DETAILED_FOR: Duration = Duration::from_secs(5);

/// Looks at all relays, until told to stop.
pub async fn run(relays: Arc<Relays>, mut stopping: Stopping) {
    if relays.relays.is_empty() {
        return;
    }
    let mut tasks = JoinSet::new();
    for at in 0..relays.relays.len() {
        tasks.spawn(watch(Arc::clone(&relays), at));
    }
    tasks.spawn(remember(Arc::clone(&relays)));
    stopped(&mut stopping).await;
    tasks.shutdown().await;
}

async fn watch(relays: Arc<Relays>, at: usize) {
    let Some(relay) = relays.relays.get(at) else { return };
    let share = (DETAILED_MAX / relays.relays.len()).max(1);
    loop {
        // What only people look at is not asked for while nobody does.
        let detailed = if relays.is_watched() { share } else { 0 };
        relay.round(detailed).await;
        tokio::select! {
            () = sleep(relays.pause()) => {}
            () = relays.woken.notified() => {}
            () = relay.changed.notified() => {}
        }
    }
}

async fn remember(relays: Arc<Relays>) {
    loop {
        tokio::select! {
            () = sleep(relays.pause()) => {}
            () = relays.woken.notified() => continue,
        }
        relays.sample(now().unix_ms());
    }
}

impl Relay {
    /// Looks once; at up to so many calls in detail.
    pub(super) async fn round(&self, detailed: usize) {
        let looked = self.look(detailed).await;
        self.record(now().unix_ms(), looked);
    }

    async fn look(&self, detailed: usize) -> Result<(Facts, Vec<CallView>), CallError> {
        let session = self.client.session()?;
        let health = session.health().await?;
        let calls = session.calls().await?;
        let facts = calls.facts(health.as_ref());
        let mut views = calls.views(&self.name);
        look_closer(&session, &mut views, detailed).await;
        Ok((facts, views))
    }

    fn record(&self, now: u64, looked: Result<(Facts, Vec<CallView>), CallError>) {
        let mut seen = self.seen();
        let before = seen.state;
        match looked {
            Ok((facts, calls)) => {
                (seen.state, seen.error, seen.facts, seen.calls) = (State::Up, None, facts, calls);
            }
            Err(error) => {
                // What it is does not change when it is away; how it is nobody knows.
                let Facts { kind, node, .. } = seen.facts;
                seen.facts = Facts { kind, node, ..Facts::default() };
                seen.calls = Vec::new();
                (seen.state, seen.error) = (State::Down, Some(error.to_string()));
            }
        }
        if seen.state == before {
            return;
        }
        seen.since = now;
        match &seen.error {
            None => info!(relay = self.name, "the relay answers"),
            Some(error) => warn!(relay = self.name, error, "the relay cannot be looked at"),
        }
    }
}

/// Adds what is known of people to the first so many calls.
async fn look_closer(session: &Session<'_>, views: &mut [CallView], detailed: usize) {
    let until = Instant::now() + DETAILED_FOR;
    let wanted = views.iter().enumerate().filter(|(_, view)| view.participants > 0).take(detailed);
    let asks: Vec<_> = wanted.map(|(at, view)| ask(session, at, view.call_id.clone())).collect();
    let mut asked = stream::iter(asks).buffer_unordered(DETAILED_AT_ONCE);
    while let Ok(Some((at, detail))) = timeout_at(until, asked.next()).await {
        // One that ended meanwhile is gone from the next list.
        if let (Some(view), Some(detail)) = (views.get_mut(at), detail) {
            detail.add_to(view);
        }
    }
}

async fn ask(session: &Session<'_>, at: usize, call: String) -> (usize, Option<Detail>) {
    (at, session.call(&call).await.ok())
}

impl Relays {
    /// Remembers what is seen now.
    pub(super) fn sample(&self, at: u64) {
        let mut sample = Sample { at, calls: 0, participants: 0, busy: None, loss: None };
        let (mut busy, mut loss) = (Mean::default(), Mean::default());
        for relay in &self.relays {
            let seen = relay.seen();
            if seen.state != State::Up {
                continue;
            }
            // A relay may say anything.
            sample.calls = sample.calls.saturating_add(seen.facts.calls);
            sample.participants = sample.participants.saturating_add(seen.facts.participants);
            if let Some(share) = seen.facts.busy {
                busy.add(share, 1.0);
            }
            for call in &seen.calls {
                let worse = [call.uplink_loss, call.downlink_loss].into_iter().flatten().reduce(f64::max);
                if let Some(worse) = worse {
                    #[allow(clippy::cast_precision_loss, reason = "a weight")]
                    loss.add(worse, call.participants as f64);
                }
            }
        }
        (sample.busy, sample.loss) = (busy.get(), loss.get());
        self.samples().0.push(sample);
    }
}

#[derive(Default)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    fn add(&mut self, value: f64, weight: f64) {
        self.sum += value * weight;
        self.weight += weight;
    }

    fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

//! A messaging server that hands envelopes in: protobuf batches over a few kept-alive connections.
//!
//! A conversation belongs to one connection and a connection has one batch under way, so the gateway is asked to
//! take the envelopes of a conversation in order. A batch that is not answered is handed in again with the same
//! ids until it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use trunkline_gateway_proto::wire;

use crate::error::LoadError;
use crate::flow::now_us;
use crate::http::{Client, Media};
use crate::ledger::Ledger;

/// Pause before a batch is handed in again. Shorter finds a restarted gateway sooner, and knocks more often.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A local API and the token of a network.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// Where its replicas listen.
    pub addresses: Vec<SocketAddr>,
    /// What opens it.
    pub token: String,
}

/// How to hand a flow in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many envelopes; [`u64::MAX`] until it is stopped.
    pub count: u64,
    /// Envelopes per second over all connections; as fast as they are taken when `None`.
    pub rate: Option<u32>,
    /// Envelopes in one request.
    pub batch: usize,
    /// Connections, each with one request under way.
    pub connections: u32,
    /// Envelopes that may be handed in and not arrived.
    pub under_way_max: u64,
}

/// What was handed in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Submitted {
    /// Envelopes accepted in each conversation.
    pub accepted: Vec<u32>,
    /// All of them.
    pub total: u64,
    /// Batches that were handed in again.
    pub retries: u64,
    /// Envelopes that the gateway recognised as handed in before.
    pub recognised: u64,
    /// When the first batch was built, by [`now_us`].
    pub first_us: u64,
    /// When the last batch was answered.
    pub last_us: u64,
}

impl Plan {
    /// As fast as the gateway takes them.
    pub(crate) fn full_speed(count: u64) -> Self {
        Self { count, rate: None, batch: 128, connections: 8, under_way_max: 32_768 }
    }

    /// A steady flow of single envelopes, as independent users make it.
    pub(crate) fn steady(count: u64, rate: u32) -> Self {
        // Beyond what timers of a millisecond can pace, requests grow instead.
        let batch = rate.div_ceil(2_000) as usize;
        Self { count, rate: Some(rate), batch, connections: 16, under_way_max: 1_000_000 }
    }
}

/// Hands a flow in until its plan is done or `stop` says so.
///
/// # Errors
/// When the gateway refuses an envelope, or answers what it should not.
pub(crate) async fn submit(
    api: &Api,
    ledger: &Arc<Ledger>,
    plan: Plan,
    stop: watch::Receiver<bool>,
) -> Result<Submitted, LoadError> {
    let conversations = ledger.flow().conversations();
    let connections = plan.connections.clamp(1, conversations);
    let started = Instant::now();
    let mut sum =
        Submitted { accepted: vec![0; conversations as usize], first_us: now_us(), ..Submitted::default() };
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let course = Course {
            conversation: connection,
            first: connection,
            step: connections,
            conversations,
            round: 0,
            count: plan.count,
        };
        let submitter = Submitter {
            client: Client::of(api, connection as usize),
            ledger: Arc::clone(ledger),
            plan: Plan { connections, ..plan },
            course,
            accepted: vec![0; conversations as usize],
            retries: 0,
            recognised: 0,
        };
        tasks.spawn(submitter.run(started, connection, stop.clone()));
    }
    while let Some(done) = tasks.join_next().await {
        let done = done.map_err(|error| LoadError::Io {
            doing: "handing envelopes in".to_owned(),
            source: std::io::Error::other(error),
        })??;
        for (all, its) in sum.accepted.iter_mut().zip(&done.accepted) {
            *all += its;
        }
        sum.retries += done.retries;
        sum.recognised += done.recognised;
    }
    sum.total = sum.accepted.iter().copied().map(u64::from).sum();
    sum.last_us = now_us();
    Ok(sum)
}

/// Which envelope a connection hands in next: one of each of its conversations, then the next round.
#[derive(Debug)]
struct Course {
    conversation: u32,
    first: u32,
    step: u32,
    conversations: u32,
    round: u32,
    count: u64,
}

impl Iterator for Course {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        if self.conversation >= self.conversations {
            self.conversation = self.first;
            self.round = self.round.checked_add(1)?;
        }
        let number = u64::from(self.round) * u64::from(self.conversations) + u64::from(self.conversation);
        if number >= self.count {
            return None;
        }
        let envelope = (self.conversation, self.round);
        self.conversation += self.step;
        Some(envelope)
    }
}

#[derive(Debug)]
struct Submitter {
    client: Client,
    ledger: Arc<Ledger>,
    plan: Plan,
    course: Course,
    accepted: Vec<u32>,
    retries: u64,
    recognised: u64,
}

impl Submitter {
    async fn run(
        mut self,
        started: Instant,
        number: u32,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Self, LoadError> {
        let per_batch =
            self.plan.rate.map(|rate| Duration::from_secs_f64(self.plan.batch as f64 / f64::from(rate)));
        for turn in 0_u32.. {
            while self.ledger.under_way() >= self.plan.under_way_max && !*stop.borrow() {
                self.ledger.changed().await;
            }
            let mut due_us = now_us();
            if let Some(per_batch) = per_batch {
                // Connections take turns. Latency counts from when an envelope was due: a gateway that
                // stalls does not slow the clock down.
                let due = started + per_batch * number + per_batch * self.plan.connections * turn;
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    _ = stop.changed() => {}
                }
                let late = u64::try_from(due.elapsed().as_micros()).unwrap_or(0);
                due_us = now_us().saturating_sub(late);
            }
            if *stop.borrow() || stop.has_changed().is_err() {
                break;
            }
            let envelopes: Vec<(u32, u32)> = self.course.by_ref().take(self.plan.batch).collect();
            if envelopes.is_empty() {
                break;
            }
            self.hand_in(&envelopes, due_us).await?;
        }
        Ok(self)
    }

    /// One batch, as often as it takes.
    async fn hand_in(&mut self, envelopes: &[(u32, u32)], due_us: u64) -> Result<(), LoadError> {
        let flow = self.ledger.flow();
        let mut batch = BytesMut::with_capacity(envelopes.len() * flow.submission_bytes());
        for (conversation, counter) in envelopes {
            flow.submission(*conversation, *counter, due_us, &mut batch);
        }
        let batch = batch.freeze();
        self.ledger.hand_in(envelopes.len() as u64);
        let mut asked_us;
        let answer = loop {
            asked_us = now_us();
            match self.client.call(Method::POST, "/v1/envelopes", Media::Protobuf, batch.clone()).await {
                Ok(answer) => break answer,
                Err(error) if error.passes() => {
                    self.retries += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        let (recognised, first_new) = check(answer, envelopes.len())?;
        self.recognised += recognised;
        if let Some(envelope) = first_new.and_then(|at| envelopes.get(at)) {
            self.ledger.accepted(asked_us, *envelope);
        }
        for (conversation, _) in envelopes {
            if let Some(accepted) = self.accepted.get_mut(*conversation as usize) {
                *accepted += 1;
            }
        }
        Ok(())
    }
}

/// Checks that every envelope of a batch was accepted. Answers how many were recognised, and the place of the first that
/// was not.
fn check(answer: Bytes, expected: usize) -> Result<(u64, Option<usize>), LoadError> {
    let wrong = |why: String| LoadError::Answer { request: "POST /v1/envelopes".to_owned(), why };
    let results = wire::SubmitResults::decode(answer).map_err(|error| wrong(error.to_string()))?.results;
    if results.len() != expected {
        return Err(wrong(format!("{} results for {expected} envelopes", results.len())));
    }
    for result in &results {
        if !result.problem.is_empty() {
            return Err(LoadError::NotAccepted(format!("{}: {}", result.problem, result.detail)));
        }
        if let Some(rejected) = result.rejected.first() {
            return Err(LoadError::NotAccepted(rejected.reason.clone()));
        }
    }
    let recognised = results.iter().filter(|result| result.duplicate).count() as u64;
    Ok((recognised, results.iter().position(|result| !result.duplicate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_the_conversations_and_count_every_envelope_once() {
        let (conversations, connections, count) = (10, 3, 47);
        let mut seen = std::collections::BTreeSet::new();
        for first in 0..connections {
            let course =
                Course { conversation: first, first, step: connections, conversations, round: 0, count };
            let mut last = vec![None; conversations as usize];
            for (conversation, counter) in course {
                assert_eq!(conversation % connections, first);
                assert!(last[conversation as usize] < Some(counter), "counters of a conversation grow");
                last[conversation as usize] = Some(counter);
                assert!(seen.insert((conversation, counter)));
            }
        }
        assert_eq!(seen.len() as u64, count);
        assert!(seen.contains(&(6, 4)) && !seen.contains(&(7, 4)), "47 envelopes over 10 conversations");
    }

    #[test]
    fn an_answer_with_a_problem_is_an_error_that_names_it() {
        let result = wire::SubmitResult { problem: "quota".to_owned(), ..wire::SubmitResult::default() };
        let answer = wire::SubmitResults { results: vec![result] }.encode_to_vec();
        assert!(matches!(check(answer.into(), 1), Err(LoadError::NotAccepted(why)) if why.contains("quota")));
    }
}

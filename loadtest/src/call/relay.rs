//! A node and its HTTP API.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::process::{Launcher, Metrics, Process};
use crate::error::LoadError;
use crate::http::{Client, Media};

/// How old metrics are at most.
const METRICS_AFTER: Duration = Duration::from_millis(1100);

/// People in a conference, as the relay limits them.
pub(super) const CONFERENCE_MAX: u32 = 100;

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Up to 100 people.
    Conference,
    /// Up to 500, most of whom watch.
    Broadcast,
}

/// A node's process.
pub(crate) struct Relay {
    /// Its process.
    pub(crate) process: Process,
    /// Its own API.
    pub(crate) api: SocketAddr,
    token: String,
}

impl Relay {
    /// Starts a node with a configuration and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub(crate) async fn start(
        launcher: &Launcher,
        config: &Path,
        api: SocketAddr,
        token: &str,
    ) -> Result<Self, LoadError> {
        let process = launcher.start("relay", "node", config, Client::new(api, token)).await?;
        Ok(Self { process, api, token: token.to_owned() })
    }

    /// A client of its own API with the admin token.
    pub(crate) fn admin(&self) -> Client {
        Client::new(self.api, &self.token)
    }

    /// How many media packets were sealed for a receiver of a call so far, as its worker knows at this moment.
    ///
    /// # Errors
    /// When the relay does not answer, or not with a count.
    pub(crate) async fn forwarded(&self, admin: &mut Client, call: &str) -> Result<u64, LoadError> {
        let path = format!("/v1/calls/{call}");
        let body = admin.call(Method::GET, &path, Media::Json, Bytes::new()).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let count = answer.pointer("/counters/media_out").and_then(Value::as_u64);
        count.ok_or_else(|| LoadError::Answer {
            request: format!("GET {path}"),
            why: "no counters.media_out".to_owned(),
        })
    }

    /// Metrics that know of everything that happened before.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub(crate) async fn fresh_metrics(&self) -> Result<Metrics, LoadError> {
        tokio::time::sleep(METRICS_AFTER).await;
        Metrics::of(&mut self.admin()).await
    }
}

/// Creates a call, a broadcast if a conference is not for so many: its id.
///
/// # Errors
/// When it is refused.
pub(crate) async fn create_call(admin: &mut Client, participants_max: u32) -> Result<String, LoadError> {
    let mode = if participants_max > CONFERENCE_MAX { Mode::Broadcast } else { Mode::Conference };
    create_call_of(admin, participants_max, mode).await
}

/// Creates a call of one kind: its id.
///
/// # Errors
/// When it is refused.
pub(super) async fn create_call_of(
    admin: &mut Client,
    participants_max: u32,
    mode: Mode,
) -> Result<String, LoadError> {
    let body = json!({ "max_participants": participants_max.max(2), "mode": mode });
    let answer = ask(admin, "/v1/calls", &body).await?;
    field(&answer, "POST /v1/calls", "call_id")
}

/// A join token.
///
/// # Errors
/// When it is refused.
pub(crate) async fn mint(
    admin: &mut Client,
    call: &str,
    participant: &str,
    role: &str,
) -> Result<String, LoadError> {
    let path = format!("/v1/calls/{call}/tokens");
    let answer = ask(admin, &path, &json!({ "participant": participant, "role": role })).await?;
    field(&answer, "POST …/tokens", "token")
}

async fn ask(client: &mut Client, path: &str, body: &Value) -> Result<Value, LoadError> {
    let answer = client.call(Method::POST, path, Media::Json, Bytes::from(body.to_string())).await?;
    serde_json::from_slice(&answer)
        .map_err(|error| LoadError::Answer { request: format!("POST {path}"), why: error.to_string() })
}

fn field(answer: &Value, request: &str, name: &str) -> Result<String, LoadError> {
    let value = answer.get(name).and_then(Value::as_str).map(str::to_owned);
    value.ok_or_else(|| LoadError::Answer { request: request.to_owned(), why: format!("no {name}") })
}

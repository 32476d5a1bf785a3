//! Pushing the inbox of a network to its messaging server: one task per network that has a webhook.
//!
//! A delivery is a POST of the same JSON that `GET /v1/inbox` gives, signed with the webhook's secret. Any 2xx
//! acknowledges it; anything else is tried again after a full-jitter back-off, so that a server may see an
//! envelope twice, with the same sequence number.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, redirect};
use thiserror::Error;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use trunkline_common::ids::NetworkId;
use trunkline_common::token::random;
use trunkline_gateway_proto::directory::{Directory, Webhook};
use trunkline_gateway_proto::store::{NetworkKey, Record};
use trunkline_http::problem::Problem;
use trunkline_http::serve::{Stopping, stopped};

use super::feed::Feed;
use super::limits::{EMPTY_PAUSE, READ_DEFAULT};
use super::poll::bound;
use crate::hub::{Hub, HubError};
use crate::replica::Standing;

/// The header with the time of a delivery and its signature: `t=<unix seconds>,v1=<hex>`, where `v1` is
/// HMAC-SHA256 with the webhook's secret over the time as written, a dot, and the body.
pub const SIGNATURE_HEADER: &str = "trunkline-signature";

/// The header with the id of the network whose inbox this is.
pub const NETWORK_HEADER: &str = "trunkline-network";

/// How often the directory is looked at for webhooks that came, changed or went.
const DIRECTORY_INTERVAL: Duration = Duration::from_millis(500);

/// How long one read waits for an envelope.
const READ_WAIT: Duration = Duration::from_secs(30);

/// Bytes of a response that are read, so that its connection can be used again; what it says does not matter.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// How a webhook is called.
#[derive(Clone, Debug)]
pub struct Config {
    /// PEM certificates of the authorities that `https://` webhooks are checked against. When `None`, the
    /// system's own.
    pub ca_pem: Option<Vec<u8>>,
    /// For the connection to come up.
    pub connect_timeout: Duration,
    /// From the start of a delivery to the end of its response.
    pub timeout: Duration,
    /// The bound of the first back-off; it doubles with every failure in a row.
    pub backoff_min: Duration,
    /// The bound of every further one. Longer spares a dead server, and finds a living one later.
    pub backoff_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ca_pem: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// Why webhooks cannot be called at all: the operator's to mend.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// The authorities' file does not hold what it should.
    #[error("the webhook authorities are not PEM certificates: {0}")]
    Authorities(reqwest::Error),
    /// The HTTP client cannot be made.
    #[error("cannot make the HTTP client for webhooks: {0}")]
    Client(reqwest::Error),
}

/// Why one delivery came to nothing.
#[derive(Debug, Error)]
enum DeliveryError {
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Transport(&'static str),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("the envelopes cannot be written as JSON")]
    Unreadable,
}

/// Delivers to every webhook in the directory, until told to stop.
///
/// # Errors
/// When no webhook could be called, before anything was tried.
pub async fn run(hub: Hub, config: Config, mut stopping: Stopping) -> Result<(), WebhookError> {
    let client = client(&config)?;
    let config = Arc::new(config);
    let mut seen: Option<Arc<Directory>> = None;
    let nobody = Arc::new(Directory::default());
    let mut tasks = JoinSet::new();
    let mut running: HashMap<NetworkKey, (Webhook, AbortHandle)> = HashMap::new();
    let mut ticks = tokio::time::interval(DIRECTORY_INTERVAL);
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => break,
            _ = ticks.tick() => {}
        }
        while tasks.try_join_next().is_some() {}
        // One replica pushes, or servers would see everything several times.
        let leads = matches!(hub.standing(), Standing::Leading);
        let directory = if leads { hub.directory() } else { Arc::clone(&nobody) };
        if seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &directory)) {
            continue;
        }
        running.retain(|network, (webhook, task)| {
            let wanted = directory.network(*network).and_then(|record| record.webhook.as_ref());
            let keep = wanted == Some(webhook);
            if !keep {
                // What it was about to acknowledge is simply delivered again.
                task.abort();
            }
            keep
        });
        for record in directory.networks() {
            let Some(webhook) = record.webhook.clone() else { continue };
            running.entry(record.key).or_insert_with(|| {
                let delivery = Delivery {
                    hub: hub.clone(),
                    client: client.clone(),
                    config: Arc::clone(&config),
                    network: record.key,
                    id: record.id.clone(),
                    key: hmac::Key::new(hmac::HMAC_SHA256, webhook.secret.as_bytes()),
                    url: webhook.url.clone(),
                };
                (webhook, tasks.spawn(delivery.run()))
            });
        }
        seen = Some(directory);
    }
    // A delivery that is cut off here is made again after the restart: the server sees the same numbers.
    tasks.shutdown().await;
    Ok(())
}

/// Deliveries to one network's webhook.
struct Delivery {
    hub: Hub,
    client: Client,
    config: Arc<Config>,
    network: NetworkKey,
    id: NetworkId,
    key: hmac::Key,
    url: String,
}

impl Delivery {
    async fn run(self) {
        let mut failures = 0_u32;
        let mut batch_max = READ_DEFAULT;
        loop {
            match self.deliver(batch_max).await {
                Ok(false) => {}
                Ok(true) => {
                    if failures > 0 {
                        tracing::info!(network = %self.id, failures, "webhook deliveries go through again");
                    }
                    failures = 0;
                    batch_max = READ_DEFAULT;
                }
                Err(DeliveryError::Hub(HubError::Stopping)) => return,
                Err(error) => {
                    if matches!(error, DeliveryError::Status(StatusCode::PAYLOAD_TOO_LARGE)) {
                        batch_max = (batch_max / 2).max(1);
                    }
                    metrics::counter!("trunkline_webhook_failures_total").increment(1);
                    let pause = full_jitter(&self.config, failures);
                    failures = failures.saturating_add(1);
                    let pause_ms = pause.as_millis();
                    tracing::warn!(network = %self.id, %error, failures, pause_ms, "webhook delivery failed");
                    sleep(pause).await;
                }
            }
        }
    }

    /// Waits for envelopes and delivers one batch; false when none came.
    async fn deliver(&self, batch_max: usize) -> Result<bool, DeliveryError> {
        let queue = Feed::Inbox.queue(self.network);
        let mut records = self.hub.read(queue, None, batch_max, READ_WAIT).await?;
        let started = Instant::now();
        bound(&mut records);
        let Some(up_to) = records.last().map(|(seq, _)| *seq) else {
            sleep(EMPTY_PAUSE).await;
            return Ok(false);
        };
        self.post(&records).await?;
        self.hub.ack(queue, up_to).await?;
        metrics::counter!("trunkline_webhook_envelopes_total").increment(records.len() as u64);
        metrics::histogram!("trunkline_webhook_delivery_seconds").record(started.elapsed().as_secs_f64());
        Ok(true)
    }

    async fn post(&self, records: &[(u64, Record)]) -> Result<(), DeliveryError> {
        let body = Feed::Inbox.json_batch(records).map_err(|_: Problem| DeliveryError::Unreadable)?;
        let request = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE_HEADER, signature(&self.key, unix_s(), &body))
            .header(NETWORK_HEADER, self.id.as_str())
            .body(body);
        let mut response = request.send().await.map_err(|error| transport(&error))?;
        let status = response.status();
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > RESPONSE_BYTES_MAX {
                break;
            }
        }
        if status.is_success() { Ok(()) } else { Err(DeliveryError::Status(status)) }
    }
}

/// The value of [`SIGNATURE_HEADER`].
fn signature(key: &hmac::Key, unix_s: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(unix_s.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let mut value = format!("t={unix_s},v1=");
    for byte in context.sign().as_ref() {
        // Writing to a String does not fail.
        let _ = write!(value, "{byte:02x}");
    }
    value
}

/// A random pause up to a bound that doubles with every failure (full jitter).
fn full_jitter(config: &Config, failures: u32) -> Duration {
    let bound = config.backoff_min.saturating_mul(1 << failures.min(16)).min(config.backoff_max);
    bound.mul_f64(f64::from(u32::from_be_bytes(random())) / f64::from(u32::MAX))
}

/// What went wrong, without the URL, which may carry a secret of the receiving server.
fn transport(error: &reqwest::Error) -> DeliveryError {
    DeliveryError::Transport(if error.is_timeout() {
        "the server did not answer in time"
    } else if error.is_connect() {
        "the server cannot be reached, or its certificate is not trusted"
    } else if error.is_builder() {
        "the webhook's URL cannot be used"
    } else {
        "the connection broke off"
    })
}

fn client(config: &Config) -> Result<Client, WebhookError> {
    // reqwest takes the process's provider. It may be installed already, by whoever came first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = || {
        Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(config.connect_timeout)
            .timeout(config.timeout)
            .user_agent(concat!("trunkline-gateway/", env!("CARGO_PKG_VERSION")))
    };
    if let Some(pem) = &config.ca_pem {
        let authorities = Certificate::from_pem_bundle(pem).map_err(WebhookError::Authorities)?;
        return builder().tls_certs_only(authorities).build().map_err(WebhookError::Client);
    }
    builder().build().or_else(|error| {
        tracing::warn!(%error, "no system certificates: https webhooks fail until authorities are configured");
        builder().tls_certs_only([]).build().map_err(WebhookError::Client)
    })
}

fn unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_covers_time_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        assert_eq!(signature(&key, 1_700_000_000, b"{}"), EXPECTED);
    }

    const EXPECTED: &str = "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";

    #[test]
    fn a_pause_never_exceeds_its_bound() {
        let config = Config::default();
        for failures in [0, 1, 5, 40, u32::MAX] {
            let bound = config.backoff_min.saturating_mul(1 << failures.min(16)).min(config.backoff_max);
            assert!((0..100).all(|_| full_jitter(&config, failures) <= bound));
        }
    }
}

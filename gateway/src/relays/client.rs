//! Requests to one relay, bounded in time and bytes, and what is said when they fail.

use std::error::Error as StdError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use reqwest::{Client as Http, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;
use zeroize::Zeroizing;

use super::answers::{Calls, Detail, Health, printable};
use super::config::{RelayConfig, parse_url};

/// For a connection to come up. Relays are near.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// From a request to the end of its answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer: a thousand calls, or a call of five hundred people with all their slots.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A token that was refused is not shown again for so long, unless its file changed: ten failures lock everybody out who
/// comes from this machine.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Why a relay did not do what it was asked, as the rest of a sentence that begins with its name.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// There is no such call.
    #[error("it has no such call")]
    NotThere,
    /// An ingress does not do this.
    #[error("it is an ingress: ask its nodes")]
    NodeOnly,
    /// The token opens nothing.
    #[error(
        "it refuses the token in admin_token_file: put the relay's `admin.token` there, readable by the gateway only"
    )]
    Token,
    /// Too many tried.
    #[error("it has locked this machine out after failed log-ins: mend admin_token_file, and wait a minute")]
    LockedOut,
    /// It is something else.
    #[error(
        "what answers at {0} is no relay: `url` is the address of the relay's API, on port 8444 unless configured otherwise"
    )]
    NoRelay(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// How a relay is asked.
#[derive(Debug)]
pub(super) struct Client {
    config: RelayConfig,
    http: Mutex<Option<Http>>,
    refused: Mutex<Option<(Zeroizing<String>, Instant, bool)>>,
}

/// What is needed to ask: made anew for every round, so that replaced files are seen.
#[derive(Debug)]
pub(super) struct Session<'a> {
    client: &'a Client,
    http: Http,
    url: Url,
}

#[derive(Deserialize)]
struct ProblemDocument {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    detail: String,
}

impl Client {
    pub(super) fn new(config: &RelayConfig) -> Self {
        Self { config: config.clone(), http: Mutex::default(), refused: Mutex::default() }
    }

    pub(super) fn session(&self) -> Result<Session<'_>, CallError> {
        let url =
            parse_url(&self.config.url).map_err(|problem| CallError::Other(format!("url: {problem}")))?;
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let http = match &*http {
            Some(http) => http.clone(),
            None => http.insert(self.make().map_err(CallError::Other)?).clone(),
        };
        Ok(Session { client: self, http, url })
    }

    fn make(&self) -> Result<Http, String> {
        // reqwest takes the process's provider. It may be installed already, by whoever came first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = || {
            Http::builder()
                .redirect(redirect::Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT_MAX)
                .timeout(ANSWER_MAX)
                .user_agent(concat!("trunkline-gateway/", env!("CARGO_PKG_VERSION")))
        };
        let made = match self.config.authorities()? {
            Some(authorities) => builder().tls_certs_only(authorities).build(),
            // Without any system certificates http:// goes on working.
            None => builder().build().or_else(|_| builder().tls_certs_only([]).build()),
        };
        made.map_err(|error| format!("cannot make its HTTP client: {error}"))
    }

    pub(super) async fn end(&self, call: &str) -> Result<(), CallError> {
        self.session()?.authorized(Method::DELETE, &format!("/v1/calls/{call}"), None).await.map(drop)
    }

    pub(super) async fn drain(&self, deadline_s: Option<u64>) -> Result<(), CallError> {
        let body = deadline_s.map_or_else(|| json!({}), |deadline_s| json!({ "deadline_s": deadline_s }));
        self.session()?.authorized(Method::POST, "/v1/drain", Some(&body)).await.map(drop)
    }

    pub(super) async fn undrain(&self) -> Result<(), CallError> {
        self.session()?.authorized(Method::DELETE, "/v1/drain", None).await.map(drop)
    }

    /// The token, unless it was refused a moment ago.
    async fn token(&self) -> Result<Zeroizing<String>, CallError> {
        let config = self.config.clone();
        let token = tokio::task::spawn_blocking(move || config.token()).await;
        let token = token.map_err(|error| CallError::Other(error.to_string()))?.map_err(CallError::Other)?;
        match &*self.refused() {
            Some((refused, at, locked)) if *refused == token && at.elapsed() < REFUSED_PAUSE => {
                Err(if *locked { CallError::LockedOut } else { CallError::Token })
            }
            _ => Ok(token),
        }
    }

    fn refused(&self) -> MutexGuard<'_, Option<(Zeroizing<String>, Instant, bool)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    /// How the relay is; `None` of an ingress, whose health is a word.
    pub(super) async fn health(&self) -> Result<Option<Health>, CallError> {
        let (status, body) = self.send(Method::GET, "/healthz", None, None).await?;
        if !status.is_success() {
            return Err(self.no_relay());
        }
        Ok(serde_json::from_slice(&body).ok())
    }

    pub(super) async fn calls(&self) -> Result<Calls, CallError> {
        self.read("/v1/calls").await.map_err(|error| match error {
            CallError::NotThere => self.no_relay(),
            error => error,
        })
    }

    /// One call. Its id was looked at before.
    pub(super) async fn call(&self, id: &str) -> Result<Detail, CallError> {
        self.read(&format!("/v1/calls/{id}")).await
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let body = self.authorized(Method::GET, path, None).await?;
        serde_json::from_slice(&body).map_err(|_| self.no_relay())
    }

    /// A request with the token; answers the body of success.
    async fn authorized(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Vec<u8>, CallError> {
        let token = self.client.token().await?;
        let (status, answer) = self.send(method, path, Some(&token), body).await?;
        if status.is_success() {
            *self.client.refused() = None;
            return Ok(answer);
        }
        let problem: Option<ProblemDocument> = serde_json::from_slice(&answer).ok();
        let kind = problem.as_ref().map_or("", |problem| problem.kind.as_str());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                *self.client.refused() = Some((token, Instant::now(), false));
                Err(CallError::Token)
            }
            StatusCode::TOO_MANY_REQUESTS => {
                *self.client.refused() = Some((token, Instant::now(), true));
                Err(CallError::LockedOut)
            }
            StatusCode::NOT_FOUND if kind.ends_with(":node-only") => Err(CallError::NodeOnly),
            StatusCode::NOT_FOUND => Err(CallError::NotThere),
            _ => Err(CallError::Other(match problem.filter(|problem| !problem.detail.is_empty()) {
                Some(problem) => format!("it says: {}", printable(&problem.detail)),
                None => format!("it answered {status} without saying why: see its log"),
            })),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>), CallError> {
        let mut url = self.url.clone();
        url.set_path(path);
        let mut request = self.http.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| self.transport(&error))?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(CallError::Other(format!(
                    "its answer has more than {} MiB: nothing of it was read",
                    ANSWER_BYTES_MAX >> 20
                )));
            }
            answer.extend_from_slice(&chunk);
        }
        Ok((response.status(), answer))
    }

    fn no_relay(&self) -> CallError {
        CallError::NoRelay(self.client.config.url.clone())
    }

    fn transport(&self, error: &reqwest::Error) -> CallError {
        let url = &self.client.config.url;
        CallError::Other(if is_certificate(error) {
            format!("the certificate at {url} is not trusted: set ca_file to it, or to its authority's")
        } else if error.is_timeout() {
            format!(
                "no answer from {url} in time: is the relay running, and does a firewall let the gateway through?"
            )
        } else if error.is_connect() {
            format!("cannot connect to {url}: is the relay running, and is this the address of its API?")
        } else {
            format!("the connection to {url} broke off: is it http or https that the relay speaks there?")
        })
    }
}

/// Whether TLS failed, and not the network.
fn is_certificate(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| within?.downcast_ref());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        cause = error.source();
    }
    false
}

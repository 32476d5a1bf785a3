//! Talking to an API that takes a bearer token.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{Method, StatusCode};
use reqwest::{Certificate, Client, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::CliError;
use super::progress::Progress;

/// How long a connection may take. The API is on the same machine or close to it.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long an answer may take: longer than the slowest verb, a purge of a full outbox.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// An answer that takes longer is waited for visibly. Shorter makes quick calls flicker.
const SLOW: Duration = Duration::from_secs(1);

/// How to reach an API.
#[derive(Debug)]
pub struct Endpoint {
    /// What it is called in errors, as in "the admin API".
    pub api: &'static str,
    /// Whose it is, as in "gateway".
    pub program: &'static str,
    /// Without a slash at its end.
    pub url: String,
    /// Opens it.
    pub token: Zeroizing<String>,
    /// PEM to trust instead of the system's authorities: the API's own certificate.
    pub certificate: Option<Vec<u8>>,
    /// What starts the program, for an error text.
    pub start_with: String,
}

/// An API that is spoken to.
#[derive(Debug)]
pub struct Api {
    endpoint: Endpoint,
    http: Client,
}

impl Api {
    /// Prepares to talk to it; nothing is sent yet.
    ///
    /// # Errors
    /// When its certificate cannot be read.
    pub fn connect(endpoint: Endpoint) -> Result<Self, CliError> {
        // Another part of the process may have installed it already, and it is the only one there is.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // A proxy for the Internet has no business between an operator and this API.
        let mut builder = Client::builder().connect_timeout(CONNECT_WITHIN).no_proxy();
        if let Some(pem) = &endpoint.certificate {
            let certificates = Certificate::from_pem_bundle(pem).map_err(CliError::failed)?;
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(CliError::failed)?;
        Ok(Self { endpoint, http })
    }

    /// `GET`, answered with JSON.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn get(&self, path: &str) -> Result<Value, CliError> {
        json(self.send(Method::GET, path, None::<&()>).await?).await
    }

    /// `GET`, answered with text.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn get_text(&self, path: &str) -> Result<String, CliError> {
        let response = self.send(Method::GET, path, None::<&()>).await?;
        response.text().await.map_err(CliError::failed)
    }

    /// `POST` of JSON.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, CliError> {
        json(self.send(Method::POST, path, Some(body)).await?).await
    }

    /// `PUT` of JSON.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<Value, CliError> {
        json(self.send(Method::PUT, path, Some(body)).await?).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn delete(&self, path: &str) -> Result<Value, CliError> {
        json(self.send(Method::DELETE, path, None::<&()>).await?).await
    }

    /// An answer that does not end.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    pub async fn follow(&self, path: &str) -> Result<Response, CliError> {
        let request = self.http.get(self.url(path)).bearer_auth(self.endpoint.token.as_str());
        self.checked(request.send().await.map_err(|error| self.unreachable(&error))?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response, CliError> {
        let mut request = self.http.request(method, self.url(path)).timeout(ANSWER_WITHIN);
        request = request.bearer_auth(self.endpoint.token.as_str());
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut answer = Box::pin(request.send());
        let answer = match tokio::time::timeout(SLOW, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let _shown = Progress::waiting(format!("waiting for {}", self.endpoint.api));
                answer.await
            }
        };
        self.checked(answer.map_err(|error| self.unreachable(&error))?).await
    }

    /// The answer itself, or what its problem document says.
    async fn checked(&self, response: Response) -> Result<Response, CliError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        let problem: Option<Value> = serde_json::from_str(&body).ok();
        let detail = problem.as_ref().and_then(|problem| problem.get("detail")).and_then(Value::as_str);
        Err(CliError::Failed(match detail {
            Some(detail) => detail.to_owned(),
            None => format!("{} answered {status} without saying why: is this its URL?", self.endpoint.api),
        }))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint.url)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let Endpoint { api, program, url, start_with, .. } = &self.endpoint;
        if error.is_timeout() {
            return CliError::Failed(format!("{api} at {url} did not answer in time: see its log"));
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        CliError::Failed(format!(
            "cannot reach {api} at {url} ({cause}): is the {program} running? Start it with `{start_with}`"
        ))
    }
}

/// Reads a typed view out of an answer.
///
/// # Errors
/// When it is another version's.
pub fn view<T: DeserializeOwned>(value: &Value) -> Result<T, CliError> {
    T::deserialize(value).map_err(|error| {
        CliError::Failed(format!(
            "the answer is not understood ({error}): is it of another version? Use --json"
        ))
    })
}

/// One segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn json(response: Response) -> Result<Value, CliError> {
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(serde_json::json!({ "done": true }));
    }
    response.json().await.map_err(CliError::failed)
}

/// Where to dial what listens on every address.
#[must_use]
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        let loopback = if listen.is_ipv4() { [127, 0, 0, 1].into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

//! Talking to the admin API.

use std::time::Duration;

use http::{Method, StatusCode};
use reqwest::{Certificate, Client, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::CliError;
use super::target::{Endpoint, Target};

/// How long a connection may take. The API is on the same machine or close to it.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long an answer may take: longer than the slowest verb, a purge of a full outbox.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// The admin API of one gateway.
pub(super) struct Api {
    endpoint: Endpoint,
    http: Client,
}

impl Api {
    /// Prepares to talk to the gateway that is meant; nothing is sent yet.
    pub(super) fn connect(target: &Target) -> Result<Self, CliError> {
        let endpoint = target.endpoint()?;
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

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        json(self.send(Method::GET, path, None::<&()>).await?).await
    }

    pub(super) async fn get_text(&self, path: &str) -> Result<String, CliError> {
        let response = self.send(Method::GET, path, None::<&()>).await?;
        response.text().await.map_err(CliError::failed)
    }

    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, CliError> {
        json(self.send(Method::POST, path, Some(body)).await?).await
    }

    pub(super) async fn put(&self, path: &str, body: &impl Serialize) -> Result<Value, CliError> {
        json(self.send(Method::PUT, path, Some(body)).await?).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        json(self.send(Method::DELETE, path, None::<&()>).await?).await
    }

    /// An answer that does not end.
    pub(super) async fn follow(&self, path: &str) -> Result<Response, CliError> {
        let request = self.http.get(self.url(path)).bearer_auth(self.endpoint.token.as_str());
        checked(request.send().await.map_err(|error| self.unreachable(&error))?).await
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
        checked(request.send().await.map_err(|error| self.unreachable(&error))?).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint.url)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let (url, start) = (&self.endpoint.url, &self.endpoint.start_with);
        if error.is_timeout() {
            return CliError::Failed(format!("the admin API at {url} did not answer in time: see its log"));
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        CliError::Failed(format!(
            "cannot reach the admin API at {url} ({cause}): is the gateway running? Start it with `{start}`"
        ))
    }
}

/// Reads a typed view out of an answer.
pub(super) fn view<T: DeserializeOwned>(value: &Value) -> Result<T, CliError> {
    T::deserialize(value).map_err(|error| {
        CliError::Failed(format!(
            "the gateway's answer is not understood ({error}): is it of another version? Use --json"
        ))
    })
}

/// One segment of a path.
pub(super) fn segment(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn json(response: Response) -> Result<Value, CliError> {
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(serde_json::json!({ "done": true }));
    }
    response.json().await.map_err(CliError::failed)
}

/// The answer itself, or what its problem document says.
async fn checked(response: Response) -> Result<Response, CliError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await.unwrap_or_default();
    let problem: Option<Value> = serde_json::from_str(&body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")).and_then(Value::as_str);
    Err(CliError::Failed(match detail {
        Some(detail) => detail.to_owned(),
        None => format!("the admin API answered {status} without saying why: is this its URL?"),
    }))
}

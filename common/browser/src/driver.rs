//! The WebDriver protocol (W3C), as far as it is needed: JSON over HTTP/1.1 to a chromedriver on loopback.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::Error;

/// How long one command may take. More lets slow machines finish; a hanging browser costs a test that long.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of one answer. A screenshot of a large window is the largest.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A chromedriver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    port: u16,
}

impl Driver {
    /// The one that listens on a port of this machine.
    pub(crate) fn new(port: u16) -> Self {
        Self { port }
    }

    /// One command; answers what stands under `value`.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let command = format!("{method} {path}");
        let failed = |reason: String| Error::Driver { command: command.clone(), reason };
        let text = match timeout(COMMAND_TIMEOUT, self.exchange(&method, path, body)).await {
            Ok(answer) => answer.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("no answer within {COMMAND_TIMEOUT:?}"))),
        };
        let mut answer: Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        let value = answer.get_mut("value").map(Value::take).unwrap_or_default();
        match value.get("error").and_then(Value::as_str) {
            // A script may answer an object that has a field of this name; only an error has these three.
            Some(error) if value.get("stacktrace").is_some() && value.get("message").is_some() => {
                Err(Error::Command {
                    command,
                    error: error.to_owned(),
                    message: value.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
                })
            }
            _ => Ok(value),
        }
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("127.0.0.1:{}", self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .body(Full::new(Bytes::from(body)))?;
        let answer = sender.send_request(request).await?;
        let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        connection.abort();
        Ok(text)
    }
}

//! A small HTTP/1.1 client: one connection, kept alive, opened again when it was cut.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::LoadError;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    /// `application/json`
    Json,
    /// `application/x-protobuf`
    Protobuf,
    /// `application/sdp`
    Sdp,
}

/// One connection to one API, with its token.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    authorization: HeaderValue,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Media {
    fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
            Self::Sdp => "application/sdp",
        })
    }
}

impl Client {
    /// For the API at `address`; connects with the first request.
    pub(crate) fn new(address: SocketAddr, token: &str) -> Self {
        let authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer invalid"));
        Self { address, authorization, sender: None }
    }

    /// One request; `media` is what goes out and what is asked for. Answers the body of a success.
    ///
    /// # Errors
    /// [`LoadError::Cut`] when there was no answer: the request may or may not have been carried out.
    /// [`LoadError::Refused`] when the answer was no success.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        media: Media,
        body: Bytes,
    ) -> Result<Bytes, LoadError> {
        let (status, answer) = match self.exchange(&method, path, media, body).await {
            Ok(answer) => answer,
            Err(why) => {
                self.sender = None;
                return Err(LoadError::Cut { address: self.address, why });
            }
        };
        if status.is_success() {
            return Ok(answer);
        }
        Err(LoadError::Refused {
            request: format!("{method} {path}"),
            status: status.as_u16(),
            body: String::from_utf8_lossy(&answer).into_owned(),
        })
    }

    async fn exchange(
        &mut self,
        method: &Method,
        path: &str,
        media: Media,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::ACCEPT, media.name());
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, media.name());
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let sender = self.connection().await?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
            // It ends when the connection does; whoever waits for an answer learns of it there.
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        self.sender.as_mut().ok_or_else(|| "not connected".to_owned())
    }
}

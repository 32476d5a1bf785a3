//! A small HTTP/1.1 client: one connection, kept alive, opened again when it was cut.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
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
    authorization: Option<HeaderValue>,
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
        Self { address, authorization: Some(authorization), sender: None }
    }

    /// The same without a token.
    pub(crate) fn without_token(address: SocketAddr) -> Self {
        Self { address, authorization: None, sender: None }
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
        let (status, _, answer) = self.ask(method.clone(), path, media, HeaderMap::new(), body).await?;
        if status.is_success() {
            return Ok(answer);
        }
        Err(LoadError::Refused {
            request: format!("{method} {path}"),
            status: status.as_u16(),
            body: String::from_utf8_lossy(&answer).into_owned(),
        })
    }

    /// One request with more headers, which take the place of the token's where they name the same. Answers whatever
    /// comes.
    ///
    /// # Errors
    /// [`LoadError::Cut`] when there was no answer: the request may or may not have been carried out.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        media: Media,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), LoadError> {
        let exchanged = async {
            let (head, body) = self.exchange(&method, path, media.name(), headers, body).await?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok((head.status, head.headers, body.to_bytes()))
        };
        exchanged.await.map_err(|why| self.cut(why))
    }

    /// Begins to follow server-sent events: their bytes as they come. The connection is theirs from now on.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn follow(mut self, path: &str) -> Result<Incoming, LoadError> {
        let accept = HeaderValue::from_static("text/event-stream");
        let exchanged = self.exchange(&Method::GET, path, accept, HeaderMap::new(), Bytes::new()).await;
        let answer = exchanged.map_err(|why| self.cut(why))?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let status = answer.status().as_u16();
        Err(LoadError::Refused { request: format!("GET {path}"), status, body: String::new() })
    }

    fn cut(&mut self, why: String) -> LoadError {
        self.sender = None;
        LoadError::Cut { address: self.address, why }
    }

    async fn exchange(
        &mut self,
        method: &Method,
        path: &str,
        accept: HeaderValue,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::ACCEPT, &accept);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, accept);
        }
        let mut request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        request.headers_mut().extend(headers);
        let sender = self.connection().await?;
        sender.send_request(request).await.map_err(|error| error.to_string())
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

//! A small HTTP/1.1 client: one connection, kept alive, opened again when it was cut, to the next replica where there are
//! several.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::LoadError;
use crate::submit::Api;

/// How long an answer may take. Longer than any gateway takes that is well; one that hangs does not stop a scenario.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// The same where another replica can be asked: somewhat longer than it takes them to go on without one.
const ELSEWHERE_AFTER: Duration = Duration::from_secs(5);

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
    /// Replicas that answer the same.
    addresses: Vec<SocketAddr>,
    /// Which of them is asked.
    at: usize,
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
        Self { authorization: Some(bearer(token)), ..Self::without_token(address) }
    }

    /// For an API of which every replica answers the same: asks number `first`, and the next one whenever one is away
    /// or cannot serve just now.
    pub(crate) fn of(api: &Api, first: usize) -> Self {
        let authorization = Some(bearer(&api.token));
        Self { addresses: api.addresses.clone(), at: first, authorization, sender: None }
    }

    /// The same without a token.
    pub(crate) fn without_token(address: SocketAddr) -> Self {
        Self { addresses: vec![address], at: 0, authorization: None, sender: None }
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
        if status == StatusCode::SERVICE_UNAVAILABLE && self.addresses.len() > 1 {
            self.move_on();
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
        let within = if self.addresses.len() > 1 { ELSEWHERE_AFTER } else { ANSWERS_WITHIN };
        let exchanged = async {
            let (head, body) = self.exchange(&method, path, media.name(), headers, body).await?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok((head.status, head.headers, body.to_bytes()))
        };
        let exchanged = tokio::time::timeout(within, exchanged).await;
        exchanged.unwrap_or_else(|_| Err("it takes too long".to_owned())).map_err(|why| self.cut(why))
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
        let address = self.address();
        self.move_on();
        LoadError::Cut { address, why }
    }

    fn move_on(&mut self) {
        self.sender = None;
        self.at = self.at.wrapping_add(1);
    }

    fn address(&self) -> SocketAddr {
        let at = self.at.checked_rem(self.addresses.len()).unwrap_or(0);
        self.addresses.get(at).copied().unwrap_or((Ipv4Addr::LOCALHOST, 0).into())
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
            .header(header::HOST, self.address().to_string())
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
        let address = self.address();
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
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

fn bearer(token: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("Bearer {token}"))
        .unwrap_or_else(|_| HeaderValue::from_static("Bearer invalid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_a_replica_gone_asks_the_next_one() {
        let gone = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let alive = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addresses = vec![gone.local_addr().unwrap(), alive.local_addr().unwrap()];
        drop(gone);
        let answers = tokio::spawn(async move {
            let (mut stream, _) = alive.accept().await.unwrap();
            tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        });
        let mut client = Client::of(&Api { addresses, token: "t".to_owned() }, 0);
        assert!(client.call(Method::GET, "/", Media::Json, Bytes::new()).await.unwrap_err().passes());
        assert_eq!(client.call(Method::GET, "/", Media::Json, Bytes::new()).await.unwrap(), "ok");
        answers.await.unwrap();
    }
}

//! The follower's side: a connection to the leader, and what is asked on it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::BytesMut;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use trunkline_gateway_proto::directory::Directory;

use super::relay::{self, Relay};
use super::trust::{self, NAME, Trust};
use super::{KEEP_ALIVE, PREFIX, followers, wire};
use crate::hub::{Command, HubError, refuse};
use crate::link::{LinkCommand, LinkEvent};
use crate::store::StoreError;

/// How long the leader may take to let us in and say who is who. Longer waits for slow networks, and finds out later
/// that it is gone.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// What one stream, and all together, may have on the way. More lets large batches travel without a round trip.
const STREAM_WINDOW: u32 = 4 << 20;
/// See [`STREAM_WINDOW`].
const CONNECTION_WINDOW: u32 = 16 << 20;

/// News of the leader that were not taken yet.
const NEWS_MAX: usize = 4;

/// Largest answer that is taken: what a read of a queue gives at most, with room for its heads.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The replica that leads, as a follower sees it. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Leader {
    requests: SendRequest<Body>,
    address: Arc<str>,
}

/// What a follower hears of its leader.
#[derive(Debug)]
pub(crate) enum News {
    /// Who is who, and the version of that.
    Directory(u64, Box<Directory>),
    /// It leads no more, or cannot be reached; nothing follows.
    Lost(String),
}

/// Why there is no leader at an address.
#[derive(Debug)]
pub(crate) enum Unreached {
    /// Nobody listens there: the replica is gone, for its listener is bound as long as it lives.
    Gone,
    /// Anything else: it may be there.
    Other(String),
}

impl Leader {
    /// Connects to the replica at an address; answers when that leads and has said who is who. Tells it that we are
    /// reached at `own`, and waits for it no longer than `within`.
    pub(crate) async fn find(
        trust: &Trust,
        own: &str,
        address: &str,
        within: Duration,
    ) -> Result<(Self, mpsc::Receiver<News>), Unreached> {
        let late = |_| Unreached::Other(format!("replica at {address}, which does not answer"));
        timeout(CONNECT_MAX.min(within), Self::connect(trust, own, address)).await.map_err(late)?
    }

    async fn connect(
        trust: &Trust,
        own: &str,
        address: &str,
    ) -> Result<(Self, mpsc::Receiver<News>), Unreached> {
        let other =
            |error: &dyn std::fmt::Display| Unreached::Other(format!("replica at {address}: {error}"));
        let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Unreached::Gone,
            _ => other(&error),
        })?;
        // Small requests must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(NAME).map_err(|error| other(&error))?;
        let stream = TlsConnector::from(Arc::clone(&trust.client)).connect(name, stream).await;
        let stream = stream.map_err(|error| other(&trust::refusal(&error)))?;
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE.every)
            .keep_alive_timeout(KEEP_ALIVE.within)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| other(&error))?;
        // Ends with the last handle; whoever asks on it is told of its end.
        tokio::spawn(async move { drop(connection.await) });
        let leader = Self { requests, address: address.into() };
        let mut question = request(Method::GET, "directory", Body::empty());
        followers::introduce(question.headers_mut(), own);
        let answer = leader.send(question).await;
        let answer = answer.map_err(|error| other(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(other(&"it does not lead"));
        }
        let mut directories = Directories { body: answer.into_body(), buffer: BytesMut::new() };
        let (news, heard) = mpsc::channel(NEWS_MAX);
        let first = directories.next().await.map_err(|error| other(&error))?;
        news.try_send(first).map_err(|error| other(&error))?;
        tokio::spawn(async move {
            loop {
                let next = directories.next().await.unwrap_or_else(News::Lost);
                let last = matches!(next, News::Lost(_));
                if news.send(next).await.is_err() || last {
                    return;
                }
            }
        });
        Ok((leader, heard))
    }

    /// The pin of the certificate that it shows peers; `None` when it does not answer.
    pub(crate) async fn pin(&self) -> Option<String> {
        let answer = self.send(request(Method::GET, "pin", Body::empty())).await.ok()?;
        let body = http_body_util::Limited::new(answer.into_body(), 1024).collect().await.ok()?;
        String::from_utf8(body.to_bytes().to_vec()).ok()
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request on.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, hyper::Error> {
        Ok(self.requests.clone().send_request(request).await?.map(Body::new))
    }

    /// Has the leader carry out what this process was asked for.
    pub(crate) fn carry(&self, command: Command) {
        let leader = self.clone();
        match command {
            Command::Submit { network, batch, reply } => {
                let submit = wire::Submit { network: network.0, batch };
                tokio::spawn(answer(reply, async move {
                    let submitted: wire::Submitted = leader.ask("submit", &submit).await?;
                    Ok(submitted.results)
                }));
            }
            Command::Read { queue, after, max, wait, reply } => {
                let read = wire::Read {
                    queue: Some(queue.into()),
                    after,
                    max: max as u64,
                    wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                };
                tokio::spawn(answer(reply, async move {
                    let found: wire::Records = leader.ask("read", &read).await?;
                    let records = found.records.into_iter().map(wire::Numbered::record);
                    records.collect::<Option<_>>().ok_or_else(|| leader.unavailable(&"its answer is none"))
                }));
            }
            Command::Ack { queue, up_to, reply } => {
                let ack = wire::Ack { queue: Some(queue.into()), up_to };
                tokio::spawn(answer(reply, async move { leader.ask::<()>("ack", &ack).await }));
            }
            other => refuse(other, &HubError::Elsewhere(self.address.to_string())),
        }
    }

    /// Has the leader take a link that came in here. `None` when it is no such link.
    pub(crate) fn relay(&self, opened: LinkEvent) -> Option<Relay> {
        let (relay, body, link) = Relay::new(opened)?;
        let leader = self.clone();
        tokio::spawn(async move {
            match leader.send(request(Method::POST, "link", body)).await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    relay::obey(answer.into_body(), link).await
                }
                _ => drop(link.send(LinkCommand::Close(None))),
            }
        });
        Some(relay)
    }

    async fn ask<T: Message + Default>(&self, what: &str, question: &impl Message) -> Result<T, HubError> {
        let body = Body::from(question.encode_to_vec());
        let answer = self.send(request(Method::POST, what, body)).await;
        let answer = answer.map_err(|error| self.unavailable(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(self.unavailable(&format!("it answered {}", answer.status())));
        }
        let body = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| self.unavailable(&error))?.to_bytes();
        T::decode(bytes).map_err(|error| self.unavailable(&error))
    }

    fn unavailable(&self, why: &dyn std::fmt::Display) -> HubError {
        HubError::Store(StoreError::Unavailable(format!("replica at {}: {why}", self.address)))
    }
}

/// Answers what was asked, unless nobody waits for it any more.
async fn answer<T>(
    mut reply: oneshot::Sender<Result<T, HubError>>,
    carried: impl Future<Output = Result<T, HubError>>,
) {
    tokio::select! {
        answer = carried => drop(reply.send(answer)),
        () = reply.closed() => {}
    }
}

fn request(method: Method, what: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = format!("https://{NAME}{PREFIX}{what}").parse().expect("a name and a path");
    request
}

/// The directory as it changes at the leader.
struct Directories {
    body: Body,
    buffer: BytesMut,
}

impl Directories {
    /// The next one, or why there is none.
    async fn next(&mut self) -> Result<News, String> {
        loop {
            let whole = wire::get_directory(&mut self.buffer);
            if let Some((version, json)) = whole.map_err(|()| "its directory is too long".to_owned())? {
                let directory = Directory::from_json(&json).map_err(|error| error.to_string())?;
                return Ok(News::Directory(version, Box::new(directory)));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(format!("the connection to it broke: {error}")),
                None => return Err("it leads no more".to_owned()),
            }
        }
    }
}

//! Events connections: a WebSocket to the client and one to its node, and what comes from either goes to the other.
//! When the node is gone the client is told to join again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message as NodeMessage};
use trunkline_http::auth::source;
use trunkline_http::problem::{BAD_REQUEST, OVERLOADED, Problem};
use trunkline_http::serve::{Stopping, stopped};

use super::calls::{call_id, session_id, session_path};
use super::limits::EVENTS_BUFFER_BYTES;
use super::message::{Outcome, Request};
use super::upstream::Upstreams;
use super::{Front, calls, no_node};
use crate::api::limits::{
    EVENT_BYTES_MAX, EVENTS_MESSAGE_BYTES_MAX, EVENTS_PING, EVENTS_SILENCE_MAX, EVENTS_UNSENT_BYTES_MAX,
    EVENTS_WRITE_MAX,
};

/// How long to wait for the client's own close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What a client is told whose node is gone.
const MOVED: &str = r#"{"event":"moved"}"#;

type NodeSocket = WebSocketStream<reqwest::Upgraded>;

/// Why a connection ends: what the close frame says. `None` when nobody is left to hear it.
type End = Option<CloseFrame>;

/// `/v1/calls/{call}/participants/{session}/events`
pub(super) async fn open(
    State(front): State<Arc<Front>>,
    Path((call, session)): Path<(String, String)>,
    parts: Parts,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let call = call_id(&call)?;
    let path = format!("{}/events", session_path(&call, &session_id(&session)?));
    let request = Request::new(&parts, path, Bytes::new(), source(&parts.extensions));
    if parts.method == http::Method::OPTIONS {
        return front.any_node(&request).await;
    }
    let request = request.about_call();
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(BAD_REQUEST, format!("this path is a WebSocket: {}", rejection.body_text()))
    })?;
    let Ok(permit) = Arc::clone(&front.events).try_acquire_owned() else {
        return Err(Problem::new(OVERLOADED, "too many events connections are open").retry_after(EVENTS_PING));
    };
    let (mut unknown, mut silent) = (None, false);
    for at in front.live_for(&call) {
        match front.upstreams.upgrade(at, &request).await {
            Ok(upgraded) => {
                let Some(life) = front.upstreams.life(at) else { continue };
                let upstreams = Arc::clone(&front.upstreams);
                let stopping = front.stopping.clone();
                let answer = upgrade
                    .read_buffer_size(EVENTS_BUFFER_BYTES)
                    .write_buffer_size(0)
                    .max_write_buffer_size(EVENTS_UNSENT_BYTES_MAX)
                    .max_message_size(EVENTS_MESSAGE_BYTES_MAX)
                    .max_frame_size(EVENTS_MESSAGE_BYTES_MAX)
                    .on_upgrade(async move |client| {
                        let node =
                            WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(node_config()));
                        let relayed = Relayed { node: node.await, life, stopping, heard: Instant::now() };
                        relayed.run(client, &upstreams, at, permit).await;
                    });
                return Ok(answer);
            }
            Err(Outcome::Answered(answer)) if answer.status == http::StatusCode::NOT_FOUND => {
                unknown = Some(answer);
            }
            Err(Outcome::Answered(answer)) => return Ok(answer.into_response()),
            Err(Outcome::Silent) => silent = true,
            Err(Outcome::Gone) => {}
        }
    }
    if silent {
        return Err(no_node("a node that may have this session does not answer"));
    }
    Ok(unknown.map_or_else(|| calls::no_call().into_response(), |answer| answer.into_response()))
}

fn node_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(EVENTS_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(EVENTS_UNSENT_BYTES_MAX)
        .max_message_size(Some(EVENT_BYTES_MAX))
        .max_frame_size(Some(EVENT_BYTES_MAX))
}

/// One events connection on its way through.
struct Relayed {
    node: NodeSocket,
    life: watch::Receiver<bool>,
    stopping: Stopping,
    heard: Instant,
}

impl Relayed {
    async fn run(
        mut self,
        mut client: WebSocket,
        upstreams: &Upstreams,
        at: usize,
        permit: OwnedSemaphorePermit,
    ) {
        let open = metrics::gauge!("trunkline_ingress_events_connections");
        open.increment(1);
        let end = match self.pump(&mut client).await {
            Ok(end) => end,
            Err(NodeGone) => {
                upstreams.doubt(at);
                metrics::counter!("trunkline_ingress_moved_total").increment(1);
                match send(&mut client, Message::Text(Utf8Bytes::from_static(MOVED))).await {
                    Ok(()) => close(close_code::NORMAL, "the node is gone: join again"),
                    Err(end) => end,
                }
            }
        };
        if let Some(frame) = end {
            let farewell = async {
                if client.send(Message::Close(Some(frame))).await.is_ok() {
                    // Closing with unread input would reset the connection, and the client lose the reason.
                    while let Some(Ok(_)) = client.recv().await {}
                }
            };
            let _ = tokio::time::timeout(CLOSE_WAIT, farewell).await;
        }
        let _ = tokio::time::timeout(CLOSE_WAIT, self.node.close(None)).await;
        open.decrement(1);
        drop(permit);
    }

    /// Passes messages on, one at a time: whoever reads slowly slows the other down, and is cut off in the end.
    async fn pump(&mut self, client: &mut WebSocket) -> Result<End, NodeGone> {
        let mut ticks = tokio::time::interval(EVENTS_PING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut until_stopped = std::pin::pin!(stopped(&mut self.stopping));
        loop {
            let step = tokio::select! {
                // What the node still said goes before its end.
                biased;
                message = self.node.next() => from_node(client, message).await?,
                message = client.recv() => {
                    self.heard = Instant::now();
                    from_client(&mut self.node, message).await?
                }
                () = gone(&mut self.life) => return Err(NodeGone),
                _ = ticks.tick() => {
                    if self.heard.elapsed() >= EVENTS_SILENCE_MAX {
                        Err(close(close_code::POLICY, "no pong came: connect again"))
                    } else {
                        send(client, Message::Ping(Bytes::new())).await
                    }
                }
                () = &mut until_stopped => {
                    Err(close(close_code::AWAY, "the ingress is stopping: connect again"))
                }
            };
            if let Err(end) = step {
                return Ok(end);
            }
        }
    }
}

/// The node is not there any more, or is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodeGone;

type Heard = Option<Result<NodeMessage, tungstenite::Error>>;

async fn gone(life: &mut watch::Receiver<bool>) {
    // An error means that nobody watches the node any more: the front stops.
    let _ = life.wait_for(|live| !*live).await;
}

async fn from_node(client: &mut WebSocket, message: Heard) -> Result<Result<(), End>, NodeGone> {
    match message {
        Some(Ok(NodeMessage::Text(text))) => {
            Ok(send(client, Message::Text(Utf8Bytes::from(text.as_str()))).await)
        }
        // It stops, and has told those whom it could.
        Some(Ok(NodeMessage::Close(Some(frame)))) if u16::from(frame.code) == close_code::AWAY => {
            Err(NodeGone)
        }
        Some(Ok(NodeMessage::Close(frame))) => Ok(Err(Some(CloseFrame {
            code: frame.as_ref().map_or(close_code::NORMAL, |frame| frame.code.into()),
            reason: frame.map_or_else(Utf8Bytes::default, |frame| Utf8Bytes::from(frame.reason.as_str())),
        }))),
        Some(Ok(_)) => Ok(Ok(())),
        Some(Err(_)) | None => Err(NodeGone),
    }
}

async fn from_client(
    node: &mut NodeSocket,
    message: Option<Result<Message, axum::Error>>,
) -> Result<Result<(), End>, NodeGone> {
    let message = match message {
        Some(Ok(Message::Text(text))) => NodeMessage::text(text.as_str()),
        // The node says what it thinks of it.
        Some(Ok(Message::Binary(bytes))) => NodeMessage::binary(bytes),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(Ok(())),
        Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(Err(None)),
    };
    match tokio::time::timeout(EVENTS_WRITE_MAX, node.send(message)).await {
        Ok(Ok(())) => Ok(Ok(())),
        Ok(Err(_)) | Err(_) => Err(NodeGone),
    }
}

async fn send(client: &mut WebSocket, message: Message) -> Result<(), End> {
    match tokio::time::timeout(EVENTS_WRITE_MAX, client.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

fn close(code: u16, reason: &'static str) -> End {
    Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) })
}

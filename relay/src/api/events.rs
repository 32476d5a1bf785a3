//! A participant's events connection: `GET <session>/events`, a WebSocket. What the call tells goes out, a text frame
//! each; pins and mutes come in.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::response::Response;
use http::request::Parts;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior};
use trunkline_http::problem::{BAD_REQUEST, OVERLOADED, Problem};
use trunkline_http::serve::stopped;
use trunkline_relay_proto::event::Request;

use super::limits::{
    EVENTS_MESSAGE_BYTES_MAX, EVENTS_PING, EVENTS_SILENCE_MAX, EVENTS_UNSENT_BYTES_MAX, EVENTS_WRITE_MAX,
};
use super::participants::authorized;
use super::{Answer, Api, fail};
use crate::node::{EventStream, SessionId};

/// How long to wait for the client's own close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Why a connection ends: what the close frame says. `None` when nobody is left to hear it.
type End = Option<CloseFrame>;

struct Connection {
    api: Arc<Api>,
    session: SessionId,
    events: EventStream,
    heard: Instant,
}

pub(super) async fn open(
    State(api): State<Arc<Api>>,
    Path((call, session)): Path<(String, String)>,
    parts: Parts,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let session = authorized(&api, &parts, &call, &session)?;
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(BAD_REQUEST, format!("this path is a WebSocket: {}", rejection.body_text()))
    })?;
    let Ok(permit) = Arc::clone(&api.events).try_acquire_owned() else {
        return Err(Problem::new(OVERLOADED, "too many events connections are open").retry_after(EVENTS_PING));
    };
    let events = api.node.events(&session).map_err(fail::node)?;
    let connection = Connection { api, session, events, heard: Instant::now() };
    Ok(upgrade
        .max_write_buffer_size(EVENTS_UNSENT_BYTES_MAX)
        .max_message_size(EVENTS_MESSAGE_BYTES_MAX)
        .max_frame_size(EVENTS_MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| connection.run(socket, permit)))
}

impl Connection {
    async fn run(mut self, mut socket: WebSocket, permit: OwnedSemaphorePermit) {
        let open = metrics::gauge!("trunkline_relay_events_connections");
        open.increment(1);
        if let Some(frame) = self.pump(&mut socket).await {
            let farewell = async {
                if socket.send(Message::Close(Some(frame))).await.is_ok() {
                    // Closing with unread input would reset the connection, and the client lose the reason.
                    while let Some(Ok(_)) = socket.recv().await {}
                }
            };
            let _ = tokio::time::timeout(CLOSE_WAIT, farewell).await;
        }
        open.decrement(1);
        drop(permit);
    }

    async fn pump(&mut self, socket: &mut WebSocket) -> End {
        let mut ticks = tokio::time::interval(EVENTS_PING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = self.api.stopping.clone();
        let mut until_stopped = std::pin::pin!(stopped(&mut stopping));
        loop {
            // What the call still has to say goes before the end.
            let step = tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(text) => send(socket, Message::Text(utf8(&text))).await,
                    None => Err(close(close_code::NORMAL, "it is over, or this connection was too slow")),
                },
                message = socket.recv() => match message {
                    Some(Ok(message)) => self.hear(socket, message).await,
                    Some(Err(_)) | None => Err(None),
                },
                _ = ticks.tick() => self.tick(socket).await,
                () = &mut until_stopped => Err(close(close_code::AWAY, "the node is stopping: join another")),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn hear(&mut self, socket: &mut WebSocket, message: Message) -> Result<(), End> {
        self.heard = Instant::now();
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => return Err(None),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Binary(_) => return refuse(socket, "send text frames").await,
        };
        // Of the session: who connects again has no more than who stays.
        if self.api.requests.count(&self.session).is_err() {
            return refuse(socket, "too many requests in a second").await;
        }
        let request: Request = match serde_json::from_str(&text) {
            Ok(request) => request,
            Err(error) => return refuse(socket, &format!("not understood: {error}")).await,
        };
        match self.api.node.request(&self.session, request).await {
            Ok(()) => Ok(()),
            Err(error) => refuse(socket, &error.to_string()).await,
        }
    }

    async fn tick(&mut self, socket: &mut WebSocket) -> Result<(), End> {
        if self.heard.elapsed() >= EVENTS_SILENCE_MAX {
            return Err(close(close_code::POLICY, "no pong came: connect again"));
        }
        send(socket, Message::Ping(bytes::Bytes::new())).await
    }
}

async fn refuse(socket: &mut WebSocket, reason: &str) -> Result<(), End> {
    let text = json!({ "event": "error", "reason": reason }).to_string();
    send(socket, Message::Text(text.into())).await
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match tokio::time::timeout(EVENTS_WRITE_MAX, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

fn close(code: u16, reason: &'static str) -> End {
    Some(CloseFrame { code, reason: reason.into() })
}

fn utf8(text: &Arc<str>) -> Utf8Bytes {
    Utf8Bytes::from(&**text)
}

//! A queue as a WebSocket: `GET /v1/inbox/stream` and `GET /v1/receipts/stream`. Records go out as they come,
//! at most [`STREAM_UNACKED_MAX`] ahead of the client's `{"ack": seq}`.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::SinkExt;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior};
use trunkline_gateway_proto::store::Record;
use trunkline_http::extract::Query;
use trunkline_http::problem::{BAD_REQUEST, OVERLOADED, Problem};
use trunkline_http::serve::{Stopping, stopped};

use super::Api;
use super::auth::Tenant;
use super::feed::{Feed, Format};
use super::limits::{
    EMPTY_PAUSE, STREAM_FRAME_BYTES, STREAM_MESSAGE_BYTES_MAX, STREAM_PING, STREAM_READ_MAX,
    STREAM_SILENCE_MAX, STREAM_UNACKED_MAX, STREAM_WRITE_MAX, WAIT_MAX,
};
use super::poll::bound;
use crate::hub::HubError;

/// How long to wait for the client's own close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ack {
    ack: u64,
}

/// An answer of the hub that is on its way.
type Pending<T> = Option<Pin<Box<dyn Future<Output = Result<T, HubError>> + Send>>>;

/// Why a stream ends: what the close frame says. `None` when nobody is left to hear it.
type End = Option<CloseFrame>;

struct Stream {
    api: Arc<Api>,
    tenant: Tenant,
    feed: Feed,
    format: Format,
    stopping: Stopping,
    /// Sequence numbers sent and not acknowledged yet, in order.
    unacked: VecDeque<u64>,
    last_sent: Option<u64>,
    /// Acknowledged by the client, and not handed to the hub yet.
    ack_wanted: Option<u64>,
    heard: Instant,
    /// The last read gave nothing.
    was_empty: bool,
}

pub(super) async fn open(
    feed: Feed,
    State(api): State<Arc<Api>>,
    tenant: Tenant,
    Query(query): Query<StreamQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(BAD_REQUEST, format!("this path is a WebSocket: {}", rejection.body_text()))
    })?;
    let Ok(permit) = Arc::clone(&api.streams).try_acquire_owned() else {
        return Err(Problem::new(OVERLOADED, "too many streams are open: close one, or poll instead")
            .retry_after(STREAM_PING));
    };
    let stopping = api.stopping.clone();
    let stream = Stream {
        api,
        tenant,
        feed,
        format: query.format,
        stopping,
        unacked: VecDeque::new(),
        last_sent: None,
        ack_wanted: None,
        heard: Instant::now(),
        was_empty: false,
    };
    Ok(upgrade
        .max_message_size(STREAM_MESSAGE_BYTES_MAX)
        .max_frame_size(STREAM_MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| stream.run(socket, permit)))
}

impl Stream {
    async fn run(mut self, mut socket: WebSocket, permit: OwnedSemaphorePermit) {
        let end = self.pump(&mut socket).await;
        if let Some(frame) = end {
            let farewell = async {
                if socket.send(Message::Close(Some(frame))).await.is_ok() {
                    // Closing with unread input would reset the connection, and the client lose the reason.
                    while let Some(Ok(_)) = socket.recv().await {}
                }
            };
            let _ = tokio::time::timeout(CLOSE_WAIT, farewell).await;
        }
        drop(permit);
    }

    async fn pump(&mut self, socket: &mut WebSocket) -> End {
        let mut read: Pending<Vec<(u64, Record)>> = None;
        let mut ack: Pending<()> = None;
        let mut ticks = tokio::time::interval(STREAM_PING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if read.is_none() {
                read = self.next_read();
            }
            if ack.is_none() {
                ack = self.next_ack();
            }
            let step = tokio::select! {
                message = socket.recv() => match message {
                    Some(Ok(message)) => self.hear(&message),
                    Some(Err(_)) | None => Err(None),
                },
                records = pending(&mut read) => {
                    read = None;
                    match records {
                        Ok(mut records) => {
                            bound(&mut records);
                            self.send(socket, &records).await
                        }
                        Err(error) => Err(unavailable(&error)),
                    }
                }
                done = pending(&mut ack) => {
                    ack = None;
                    done.map_err(|error| unavailable(&error))
                }
                _ = ticks.tick() => self.tick(socket).await,
                () = stopped(&mut self.stopping) => {
                    Err(close(close_code::AWAY, "the gateway is stopping: connect again later"))
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Asks the hub for what the window has room for.
    fn next_read(&self) -> Pending<Vec<(u64, Record)>> {
        let room = STREAM_UNACKED_MAX - self.unacked.len();
        if room == 0 {
            return None;
        }
        let (hub, queue) = (self.api.hub.clone(), self.feed.queue(self.tenant.network));
        let (after, max) = (self.last_sent, room.min(STREAM_READ_MAX));
        let pause = if self.was_empty { EMPTY_PAUSE } else { Duration::ZERO };
        Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            hub.read(queue, after, max, WAIT_MAX).await
        }))
    }

    /// Hands on what was acknowledged since the last time: one commit for all that came meanwhile.
    fn next_ack(&mut self) -> Pending<()> {
        let up_to = self.ack_wanted.take()?;
        let (hub, queue) = (self.api.hub.clone(), self.feed.queue(self.tenant.network));
        Some(Box::pin(async move { hub.ack(queue, up_to).await }))
    }

    fn hear(&mut self, message: &Message) -> Result<(), End> {
        self.heard = Instant::now();
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(None),
            Message::Binary(_) => {
                return Err(close(close_code::UNSUPPORTED, "acknowledge with a text frame {\"ack\": seq}"));
            }
        };
        let Ok(Ack { ack }) = serde_json::from_str(text) else {
            return Err(close(close_code::INVALID, "not {\"ack\": seq}: nothing else can be sent here"));
        };
        if self.last_sent.is_none_or(|last| ack > last) {
            return Err(close(close_code::POLICY, "acknowledged what was not sent on this stream"));
        }
        while self.unacked.front().is_some_and(|seq| *seq <= ack) {
            self.unacked.pop_front();
            self.ack_wanted = Some(ack);
        }
        Ok(())
    }

    async fn send(&mut self, socket: &mut WebSocket, records: &[(u64, Record)]) -> Result<(), End> {
        self.was_empty = records.is_empty();
        if self.was_empty {
            return self.check_token();
        }
        let feed = self.feed;
        match self.format {
            Format::Json => {
                for (seq, record) in records {
                    let text = feed.json_record(*seq, record).map_err(|_| failed())?;
                    self.write(socket, Message::text(text)).await?;
                }
            }
            Format::Protobuf => {
                for frame in frames(records) {
                    self.write(socket, Message::binary(feed.protobuf_batch(frame))).await?;
                }
            }
        }
        self.flush(socket).await?;
        self.unacked.extend(records.iter().map(|(seq, _)| *seq));
        self.last_sent = records.last().map(|(seq, _)| *seq).or(self.last_sent);
        Ok(())
    }

    async fn tick(&mut self, socket: &mut WebSocket) -> Result<(), End> {
        self.check_token()?;
        if self.heard.elapsed() > STREAM_SILENCE_MAX {
            return Err(close(close_code::POLICY, "no pong in time"));
        }
        self.write(socket, Message::Ping(bytes::Bytes::new())).await?;
        self.flush(socket).await
    }

    fn check_token(&self) -> Result<(), End> {
        if self.tenant.still_valid(&self.api) {
            Ok(())
        } else {
            Err(close(close_code::POLICY, "the token of this stream is no longer valid"))
        }
    }

    /// Gives a message to the socket, whose own buffer is bounded: a slow reader is waited for, and not forever.
    async fn write(&mut self, socket: &mut WebSocket, message: Message) -> Result<(), End> {
        self.bounded(socket.feed(message)).await
    }

    async fn flush(&mut self, socket: &mut WebSocket) -> Result<(), End> {
        self.bounded(socket.flush()).await
    }

    async fn bounded<E>(&mut self, write: impl Future<Output = Result<(), E>>) -> Result<(), End> {
        tokio::select! {
            // In this order: a write that can be done now leaves the stream fit for a close frame.
            biased;
            done = tokio::time::timeout(STREAM_WRITE_MAX, write) => match done {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(None),
            },
            () = stopped(&mut self.stopping) => Err(None),
        }
    }
}

/// Splits records into runs that fit one protobuf frame each.
fn frames(mut records: &[(u64, Record)]) -> impl Iterator<Item = &[(u64, Record)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = records.iter().take_while(|(_, record)| {
            bytes += record.body.len();
            bytes <= STREAM_FRAME_BYTES
        });
        let count = fits.count().max(1).min(records.len());
        let (frame, rest) = records.split_at(count);
        records = rest;
        (!frame.is_empty()).then_some(frame)
    })
}

/// Waits for an answer, forever when none is on its way.
async fn pending<T>(answer: &mut Pending<T>) -> Result<T, HubError> {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

fn close(code: u16, reason: &'static str) -> End {
    Some(CloseFrame { code, reason: reason.into() })
}

fn unavailable(error: &HubError) -> End {
    match error {
        HubError::Stopping => close(close_code::AWAY, "the gateway is stopping: connect again later"),
        HubError::Store(_) | HubError::Elsewhere(_) => {
            close(close_code::AGAIN, "storage is out of order: connect again later")
        }
    }
}

fn failed() -> End {
    close(close_code::ERROR, "a stored record cannot be read: the operator finds this in the log")
}

//! Events as they happen, as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event as SseEvent, KeepAlive};
use futures_util::stream::{select, unfold};
use futures_util::{Stream, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use super::AdminState;

/// A comment is sent this often when nothing happens, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn follow(
    State(state): State<AdminState>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let events = unfold(state.hub.events(), async |mut events| {
        let event = match events.recv().await {
            Ok(event) => SseEvent::default()
                .event(event.kind)
                .json_data(&event)
                .unwrap_or_else(|_| SseEvent::default()),
            // A reader that falls behind is told what it missed instead of slowing anybody down.
            Err(RecvError::Lagged(missed)) => SseEvent::default().event("missed").data(missed.to_string()),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), events))
    });
    // Who is slow gets the newest sample, not all of them.
    let samples = unfold(state.history.follow(), async |mut newest| {
        newest.changed().await.ok()?;
        let sample = std::sync::Arc::clone(&newest.borrow_and_update());
        Some((Ok(SseEvent::default().event("sample").data(&*sample)), newest))
    });
    let stream = select(events, samples);
    // A follower must not hold up a drain.
    let stream = stream.take_until(Box::pin(state.readiness.stopped()));
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

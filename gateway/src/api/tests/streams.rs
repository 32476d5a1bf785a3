//! Inbox and receipts as WebSockets.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::*;
use crate::api::limits::{
    EMPTY_PAUSE, STREAM_PING, STREAM_READ_MAX, STREAM_SILENCE_MAX, STREAM_UNACKED_MAX, STREAM_WRITE_MAX,
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(served: &Served, path: &str) -> Socket {
    let mut request = format!("ws://{}{path}", served.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

/// The next frame that is not a ping.
async fn next(socket: &mut Socket) -> Frame {
    let frame = async {
        loop {
            match socket.next().await.unwrap().unwrap() {
                Frame::Ping(_) => {}
                frame => return frame,
            }
        }
    };
    tokio::time::timeout(PATIENCE, frame).await.expect("a frame comes")
}

async fn next_seq(socket: &mut Socket) -> u64 {
    let envelope: Value = serde_json::from_str(next(socket).await.to_text().unwrap()).unwrap();
    envelope["seq"].as_u64().unwrap()
}

async fn say(socket: &mut Socket, text: &str) {
    socket.send(Frame::text(text)).await.unwrap();
}

async fn closed_with(socket: &mut Socket) -> (CloseCode, String) {
    loop {
        if let Frame::Close(Some(frame)) = next(socket).await {
            return (frame.code, frame.reason.to_string());
        }
    }
}

#[tokio::test]
async fn a_stream_gives_envelopes_as_they_come_and_acknowledges_them() {
    let served = served().await;
    served.put_envelopes([1, 2]);
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    assert_eq!((next_seq(&mut socket).await, next_seq(&mut socket).await), (1, 2));
    served.put_envelopes([3]);
    assert_eq!(next_seq(&mut socket).await, 3);
    say(&mut socket, r#"{"ack": 2}"#).await;
    served.until(|state| state.acks == [(INBOX, 2)]).await;
}

#[tokio::test]
async fn a_new_stream_gives_what_was_not_acknowledged_again() {
    let served = served().await;
    served.put_envelopes([1, 2, 3]);
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    for seq in 1..=3 {
        assert_eq!(next_seq(&mut socket).await, seq);
    }
    say(&mut socket, r#"{"ack": 1}"#).await;
    served.until(|state| !state.acks.is_empty()).await;
    drop(socket);
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    assert_eq!((next_seq(&mut socket).await, next_seq(&mut socket).await), (2, 3));
}

#[tokio::test]
async fn a_protobuf_stream_gives_batches_of_bounded_size() {
    let served = served().await;
    let large = record(&envelope(&vec![0; 200 * 1024]));
    served.put(INBOX, (1..=3).map(|seq| (seq, large.clone())));
    let mut socket = connect(&served, "/v1/inbox/stream?format=protobuf").await;
    for seq in 1..=3 {
        let batch = wire::InboxBatch::decode(next(&mut socket).await.into_data()).unwrap();
        assert_eq!(batch.envelopes.iter().map(|item| item.seq).collect::<Vec<_>>(), [seq]);
    }
    say(&mut socket, r#"{"ack": 3}"#).await;
    served.until(|state| state.acks == [(INBOX, 3)]).await;
}

#[tokio::test]
async fn a_receipt_stream_gives_receipts() {
    let served = served().await;
    let receipt = wire::Receipt { state: wire::State::Delivered.into(), ..wire::Receipt::default() };
    served.put(RECEIPTS, [(5, record(&receipt))]);
    let mut socket = connect(&served, "/v1/receipts/stream").await;
    let receipt: Value = serde_json::from_str(next(&mut socket).await.to_text().unwrap()).unwrap();
    assert_eq!((&receipt["seq"], &receipt["state"]), (&5.into(), &"delivered".into()));
}

#[tokio::test]
async fn a_stream_runs_only_so_far_ahead_of_acknowledgements() {
    let served = served().await;
    let window = STREAM_UNACKED_MAX as u64;
    served.put_envelopes(1..=window + 10);
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    for seq in 1..=window {
        assert_eq!(next_seq(&mut socket).await, seq);
    }
    // The window is full: no further read was asked for, and the rest comes with the acknowledgement.
    assert_eq!(served.state().reads, STREAM_UNACKED_MAX / STREAM_READ_MAX);
    say(&mut socket, &format!(r#"{{"ack": {window}}}"#)).await;
    assert_eq!(next_seq(&mut socket).await, window + 1);
}

#[tokio::test]
async fn what_is_no_acknowledgement_closes_the_stream_with_a_reason() {
    let served = served().await;
    for (text, code) in [
        ("hello", CloseCode::Invalid),
        (r#"{"ack": 1, "more": 2}"#, CloseCode::Invalid),
        (r#"{"ack": 1}"#, CloseCode::Policy),
    ] {
        let mut socket = connect(&served, "/v1/inbox/stream").await;
        say(&mut socket, text).await;
        let (found, reason) = closed_with(&mut socket).await;
        assert_eq!(found, code, "{text}");
        assert!(!reason.is_empty());
    }
    assert!(served.state().acks.is_empty());
}

#[tokio::test]
async fn a_stream_is_told_when_the_gateway_stops() {
    let served = served().await;
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    served.until(|state| state.reads == 1).await;
    served.stop.send_replace(true);
    assert_eq!(closed_with(&mut socket).await.0, CloseCode::Away);
}

#[tokio::test]
async fn a_stream_with_the_wrong_token_is_not_opened() {
    let served = served().await;
    let mut request = format!("ws://{}/v1/inbox/stream", served.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", "Bearer wrong".parse().unwrap());
    match tokio_tungstenite::connect_async(request).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 401),
        other => panic!("the upgrade must be refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_path_without_an_upgrade_is_a_problem_document() {
    let served = served().await;
    problem(served.get("/v1/inbox/stream").send().await.unwrap(), 400, "bad-request").await;
}

/// Lets this time pass at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_stream_whose_token_was_replaced_is_closed() {
    let served = served().await;
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    served.until(|state| state.reads == 1).await;
    served.hub.directory_watch().store(Arc::new(Directory::default()));
    pass(STREAM_PING).await;
    let (code, reason) = closed_with(&mut socket).await;
    assert_eq!((code, reason.as_str()), (CloseCode::Policy, "the token of this stream is no longer valid"));
}

#[tokio::test]
async fn a_stream_of_a_network_that_was_removed_is_closed_at_once() {
    let served = served().await;
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    served.until(|state| state.reads == 1).await;
    served.hub.directory_watch().store(Arc::new(Directory::default()));
    served.state().impatient = true;
    // It answers the one read that waits, and finds the network gone.
    served.put_envelopes([1]);
    assert_eq!(closed_with(&mut socket).await.0, CloseCode::Policy);
}

#[tokio::test]
async fn a_queue_that_answers_nothing_is_not_asked_in_a_busy_loop() {
    let served = served().await;
    served.state().impatient = true;
    let started = std::time::Instant::now();
    let _socket = connect(&served, "/v1/inbox/stream").await;
    served.until(|state| state.reads >= 4).await;
    assert!(started.elapsed() >= 3 * EMPTY_PAUSE);
}

#[tokio::test]
async fn a_stream_whose_client_is_silent_is_closed() {
    let served = served().await;
    // This client answers no ping, because nobody reads from it.
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    served.until(|state| state.reads == 1).await;
    pass(STREAM_SILENCE_MAX + STREAM_PING).await;
    let (code, reason) = closed_with(&mut socket).await;
    assert_eq!((code, reason.as_str()), (CloseCode::Policy, "no pong in time"));
}

#[tokio::test]
async fn a_failed_store_closes_the_stream_with_a_reason() {
    let served = served().await;
    let error = crate::store::StoreError::Failed("input/output error".into());
    served.state().error = Some(HubError::Store(error));
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    assert_eq!(closed_with(&mut socket).await.0, CloseCode::Again);
}

#[tokio::test]
async fn a_reader_that_never_reads_is_closed_and_what_it_was_sent_comes_again() {
    let served = served().await;
    let large = record(&envelope(&vec![0; 1024 * 1024]));
    served.put(INBOX, (1..=64).map(|seq| (seq, large.clone())));
    let mut slow = connect(&served, "/v1/inbox/stream").await;
    served.until(|state| state.reads == 1).await;
    for _ in 0..10 {
        // The stream fills the socket, waits for its reader, and runs out of patience.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        pass(STREAM_WRITE_MAX).await;
    }
    let mut frames = 0;
    while let Some(Ok(frame)) = slow.next().await {
        frames += u64::from(frame.is_text());
    }
    assert!(frames < 64, "{frames} frames went to a reader that did not read");
    let mut socket = connect(&served, "/v1/inbox/stream").await;
    assert_eq!(next_seq(&mut socket).await, 1);
}

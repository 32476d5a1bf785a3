//! The events connection.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(served: &Served, session: &str) -> Result<Socket, Error> {
    let url = format!("{}{session}/events", served.url.replacen("http", "ws", 1));
    connect_async(url).await.map(|(socket, _)| socket)
}

/// The next event, whatever pings come before it; `None` once the connection is closed.
async fn next(socket: &mut Socket) -> Option<Value> {
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("something comes") {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

/// The next event of a kind.
async fn next_of(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let event = next(socket).await.expect("it is not over");
        if event["event"] == kind {
            return event;
        }
    }
}

async fn ask(socket: &mut Socket, request: &str) {
    socket.send(Message::text(request.to_owned())).await.unwrap();
}

#[tokio::test]
async fn who_connects_hears_everything_anew_and_then_what_changes() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (ann, _) = served.joined(&call, "Ann").await;
    let mut events = connect(&served, &ann).await.unwrap();
    let roster = next_of(&mut events, "roster").await;
    assert_eq!(
        (&roster["complete"], &roster["participants"][0]["participant"]),
        (&json!(true), &json!("Ann"))
    );
    let (bob, _) = served.joined(&call, "Bob").await;
    let joined = next_of(&mut events, "roster").await;
    assert_eq!(joined["participants"][0]["participant"], "Bob", "{joined}");
    assert_eq!(served.request("DELETE", &bob).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let left = next_of(&mut events, "roster").await;
    assert_eq!(left["left"][0], "Bob", "{left}");
}

#[tokio::test]
async fn what_cannot_be_done_or_understood_is_answered_and_the_connection_stays() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (ann, _) = served.joined(&call, "Ann").await;
    let mut events = connect(&served, &ann).await.unwrap();
    for (request, reason) in [
        ("nonsense", "not understood: "),
        ("{\"pin\":{}}", "not understood: "),
        ("{\"kick\":{\"participant\":\"Bob\"}}", "not understood: "),
        ("{\"pin\":{\"slot\":\"nowhere\",\"participant\":\"Bob\"}}", "no slot of this name"),
    ] {
        ask(&mut events, request).await;
        let error = next_of(&mut events, "error").await;
        assert!(error["reason"].as_str().unwrap().starts_with(reason), "{error}");
    }
    events.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(next_of(&mut events, "error").await["reason"], "send text frames");
}

#[tokio::test]
async fn who_asks_too_much_is_told_and_who_sends_too_much_is_cut_off() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (ann, _) = served.joined(&call, "Ann").await;
    let mut events = connect(&served, &ann).await.unwrap();
    for _ in 0..100 {
        ask(&mut events, "{}").await;
    }
    loop {
        if next_of(&mut events, "error").await["reason"] == "too many requests in a second" {
            break;
        }
    }
    ask(&mut events, &format!("\"{}\"", "x".repeat(limits::EVENTS_MESSAGE_BYTES_MAX))).await;
    while next(&mut events).await.is_some() {}
}

#[tokio::test]
async fn who_connects_again_may_ask_no_more() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (ann, _) = served.joined(&call, "Ann").await;
    let (mut asked, mut done) = (0, 0);
    let began = std::time::Instant::now();
    for _ in 0..10 {
        let mut events = connect(&served, &ann).await.unwrap();
        for _ in 0..20 {
            ask(&mut events, "{}").await;
            asked += 1;
            let reason = next_of(&mut events, "error").await["reason"].as_str().unwrap().to_owned();
            done += u64::from(reason != "too many requests in a second");
        }
    }
    // As many at once as in a second, and what comes back meanwhile.
    let most = 20 + 20 * (1 + began.elapsed().as_secs());
    assert!(asked == 200 && done <= most, "{done} of {asked}, {most} at most");
}

#[tokio::test]
async fn the_last_event_says_why_it_is_over() {
    let served = served().await;
    for (reason, end) in [("call_ended", "DELETE"), ("drained", "drain"), ("left", "leave")] {
        let call = served.call(json!({})).await;
        let (ann, _) = served.joined(&call, "Ann").await;
        let mut events = connect(&served, &ann).await.unwrap();
        next_of(&mut events, "roster").await;
        match end {
            "drain" => {
                served.json("POST", "/v1/drain", Some(json!({ "deadline_s": 0 }))).await;
            }
            "leave" => {
                served.request("DELETE", &ann).send().await.unwrap();
            }
            _ => {
                served.json("DELETE", &format!("/v1/calls/{call}"), None).await;
            }
        }
        assert_eq!(next_of(&mut events, "ended").await["reason"], reason);
        assert_eq!(next(&mut events).await, None);
        served.json("DELETE", "/v1/drain", None).await;
    }
}

#[tokio::test]
async fn a_url_that_is_no_session_and_a_request_that_is_no_websocket_are_refused() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let (ann, _) = served.joined(&call, "Ann").await;
    let guess = format!("/v1/calls/{call}/participants/AAAAAAAAAAAAAAAAAAAAAA");
    assert!(matches!(connect(&served, &guess).await, Err(Error::Http(response)) if response.status() == 404));
    let plain = served.request("GET", &format!("{ann}/events")).send().await.unwrap();
    problem(plain, trunkline_http::problem::BAD_REQUEST).await;
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_to_somebody_who_does_not_read_do_not_pile_up() {
    const SENT: usize = 32 << 20;
    let served = served().await;
    let call = served.call(json!({})).await;
    let (ann, _) = served.joined(&call, "Ann").await;
    // It takes little in, so that the node soon has more than the system holds.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(served.url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    let url = format!("{}{ann}/events", served.url.replacen("http", "ws", 1));
    let (mut events, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let before = resident();
    let payload = bytes::Bytes::from_static(&[7; 125]);
    let mut most = before;
    for _ in 0..SENT / 1000 / payload.len() {
        let sending = async {
            for _ in 0..1000 {
                events.feed(Message::Ping(payload.clone())).await?;
            }
            events.flush().await
        };
        // The node may stop reading, and cut this connection off: that is a bound too.
        let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(3), sending).await else { break };
        most = most.max(resident());
    }
    let grown = most - before;
    assert!(grown < SENT / 4, "{grown} bytes more");
}

#[tokio::test]
async fn no_more_events_connections_are_open_than_configured() {
    let served = served_with(Recorder::off(), |config| config.limits.events_max = 1).await;
    let call = served.call(json!({})).await;
    let (ann, _) = served.joined(&call, "Ann").await;
    let _first = connect(&served, &ann).await.unwrap();
    assert!(matches!(connect(&served, &ann).await, Err(Error::Http(response)) if response.status() == 503));
}

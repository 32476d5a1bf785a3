//! Relays against something on a socket that answers as they do, or does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Path, Request, State as Extract};
use axum::http::{StatusCode, header::AUTHORIZATION};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use trunkline_http::serve::{Limits, serve};

use super::*;

const TOKEN: &str = "tlr_secret";
const CALL: &str = "0001-AAAMawIVQUXKoFZxydhDHEg6HusH7Lw";

/// What stands behind the address.
#[derive(Default)]
struct Fake {
    ingress: bool,
    draining: Mutex<bool>,
    ended: Mutex<Vec<String>>,
    unauthorized: AtomicUsize,
    calls: Vec<Value>,
}

struct Scene {
    fake: Arc<Fake>,
    relays: Relays,
    dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
}

fn person(transport: &str, loss: f64) -> Value {
    json!({
        "participant": "Ann", "role": "presenter", "state": "connected", "transport": transport, "rtt_ms": 20.0,
        "uplink_loss": loss, "downlink_loss": 0.0, "sources": [], "slots": [],
    })
}

fn call(id: &str, participants: u64) -> Value {
    json!({
        "call_id": id, "calluri": "203.0.113.7:16384", "mode": "conference", "max_participants": 12,
        "created_at": 1_795_298_625, "meeting_id": "weekly", "participants": participants,
    })
}

async fn token(Extract(fake): Extract<Arc<Fake>>, request: Request, next: Next) -> Response {
    let expected = format!("Bearer {TOKEN}");
    if request.headers().get(AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes()) {
        return next.run(request).await;
    }
    fake.unauthorized.fetch_add(1, Ordering::Relaxed);
    StatusCode::UNAUTHORIZED.into_response()
}

fn router(fake: Arc<Fake>) -> Router {
    let node_only = || async {
        let body = json!({ "type": "urn:trunkline:problem:node-only", "detail": "ask the node" });
        (StatusCode::NOT_FOUND, Json(body)).into_response()
    };
    let drain = match fake.ingress {
        true => post(node_only).delete(node_only),
        false => post(async |Extract(fake): Extract<Arc<Fake>>, Json(body): Json<Value>| {
            if body["deadline_s"].as_u64().is_some_and(|deadline_s| deadline_s > 86_400) {
                let body = json!({ "type": "urn:trunkline:problem:malformed", "detail": "deadline_s: expected 0 to 86400" });
                return (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response();
            }
            *fake.draining.lock().unwrap() = true;
            Json(json!({ "draining": true, "calls": 1 })).into_response()
        })
        .delete(async |Extract(fake): Extract<Arc<Fake>>| {
            *fake.draining.lock().unwrap() = false;
            Json(json!({ "draining": false, "calls": 1 }))
        }),
    };
    let one = get(async |Path(_): Path<String>| {
        Json(
            json!({ "participants": [person("udp", 0.1), person("tls", 0.0), person("carrier-pigeon", 0.2)] }),
        )
    });
    let end = delete(async |Extract(fake): Extract<Arc<Fake>>, Path(id): Path<String>| {
        if !fake.calls.iter().any(|call| call["call_id"] == id.as_str()) {
            return StatusCode::NOT_FOUND;
        }
        fake.ended.lock().unwrap().push(id);
        StatusCode::NO_CONTENT
    });
    Router::new()
        .route("/v1/drain", drain)
        .route(
            "/v1/calls",
            get(async |Extract(fake): Extract<Arc<Fake>>| {
                let draining = *fake.draining.lock().unwrap();
                Json(json!({ "calls": fake.calls, "participants": 3, "draining": draining, "workers": [0.25, 0.75] }))
            }),
        )
        .route("/v1/calls/{call}", one.merge(end))
        .route_layer(from_fn_with_state(Arc::clone(&fake), token))
        .route(
            "/healthz",
            get(async |Extract(fake): Extract<Arc<Fake>>| {
                if fake.ingress {
                    return "alive\n".into_response();
                }
                let draining = *fake.draining.lock().unwrap();
                Json(json!({
                    "status": "alive", "node": 7, "draining": draining, "calls": fake.calls.len(),
                    "calls_max": 1000, "participants": 3, "busy": 0.5, "started_at": 1_795_298_625,
                }))
                .into_response()
            }),
        )
        .with_state(fake)
}

async fn scene(fake: Fake) -> Scene {
    let fake = Arc::new(fake);
    let (url, stop) = listen(router(Arc::clone(&fake))).await;
    let dir = tempfile::tempdir().unwrap();
    let relays = Relays::new(&[config(dir.path(), url, TOKEN)]);
    Scene { fake, relays, dir, stop }
}

async fn listen(router: Router) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(serve(listener, None, router, Limits::default(), stopping));
    (url, stop)
}

fn config(dir: &std::path::Path, url: String, token: &str) -> RelayConfig {
    let admin_token_file = dir.join("relay.token");
    write_token(&admin_token_file, token);
    RelayConfig { name: "one".into(), url, admin_token_file, ca_file: None }
}

fn write_token(file: &std::path::Path, token: &str) {
    std::fs::remove_file(file).ok();
    trunkline_common::secret::create(file, token.as_bytes()).unwrap();
}

impl Scene {
    async fn look(&self) -> RelayView {
        self.relays.relays[0].round(DETAILED_MAX).await;
        self.relays.list().remove(0)
    }
}

#[tokio::test]
async fn a_node_is_shown_with_its_calls_and_nobody_by_name() {
    let scene = scene(Fake { calls: vec![call("small", 1), call(CALL, 3)], ..Fake::default() }).await;
    assert_eq!(scene.relays.list()[0].state, State::Unknown);
    let view = scene.look().await;
    assert_eq!((view.state, view.kind, view.node, view.error), (State::Up, Some(Kind::Node), Some(7), None));
    assert_eq!((view.calls, view.calls_max, view.participants, view.busy), (2, Some(1000), 3, Some(0.5)));
    assert_eq!(view.started_at, Some(1_795_298_625_000));
    let CallsView { calls, errors } = scene.relays.calls();
    assert!(errors.is_empty());
    let first = &calls[0];
    assert_eq!((first.call_id.as_str(), first.relay.as_str(), first.participants), (CALL, "one", 3));
    assert_eq!((first.created_at, first.meeting_id.as_deref()), (1_795_298_625_000, Some("weekly")));
    assert_eq!(first.transports, Some(Transports { udp: 1, tcp: 0, tls: 1 }));
    let loss = first.uplink_loss.unwrap();
    assert!((loss - 0.1).abs() < 1e-9, "{loss}");
    assert_eq!((first.downlink_loss, first.rtt_ms), (Some(0.0), Some(20.0)));
    assert!(!serde_json::to_string(&calls).unwrap().contains("Ann"));
}

#[tokio::test]
async fn only_the_largest_calls_are_looked_at_closely() {
    let scene =
        scene(Fake { calls: (0..9).map(|n| call(&format!("c{n}"), n)).collect(), ..Fake::default() }).await;
    scene.relays.relays[0].round(3).await;
    let calls = scene.relays.calls().calls;
    let close = calls.iter().map(|call| call.transports.is_some()).collect::<Vec<_>>();
    assert_eq!(close, [true, true, true, false, false, false, false, false, false]);
    assert_eq!(calls[0].participants, 8);
}

#[tokio::test]
async fn an_ingress_is_told_from_a_node_and_is_not_drained() {
    let scene = scene(Fake { ingress: true, calls: vec![call(CALL, 3)], ..Fake::default() }).await;
    let unseen = scene.relays.drain("one", None).await.unwrap_err();
    assert!(matches!(unseen, RelayError::Ingress(_)), "{unseen}");
    let view = scene.look().await;
    assert_eq!((view.kind, view.node, view.calls_max), (Some(Kind::Ingress), None, None));
    assert_eq!((view.calls, view.participants, view.busy), (1, 3, Some(0.5)));
    let refused = scene.relays.drain("one", None).await.unwrap_err();
    assert!(refused.to_string().contains("each node a `[[relays]]` entry"), "{refused}");
    assert_eq!(scene.relays.calls().calls.len(), 1);
}

#[tokio::test]
async fn a_node_is_drained_and_undrained_and_its_refusal_is_passed_on() {
    let scene = scene(Fake::default()).await;
    scene.relays.drain("one", Some(60)).await.unwrap();
    assert!(scene.look().await.draining);
    scene.relays.undrain("one").await.unwrap();
    assert!(!scene.look().await.draining);
    let refused = scene.relays.drain("one", Some(u64::MAX)).await.unwrap_err().to_string();
    assert_eq!(refused, "relay `one`: it says: deadline_s: expected 0 to 86400");
    let nobody = scene.relays.drain("two", None).await.unwrap_err();
    assert_eq!(nobody, RelayError::NoSuchRelay("two".into()));
}

#[tokio::test]
async fn a_call_is_ended_where_it_is_and_one_that_is_nowhere_is_said_to_be() {
    let scene = scene(Fake { calls: vec![call(CALL, 3)], ..Fake::default() }).await;
    scene.relays.end(CALL).await.unwrap();
    assert_eq!(*scene.fake.ended.lock().unwrap(), [CALL]);
    for nowhere in ["another", "", "..", "a/b", "a%2Fb", &"x".repeat(65)] {
        let error = scene.relays.end(nowhere).await.unwrap_err();
        assert_eq!(error, RelayError::NoSuchCall(nowhere.to_owned()));
    }
}

#[tokio::test]
async fn a_wrong_token_is_said_shown_once_a_minute_and_tried_at_once_when_it_was_replaced() {
    let scene = scene(Fake::default()).await;
    write_token(&scene.dir.path().join("relay.token"), "tlr_wrong");
    for _ in 0..20 {
        let view = scene.look().await;
        assert_eq!(view.state, State::Down);
        assert!(view.error.unwrap().contains("admin_token_file"));
    }
    assert_eq!(scene.fake.unauthorized.load(Ordering::Relaxed), 1, "or it would lock this machine out");
    assert_eq!(scene.relays.calls().errors.len(), 1);
    write_token(&scene.dir.path().join("relay.token"), TOKEN);
    assert_eq!(scene.look().await.state, State::Up);
}

#[tokio::test]
async fn every_way_a_relay_can_be_missing_is_a_sentence_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let (words, _words) = listen(Router::new().route("/healthz", get(async || "alive\n"))).await;
    let nothing_else = Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/v1/calls", get(async || "[1, 2"));
    let (babble, _babble) = listen(nothing_else).await;
    let endless = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/v1/calls", get(async || vec![b' '; 9 << 20]));
    let (endless, _endless) = listen(endless).await;
    let https = babble.replace("http:", "https:");
    for (url, expected) in [
        (nobody, "cannot connect to http://127.0.0.1:"),
        (words, "is no relay: `url` is the address of the relay's API"),
        (babble, "is no relay: `url` is the address of the relay's API"),
        (endless, "more than 8 MiB"),
        (https, "https://127.0.0.1:"),
    ] {
        let relays = Relays::new(&[config(dir.path(), url.clone(), TOKEN)]);
        relays.relays[0].round(1).await;
        let view = relays.list().remove(0);
        let error = view.error.unwrap_or_default();
        assert!(view.state == State::Down && error.contains(expected), "{url}: {error}");
        assert!(view.since.is_some() && !error.contains(TOKEN));
    }
    let mut open = config(dir.path(), "http://127.0.0.1:1".into(), TOKEN);
    open.admin_token_file = dir.path().join("missing");
    let wrong = open.token().unwrap_err();
    assert!(wrong.contains("admin_token_file: cannot read"), "{wrong}");
    open.ca_file = Some(dir.path().join("relay.token"));
    assert!(open.authorities().unwrap_err().contains("ca_file: cannot use"));
}

#[tokio::test]
async fn a_relay_that_went_away_keeps_what_it_is_and_loses_how_it_was() {
    let scene = scene(Fake { calls: vec![call(CALL, 3)], ..Fake::default() }).await;
    let up = scene.look().await;
    scene.stop.send(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let down = loop {
        let view = scene.look().await;
        if view.state == State::Down {
            break view;
        }
        assert!(Instant::now() < deadline, "it is still there");
    };
    assert_eq!((down.kind, down.node), (up.kind, up.node));
    assert_eq!((down.calls, down.participants, down.busy), (0, 0, None));
    assert!(scene.relays.calls().calls.is_empty());
}

#[tokio::test]
async fn history_counts_relays_that_answer() {
    let scene = scene(Fake { calls: vec![call(CALL, 3)], ..Fake::default() }).await;
    scene.relays.sample(1000);
    scene.look().await;
    scene.relays.sample(3000);
    let samples = scene.relays.history();
    assert_eq!((samples[0].calls, samples[0].busy, samples[0].loss), (0, None, None));
    assert_eq!((samples[1].at, samples[1].calls, samples[1].participants), (3000, 1, 3));
    assert_eq!(samples[1].busy, Some(0.5));
    assert!((samples[1].loss.unwrap() - 0.1).abs() < 1e-9);
}

#[tokio::test]
async fn relays_are_looked_at_by_themselves_and_stop_when_told() {
    let scene = scene(Fake::default()).await;
    let relays = Arc::new(scene.relays);
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(run(Arc::clone(&relays), stopping));
    let deadline = Instant::now() + Duration::from_secs(20);
    while relays.watch()[0].state != State::Up {
        assert!(Instant::now() < deadline, "nobody looks");
        tokio::task::yield_now().await;
    }
    stop.send(true).unwrap();
    task.await.unwrap();
}

//! Two nodes, real processes, behind the HTTP front of an ingress: where calls go, and how they outlive their node.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, LOCATION, ORIGIN};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use trunkline_http::serve::Limits;
use trunkline_relay::ingress::front::{self, Settings, Upstream, Upstreams};
use trunkline_relay::metrics;

use crate::process::Relay;

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the front may take to see that a machine is dead: three polls, and some for a busy one of ours.
const NOTICED_MAX: Duration = Duration::from_secs(6);

const OFFER: &str = include_str!("../data/offers/chromium_plain.sdp");

const INGRESS: &str = "127.0.0.1";

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Nodes 1 and 2, and a front.
pub(crate) struct Cluster {
    pub(crate) nodes: [Relay; 2],
    address: SocketAddr,
    http: Client,
    front: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

/// Somebody who joined: the token, and the session's path.
struct Member {
    token: String,
    session: String,
}

impl Cluster {
    pub(crate) async fn running() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        metrics::install();
        let first = Relay::behind(1, &[INGRESS], None);
        let second = Relay::behind(2, &[INGRESS], Some(&first));
        let http = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut cluster = Self { nodes: [first, second], address, http, front: None };
        cluster.start_front().await;
        cluster
    }

    pub(crate) async fn start_front(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let upstream = |(node, relay): (u16, &Relay)| Upstream {
            node,
            api: format!("http://{}", relay.address).parse::<Url>().unwrap(),
        };
        let nodes = (1..).zip(&self.nodes).map(upstream).collect();
        let upstreams = Arc::new(Upstreams::new(nodes, Vec::new(), None).unwrap());
        let settings = Settings { tls: None, limits: Limits::default(), metrics: metrics::render_process };
        let (stop, stopping) = watch::channel(false);
        let serving = async { front::serve(listener, settings, upstreams, stopping).await };
        self.front = Some((stop, tokio::spawn(serving)));
        self.until_ready().await;
    }

    async fn until_ready(&self) {
        let began = Instant::now();
        while !self
            .http
            .get(self.url("/readyz"))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(began.elapsed() < PATIENCE, "the front does not become ready");
        }
    }

    pub(crate) async fn stop_front(&mut self) {
        let (stop, serving) = self.front.take().unwrap();
        stop.send_replace(true);
        serving.await.unwrap();
    }

    /// A node, by its number.
    pub(crate) fn node(&mut self, number: u16) -> &mut Relay {
        &mut self.nodes[usize::from(number) - 1]
    }

    /// Kills a node as a crash does.
    pub(crate) fn kill(&mut self, number: u16) {
        let node = self.node(number);
        node.signal("KILL");
        node.ended();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), self.url(path))
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> Response {
        let request = self.request(method, path).bearer_auth(self.nodes[0].admin_token());
        let request = if body.is_null() { request } else { request.json(&body) };
        request.send().await.unwrap()
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> Value {
        let response = self.admin(method, path, body).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Creates a call: its id, and its node's number.
    pub(crate) async fn create(&self, body: Value) -> (String, u16) {
        let created = self.json("POST", "/v1/calls", body).await;
        let id = created["call_id"].as_str().unwrap().to_owned();
        let node = id[..4].parse().unwrap();
        (id, node)
    }

    pub(crate) async fn token(&self, call: &str, name: &str) -> String {
        let path = format!("/v1/calls/{call}/tokens");
        let minted = self.json("POST", &path, json!({ "participant": name })).await;
        minted["token"].as_str().unwrap().to_owned()
    }

    async fn try_join(&self, call: &str, token: &str) -> Response {
        let request = self.request("POST", &format!("/v1/calls/{call}/participants")).bearer_auth(token);
        request.header(CONTENT_TYPE, "application/sdp").body(OFFER).send().await.unwrap()
    }

    async fn join_with(&self, call: &str, token: String) -> Member {
        let response = self.try_join(call, &token).await;
        let status = response.status();
        let location = response.headers().get(LOCATION).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(status, StatusCode::CREATED, "{}", response.text().await.unwrap());
        Member { token, session: location.unwrap() }
    }

    async fn join(&self, call: &str, name: &str) -> Member {
        self.join_with(call, self.token(call, name).await).await
    }

    async fn events(&self, member: &Member) -> Socket {
        connect_async(format!("ws://{}{}/events", self.address, member.session)).await.unwrap().0
    }

    /// Calls that a node itself says it has.
    pub(crate) fn calls_at(&self, number: u16) -> Vec<String> {
        let list = self.nodes[usize::from(number) - 1].json(&["call", "list"]);
        let calls = list["calls"].as_array().unwrap().iter();
        calls.map(|call| call["call_id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some((_, serving)) = self.front.take() {
            serving.abort();
        }
    }
}

fn other(node: u16) -> u16 {
    3 - node
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

async fn next_of(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let event = next(socket).await.unwrap_or_else(|| panic!("it is over, and {kind} did not come"));
        if event["event"] == kind {
            return event;
        }
    }
}

/// Waits for somebody to come.
async fn hears_of(socket: &mut Socket, name: &str) {
    let is_named = |entry: &Value| entry["participant"] == name;
    while !next_of(socket, "roster").await["participants"].as_array().unwrap().iter().any(is_named) {}
}

async fn problem(response: Response, status: u16, kind: &str) {
    let found = response.status();
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["type"], format!("urn:trunkline:problem:{kind}"), "{document}");
    assert_eq!(found.as_u16(), status);
}

#[tokio::test]
async fn a_burst_of_calls_spreads_over_the_nodes_and_is_listed_as_one() {
    let cluster = Cluster::running().await;
    let mut created = Vec::new();
    for _ in 0..12 {
        created.push(cluster.create(json!({})).await);
    }
    // Polls come meanwhile, one node's before the other's.
    for number in [1, 2] {
        assert!(created.iter().filter(|(_, node)| *node == number).count() >= 4, "{created:?}");
    }
    let list = cluster.json("GET", "/v1/calls", Value::Null).await;
    assert_eq!(list["calls"].as_array().unwrap().len(), 12);
    assert_eq!((&list["participants"], &list["draining"]), (&json!(0), &json!(false)));
}

#[tokio::test]
async fn people_join_change_watch_and_leave_through_the_front() {
    let cluster = Cluster::running().await;
    for _ in 0..2 {
        let (call, _) = cluster.create(json!({ "max_participants": 2 })).await;
        let ann = cluster.join(&call, "Ann").await;
        let mut events = cluster.events(&ann).await;
        hears_of(&mut events, "Ann").await;
        let ben = cluster.join(&call, "Ben").await;
        hears_of(&mut events, "Ben").await;
        events.send(Message::text("nonsense")).await.unwrap();
        assert!(next_of(&mut events, "error").await["reason"].is_string());
        problem(cluster.try_join(&call, &cluster.token(&call, "Cid").await).await, 409, "full").await;

        let shown = cluster.json("GET", &format!("/v1/calls/{call}"), Value::Null).await;
        assert_eq!(shown["participants"].as_array().unwrap().len(), 2);
        let patch = cluster.request("PATCH", &ben.session).header(CONTENT_TYPE, "application/sdp");
        assert_eq!(patch.body(OFFER).send().await.unwrap().status(), StatusCode::OK);
        let left = cluster.request("DELETE", &ben.session).send().await.unwrap();
        assert_eq!(left.status(), StatusCode::NO_CONTENT);
        while next_of(&mut events, "roster").await["left"] != json!(["Ben"]) {}
        cluster.json("DELETE", &format!("/v1/calls/{call}"), Value::Null).await;
        assert_eq!(next_of(&mut events, "ended").await["reason"], "call_ended");
        assert_eq!(next(&mut events).await, None);
    }
}

#[tokio::test]
async fn a_killed_nodes_calls_go_on_at_the_other_with_the_same_id_settings_and_tokens() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({ "mode": "broadcast", "max_participants": 7 })).await;
    let (ann, ben) = (cluster.join(&call, "Ann").await, cluster.join(&call, "Ben").await);
    let mut events = cluster.events(&ann).await;
    next_of(&mut events, "roster").await;
    let began = Instant::now();
    cluster.kill(node);
    next_of(&mut events, "moved").await;
    assert_eq!(next(&mut events).await, None, "a normal close follows");
    let (ann, ben) = (cluster.join_with(&call, ann.token).await, cluster.join_with(&call, ben.token).await);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let shown = cluster.json("GET", &format!("/v1/calls/{call}"), Value::Null).await;
    assert_eq!((&shown["call_id"], &shown["mode"]), (&json!(call), &json!("broadcast")));
    assert_eq!((&shown["max_participants"], shown["participants"].as_array().unwrap().len()), (&json!(7), 2));
    let mut events = cluster.events(&ann).await;
    next_of(&mut events, "roster").await;
    assert_eq!(cluster.calls_at(other(node)), std::slice::from_ref(&call));

    // Back again, its own node does not split the call: whoever comes late is with the others.
    cluster.node(node).start();
    let until_back = async {
        while cluster.json("GET", "/v1/calls", Value::Null).await["workers"].as_array().unwrap().len() < 2 {}
    };
    tokio::time::timeout(PATIENCE, until_back).await.unwrap();
    cluster.join(&call, "Cid").await;
    hears_of(&mut events, "Cid").await;
    assert!(cluster.calls_at(node).is_empty());
    drop(ben);
}

#[tokio::test]
async fn a_session_of_a_lost_node_is_gone() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let ann = cluster.join(&call, "Ann").await;
    cluster.kill(node);
    let patch = cluster.request("PATCH", &ann.session).header(CONTENT_TYPE, "application/sdp").body(OFFER);
    problem(patch.send().await.unwrap(), 404, "not-found").await;
}

#[tokio::test]
async fn a_dead_machine_is_noticed_although_it_says_nothing() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let ann = cluster.join(&call, "Ann").await;
    let mut events = cluster.events(&ann).await;
    next_of(&mut events, "roster").await;
    let began = Instant::now();
    cluster.node(node).signal("STOP");
    next_of(&mut events, "moved").await;
    assert!(began.elapsed() < NOTICED_MAX, "{:?}", began.elapsed());
    cluster.join_with(&call, ann.token).await;
    assert_eq!(cluster.calls_at(other(node)), [call]);
}

#[tokio::test]
async fn a_restarted_nodes_calls_are_made_again_there() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({ "max_participants": 3 })).await;
    let ann = cluster.join(&call, "Ann").await;
    let mut events = cluster.events(&ann).await;
    cluster.kill(node);
    cluster.node(node).start();
    next_of(&mut events, "moved").await;
    // It was down for a moment, or was not noticed to be; here only the second is of interest.
    cluster.stop_front().await;
    cluster.start_front().await;
    cluster.join_with(&call, ann.token).await;
    assert_eq!(cluster.calls_at(node), [call]);
}

#[tokio::test]
async fn a_call_that_ended_is_not_made_again_while_its_node_lives() {
    let cluster = Cluster::running().await;
    let (call, _) = cluster.create(json!({})).await;
    let token = cluster.token(&call, "Ann").await;
    cluster.json("DELETE", &format!("/v1/calls/{call}"), Value::Null).await;
    problem(cluster.try_join(&call, &token).await, 404, "not-found").await;
    assert!(cluster.calls_at(1).is_empty() && cluster.calls_at(2).is_empty());
}

#[tokio::test]
async fn a_call_that_was_made_again_and_ended_is_not_made_a_third_time() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let token = cluster.token(&call, "Ann").await;
    cluster.kill(node);
    let ann = cluster.join_with(&call, token).await;
    cluster.json("DELETE", &format!("/v1/calls/{call}"), Value::Null).await;
    problem(cluster.try_join(&call, &ann.token).await, 404, "not-found").await;
}

#[tokio::test]
async fn a_drain_with_a_deadline_moves_calls_and_late_joiners_find_them() {
    let cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let ann = cluster.join(&call, "Ann").await;
    let mut events = cluster.events(&ann).await;
    let drained = &cluster.nodes[usize::from(node) - 1];
    drained.json(&["drain", "--deadline-s", "600"]);
    next_of(&mut events, "moved").await;
    let again = cluster.join_with(&call, ann.token.clone()).await;
    assert_eq!(cluster.calls_at(other(node)), std::slice::from_ref(&call));
    // Make before break: the old session is still there, until its owner leaves it.
    let mut reopened = cluster.events(&ann).await;
    assert_eq!(next(&mut reopened).await.unwrap()["event"], "moved");
    let left = cluster.request("DELETE", &ann.session).send().await.unwrap();
    assert_eq!(left.status(), StatusCode::NO_CONTENT);

    let mut events = cluster.events(&again).await;
    next_of(&mut events, "roster").await;
    cluster.join(&call, "Ben").await;
    hears_of(&mut events, "Ben").await;
    // Undone, what was handed over stays where it is, and new calls come again.
    cluster.nodes[usize::from(node) - 1].json(&["drain", "--undo"]);
    cluster.join(&call, "Cid").await;
    hears_of(&mut events, "Cid").await;
}

#[tokio::test]
async fn an_undone_drain_keeps_what_was_not_handed_over() {
    let cluster = Cluster::running().await;
    let mut calls = Vec::new();
    while calls.len() < 2 {
        let (call, node) = cluster.create(json!({})).await;
        if node == 1 {
            let token = cluster.token(&call, "Ann").await;
            calls.push((call, token));
        }
    }
    // One call goes at once, the other after five minutes.
    cluster.nodes[0].json(&["drain", "--deadline-s", "1200"]);
    let moved = async |call: &str| {
        let list = cluster.nodes[0].json(&["call", "list"]);
        let listed =
            list["calls"].as_array().unwrap().iter().find(|listed| listed["call_id"] == call).cloned();
        // Nobody was on it: once handed over, it is gone.
        listed.is_none()
    };
    let mut left = Vec::new();
    let one_moved = async {
        while left.len() != 1 {
            left.clear();
            for (call, _) in &calls {
                if !moved(call).await {
                    left.push(call.clone());
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, one_moved).await.unwrap();
    cluster.nodes[0].json(&["drain", "--undo"]);
    for (call, token) in calls {
        cluster.join_with(&call, token).await;
    }
    assert!(cluster.calls_at(1).contains(&left[0]));
}

#[tokio::test]
async fn whoever_joins_a_call_whose_node_drains_takes_it_along_to_another_node() {
    let cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let ann = cluster.join(&call, "Ann").await;
    let ben = cluster.token(&call, "Ben").await;
    let mut events = cluster.events(&ann).await;
    cluster.nodes[usize::from(node) - 1].json(&["drain"]);
    cluster.join_with(&call, ben).await;
    next_of(&mut events, "moved").await;
    cluster.join_with(&call, ann.token).await;
    let shown = cluster.json("GET", &format!("/v1/calls/{call}"), Value::Null).await;
    assert_eq!(shown["participants"].as_array().unwrap().len(), 2, "{shown}");
}

#[tokio::test]
async fn when_no_other_node_takes_it_a_call_stays_where_it_is() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let ann = cluster.join(&call, "Ann").await;
    let ben = cluster.token(&call, "Ben").await;
    let mut events = cluster.events(&ann).await;
    next_of(&mut events, "quality").await;
    cluster.kill(other(node));
    cluster.nodes[usize::from(node) - 1].json(&["drain"]);
    problem(cluster.try_join(&call, &ben).await, 503, "draining").await;
    problem(cluster.admin("POST", "/v1/calls", json!({})).await, 503, "draining").await;
    cluster.nodes[usize::from(node) - 1].json(&["drain", "--undo"]);
    cluster.join_with(&call, ben).await;
    hears_of(&mut events, "Ben").await;
}

#[tokio::test]
async fn a_node_that_is_stopped_hands_its_calls_over_first() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let ann = cluster.join(&call, "Ann").await;
    let mut events = cluster.events(&ann).await;
    next_of(&mut events, "roster").await;
    cluster.node(node).signal("TERM");
    let mut last = None;
    while let Some(event) = next(&mut events).await {
        last = event["event"].as_str().map(str::to_owned);
    }
    assert_eq!(last.as_deref(), Some("moved"));
    cluster.join_with(&call, ann.token).await;
    assert_eq!(cluster.calls_at(other(node)), [call]);
}

#[tokio::test]
async fn people_who_were_split_by_a_pause_of_their_node_meet_at_the_other() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    cluster.join(&call, "Ann").await;
    let (ben, cid) = (cluster.token(&call, "Ben").await, cluster.token(&call, "Cid").await);
    cluster.node(node).signal("STOP");
    cluster.join_with(&call, ben).await;
    assert_eq!(cluster.calls_at(other(node)), [call.as_str()]);
    cluster.node(node).signal("CONT");
    let began = Instant::now();
    while cluster.node(node).json(&["call", "list"])["calls"][0]["moved"] != true {
        assert!(began.elapsed() < PATIENCE, "the node hands nothing over");
        // Lets the front do its part.
        cluster.until_ready().await;
    }
    cluster.join_with(&call, cid).await;
    let list = cluster.node(other(node)).json(&["call", "list"]);
    assert_eq!(list["calls"][0]["participants"], 2, "{list}");
}

#[tokio::test]
async fn a_call_that_was_ended_stays_so_however_its_id_is_written() {
    let cluster = Cluster::running().await;
    let (call, _) = cluster.create(json!({})).await;
    let token = cluster.token(&call, "Ann").await;
    cluster.json("DELETE", &format!("/v1/calls/{call}"), Value::Null).await;
    for written in [call.replace('-', "%2D"), call.replace('0', "%30"), call] {
        problem(cluster.try_join(&written, &token).await, 404, "not-found").await;
    }
    assert!(cluster.calls_at(1).is_empty() && cluster.calls_at(2).is_empty());
}

#[tokio::test]
async fn no_node_says_where_a_call_is_to_an_ingress_that_it_does_not_know() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    metrics::install();
    let first = Relay::behind(1, &["127.0.0.3"], None);
    let second = Relay::behind(2, &[INGRESS], Some(&first));
    let http = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut cluster = Cluster { nodes: [first, second], address, http, front: None };
    cluster.start_front().await;
    let created = cluster.node(1).json(&["call", "create"]);
    let call = created["call_id"].as_str().unwrap();
    let token = cluster.token(call, "Ann").await;
    cluster.node(1).json(&["call", "end", call]);
    problem(cluster.try_join(call, &token).await, 503, "no-node").await;
    assert!(cluster.calls_at(2).is_empty());
}

#[tokio::test]
async fn nothing_is_read_of_whoever_has_no_token() {
    let cluster = Cluster::running().await;
    let (call, _) = cluster.create(json!({})).await;
    let mut socket = TcpStream::connect(cluster.address).await.unwrap();
    let head = format!(
        "POST /v1/calls/{call}/participants HTTP/1.1\r\nHost: a\r\nContent-Type: application/sdp\r\n\
         Content-Length: 1000000\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // The body does not come, and nobody waits for it.
    let mut status = [0; 13];
    let read = socket.read_exact(&mut status);
    // Waiting for the body would take ten seconds.
    tokio::time::timeout(Duration::from_secs(8), read).await.expect("an answer").unwrap();
    assert_eq!(&status, b"HTTP/1.1 401 ");
}

#[tokio::test]
async fn a_restarted_front_changes_nothing() {
    let mut cluster = Cluster::running().await;
    let (call, node) = cluster.create(json!({})).await;
    let ann = cluster.join(&call, "Ann").await;
    cluster.kill(node);
    let ann = cluster.join_with(&call, ann.token).await;
    let mut events = cluster.events(&ann).await;
    next_of(&mut events, "roster").await;
    cluster.stop_front().await;
    while let Some(event) = next(&mut events).await {
        assert_ne!(event["event"], "moved");
    }
    cluster.start_front().await;
    let mut events = cluster.events(&ann).await;
    next_of(&mut events, "roster").await;
    cluster.join(&call, "Ben").await;
    hears_of(&mut events, "Ben").await;
}

#[tokio::test]
async fn what_only_a_node_can_do_is_not_done_by_the_front() {
    let cluster = Cluster::running().await;
    for (method, path) in [("GET", "/v1/records"), ("POST", "/v1/drain"), ("DELETE", "/v1/drain")] {
        problem(cluster.admin(method, path, Value::Null).await, 404, "node-only").await;
    }
    for path in ["/v2", "/v1/calls/x/y", "/v1/calls/nowhere", "/v1/calls/nowhere/participants"] {
        problem(cluster.admin("POST", path, Value::Null).await, 404, "not-found").await;
    }
    // What would be another path at the node.
    let (call, _) = cluster.create(json!({})).await;
    let sly = format!("/v1/calls/{call}/participants/..%2F..%2F..%2Fdrain");
    problem(cluster.admin("DELETE", &sly, Value::Null).await, 404, "not-found").await;
    problem(cluster.request("GET", "/v1/calls").send().await.unwrap(), 401, "unauthenticated").await;
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/call"] {
        assert_eq!(cluster.request("GET", path).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    let metrics = cluster.request("GET", "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("trunkline_ingress_node_up{node=\"2\"} 1"), "{metrics}");
}

#[tokio::test]
async fn without_nodes_the_front_lives_and_is_not_ready() {
    let mut cluster = Cluster::running().await;
    cluster.kill(1);
    cluster.kill(2);
    problem(cluster.admin("POST", "/v1/calls", json!({})).await, 503, "no-node").await;
    problem(cluster.admin("GET", "/v1/calls", Value::Null).await, 503, "no-node").await;
    problem(cluster.request("GET", "/readyz").send().await.unwrap(), 503, "no-node").await;
    assert_eq!(cluster.request("GET", "/healthz").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn preflights_are_answered_by_a_node() {
    let cluster = Cluster::running().await;
    let (call, _) = cluster.create(json!({})).await;
    let path = format!("/v1/calls/{call}/participants");
    let preflight = cluster
        .request("OPTIONS", &path)
        .header(ORIGIN, "https://a.test")
        .header(ACCESS_CONTROL_REQUEST_METHOD, "POST");
    assert_eq!(preflight.send().await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn what_clients_say_of_their_own_address_is_not_passed_on() {
    let cluster = Cluster::running().await;
    let (call, _) = cluster.create(json!({})).await;
    let mut refused = 0;
    for at in 0..60 {
        let request = cluster.request("POST", &format!("/v1/calls/{call}/participants"));
        let request = request.header("X-Forwarded-For", format!("192.0.2.{at}")).bearer_auth("none");
        let status = request.body(OFFER).send().await.unwrap().status();
        refused += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused > 0, "all are from one address, whatever they say");
}

#[tokio::test]
async fn a_node_may_speak_tls_and_must_be_who_it_says() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let relay = Relay::with_tls(1);
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let strangers = relay.path("stranger.crt");
    std::fs::write(&strangers, stranger.cert.pem()).unwrap();
    for (authorities, is_ready) in [(relay.path("relay/api.crt"), true), (strangers, false)] {
        let authorities = front::authorities(&authorities).unwrap();
        let settings = Settings { tls: None, limits: Limits::default(), metrics: metrics::render_process };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        let (stop, stopping) = watch::channel(false);
        let node = Upstream { node: 1, api: format!("https://{}", relay.address).parse().unwrap() };
        let upstreams = Arc::new(Upstreams::new(vec![node], authorities, None).unwrap());
        let serving = tokio::spawn(front::serve(listener, settings, upstreams, stopping));
        let answer = Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
        assert_eq!(answer.status().is_success(), is_ready);
        stop.send_replace(true);
        serving.await.unwrap();
    }
    let nothing = relay.path("relay/admin.token");
    assert!(front::authorities(&nothing).unwrap_err().to_string().starts_with("api.nodes_ca: "));
}

/// Asks a node itself to let somebody in, from an address of this machine.
fn ask_node(relay: &Relay, from: &str, call: &str, token: &str, headers: &[(&str, &str)]) -> RequestBuilder {
    let from: IpAddr = from.parse().unwrap();
    let http = Client::builder().no_proxy().local_address(from).build().unwrap();
    let request = http.post(format!("http://{}/v1/calls/{call}/participants", relay.address));
    let request = request.bearer_auth(token).header(CONTENT_TYPE, "application/sdp").body(OFFER);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

#[tokio::test]
async fn only_an_ingress_may_have_a_call_made_again() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let first = Relay::behind(1, &["127.0.0.3"], None);
    let second = Relay::behind(2, &["127.0.0.3"], Some(&first));
    let created = first.json(&["call", "create"]);
    let call = created["call_id"].as_str().unwrap();
    let token = first.json(&["call", "token", call, "--participant", "Ann"]);
    let token = token["token"].as_str().unwrap();
    let recreate = [("Trunkline-Recreate", "1")];
    let spoofed = ask_node(&second, "127.0.0.4", call, token, &recreate).send().await.unwrap();
    assert!(spoofed.headers().get("trunkline-call").is_none());
    problem(spoofed, 404, "not-found").await;
    let asked = ask_node(&second, "127.0.0.3", call, token, &[]).send().await.unwrap();
    assert_eq!(asked.headers()["trunkline-call"], "unknown");
    problem(asked, 404, "not-found").await;
    let made = ask_node(&second, "127.0.0.3", call, token, &recreate).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    assert_eq!(made.headers()["trunkline-call"], "here");
}

#[tokio::test]
async fn only_an_ingress_is_believed_that_a_node_was_taken_for_dead() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let relay = Relay::behind(1, &["127.0.0.3"], None);
    relay.json(&["call", "create"]);
    for (from, believed) in [("127.0.0.4", false), ("127.0.0.3", true)] {
        let from: IpAddr = from.parse().unwrap();
        let http = Client::builder().no_proxy().local_address(from).build().unwrap();
        let asked = http.get(format!("http://{}/healthz", relay.address));
        let answer = asked.header("Trunkline-Presumed-Dead", "1").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let list = relay.json(&["call", "list"]);
        assert_eq!(list["calls"][0]["moved"] == true, believed, "{list}");
    }
}

#[tokio::test]
async fn only_an_ingress_says_which_client_a_request_is_from() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let relay = Relay::behind(1, &["127.0.0.3"], None);
    let call = relay.json(&["call", "create"]);
    let call = call["call_id"].as_str().unwrap();
    // Joins are counted by address, whatever their token is; 20 may come at once. Each client says it is another.
    let refused = async |from: &str| {
        let mut refused = 0;
        for at in 0..60 {
            let client = format!("192.0.2.{at}");
            let asked = ask_node(&relay, from, call, "none", &[("X-Forwarded-For", &client)]);
            refused += usize::from(asked.send().await.unwrap().status() == StatusCode::TOO_MANY_REQUESTS);
        }
        refused
    };
    assert_eq!(refused("127.0.0.3").await, 0);
    assert!(refused("127.0.0.4").await > 0);
}

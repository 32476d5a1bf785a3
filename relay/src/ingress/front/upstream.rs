//! The nodes as the front sees them: polled, and asked.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Certificate, Client, Url};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use trunkline_http::serve::{Stopping, stopped};

use super::limits::{
    ANSWER_BYTES_MAX, ANSWER_MAX, CONNECT_MAX, HEALTH_BYTES_MAX, IDLE_MAX, IDLE_PER_NODE_MAX, POLL_EVERY,
    POLL_MAX,
};
use crate::api::Health;
use crate::api::ingress::{DRAINING, FORWARDED_FOR, PRESUMED_DEAD, RECREATE, STANDING};
use crate::ingress::nodes::{Poll, Table};

/// Headers that belong to one connection (RFC 9110, section 7.6.1), or that only this program may set.
const NOT_PASSED_ON: [HeaderName; 18] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::FORWARDED,
    FORWARDED_FOR,
    RECREATE,
    STANDING,
    DRAINING,
    PRESUMED_DEAD,
];

/// A node behind the front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its number.
    pub node: u16,
    /// Where its API is, such as `http://10.0.0.5:8444`.
    pub api: Url,
}

/// A request that goes to nodes, to one after another if need be.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// It is about a call: a node that does not have it says how the call stands with it.
    about_call: bool,
}

/// A node's answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
    /// How the call stands with the node.
    pub(super) standing: Option<String>,
    /// It takes nobody new.
    pub(super) draining: bool,
}

/// What came of asking a node.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Answered(Answer),
    /// It is down, for certain.
    Gone,
    /// It did not answer, and may live.
    Silent,
}

/// All nodes, and what is known of them. They come and go while it is in use; each keeps its place.
#[derive(Debug)]
pub struct Upstreams {
    nodes: RwLock<Vec<Option<Arc<Node>>>>,
    table: Mutex<Table>,
    http: Client,
    /// Set once nodes are polled again and again: until when.
    polling: OnceLock<Stopping>,
}

#[derive(Debug)]
struct Node {
    number: u16,
    api: Url,
    live: watch::Sender<bool>,
    poll_now: Notify,
    /// Somebody polls it.
    watched: AtomicBool,
}

impl Request {
    /// A request as it came from a client, whose address goes along, for a path at a node.
    pub(super) fn new(parts: &http::request::Parts, path: String, body: Bytes, client: IpAddr) -> Self {
        let mut headers = passed_on(&parts.headers);
        if let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string()) {
            headers.insert(FORWARDED_FOR, client);
        }
        let target = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        Self { method: parts.method.clone(), target, headers, body, about_call: false }
    }

    /// The same, as one about a call that nodes must answer for.
    pub(super) fn about_call(self) -> Self {
        Self { about_call: true, ..self }
    }

    /// The same, which asks for the call to be made again.
    pub(super) fn to_recreate(&self) -> Self {
        let mut request = self.clone();
        request.headers.insert(RECREATE, HeaderValue::from_static("1"));
        request
    }
}

impl Answer {
    pub(super) fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    fn new(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let standing = headers.get(STANDING).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let draining = headers.contains_key(DRAINING);
        Self { status, headers: passed_on(headers), body, standing, draining }
    }

    /// Whether the node itself says that it does not have a call, or cannot take it. Something on the way that says so,
    /// or a node that takes this ingress for a client, says nothing of where the call is.
    fn answers(&self, request: &Request) -> bool {
        let lacks = matches!(self.status, StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE);
        !(request.about_call && lacks && self.standing.is_none())
    }

    pub(super) fn stands(&self, standing: &str) -> bool {
        self.standing.as_deref() == Some(standing)
    }
}

impl Node {
    fn new(Upstream { node, api }: Upstream, is_live: bool) -> Arc<Self> {
        gauge_up(node, is_live);
        let (live, poll_now) = (watch::Sender::new(is_live), Notify::new());
        Arc::new(Self { number: node, api, live, poll_now, watched: AtomicBool::new(false) })
    }
}

impl Upstreams {
    /// Nodes at the places that they have in this list. `authorities` vouch for those with `https://`, instead of the
    /// system's when there are any; nodes are asked from the address `from`.
    ///
    /// # Errors
    /// When the HTTP client cannot start.
    pub fn new(
        nodes: Vec<Upstream>,
        authorities: Vec<Certificate>,
        from: Option<IpAddr>,
    ) -> reqwest::Result<Self> {
        // Whoever was first installed the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder();
        if !authorities.is_empty() {
            builder = builder.tls_certs_only(authorities);
        }
        let http = builder
            .local_address(from)
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_NODE_MAX)
            .tcp_nodelay(true)
            .build()?;
        let table = Mutex::new(Table::new(nodes.iter().map(|node| node.node)));
        let nodes = nodes.into_iter().map(|node| Some(Node::new(node, true))).collect();
        Ok(Self { nodes: RwLock::new(nodes), table, http, polling: OnceLock::new() })
    }

    /// A node is at a place from now on, which was nobody's, or its own with another address. It is asked how it is at
    /// once.
    pub fn put(self: &Arc<Self>, at: usize, node: Upstream) {
        let is_live = {
            let mut table = self.table();
            table.put(at, node.node);
            table.is_live(at)
        };
        let node = Node::new(node, is_live);
        self.replace(at, Some(Arc::clone(&node)));
        self.start_watch(at, node);
    }

    /// The node at a place is not there any more.
    pub fn forget(&self, at: usize) {
        self.table().forget(at);
        if let Some(node) = self.replace(at, None) {
            // There is nothing to be alarmed about.
            metrics::gauge!("trunkline_ingress_node_up", "node" => node.number.to_string()).set(f64::NAN);
        }
    }

    /// Whether the node at a place may be alive, as its answers to polls and requests say.
    #[must_use]
    pub fn is_live(&self, at: usize) -> bool {
        self.table().is_live(at)
    }

    /// Says whether there may be nodes that nobody told of yet.
    pub fn set_incomplete(&self, incomplete: bool) {
        self.table().set_incomplete(incomplete);
    }

    fn replace(&self, at: usize, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if at >= nodes.len() {
            nodes.resize(at.saturating_add(1), None);
        }
        let before = nodes.get_mut(at).and_then(|place| std::mem::replace(place, node));
        drop(nodes);
        if let Some(before) = &before {
            // Whoever waits for it waits no longer, and nobody polls it any more.
            before.live.send_replace(false);
            before.poll_now.notify_one();
        }
        before
    }

    fn node(&self, at: usize) -> Option<Arc<Node>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(at).cloned().flatten()
    }

    fn all(&self) -> Vec<(usize, Arc<Node>)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().enumerate().filter_map(|(at, node)| Some((at, Arc::clone(node.as_ref()?)))).collect()
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows whether a node lives.
    pub(super) fn life(&self, at: usize) -> Option<watch::Receiver<bool>> {
        Some(self.node(at)?.live.subscribe())
    }

    /// A connection to a node broke: how is it?
    pub(super) fn doubt(&self, at: usize) {
        if let Some(node) = self.node(at) {
            node.poll_now.notify_one();
        }
    }

    /// Asks every node once, together.
    pub(super) async fn poll_all(self: &Arc<Self>) {
        let mut polls = JoinSet::new();
        for (at, _) in self.all() {
            let upstreams = Arc::clone(self);
            polls.spawn(async move { upstreams.poll(at).await });
        }
        while polls.join_next().await.is_some() {}
    }

    /// Asks every node again and again, those that come later too, until told to stop.
    pub(super) fn watch_all(self: &Arc<Self>, stopping: Stopping) {
        let _ = self.polling.set(stopping);
        for (at, node) in self.all() {
            self.start_watch(at, node);
        }
    }

    fn start_watch(self: &Arc<Self>, at: usize, node: Arc<Node>) {
        let Some(stopping) = self.polling.get() else { return };
        if !node.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).watch(at, node, stopping.clone()));
        }
    }

    /// Asks a node again and again, until told to stop, or another is at its place.
    async fn watch(self: Arc<Self>, at: usize, node: Arc<Node>, mut stopping: Stopping) {
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = node.poll_now.notified() => {}
                () = stopped(&mut stopping) => return,
            }
            if !self.node(at).is_some_and(|now| Arc::ptr_eq(&now, &node)) {
                return;
            }
            self.poll(at).await;
        }
    }

    async fn poll(&self, at: usize) {
        let Some(node) = self.node(at) else { return };
        self.table().poll_begins(at);
        let mut answer = tokio::time::timeout(POLL_MAX, self.health(&node, false)).await;
        let presumed_dead = match &answer {
            Ok(Ok(Some(health))) => self.table().presumed_dead(at, health),
            _ => false,
        };
        if presumed_dead {
            // It hears of that before anybody is sent to it again.
            answer = tokio::time::timeout(POLL_MAX, self.health(&node, true)).await;
        }
        let poll = match answer {
            Ok(Ok(Some(health))) => {
                if health.node != node.number {
                    let (expected, found) = (node.number, health.node);
                    tracing::error!(
                        expected,
                        found,
                        "another node answers: correct [[nodes]], or the registry"
                    );
                }
                Poll::Answered(health)
            }
            Ok(Err(error)) if is_refused(&error) => Poll::Refused,
            Ok(Ok(None) | Err(_)) | Err(_) => Poll::Missed,
        };
        // Of one that was forgotten meanwhile nothing is to be said of who has its place.
        if self.node(at).is_some_and(|now| Arc::ptr_eq(&now, &node)) {
            self.table().poll_ended(at, poll);
            self.publish(at);
        }
    }

    /// How a node is. It is told when it was taken for dead.
    async fn health(&self, node: &Node, presumed_dead: bool) -> reqwest::Result<Option<Health>> {
        let mut asked = self.http.get(at_path(&node.api, "/healthz"));
        if presumed_dead {
            asked = asked.header(PRESUMED_DEAD, "1");
        }
        let mut response = asked.send().await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let body = read(&mut response, HEALTH_BYTES_MAX).await?;
        Ok(body.and_then(|body| serde_json::from_slice(&body).ok()))
    }

    fn publish(&self, at: usize) {
        let Some(node) = self.node(at) else { return };
        let is_live = self.table().is_live(at);
        let changed = node.live.send_if_modified(|live| std::mem::replace(live, is_live) != is_live);
        if changed {
            gauge_up(node.number, is_live);
            if is_live {
                tracing::info!(node = node.number, "the node is back");
            } else {
                tracing::warn!(node = node.number, "the node is down");
            }
        }
    }

    fn refused(&self, at: usize) {
        self.table().refused(at);
        self.publish(at);
    }

    /// Asks a node, for as long as it may live.
    pub(super) async fn ask(&self, at: usize, request: &Request) -> Outcome {
        let asking = async |upstreams: &Self| {
            let mut again = true;
            loop {
                match upstreams.ask_once(at, request).await {
                    Ok(Some(answer)) if answer.answers(request) => return Outcome::Answered(answer),
                    Ok(_) => return Outcome::Silent,
                    Err(error) if is_refused(&error) => {
                        upstreams.refused(at);
                        return Outcome::Gone;
                    }
                    // A connection from the pool may have been closed just now; a node that died refuses the next one.
                    // What may have been done must not be done twice.
                    Err(error)
                        if (request.method.is_idempotent() || error.is_connect())
                            && std::mem::take(&mut again) => {}
                    Err(_) => return upstreams.after_break(at).await,
                }
            }
        };
        let outcome = self.while_alive(at, ANSWER_MAX, asking(self)).await.unwrap_or_else(|outcome| outcome);
        self.heard(at, &outcome);
        outcome
    }

    /// A connection broke with a request on it: whether the node went with it.
    async fn after_break(&self, at: usize) -> Outcome {
        self.poll(at).await;
        if self.table().is_live(at) { Outcome::Silent } else { Outcome::Gone }
    }

    /// What came of a request says how the node is, beside what it says when polled.
    fn heard(&self, at: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(_) => self.table().answered(at),
            Outcome::Silent => self.table().was_silent(at),
            Outcome::Gone => {}
        }
    }

    /// Runs something that a node does, for as long as it may live.
    async fn while_alive<T>(
        &self,
        at: usize,
        most: Duration,
        asking: impl Future<Output = T>,
    ) -> Result<T, Outcome> {
        let Some(mut life) = self.life(at) else { return Err(Outcome::Gone) };
        tokio::select! {
            done = asking => Ok(done),
            _ = life.wait_for(|live| !*live) => Err(Outcome::Gone),
            () = tokio::time::sleep(most) => {
                self.doubt(at);
                Err(Outcome::Silent)
            }
        }
    }

    async fn ask_once(&self, at: usize, request: &Request) -> reqwest::Result<Option<Answer>> {
        let Some(node) = self.node(at) else { return Ok(None) };
        let asked = self.http.request(request.method.clone(), at_path(&node.api, &request.target));
        let mut response = asked.headers(request.headers.clone()).body(request.body.clone()).send().await?;
        let status = response.status();
        let body = read(&mut response, ANSWER_BYTES_MAX).await?;
        Ok(body.map(|body| Answer::new(status, response.headers(), body)))
    }

    /// Opens a WebSocket to a node.
    pub(super) async fn upgrade(&self, at: usize, request: &Request) -> Result<reqwest::Upgraded, Outcome> {
        let Some(node) = self.node(at) else { return Err(Outcome::Gone) };
        let key = tokio_tungstenite::tungstenite::handshake::client::generate_key();
        let opening = async {
            let asked = self.http.get(at_path(&node.api, &request.target)).headers(request.headers.clone());
            let mut response = asked
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_VERSION, "13")
                .header(header::SEC_WEBSOCKET_KEY, key)
                .send()
                .await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Ok(response.upgrade().await?));
            }
            let status = response.status();
            let body = read(&mut response, ANSWER_BYTES_MAX).await?.unwrap_or_default();
            Ok::<_, reqwest::Error>(Err(Answer::new(status, response.headers(), body)))
        };
        let opened =
            self.while_alive(at, ANSWER_MAX, opening).await.inspect_err(|outcome| self.heard(at, outcome))?;
        match opened {
            Ok(Ok(upgraded)) => {
                self.table().answered(at);
                Ok(upgraded)
            }
            Ok(Err(answer)) if answer.answers(request) => Err(Outcome::Answered(answer)),
            Ok(Err(_)) => Err(Outcome::Silent),
            Err(error) if is_refused(&error) => {
                self.refused(at);
                Err(Outcome::Gone)
            }
            Err(_) => {
                self.doubt(at);
                Err(Outcome::Silent)
            }
        }
    }
}

/// The body, unless it is too long.
async fn read(response: &mut reqwest::Response, bytes_max: usize) -> reqwest::Result<Option<Bytes>> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// A path at a node. The configuration gives scheme, host and port only.
fn at_path(api: &Url, target: &str) -> Url {
    let mut url = api.clone();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    url.set_path(path);
    url.set_query(query);
    url
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let websocket = name.as_str().starts_with("sec-websocket-");
        if !websocket && !NOT_PASSED_ON.contains(name) && !named.contains(name) {
            passed.append(name.clone(), value.clone());
        }
    }
    passed
}

/// Whether nobody listens there.
fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

fn gauge_up(node: u16, up: bool) {
    let up = if up { 1.0 } else { 0.0 };
    metrics::gauge!("trunkline_ingress_node_up", "node" => node.to_string()).set(up);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A node that says how it is, and breaks the connection off at any other request. Tells how often.
    async fn breaking_off() -> (Upstream, watch::Receiver<u32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (broken, asked) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap() > 0 {}
                if head.starts_with(b"GET /healthz") {
                    let health = r#"{"status":"alive","node":1,"draining":false,"calls":0,"calls_max":1,"participants":0,"busy":0.0,"started_at":1}"#;
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{health}",
                        health.len()
                    );
                    socket.write_all(answer.as_bytes()).await.unwrap();
                } else {
                    broken.send_modify(|times| *times += 1);
                }
            }
        });
        (Upstream { node: 1, api }, asked)
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_not_asked_for_twice() {
        let (node, asked) = breaking_off().await;
        let upstreams = Upstreams::new(vec![node], Vec::new(), None).unwrap();
        let request = |method| Request {
            method,
            target: "/v1/calls".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            about_call: false,
        };
        assert!(matches!(upstreams.ask(0, &request(Method::POST)).await, Outcome::Silent));
        assert_eq!(*asked.borrow(), 1);
        assert!(matches!(upstreams.ask(0, &request(Method::GET)).await, Outcome::Silent));
        assert_eq!(*asked.borrow(), 3);
    }

    #[test]
    fn what_belongs_to_a_connection_or_to_the_ingress_alone_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("trunkline-recreate", "1"),
            ("sec-websocket-key", "x"),
            ("authorization", "Bearer x"),
            ("origin", "https://a.test"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut left: Vec<_> = passed_on(&headers).keys().map(|name| name.as_str().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["authorization", "origin"]);
    }

    #[test]
    fn a_path_is_taken_as_it_stands() {
        let api: Url = "http://127.0.0.1:8444".parse().unwrap();
        let url = at_path(&api, "/v1/calls/a%2Fb?x=1&y=%20");
        assert_eq!(url.as_str(), "http://127.0.0.1:8444/v1/calls/a%2Fb?x=1&y=%20");
    }
}

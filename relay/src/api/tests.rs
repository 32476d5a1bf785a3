//! The API over a real node on loopback: real sockets, real offers.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use trunkline_http::serve::{Limits, serve};

use super::*;
use crate::config::Config;
use crate::ingress::front;
use crate::node::{CallEvent, NodeConfig};
use crate::records::Recorder;

mod calls;
mod events;
mod operate;
mod participants;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const ADMIN: &str = "tlr_admin";

/// What Chromium offers for a microphone, a camera and slots.
const OFFER: &str = include_str!("../../tests/data/offers/chromium_plain.sdp");

struct Served {
    url: String,
    node: Node,
    http: Client,
    book: Arc<Book>,
    /// What the node says for records, unless it is noted in the book.
    events: Option<mpsc::Receiver<CallEvent>>,
    stop: watch::Sender<bool>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.node.shutdown();
    }
}

async fn served() -> Served {
    served_with(Recorder::off(), |_| {}).await
}

async fn served_with(recorder: Recorder, change: impl FnOnce(&mut Config)) -> Served {
    // Several tests start clients at once, each installs the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    crate::metrics::install();
    let mut config = Config::defaults(7);
    config.limits.joins_per_s = NonZeroU32::new(1000).unwrap();
    change(&mut config);
    let node = NodeConfig {
        node: config.node,
        listen: vec![[127, 0, 0, 1].into()],
        udp_ports: 40_000..=47_999,
        calls_max: config.limits.calls_max,
        turn_url: config.turn_url(),
        ..NodeConfig::default()
    };
    let (node, events) = Node::start(node).unwrap();
    let mut tokens = Tokens::new(None, None);
    tokens.trust_secret(&[7; 32]);
    let book = Arc::new(Book::new(recorder));
    let admin = TokenHash::of(ADMIN);
    let parts = Parts { node: node.clone(), tokens, admin, book: Arc::clone(&book) };
    let (stop, stopping) = watch::channel(false);
    let router = router(Api::new(parts, &config, stopping.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, None, router, Limits::default(), stopping));
    let http = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    Served { url, node, http, book, events: Some(events), stop }
}

impl Served {
    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", self.url))
    }

    async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let mut request = self.request(method, path).bearer_auth(ADMIN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// The answer of a request that is carried out.
    async fn json(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let response = self.admin(method, path, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    /// A new call's id.
    async fn call(&self, body: Value) -> String {
        let call = self.json("POST", "/v1/calls", Some(body)).await;
        call["call_id"].as_str().unwrap().to_owned()
    }

    async fn token(&self, call: &str, participant: &str) -> String {
        let body = json!({ "participant": participant });
        let answer = self.json("POST", &format!("/v1/calls/{call}/tokens"), Some(body)).await;
        answer["token"].as_str().unwrap().to_owned()
    }

    fn join(&self, call: &str, token: &str, offer: &str) -> RequestBuilder {
        let request = self.request("POST", &format!("/v1/calls/{call}/participants"));
        request.bearer_auth(token).header(CONTENT_TYPE, "application/sdp").body(offer.to_owned())
    }

    /// Somebody joins: the session's path, and its `ETag`.
    async fn joined(&self, call: &str, participant: &str) -> (String, String) {
        let token = self.token(call, participant).await;
        let response = self.join(call, &token, OFFER).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        (header(&response, LOCATION), header(&response, ETAG))
    }
}

fn header(response: &Response, name: impl http::header::AsHeaderName) -> String {
    response.headers().get(name).expect("the header is there").to_str().unwrap().to_owned()
}

/// Checks that an answer is a problem of a kind, and gives its document.
async fn problem(response: Response, kind: ProblemKind) -> Value {
    let status = response.status();
    assert_eq!(header(&response, CONTENT_TYPE), "application/problem+json");
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["type"], format!("urn:trunkline:problem:{}", kind.name), "{document}");
    assert_eq!(status, kind.status);
    document
}

type ProblemKind = trunkline_http::problem::ProblemType;

/// Every kind of problem that the API answers with is in the manual.
#[test]
fn every_problem_type_is_documented_with_its_status() {
    use trunkline_http::problem as p;
    let manual = include_str!("../../../docs/API.md");
    let relay = manual.split("\n# The relay's API").nth(1).expect("docs/API.md has a part on the relay");
    for kind in [
        p::BAD_REQUEST,
        p::INVALID_JSON,
        p::UNAUTHENTICATED,
        p::FORBIDDEN,
        p::NOT_FOUND,
        p::METHOD_NOT_ALLOWED,
        p::TIMEOUT,
        p::TOO_LARGE,
        p::UNSUPPORTED_MEDIA_TYPE,
        p::MALFORMED,
        p::TOO_MANY_REQUESTS,
        p::INTERNAL,
        p::STOPPING,
        p::OVERLOADED,
        fail::FULL,
        fail::UNUSABLE_OFFER,
        fail::STALE,
        fail::NO_PRECONDITION,
        fail::DRAINING,
        fail::MOVED,
        front::NODE_ONLY,
        front::NO_NODE,
        fail::NO_PORT,
        fail::NOT_CONFIGURED,
        fail::NOT_READY,
    ] {
        let row = format!("| `{}` | {} |", kind.name, kind.status.as_u16());
        assert!(relay.contains(&row), "docs/API.md has no row {row}");
    }
}

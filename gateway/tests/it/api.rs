//! The local API over the real core and store: two networks of one deployment write to each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use trunkline_common::token::TokenHash;
use trunkline_gateway::api;
use trunkline_gateway::driver::{Dialer, Driver, Options};
use trunkline_gateway::hub::Hub;
use trunkline_gateway::store::redb::{Options as StoreOptions, RedbStore};
use trunkline_gateway_proto::admin::{AdminOp, NetworkSpec};
use trunkline_gateway_proto::core::Config;
use trunkline_gateway_proto::policy::Policy;
use trunkline_gateway_proto::store::PeerKey;
use trunkline_http::serve::{Limits, serve};
use zeroize::Zeroizing;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A deployment without peers.
struct NoPeers;

impl Dialer for NoPeers {
    fn dial(&self, _peer: PeerKey) {}

    fn probe(&self, _peer: PeerKey) {}
}

struct Gateway {
    address: SocketAddr,
    client: Client,
    stop: watch::Sender<bool>,
    _directory: tempfile::TempDir,
}

/// Starts a deployment with the networks `main` and `lab`; their tokens are their names.
async fn start() -> Gateway {
    let directory = tempfile::tempdir().unwrap();
    let store = StoreOptions::new(directory.path(), Zeroizing::new([7; 32]));
    let options = Options {
        replica: None,
        config: Config::new("alpha.test".parse().unwrap()),
        open_store: Box::new(move || Ok(RedbStore::open(&store)?)),
        free_bytes: Box::new(|| None),
        disk_reserve_bytes: 0,
    };
    let (hub, driver) = Driver::open(options).unwrap();
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(driver.run(NoPeers, stopping.clone()));
    for name in ["main", "lab"] {
        add_network(&hub, name).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = api::router(hub, api::Config::default(), stopping.clone());
    tokio::spawn(serve(listener, None, router, Limits::default(), stopping));
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::builder().no_proxy().build().unwrap();
    Gateway { address, client, stop, _directory: directory }
}

async fn add_network(hub: &Hub, name: &str) {
    let spec = NetworkSpec {
        id: name.parse().unwrap(),
        label: String::new(),
        local_domains: vec![format!("{name}.alpha.test").parse().unwrap()],
        hidden_domains: Vec::new(),
        policy: Policy::default(),
        webhook: None,
    };
    let id = spec.id.clone();
    hub.admin("test", AdminOp::NetworkAdd(Box::new(spec))).await.unwrap();
    hub.admin("test", AdminOp::NetworkToken { id, token: TokenHash::of(name) }).await.unwrap();
}

impl Gateway {
    async fn get(&self, token: &str, path: &str) -> Value {
        let url = format!("http://{}{path}", self.address);
        let response = self.client.get(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}{path}", self.address);
        let response = self.client.post(url).bearer_auth(token).json(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }
}

fn envelope(id: &str) -> Value {
    json!({ "id": id, "from": "ann@main.alpha.test", "to": ["bob@lab.alpha.test"], "kind": "message",
            "payload": "aGVsbG8=" })
}

const ID: &str = "8c0d5c3e-7d4b-4f4e-9a39-0d5d7bfb4b11";

#[tokio::test]
async fn an_envelope_between_two_networks_arrives_and_its_sender_gets_a_receipt() {
    let gateway = start().await;
    let (status, result) = gateway.post("main", "/v1/envelopes", &envelope(ID)).await;
    assert_eq!((status, &result["accepted"][0]["recipients"]), (202, &json!(1)), "{result}");

    let inbox = gateway.get("lab", "/v1/inbox?wait_s=30").await;
    let received = &inbox["envelopes"][0];
    assert_eq!((&received["id"], &received["payload"]), (&json!(ID), &json!("aGVsbG8=")));
    assert_eq!((&received["from"], &received["network"]), (&json!("ann@main.alpha.test"), &json!("main")));

    let receipts = gateway.get("main", "/v1/receipts?wait_s=30").await;
    let receipt = &receipts["receipts"][0];
    assert_eq!((&receipt["id"], &receipt["state"]), (&json!(ID), &json!("delivered")));
    assert_eq!(receipt["to"], json!(["bob@lab.alpha.test"]));
}

#[tokio::test]
async fn an_acknowledged_envelope_is_not_handed_out_again() {
    let gateway = start().await;
    gateway.post("main", "/v1/envelopes", &envelope(ID)).await;
    let seq = gateway.get("lab", "/v1/inbox?wait_s=30").await["envelopes"][0]["seq"].clone();
    let (status, _) = gateway.post("lab", "/v1/inbox/ack", &json!({ "up_to": seq })).await;
    assert_eq!(status, 204);
    assert_eq!(gateway.get("lab", "/v1/inbox").await, json!({ "envelopes": [] }));
}

#[tokio::test]
async fn an_envelope_submitted_again_is_recognised_by_its_id() {
    let gateway = start().await;
    gateway.post("main", "/v1/envelopes", &envelope(ID)).await;
    let (status, result) = gateway.post("main", "/v1/envelopes", &envelope(ID)).await;
    assert_eq!((status, &result["duplicate"]), (202, &json!(true)));
    let inbox = gateway.get("lab", "/v1/inbox?wait_s=30").await;
    assert_eq!(inbox["envelopes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_the_core_refuses_is_a_problem_document() {
    let gateway = start().await;
    for (field, value, status, name) in [
        ("from", json!("ann@lab.alpha.test"), 403, "sender-domain"),
        ("to", json!(["eve@nowhere.test"]), 422, "unknown-domain"),
        ("to", json!([]), 422, "malformed"),
        ("conversation", json!("c".repeat(257)), 422, "malformed"),
    ] {
        let mut body = envelope(ID);
        body[field] = value;
        let (found, document) = gateway.post("main", "/v1/envelopes", &body).await;
        assert_eq!(document["type"], format!("urn:trunkline:problem:{name}"), "{document}");
        assert_eq!(found, status);
    }
}

/// The commands between fences of `bash`.
fn documented_commands() -> Vec<&'static str> {
    let documentation = include_str!("../../../docs/API.md");
    let local_api = documentation.split("\n## Admin API").next().unwrap();
    local_api.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn the_documented_commands_run_as_they_stand() {
    let gateway = Arc::new(start().await);
    let commands = documented_commands();
    assert!(commands.len() >= 6, "docs/API.md shows each endpoint");
    for text in commands {
        let run = Command::new("bash")
            .args(["-euo", "pipefail", "-c", text])
            .env("LOCAL_API", format!("http://{}", gateway.address))
            .env("TOKEN", "main")
            .env("FROM", "ann@main.alpha.test")
            .env("TO", "bob@lab.alpha.test")
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{said}");
    }
    assert_eq!(gateway.get("lab", "/v1/inbox").await["envelopes"].as_array().unwrap().len(), 3);
    gateway.stop.send_replace(true);
}

//! A gateway as an operator has it: made by `init`, run from its directory, reached through its APIs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use http::Method;
use redb::StorageBackend;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, spawn_blocking};
use trunkline_common::shutdown::{self, Trigger};
use trunkline_gateway::config::{Config, deployment_key};
use trunkline_gateway::init::{self, init};
use trunkline_gateway::run::{Gateway, Listening, Medium, RunError};
use trunkline_gateway::store::redb::{Options as RedbOptions, RedbStore};
use trunkline_testkit::disk::{Disk, File};
use trunkline_testkit::shaper::Shaper;

use super::{PATIENCE, eventually};

/// A port nobody listens on, until the gateway has one.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// A deployment. Its gateway listens on new ports each time it starts; peers always find it through its door.
pub(super) struct Site {
    pub(super) domain: String,
    /// The network in front of the federation port.
    pub(super) door: Shaper,
    pub(super) api: LocalApi,
    /// What the disk says is left, when it is in memory.
    pub(super) free_bytes: Arc<AtomicU64>,
    dir: TempDir,
    config: Config,
    disk: Option<Disk>,
    client: Client,
    admin_token: String,
    running: Option<Running>,
}

/// A gateway that runs, on a runtime of its own, so that all of it can be made to vanish.
struct Running {
    runtime: Runtime,
    trigger: Trigger,
    task: JoinHandle<Result<(), RunError>>,
    listening: Listening,
}

/// The local API of a site's first network. Cheap to clone; follows the gateway when it starts elsewhere.
#[derive(Clone)]
pub(super) struct LocalApi {
    client: Client,
    at: Arc<Mutex<SocketAddr>>,
    token: String,
}

/// A site that was not started yet.
pub(super) struct Plan {
    site: Site,
}

impl Plan {
    pub(super) fn new(domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let door = Shaper::start(NOWHERE, 1).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let made = init(&init::Options {
            dir: dir.path().to_owned(),
            domain: domain.parse().unwrap(),
            local_domains: Vec::new(),
            network: "main".parse().unwrap(),
            listen: Some(any),
            local_api: Some(any),
            admin_api: Some(any),
            advertise: vec![door.addr().to_string()],
            allow_private_ips: true,
        })
        .unwrap();
        let read = |file: PathBuf| std::fs::read_to_string(file).unwrap().trim().to_owned();
        let mut config = Config::load(&made.config).unwrap();
        config.limits.disk_reserve_bytes.0 = 0;
        let api = LocalApi::new(read(made.network_token_file));
        let site = Site {
            domain: domain.to_owned(),
            door,
            free_bytes: Arc::new(AtomicU64::new(u64::MAX)),
            admin_token: read(made.admin_token_file),
            dir,
            config,
            disk: None,
            client: api.client.clone(),
            api,
            running: None,
        };
        Self { site }
    }

    /// Another replica of a site whose store is a database: a copy of its directory.
    pub(super) fn replica_of(site: &Site) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(site.dir.path(), dir.path());
        let mut config = Config::load(&dir.path().join("gateway.toml")).unwrap();
        config.limits.disk_reserve_bytes.0 = 0;
        config.store.clone_from(&site.config.store);
        let site = Site {
            domain: site.domain.clone(),
            door: Shaper::start(NOWHERE, 1).unwrap(),
            free_bytes: Arc::clone(&site.free_bytes),
            admin_token: site.admin_token.clone(),
            dir,
            config,
            disk: None,
            client: site.client.clone(),
            api: LocalApi { at: Arc::new(Mutex::new(NOWHERE)), ..site.api.clone() },
            running: None,
        };
        Self { site }
    }

    /// Changes the configuration.
    pub(super) fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.site.config);
        self
    }

    /// The site as it is so far.
    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// The same, for who starts it in another way than most.
    pub(super) fn site_mut(&mut self) -> &mut Site {
        &mut self.site
    }

    /// Keeps the store on this disk instead of in files.
    pub(super) fn on(mut self, disk: &Disk) -> Self {
        self.site.disk = Some(disk.clone());
        self
    }

    pub(super) async fn start(mut self) -> Site {
        self.site.start().await;
        self.site
    }
}

impl Site {
    /// A site with everything as `init` makes it.
    pub(super) async fn new(domain: &str) -> Self {
        Plan::new(domain).start().await
    }

    /// Its configuration, which counts from the next start on.
    pub(super) fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Starts the gateway, for the first time or again, and waits until it is ready.
    pub(super) async fn start(&mut self) {
        self.try_start().await.unwrap();
        eventually("the gateway is ready", async || self.readiness().await.0 == 200).await;
    }

    /// Starts the gateway, and waits until its APIs listen.
    pub(super) async fn try_start(&mut self) -> Result<(), RunError> {
        assert!(self.running.is_none(), "{} runs already", self.domain);
        let listening_file = self.config.data_dir.join("listening.json");
        let _ = std::fs::remove_file(&listening_file);
        let (config, medium) = (self.config.clone(), self.medium());
        let gateway = spawn_blocking(|| Gateway::open(config, medium)).await.unwrap()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (trigger, shutdown) = shutdown::manual(PATIENCE);
        let task = runtime.spawn(gateway.serve(shutdown, None));
        let data_dir = self.config.data_dir.clone();
        eventually("the gateway listens", async || Listening::read(&data_dir).is_some()).await;
        let listening = Listening::read(&data_dir).unwrap();
        self.door.set_target(listening.link);
        self.api.set_address(listening.local_api);
        self.running = Some(Running { runtime, trigger, task, listening });
        Ok(())
    }

    fn medium(&self) -> Medium {
        let Some(disk) = self.disk.clone() else { return Medium::configured(&self.config).unwrap() };
        let key = deployment_key::read(&self.config).unwrap();
        let options = RedbOptions { cache_bytes: 4 << 20, ..RedbOptions::new(&self.config.data_dir, key) };
        let free_bytes = Arc::clone(&self.free_bytes);
        Medium {
            open_store: Box::new(move || {
                let (store, keys) = (disk.open("gateway.redb"), disk.open("gateway.keys"));
                Ok(RedbStore::open_on(&options, OnDisk(store), OnDisk(keys))?)
            }),
            free_bytes: Box::new(move || Some(free_bytes.load(Ordering::Relaxed))),
            replica: None,
        }
    }

    /// Stops the gateway as SIGTERM does, and waits until it ended.
    pub(super) async fn stop(&mut self) {
        let Running { runtime, trigger, task, .. } = self.running.take().expect("it runs");
        trigger.drain();
        tokio::time::timeout(PATIENCE, task).await.expect("it stops").unwrap().unwrap();
        end(runtime).await;
    }

    /// Makes the gateway vanish in the middle of whatever it does. What its disk had not synced may be lost.
    pub(super) async fn crash(&mut self) {
        let Running { runtime, .. } = self.running.take().expect("it runs");
        if let Some(disk) = &self.disk {
            disk.crash();
            disk.forget_faults();
        }
        end(runtime).await;
    }

    /// Waits until the gateway ended by itself; why it did.
    pub(super) async fn ended(&mut self) -> RunError {
        let Running { runtime, task, .. } = self.running.take().expect("it runs");
        let ended = tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
        end(runtime).await;
        ended.expect_err("nobody stopped it")
    }

    /// Where its federation port really is.
    pub(super) fn link_address(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").listening.link
    }

    /// Asks the admin API: status, and what it answered.
    pub(super) async fn admin(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        self.admin_with(&self.admin_token, method, path, body).await
    }

    /// The same with another token.
    pub(super) async fn admin_with(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let address = self.running.as_ref().expect("it runs").listening.admin_api;
        let url = format!("http://{address}{path}");
        let mut request = self.client.request(method, url).bearer_auth(token);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(super) async fn readiness(&self) -> (u16, Value) {
        self.admin(Method::GET, "/readyz", &Value::Null).await
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.admin(Method::GET, path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.admin(Method::POST, path, &body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Does something to a peer, such as `pause`.
    pub(super) async fn on_peer(&self, peer: &Site, verb: &str) {
        self.post(&format!("/admin/v1/peers/{}/{verb}", peer.domain), json!({})).await;
    }

    /// Ends the peering on this side.
    pub(super) async fn remove(&self, peer: &Site) {
        let path = format!("/admin/v1/peers/{}", peer.domain);
        let (status, answer) = self.admin(Method::DELETE, &path, &Value::Null).await;
        assert_eq!(status, 204, "{answer}");
    }

    /// A peer as the admin API shows it.
    pub(super) async fn peer(&self, peer: &Site) -> Value {
        self.get(&format!("/admin/v1/peers/{}", peer.domain)).await
    }

    pub(super) async fn is_up(&self, peer: &Site) -> bool {
        self.peer(peer).await["link"] == "up"
    }

    /// Waits until the link to a peer is up here.
    pub(super) async fn up(&self, peer: &Site) {
        eventually("the link is up", async || self.is_up(peer).await).await;
    }

    /// The peer's last error, when there is one.
    pub(super) async fn last_error(&self, peer: &Site) -> String {
        self.peer(peer).await["last_error"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the peer's last error says this.
    pub(super) async fn says(&self, peer: &Site, text: &str) {
        let mut last = String::new();
        let started = std::time::Instant::now();
        while !last.contains(text) {
            assert!(started.elapsed() < PATIENCE, "{} says {last:?}, not {text:?}", self.domain);
            tokio::time::sleep(super::LOOK_AGAIN).await;
            last = self.last_error(peer).await;
        }
    }

    /// An invitation for a peer.
    pub(super) async fn invite(&self, peer: &Site) -> Value {
        self.post("/admin/v1/peers/invite", json!({ "domain": peer.domain })).await
    }

    /// Accepts a bundle; answers the answering one, when there is one.
    pub(super) async fn accept(&self, bundle: Value) -> Value {
        self.post("/admin/v1/peers/accept", json!({ "bundle": bundle })).await["answer"].take()
    }

    /// A path within its directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An address of this deployment.
    pub(super) fn user(&self, name: &str) -> String {
        format!("{name}@{}", self.domain)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(Running { runtime, .. }) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

impl LocalApi {
    /// Opened by this token; its address comes later.
    pub(super) fn new(token: String) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { client, at: Arc::new(Mutex::new(NOWHERE)), token }
    }

    /// Where it is now.
    pub(super) fn set_address(&self, address: SocketAddr) {
        *self.at.lock().unwrap() = address;
    }

    /// Another network's token at the same gateway.
    pub(super) fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// A request to the local API; fails while the gateway is away.
    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.at.lock().unwrap());
        self.client.request(method, url).bearer_auth(&self.token)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, reqwest::Error> {
        self.request(Method::GET, path).send().await?.error_for_status()?.json().await
    }

    /// Status, and what was answered.
    pub(super) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.request(Method::POST, path).json(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Submits one envelope: status, and what was answered.
    pub(super) async fn submit(&self, from: &str, to: &str) -> (u16, Value) {
        self.submit_with(from, to, json!({})).await
    }

    /// Submits one envelope with more fields, or other ones.
    pub(super) async fn submit_with(&self, from: &str, to: &str, fields: Value) -> (u16, Value) {
        let mut body = json!({ "from": from, "to": [to], "kind": "message", "payload": "aGVsbG8=" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.post("/v1/envelopes", &body).await
    }

    /// Waits for an envelope, and acknowledges it.
    pub(super) async fn receive(&self) -> Value {
        self.take("inbox", "envelopes").await
    }

    /// Waits for a receipt, and acknowledges it.
    pub(super) async fn receipt(&self) -> Value {
        self.take("receipts", "receipts").await
    }

    async fn take(&self, queue: &str, list: &str) -> Value {
        let started = std::time::Instant::now();
        loop {
            let answer = self.get(&format!("/v1/{queue}?max=1&wait_s=5")).await.unwrap();
            if let Some(item) = answer[list].get(0) {
                let (status, _) =
                    self.post(&format!("/v1/{queue}/ack"), &json!({ "up_to": item["seq"] })).await;
                assert_eq!(status, 204);
                return item.clone();
            }
            assert!(started.elapsed() < PATIENCE, "nothing came into {queue}");
        }
    }
}

/// Introduces two deployments to each other with bundles, and waits until the link is up on both sides.
pub(super) async fn peer(one: &Site, other: &Site) {
    let answer = other.accept(one.invite(other).await).await;
    one.accept(answer).await;
    one.up(other).await;
    other.up(one).await;
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

async fn end(runtime: Runtime) {
    spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
}

/// A file of the test disk, as redb wants it.
#[derive(Debug)]
struct OnDisk(File);

impl StorageBackend for OnDisk {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all_at(offset, data)
    }
}

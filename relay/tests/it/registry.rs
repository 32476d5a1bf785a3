//! Nodes that an ingress finds in a database: real processes, a real PostgreSQL server, and a proxy before it that cuts.

use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::CONTENT_TYPE;
use reqwest::{Client as Http, Method, Response};
use serde_json::{Value, json};
use trunkline_testkit::postgres::proxy::Proxy;
use trunkline_testkit::postgres::{Server, USER, shared};

use crate::ingress::{Client, goes_on, ingress_ip, node_ip, until};
use crate::process::{Ingress, Relay};

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A database that can be away.
struct Database {
    server: &'static Server,
    name: String,
    proxy: Proxy,
}

impl Database {
    fn new() -> Self {
        let server = shared();
        Self { server, name: server.database(), proxy: Proxy::start(server.port()).unwrap() }
    }

    fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{}", self.proxy.port(), self.name)
    }

    fn answer(&self, sql: &str) -> String {
        self.server.answer(&self.name, sql)
    }

    /// A node that registers here.
    fn node(&self, number: u16, like: Option<&Relay>) -> Relay {
        Relay::registered(number, ingress_ip(), node_ip(number), &self.url(), like)
    }

    /// An ingress that finds nodes here, with the key of one, and lists some itself.
    fn ingress(&self, like: &Relay, listed: &[u16]) -> Ingress {
        let listed: Vec<_> = listed.iter().map(|number| (*number, node_ip(*number), like)).collect();
        Ingress::registered(ingress_ip(), &listed, Some(&self.url()), like)
    }
}

/// Who asks an ingress.
struct Caller {
    http: Http,
    base: String,
    admin: String,
}

impl Caller {
    fn of(ingress: &Ingress, node: &Relay) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = Http::builder().no_proxy().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap();
        Self { http, base: format!("http://{}", ingress.address), admin: node.admin_token() }
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> Response {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.admin);
        request.json(&body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Creates a call: its id.
    async fn create(&self) -> String {
        let created = self.admin(Method::POST, "/v1/calls", json!({})).await;
        assert_eq!(created.status(), StatusCode::CREATED);
        created.json::<Value>().await.unwrap()["call_id"].as_str().unwrap().to_owned()
    }

    async fn token(&self, call: &str, name: &str) -> String {
        let path = format!("/v1/calls/{call}/tokens");
        let minted = self.admin(Method::POST, &path, json!({ "participant": name })).await;
        minted.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned()
    }

    async fn try_join(&self, call: &str, token: &str, offer: &str) -> Response {
        let request =
            self.http.post(format!("{}/v1/calls/{call}/participants", self.base)).bearer_auth(token);
        request.header(CONTENT_TYPE, "application/sdp").body(offer.to_owned()).send().await.unwrap()
    }

    /// Somebody joins.
    async fn join(&self, call: &str, name: &str, seed: u64) -> Client {
        let (mut client, offer) = Client::offering(seed);
        let joined = self.try_join(call, &self.token(call, name).await, &offer).await;
        assert_eq!(joined.status(), StatusCode::CREATED);
        client.answered(&joined.text().await.unwrap());
        client
    }

    /// Waits until a node answers.
    async fn ready(&self) {
        let began = Instant::now();
        while self.get("/readyz").await.0 != StatusCode::OK {
            assert!(began.elapsed() < PATIENCE, "no node answers");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The value of a metric of the ingress, with its labels.
    async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Waits until a metric is so.
    async fn until_metric(&self, name: &str, is_so: impl Fn(f64) -> bool) {
        let began = Instant::now();
        while !self.metric(name).await.is_some_and(&is_so) {
            assert!(began.elapsed() < PATIENCE, "{name}: {:?}", self.metric(name).await);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

const UP: &str = "trunkline_ingress_node_up{node=\"1\"}";
const AGE: &str = "trunkline_ingress_registry_age_seconds";

#[tokio::test]
async fn a_node_that_nobody_listed_gets_calls_and_they_and_joins_go_on_without_the_database() {
    let database = Database::new();
    let node = database.node(1, None);
    let mut ingress = database.ingress(&node, &[]);
    let caller = Caller::of(&ingress, &node);
    caller.ready().await;
    let call = caller.create().await;
    let (mut ann, mut ben) = (caller.join(&call, "ann", 1).await, caller.join(&call, "ben", 2).await);
    ann.speaks = true;
    until(&mut [&mut ann, &mut ben], |clients| clients[1].heard > 10).await;

    database.proxy.close();
    // Until several tries failed.
    let began = Instant::now();
    while caller.metric(AGE).await.is_some_and(|age| age < 12.0) {
        assert!(began.elapsed() < PATIENCE, "the registry seems to answer");
        goes_on(&mut ann, &mut ben).await;
    }
    let mut cid = caller.join(&call, "cid", 3).await;
    until(&mut [&mut ann, &mut ben, &mut cid], |clients| clients[2].heard > 10).await;
    caller.create().await;
    goes_on(&mut ann, &mut ben).await;

    database.proxy.open();
    caller.until_metric(AGE, |age| age < 5.0).await;
    goes_on(&mut ann, &mut ben).await;
    let said = ingress.last_words();
    assert_eq!(said.matches("the registry does not answer").count(), 1, "{said}");
    assert_eq!(said.matches("the registry answers again").count(), 1, "{said}");
}

#[tokio::test]
async fn node_and_ingress_start_without_the_database_and_work_from_the_list() {
    let database = Database::new();
    database.proxy.close();
    let node = database.node(1, None);
    let mut ingress = database.ingress(&node, &[1]);
    let caller = Caller::of(&ingress, &node);
    caller.ready().await;
    let call = caller.create().await;
    let (mut ann, mut ben) = (caller.join(&call, "ann", 1).await, caller.join(&call, "ben", 2).await);
    ann.speaks = true;
    until(&mut [&mut ann, &mut ben], |clients| clients[1].heard > 10).await;
    ingress.kill();
    ingress.start();
    caller.ready().await;
    goes_on(&mut ann, &mut ben).await;
    caller.join(&call, "cid", 3).await;

    // A call of a node that is not listed may be there: it is not made again before the registry was read.
    let other = Relay::tunnelled(2, ingress_ip(), node_ip(2), Some(&node));
    let created = other.json(&["call", "create"]);
    let elsewhere = created["call_id"].as_str().unwrap();
    let token = other.json(&["call", "token", elsewhere, "--participant", "dan"]);
    let token = token["token"].as_str().unwrap();
    let (_, offer) = Client::offering(4);
    let joined = caller.try_join(elsewhere, token, &offer).await;
    assert_eq!(joined.status(), StatusCode::SERVICE_UNAVAILABLE);
    database.proxy.open();
    // Asking again and again would spend what one address may ask for.
    caller.until_metric("trunkline_ingress_registry_nodes", |nodes| nodes == 1.0).await;
    assert_eq!(caller.try_join(elsewhere, token, &offer).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_killed_node_is_forgotten_once_its_row_is_old_and_one_that_stops_takes_its_row_away() {
    let database = Database::new();
    let mut node = database.node(1, None);
    let ingress = database.ingress(&node, &[]);
    let caller = Caller::of(&ingress, &node);
    caller.ready().await;
    assert_eq!(caller.metric(UP).await, Some(1.0));
    assert_eq!(database.answer("SELECT node FROM trunkline.relay_nodes"), "1");
    node.signal("KILL");
    node.ended();
    caller.until_metric(UP, |up| up == 0.0).await;
    // Its row is young, and was read meanwhile: what is known of it stays.
    caller.until_metric(AGE, |age| age > 2.0).await;
    caller.until_metric(AGE, |age| age < 2.0).await;
    assert_eq!(caller.metric(UP).await, Some(0.0));
    database.answer("UPDATE trunkline.relay_nodes SET beat = beat - interval '1 minute'");
    caller.until_metric(UP, f64::is_nan).await;

    node.start();
    caller.until_metric(UP, |up| up == 1.0).await;
    caller.create().await;
    assert_eq!(database.answer("SELECT count(*) FROM trunkline.relay_ingresses"), "1");
    node.signal("TERM");
    node.ended();
    assert_eq!(database.answer("SELECT count(*) FROM trunkline.relay_nodes"), "0");
    caller.until_metric(UP, f64::is_nan).await;
}

#[tokio::test]
async fn rows_that_cannot_be_believed_are_skipped_by_number() {
    let database = Database::new();
    let node = database.node(1, None);
    let mut ingress = database.ingress(&node, &[]);
    let caller = Caller::of(&ingress, &node);
    caller.ready().await;
    // One that points elsewhere, one that could not be a node, and one that took over a good node's proof.
    database.answer(
        "INSERT INTO trunkline.relay_nodes (node, tunnel, api, version, instance, proof)
            VALUES (5, '10.0.0.66:8446', 'http://10.0.0.66:80', '1', 'a', '\\x00'), (-7, '', repeat('x', 100000), '', '', '');
        INSERT INTO trunkline.relay_nodes (node, tunnel, api, version, instance, proof)
            SELECT 6, tunnel, 'http://10.0.0.66:80', version, instance, proof FROM trunkline.relay_nodes WHERE node = 1",
    );
    let said: Vec<_> = (0..3).map(|_| ingress.logs("is not followed")).collect();
    for number in ["5", "-7", "6"] {
        assert!(said.iter().any(|line| line.contains(&format!("\"node\":{number},"))), "{said:?}");
    }
    for number in ["5", "6"] {
        let up = format!("trunkline_ingress_node_up{{node=\"{number}\"}}");
        assert_eq!(caller.metric(&up).await, None);
    }
    caller.until_metric("trunkline_ingress_registry_nodes", |nodes| nodes == 1.0).await;
    caller.create().await;
    ingress.kill();
    let (passes, said) = ingress.check();
    assert!(passes && said.contains("node 5: it was not written by somebody"), "{said}");
}

#[test]
fn a_check_says_what_is_wrong_with_the_registry_and_lets_both_start_all_the_same() {
    let database = Database::new();
    let mut node = database.node(1, None);
    let mut ingress = database.ingress(&node, &[]);
    node.signal("TERM");
    node.ended();
    ingress.kill();
    for (passes, said) in [node.check(), ingress.check()] {
        assert!(passes && !said.contains("cannot be used"), "{said}");
    }
    database.proxy.close();
    for (passes, said) in [node.check(), ingress.check()] {
        assert!(
            passes
                && said.contains(&format!("database {} on 127.0.0.1:", database.name))
                && said.contains(" cannot be used"),
            "{said}"
        );
    }
    std::fs::write(node.path("relay/database.password"), "wrong").unwrap();
    database.proxy.open();
    let (passes, said) = node.check();
    assert!(passes && said.contains("password authentication failed"), "{said}");
    std::fs::remove_file(node.path("relay/database.password")).unwrap();
    let (passes, said) = node.check();
    assert!(!passes && said.contains("registry_password_file: cannot read"), "{said}");
}

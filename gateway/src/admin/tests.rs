//! The admin API over its router, with a stand-in for the hub.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use trunkline_gateway_proto::directory::Role;
use trunkline_http::lockout::FAILURES_MAX;

use super::fake_hub::{FakeHub, peer};
use super::*;
use crate::config::Config;

mod sessions;

struct Fixture {
    router: Router,
    state: AdminState,
    fake: FakeHub,
    readiness: Arc<Readiness>,
    dir: tempfile::TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn problem(&self) -> String {
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json", "{}", self.body);
        self.json()["type"].as_str().unwrap().strip_prefix("urn:trunkline:problem:").unwrap().to_owned()
    }
}

/// An admin API of `domain` with its own identity.
fn fixture_of(domain: &str) -> Fixture {
    fixture_about(about(domain))
}

fn fixture_about(about: About) -> Fixture {
    let (hub, fake) = FakeHub::start();
    let dir = tempfile::tempdir().unwrap();
    let readiness = Arc::new(Readiness::default());
    let identity = identity(dir.path(), about.domain.as_str());
    let state = AdminState::new(hub, identity, about, Arc::clone(&readiness));
    Fixture { router: router(state.clone()), state, fake, readiness, dir }
}

fn fixture() -> Fixture {
    fixture_of("alpha.test")
}

fn identity(dir: &Path, domain: &str) -> Arc<Identity> {
    let domain: Domain = domain.parse().unwrap();
    Identity::create(dir, &domain).unwrap();
    Identity::open(dir, domain).unwrap()
}

fn about(domain: &str) -> About {
    About {
        domain: domain.parse().unwrap(),
        advertise: vec![format!("gw.{domain}:8443")],
        identity_mode: IdentityMode::Pinned,
        replica: None,
        configured: Config::defaults(domain.parse().unwrap()).values(),
        tls: false,
    }
}

impl Fixture {
    async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Reply {
        self.call_from("192.0.2.1:1", method, path, token, body).await
    }

    async fn call_from(
        &self,
        source: &str,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Reply {
        let bearer = token.map(|token| (AUTHORIZATION, format!("Bearer {token}")));
        self.call_with(source, method, path, &bearer.into_iter().collect::<Vec<_>>(), body).await
    }

    async fn call_with(
        &self,
        source: &str,
        method: &str,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Option<Value>,
    ) -> Reply {
        let response = self.send(source, method, path, headers, body).await;
        let (status, headers) = (response.status(), response.headers().clone());
        if headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream") {
            return Reply { status, headers, body: String::new() };
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Reply { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn send(
        &self,
        source: &str,
        method: &str,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Option<Value>,
    ) -> axum::response::Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = request.body(body).unwrap();
        let source: SocketAddr = source.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(source));
        TowerToHyperService::new(self.router.clone()).call(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, Some("viewer"), None).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path, Some("admin"), Some(body)).await
    }
}

/// A path with its parameters filled in.
fn concrete(path: &str) -> String {
    let names = [("{domain}", "beta.test"), ("{id}", "main"), ("{label}", "viewer-2")];
    let names = names.into_iter().chain([("{name}", "nobody"), ("{call}", "0001-abc")]);
    names.fold(path.to_owned(), |path, (name, value)| path.replace(name, value))
}

#[tokio::test]
async fn every_route_refuses_who_has_no_token() {
    let api = fixture();
    for route in ROUTES.iter().filter(|route| route.access != Access::Open) {
        let reply = api.call(route.method.as_str(), &concrete(route.path), None, None).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{}", route.path);
        assert_eq!(reply.problem(), "unauthenticated");
    }
}

#[tokio::test]
async fn every_route_refuses_a_role_below_its_own_and_takes_the_others() {
    let api = fixture();
    let roles = [("viewer", Role::Viewer), ("operator", Role::Operator), ("admin", Role::Admin)];
    for route in ROUTES {
        let Access::Role(needed) = route.access else { continue };
        for (token, role) in roles {
            let body = route.request.map(|_| json!({}));
            let reply = api.call(route.method.as_str(), &concrete(route.path), Some(token), body).await;
            let refused = reply.status == StatusCode::FORBIDDEN;
            assert_eq!(refused, role < needed, "{token} {} {}", route.method.as_str(), route.path);
            assert_ne!(reply.status, StatusCode::UNAUTHORIZED);
        }
    }
}

#[tokio::test]
async fn a_role_that_is_too_low_changes_nothing() {
    let api = fixture();
    let reply = api
        .call("POST", "/admin/v1/tokens", Some("operator"), Some(json!({"label": "x", "role": "admin"})))
        .await;
    assert_eq!(reply.problem(), "forbidden");
    assert!(api.fake.ops().is_empty());
}

#[tokio::test]
async fn a_source_is_locked_out_after_failed_log_ins_and_a_token_that_is_right_is_let_in() {
    let api = fixture();
    for _ in 0..FAILURES_MAX {
        let reply = api.call("GET", "/admin/v1/status", Some("wrong"), None).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    // Many programs may share the address, behind a proxy for one.
    assert_eq!(api.get("/admin/v1/status").await.status, StatusCode::OK);
    let reply = api.call("GET", "/admin/v1/status", Some("wrong"), None).await;
    assert_eq!(reply.problem(), "too-many-requests", "and takes nothing back of what was counted");
    assert_eq!(reply.headers[RETRY_AFTER], "60");
    let elsewhere = api.call_from("192.0.2.2:1", "GET", "/admin/v1/status", Some("admin"), None).await;
    assert_eq!(elsewhere.status, StatusCode::OK);
    let noted = api.fake.ops();
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert!(noted[0].1.contains("login.lockout") && !noted[0].1.contains("192.0.2.1"), "{noted:?}");
}

#[tokio::test]
async fn a_bundle_that_is_far_too_long_is_refused_before_it_is_read() {
    let api = fixture();
    let body = json!({ "bundle": vec![json!([]); 100_000] });
    for path in ["/admin/v1/peers/preview", "/admin/v1/peers/accept"] {
        assert_eq!(api.call("POST", path, Some("admin"), Some(body.clone())).await.problem(), "too-large");
    }
}

#[tokio::test]
async fn requests_without_a_token_lock_nobody_out() {
    let api = fixture();
    for _ in 0..=FAILURES_MAX {
        api.call("GET", "/admin/v1/status", None, None).await;
    }
    assert_eq!(api.get("/admin/v1/status").await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_way_to_be_wrong_is_answered_with_a_problem_document() {
    let api = fixture();
    for (method, path, body, kind) in [
        ("GET", "/nowhere", None, "not-found"),
        ("PATCH", "/admin/v1/peers", None, "method-not-allowed"),
        ("GET", "/admin/v1/peers/beta.test", None, "not-found"),
        ("GET", "/admin/v1/peers/not..a..domain", None, "bad-request"),
        ("GET", "/admin/v1/audit?max=many", None, "bad-request"),
        ("POST", "/admin/v1/tokens", Some(json!({"label": "x"})), "malformed"),
        ("POST", "/admin/v1/tokens", Some(json!({"label": "no spaces", "role": "viewer"})), "malformed"),
        ("POST", "/admin/v1/tokens", Some(json!({"label": "..", "role": "viewer"})), "malformed"),
        ("POST", "/admin/v1/tokens", Some(json!({"label": "init", "role": "viewer"})), "malformed"),
        ("POST", "/admin/v1/administrators", Some(json!({"name": "..", "role": "viewer"})), "malformed"),
        ("POST", "/admin/v1/networks", Some(json!({"id": "main"})), "conflict"),
        ("POST", "/admin/v1/peers", Some(json!({"domain": "b.test"})), "malformed"),
        ("POST", "/admin/v1/peers/preview", Some(json!({"bundle": {}})), "malformed"),
        ("POST", "/admin/v1/outbox/purge", Some(json!({"domain": "b.test", "lane": 16})), "malformed"),
        ("DELETE", "/admin/v1/tokens/nobody", None, "not-found"),
    ] {
        let reply = api.call(method, path, Some("admin"), body).await;
        assert_eq!(reply.problem(), kind, "{method} {path}");
        assert!(!reply.json()["detail"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_says_where_it_goes_wrong() {
    let api = fixture();
    let request = Request::post("/admin/v1/tokens")
        .header(AUTHORIZATION, "Bearer admin")
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from("{\n\"label\": }"))
        .unwrap();
    let response = TowerToHyperService::new(api.router.clone()).call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("line 2"));
}

#[tokio::test]
async fn storage_that_failed_is_named_to_operators_and_makes_the_gateway_not_ready() {
    let api = fixture();
    api.readiness.ready();
    assert_eq!(api.call("GET", "/readyz", None, None).await.status, StatusCode::OK);
    api.fake.break_store();
    let reply = api.call("GET", "/readyz", None, None).await;
    assert_eq!(reply.problem(), "not-ready");
    assert!(reply.body.contains("storage failed"), "{}", reply.body);
    let reply = api.post("/admin/v1/tokens", json!({"label": "x", "role": "viewer"})).await;
    assert_eq!(reply.problem(), "storage");
    assert!(reply.body.contains("the disk is gone"), "{}", reply.body);
}

#[tokio::test]
async fn a_gateway_that_starts_or_stops_is_not_ready_but_alive() {
    let api = fixture();
    assert_eq!(api.call("GET", "/readyz", None, None).await.problem(), "not-ready");
    assert_eq!(api.call("GET", "/healthz", None, None).await.status, StatusCode::OK);
    api.readiness.ready();
    api.readiness.stopping();
    assert!(api.call("GET", "/readyz", None, None).await.body.contains("stopping"));
}

#[tokio::test]
async fn metrics_need_no_token_and_name_no_people() {
    let api = fixture();
    api.fake.set_peers(vec![peer("beta.test", None)]);
    let reply = api.call("GET", "/metrics", None, None).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.body.contains("trunkline_gateway_link_up{peer=\"beta.test\"} 1"), "{}", reply.body);
    assert!(!reply.body.contains('@'));
}

#[tokio::test]
async fn an_invitation_is_a_bundle_that_the_other_gateway_accepts_and_answers() {
    let (alpha, beta) = (fixture(), fixture_of("beta.test"));
    let invitation = alpha.post("/admin/v1/peers/invite", json!({"domain": "beta.test"})).await;
    assert_eq!(invitation.status, StatusCode::CREATED, "{}", invitation.body);
    let bundle = invitation.json();
    let preview = beta.post("/admin/v1/peers/preview", json!({ "bundle": bundle })).await.json();
    assert_eq!(preview["domain"], "alpha.test");
    assert_eq!(preview["endpoints"], json!(["gw.alpha.test:8443"]));
    assert_eq!(preview["answer"], false);
    assert!(preview.get("api_key").is_none());
    let accepted = beta.post("/admin/v1/peers/accept", json!({ "bundle": bundle })).await.json();
    let answer = &accepted["answer"];
    let preview = alpha.post("/admin/v1/peers/preview", json!({ "bundle": answer })).await.json();
    assert_eq!(preview["answer"], true);
    let done = alpha.post("/admin/v1/peers/accept", json!({ "bundle": answer })).await.json();
    assert_eq!(done, json!({"domain": "beta.test", "answer": null}));
}

#[tokio::test]
async fn a_changed_bundle_is_refused_and_reaches_nobody() {
    let (alpha, beta) = (fixture(), fixture_of("beta.test"));
    let mut bundle = alpha.post("/admin/v1/peers/invite", json!({"domain": "beta.test"})).await.json();
    bundle["bundle"]["endpoints"] = json!(["evil.test:8443"]);
    let reply = beta.post("/admin/v1/peers/accept", json!({ "bundle": bundle })).await;
    assert_eq!(reply.problem(), "malformed");
    assert!(reply.body.contains("signature"), "{}", reply.body);
    assert!(beta.fake.ops().is_empty());
}

#[tokio::test]
async fn a_peer_added_by_hand_may_be_given_by_its_certificate() {
    let (alpha, beta) = (fixture(), fixture_of("beta.test"));
    let pem = std::fs::read_to_string(beta.dir.path().join("current.crt")).unwrap();
    let reply = alpha.post("/admin/v1/peers", json!({"domain": "beta.test", "certificates": [pem]})).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.body);
    assert!(reply.json()["api_key"].as_str().unwrap().starts_with("tlk_"));
    let pin = beta.get("/admin/v1/identity").await.json()["current"]["pin"].as_str().unwrap().to_owned();
    assert!(alpha.fake.ops()[0].1.contains(&pin), "{:?}", alpha.fake.ops());
}

#[tokio::test]
async fn a_rotation_waits_for_peers_unless_forced() {
    let api = fixture();
    let before = api.get("/admin/v1/identity").await.json();
    let announced = api.post("/admin/v1/identity/rotate", json!({})).await.json();
    let next = announced["next"]["pin"].clone();
    assert_ne!(next, before["current"]["pin"]);
    api.fake.set_peers(vec![peer("beta.test", Some(true)), peer("gamma.test", Some(false))]);
    let reply = api.post("/admin/v1/identity/activate", json!({})).await;
    assert_eq!(reply.problem(), "conflict");
    assert!(reply.body.contains("gamma.test") && !reply.body.contains("beta.test"), "{}", reply.body);
    let activated = api.post("/admin/v1/identity/activate", json!({"force": true})).await.json();
    assert_eq!(activated["current"]["pin"], next);
    assert_eq!(activated["next"], Value::Null);
}

#[tokio::test]
async fn a_webhooks_secret_is_answered_once_and_never_shown() {
    let api = fixture();
    let spec = json!({"id": "lab", "webhook": {"url": "https://hook.test/in"}});
    let added = api.post("/admin/v1/networks", spec).await.json();
    let secret = added["webhook_secret"].as_str().unwrap().to_owned();
    assert!(added["token"].as_str().unwrap().starts_with("tln_"));
    let shown = api.get("/admin/v1/networks/lab").await;
    assert!(shown.body.contains("hook.test") && !shown.body.contains(&secret), "{}", shown.body);
}

#[tokio::test]
async fn a_new_token_opens_the_api_until_it_is_removed() {
    let api = fixture();
    let added = api.post("/admin/v1/tokens", json!({"label": "night", "role": "viewer"})).await.json();
    let token = added["token"].as_str().unwrap();
    assert_eq!(api.call("GET", "/admin/v1/status", Some(token), None).await.status, StatusCode::OK);
    let removed = api.call("DELETE", "/admin/v1/tokens/night", Some("admin"), None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let refused = api.call("GET", "/admin/v1/status", Some(token), None).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_audit_log_that_was_changed_is_told_from_one_that_was_not() {
    let api = fixture();
    for label in ["a", "b", "c", "d"] {
        api.post("/admin/v1/tokens", json!({"label": label, "role": "viewer"})).await;
    }
    let verified = api.get("/admin/v1/audit/verify").await.json();
    assert_eq!((&verified["ok"], &verified["entries"]), (&json!(true), &json!(4)));
    assert_eq!(verified["from_genesis"], true);
    api.fake.tamper(1);
    let verified = api.get("/admin/v1/audit/verify").await.json();
    assert_eq!((&verified["ok"], &verified["broken_at"]), (&json!(false), &json!(3)));
    let page = api.get("/admin/v1/audit?after=1&max=2").await.json();
    assert_eq!(page["entries"][0]["seq"], 2);
    assert_eq!(page["entries"].as_array().unwrap().len(), 2);
}

/// Answers that fill the fields of their schemas, so that a field that is added or renamed shows here.
#[tokio::test]
async fn answers_have_the_fields_that_the_document_says() {
    let api = fixture();
    api.fake.set_peers(vec![peer("beta.test", None)]);
    api.post("/admin/v1/networks", json!({"id": "lab", "webhook": {"url": "https://hook.test/"}})).await;
    api.post("/admin/v1/identity/rotate", json!({})).await;
    let schemas = openapi::document()["components"]["schemas"].clone();
    let fields = |schema: &str| -> Vec<String> {
        let mut names: Vec<_> = schemas[schema]["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let keys = |value: &Value| -> Vec<String> {
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let networks = api.get("/admin/v1/networks").await.json();
    let outbox = api.get("/admin/v1/outbox").await.json();
    let identity = api.get("/admin/v1/identity").await.json();
    let replica = Some("gw-1.internal:8442".into());
    let status = fixture_about(About { replica, ..about("alpha.test") });
    let status = status.get("/admin/v1/status").await.json();
    let tokens = api.call("GET", "/admin/v1/tokens", Some("admin"), None).await.json();
    let added = api.post("/admin/v1/administrators", json!({"name": "ann", "role": "viewer"})).await.json();
    let administrators = api.call("GET", "/admin/v1/administrators", Some("admin"), None).await.json();
    let login = json!({"name": "ann", "password": added["password"]});
    let session = api.call("POST", "/admin/v1/session", None, Some(login)).await.json();
    let settings = api.get("/admin/v1/settings").await.json();
    let audit = api.get("/admin/v1/audit").await.json();
    let peers = api.get("/admin/v1/peers").await.json();
    api.state.history.record(&api.state.hub.overview().await.unwrap());
    let history = api.get("/admin/v1/history").await.json();
    for (value, schema) in [
        (&status, "Status"),
        (&status["totals"], "Totals"),
        (&status["peers"], "PeerCounts"),
        (&status["replicas"][0], "Replica"),
        (&peers["peers"][0], "Peer"),
        (&peers["peers"][0]["outbox"], "Queue"),
        (&networks["networks"][1], "Network"),
        (&networks["networks"][1]["policy"], "Policy"),
        (&networks["networks"][1]["webhook"], "Webhook"),
        (&outbox, "Outbox"),
        (&outbox["peers"][0], "PeerOutbox"),
        (&outbox["peers"][0]["lanes"][0], "Lane"),
        (&outbox["peers"][0]["departures"][0], "Departure"),
        (&history, "History"),
        (&history["samples"][0], "HistorySample"),
        (&identity, "Identity"),
        (&identity["current"], "KeyPair"),
        (&identity["next"], "NextKeyPair"),
        (&tokens["tokens"][0], "Token"),
        (&added, "AdministratorAdded"),
        (&administrators["administrators"][0], "Administrator"),
        (&session, "Session"),
        (&settings, "Settings"),
        (&settings["retention_s"], "SecondsSetting"),
        (&audit, "Audit"),
        (&audit["entries"][0], "AuditEntry"),
        (&api.get("/admin/v1/audit/verify").await.json(), "AuditVerified"),
    ] {
        assert_eq!(keys(value), fields(schema), "{schema}");
    }
}

/// Paths of a router, out of its debug output: axum lists them nowhere else. Its fallback has two of its own.
fn paths_of(router: &Router) -> BTreeSet<String> {
    let text = format!("{router:?}");
    let quoted = text.split('"').skip(1).step_by(2);
    let own = |text: &str| text != "/" && !text.contains("__private__");
    quoted.filter(|text| text.starts_with('/') && own(text)).map(str::to_owned).collect()
}

/// Every operation a router answers, as `METHOD /path`: what it does not have is refused with 404 or 405.
async fn operations_of(router: &Router) -> BTreeSet<String> {
    let mut operations = BTreeSet::new();
    for path in paths_of(router) {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let request = Request::builder().method(method).uri(concrete(&path)).body(Body::empty()).unwrap();
            let response = TowerToHyperService::new(router.clone()).call(request).await.unwrap();
            if response.status() != StatusCode::METHOD_NOT_ALLOWED {
                operations.insert(format!("{method} {path}"));
            }
        }
    }
    operations
}

#[tokio::test]
async fn the_document_has_every_route_of_both_apis_and_no_other() {
    let api = fixture();
    let (hub, _fake) = FakeHub::start();
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    let local = operations_of(&crate::api::router(hub, crate::api::Config::default(), stopping)).await;
    let admin = operations_of(&api.router).await;
    assert!(local.contains("POST /v1/envelopes") && admin.contains("GET /healthz"), "{local:?} {admin:?}");
    assert_eq!(openapi::operations(), local.union(&admin).cloned().collect());
}

#[test]
fn every_route_is_in_the_manual_with_its_role() {
    let manual = include_str!("../../../docs/API.md");
    for route in ROUTES {
        let role = match route.access {
            Access::Open => "none",
            Access::Own => "any",
            Access::Role(role) => fail::role(role),
        };
        let start = format!("| `{} {}` | {role} |", route.method.as_str(), route.path);
        assert!(manual.contains(&start), "docs/API.md has no row that starts with {start}");
    }
}

/// Sequence numbers of an answer of the audit log, and where it goes on.
fn page(reply: &Reply) -> (Vec<u64>, Option<u64>) {
    let value = reply.json();
    let seqs = value["entries"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap());
    (seqs.collect(), value["next"].as_u64())
}

#[tokio::test]
async fn the_audit_log_is_read_in_both_directions_page_by_page() {
    let api = fixture();
    for n in 0..5 {
        api.post("/admin/v1/tokens", json!({"label": format!("t{n}"), "role": "viewer"})).await;
    }
    for (query, seqs, next) in [
        ("", vec![1, 2, 3, 4, 5], None),
        ("?max=2", vec![1, 2], Some(2)),
        ("?max=2&after=2", vec![3, 4], Some(4)),
        ("?max=2&after=4", vec![5], None),
        ("?max=2&after=3", vec![4, 5], None),
        ("?order=newest", vec![5, 4, 3, 2, 1], None),
        ("?order=newest&max=2", vec![5, 4], Some(4)),
        ("?before=4&max=2", vec![3, 2], Some(2)),
        ("?before=2&max=2", vec![1], None),
        ("?before=1", vec![], None),
        ("?before=4&after=1&order=oldest", vec![2, 3], None),
        ("?before=4&after=1", vec![3, 2], None),
        ("?after=18446744073709551615", vec![], None),
        ("?before=18446744073709551615&max=1", vec![5], Some(5)),
    ] {
        let reply = api.get(&format!("/admin/v1/audit{query}")).await;
        assert_eq!(page(&reply), (seqs, next), "{query}");
    }
    let reply = api.get("/admin/v1/audit?order=sideways").await;
    assert_eq!(reply.problem(), "bad-request");
}

#[tokio::test]
async fn the_audit_log_is_searched_in_any_case() {
    let api = fixture();
    for label in ["a", "b"] {
        api.post("/admin/v1/tokens", json!({"label": label, "role": "viewer"})).await;
    }
    api.post("/admin/v1/outbox/retry", json!({})).await;
    for (query, seqs) in [
        ("?q=tokenadd", vec![1, 2]),
        ("?q=TOKENADD&order=newest", vec![2, 1]),
        ("?q=retry", vec![3]),
        ("?q=Admin&max=1", vec![1]),
        ("?q=%20%20", vec![1, 2, 3]),
        ("?q=nothing+of+the+kind", vec![]),
    ] {
        let reply = api.get(&format!("/admin/v1/audit{query}")).await;
        assert_eq!(page(&reply).0, seqs, "{query}");
    }
    let long = api.get(&format!("/admin/v1/audit?q={}", "x".repeat(101))).await;
    assert_eq!(long.problem(), "malformed");
}

#[tokio::test]
async fn a_search_looks_at_so_many_entries_at_once_and_says_where_to_go_on() {
    let api = fixture();
    api.fake.fill_audit(25_000);
    let first = page(&api.get("/admin/v1/audit?q=nobody").await);
    assert_eq!(first, (vec![], Some(10_000)));
    let from_the_end = page(&api.get("/admin/v1/audit?q=nobody&order=newest").await);
    assert_eq!(from_the_end, (vec![], Some(15_001)));
    let last = page(&api.get("/admin/v1/audit?q=nobody&before=5001").await);
    assert_eq!(last, (vec![], None));
}

#[tokio::test]
async fn charts_have_the_sum_and_each_peer() {
    let api = fixture();
    api.fake.set_peers(vec![peer("beta.test", None)]);
    let overview = api.state.hub.overview().await.unwrap();
    api.state.history.record(&overview);
    api.state.history.record(&overview);
    for query in ["", "?peer=beta.test"] {
        let history = api.get(&format!("/admin/v1/history{query}")).await.json();
        assert_eq!((&history["every_s"], &history["samples"][1]["sent"]), (&json!(2), &json!(0)), "{query}");
        assert_eq!(history["samples"].as_array().unwrap().len(), 2);
    }
    assert_eq!(api.get("/admin/v1/history?peer=nobody.test").await.problem(), "not-found");
    assert_eq!(api.get("/admin/v1/history?peer=no..domain").await.problem(), "bad-request");
}

#[tokio::test]
async fn followers_get_samples() {
    let api = fixture();
    api.fake.set_peers(vec![peer("beta.test", None)]);
    let mut request = Request::get("/admin/v1/events").header(AUTHORIZATION, "Bearer viewer");
    request = request.header("accept", "text/event-stream");
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 1))));
    let response = TowerToHyperService::new(api.router.clone()).call(request).await.unwrap();
    let mut body = response.into_body();
    let overview = api.state.hub.overview().await.unwrap();
    api.state.history.record(&overview);
    let sample = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let text = String::from_utf8_lossy(&sample).into_owned();
    assert!(text.starts_with("event: sample\ndata: {"), "{text}");
    let data: Value = serde_json::from_str(text.split("data: ").nth(1).unwrap().trim()).unwrap();
    assert_eq!((&data["peers"][0]["domain"], &data["at_ms"]), (&json!("beta.test"), &json!(0)));
    assert!(data["totals"]["delivered"].is_u64() && data["peers"][0]["link"] == "up");
}

#[tokio::test]
async fn without_relays_their_pages_are_empty_and_nothing_can_be_done() {
    let api = fixture();
    assert_eq!(api.get("/admin/v1/relays").await.json(), json!({"relays": []}));
    assert_eq!(api.get("/admin/v1/calls").await.json(), json!({"calls": [], "errors": []}));
    assert_eq!(api.get("/admin/v1/calls/history").await.json(), json!({"every_s": 2, "samples": []}));
    let ended = api.call("DELETE", "/admin/v1/calls/0001-abc", Some("operator"), None).await;
    assert_eq!(ended.problem(), "not-found");
    let drained = api.call("POST", "/admin/v1/relays/one/drain", Some("operator"), None).await;
    assert!(drained.problem() == "not-found" && drained.body.contains("[[relays]]"), "{}", drained.body);
    assert!(api.fake.ops().is_empty(), "what was not done is not in the audit log");
    let metrics = api.call("GET", "/metrics", None, None).await;
    assert!(!metrics.body.contains("relay"));
}

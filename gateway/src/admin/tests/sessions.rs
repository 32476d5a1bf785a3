//! Console sessions over the router: who gets in, what a cookie opens, and when it opens nothing any more.

use std::time::{Duration, SystemTime};

use http::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};

use super::*;
use crate::admin::session::totp::code_of;

/// A password that may be chosen.
const CHOSEN: &str = "a password of my own";

/// Somebody at a browser.
struct Browser<'a> {
    api: &'a Fixture,
    source: &'static str,
    cookie: String,
    csrf: String,
}

impl<'a> Browser<'a> {
    fn new(api: &'a Fixture, source: &'static str) -> Self {
        Self { api, source, cookie: String::new(), csrf: String::new() }
    }

    async fn log_in(&mut self, name: &str, password: &str, code: Option<&str>) -> Reply {
        let mut body = json!({"name": name, "password": password});
        if let Some(code) = code {
            body["code"] = code.into();
        }
        let reply = self.api.call_with(self.source, "POST", "/admin/v1/session", &[], Some(body)).await;
        if reply.status == StatusCode::OK {
            let cookie = reply.headers[SET_COOKIE].to_str().unwrap();
            self.cookie = cookie.split(';').next().unwrap().to_owned();
            self.csrf = reply.json()["csrf"].as_str().unwrap().to_owned();
        }
        reply
    }

    fn headers(&self) -> Vec<(HeaderName, String)> {
        let csrf = HeaderName::from_static("x-trunkline-csrf");
        vec![(COOKIE, format!("other=1; {}", self.cookie)), (csrf, self.csrf.clone())]
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        self.api.call_with(self.source, method, path, &self.headers(), body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path, Some(body)).await
    }
}

/// Adds an administrator, and gives the first password.
async fn add(api: &Fixture, name: &str, role: &str) -> String {
    let reply = api.post("/admin/v1/administrators", json!({"name": name, "role": role})).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.body);
    reply.json()["password"].as_str().unwrap().to_owned()
}

/// Somebody who has logged in and chosen a password.
async fn logged_in<'a>(api: &'a Fixture, name: &str, role: &str) -> Browser<'a> {
    let first = add(api, name, role).await;
    let mut browser = Browser::new(api, "192.0.2.1:1");
    assert_eq!(browser.log_in(name, &first, None).await.status, StatusCode::OK);
    let changed = browser.post("/admin/v1/session/password", json!({"old": first, "new": CHOSEN})).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT, "{}", changed.body);
    browser
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_first_password_opens_nothing_but_the_change_of_it() {
    let api = fixture();
    let first = add(&api, "ann", "admin").await;
    let mut ann = Browser::new(&api, "192.0.2.1:1");
    let session = ann.log_in("Ann", &first, None).await.json();
    assert_eq!((&session["must_change_password"], &session["role"]), (&json!(true), &json!("admin")));
    assert_eq!(session["domain"], "alpha.test");
    for route in ROUTES.iter().filter(|route| matches!(route.access, Access::Role(_))) {
        let body = route.request.map(|_| json!({}));
        let reply = ann.call(route.method.as_str(), &concrete(route.path), body).await;
        assert_eq!(reply.problem(), "password-change-needed", "{}", route.path);
    }
    for new in ["short", &first] {
        let reply = ann.post("/admin/v1/session/password", json!({"old": first, "new": new})).await;
        assert_eq!(reply.problem(), "malformed");
    }
    let wrong = ann.post("/admin/v1/session/password", json!({"old": "wrong", "new": CHOSEN})).await;
    assert_eq!(wrong.problem(), "wrong-password");
    let changed = ann.post("/admin/v1/session/password", json!({"old": first, "new": CHOSEN})).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT);
    assert_eq!(ann.get("/admin/v1/tokens").await.status, StatusCode::OK, "the session goes on");
    assert_eq!(ann.get("/admin/v1/session").await.json()["must_change_password"], false);
    assert_eq!(
        Browser::new(&api, "192.0.2.1:1").log_in("ann", &first, None).await.problem(),
        "unauthenticated"
    );
    let actors: BTreeSet<_> = api.fake.ops().into_iter().map(|(actor, _)| actor).collect();
    assert!(actors.contains("console:ann"), "{actors:?}");
}

#[tokio::test]
async fn a_second_log_in_ends_the_first_session_and_its_event_stream_within_a_second() {
    let api = fixture();
    let first = logged_in(&api, "ann", "viewer").await;
    let stream = api.send(first.source, "GET", "/admin/v1/events", &first.headers(), None).await;
    assert_eq!(stream.status(), StatusCode::OK);
    let mut second = Browser::new(&api, "192.0.2.2:1");
    assert_eq!(second.log_in("ann", CHOSEN, None).await.status, StatusCode::OK);
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.into_body().collect()).await;
    assert!(ended.is_ok(), "the stream goes on");
    assert!(auth::LOOK_AGAIN < Duration::from_secs(1));
    let reply = first.get("/admin/v1/status").await;
    assert_eq!((reply.status, reply.problem()), (StatusCode::UNAUTHORIZED, "session-ended".to_owned()));
    assert!(reply.body.contains("somewhere else"), "{}", reply.body);
    assert_eq!(second.get("/admin/v1/status").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_stream_of_a_removed_token_ends() {
    let api = fixture();
    let token = api.post("/admin/v1/tokens", json!({"label": "night", "role": "viewer"})).await.json();
    let bearer = [(AUTHORIZATION, format!("Bearer {}", token["token"].as_str().unwrap()))];
    let stream = api.send("192.0.2.1:1", "GET", "/admin/v1/events", &bearer, None).await;
    api.call("DELETE", "/admin/v1/tokens/night", Some("admin"), None).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.into_body().collect()).await;
    assert!(ended.is_ok(), "the stream goes on");
}

#[tokio::test]
async fn a_cookie_alone_changes_nothing_and_another_sites_page_nothing_at_all() {
    let api = fixture();
    let ann = logged_in(&api, "ann", "admin").await;
    let before = api.fake.ops().len();
    let body = || Some(json!({"label": "x", "role": "admin"}));
    let cookie = (COOKIE, ann.cookie.clone());
    let csrf = |value: &str| (HeaderName::from_static("x-trunkline-csrf"), value.to_owned());
    let origin = |value: &str| (ORIGIN, value.to_owned());
    let host = (HOST, "console.test:8441".to_owned());
    for headers in [
        vec![cookie.clone()],
        vec![cookie.clone(), csrf("")],
        vec![cookie.clone(), csrf("tlx_guess")],
        vec![cookie.clone(), csrf(&ann.csrf), host.clone(), origin("http://evil.test")],
        vec![cookie.clone(), csrf(&ann.csrf), host.clone(), origin("null")],
    ] {
        let reply = api.call_with("192.0.2.1:1", "POST", "/admin/v1/tokens", &headers, body()).await;
        assert_eq!(
            (reply.status, reply.problem()),
            (StatusCode::FORBIDDEN, "csrf".to_owned()),
            "{headers:?}"
        );
    }
    let foreign = [host.clone(), origin("http://evil.test")];
    let login = Some(json!({"name": "ann", "password": CHOSEN}));
    let reply = api.call_with("192.0.2.1:1", "POST", "/admin/v1/session", &foreign, login).await;
    assert_eq!(reply.problem(), "csrf", "nor can it log a browser in");
    assert_eq!(api.fake.ops().len(), before);
    let headers = [cookie, csrf(&ann.csrf), host, origin("http://console.test:8441")];
    let reply = api.call_with("192.0.2.1:1", "POST", "/admin/v1/tokens", &headers, body()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.body);
}

#[tokio::test]
async fn the_cookie_is_for_this_gateways_pages_only_and_gone_after_the_log_out() {
    let api = fixture();
    let first = add(&api, "ann", "viewer").await;
    let mut ann = Browser::new(&api, "192.0.2.1:1");
    let reply = ann.log_in("ann", &first, None).await;
    let cookie = reply.headers[SET_COOKIE].to_str().unwrap();
    assert!(
        cookie.starts_with("trunkline_") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"),
        "{cookie}"
    );
    let reply = ann.call("DELETE", "/admin/v1/session", None).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert!(reply.headers[SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(ann.get("/admin/v1/session").await.problem(), "unauthenticated");
}

#[tokio::test]
async fn a_name_is_locked_out_wherever_the_guesses_come_from_and_its_session_goes_on() {
    let api = fixture();
    let ann = logged_in(&api, "ann", "viewer").await;
    let sources = ["192.0.2.11:1", "192.0.2.12:1"];
    for n in 0..FAILURES_MAX {
        let source = sources[n as usize % 2];
        let reply = Browser::new(&api, source).log_in("ann", "a guess of hers", None).await;
        assert_eq!(reply.problem(), "unauthenticated");
    }
    let reply = Browser::new(&api, "192.0.2.13:1").log_in("ann", CHOSEN, None).await;
    assert_eq!(
        (reply.status, reply.problem()),
        (StatusCode::TOO_MANY_REQUESTS, "too-many-requests".to_owned())
    );
    assert!(reply.headers[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() <= 60);
    assert_eq!(ann.get("/admin/v1/status").await.status, StatusCode::OK);
    let notes: Vec<_> = api.fake.ops().into_iter().filter(|(_, op)| op.contains("login.lockout")).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].1.contains("ann"), "{notes:?}");
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_like_a_wrong_password_and_is_not_written_down() {
    let api = fixture();
    add(&api, "ann", "viewer").await;
    let wrong = Browser::new(&api, "192.0.2.1:1").log_in("ann", "wrong", None).await;
    for name in ["nobody", "Hunter 2!", "", &"x".repeat(1000)] {
        let reply = Browser::new(&api, "192.0.2.2:1").log_in(name, "wrong", None).await;
        assert_eq!((reply.status, &reply.body), (wrong.status, &wrong.body), "{name}");
    }
    for n in 0..FAILURES_MAX {
        Browser::new(&api, ["192.0.2.3:1", "192.0.2.4:1"][n as usize % 2])
            .log_in("Hunter 2!", "x", None)
            .await;
    }
    let notes = format!("{:?}", api.fake.ops());
    assert!(notes.contains("an unknown name") && !notes.to_lowercase().contains("hunter"), "{notes}");
}

#[tokio::test]
async fn a_source_that_fails_too_often_is_locked_out_of_logging_in() {
    let api = fixture();
    let first = add(&api, "ann", "viewer").await;
    for n in 0..FAILURES_MAX {
        Browser::new(&api, "192.0.2.1:1").log_in(&format!("name{n}"), "x", None).await;
    }
    let here = Browser::new(&api, "192.0.2.1:2").log_in("ann", &first, None).await;
    assert_eq!(here.problem(), "too-many-requests");
    let elsewhere = Browser::new(&api, "192.0.2.2:1").log_in("ann", &first, None).await;
    assert_eq!(elsewhere.status, StatusCode::OK);
}

#[tokio::test]
async fn a_second_factor_is_asked_for_once_it_is_on_and_each_code_is_good_once() {
    let api = fixture();
    let ann = logged_in(&api, "ann", "viewer").await;
    let wrong = ann.post("/admin/v1/session/totp", json!({"password": "wrong"})).await;
    assert_eq!(wrong.problem(), "wrong-password");
    let early = ann.call("PUT", "/admin/v1/session/totp", Some(json!({"code": "000000"}))).await;
    assert_eq!(early.problem(), "conflict");
    let enrolment = ann.post("/admin/v1/session/totp", json!({"password": CHOSEN})).await.json();
    let secret = enrolment["secret"].as_str().unwrap();
    assert!(enrolment["uri"].as_str().unwrap().contains(secret));
    assert!(enrolment["qr"].as_array().unwrap().len() > 20);
    assert_eq!(ann.get("/admin/v1/session").await.json()["totp"], false, "not before it is proven");
    let now = now_s();
    let code = code_of(secret, now);
    let wrong = ann.call("PUT", "/admin/v1/session/totp", Some(json!({"code": "wrong"}))).await;
    assert_eq!(wrong.problem(), "wrong-code");
    let on = ann.call("PUT", "/admin/v1/session/totp", Some(json!({"code": code}))).await;
    assert_eq!(on.status, StatusCode::NO_CONTENT, "{}", on.body);
    let mut again = Browser::new(&api, "192.0.2.2:1");
    assert_eq!(again.log_in("ann", CHOSEN, None).await.problem(), "code-needed");
    assert_eq!(again.log_in("ann", CHOSEN, Some(&code)).await.problem(), "code-needed", "it was used");
    assert_eq!(again.log_in("ann", "wrong", Some(&code)).await.problem(), "unauthenticated");
    let next = code_of(secret, now + 30);
    assert_eq!(again.log_in("ann", CHOSEN, Some(&next)).await.status, StatusCode::OK);
    let mut replay = Browser::new(&api, "192.0.2.3:1");
    assert_eq!(replay.log_in("ann", CHOSEN, Some(&next)).await.problem(), "code-needed");
    let off = again.post("/admin/v1/session/totp/off", json!({"password": CHOSEN})).await;
    assert_eq!(off.status, StatusCode::NO_CONTENT);
    assert_eq!(replay.log_in("ann", CHOSEN, None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_required_second_factor_is_asked_for_before_anything_else() {
    let api = fixture();
    let ann = logged_in(&api, "ann", "admin").await;
    let put = |body| async { ann.call("PUT", "/admin/v1/settings", Some(body)).await };
    assert_eq!(put(json!({"require_totp": true})).await.status, StatusCode::OK);
    assert_eq!(ann.get("/admin/v1/status").await.problem(), "totp-enrolment-needed");
    assert_eq!(ann.get("/admin/v1/session").await.json()["must_enable_totp"], true);
    assert_eq!(api.get("/admin/v1/status").await.status, StatusCode::OK, "a token has no second factor");
    let enrolment = ann.post("/admin/v1/session/totp", json!({"password": CHOSEN})).await.json();
    let code = code_of(enrolment["secret"].as_str().unwrap(), now_s());
    ann.call("PUT", "/admin/v1/session/totp", Some(json!({"code": code}))).await;
    assert_eq!(ann.get("/admin/v1/status").await.status, StatusCode::OK);
    let off = ann.post("/admin/v1/session/totp/off", json!({"password": CHOSEN})).await;
    assert_eq!(off.problem(), "conflict");
    let reset = api.post("/admin/v1/administrators/ann/totp/off", json!({})).await;
    assert_eq!(reset.status, StatusCode::NO_CONTENT);
    assert_eq!(ann.get("/admin/v1/status").await.problem(), "totp-enrolment-needed");
}

#[tokio::test]
async fn a_sessions_role_is_the_administrators_role_at_that_moment() {
    let api = fixture();
    let ann = logged_in(&api, "ann", "viewer").await;
    assert_eq!(ann.get("/admin/v1/tokens").await.problem(), "forbidden");
    let set = |role: &'static str| {
        api.call("PUT", "/admin/v1/administrators/ann", Some("admin"), Some(json!({ "role": role })))
    };
    assert_eq!(set("admin").await.status, StatusCode::NO_CONTENT);
    assert_eq!(ann.get("/admin/v1/tokens").await.status, StatusCode::OK);
    assert_eq!(set("viewer").await.problem(), "conflict", "she is the last one");
    let delete = |name: &str| {
        let path = format!("/admin/v1/administrators/{name}");
        let api = &api;
        async move { api.call("DELETE", &path, Some("admin"), None).await }
    };
    assert_eq!(delete("ann").await.problem(), "conflict");
    add(&api, "bob", "admin").await;
    let list = ann.get("/admin/v1/administrators").await.json();
    assert_eq!(list["administrators"][0]["active"], true);
    assert_eq!(list["administrators"][1]["active"], false);
    assert_eq!(delete("ann").await.status, StatusCode::NO_CONTENT);
    let reply = ann.get("/admin/v1/status").await;
    assert_eq!(reply.problem(), "session-ended");
    assert!(reply.body.contains("not an administrator any more"), "{}", reply.body);
}

#[tokio::test]
async fn a_password_that_is_reset_ends_the_session_and_must_be_changed() {
    let api = fixture();
    let ann = logged_in(&api, "ann", "viewer").await;
    let reset = api.post("/admin/v1/administrators/ann/password", json!({})).await.json();
    assert_eq!(ann.get("/admin/v1/status").await.problem(), "session-ended");
    let mut again = Browser::new(&api, "192.0.2.1:1");
    assert_eq!(again.log_in("ann", CHOSEN, None).await.problem(), "unauthenticated");
    let session = again.log_in("ann", reset["password"].as_str().unwrap(), None).await.json();
    assert_eq!(session["must_change_password"], true);
    let unknown = api.post("/admin/v1/administrators/nobody/password", json!({})).await;
    assert_eq!(unknown.problem(), "not-found");
}

#[tokio::test]
async fn a_token_has_a_role_and_a_label_but_no_session() {
    let api = fixture();
    let session = api.get("/admin/v1/session").await.json();
    assert_eq!((&session["via"], &session["name"]), (&json!("token"), &json!("viewer")));
    assert!(session.get("csrf").is_none() && session.get("expires_at").is_none());
    let change = json!({"old": CHOSEN, "new": "another password"});
    assert_eq!(api.post("/admin/v1/session/password", change).await.problem(), "conflict");
    assert_eq!(api.call("DELETE", "/admin/v1/session", Some("viewer"), None).await.problem(), "conflict");
}

#[tokio::test]
async fn the_console_opens_while_storage_fails() {
    let api = fixture();
    logged_in(&api, "ann", "viewer").await;
    api.fake.break_store();
    let mut ann = Browser::new(&api, "192.0.2.1:1");
    assert_eq!(ann.log_in("ann", CHOSEN, None).await.status, StatusCode::OK);
    assert_eq!(ann.get("/admin/v1/status").await.status, StatusCode::OK);
}

#[tokio::test]
async fn settings_take_effect_at_once_and_can_be_taken_back() {
    let api = fixture();
    let put = |body| api.call("PUT", "/admin/v1/settings", Some("admin"), Some(body));
    let before = api.get("/admin/v1/settings").await.json();
    assert_eq!(
        before["retention_s"],
        json!({"value": 2_592_000, "configured": 2_592_000, "overridden": false})
    );
    let set = put(json!({"allow_private_ips": true, "retention_s": 3600})).await.json();
    assert_eq!(set["retention_s"], json!({"value": 3600, "configured": 2_592_000, "overridden": true}));
    assert_eq!(set["session_idle_s"]["overridden"], false);
    let pem = api.get("/admin/v1/identity/certificate").await.body;
    let added = api.post("/admin/v1/peers", json!({"domain": "beta.test", "certificates": [pem]})).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.body);
    assert!(api.fake.ops().last().unwrap().1.contains("allow_private_ips: true"), "{:?}", api.fake.ops());
    let back = put(json!({"retention_s": null})).await.json();
    assert_eq!(
        (&back["retention_s"]["value"], &back["allow_private_ips"]["value"]),
        (&json!(2_592_000), &json!(true))
    );
    for wrong in [json!({"retention_s": 1}), json!({"retention_s": "1h"}), json!({"colour": "red"})] {
        assert_eq!(put(wrong).await.problem(), "malformed");
    }
}

#[tokio::test]
async fn hidden_domains_are_seen_by_the_role_admin_only() {
    let api = fixture();
    let spec = json!({
        "id": "lab", "local_domains": ["open.test", "hush.test"], "hidden_domains": ["hush.test"],
        "policy": {"federation": "open", "blocked": ["ann@hush.test", "bob@open.test"]},
    });
    assert_eq!(api.post("/admin/v1/networks", spec).await.status, StatusCode::CREATED);
    for token in ["viewer", "operator"] {
        for path in ["/admin/v1/networks", "/admin/v1/networks/lab"] {
            let reply = api.call("GET", path, Some(token), None).await;
            assert!(reply.body.contains("open.test") && !reply.body.contains("hush"), "{}", reply.body);
        }
    }
    let whole = api.call("GET", "/admin/v1/networks/lab", Some("admin"), None).await.json();
    assert_eq!(whole["hidden_domains"], json!(["hush.test"]));
    assert_eq!(whole["local_domains"], json!(["open.test", "hush.test"]));
}

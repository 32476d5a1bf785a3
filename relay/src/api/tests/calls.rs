//! Creating, listing and ending calls, minting tokens, and who may.

use trunkline_http::lockout::FAILURES_MAX;
use trunkline_http::problem::{
    INVALID_JSON, MALFORMED, NOT_FOUND, OVERLOADED, TOO_MANY_REQUESTS, UNAUTHENTICATED,
};

use super::*;

#[tokio::test]
async fn a_call_is_created_listed_shown_and_ended() {
    let served = served().await;
    let body = json!({ "max_participants": 5, "meeting_id": "m-17" });
    let created = served.admin("POST", "/v1/calls", Some(body)).await;
    assert_eq!(created.status(), StatusCode::CREATED);
    let created: Value = created.json().await.unwrap();
    let id = created["call_id"].as_str().unwrap();
    assert!(id.starts_with("0007-"), "{created}");
    let address: SocketAddr = created["calluri"].as_str().unwrap().parse().unwrap();
    assert!(address.ip().is_loopback() && address.port() >= 40_000, "{created}");

    let list = served.json("GET", "/v1/calls", None).await;
    assert_eq!(list["calls"][0]["call_id"], id);
    assert_eq!((&list["participants"], &list["draining"]), (&json!(0), &json!(false)));
    let call = served.json("GET", &format!("/v1/calls/{id}"), None).await;
    assert_eq!((&call["max_participants"], &call["mode"]), (&json!(5), &json!("conference")));
    assert_eq!((&call["participants"], &call["meeting_id"]), (&json!([]), &json!("m-17")));
    assert!(call["counters"]["media_in"].is_u64(), "{call}");

    let path = format!("/v1/calls/{id}");
    assert_eq!(served.admin("DELETE", &path, None).await.status(), StatusCode::NO_CONTENT);
    tokio::time::timeout(PATIENCE, async {
        while served.node.list().iter().any(|call| call.info.call_id == id) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    problem(served.admin("GET", &path, None).await, NOT_FOUND).await;
    problem(served.admin("DELETE", &path, None).await, NOT_FOUND).await;
}

#[tokio::test]
async fn a_call_without_a_body_has_the_defaults_and_a_broadcast_takes_more_people() {
    let served = served().await;
    let call = served.json("POST", "/v1/calls", None).await;
    assert_eq!((&call["mode"], &call["max_participants"]), (&json!("conference"), &json!(100)));
    let call = served.json("POST", "/v1/calls", Some(json!({ "mode": "broadcast" }))).await;
    assert_eq!((&call["mode"], &call["max_participants"]), (&json!("broadcast"), &json!(500)));
}

#[tokio::test]
async fn what_cannot_be_asked_of_a_call_is_refused_with_its_field() {
    let served = served().await;
    for (body, field) in [
        (json!({ "max_participants": 0 }), "max_participants"),
        (json!({ "max_participants": 101 }), "max_participants"),
        (json!({ "max_participants": 501, "mode": "broadcast" }), "max_participants"),
        (json!({ "mode": "party" }), "party"),
        (json!({ "force_tcp": true }), "force_tcp"),
        (json!({ "meeting_id": "m".repeat(129) }), "meeting_id"),
        (json!({ "max": 1 }), "max"),
    ] {
        let document = problem(served.admin("POST", "/v1/calls", Some(body)).await, MALFORMED).await;
        assert!(document["detail"].as_str().unwrap().contains(field), "{document}");
    }
    let broken = served.request("POST", "/v1/calls").bearer_auth(ADMIN).body("{");
    problem(broken.send().await.unwrap(), INVALID_JSON).await;
    assert_eq!(served.node.list().len(), 0);
}

#[tokio::test]
async fn a_node_with_as_many_calls_as_it_takes_says_so_and_when_to_come_back() {
    let served = served_with(Recorder::off(), |config| config.limits.calls_max = 1).await;
    served.call(json!({})).await;
    let refused = served.admin("POST", "/v1/calls", None).await;
    assert!(refused.headers().contains_key(RETRY_AFTER));
    problem(refused, OVERLOADED).await;
}

#[tokio::test]
async fn a_minted_token_says_who_may_join_which_call() {
    let served = served().await;
    let call = served.call(json!({})).await;
    let path = format!("/v1/calls/{call}/tokens");
    let body = json!({ "participant": "Ann", "role": "viewer", "ttl_s": 60 });
    let token = served.json("POST", &path, Some(body)).await;
    let mut tokens = Tokens::new(None, None);
    tokens.trust_secret(&[7; 32]);
    let grant = tokens.verify(token["token"].as_str().unwrap()).unwrap();
    assert_eq!((&*grant.participant, grant.call.as_str()), ("Ann", call.as_str()));

    for body in [
        json!({ "participant": "" }),
        json!({ "participant": "x".repeat(129) }),
        json!({ "participant": "A\nB" }),
        json!({ "participant": "Ann", "ttl_s": 0 }),
        json!({ "participant": "Ann", "ttl_s": 604_801 }),
        json!({ "participant": "Ann", "role": "admin" }),
        json!({}),
    ] {
        problem(served.admin("POST", &path, Some(body)).await, MALFORMED).await;
    }
    let body = Some(json!({ "participant": "Ann" }));
    problem(served.admin("POST", "/v1/calls/nowhere/tokens", body).await, NOT_FOUND).await;
}

#[tokio::test]
async fn every_route_of_calling_services_and_operators_takes_the_admin_token() {
    let served = served_with(Recorder::off(), |config| config.metrics.open = false).await;
    for route in ROUTES.iter().filter(|route| matches!(route.access, Access::Admin | Access::Metrics)) {
        let path = route.path.replace("{call}", "x");
        let method = route.method.as_str();
        let without = served.request(method, &path).send().await.unwrap();
        problem(without, UNAUTHENTICATED).await;
        let answer = served.admin(method, &path, None).await;
        assert_ne!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
    }
}

#[tokio::test]
async fn who_guesses_the_admin_token_is_locked_out_whatever_comes_next() {
    let served = served().await;
    let guess = || served.request("GET", "/v1/calls").bearer_auth("tlr_guess").send();
    for _ in 0..FAILURES_MAX {
        problem(guess().await.unwrap(), UNAUTHENTICATED).await;
    }
    let refused = guess().await.unwrap();
    assert!(refused.headers().contains_key(RETRY_AFTER));
    problem(refused, TOO_MANY_REQUESTS).await;
    problem(served.admin("GET", "/v1/calls", None).await, TOO_MANY_REQUESTS).await;
}

//! `POST /v1/envelopes`, and who may call it.

use std::num::NonZeroU32;

use serde_json::json;
use trunkline_http::auth::FAILED_LOGINS_PER_MINUTE;

use super::*;
use crate::store::StoreError;

const ID: &str = "8c0d5c3e-7d4b-4f4e-9a39-0d5d7bfb4b11";

fn body() -> Value {
    json!({ "id": ID, "from": "ann@alpha.test", "to": ["bob@beta.test"], "kind": "message",
            "conversation": "c1", "ttl_s": 60, "payload": "aGVsbG8=" })
}

async fn send(served: &Served, body: &Value) -> Response {
    served.post("/v1/envelopes").json(body).send().await.unwrap()
}

async fn send_as(served: &Served, media_type: &str, body: impl Into<reqwest::Body>) -> Response {
    let request = served.post("/v1/envelopes").header("content-type", media_type).body(body);
    request.send().await.unwrap()
}

#[tokio::test]
async fn an_envelope_as_json_is_submitted_and_its_result_answered() {
    let served = served().await;
    let response = send(&served, &body()).await;
    assert_eq!(response.status(), 202);
    let result: Value = response.json().await.unwrap();
    let expected =
        json!({ "id": ID, "accepted": [{ "domain": "beta.test", "recipients": 1 }], "rejected": [] });
    assert_eq!(result, expected);
    let batches = &served.state().batches;
    let submission = &batches[0][0];
    assert_eq!((submission.from.as_str(), submission.ttl_s), ("ann@alpha.test", 60));
    assert_eq!(submission.payload, "hello");
    assert_eq!(submission.kind(), wire::Kind::Message);
}

#[tokio::test]
async fn a_duplicate_and_rejected_recipients_are_told() {
    let served = served().await;
    served.state().judge = Some(Box::new(|submission| wire::SubmitResult {
        duplicate: true,
        rejected: vec![wire::Rejected { to: "eve@x.test".into(), reason: "unknown-domain".into() }],
        ..accepted(submission)
    }));
    let result: Value = send(&served, &body()).await.json().await.unwrap();
    assert_eq!(result["duplicate"], true);
    assert_eq!(result["rejected"], json!([{ "to": "eve@x.test", "reason": "unknown-domain" }]));
}

#[tokio::test]
async fn every_reason_of_the_core_has_its_type_and_status() {
    let served = served().await;
    for (reason, status) in [
        ("malformed", 422),
        ("too-large", 413),
        ("sender-domain", 403),
        ("unknown-domain", 422),
        ("federation-disabled", 403),
        ("not-permitted", 403),
        ("guest", 403),
        ("blocked", 403),
        ("quota", 507),
        ("disk-full", 507),
    ] {
        served.state().judge = Some(Box::new(move |submission| refused(submission, reason)));
        let document = problem(send(&served, &body()).await, status, reason).await;
        assert_eq!((&document["id"], &document["detail"]), (&json!(ID), &json!("because")));
    }
}

#[tokio::test]
async fn a_reason_that_is_not_known_here_is_passed_on_as_refused() {
    let served = served().await;
    served.state().judge = Some(Box::new(|submission| refused(submission, "new-reason")));
    let document = problem(send(&served, &body()).await, 422, "refused").await;
    assert_eq!(document["reason"], "new-reason");
}

#[tokio::test]
async fn text_that_is_not_json_is_refused_with_its_line() {
    let served = served().await;
    let response = send_as(&served, "application/json", "{\n  \"from\": }").await;
    let document = problem(response, 400, "invalid-json").await;
    assert!(document["detail"].as_str().unwrap().contains("line 2"), "{document}");
    assert!(served.state().batches.is_empty());
}

#[tokio::test]
async fn an_unknown_field_is_refused_by_name() {
    let served = served().await;
    let mut body = body();
    body["priority"] = json!(1);
    let document = problem(send(&served, &body).await, 422, "malformed").await;
    assert!(document["detail"].as_str().unwrap().contains("`priority`"), "{document}");
}

#[tokio::test]
async fn fields_with_the_wrong_content_are_refused_by_name() {
    let served = served().await;
    let many: Vec<_> = (0..501).map(|n| format!("p{n}@beta.test")).collect();
    for (field, value, says) in [
        ("payload", json!("a*b"), "`payload`"),
        ("from", json!(7), "from: "),
        ("to", json!(many), "`to`"),
        ("to", json!(["bob@beta.test", 7]), "to[1]: "),
        ("kind", json!("letter"), "kind: "),
        ("id", json!("7"), "id: "),
        ("ttl_s", json!(0), "ttl_s: "),
    ] {
        let mut body = body();
        body[field] = value;
        let document = problem(send(&served, &body).await, 422, "malformed").await;
        assert!(document["detail"].as_str().unwrap().contains(says), "{field}: {document}");
    }
}

#[tokio::test]
async fn a_payload_above_the_limit_is_refused() {
    let config = Config { payload_bytes_max: 4, ..Config::default() };
    let served = served_with(config, Limits::default()).await;
    let document = problem(send(&served, &body()).await, 413, "too-large").await;
    assert_eq!(document["bytes_max"], 4);
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_before_it_is_read() {
    let config = Config { payload_bytes_max: 4, ..Config::default() };
    let served = served_with(config, Limits::default()).await;
    let response = send_as(&served, "application/json", vec![b' '; 1024 * 1024]).await;
    problem(response, 413, "too-large").await;
}

#[tokio::test]
async fn another_media_type_is_refused() {
    let served = served().await;
    problem(send_as(&served, "text/plain", "hello").await, 415, "unsupported-media-type").await;
}

#[tokio::test]
async fn a_bad_ndjson_line_gives_an_error_on_its_line_and_harms_no_other() {
    let served = served().await;
    let good = body();
    let text = format!("{good}\n{{\"from\": 7}}\n\n{good}\r\nnot json\n");
    let response = send_as(&served, "application/x-ndjson", text).await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    let results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 4);
    assert_eq!((&results[0]["id"], &results[2]["id"]), (&json!(ID), &json!(ID)));
    assert_eq!(results[1]["type"], "urn:trunkline:problem:malformed");
    assert_eq!((&results[1]["line"], &results[3]["line"]), (&json!(2), &json!(5)));
    assert!(results[1]["detail"].as_str().unwrap().starts_with("from: "), "{}", results[1]);
    assert_eq!(results[3]["type"], "urn:trunkline:problem:invalid-json");
    assert_eq!(served.state().batches.len(), 1, "one commit for the whole batch");
    assert_eq!(served.state().batches[0].len(), 2);
}

#[tokio::test]
async fn a_line_that_the_core_refuses_says_so_with_its_number() {
    let served = served().await;
    served.state().judge = Some(Box::new(|submission| refused(submission, "blocked")));
    let text = send_as(&served, "application/x-ndjson", body().to_string()).await.text().await.unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["type"], "urn:trunkline:problem:blocked");
    assert_eq!((&result["line"], &result["id"]), (&json!(1), &json!(ID)));
}

#[tokio::test]
async fn a_protobuf_batch_is_one_commit_with_one_result_each() {
    let served = served().await;
    let one = |n: u8| wire::Submission { id: vec![n; 16].into(), ..wire::Submission::default() };
    let batch = wire::SubmitBatch { envelopes: (0..100).map(one).collect() };
    let response = send_as(&served, "application/x-protobuf", batch.encode_to_vec()).await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["content-type"], "application/x-protobuf");
    let results = wire::SubmitResults::decode(response.bytes().await.unwrap()).unwrap().results;
    assert_eq!(results.len(), 100);
    assert!(results.iter().zip(0..).all(|(result, n)| result.id == vec![n; 16]));
    assert_eq!(served.state().batches, [batch.envelopes]);
}

#[tokio::test]
async fn a_body_that_is_not_protobuf_is_refused() {
    let served = served().await;
    problem(send_as(&served, "application/x-protobuf", "hello").await, 400, "invalid-protobuf").await;
}

#[tokio::test]
async fn a_request_without_the_right_token_is_refused() {
    let served = served().await;
    let request = || served.client.get(served.url("/v1/inbox"));
    for request in [request(), request().bearer_auth("wrong"), request().basic_auth("ann", Some(TOKEN))] {
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        problem(response, 401, "unauthenticated").await;
    }
}

#[tokio::test]
async fn who_guesses_tokens_is_told_to_wait_and_who_has_one_is_not() {
    let served = served().await;
    let guess = || served.client.get(served.url("/v1/inbox")).bearer_auth("guess").send();
    for _ in 0..FAILED_LOGINS_PER_MINUTE {
        assert_eq!(guess().await.unwrap().status(), 401);
    }
    let response = guess().await.unwrap();
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    problem(response, 429, "too-many-requests").await;
    assert_eq!(served.get("/v1/inbox").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_token_has_the_budget_that_was_configured() {
    let config = Config { requests_per_s_max: NonZeroU32::new(2), ..Config::default() };
    let served = served_with(config, Limits::default()).await;
    let mut refused = None;
    for _ in 0..20 {
        let response = served.get("/v1/inbox").send().await.unwrap();
        if response.status() != 200 {
            refused = Some(response);
            break;
        }
    }
    problem(refused.expect("twenty requests in a row exceed two per second"), 429, "too-many-requests").await;
}

#[tokio::test]
async fn a_path_that_is_not_there_is_a_problem_document() {
    let served = served().await;
    problem(served.get("/v2/inbox").send().await.unwrap(), 404, "not-found").await;
}

#[tokio::test]
async fn a_method_that_is_not_there_is_a_problem_document() {
    let served = served().await;
    let response = served.get("/v1/envelopes").send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
    problem(response, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn a_stopped_hub_is_a_503_with_a_time_to_retry() {
    let served = served().await;
    served.state().error = Some(HubError::Stopping);
    let response = send(&served, &body()).await;
    assert!(response.headers().contains_key("retry-after"));
    problem(response, 503, "stopping").await;
}

#[tokio::test]
async fn a_failed_store_is_a_503_with_a_time_to_retry() {
    let served = served().await;
    served.state().error = Some(HubError::Store(StoreError::Failed("input/output error".into())));
    let response = send(&served, &body()).await;
    assert!(response.headers().contains_key("retry-after"));
    problem(response, 503, "storage").await;
}

#[test]
fn every_problem_type_is_documented_with_its_status() {
    use trunkline_http::problem as p;

    use crate::api::envelopes::SUBMIT_PROBLEMS;
    use crate::api::protobuf;
    let shared = [
        p::BAD_REQUEST,
        p::INVALID_JSON,
        protobuf::INVALID_PROTOBUF,
        p::UNAUTHENTICATED,
        p::NOT_FOUND,
        p::METHOD_NOT_ALLOWED,
        p::NOT_ACCEPTABLE,
        p::TIMEOUT,
        p::TOO_LARGE,
        p::UNSUPPORTED_MEDIA_TYPE,
        p::MALFORMED,
        p::TOO_MANY_REQUESTS,
        p::INTERNAL,
        crate::api::problem::STORAGE,
        p::STOPPING,
        p::OVERLOADED,
    ];
    let documentation = include_str!("../../../../docs/API.md");
    for kind in shared.iter().chain(&SUBMIT_PROBLEMS) {
        let row = format!("| `{}` | {} |", kind.name, kind.status.as_u16());
        assert!(documentation.contains(&row), "docs/API.md has no row {row}");
    }
}

//! Inbox and receipts by request.

use std::time::Instant;

use serde_json::json;

use super::*;

fn receipt(state: wire::State, reason: &str) -> wire::Receipt {
    wire::Receipt {
        id: Bytes::from_static(&[0xab; 16]),
        to: vec!["bob@beta.test".into()],
        state: state.into(),
        reason: reason.into(),
        ..wire::Receipt::default()
    }
}

async fn seqs(served: &Served, path: &str) -> Vec<u64> {
    let batch: Value = served.get(path).send().await.unwrap().json().await.unwrap();
    batch["envelopes"].as_array().unwrap().iter().map(|one| one["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn an_envelope_reads_as_json() {
    let served = served().await;
    served.put_envelopes([7]);
    let response = served.get("/v1/inbox").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let batch: Value = response.json().await.unwrap();
    let expected = json!({ "envelopes": [{
        "seq": 7, "id": "abababab-abab-abab-abab-abababababab",
        "from": "bob@beta.test", "to": ["ann@alpha.test"], "kind": "message", "conversation": "c1",
        "network": "theirs", "guest": false, "received_at": "2026-11-21T22:03:45.042Z", "payload": "aGVsbG8=",
    }] });
    assert_eq!(batch, expected);
}

#[tokio::test]
async fn an_envelope_reads_as_protobuf() {
    let served = served().await;
    served.put_envelopes([7, 300]);
    let request = served.get("/v1/inbox").header("accept", "application/x-protobuf");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-protobuf");
    let batch = wire::InboxBatch::decode(response.bytes().await.unwrap()).unwrap();
    let item =
        |seq| wire::InboxItem { seq, received_at_ms: 1_795_298_625_042, envelope: Some(envelope(b"hello")) };
    assert_eq!(batch.envelopes, [item(7), item(300)]);
}

#[tokio::test]
async fn a_receipt_reads_as_json() {
    let served = served().await;
    served.put(RECEIPTS, [(3, record(&receipt(wire::State::Refused, "blocked")))]);
    served.put(RECEIPTS, [(4, record(&receipt(wire::State::Delivered, "")))]);
    let batch: Value = served.get("/v1/receipts").send().await.unwrap().json().await.unwrap();
    let expected = json!({ "receipts": [
        { "seq": 3, "id": "abababab-abab-abab-abab-abababababab", "to": ["bob@beta.test"],
          "state": "refused", "reason": "blocked", "at": "2026-11-21T22:03:45.042Z" },
        { "seq": 4, "id": "abababab-abab-abab-abab-abababababab", "to": ["bob@beta.test"],
          "state": "delivered", "at": "2026-11-21T22:03:45.042Z" },
    ] });
    assert_eq!(batch, expected);
}

#[tokio::test]
async fn a_receipt_reads_as_protobuf() {
    let served = served().await;
    served.put(RECEIPTS, [(3, record(&receipt(wire::State::Expired, "")))]);
    let request = served.get("/v1/receipts").header("accept", "application/x-protobuf");
    let body = request.send().await.unwrap().bytes().await.unwrap();
    let batch = wire::ReceiptBatch::decode(body).unwrap();
    let expected = wire::Receipt { seq: 3, at_ms: 1_795_298_625_042, ..receipt(wire::State::Expired, "") };
    assert_eq!(batch.receipts, [expected]);
}

#[tokio::test]
async fn an_envelope_is_handed_out_again_until_it_is_acknowledged() {
    let served = served().await;
    served.put_envelopes([1, 2, 3]);
    assert_eq!(seqs(&served, "/v1/inbox").await, [1, 2, 3]);
    assert_eq!(seqs(&served, "/v1/inbox?max=2").await, [1, 2]);
    let response = served.post("/v1/inbox/ack").json(&json!({ "up_to": 2 })).send().await.unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(seqs(&served, "/v1/inbox").await, [3]);
}

#[tokio::test]
async fn reading_after_a_number_skips_what_is_still_unacknowledged() {
    let served = served().await;
    served.put_envelopes([1, 2, 3]);
    assert_eq!(seqs(&served, "/v1/inbox?after=2").await, [3]);
}

#[tokio::test]
async fn receipts_are_acknowledged_apart_from_the_inbox() {
    let served = served().await;
    served.put_envelopes([1]);
    let request = served.post("/v1/receipts/ack").json(&json!({ "up_to": 1 }));
    assert_eq!(request.send().await.unwrap().status(), 204);
    assert_eq!(served.state().acks, [(RECEIPTS, 1)]);
    assert_eq!(seqs(&served, "/v1/inbox").await, [1]);
}

#[tokio::test]
async fn a_long_poll_wakes_when_an_envelope_arrives() {
    let served = served().await;
    let started = Instant::now();
    let waiting = tokio::spawn(served.get("/v1/inbox?wait_s=60").send());
    served.until(|state| state.reads == 1).await;
    served.put_envelopes([9]);
    let batch: Value = waiting.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(batch["envelopes"][0]["seq"], 9);
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_long_poll_ends_empty_when_nothing_arrives() {
    let served = served().await;
    let started = Instant::now();
    assert!(seqs(&served, "/v1/inbox?wait_s=1").await.is_empty());
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_long_poll_ends_empty_when_the_gateway_stops() {
    let served = served().await;
    let poll = tokio::spawn(served.get("/v1/inbox?wait_s=60").send());
    served.until(|state| state.reads == 1).await;
    served.stop.send_replace(true);
    let answer = tokio::time::timeout(PATIENCE, poll).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "envelopes": [] }));
}

#[tokio::test]
async fn a_query_out_of_bounds_is_refused_by_name() {
    let served = served().await;
    for (path, says) in [
        ("/v1/inbox?max=0", "`max`"),
        ("/v1/inbox?max=1000000", "`max`"),
        ("/v1/inbox?max=x", "max"),
        ("/v1/inbox?wait_s=61", "`wait_s`"),
        ("/v1/inbox?limit=3", "`limit`"),
    ] {
        let response = served.get(path).send().await.unwrap();
        let document = problem(response, 400, "bad-request").await;
        assert!(document["detail"].as_str().unwrap().contains(says), "{path}: {document}");
    }
}

#[tokio::test]
async fn an_unknown_field_of_an_acknowledgement_is_refused_by_name() {
    let served = served().await;
    let request = served.post("/v1/inbox/ack").json(&json!({ "up_to": 1, "seq": 2 }));
    let document = problem(request.send().await.unwrap(), 422, "malformed").await;
    assert!(document["detail"].as_str().unwrap().contains("`seq`"), "{document}");
    assert!(served.state().acks.is_empty());
}

#[tokio::test]
async fn a_format_that_is_not_offered_is_refused() {
    let served = served().await;
    let response = served.get("/v1/inbox").header("accept", "text/html").send().await.unwrap();
    problem(response, 406, "not-acceptable").await;
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_and_the_rest_comes_next() {
    let served = served().await;
    let large = record(&envelope(&vec![0; 6 * 1024 * 1024]));
    served.put(INBOX, (1..=4).map(|seq| (seq, large.clone())));
    assert_eq!(seqs(&served, "/v1/inbox").await, [1, 2]);
    assert_eq!(seqs(&served, "/v1/inbox?after=2").await, [3, 4]);
}

//! Three gates guard a peering: certificate, API key, and both operators' word. Each closes it by itself, and what an
//! operator takes back ends what is going on.

use http::Method;
use serde_json::json;
use trunkline_gateway_proto::key::ApiKey;
use trunkline_gateway_proto::pin::Pin;
use trunkline_testkit::disk::Disk;
use trunkline_testkit::shaper::{Cut, Which};

use super::site::Plan;
use super::*;

/// What removing trust must not take longer than.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// Waits until each side has tried again, and says why it does not work; neither may be up then.
async fn stay_apart(alpha: &Site, alpha_says: &str, beta: &Site, beta_says: &str) {
    alpha.says(beta, alpha_says).await;
    beta.says(alpha, beta_says).await;
    assert!(!alpha.is_up(beta).await && !beta.is_up(alpha).await);
    // Nothing gets through either.
    let (status, _) = alpha.api.submit(&alpha.user("ann"), &beta.user("bob")).await;
    assert_eq!(status, 202, "unreachable is not refused");
    assert_eq!(beta.api.get("/v1/inbox").await.unwrap(), json!({ "envelopes": [] }));
}

#[tokio::test]
async fn the_right_certificate_with_a_wrong_api_key_is_not_up_and_both_operators_are_told() {
    let (alpha, beta) = two_sites().await;
    let mut add = by_hand(&alpha, &beta).await;
    add["api_key"] = ApiKey::generate().to_text().into();
    alpha.post("/admin/v1/peers", add).await;
    beta.door.reset_connections();
    for (one, other) in [(&alpha, &beta), (&beta, &alpha)] {
        one.on_peer(other, "pause").await;
        one.on_peer(other, "resume").await;
    }
    stay_apart(&alpha, "API key is not one we issued", &beta, "API key is not one we issued").await;
}

#[tokio::test]
async fn an_operator_whose_gateway_cannot_dial_is_told_of_a_wrong_api_key_too() {
    let (alpha, beta) = two_sites().await;
    alpha.door.cut(Which::Udp, Cut::Silent);
    alpha.door.cut(Which::Tcp, Cut::Reset);
    let mut add = by_hand(&alpha, &beta).await;
    add["api_key"] = ApiKey::generate().to_text().into();
    alpha.post("/admin/v1/peers", add).await;
    alpha.on_peer(&beta, "pause").await;
    alpha.on_peer(&beta, "resume").await;
    stay_apart(&alpha, "API key is not one we issued", &beta, "we refused the peer's link: the API key")
        .await;
}

#[tokio::test]
async fn the_right_api_key_with_a_wrong_certificate_is_not_up_and_both_operators_are_told() {
    let (alpha, beta) = two_sites().await;
    let mut add = by_hand(&alpha, &beta).await;
    add["pins"] = json!([Pin::from_bytes([7; 32]).to_string()]);
    alpha.post("/admin/v1/peers", add).await;
    stay_apart(&alpha, "not one of its pins", &beta, "refused our certificate").await;
    let text = alpha.last_error(&beta).await;
    assert!(text.contains("QUIC to") && text.contains("TCP to"), "{text}");
    assert_eq!(text.matches("not one of its pins").count(), 1, "one reason is said once: {text}");
}

#[tokio::test]
async fn a_peering_that_only_one_operator_accepted_is_not_up_until_the_other_one_does() {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    let answer = beta.accept(alpha.invite(&beta).await).await;
    beta.says(&alpha, "refused our certificate").await;
    assert_eq!(alpha.peer(&beta).await["state"], "invited");
    assert!(!alpha.is_up(&beta).await && !beta.is_up(&alpha).await);
    let (status, problem) = alpha.api.submit(&alpha.user("ann"), &beta.user("bob")).await;
    assert_eq!((status, &problem["type"]), (422, &json!("urn:trunkline:problem:unknown-domain")));
    alpha.accept(answer).await;
    alpha.up(&beta).await;
    beta.up(&alpha).await;
}

#[tokio::test]
async fn a_bundle_that_was_changed_on_its_way_is_refused_and_says_so() {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    let mut bundle = alpha.invite(&beta).await;
    bundle["bundle"]["endpoints"] = json!(["127.0.0.1:1"]);
    let (status, problem) =
        beta.admin(Method::POST, "/admin/v1/peers/accept", &json!({ "bundle": bundle })).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("changed after it was signed"), "{problem}");
    assert_eq!(beta.get("/admin/v1/peers").await["peers"], json!([]));
}

/// Two sites, linked over the transport.
async fn linked_over(transport: &str) -> (Site, Site) {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    if transport == "tcp" {
        for site in [&alpha, &beta] {
            site.door.cut(Which::Udp, Cut::Silent);
        }
    }
    peer(&alpha, &beta).await;
    assert_eq!(alpha.peer(&beta).await["transport"], transport);
    (alpha, beta)
}

/// Does something at alpha and waits until beta's end of the link is gone too.
async fn closes_in_time(alpha: &Site, beta: &Site, act: impl AsyncFnOnce()) -> Load {
    let load = Load::start(alpha, beta);
    load.more(100).await;
    let started = Instant::now();
    act().await;
    eventually("beta's end is closed", async || !beta.is_up(alpha).await).await;
    let took = started.elapsed();
    assert!(took < CLOSED_WITHIN, "it took {took:?}");
    load
}

async fn revoked_pin(transport: &str) {
    let (alpha, beta) = linked_over(transport).await;
    let pin = alpha.peer(&beta).await["pins"][0]["pin"].clone();
    closes_in_time(&alpha, &beta, async || {
        let path = format!("/admin/v1/peers/{}/revoke-pin", beta.domain);
        alpha.post(&path, json!({ "pin": pin })).await;
        assert!(!alpha.is_up(&beta).await);
    })
    .await;
    beta.says(&alpha, "refused our certificate").await;
    alpha.says(&beta, "not one of its pins").await;
    assert!(!alpha.is_up(&beta).await && !beta.is_up(&alpha).await);
}

#[tokio::test]
async fn a_revoked_pin_closes_the_live_link_within_a_second_and_keeps_it_closed_over_quic() {
    revoked_pin("quic").await;
}

#[tokio::test]
async fn a_revoked_pin_closes_the_live_link_within_a_second_and_keeps_it_closed_over_tcp() {
    revoked_pin("tcp").await;
}

#[tokio::test]
async fn a_retired_api_key_closes_the_live_link_that_was_proven_with_it_within_a_second() {
    let (alpha, beta) = two_sites().await;
    // The answer to a new invitation issues another key, which retiring leaves as the only one.
    alpha.invite(&beta).await;
    assert_eq!(alpha.peer(&beta).await["keys_issued"].as_array().unwrap().len(), 2);
    closes_in_time(&alpha, &beta, async || {
        alpha.on_peer(&beta, "retire-keys").await;
        assert!(!alpha.is_up(&beta).await);
    })
    .await;
    beta.says(&alpha, "API key is not one we issued").await;
    assert!(!alpha.is_up(&beta).await && !beta.is_up(&alpha).await);
}

#[tokio::test]
async fn a_paused_peering_closes_its_live_link_within_a_second_and_goes_on_when_resumed() {
    let (alpha, beta) = two_sites().await;
    let reader = Reader::start(&beta);
    let load = closes_in_time(&alpha, &beta, async || {
        alpha.on_peer(&beta, "pause").await;
        assert!(!alpha.is_up(&beta).await);
    })
    .await;
    beta.says(&alpha, "paused").await;
    alpha.on_peer(&beta, "resume").await;
    alpha.up(&beta).await;
    let accepted = load.stop().await;
    reader.finish(accepted).await;
}

#[tokio::test]
async fn a_removed_peer_loses_its_live_link_within_a_second() {
    let (alpha, beta) = two_sites().await;
    let load = closes_in_time(&alpha, &beta, async || alpha.remove(&beta).await).await;
    load.abandon();
    beta.says(&alpha, "refused our certificate").await;
    assert!(!beta.is_up(&alpha).await);
}

#[tokio::test]
async fn what_waits_for_a_removed_peer_is_purged_and_its_senders_are_told() {
    let (alpha, beta) = two_sites().await;
    beta.on_peer(&alpha, "pause").await;
    eventually("the link is down", async || !alpha.is_up(&beta).await).await;
    let (status, waiting) = alpha.api.submit(&alpha.user("ann"), &beta.user("bob")).await;
    assert_eq!(status, 202);
    alpha.remove(&beta).await;
    let receipt = alpha.api.receipt().await;
    assert_eq!((&receipt["id"], &receipt["state"]), (&waiting["id"], &json!("purged")));
}

#[tokio::test]
async fn a_crash_right_after_a_peer_was_removed_loses_none_of_the_receipts() {
    let disk = Disk::new(3);
    let (mut alpha, beta) = (Plan::new("alpha.test").on(&disk).start().await, Site::new("beta.test").await);
    peer(&alpha, &beta).await;
    beta.on_peer(&alpha, "pause").await;
    eventually("the link is down", async || !alpha.is_up(&beta).await).await;
    let mut waiting = Vec::new();
    for number in 0..20 {
        let conversation = json!({ "conversation": number.to_string() });
        let (_, result) = alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), conversation).await;
        waiting.push(result["id"].to_string());
    }
    alpha.remove(&beta).await;
    alpha.crash().await;
    alpha.start().await;
    let mut told = Vec::new();
    while told.len() < waiting.len() {
        let receipt = alpha.api.receipt().await;
        assert_eq!(receipt["state"], "purged");
        told.push(receipt["id"].to_string());
    }
    waiting.sort();
    told.sort();
    assert_eq!(told, waiting);
}

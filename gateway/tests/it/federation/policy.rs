//! What either side's policy, limits and patience keep out, and what the sender hears of it.

use serde_json::{Value, json};

use super::site::Plan;
use super::*;

/// Replaces the first network's policy.
async fn set_policy(site: &Site, policy: Value) {
    let spec = json!({ "id": "main", "local_domains": [site.domain], "policy": policy });
    let (status, answer) = site.admin(http::Method::PUT, "/admin/v1/networks/main", &spec).await;
    assert_eq!(status, 200, "{answer}");
}

fn restricted_to(permitted: &[(&str, &str)]) -> Value {
    let pairs: Vec<_> =
        permitted.iter().map(|(domain, network)| json!({ "domain": domain, "network": network })).collect();
    json!({ "federation": "restricted", "permitted": pairs })
}

/// Ann at alpha writes to Bob at beta: it is accepted at alpha, and beta refuses it for this reason.
async fn refused_by_beta(alpha: &Site, beta: &Site, fields: Value, reason: &str) {
    let (status, result) = alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), fields).await;
    assert_eq!(status, 202, "{result}");
    let receipt = alpha.api.receipt().await;
    assert_eq!((&receipt["id"], &receipt["state"]), (&result["id"], &json!("refused")), "{receipt}");
    assert_eq!((&receipt["reason"], &receipt["to"]), (&json!(reason), &json!([beta.user("bob")])));
    assert_eq!(beta.api.get("/v1/inbox").await.unwrap(), json!({ "envelopes": [] }));
}

/// Ann at alpha writes to Bob at beta: alpha itself refuses it.
async fn refused_by_alpha(alpha: &Site, beta: &Site, fields: Value, status: u16, name: &str) {
    let (found, problem) = alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), fields).await;
    assert_eq!(problem["type"], format!("urn:trunkline:problem:{name}"), "{problem}");
    assert_eq!(found, status);
    assert_eq!(alpha.get("/admin/v1/outbox").await["depth"], 0);
}

/// Ann at alpha writes to Bob at beta, who gets it.
async fn delivered(alpha: &Site, beta: &Site, fields: Value) {
    let (status, result) = alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), fields).await;
    assert_eq!(status, 202, "{result}");
    assert_eq!(beta.api.receive().await["id"], result["id"]);
    assert_eq!(alpha.api.receipt().await["state"], "delivered");
}

#[tokio::test]
async fn restricted_networks_exchange_only_when_both_permit_each_other() {
    let (alpha, beta) = two_sites().await;
    set_policy(&alpha, restricted_to(&[])).await;
    refused_by_alpha(&alpha, &beta, json!({}), 403, "not-permitted").await;
    set_policy(&alpha, restricted_to(&[("beta.test", "main")])).await;
    delivered(&alpha, &beta, json!({})).await;
    set_policy(&beta, restricted_to(&[("alpha.test", "lab")])).await;
    refused_by_beta(&alpha, &beta, json!({}), "not-permitted").await;
    set_policy(&beta, restricted_to(&[("alpha.test", "main")])).await;
    delivered(&alpha, &beta, json!({})).await;
}

#[tokio::test]
async fn a_network_that_does_not_federate_neither_sends_nor_receives() {
    let (alpha, beta) = two_sites().await;
    set_policy(&beta, json!({ "federation": "disabled" })).await;
    refused_by_beta(&alpha, &beta, json!({}), "federation-disabled").await;
    refused_by_alpha(&beta, &alpha, json!({}), 403, "federation-disabled").await;
}

#[tokio::test]
async fn guests_are_kept_out_by_either_side() {
    let (alpha, beta) = two_sites().await;
    let guest = || json!({ "guest": true });
    delivered(&alpha, &beta, guest()).await;
    set_policy(&beta, json!({ "allow_guests": false })).await;
    refused_by_beta(&alpha, &beta, guest(), "guest").await;
    delivered(&alpha, &beta, json!({})).await;
    set_policy(&alpha, json!({ "allow_guests": false })).await;
    refused_by_alpha(&alpha, &beta, guest(), 403, "guest").await;
}

#[tokio::test]
async fn blocked_addresses_are_kept_out_by_either_side() {
    let (alpha, beta) = two_sites().await;
    set_policy(&beta, json!({ "blocked": [alpha.user("ann")] })).await;
    refused_by_beta(&alpha, &beta, json!({}), "blocked").await;
    delivered(&alpha, &beta, json!({ "from": alpha.user("carol") })).await;
    set_policy(&alpha, json!({ "blocked": [beta.user("bob")] })).await;
    refused_by_alpha(&alpha, &beta, json!({}), 403, "blocked").await;
}

#[tokio::test]
async fn of_several_recipients_some_may_be_refused_and_the_sender_hears_of_each() {
    let (alpha, beta) = two_sites().await;
    let spec = json!({ "id": "lab", "local_domains": ["lab.beta.test"],
                       "policy": { "federation": "disabled" } });
    beta.post("/admin/v1/networks", spec).await;
    claim_is_seen(&alpha, &beta).await;
    alpha.on_peer(&beta, "approve-domains").await;
    let to = json!([beta.user("bob"), "eve@lab.beta.test"]);
    let (status, result) =
        alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), json!({ "to": to })).await;
    assert_eq!((status, &result["accepted"][0]["recipients"]), (202, &json!(2)));
    assert_eq!(beta.api.receive().await["to"], json!([beta.user("bob")]));
    let mut told = [alpha.api.receipt().await, alpha.api.receipt().await];
    told.sort_by_key(|receipt| receipt["state"].to_string());
    let found = told.map(|receipt| (receipt["state"].clone(), receipt["to"].clone(), receipt["id"].clone()));
    let expected = [
        (json!("delivered"), json!([beta.user("bob")]), result["id"].clone()),
        (json!("refused"), json!(["eve@lab.beta.test"]), result["id"].clone()),
    ];
    assert_eq!(found, expected);
}

/// Reconnects, so that alpha sees what beta claims now.
async fn claim_is_seen(alpha: &Site, beta: &Site) {
    alpha.on_peer(beta, "pause").await;
    alpha.on_peer(beta, "resume").await;
    eventually("the claim is seen", async || !alpha.peer(beta).await["claimed_domains"].is_null()).await;
}

#[tokio::test]
async fn a_domain_that_a_peer_took_on_counts_once_the_operator_approved_it() {
    let (alpha, beta) = two_sites().await;
    let spec = json!({ "id": "lab", "local_domains": ["lab.alpha.test"] });
    let token = alpha.post("/admin/v1/networks", spec).await["token"].as_str().unwrap().to_owned();
    let lab = alpha.api.with_token(&token);
    let from_lab = async || lab.submit("ann@lab.alpha.test", &beta.user("bob")).await;
    assert_eq!(from_lab().await.0, 202);
    let receipt = lab.receipt().await;
    assert_eq!((&receipt["state"], &receipt["reason"]), (&json!("refused"), &json!("sender-domain")));
    claim_is_seen(&beta, &alpha).await;
    beta.on_peer(&alpha, "approve-domains").await;
    assert_eq!(from_lab().await.0, 202);
    assert_eq!(beta.api.receive().await["from"], "ann@lab.alpha.test");
}

#[tokio::test]
async fn a_sender_outside_its_networks_domains_is_refused_at_once() {
    let (alpha, beta) = two_sites().await;
    for from in ["ann@beta.test", "ann@nowhere.test"] {
        refused_by_alpha(&alpha, &beta, json!({ "from": from }), 403, "sender-domain").await;
    }
}

#[tokio::test]
async fn a_recipient_whose_domain_moved_away_is_refused_by_the_peer() {
    let (alpha, beta) = two_sites().await;
    let spec = json!({ "id": "main", "local_domains": ["new.beta.test"] });
    let (status, _) = beta.admin(http::Method::PUT, "/admin/v1/networks/main", &spec).await;
    assert_eq!(status, 200);
    refused_by_beta(&alpha, &beta, json!({}), "unknown-domain").await;
}

#[tokio::test]
async fn an_oversized_payload_is_413_here_and_refused_with_a_receipt_there() {
    let small = Plan::new("beta.test").configure(|config| config.limits.payload_bytes_max.0 = 3000);
    let (alpha, beta) = (Site::new("alpha.test").await, small.start().await);
    peer(&alpha, &beta).await;
    let payload = |bytes: usize| json!({ "payload": "AAAA".repeat(bytes / 3) });
    refused_by_alpha(&beta, &alpha, payload(3003), 413, "too-large").await;
    refused_by_beta(&alpha, &beta, payload(3003), "too-large").await;
    delivered(&alpha, &beta, payload(3000)).await;
    refused_by_alpha(&alpha, &beta, payload(1_048_578), 413, "too-large").await;
}

#[tokio::test]
async fn an_envelope_that_waits_too_long_expires_and_its_sender_is_told() {
    let (alpha, mut beta) = two_sites().await;
    beta.stop().await;
    let short = json!({ "ttl_s": 1 });
    let (status, result) = alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), short).await;
    assert_eq!(status, 202);
    let receipt = alpha.api.receipt().await;
    assert_eq!((&receipt["id"], &receipt["state"]), (&result["id"], &json!("expired")));
    beta.start().await;
    delivered(&alpha, &beta, json!({})).await;
}

#[tokio::test]
async fn an_operator_may_purge_what_waits_and_its_senders_are_told() {
    let (alpha, mut beta) = two_sites().await;
    beta.stop().await;
    eventually("the link is down", async || !alpha.is_up(&beta).await).await;
    let (_, result) = alpha.api.submit(&alpha.user("ann"), &beta.user("bob")).await;
    let purged = alpha.post("/admin/v1/outbox/purge", json!({ "domain": beta.domain })).await;
    assert_eq!(purged["count"], 1);
    let receipt = alpha.api.receipt().await;
    assert_eq!((&receipt["id"], &receipt["state"]), (&result["id"], &json!("purged")));
    beta.start().await;
    delivered(&alpha, &beta, json!({})).await;
}

#[tokio::test]
async fn an_envelope_submitted_again_by_its_id_is_delivered_once_even_when_it_was_delivered_before() {
    let (alpha, beta) = two_sites().await;
    let id = json!({ "id": "8c0d5c3e-7d4b-4f4e-9a39-0d5d7bfb4b11" });
    let submit = async || alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), id.clone()).await;
    assert_eq!(submit().await.1["duplicate"], Value::Null);
    assert_eq!(beta.api.receive().await["id"], id["id"]);
    let (status, again) = submit().await;
    assert_eq!((status, &again["duplicate"]), (202, &json!(true)));
    assert_eq!(alpha.api.receipt().await["state"], "delivered");
    assert_eq!(beta.api.get("/v1/inbox").await.unwrap(), json!({ "envelopes": [] }));
}

#[tokio::test]
async fn a_private_address_is_refused_until_the_operator_allows_it() {
    let strict = Plan::new("alpha.test").configure(|config| config.allow_private_ips = false);
    let (alpha, beta) = (strict.start().await, Site::new("beta.test").await);
    let answer = beta.accept(alpha.invite(&beta).await).await;
    // Beta's knocking on alpha's door must not hide what alpha's own dials come to.
    beta.on_peer(&alpha, "pause").await;
    alpha.accept(answer.clone()).await;
    alpha.says(&beta, "set allow_private_ips on the peer if that is meant").await;
    assert!(alpha.last_error(&beta).await.contains("loopback"), "{}", alpha.last_error(&beta).await);
    let mut add = by_hand(&alpha, &beta).await;
    add["api_key"] = answer["bundle"]["api_key"].clone();
    alpha.post("/admin/v1/peers", add).await;
    beta.on_peer(&alpha, "resume").await;
    alpha.up(&beta).await;
}

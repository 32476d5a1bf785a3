//! Messaging servers that do not keep up, and quotas: whoever is too fast waits, and nothing is lost.

use super::site::Plan;
use super::*;

#[tokio::test]
async fn a_messaging_server_that_does_not_read_makes_its_peers_wait_and_loses_nothing() {
    const QUOTA_BYTES: u64 = 2 << 20;
    const COUNT: usize = 250;
    let small = Plan::new("beta.test").configure(|config| config.limits.inbox_quota_bytes.0 = QUOTA_BYTES);
    let (alpha, beta) = (Site::new("alpha.test").await, small.start().await);
    peer(&alpha, &beta).await;
    // What a peer was let send before the quota was reached comes in beyond it.
    let credit_bytes = trunkline_gateway_proto::core::Config::new("beta.test".parse().unwrap()).credit_bytes;
    let mut sent = Vec::new();
    for number in 0..COUNT {
        let fields = json!({ "payload": "AAAA".repeat(33_000), "conversation": number.to_string() });
        let (status, result) = alpha.api.submit_with(&alpha.user("ann"), &beta.user("bob"), fields).await;
        assert_eq!(status, 202);
        sent.push(result["id"].to_string());
    }
    let inbox = async || beta.get("/admin/v1/networks/main").await["inbox"]["bytes"].as_u64().unwrap();
    eventually("the credit is used up", async || inbox().await > credit_bytes - 200_000).await;
    assert!(inbox().await <= QUOTA_BYTES + credit_bytes, "{} bytes", inbox().await);
    let peer = alpha.peer(&beta).await;
    assert!(peer["link"] == "up" && peer["outbox"]["depth"].as_u64().unwrap() > 50, "{peer}");
    let mut received = Vec::new();
    while received.len() < COUNT {
        received.push(beta.api.receive().await["id"].to_string());
    }
    sent.sort();
    received.sort();
    assert!(sent == received);
}

#[tokio::test]
async fn a_peer_that_is_away_takes_no_more_than_its_quota_and_others_are_not_concerned() {
    let small = Plan::new("alpha.test").configure(|config| {
        config.limits.payload_bytes_max.0 = 10_000;
        config.limits.peer_quota_bytes.0 = 50_000;
    });
    let (alpha, beta) = (small.start().await, Site::new("beta.test").await);
    let mut away = Site::new("away.test").await;
    peer(&alpha, &beta).await;
    peer(&alpha, &away).await;
    away.stop().await;
    let fields = || json!({ "payload": "AAAA".repeat(3000) });
    let mut accepted = 0;
    let problem = loop {
        let (status, answer) = alpha.api.submit_with(&alpha.user("ann"), &away.user("bob"), fields()).await;
        if status != 202 {
            assert_eq!(status, 507);
            break answer;
        }
        accepted += 1;
    };
    assert_eq!((accepted, &problem["type"]), (5, &json!("urn:trunkline:problem:quota")));
    let mut both = fields();
    both["to"] = json!([beta.user("bob"), away.user("bob")]);
    let (status, result) = alpha.api.submit_with(&alpha.user("ann"), "", both).await;
    assert_eq!((status, &result["accepted"][0]["domain"]), (202, &json!("beta.test")));
    assert_eq!(result["rejected"], json!([{ "to": away.user("bob"), "reason": "quota" }]));
    assert_eq!(beta.api.receive().await["id"], result["id"]);

    away.start().await;
    for _ in 0..accepted {
        away.api.receive().await;
    }
    eventually("there is room again", async || alpha.peer(&away).await["outbox"]["depth"] == 0).await;
    assert_eq!(alpha.api.submit_with(&alpha.user("ann"), &away.user("bob"), fields()).await.0, 202);
}

#[tokio::test]
async fn three_deployments_write_to_each_other_all_the_time_and_each_gets_what_is_its_own() {
    let sites = [Site::new("alpha.test").await, Site::new("beta.test").await, Site::new("gamma.test").await];
    let [alpha, beta, gamma] = &sites;
    peer(alpha, beta).await;
    peer(beta, gamma).await;
    peer(gamma, alpha).await;
    let readers = [Reader::start(alpha), Reader::start(beta), Reader::start(gamma)];
    let loads = [Load::start(alpha, beta), Load::start(beta, gamma), Load::start(gamma, alpha)];
    for load in &loads {
        load.more(1000).await;
    }
    let [to_alpha, to_beta, to_gamma] = readers;
    let [from_alpha, from_beta, from_gamma] = loads;
    to_beta.finish(from_alpha.stop_and_read_receipts().await).await;
    to_gamma.finish(from_beta.stop_and_read_receipts().await).await;
    to_alpha.finish(from_gamma.stop_and_read_receipts().await).await;
}

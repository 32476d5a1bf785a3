//! Stores that went back in time: a restored backup is noticed by whoever it concerns, and goes on when an operator
//! says so.

use trunkline_testkit::disk::Disk;

use super::site::Plan;
use super::*;

const FILES: [&str; 2] = ["gateway.redb", "gateway.keys"];

/// The files of a store whose gateway does not run.
fn backup(disk: &Disk) -> [Vec<u8>; 2] {
    FILES.map(|name| {
        let mut copy = Vec::new();
        disk.tamper(name, |bytes| copy.clone_from(bytes));
        copy
    })
}

fn restore(disk: &Disk, backup: &[Vec<u8>; 2]) {
    for (name, copy) in FILES.iter().zip(backup) {
        disk.tamper(name, |bytes| bytes.clone_from(copy));
    }
}

/// Writes from one to the other, who reads it.
async fn exchange(from: &Site, to: &Site) {
    let (status, result) = from.api.submit(&from.user("ann"), &to.user("bob")).await;
    assert_eq!(status, 202, "{result}");
    assert_eq!(to.api.receive().await["id"], result["id"]);
    assert_eq!(from.api.receipt().await["id"], result["id"]);
}

/// Waits until a peering stands in alarm.
async fn alarmed(site: &Site, peer: &Site) -> String {
    eventually("the alarm is raised", async || site.peer(peer).await["link"] == "alarm").await;
    site.last_error(peer).await
}

/// Two deployments with a backup of beta's store from before envelopes went this way.
async fn beta_goes_back(forth: bool) -> (Site, Site) {
    let disk = Disk::new(1);
    let alpha = Site::new("alpha.test").await;
    let mut beta = Plan::new("beta.test").on(&disk).start().await;
    peer(&alpha, &beta).await;
    exchange(&alpha, &beta).await;
    exchange(&beta, &alpha).await;
    beta.stop().await;
    let old = backup(&disk);
    beta.start().await;
    alpha.up(&beta).await;
    for _ in 0..3 {
        if forth { exchange(&alpha, &beta).await } else { exchange(&beta, &alpha).await }
    }
    beta.stop().await;
    restore(&disk, &old);
    beta.start().await;
    (alpha, beta)
}

#[tokio::test]
async fn a_receiver_that_lost_what_it_had_acknowledged_alarms_its_sender_until_an_operator_resumes() {
    let (alpha, beta) = beta_goes_back(true).await;
    let text = alarmed(&alpha, &beta).await;
    assert!(text.contains("it lost envelopes it had stored") && text.contains("peer resume"), "{text}");
    let metrics = alpha.get("/metrics").await.as_str().unwrap().to_owned();
    let alarm = metrics.lines().find(|line| line.starts_with("trunkline_gateway_link_alarm{"));
    assert!(alarm.is_some_and(|line| line.ends_with(" 1")), "{alarm:?}");

    // It stands: trying again changes nothing, envelopes wait.
    let (status, waiting) = alpha.api.submit(&alpha.user("ann"), &beta.user("bob")).await;
    assert_eq!(status, 202);
    alpha.post("/admin/v1/outbox/retry", json!({})).await;
    beta.on_peer(&alpha, "pause").await;
    beta.on_peer(&alpha, "resume").await;
    beta.says(&alpha, "watermark").await;
    assert_eq!(alpha.peer(&beta).await["link"], "alarm");

    alpha.on_peer(&beta, "resume").await;
    alpha.up(&beta).await;
    assert_eq!(beta.api.receive().await["id"], waiting["id"]);
    exchange(&beta, &alpha).await;
}

#[tokio::test]
async fn a_sender_whose_store_went_back_is_alarmed_and_goes_on_under_a_new_epoch_when_resumed() {
    let (alpha, beta) = beta_goes_back(false).await;
    let text = alarmed(&beta, &alpha).await;
    assert!(text.contains("our store went back") && text.contains("peer resume"), "{text}");
    beta.on_peer(&alpha, "resume").await;
    beta.up(&alpha).await;
    exchange(&beta, &alpha).await;
    exchange(&alpha, &beta).await;
}

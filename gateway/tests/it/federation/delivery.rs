//! Envelopes arrive in order, once, and their senders hear of it, whatever happens to either gateway.

use trunkline_testkit::disk::Disk;

use super::site::Plan;
use super::*;

#[tokio::test]
async fn envelopes_go_both_ways_and_their_senders_get_receipts() {
    let (alpha, beta) = two_sites().await;
    for (one, other) in [(&alpha, &beta), (&beta, &alpha)] {
        let (status, result) = one.api.submit(&one.user("ann"), &other.user("bob")).await;
        assert_eq!((status, &result["accepted"][0]["domain"]), (202, &other.domain.as_str().into()));
        let envelope = other.api.receive().await;
        assert_eq!(envelope["id"], result["id"]);
        assert_eq!((&envelope["from"], &envelope["payload"]), (&one.user("ann").into(), &"aGVsbG8=".into()));
        let receipt = one.api.receipt().await;
        assert_eq!((&receipt["id"], &receipt["state"]), (&result["id"], &"delivered".into()));
    }
}

#[tokio::test]
async fn under_load_both_ways_every_envelope_arrives_once_and_in_order() {
    let (alpha, beta) = two_sites().await;
    let (to_alpha, to_beta) = (Reader::start(&alpha), Reader::start(&beta));
    let (from_alpha, from_beta) = (Load::start(&alpha, &beta), Load::start(&beta, &alpha));
    tokio::join!(from_alpha.more(1500), from_beta.more(1500));
    let from_alpha = from_alpha.stop_and_read_receipts().await;
    let from_beta = from_beta.stop_and_read_receipts().await;
    to_beta.finish(from_alpha).await;
    to_alpha.finish(from_beta).await;
}

#[tokio::test]
async fn a_receiver_that_is_restarted_under_load_loses_nothing_and_gets_nothing_twice() {
    let (alpha, mut beta) = two_sites().await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    for _ in 0..3 {
        reader.more(200).await;
        beta.stop().await;
        load.more(200).await;
        beta.start().await;
    }
    reader.more(200).await;
    let accepted = load.stop_and_read_receipts().await;
    reader.finish(accepted).await;
}

#[tokio::test]
async fn a_sender_that_is_restarted_under_load_loses_nothing_and_sends_nothing_twice() {
    let (mut alpha, beta) = two_sites().await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    for _ in 0..3 {
        reader.more(200).await;
        alpha.stop().await;
        alpha.start().await;
    }
    reader.more(200).await;
    let accepted = load.stop_and_read_receipts().await;
    reader.finish(accepted).await;
}

#[tokio::test]
async fn machines_that_crash_under_load_lose_nothing_and_deliver_nothing_twice() {
    let disks = [Disk::new(1), Disk::new(2)];
    let mut alpha = Plan::new("alpha.test").on(&disks[0]).start().await;
    let mut beta = Plan::new("beta.test").on(&disks[1]).start().await;
    peer(&alpha, &beta).await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    for round in 0..6 {
        reader.more(200).await;
        let site = if round % 2 == 0 { &mut beta } else { &mut alpha };
        site.crash().await;
        site.start().await;
    }
    reader.more(200).await;
    let accepted = load.stop_and_read_receipts().await;
    reader.finish(accepted).await;
}

#[tokio::test]
async fn machines_that_crash_together_under_load_both_ways_lose_nothing_and_deliver_nothing_twice() {
    let disks = [Disk::new(3), Disk::new(4)];
    let mut alpha = Plan::new("alpha.test").on(&disks[0]).start().await;
    let mut beta = Plan::new("beta.test").on(&disks[1]).start().await;
    peer(&alpha, &beta).await;
    let (to_alpha, to_beta) = (Reader::start(&alpha), Reader::start(&beta));
    let (from_alpha, from_beta) = (Load::start(&alpha, &beta), Load::start(&beta, &alpha));
    for _ in 0..3 {
        tokio::join!(to_beta.more(200), to_alpha.more(200));
        tokio::join!(alpha.crash(), beta.crash());
        tokio::join!(alpha.start(), beta.start());
    }
    tokio::join!(to_beta.more(200), to_alpha.more(200));
    let sent = from_alpha.stop_and_read_receipts().await;
    to_beta.finish(sent).await;
    let sent = from_beta.stop_and_read_receipts().await;
    to_alpha.finish(sent).await;
}

#[tokio::test]
async fn what_was_not_acknowledged_is_handed_out_again_after_a_restart() {
    let (alpha, mut beta) = two_sites().await;
    alpha.api.submit(&alpha.user("ann"), &beta.user("bob")).await;
    let first = beta.api.get("/v1/inbox?wait_s=30").await.unwrap();
    assert_eq!(first["envelopes"].as_array().unwrap().len(), 1);
    beta.stop().await;
    beta.start().await;
    assert_eq!(beta.api.get("/v1/inbox?wait_s=30").await.unwrap(), first);
    beta.api.receive().await;
    beta.stop().await;
    beta.start().await;
    assert_eq!(beta.api.get("/v1/inbox").await.unwrap()["envelopes"].as_array().unwrap().len(), 0);
}

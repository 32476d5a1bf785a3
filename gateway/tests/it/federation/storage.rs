//! Disks that are full, fail or hold something else than was written.

use std::sync::atomic::Ordering;

use trunkline_gateway::run::RunError;
use trunkline_gateway::store::StoreError;
use trunkline_gateway_proto::key::ApiKey;
use trunkline_gateway_proto::pin::Pin;
use trunkline_testkit::disk::Disk;

use super::site::Plan;
use super::*;

/// Two deployments that are peered, alpha with its store on this disk.
async fn alpha_on(disk: &Disk) -> (Site, Site) {
    let (alpha, beta) = (Plan::new("alpha.test").on(disk).start().await, Site::new("beta.test").await);
    peer(&alpha, &beta).await;
    (alpha, beta)
}

/// Lets the disk hold no more than it does, and writes to a peer who is away until that is felt. Answers how many
/// envelopes were accepted for it.
async fn fill_up(site: &Site, disk: &Disk) -> u64 {
    let away = Pin::from_bytes([9; 32]).to_string();
    let key = ApiKey::generate().to_text();
    let add = json!({ "domain": "away.test", "pins": [away], "api_key": key, "endpoints": ["127.0.0.1:9"],
                      "local_domains": [{ "domain": "away.test", "network": "main" }] });
    site.post("/admin/v1/peers", add).await;
    disk.set_capacity(Some(0));
    for accepted in 0..10_000 {
        let fields = json!({ "payload": "AAAA".repeat(30_000), "conversation": accepted.to_string() });
        let (status, problem) = site.api.submit_with(&site.user("ann"), "bob@away.test", fields).await;
        if status != 202 {
            assert_eq!((status, &problem["type"]), (503, &json!("urn:trunkline:problem:storage")));
            return accepted;
        }
    }
    panic!("the disk is never full");
}

#[tokio::test]
async fn a_sender_whose_disk_is_full_says_so_loses_nothing_and_goes_on_when_there_is_room() {
    let disk = Disk::new(1);
    let (alpha, beta) = alpha_on(&disk).await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    reader.more(100).await;
    let waiting = fill_up(&alpha, &disk).await;
    beta.says(&alpha, "storage").await;
    // It is tried again meanwhile. What little fits may go on, until something does not.
    let operations = disk.operations();
    eventually("the store is tried again", async || disk.operations() > operations).await;
    disk.set_capacity(None);
    reader.more(200).await;
    assert_eq!(alpha.readiness().await.0, 200);
    let found = alpha.get("/admin/v1/peers/away.test").await["outbox"]["depth"].as_u64().unwrap();
    // The one that was refused may be there as well: its sender was told to try again.
    assert!((waiting..=waiting + 1).contains(&found), "{found} of {waiting} are there");
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn a_receiver_whose_disk_is_full_claims_nothing_and_goes_on_when_there_is_room() {
    let disk = Disk::new(2);
    let plan = Plan::new("beta.test").on(&disk).configure(|c| c.limits.disk_reserve_bytes.0 = 1 << 20);
    let (alpha, beta) = (Site::new("alpha.test").await, plan.start().await);
    peer(&alpha, &beta).await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    reader.more(100).await;
    // It may be tried again, and a little may fit, before the disk says that nothing is left.
    let problem = loop {
        beta.free_bytes.store(u64::MAX, Ordering::Relaxed);
        fill_up(&beta, &disk).await;
        beta.free_bytes.store(0, Ordering::Relaxed);
        if let (503, problem) = beta.readiness().await {
            break problem;
        }
    };
    assert!(problem["detail"].as_str().unwrap().contains("the disk is full"), "{problem}");
    alpha.says(&beta, "storage").await;
    let delivered = async || alpha.get("/admin/v1/status").await["totals"]["delivered"].as_u64().unwrap();
    let (before, operations) = (delivered().await, disk.operations());
    load.more(200).await;
    assert_eq!((delivered().await, disk.operations()), (before, operations), "nothing is claimed or tried");
    disk.set_capacity(None);
    beta.free_bytes.store(1 << 40, Ordering::Relaxed);
    reader.more(200).await;
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn below_the_reserve_nothing_new_is_taken_while_what_is_there_still_leaves() {
    let disk = Disk::new(3);
    let plan = Plan::new("alpha.test").on(&disk).configure(|c| c.limits.disk_reserve_bytes.0 = 1 << 30);
    let (alpha, beta) = (plan.start().await, Site::new("beta.test").await);
    peer(&alpha, &beta).await;
    beta.on_peer(&alpha, "pause").await;
    eventually("the link is down", async || !alpha.is_up(&beta).await).await;
    let (ann, bob) = (alpha.user("ann"), beta.user("bob"));
    assert_eq!(alpha.api.submit(&ann, &bob).await.0, 202);
    alpha.free_bytes.store(1 << 20, Ordering::Relaxed);
    let refused = async || alpha.api.submit(&ann, &bob).await.0 == 507;
    eventually("nothing new is taken", refused).await;
    let (_, problem) = alpha.api.submit(&ann, &bob).await;
    assert_eq!(problem["type"], "urn:trunkline:problem:disk-full");
    assert_eq!(alpha.readiness().await.0, 200, "what is there can still be read, sent and acknowledged");

    // Beta's envelopes wait there meanwhile, and are not refused.
    let (status, to_alpha) = beta.api.submit(&beta.user("bob"), &alpha.user("ann")).await;
    assert_eq!(status, 202);
    beta.on_peer(&alpha, "resume").await;
    beta.api.receive().await;
    assert_eq!(alpha.api.receipt().await["state"], "delivered");
    assert_eq!(beta.peer(&alpha).await["outbox"]["depth"], 1);

    alpha.free_bytes.store(1 << 40, Ordering::Relaxed);
    assert_eq!(alpha.api.receive().await["id"], to_alpha["id"]);
    assert_eq!(alpha.api.submit(&ann, &bob).await.0, 202);
}

#[tokio::test]
async fn a_failed_sync_ends_all_promises_until_a_restart_which_finds_everything_acknowledged() {
    let disk = Disk::new(4);
    let (mut alpha, beta) = alpha_on(&disk).await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    let replies = Load::paced(&beta, &alpha, Duration::from_millis(5));
    reader.more(200).await;
    disk.fail_sync_at(disk.syncs() + 1);
    beta.says(&alpha, "storage").await;
    for _ in 0..3 {
        let (status, problem) = alpha.api.submit(&alpha.user("ann"), &beta.user("bob")).await;
        assert_eq!((status, &problem["type"]), (503, &json!("urn:trunkline:problem:storage")));
        let (status, problem) = alpha.api.post("/v1/inbox/ack", &json!({ "up_to": 1 })).await;
        assert_eq!((status, &problem["type"]), (503, &json!("urn:trunkline:problem:storage")));
    }
    let (status, problem) = alpha.readiness().await;
    assert_eq!(status, 503);
    assert!(problem["detail"].as_str().unwrap().contains("restart"), "{problem}");
    beta.on_peer(&alpha, "pause").await;
    beta.on_peer(&alpha, "resume").await;
    beta.says(&alpha, "the peer closed the link (storage)").await;
    assert!(!beta.is_up(&alpha).await);

    alpha.crash().await;
    alpha.start().await;
    let answers = Reader::start(&alpha);
    reader.more(200).await;
    reader.finish(load.stop_and_read_receipts().await).await;
    answers.finish(replies.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn a_disk_that_fails_does_not_make_the_gateway_try_again_by_itself() {
    let disk = Disk::new(5);
    let alpha = Plan::new("alpha.test").on(&disk).start().await;
    disk.fail_sync_at(disk.syncs() + 1);
    assert_eq!(alpha.api.submit(&alpha.user("ann"), &alpha.user("bob")).await.0, 503);
    assert_eq!(alpha.readiness().await.0, 503);
    let operations = disk.operations();
    // Longer than it takes to try again after a full disk.
    let waited = Instant::now();
    eventually("time passes", async || waited.elapsed() > Duration::from_secs(3)).await;
    assert_eq!((disk.operations(), alpha.readiness().await.0), (operations, 503));
}

#[tokio::test]
async fn a_store_that_is_cut_short_or_damaged_is_refused_at_the_start_and_named() {
    let good = Disk::new(6);
    let mut alpha = Plan::new("alpha.test").on(&good).start().await;
    for number in 0..50 {
        let conversation = json!({ "conversation": number.to_string() });
        alpha.api.submit_with(&alpha.user("ann"), &alpha.user("bob"), conversation).await;
    }
    alpha.stop().await;
    let mut store = Vec::new();
    good.tamper("gateway.redb", |bytes| store.clone_from(bytes));
    let mut keys = Vec::new();
    good.tamper("gateway.keys", |bytes| keys.clone_from(bytes));

    let len = store.len();
    type Damage<'a> = (&'a str, &'a str, Box<dyn Fn(&mut Vec<u8>)>);
    let damages: Vec<Damage> = vec![
        ("gateway.redb", "gone", Box::new(|bytes| bytes.clear())),
        ("gateway.redb", "a byte long", Box::new(|bytes| bytes.truncate(1))),
        ("gateway.redb", "a page long", Box::new(|bytes| bytes.truncate(4096))),
        ("gateway.redb", "half as long", Box::new(move |bytes| bytes.truncate(len / 2))),
        ("gateway.redb", "something else", Box::new(|bytes| bytes.fill(b'x'))),
        ("gateway.redb", "without its header", Box::new(|bytes| bytes[..512].fill(0xff))),
        ("gateway.redb", "without its pages", Box::new(|bytes| bytes[4096..].fill(0xff))),
        ("gateway.keys", "gone", Box::new(|bytes| bytes.clear())),
        ("gateway.keys", "cut within its header", Box::new(|bytes| bytes.truncate(60))),
        ("gateway.keys", "something else", Box::new(|bytes| bytes.fill(b'x'))),
    ];
    for (file, what, damage) in damages {
        good.tamper("gateway.redb", |bytes| bytes.clone_from(&store));
        good.tamper("gateway.keys", |bytes| bytes.clone_from(&keys));
        good.tamper(file, damage);
        let error = alpha.try_start().await.expect_err(what);
        assert!(matches!(error, RunError::Store(StoreError::Corrupt(_))), "{file} {what}: {error}");
        let text = error.to_string();
        assert!(text.contains("gateway."), "{file} {what}: {text}");
        assert!(!text.contains('\n'), "{file} {what}: {text}");
    }
    good.tamper("gateway.redb", |bytes| bytes.clone_from(&store));
    good.tamper("gateway.keys", |bytes| bytes.clone_from(&keys));
    alpha.start().await;
    assert_eq!(alpha.api.get("/v1/inbox").await.unwrap()["envelopes"].as_array().unwrap().len(), 50);
}

//! The certificate of a deployment with replicas: rotated at any of them, the same at all, and nothing that an operator
//! copies.

use trunkline_gateway::config::IdentityMode;
use trunkline_gateway::link::Transport;
use trunkline_gateway::link::knock::{Answer, Stranger};
use trunkline_gateway_proto::pin::Pin;
use trunkline_testkit::postgres::proxy::Proxy;

use super::moving::moved;
use super::replicas::{database, exchange, on_database, standing, stands};
use super::site::Plan;
use super::*;

/// Who answers at a replica's federation port somebody who expects a certificate that nobody has.
async fn knock(site: &Site) -> Answer {
    let stranger = Stranger::new(&site.domain.parse().unwrap(), Pin::from_bytes([0; 32])).unwrap();
    stranger.knock(site.link_address(), Transport::Tcp).await
}

/// The pin of the certificate that a replica shows.
async fn shown(site: &Site) -> String {
    match knock(site).await {
        Answer::Another(pin) => pin.to_string(),
        other => panic!("no certificate at {}: {other:?}", site.domain),
    }
}

async fn all_show(replicas: &[Site], pin: &Value) {
    for site in replicas {
        eventually("its certificate", async || shown(site).await == *pin.as_str().unwrap()).await;
    }
}

/// Replicas of alpha.test on this database; the first one leads.
async fn replicas(count: usize, url: &str) -> Vec<Site> {
    let mut sites = vec![on_database(Plan::new("alpha.test"), url.to_owned()).start().await];
    while sites.len() < count {
        sites.push(on_database(Plan::replica_of(&sites[0]), url.to_owned()).start().await);
    }
    for site in &sites[1..] {
        stands(site, "following").await;
    }
    sites
}

/// Waits until one of them leads; gives which.
async fn leader(replicas: &[Site]) -> usize {
    let mut found = None;
    eventually("one leads", async || {
        for (index, site) in replicas.iter().enumerate() {
            if standing(site).await == "leading" {
                found = Some(index);
            }
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn rotate(site: &Site) -> Value {
    site.post("/admin/v1/identity/rotate", Value::Null).await["next"]["pin"].clone()
}

/// Uses the next certificate as soon as a peer has stored it.
async fn activate(site: &Site, peer: &Site) -> Value {
    eventually("the peer has stored it", async || {
        site.get("/admin/v1/identity").await["next"]["ready"] == json!([peer.domain])
    })
    .await;
    site.post("/admin/v1/identity/activate", Value::Null).await["current"]["pin"].clone()
}

/// The peer accepts the old certificate no more, and links anew.
async fn only_with_the_new_one(site: &Site, peer: &Site, old: &str) {
    peer.post(&format!("/admin/v1/peers/{}/revoke-pin", site.domain), json!({ "pin": old })).await;
    peer.on_peer(site, "pause").await;
    peer.on_peer(site, "resume").await;
    site.up(peer).await;
    let (status, result) = site.api.submit(&site.user("ann"), &peer.user("bob")).await;
    assert_eq!((status, &peer.api.receive().await["id"]), (202, &result["id"]));
    assert_eq!(site.api.receipt().await["state"], "delivered");
}

#[tokio::test]
async fn a_certificate_that_is_rotated_at_a_follower_is_shown_by_every_replica() {
    let (_, url) = database();
    let alpha = replicas(3, &url).await;
    let beta = Site::new("beta.test").await;
    peer(&alpha[0], &beta).await;
    let old = shown(&alpha[1]).await;
    let next = rotate(&alpha[2]).await;
    assert_eq!(rotate(&alpha[1]).await, next, "there is one already");
    assert!(!alpha[1].get("/admin/v1/identity").await.to_string().contains("PRIVATE"));
    all_show(&alpha, &json!(old)).await;
    assert_eq!(activate(&alpha[1], &beta).await, next);
    all_show(&alpha, &next).await;
    only_with_the_new_one(&alpha[1], &beta, &old).await;
    // Once more, from what the first rotation came to.
    let second = rotate(&alpha[1]).await;
    assert_eq!(activate(&alpha[2], &beta).await, second);
    all_show(&alpha, &second).await;
}

#[tokio::test]
async fn a_rotation_outlives_the_leader_at_each_step_and_every_replicas_files() {
    let (_, url) = database();
    let mut alpha = replicas(3, &url).await;
    let beta = Site::new("beta.test").await;
    peer(&alpha[0], &beta).await;
    let old = shown(&alpha[0]).await;

    let next = rotate(&alpha[1]).await;
    let mut first = alpha.remove(0);
    first.crash().await;
    let leads = leader(&alpha).await;
    stands(&alpha[1 - leads], "following").await;
    first.door.set_target(alpha[leads].link_address());
    assert_eq!(activate(&alpha[1 - leads], &beta).await, next);
    let mut second = alpha.remove(leads);
    second.crash().await;
    stands(&alpha[0], "leading").await;
    first.door.set_target(alpha[0].link_address());
    assert_eq!(shown(&alpha[0]).await, next.as_str().unwrap());
    let identity = alpha[0].get("/admin/v1/identity").await;
    assert_eq!((&identity["current"]["pin"], &identity["next"]), (&next, &Value::Null));
    only_with_the_new_one(&alpha[0], &beta, &old).await;

    // Their files are as they were made.
    let mut third = alpha.remove(0);
    third.stop().await;
    for site in [&mut first, &mut second, &mut third] {
        assert!(!site.path("identity/next.key").exists());
        site.start().await;
    }
    let mut alpha = vec![first, second, third];
    all_show(&alpha, &next).await;
    let leads = leader(&alpha).await;
    for other in 1..3 {
        stands(&alpha[(leads + other) % 3], "following").await;
    }
    alpha[0].door.set_target(alpha[leads].link_address());
    beta.up(&alpha[0]).await;
    exchange(&alpha[1], &alpha[2]).await;

    // An authority's certificate is its operator's to replace, in files.
    let follows = (leads + 1) % 3;
    alpha[follows].stop().await;
    alpha[follows].config().identity.mode = IdentityMode::Ca;
    alpha[follows].start().await;
    assert_eq!(shown(&alpha[follows]).await, old);
}

#[tokio::test]
async fn a_replica_that_does_not_know_yet_which_certificate_is_in_use_shows_none() {
    let (server, url) = database();
    let alpha = replicas(1, &url).await;
    let proxy = Proxy::start(server.port()).unwrap();
    let through_proxy = url.replace(&server.port().to_string(), &proxy.port().to_string());
    let mut plan = on_database(Plan::replica_of(&alpha[0]), through_proxy);
    let next = rotate(&alpha[0]).await;
    alpha[0].post("/admin/v1/identity/activate", Value::Null).await;
    proxy.close();
    let late = plan.site_mut();
    late.try_start().await.unwrap();
    let answer = knock(late).await;
    assert!(!matches!(answer, Answer::Another(_) | Answer::LetIn), "{answer:?}");
    proxy.open();
    stands(late, "following").await;
    assert_eq!(shown(late).await, next.as_str().unwrap());
}

#[tokio::test]
async fn a_rotated_certificate_goes_along_when_replicas_become_one_gateway_and_its_store_is_moved_to_files() {
    let (_, url) = database();
    let mut alpha = replicas(2, &url).await;
    let beta = Site::new("beta.test").await;
    peer(&alpha[0], &beta).await;
    let old = shown(&alpha[0]).await;
    let next = rotate(&alpha[1]).await;
    activate(&alpha[1], &beta).await;

    alpha[1].stop().await;
    let mut alone = alpha.remove(0);
    alone.stop().await;
    alone.config().replica.advertise.clear();
    alone.start().await;
    assert_eq!(shown(&alone).await, next.as_str().unwrap());
    alone.stop().await;
    moved(&mut alone, false).await;
    alone.config().store = "redb".to_owned();
    alone.start().await;
    assert_eq!(shown(&alone).await, next.as_str().unwrap());
    only_with_the_new_one(&alone, &beta, &old).await;
    let third = rotate(&alone).await;
    assert_eq!(activate(&alone, &beta).await, third);
    alone.stop().await;
    alone.start().await;
    assert_eq!(shown(&alone).await, third.as_str().unwrap());
}

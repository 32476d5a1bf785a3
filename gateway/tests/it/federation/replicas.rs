//! Several gateways of one deployment on one database: whichever is asked, and whichever dies.

use std::net::TcpListener;

use http::Method;
use trunkline_testkit::postgres::proxy::Proxy;
use trunkline_testkit::postgres::{self, PASSWORD, Server};
use trunkline_testkit::secluded::{self, Firewall};

use super::site::Plan;
use super::*;

/// A lease, and what a takeover may take beyond it.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);

/// A plan for a replica whose store is this database.
pub(super) fn on_database(plan: Plan, store: String) -> Plan {
    let password = plan.site().path("database.password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // Nobody else of this machine is given the port in the meantime: ports are taken in turn.
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    plan.configure(|config| {
        config.store = store;
        config.store_password_file = Some(password);
        config.replica.listen = listen;
        config.replica.advertise = listen.to_string();
    })
}

pub(super) fn database() -> (&'static Server, String) {
    let server = postgres::shared();
    let url = server.url(&server.database());
    (server, url)
}

/// Two replicas of a domain: the first one leads.
pub(super) async fn two_replicas(domain: &str) -> (Site, Site) {
    let (_, url) = database();
    let first = on_database(Plan::new(domain), url.clone()).start().await;
    let second = on_database(Plan::replica_of(&first), url).start().await;
    assert_eq!((standing(&first).await, standing(&second).await), ("leading".into(), "following".into()));
    (first, second)
}

/// What a replica says that it does.
pub(super) async fn standing(site: &Site) -> String {
    let (_, metrics) = site.admin(Method::GET, "/metrics", &Value::Null).await;
    let metrics = metrics.as_str().unwrap_or_default();
    let line =
        metrics.lines().find(|line| line.starts_with("trunkline_gateway_standing{") && line.ends_with(" 1"));
    line.and_then(|line| line.split('"').nth(1)).unwrap_or("unknown").to_owned()
}

pub(super) async fn stands(site: &Site, expected: &str) -> Duration {
    eventually(expected, async || standing(site).await == expected).await
}

/// Writes from one user of a deployment to another: in at one replica, out at another.
pub(super) async fn exchange(through: &Site, out_of: &Site) {
    let (status, result) = through.api.submit(&through.user("ann"), &through.user("bob")).await;
    assert_eq!(status, 202, "{result}");
    assert_eq!(out_of.api.receive().await["id"], result["id"]);
    assert_eq!(out_of.api.receipt().await["id"], result["id"]);
}

#[tokio::test]
async fn every_replica_takes_submissions_and_hands_out_what_came() {
    let (first, second) = two_replicas("alpha.test").await;
    exchange(&first, &second).await;
    exchange(&second, &first).await;
    exchange(&second, &second).await;
    let copy = second.path("data/bootstrap.json");
    eventually("its copy of what was done is removed", async || !copy.exists()).await;
}

#[tokio::test]
async fn operators_may_ask_any_replica_and_find_there_what_they_changed() {
    let (first, second) = two_replicas("alpha.test").await;
    let leader = first.get("/admin/v1/status").await["leader"].as_str().unwrap().to_owned();
    assert_eq!(second.get("/admin/v1/status").await["leader"], leader);
    for round in 0..5 {
        let label = format!("night-{round}");
        let made = second.post("/admin/v1/tokens", json!({ "label": label, "role": "viewer" })).await;
        let token = made["token"].as_str().unwrap().to_owned();
        for site in [&second, &first] {
            let (status, tokens) =
                site.admin_with(&token, Method::GET, "/admin/v1/status", &Value::Null).await;
            assert_eq!(status, 200, "{tokens}");
        }
    }
    let network = json!({ "id": "lab", "local_domains": ["lab.alpha.test"] });
    let made = second.post("/admin/v1/networks", network).await;
    let lab = second.api.with_token(made["token"].as_str().unwrap());
    assert_eq!(lab.submit("eve@lab.alpha.test", &second.user("ann")).await.0, 202);
    assert_eq!(first.api.receive().await["from"], "eve@lab.alpha.test");
}

#[tokio::test]
async fn a_peers_link_that_comes_in_at_a_follower_carries_envelopes_both_ways() {
    // Of two connections the one that the smaller domain dialled stays.
    let (first, second) = two_replicas("zeta.test").await;
    let beta = Site::new("beta.test").await;
    first.door.set_target(second.link_address());
    peer(&first, &beta).await;
    for (from, to, out_of) in [(&beta, &second, &first), (&first, &beta, &beta), (&second, &beta, &beta)] {
        let (status, result) = from.api.submit(&from.user("ann"), &to.user("bob")).await;
        assert_eq!(status, 202, "{result}");
        assert_eq!(out_of.api.receive().await["id"], result["id"]);
        assert_eq!(from.api.receipt().await["state"], "delivered");
    }
    // The link is gone with the follower, and made anew.
    let mut second = second;
    second.crash().await;
    first.door.set_target(first.link_address());
    let (status, result) = beta.api.submit(&beta.user("ann"), &first.user("bob")).await;
    assert_eq!((status, &first.api.receive().await["id"]), (202, &result["id"]));
}

#[tokio::test]
async fn when_the_leader_dies_a_follower_takes_over_and_nothing_is_lost() {
    let (mut first, second) = two_replicas("alpha.test").await;
    let beta = Site::new("beta.test").await;
    peer(&first, &beta).await;
    let (load, reader) = (Load::start(&second, &beta), Reader::start(&beta));
    reader.more(20).await;
    first.crash().await;
    assert!(stands(&second, "leading").await < TAKEOVER_MAX);
    first.door.set_target(second.link_address());
    reader.more(20).await;
    first.start().await;
    stands(&first, "following").await;
    let (status, result) = first.api.submit(&first.user("ann"), &first.user("bob")).await;
    assert_eq!(status, 202, "{result}");
    assert_eq!(second.api.receive().await["id"], result["id"]);
    reader.finish(load.stop().await).await;
}

#[tokio::test]
async fn a_replica_without_its_database_acknowledges_nothing_and_comes_back_as_a_follower() {
    let (server, url) = database();
    let proxy = Proxy::start(server.port()).unwrap();
    let through_proxy = url.replace(&server.port().to_string(), &proxy.port().to_string());
    let first = on_database(Plan::new("alpha.test"), through_proxy).start().await;
    let second = on_database(Plan::replica_of(&first), url).start().await;
    exchange(&second, &first).await;
    proxy.close();
    let (ann, bob) = (first.user("ann"), first.user("bob"));
    let going_on = async {
        assert!(stands(&second, "leading").await < TAKEOVER_MAX);
        exchange(&second, &second).await;
    };
    let ((status, problem), ()) = tokio::join!(first.api.submit(&ann, &bob), going_on);
    assert_eq!((status, &problem["type"]), (503, &json!("urn:trunkline:problem:storage")));
    proxy.open();
    stands(&first, "following").await;
    exchange(&first, &second).await;
}

#[test]
fn a_replica_whose_network_swallows_its_database_stops_acknowledging_and_rejoins_when_it_heals() {
    let name = "federation::replicas::a_replica_whose_network_swallows_its_database_stops_acknowledging_and_rejoins_when_it_heals";
    secluded::run(name, async || {
        let firewall = Firewall::open();
        let server = Server::start();
        let url = server.url(&server.database());
        // The first one's way to the database is its own.
        let far = url.replace("127.0.0.1", "127.0.0.2");
        let first = on_database(Plan::new("zeta.test"), far).start().await;
        let second = on_database(Plan::replica_of(&first), url).start().await;
        let beta = Site::new("beta.test").await;
        peer(&first, &beta).await;
        exchange(&second, &first).await;
        let (load, reader) = (Load::start(&beta, &second), Reader::start(&second));
        reader.more(20).await;

        firewall.drop("ip daddr 127.0.0.2");
        assert!(stands(&second, "leading").await < TAKEOVER_MAX);
        let (status, _) = first.api.submit(&first.user("ann"), &first.user("bob")).await;
        assert_eq!(status, 503, "what it says cannot be durable");
        reader.more(20).await;
        assert_eq!(first.readiness().await.0, 503);
        assert!(firewall.dropped() > 0, "else nothing was cut off");

        firewall.lift();
        stands(&first, "following").await;
        let (status, _) = first.api.submit(&first.user("ann"), &beta.user("bob")).await;
        assert_eq!(status, 202);
        reader.finish(load.stop().await).await;
    });
}

#[tokio::test]
async fn a_replica_that_does_not_know_yet_who_may_come_in_refuses_nobody_for_good() {
    let (server, url) = database();
    let proxy = Proxy::start(server.port()).unwrap();
    let through_proxy = url.replace(&server.port().to_string(), &proxy.port().to_string());
    let first = on_database(Plan::new("alpha.test"), url).start().await;
    let mut plan = on_database(Plan::replica_of(&first), through_proxy);
    proxy.close();
    let second = plan.site_mut();
    second.try_start().await.unwrap();
    let (status, _) = second.api.submit(&first.user("ann"), &first.user("bob")).await;
    assert_eq!((status, second.admin(Method::GET, "/admin/v1/peers", &Value::Null).await.0), (503, 503));
    proxy.open();
    stands(second, "following").await;
    exchange(second, &first).await;
    let stranger = second.api.with_token("tln_nobody");
    assert_eq!(stranger.submit(&first.user("ann"), &first.user("bob")).await.0, 401);
}

#[tokio::test]
async fn a_mistake_in_who_is_where_takes_the_store_from_nobody() {
    let (_, url) = database();
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let leads = on_database(Plan::new("alpha.test"), url.clone());
    let leads = leads.configure(|config| config.replica.advertise = nowhere.clone()).start().await;
    // Nobody can ask the first one, and the second one says that it is where the first one is not, either.
    let mut lost =
        on_database(Plan::replica_of(&leads), url).configure(|config| config.replica.advertise = nowhere);
    let lost = lost.site_mut();
    lost.try_start().await.unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        assert_eq!((standing(&leads).await, standing(lost).await), ("leading".into(), "seeking".into()));
        exchange(&leads, &leads).await;
    }
}

#[tokio::test]
async fn a_replica_that_stops_hands_over_at_once() {
    let (mut first, mut second) = two_replicas("alpha.test").await;
    for _ in 0..2 {
        first.stop().await;
        assert!(stands(&second, "leading").await < Duration::from_secs(2));
        exchange(&second, &second).await;
        first.start().await;
        stands(&first, "following").await;
        std::mem::swap(&mut first, &mut second);
    }
}

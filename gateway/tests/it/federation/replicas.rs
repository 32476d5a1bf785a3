//! Several gateways of one deployment on one database: whichever is asked, and whichever dies.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use http::Method;
use trunkline_gateway::init;
use trunkline_gateway::run::RunError;
use trunkline_gateway::store::StoreError;
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
async fn operators_see_at_any_replica_which_there_are_for_as_long_as_they_are_there() {
    let (mut first, mut second) = two_replicas("alpha.test").await;
    let address = |site: &mut Site| site.config().replica.advertise.clone();
    let (leader, follower) = (address(&mut first), address(&mut second));
    let version = env!("CARGO_PKG_VERSION");
    for site in [&first, &second] {
        let replicas = site.get("/admin/v1/status").await["replicas"].clone();
        for (replica, address, leads) in [(&replicas[0], &leader, true), (&replicas[1], &follower, false)] {
            assert_eq!(
                (&replica["address"], &replica["leads"]),
                (&json!(address), &json!(leads)),
                "{replicas}"
            );
            assert_eq!(replica["version"], version);
            assert!(replica["since"].as_u64() > Some(1_700_000_000_000), "{replicas}");
        }
        assert_eq!(replicas.as_array().unwrap().len(), 2);
        let checks = site.post("/admin/v1/doctor", json!({})).await["checks"].clone();
        let check = checks.as_array().unwrap().iter().find(|check| check["check"] == "replicas").unwrap();
        assert_eq!(check["finding"], format!("Of 2 replicas it leads; {follower} follows."));
    }
    let followers = async |site: &Site| {
        let (_, metrics) = site.admin(Method::GET, "/metrics", &Value::Null).await;
        let metrics = metrics.as_str().unwrap_or_default();
        let found = metrics.lines().find_map(|line| line.strip_prefix("trunkline_gateway_followers "));
        found.map(str::to_owned)
    };
    assert_eq!((followers(&first).await, followers(&second).await), (Some("1".into()), None));
    second.crash().await;
    eventually("it is listed no more", async || followers(&first).await == Some("0".into())).await;
    second.start().await;
    eventually("it is listed again", async || followers(&first).await == Some("1".into())).await;
}

#[tokio::test]
async fn a_recovered_token_is_taken_by_the_replica_in_whose_directory_it_is_once_that_leads() {
    let (mut first, second) = two_replicas("alpha.test").await;
    let recovered = |site: &Site| init::recover_token(&site.path("data")).unwrap().1;
    let opens = async |site: &Site, token: &str| {
        site.admin_with(token, Method::GET, "/admin/v1/status", &Value::Null).await.0 == 200
    };
    eventually("what `init` left is gone", async || !second.path("data/bootstrap.json").exists()).await;
    let (of_first, of_second) = (recovered(&first), recovered(&second));
    eventually("the leader takes its own", async || opens(&second, &of_first).await).await;
    assert!(!opens(&second, &of_second).await, "which is not of the one that leads");
    first.stop().await;
    eventually("the other one when it leads", async || opens(&second, &of_second).await).await;
}

/// Another deployment key than the one that `init` made.
fn change_deployment_key(site: &Site) {
    let key = trunkline_gateway::config::deployment_key::generate();
    std::fs::write(site.path("deployment.key"), &*key).unwrap();
}

#[tokio::test]
async fn a_replica_with_another_deployment_key_does_not_start() {
    let (_, url) = database();
    let first = on_database(Plan::new("alpha.test"), url.clone()).start().await;
    let mut plan = on_database(Plan::replica_of(&first), url);
    change_deployment_key(plan.site());
    let refused = plan.site_mut().try_start().await.unwrap_err();
    assert!(matches!(refused, RunError::Store(StoreError::WrongKey { .. })), "{refused}");
}

#[tokio::test]
async fn a_replica_with_another_deployment_key_ends_when_it_finds_out_only_after_its_start() {
    let (server, url) = database();
    let proxy = Proxy::start(server.port()).unwrap();
    let through_proxy = url.replace(&server.port().to_string(), &proxy.port().to_string());
    let first = on_database(Plan::new("alpha.test"), url).start().await;
    let mut plan = on_database(Plan::replica_of(&first), through_proxy);
    change_deployment_key(plan.site());
    proxy.close();
    let second = plan.site_mut();
    second.try_start().await.unwrap();
    let says = async |what: &str| {
        second.readiness().await.1["detail"].as_str().is_some_and(|why| why.contains(what))
    };
    eventually("it says what it seeks", async || says("the database").await).await;
    proxy.open();
    let ended = second.ended().await;
    assert!(matches!(ended, RunError::Store(StoreError::WrongKey { .. })), "{ended}");
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

/// A messaging server that envelopes are pushed to: where, and the ids of what it was given, in order.
async fn pushed_to() -> (String, Arc<Mutex<Vec<String>>>) {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let given = Arc::clone(&ids);
    let take = async move |axum::Json(body): axum::Json<Value>| {
        let new =
            body["envelopes"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
        given.lock().unwrap().extend(new);
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/push", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/push", axum::routing::post(take));
    tokio::spawn(async { axum::serve(listener, router).await });
    (url, ids)
}

#[tokio::test]
async fn webhooks_are_called_by_the_replica_that_leads_and_by_the_next_one_when_it_dies() {
    let (mut first, second) = two_replicas("alpha.test").await;
    let (url, pushed) = pushed_to().await;
    let network = json!({ "id": "lab", "local_domains": ["lab.alpha.test"], "webhook": { "url": url } });
    second.post("/admin/v1/networks", network).await;
    let mut sent = Vec::new();
    let write = async |site: &Site, sent: &mut Vec<String>| {
        for _ in 0..5 {
            let (status, result) = site.api.submit(&site.user("ann"), "eve@lab.alpha.test").await;
            assert_eq!(status, 202, "{result}");
            sent.push(result["id"].as_str().unwrap().to_owned());
        }
        eventually("all is pushed", async || pushed.lock().unwrap().len() >= sent.len()).await;
        // Nobody else pushes the same.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*pushed.lock().unwrap(), *sent);
    };
    write(&second, &mut sent).await;
    first.crash().await;
    stands(&second, "leading").await;
    write(&second, &mut sent).await;
}

/// Lets nothing pass between a replica and anybody else, as when its machine is without power. What it asks the database
/// goes there by a way of its own; `internal` is where the replica that leads is asked by the other one.
fn lose(firewall: &Firewall, replica: &Site, internal: u16) {
    firewall.drop("ip daddr 127.0.0.2");
    for port in [replica.link_address().port(), internal] {
        for side in ["dport", "sport"] {
            firewall.drop(&format!("meta l4proto {{ tcp, udp }} th {side} {port}"));
        }
    }
}

/// Two replicas on a server of their own, to which only the one that is to be lost goes by 127.0.0.2, and a peer whose link
/// came in at that one.
async fn to_be_lost(server: &Server, leads: bool) -> (Site, Site, Site, u16) {
    let near = server.url(&server.database());
    let far = near.replace("127.0.0.1", "127.0.0.2");
    let (first, second) = if leads { (far, near) } else { (near, far) };
    let mut first = on_database(Plan::new("zeta.test"), first).start().await;
    let internal = first.config().replica.listen.port();
    let second = on_database(Plan::replica_of(&first), second).start().await;
    let beta = Site::new("beta.test").await;
    if !leads {
        first.door.set_target(second.link_address());
    }
    peer(&first, &beta).await;
    (first, second, beta, internal)
}

#[test]
fn when_the_leaders_machine_is_lost_peers_go_on_with_another_replica_within_seconds() {
    let name = "federation::replicas::when_the_leaders_machine_is_lost_peers_go_on_with_another_replica_within_seconds";
    secluded::run(name, async || {
        let (firewall, server) = (Firewall::open(), Server::start());
        let (first, second, beta, internal) = to_be_lost(&server, true).await;
        let (load, reader) = (Load::start(&beta, &second), Reader::start(&second));
        reader.more(20).await;
        lose(&firewall, &first, internal);
        let lost = Instant::now();
        stands(&second, "leading").await;
        reader.more(20).await;
        assert!(lost.elapsed() < TAKEOVER_MAX, "{:?}", lost.elapsed());
        firewall.lift();
        stands(&first, "following").await;
        reader.finish(load.stop().await).await;
    });
}

#[test]
fn when_a_followers_machine_is_lost_peers_that_came_in_there_go_on_within_seconds() {
    let name = "federation::replicas::when_a_followers_machine_is_lost_peers_that_came_in_there_go_on_within_seconds";
    secluded::run(name, async || {
        let (firewall, server) = (Firewall::open(), Server::start());
        let (first, second, beta, internal) = to_be_lost(&server, false).await;
        let (load, reader) = (Load::start(&beta, &first), Reader::start(&first));
        reader.more(20).await;
        lose(&firewall, &second, internal);
        let lost = Instant::now();
        reader.more(20).await;
        assert!(lost.elapsed() < TAKEOVER_MAX, "{:?}", lost.elapsed());
        stands(&second, "seeking").await;
        firewall.lift();
        stands(&second, "following").await;
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

//! Calls that move, as two pages of a real Chromium see them: over two nodes, real processes, behind the front.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use trunkline_browser::{Browser, Page};

use crate::calls::{KEY, PATIENCE, decodes, errors, join, start_browser};
use crate::front::Cluster;
use crate::process::{Ingress, Relay};

/// The longest until both see each other again whose node was killed.
const BACK_MAX: Duration = Duration::from_secs(5);

/// The longest that a picture may stand still while a call is handed over. The aim is to see nothing; here one machine
/// decodes and encodes everything twice meanwhile.
const STANDSTILL_MAX_MS: u64 = 2_000;

/// Ann and Bob see and hear each other.
struct Pair {
    browser: Browser,
    ann: Page,
    bob: Page,
    call: String,
    node: u16,
}

impl Pair {
    async fn on(cluster: &Cluster) -> Self {
        let (call, node) = cluster.create(json!({})).await;
        let browser = start_browser(&[]).await;
        let (ann, bob) = (browser.first_page(), browser.new_page().await.unwrap());
        for (page, name) in [(&ann, "ann"), (&bob, "bob")] {
            let token = cluster.token(&call, name).await;
            let invitation = cluster.url(&format!("/call?call={call}&token={token}#key={KEY}"));
            join(page, &invitation).await;
        }
        let pair = Self { browser, ann, bob, call, node };
        pair.see_each_other().await;
        pair
    }

    async fn see_each_other(&self) {
        for source in ["camera", "microphone"] {
            decodes(&self.ann, "bob", source).await;
            decodes(&self.bob, "ann", source).await;
        }
    }

    /// Keeps the tracks of now, to see when they are others.
    async fn note_tracks(&self) {
        for page in [&self.ann, &self.bob] {
            let note = "window.tracks = window.trunklineCall.slots.map(({ stream }) => stream.getTracks()[0]); \
                window.states = []; window.trunklineCall.addEventListener('state', \
                ({ detail }) => window.states.push(detail.state));";
            page.run(note, &[]).await.unwrap();
        }
    }

    /// Waits until both show the tracks of another connection, and see each other in it.
    async fn are_elsewhere(&self) {
        let switched = "window.trunklineCall.slots.every(({ stream }, at) => \
            stream.getTracks()[0] !== window.tracks[at])";
        for page in [&self.ann, &self.bob] {
            page.wait_until(switched, PATIENCE).await.unwrap();
        }
        decodes(&self.ann, "bob", "camera").await;
        decodes(&self.bob, "ann", "camera").await;
    }
}

#[tokio::test]
async fn when_a_node_is_killed_both_see_each_other_again_in_seconds() {
    let mut cluster = Cluster::running().await;
    let pair = Pair::on(&cluster).await;
    pair.note_tracks().await;
    let began = Instant::now();
    cluster.kill(pair.node);
    pair.are_elsewhere().await;
    let took = began.elapsed();
    println!("back after {took:?}");
    assert!(took < BACK_MAX, "{took:?}");
    assert_eq!(cluster.calls_at(3 - pair.node), std::slice::from_ref(&pair.call));
    pair.see_each_other().await;
}

#[tokio::test]
async fn when_a_machine_dies_without_a_word_both_see_each_other_again_in_seconds() {
    let mut cluster = Cluster::running().await;
    let pair = Pair::on(&cluster).await;
    pair.note_tracks().await;
    let began = Instant::now();
    // Nothing answers any more, and nothing refuses.
    cluster.node(pair.node).signal("STOP");
    pair.are_elsewhere().await;
    let took = began.elapsed();
    println!("back after {took:?}");
    assert!(took < BACK_MAX, "{took:?}");
}

#[tokio::test]
async fn when_a_node_drains_nobody_sees_that_the_call_moves() {
    let cluster = Cluster::running().await;
    let pair = Pair::on(&cluster).await;
    pair.note_tracks().await;
    let watch = "const slot = window.trunklineCall.slots.find(({ participant, source }) => \
        participant === arguments[0] && source === 'camera'); \
        const video = Object.assign(document.createElement('video'), { muted: true, autoplay: true, srcObject: slot.stream }); \
        document.body.append(video); let last = performance.now(); window.gapMs = 0; \
        const look = () => { window.gapMs = Math.max(window.gapMs, performance.now() - last); last = performance.now(); \
        video.requestVideoFrameCallback(look); }; video.requestVideoFrameCallback(() => { last = performance.now(); look(); });";
    pair.ann.run(watch, &[json!("bob")]).await.unwrap();
    pair.bob.run(watch, &[json!("ann")]).await.unwrap();
    cluster.nodes[usize::from(pair.node) - 1].json(&["drain", "--deadline-s", "60"]);
    pair.are_elsewhere().await;
    pair.see_each_other().await;
    for page in [&pair.ann, &pair.bob] {
        assert_eq!(page.value("window.states").await.unwrap(), json!([]));
        let gap = page.value("Math.round(window.gapMs)").await.unwrap();
        println!("a picture stood still for {gap} ms");
        assert!(gap.as_u64().unwrap() < STANDSTILL_MAX_MS, "{gap}");
    }
    assert_eq!(cluster.calls_at(3 - pair.node), std::slice::from_ref(&pair.call));
    assert_eq!(errors(&pair.browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn when_the_front_is_restarted_media_goes_on_and_nobody_joins_anew() {
    let mut cluster = Cluster::running().await;
    let pair = Pair::on(&cluster).await;
    pair.note_tracks().await;
    for page in [&pair.ann, &pair.bob] {
        page.run("window.trunklineCall.roster.clear()", &[]).await.unwrap();
    }
    cluster.stop_front().await;
    cluster.start_front().await;
    for page in [&pair.ann, &pair.bob] {
        page.wait_until("window.trunklineCall.roster.size === 2", PATIENCE).await.unwrap();
    }
    pair.see_each_other().await;
    for page in [&pair.ann, &pair.bob] {
        let same = "window.trunklineCall.slots.every(({ stream }, at) => stream.getTracks()[0] === window.tracks[at])";
        assert_eq!(page.value(same).await.unwrap(), true);
        assert_eq!(page.value("window.states").await.unwrap(), json!([]));
    }
}

/// A loopback network of this test alone.
fn ip(host: u8) -> IpAddr {
    let id = std::process::id();
    let byte = |value: u32| u8::try_from(value % 254 + 1).unwrap();
    [127, byte(id / 254), byte(id), host].into()
}

/// Two nodes that are reached through an ingress only, all of them real processes.
struct Deployment {
    nodes: [Relay; 2],
    ingress: Ingress,
}

impl Deployment {
    fn running() -> Self {
        let first = Relay::tunnelled(1, ip(2), ip(11), None);
        let second = Relay::tunnelled(2, ip(2), ip(12), Some(&first));
        let ingress = Ingress::running(ip(2), &[(1, ip(11), &first), (2, ip(12), &second)]);
        Self { nodes: [first, second], ingress }
    }

    /// The address of the API, and the admin token.
    fn api(&self) -> (String, String) {
        (format!("http://{}", self.ingress.address), self.nodes[0].admin_token())
    }
}

/// Ann and Bob on a new call, all of it through the ingress.
async fn through(deployment: &Deployment) -> Pair {
    let (url, admin) = deployment.api();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |path: String, body: serde_json::Value| {
        let request = http.post(format!("{url}{path}")).bearer_auth(&admin).json(&body);
        let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        answer
    };
    let created = post("/v1/calls".to_owned(), json!({})).await;
    let call = created["call_id"].as_str().unwrap().to_owned();
    let node = call[..4].parse().unwrap();
    let browser = start_browser().await;
    let (ann, bob) = (browser.first_page(), browser.new_page().await.unwrap());
    for (page, name) in [(&ann, "ann"), (&bob, "bob")] {
        let minted = post(format!("/v1/calls/{call}/tokens"), json!({ "participant": name })).await;
        let token = minted["token"].as_str().unwrap();
        join(page, &format!("{url}/call?call={call}&token={token}#key={KEY}")).await;
    }
    let pair = Pair { browser, ann, bob, call, node };
    pair.see_each_other().await;
    pair
}

#[tokio::test]
async fn behind_an_ingress_a_killed_nodes_call_goes_on_within_seconds() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut deployment = Deployment::running();
    let pair = through(&deployment).await;
    pair.note_tracks().await;
    let began = Instant::now();
    let node = &mut deployment.nodes[usize::from(pair.node) - 1];
    node.signal("KILL");
    node.ended();
    pair.are_elsewhere().await;
    let took = began.elapsed();
    println!("back after {took:?}");
    assert!(took < BACK_MAX, "{took:?}");
}

#[tokio::test]
async fn when_an_ingress_is_killed_and_back_both_see_each_other_in_seconds() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut deployment = Deployment::running();
    let pair = through(&deployment).await;
    let began = Instant::now();
    deployment.ingress.kill();
    deployment.ingress.start();
    pair.see_each_other().await;
    let took = began.elapsed();
    println!("seen again after {took:?}");
    assert!(took < BACK_MAX, "{took:?}");
    for page in [&pair.ann, &pair.bob] {
        page.wait_until("window.trunklineCall.roster.size === 2", PATIENCE).await.unwrap();
    }
}

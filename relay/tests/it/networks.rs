//! Calls of real browsers over networks that do not let everything through, and whose parts go away: each test in a
//! network of its own (see [`trunkline_testkit::secluded`]).

use std::time::Duration;

use serde_json::{Value, json};
use trunkline_browser::{Browser, Page};

use crate::calls::{KEY, PATIENCE, create, decodes, errors, invitation, join, start_browser};
use crate::moves::{Deployment, through};
use crate::process::{INGRESS_TCP_PORT, Relay};
use trunkline_testkit::secluded::{self, Firewall};

/// The TCP port of nodes here. Nobody else is in their network.
const TCP_PORT: u16 = 4443;

/// How long pictures may stand still when the way they come is cut off, and they have to come another.
const STANDSTILL_MAX: Duration = Duration::from_secs(5);

/// What a connection goes over: the protocol towards the relay, and the type of the page's own candidate.
async fn goes_over(page: &Page) -> (String, String) {
    let stats = page.value("window.trunklineCall.stats()").await.unwrap();
    let pair = &stats["transport"]["pair"];
    let text = |name: &str| pair[name].as_str().unwrap_or("none").to_owned();
    (text("protocol"), text("localType"))
}

/// Two people in one call, who see and hear each other.
async fn two(relay: &Relay, call: &str, flags: &[&str]) -> (Browser, Page, Page) {
    let browser = start_browser(flags).await;
    let (ann, bob) = (browser.first_page(), browser.new_page().await.unwrap());
    for (page, name) in [(&ann, "ann"), (&bob, "bob")] {
        join(page, &invitation(relay, call, name, KEY)).await;
    }
    for source in ["camera", "microphone"] {
        decodes(&ann, "bob", source).await;
        decodes(&bob, "ann", source).await;
    }
    (browser, ann, bob)
}

/// Watches somebody's picture, until [`longest_standstill`].
async fn watch(page: &Page, participant: &str) {
    page.run("window.unwatch = test.watchPicture(arguments[0])", &[json!(participant)]).await.unwrap();
}

/// The longest time without a new picture since [`watch`]; it waits for one more.
async fn longest_standstill(page: &Page) -> Duration {
    let seen: Value = page.value("window.unwatch()").await.unwrap();
    assert!(seen["pictures"].as_u64() > Some(0), "{seen}");
    Duration::from_millis(seen["gapMs"].as_u64().unwrap())
}

#[test]
fn with_udp_blocked_a_call_comes_up_over_tcp() {
    secluded::run("networks::with_udp_blocked_a_call_comes_up_over_tcp", async || {
        let firewall = Firewall::open();
        firewall.drop("meta l4proto udp");
        let relay = Relay::with_tcp(TCP_PORT, false);
        let call = create(&relay);
        let (browser, ann, bob) = two(&relay, &call, &[]).await;
        for page in [&ann, &bob] {
            assert_eq!(goes_over(page).await.0, "tcp");
        }
        assert!(firewall.dropped() > 0, "else UDP was not blocked");
        assert_eq!(errors(&browser).await, Vec::<String>::new());
    });
}

#[test]
fn where_only_tls_is_let_through_a_call_comes_up_over_turn_within_tls() {
    secluded::run(
        "networks::where_only_tls_is_let_through_a_call_comes_up_over_turn_within_tls",
        async || {
            let firewall = Firewall::open();
            firewall.drop("meta l4proto udp");
            firewall.drop_clear_checks_over_tcp(TCP_PORT);
            let relay = Relay::with_tcp(TCP_PORT, true);
            let call = create(&relay);
            let (_browser, ann, bob) = two(&relay, &call, &["--ignore-certificate-errors"]).await;
            for page in [&ann, &bob] {
                assert_eq!(goes_over(page).await.1, "relay");
            }
        },
    );
}

#[test]
fn when_udp_is_cut_off_pictures_go_on_over_tcp_and_go_back_when_it_returns() {
    secluded::run(
        "networks::when_udp_is_cut_off_pictures_go_on_over_tcp_and_go_back_when_it_returns",
        async || {
            let firewall = Firewall::open();
            let relay = Relay::with_tcp(TCP_PORT, false);
            let call = create(&relay);
            let (_browser, ann, bob) = two(&relay, &call, &[]).await;
            assert_eq!(goes_over(&ann).await.0, "udp");
            // In the midst of a call: a page knows by then what a steady stream is.
            for (page, other) in [(&ann, "bob"), (&bob, "ann")] {
                let many = format!("(await test.slot('{other}', 'camera')).framesDecoded > 40");
                page.wait_until(&many, PATIENCE).await.unwrap();
            }
            for (page, other) in [(&ann, "bob"), (&bob, "ann")] {
                watch(page, other).await;
            }
            firewall.drop("meta l4proto udp");
            for (page, other) in [(&ann, "bob"), (&bob, "ann")] {
                let over_tcp = "(await window.trunklineCall.stats()).transport.pair?.protocol === 'tcp'";
                page.wait_until(over_tcp, PATIENCE).await.unwrap();
                decodes(page, other, "camera").await;
                let standstill = longest_standstill(page).await;
                assert!(standstill < STANDSTILL_MAX, "{standstill:?}");
            }
            firewall.lift();
            for page in [&ann, &bob] {
                let over_udp = "(await window.trunklineCall.stats()).transport.pair?.protocol === 'udp'";
                page.wait_until(over_udp, PATIENCE).await.unwrap();
            }
            decodes(&ann, "bob", "camera").await;
        },
    );
}

#[test]
fn behind_an_ingress_a_call_comes_up_over_tcp_and_where_only_tls_is_let_through_over_turn() {
    let name =
        "networks::behind_an_ingress_a_call_comes_up_over_tcp_and_where_only_tls_is_let_through_over_turn";
    secluded::run(name, async || {
        let firewall = Firewall::open();
        // The tunnel behind it is UDP, too.
        firewall.drop("udp dport 16384");
        let deployment = Deployment::running();
        let pair = through(&deployment, &[]).await;
        for page in [&pair.ann, &pair.bob] {
            assert_eq!(goes_over(page).await.0, "tcp");
        }
        drop(pair);
        firewall.drop_clear_checks_over_tcp(INGRESS_TCP_PORT);
        let pair = through(&deployment, &["--ignore-certificate-errors"]).await;
        for page in [&pair.ann, &pair.bob] {
            assert_eq!(goes_over(page).await.1, "relay");
        }
        assert!(firewall.dropped() > 0);
    });
}

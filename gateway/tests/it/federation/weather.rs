//! Networks that block, break and crawl, peers that are dead, and strangers who talk nonsense.

use std::net::{Ipv4Addr, UdpSocket};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline_testkit::rng::Rng;
use trunkline_testkit::shaper::{Cut, Profile, Rate, Which};

use super::*;

/// What the way around blocked UDP must not take longer than.
const FALLS_BACK_WITHIN: Duration = Duration::from_secs(1);

/// A network of 200 kB/s.
const SLOW: Profile = Profile {
    delay: Duration::from_millis(20),
    jitter: Duration::ZERO,
    loss: 0.0,
    reorder: 0.0,
    duplicate: 0.0,
    rate: Some(Rate { bytes_per_s: 200_000, queue_bytes: 60_000 }),
    cut: Cut::Open,
};

/// A payload of so many bytes, as base64.
fn payload(bytes: usize) -> Value {
    json!({ "payload": "AAAA".repeat(bytes.div_ceil(3)) })
}

#[tokio::test]
async fn where_udp_is_blocked_a_link_comes_up_over_tcp_within_a_second() {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    for site in [&alpha, &beta] {
        site.door.cut(Which::Udp, Cut::Silent);
    }
    let answer = beta.accept(alpha.invite(&beta).await).await;
    // Only alpha dials: what is measured begins when it does.
    beta.on_peer(&alpha, "pause").await;
    beta.on_peer(&alpha, "resume").await;
    alpha.door.cut(Which::Tcp, Cut::Reset);
    alpha.accept(answer).await;
    let took = eventually("the link is up", async || alpha.is_up(&beta).await).await;
    assert_eq!(alpha.peer(&beta).await["transport"], "tcp");
    assert!(took < FALLS_BACK_WITHIN, "it took {took:?}");
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    load.more(200).await;
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn a_link_whose_udp_is_cut_in_mid_flight_is_made_again_over_tcp_and_nothing_is_lost() {
    let (alpha, beta) = two_sites().await;
    let (reader, load) = (Reader::start(&beta), Load::paced(&alpha, &beta, Duration::from_millis(20)));
    reader.more(200).await;
    assert_eq!(alpha.peer(&beta).await["transport"], "quic");
    for site in [&alpha, &beta] {
        site.door.cut(Which::Udp, Cut::Silent);
    }
    eventually("the link is over TCP", async || alpha.peer(&beta).await["transport"] == "tcp").await;
    reader.more(200).await;
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn tcp_connections_that_are_reset_under_load_are_made_again_and_nothing_is_lost() {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    for site in [&alpha, &beta] {
        site.door.cut(Which::Udp, Cut::Silent);
    }
    peer(&alpha, &beta).await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    for _ in 0..5 {
        reader.more(200).await;
        for site in [&alpha, &beta] {
            site.door.reset_connections();
        }
    }
    reader.more(200).await;
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn a_network_that_loses_reorders_and_duplicates_changes_nothing_for_envelopes() {
    let (alpha, beta) = two_sites().await;
    let bad = Profile {
        delay: Duration::from_millis(10),
        jitter: Duration::from_millis(5),
        loss: 0.05,
        reorder: 0.05,
        duplicate: 0.05,
        ..Profile::default()
    };
    for site in [&alpha, &beta] {
        site.door.set(Which::All, bad);
    }
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    reader.more(1000).await;
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn a_large_payload_does_not_hold_up_other_conversations() {
    let (alpha, beta) = two_sites().await;
    for site in [&alpha, &beta] {
        site.door.set(Which::All, SLOW);
    }
    let (ann, bob) = (alpha.user("ann"), beta.user("bob"));
    let mut large = payload(1_000_000);
    large["conversation"] = "large".into();
    let (_, large) = alpha.api.submit_with(&ann, &bob, large).await;
    let mut small = Vec::new();
    for number in 0..16 {
        let conversation = json!({ "conversation": format!("small {number}") });
        small.push(alpha.api.submit_with(&ann, &bob, conversation).await.1["id"].clone());
    }
    let mut order = Vec::new();
    for _ in 0..17 {
        order.push(beta.api.receive().await["id"].clone());
    }
    let place = order.iter().position(|id| *id == large["id"]).unwrap();
    // One of them may share its lane.
    assert!(place >= 12, "the large one came as number {place}");
    small.retain(|id| !order.contains(id));
    assert!(small.is_empty());
}

#[tokio::test]
async fn a_slow_peer_and_a_dead_one_do_not_slow_a_healthy_one() {
    let (alpha, beta) = (Site::new("alpha.test").await, Site::new("beta.test").await);
    let (slow, mut dead) = (Site::new("slow.test").await, Site::new("dead.test").await);
    // The slow one cannot dial: its link goes through its own door.
    alpha.door.cut(Which::Tcp, Cut::Reset);
    alpha.door.cut(Which::Udp, Cut::Silent);
    peer(&alpha, &slow).await;
    slow.door.set(Which::All, SLOW);
    alpha.door.cut(Which::All, Cut::Open);
    peer(&alpha, &beta).await;
    peer(&alpha, &dead).await;
    dead.stop().await;
    // Some twenty seconds of work for the slow one.
    for to in [&slow, &dead] {
        for number in 0..40 {
            let mut fields = payload(100_000);
            fields["conversation"] = number.to_string().into();
            let (status, _) = alpha.api.submit_with(&alpha.user("ann"), &to.user("bob"), fields).await;
            assert_eq!(status, 202);
        }
    }
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    let started = Instant::now();
    reader.more(1500).await;
    let took = started.elapsed();
    let waiting = alpha.peer(&slow).await["outbox"]["depth"].as_u64().unwrap();
    assert!(waiting > 0, "the slow peer was not slow: this test proves nothing");
    assert!(took < Duration::from_secs(10), "the healthy peer waited: {took:?}");
    let accepted = load.stop().await;
    reader.finish(accepted).await;
}

/// What a stranger may send: nothing that means something.
fn nonsense(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn nonsense_at_the_federation_port_changes_nothing() {
    let (alpha, beta) = two_sites().await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    reader.more(100).await;
    let before = beta.peer(&alpha).await;
    let (mut rng, port) = (Rng::new(5), beta.link_address());

    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for number in 0..2000 {
        let len = 1 + rng.index(1400);
        let mut datagram = nonsense(&mut rng, len);
        if number % 3 == 0 {
            // As long headers of QUIC version 1 begin.
            datagram.splice(..datagram.len().min(5), [0xc3, 0, 0, 0, 1]);
        }
        udp.send_to(&datagram, port).unwrap();
    }
    for beginning in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        for _ in 0..10 {
            let mut stream = TcpStream::connect(port).await.unwrap();
            let len = rng.index(4000);
            let bytes = [beginning, &nonsense(&mut rng, len)].concat();
            // It may be closed before all of it is written.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    }

    reader.more(100).await;
    let after = beta.peer(&alpha).await;
    assert_eq!(
        (&after["link"], &after["since"]),
        (&before["link"], &before["since"]),
        "the link is the same"
    );
    assert_eq!(beta.get("/admin/v1/peers").await["peers"].as_array().unwrap().len(), 1);
    assert_eq!(beta.readiness().await.0, 200);
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test]
async fn strangers_who_connect_and_say_nothing_do_not_disturb_a_live_link() {
    let (alpha, beta) = two_sites().await;
    let (reader, load) = (Reader::start(&beta), Load::start(&alpha, &beta));
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(beta.link_address()).await.unwrap());
    }
    reader.more(200).await;
    // They are let go of after the handshake's time, and new links get in.
    for stream in &mut held {
        let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("it is closed");
        assert!(matches!(end, Ok(0) | Err(_)));
    }
    alpha.on_peer(&beta, "pause").await;
    alpha.on_peer(&beta, "resume").await;
    alpha.up(&beta).await;
    reader.finish(load.stop_and_read_receipts().await).await;
}

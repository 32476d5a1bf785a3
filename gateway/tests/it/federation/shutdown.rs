//! Real processes that are told to stop in the middle of their work.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::block_in_place;

use super::site::LocalApi;
use super::*;
use crate::process::Gateway;

/// What a drain must not take longer than.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// What a second signal must not take longer than.
const STOPPED_AT_ONCE: Duration = Duration::from_secs(3);

/// The local API of a process.
fn api_of(gateway: &Gateway) -> LocalApi {
    let token = std::fs::read_to_string(gateway.path("networks/main.token")).unwrap();
    let api = LocalApi::new(token.trim().to_owned());
    api.set_address(address_of(gateway));
    api
}

fn address_of(gateway: &Gateway) -> SocketAddr {
    gateway.address("local_api").parse().unwrap()
}

/// Stops a process, checks how it ended, and starts it again.
fn restart(gateway: &mut Gateway, api: &LocalApi) {
    let started = Instant::now();
    assert_eq!(gateway.stop(), Some(0));
    assert!(started.elapsed() < STOPPED_WITHIN, "it took {:?}", started.elapsed());
    gateway.start();
    api.set_address(address_of(gateway));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_told_to_stop_under_load_ends_well_and_what_it_accepted_is_there_after_a_restart() {
    let (mut alpha, mut beta) =
        block_in_place(|| (Gateway::running("alpha.test"), Gateway::running("beta.test")));
    block_in_place(|| alpha.peer(&mut beta, "alpha.test", "beta.test"));
    let (from, to) = (api_of(&alpha), api_of(&beta));
    let reader = Reader::through(&to);
    let load = Load::through(&from, "ann@alpha.test".into(), "bob@beta.test".into(), Duration::ZERO);
    for _ in 0..2 {
        reader.more(300).await;
        block_in_place(|| restart(&mut alpha, &from));
        reader.more(300).await;
        block_in_place(|| restart(&mut beta, &to));
    }
    reader.more(300).await;
    reader.finish(load.stop_and_read_receipts().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_process_at_once_and_loses_nothing() {
    let mut gateway = block_in_place(|| Gateway::running("alpha.test"));
    let api = api_of(&gateway);
    for _ in 0..10 {
        assert_eq!(api.submit("ann@alpha.test", "bob@alpha.test").await.0, 202);
    }
    // A request that is never finished holds up the drain.
    let address = address_of(&gateway);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let token = std::fs::read_to_string(gateway.path("networks/main.token")).unwrap();
    let head = format!(
        "POST /v1/envelopes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\nExpect: 100-continue\r\n\r\n",
        token.trim()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The handler is at the body when it asks for it.
    stream.read_exact(&mut [0; 12]).await.unwrap();
    gateway.signal("TERM");
    eventually("no new connection is taken", async || TcpStream::connect(address).await.is_err()).await;
    let started = Instant::now();
    gateway.signal("TERM");
    assert_eq!(block_in_place(|| gateway.ended()), Some(0));
    assert!(started.elapsed() < STOPPED_AT_ONCE, "it took {:?}", started.elapsed());
    block_in_place(|| gateway.start());
    api.set_address(address_of(&gateway));
    assert_eq!(api.get("/v1/inbox").await.unwrap()["envelopes"].as_array().unwrap().len(), 10);
}

#[test]
fn a_process_whose_store_is_cut_short_or_damaged_ends_with_one_line_that_names_it() {
    let mut gateway = Gateway::running("alpha.test");
    assert_eq!(gateway.stop(), Some(0));
    let file = gateway.path("data/gateway.redb");
    let whole = std::fs::read(&file).unwrap();
    let mut pages = whole.clone();
    pages[4096..].fill(0xff);
    let damages = [&whole[..whole.len() / 2], &whole[..1000], &b"something else"[..], &pages[..]];
    for damaged in damages {
        std::fs::write(&file, damaged).unwrap();
        let run = gateway.cli(&["run"]);
        assert_eq!(run.status.code(), Some(1));
        let error = String::from_utf8(run.stderr).unwrap();
        assert!(error.contains("gateway.redb") && error.contains("restore"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    std::fs::write(&file, whole).unwrap();
    gateway.start();
}

#[test]
fn the_store_of_a_gateway_that_does_not_run_can_be_checked() {
    let mut gateway = Gateway::running("alpha.test");
    let running = gateway.cli(&["store", "check"]);
    assert_eq!(running.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&running.stderr).contains("in use by another trunkline-gateway"));
    let entries = gateway.json(&["audit", "list"])["entries"].as_array().unwrap().len();
    assert_eq!(gateway.stop(), Some(0));
    let found = gateway.json(&["store", "check"]);
    assert_eq!(found, json!({ "ok": true, "readable": entries, "damaged": [], "moved": null }));
    std::fs::remove_dir_all(gateway.path("data")).unwrap();
    let gone = gateway.cli(&["store", "check"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(!gateway.path("data").exists(), "nothing is made by looking");
}

//! Webhooks, against a server that records what it is sent.

use std::collections::VecDeque;

use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Redirect};
use http::{HeaderMap, StatusCode};
use tokio::task::JoinHandle;
use trunkline_http::serve::tls::{Tls, TlsFiles};

use super::*;
use crate::api::webhook;

const SECRET: &str = "shared secret";

/// A messaging server: answers with the given statuses, then with 200, and keeps what came.
#[derive(Clone, Default)]
struct Receiver {
    statuses: Arc<Mutex<VecDeque<u16>>>,
    received: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    changed: Arc<watch::Sender<usize>>,
}

async fn receive(Shared(receiver): Shared<Receiver>, headers: HeaderMap, body: Bytes) -> Answer {
    receiver.received.lock().unwrap().push((headers, body));
    receiver.changed.send_modify(|count| *count += 1);
    Answer(receiver.statuses.lock().unwrap().pop_front().unwrap_or(200))
}

struct Answer(u16);

impl IntoResponse for Answer {
    fn into_response(self) -> axum::response::Response {
        match self.0 {
            302 => Redirect::temporary("/elsewhere").into_response(),
            status => StatusCode::from_u16(status).unwrap().into_response(),
        }
    }
}

impl Receiver {
    /// Starts a server that answers with these statuses first, and points the network's webhook at it.
    async fn start(served: &Served, statuses: &[u16]) -> (Self, JoinHandle<()>) {
        Self::start_with(served, statuses, None, None).await
    }

    /// The same over TLS when there is one, with a webhook that trusts these authorities.
    async fn start_with(
        served: &Served,
        statuses: &[u16],
        tls: Option<Arc<Tls>>,
        ca_pem: Option<Vec<u8>>,
    ) -> (Self, JoinHandle<()>) {
        let receiver = Self::default();
        receiver.statuses.lock().unwrap().extend(statuses);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/hook?key=in-url", listener.local_addr().unwrap());
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move {
            let (_keep, stopping) = watch::channel(false);
            serve::serve(listener, tls.as_deref().map(Tls::acceptor), router, Limits::default(), stopping)
                .await;
        });
        let webhook = Webhook { url, secret: SECRET.into() };
        served.hub.directory_watch().store(Arc::new(directory(Some(webhook))));
        let config = webhook::Config {
            ca_pem,
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            ..webhook::Config::default()
        };
        let running = webhook::run(served.hub.clone(), config, served.stop.subscribe());
        (receiver, tokio::spawn(async move { running.await.unwrap() }))
    }

    async fn wait_for(&self, count: usize) -> Vec<(HeaderMap, Bytes)> {
        let mut changes = self.changed.subscribe();
        let reached = async { changes.wait_for(|seen| *seen >= count).await.map(|_| ()).unwrap() };
        tokio::time::timeout(PATIENCE, reached).await.expect("deliveries arrive");
        self.received.lock().unwrap().clone()
    }
}

fn seqs(body: &Bytes) -> Vec<u64> {
    let batch: Value = serde_json::from_slice(body).unwrap();
    batch["envelopes"].as_array().unwrap().iter().map(|one| one["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_webhook_gets_the_inbox_signed_and_a_2xx_acknowledges_it() {
    let served = served().await;
    served.put_envelopes([1, 2]);
    let (receiver, _task) = Receiver::start(&served, &[204]).await;
    let (headers, body) = receiver.wait_for(1).await.remove(0);
    assert_eq!(seqs(&body), [1, 2]);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["trunkline-network"], "main");
    let signature = headers["trunkline-signature"].to_str().unwrap();
    let (time, hex) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = [time.as_bytes(), b".", &body].concat();
    let expected: String =
        hmac::sign(&key, &signed).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
    served.until(|state| state.acks == [(INBOX, 2)]).await;
}

#[tokio::test]
async fn a_failed_delivery_is_made_again_until_it_succeeds() {
    let served = served().await;
    served.put_envelopes([1]);
    let (receiver, _task) = Receiver::start(&served, &[500, 404]).await;
    let received = receiver.wait_for(3).await;
    assert!(received.iter().all(|(_, body)| seqs(body) == [1]));
    served.until(|state| state.acks == [(INBOX, 1)]).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let served = served().await;
    served.put_envelopes([1]);
    let (receiver, _task) = Receiver::start(&served, &[302]).await;
    receiver.wait_for(2).await;
    served.until(|state| state.acks == [(INBOX, 1)]).await;
    // One redirect and one success: a followed redirect would have been a third.
    assert_eq!(receiver.received.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_that_finds_batches_too_large_gets_smaller_ones() {
    let served = served().await;
    served.put_envelopes(1..=256);
    let (receiver, _task) = Receiver::start(&served, &[413]).await;
    let received = receiver.wait_for(2).await;
    assert_eq!((seqs(&received[0].1).len(), seqs(&received[1].1).len()), (256, 128));
}

#[tokio::test]
async fn a_webhook_that_was_removed_gets_nothing_more() {
    let served = served().await;
    let (receiver, _task) = Receiver::start(&served, &[]).await;
    served.put_envelopes([1]);
    served.until(|state| state.acks == [(INBOX, 1)]).await;
    served.hub.directory_watch().store(Arc::new(directory(None)));
    // Its waiting read is given up once the change was seen.
    served.until(|state| state.reads == 2 && state.given_up == 1).await;
    served.put_envelopes([2]);
    assert_eq!(receiver.received.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn webhooks_end_when_the_gateway_stops() {
    let served = served().await;
    let (_receiver, task) = Receiver::start(&served, &[]).await;
    served.stop.send_replace(true);
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
}

/// A server's TLS for 127.0.0.1, and the certificate to trust.
fn tls() -> (Arc<Tls>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let files =
        TlsFiles { certificate: directory.path().join("hook.crt"), key: directory.path().join("hook.key") };
    std::fs::write(&files.certificate, pair.cert.pem()).unwrap();
    std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
    (Tls::load(files).unwrap(), pair.cert.pem().into_bytes())
}

#[tokio::test]
async fn an_https_webhook_with_a_trusted_certificate_is_delivered_to() {
    let served = served().await;
    served.put_envelopes([1]);
    let (tls, pem) = tls();
    let (_receiver, _task) = Receiver::start_with(&served, &[], Some(tls), Some(pem)).await;
    served.until(|state| state.acks == [(INBOX, 1)]).await;
}

#[tokio::test]
async fn an_https_webhook_with_another_certificate_gets_nothing() {
    let served = served().await;
    served.put_envelopes([1]);
    let ((tls, _), (_, other)) = (tls(), tls());
    let (receiver, _task) = Receiver::start_with(&served, &[], Some(tls), Some(other)).await;
    // It is tried again and again, and never acknowledged.
    served.until(|state| state.reads >= 3).await;
    assert!(served.state().acks.is_empty());
    assert!(receiver.received.lock().unwrap().is_empty());
}

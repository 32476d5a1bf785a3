//! The HTTP server that all APIs use: its bounds, its TLS, its end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use trunkline_http::serve::tls::{Tls, TlsError, TlsFiles};
use trunkline_http::serve::{Limits, serve};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn start(tls: Option<Arc<Tls>>, router: Router, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(serve(listener, tls.as_deref().map(Tls::acceptor), router, limits, stopping));
    Server { address, stop, task }
}

fn hello() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route(
            "/whoami",
            get(|ConnectInfo(remote): ConnectInfo<SocketAddr>| async move { remote.to_string() }),
        )
        .route("/echo", post(|body: Bytes| async move { body }))
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads until the answer's body, which ends with `end`, is there.
async fn read_to(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut text = String::new();
    let read = async {
        while !text.ends_with(end) {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer comes");
    text
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_caller_that_sends_its_first_request_too_slowly_is_closed() {
    let limits = Limits { first_request: Duration::from_millis(200), ..Limits::default() };
    let server = start(None, hello(), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let started = Instant::now();
    // A byte now and then, as slow-loris does, and never the empty line that ends the head.
    let (mut read, mut write) = stream.split();
    let drip = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for byte in "GET /hello HTTP/1.1\r\nHost: x\r\n".bytes().chain(std::iter::repeat(b'a')) {
            ticks.tick().await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    let end = async {
        let mut rest = Vec::new();
        let _ = read.read_to_end(&mut rest).await;
    };
    tokio::time::timeout(PATIENCE, async {
        tokio::select! { () = drip => {}, () = end => {} }
    })
    .await
    .expect("it is closed");
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_caller_that_says_nothing_is_closed() {
    let limits = Limits { first_request: Duration::from_millis(100), ..Limits::default() };
    let server = start(None, hello(), limits).await;
    closed(&mut TcpStream::connect(server.address).await.unwrap()).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let limits = Limits { next_request: Duration::from_millis(200), ..Limits::default() };
    let server = start(None, hello(), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_to(&mut stream, "hello").await;
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_body_that_stands_still_is_closed() {
    let limits = Limits { stall: Duration::from_millis(200), ..Limits::default() };
    let server = start(None, hello(), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf").await;
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_connection_above_the_limit_waits_until_another_one_ends() {
    let server = start(None, hello(), Limits { connections_max: 1, ..Limits::default() }).await;
    let request = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut first = TcpStream::connect(server.address).await.unwrap();
    send(&mut first, request).await;
    read_to(&mut first, "hello").await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    send(&mut second, request).await;
    // The first is still served, the second is not.
    send(&mut first, request).await;
    read_to(&mut first, "hello").await;
    assert_eq!(second.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(first);
    read_to(&mut second, "hello").await;
}

#[tokio::test]
async fn what_waited_while_the_process_stood_still_is_not_carried_out() {
    let limits = Limits { standstill_max: Some(Duration::from_millis(500)), ..Limits::default() };
    let server = start(None, hello(), limits).await;
    let request = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, request).await;
    read_to(&mut stream, "hello").await;
    #[allow(clippy::disallowed_methods, reason = "client and server stand still together")]
    std::thread::sleep(Duration::from_secs(1));
    send(&mut stream, request).await;
    read_to(&mut stream, "stood-still\"}").await;
    closed(&mut stream).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, request).await;
    read_to(&mut stream, "hello").await;
}

#[tokio::test]
async fn who_only_connects_does_not_make_the_process_seem_to_stand_still() {
    let limits = Limits { standstill_max: Some(Duration::from_millis(1500)), ..Limits::default() };
    let server = start(None, hello(), limits).await;
    for _ in 0..25 {
        let _connection = TcpStream::connect(server.address).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_to(&mut stream, "hello").await;
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let limits = Limits { connections_max: 3, per_source_max: Some(2), ..Limits::default() };
    let server = start(None, hello(), limits).await;
    let request = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        send(&mut stream, request).await;
        read_to(&mut stream, "hello").await;
        idle.push(stream);
    }
    // What it has too many is closed,
    closed(&mut TcpStream::connect(server.address).await.unwrap()).await;
    // others are served,
    let connect = async |last| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(server.address).await.unwrap()
    };
    let mut neighbour = connect(2).await;
    send(&mut neighbour, request).await;
    read_to(&mut neighbour, "hello").await;
    // it is closed also when there is no place for anybody,
    closed(&mut TcpStream::connect(server.address).await.unwrap()).await;
    // and may come again when it has fewer.
    idle.pop();
    let served = async {
        loop {
            let mut again = TcpStream::connect(server.address).await.unwrap();
            // Until the server knows of the one that left, this may be closed before, during or after it is written.
            if again.write_all(request.as_bytes()).await.is_ok()
                && matches!(again.read(&mut [0; 1]).await, Ok(1))
            {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("there is a place again");
}

#[tokio::test]
async fn handlers_see_the_address_of_the_caller() {
    let server = start(None, hello(), Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, "GET /whoami HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let own = stream.local_addr().unwrap().to_string();
    read_to(&mut stream, &own).await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_server_ends() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, go) = (Arc::clone(&entered), Arc::clone(&leave));
    let slow = get(move || async move {
        inside.notify_one();
        go.notified().await;
        "done"
    });
    let server = start(None, Router::new().route("/slow", slow), Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    entered.notified().await;
    server.stop.send_replace(true);
    // No further connection is taken, and the request still gets its answer.
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("the listener is closed");
    leave.notify_one();
    read_to(&mut stream, "done").await;
    tokio::time::timeout(PATIENCE, server.task).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_the_end() {
    let entered = Arc::new(Notify::new());
    let inside = Arc::clone(&entered);
    let never = get(move || async move {
        inside.notify_one();
        std::future::pending::<&str>().await
    });
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let server = start(None, Router::new().route("/never", never), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await;
    entered.notified().await;
    server.stop.send_replace(true);
    tokio::time::timeout(PATIENCE, server.task).await.expect("the server ends").unwrap();
    closed(&mut stream).await;
}

/// A directory with a certificate and its key, and their names.
fn tls_files() -> (tempfile::TempDir, TlsFiles) {
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("api.crt");
    let files = TlsFiles { certificate, key: directory.path().join("api.key") };
    write_pair(&files);
    (directory, files)
}

/// Writes a new self-signed pair and gives the certificate.
fn write_pair(files: &TlsFiles) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&files.certificate, pair.cert.pem()).unwrap();
    std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
    pair.cert.der().clone()
}

/// A request over TLS that trusts `certificate` only.
async fn over_tls(address: SocketAddr, certificate: CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    Ok(read_to(&mut stream, "hello").await)
}

#[tokio::test]
async fn a_reloaded_certificate_is_used_for_new_connections() {
    let (_directory, files) = tls_files();
    let old = write_pair(&files);
    let tls = Tls::load(files.clone()).unwrap();
    let server = start(Some(Arc::clone(&tls)), hello(), Limits::default()).await;
    over_tls(server.address, old.clone()).await.unwrap();
    let new = write_pair(&files);
    tls.reload().unwrap();
    over_tls(server.address, new).await.unwrap();
    assert!(over_tls(server.address, old).await.is_err());
}

#[tokio::test]
async fn files_that_were_replaced_are_found_without_being_told() {
    let (_directory, files) = tls_files();
    let tls = Tls::load(files.clone()).unwrap();
    let server = start(Some(Arc::clone(&tls)), hello(), Limits::default()).await;
    let new = write_pair(&files);
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(tls.watch(stopping));
    let found = async { while over_tls(server.address, new.clone()).await.is_err() {} };
    tokio::time::timeout(PATIENCE, found).await.expect("the new certificate is used");
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused_and_the_old_pair_stays() {
    let (_directory, files) = tls_files();
    let certificate = write_pair(&files);
    let tls = Tls::load(files.clone()).unwrap();
    let server = start(Some(Arc::clone(&tls)), hello(), Limits::default()).await;
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Pair { .. })));
    over_tls(server.address, certificate).await.unwrap();
}

#[test]
fn files_without_a_certificate_or_key_are_refused_by_name() {
    let (_directory, files) = tls_files();
    let said = |files: &TlsFiles| Tls::load(files.clone()).unwrap_err().to_string();
    std::fs::write(&files.key, "not a key").unwrap();
    assert!(said(&files).contains("api.key"));
    std::fs::write(&files.certificate, "").unwrap();
    assert!(said(&files).contains("api.crt"));
    let missing = TlsFiles { certificate: files.certificate.with_file_name("missing.crt"), ..files };
    assert!(said(&missing).contains("missing.crt"));
}

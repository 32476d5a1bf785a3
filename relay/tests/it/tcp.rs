//! Calls over TCP and TLS, through a node's real port.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::pki_types::CertificateDer;
use trunkline_http::serve::tls::{Tls, TlsFiles};
use trunkline_relay::node::{CallId, CreateCall, Node, NodeConfig, NodeError, StartError};
use trunkline_relay::tcp::PROTOCOLS;
use trunkline_relay_peer::{Peer, PeerEvent, Plan, Settings};
use trunkline_relay_proto::event::{Role, SourceName};

mod client;

use client::{Client, Link};

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node with one call on it.
struct Scene {
    node: Node,
    call: CallId,
    tcp: SocketAddr,
    settings: Arc<Settings>,
    people: Vec<Client>,
    joined: u64,
    /// Pictures filmed, by whoever.
    filmed: u32,
}

impl Scene {
    fn new(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut config = NodeConfig {
            listen: vec![[127, 0, 0, 1].into()],
            udp_ports: 30_000..=39_999,
            tcp_port: tcp.port(),
            ..NodeConfig::default()
        };
        change(&mut config);
        let (node, _) = Node::start(config).unwrap();
        let call = node.create(CreateCall::default()).unwrap().call_id.parse().unwrap();
        let settings = Settings::new(Instant::now()).unwrap().shared();
        Self { node, call, tcp, settings, people: Vec::new(), joined: 0, filmed: 0 }
    }

    /// Joins with a camera and two places for those of others. The answer, and who it is.
    async fn join(&mut self, link: Link) -> usize {
        self.joined += 1;
        let mut peer = Peer::new(&self.settings, self.joined);
        let offer = peer.offer(&Plan::receiver(0, 2).sending(&[SourceName::Camera]));
        let name = format!("p{}", self.joined);
        let answer = self.node.join(&self.call, &name, Role::Presenter, &offer).await.unwrap().answer;
        peer.answer(Instant::now(), &answer).unwrap();
        self.people.push(Client::new(peer, link));
        let who = self.people.len() - 1;
        self.until(|people| people[who].peer.is_connected());
        who
    }

    /// Everybody does what there is to do, until something is so.
    fn until(&mut self, mut is_so: impl FnMut(&mut [Client]) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.people.iter_mut().for_each(Client::turn);
            if is_so(&mut self.people) {
                return;
            }
            assert!(Instant::now() < end, "in time");
            let timeout = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            let reading = self.people.iter().filter(|client| client.reading);
            let mut fds: Vec<_> =
                reading.map(|client| PollFd::from_borrowed_fd(client.fd(), PollFlags::IN)).collect();
            let _ = rustix::event::poll(&mut fds, Some(&timeout));
        }
    }

    /// One films until all these others have seen something of it, byte for byte and in order. Pictures they missed in
    /// between.
    fn seen(&mut self, from: usize, by: &[usize]) -> u32 {
        let first = self.filmed + 1;
        let fresh = |payload: &[u8]| is_of(payload, from) && number_of(payload) >= first;
        let mut number = self.filmed;
        let mut last = None::<Instant>;
        self.until(|people| {
            // More than 10,000 packets a second would be taken of nobody.
            if last.is_none_or(|last| last.elapsed() > Duration::from_millis(1)) {
                number += 1;
                people[from].film(&picture(from, number));
                last = Some(Instant::now());
            }
            by.iter().all(|who| people[*who].media.iter().any(|payload| fresh(payload)))
        });
        self.filmed = number;
        let mut missed = 0;
        for who in by {
            let got: Vec<_> = self.people[*who].media.drain(..).filter(|payload| fresh(payload)).collect();
            let mut last = number_of(&got[0]) - 1;
            for payload in got {
                let number = number_of(&payload);
                assert!(number > last && payload == picture(from, number));
                missed += number - last - 1;
                last = number;
            }
        }
        missed
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.node.shutdown();
    }
}

/// A payload that says whose it is, and which.
fn picture(from: usize, number: u32) -> Vec<u8> {
    let mut payload: Vec<u8> =
        (0..1000_u32).map(|at| u8::try_from((at * 7 + number) % 251).unwrap()).collect();
    payload[..4].copy_from_slice(&u32::try_from(from).unwrap().to_be_bytes());
    payload[4..8].copy_from_slice(&number.to_be_bytes());
    payload
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[4..8].try_into().unwrap())
}

fn is_of(payload: &[u8], from: usize) -> bool {
    payload.starts_with(&u32::try_from(from).unwrap().to_be_bytes())
}

/// Writes a certificate for `relay.test`.
fn certificate(dir: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let signed =
        rcgen::CertificateParams::new(vec!["relay.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let files = TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    std::fs::write(&files.certificate, signed.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    (files, signed.der().clone())
}

/// Transports that an answer's candidates name.
fn transports(answer: &str) -> Vec<&str> {
    let lines = answer.lines().filter(|line| line.starts_with("a=candidate:"));
    lines.filter_map(|line| line.split(' ').nth(2)).collect()
}

#[tokio::test]
async fn people_on_udp_tcp_and_tls_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (files, trusted) = certificate(dir.path());
    let tls = Tls::load_for(files, PROTOCOLS).unwrap();
    let mut scene = Scene::new(|config| config.tls = Some(tls.config()));
    let udp = scene.join(client::udp()).await;
    let tcp = scene.join(client::tcp(scene.tcp)).await;
    let tls = scene.join(client::tls(scene.tcp, &trusted)).await;
    assert_eq!(scene.seen(udp, &[tcp, tls]), 0);
    assert_eq!(scene.seen(tcp, &[udp, tls]), 0);
    assert_eq!(scene.seen(tls, &[udp, tcp]), 0);
    let lobby = scene.node.lobby_counters().unwrap();
    assert_eq!((lobby.admitted_tcp, lobby.admitted_tls), (1, 1));
}

#[tokio::test]
async fn a_stream_that_comes_byte_by_byte_is_as_good() {
    let mut scene = Scene::new(|_| {});
    let watcher = scene.join(client::udp()).await;
    let tcp = scene.join(client::tcp(scene.tcp)).await;
    scene.people[tcp].chops = true;
    scene.seen(tcp, &[watcher]);
    scene.seen(watcher, &[tcp]);
}

#[tokio::test]
async fn frames_of_no_and_of_maximal_length_are_passed_over() {
    let mut scene = Scene::new(|_| {});
    let watcher = scene.join(client::udp()).await;
    let tcp = scene.join(client::tcp(scene.tcp)).await;
    scene.people[tcp].inject(&[0, 0]);
    scene.people[tcp].inject(&[&[0xff, 0xff][..], &[7; 65_535], &[0, 0]].concat());
    scene.seen(tcp, &[watcher]);
}

#[tokio::test]
async fn a_stalled_receiver_delays_nobody_and_goes_on_with_a_new_picture() {
    let mut scene = Scene::new(|_| {});
    let filming = scene.join(client::udp()).await;
    let watcher = scene.join(client::udp()).await;
    let stalled = scene.join(client::tcp(scene.tcp)).await;
    scene.seen(filming, &[watcher, stalled]);
    scene.people[stalled].reading = false;
    let (began, mut number) = (Instant::now(), scene.filmed);
    let mut late = Duration::ZERO;
    while scene.node.counters().2.dropped == 0 {
        assert!(began.elapsed() < PATIENCE, "what a stalled connection does not take is dropped");
        number += 1;
        let sent = Instant::now();
        scene.people[filming].film(&picture(filming, number));
        let wanted = picture(filming, number);
        scene.until(|people| people[watcher].media.last() == Some(&wanted));
        late = late.max(sent.elapsed());
        // More than 10,000 packets a second would be taken of nobody.
        scene.until(|_| sent.elapsed() > Duration::from_millis(1));
    }
    assert!(late < Duration::from_secs(5), "{late:?}");
    // Requests of before have been answered or given up.
    scene.until(|_| began.elapsed() > Duration::from_secs(3));
    scene.people[filming].events.clear();
    scene.people[stalled].media.clear();
    scene.people[stalled].reading = true;
    let wanted = PeerEvent::KeyFrameWanted(SourceName::Camera, 0);
    scene.until(|people| people[filming].events.contains(&wanted));
    let newest = picture(filming, number + 1);
    scene.people[filming].film(&newest);
    scene.until(|people| people[stalled].media.last() == Some(&newest));
    let mut pairs = scene.people[stalled].media.windows(2);
    let gap = pairs.any(|two| number_of(&two[1]) > number_of(&two[0]) + 1);
    assert!(gap, "old pictures were dropped");
}

#[tokio::test]
async fn who_has_both_goes_to_udp_and_a_closed_connection_is_left() {
    let mut scene = Scene::new(|_| {});
    let filming = scene.join(client::udp()).await;
    let moving = scene.join(client::tcp(scene.tcp)).await;
    scene.seen(filming, &[moving]);
    let tcp = std::mem::replace(&mut scene.people[moving].link, client::udp());
    scene.people[moving].peer.roam(Instant::now());
    scene.seen(filming, &[moving]);
    scene.seen(moving, &[filming]);
    // The connection is still open; back to it, and to UDP when it closes without a word.
    let udp = std::mem::replace(&mut scene.people[moving].link, tcp);
    scene.people[moving].peer.roam(Instant::now());
    scene.seen(filming, &[moving]);
    drop(std::mem::replace(&mut scene.people[moving].link, udp));
    scene.seen(filming, &[moving]);
    assert!(scene.node.snapshot(&scene.call).await.unwrap().counters["migrations"] >= 3);
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_shown_to_new_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (files, old) = certificate(dir.path());
    let tls = Tls::load_for(files, PROTOCOLS).unwrap();
    let mut scene = Scene::new(|config| config.tls = Some(tls.config()));
    let before = scene.join(client::tls(scene.tcp, &old)).await;
    let (_, new) = certificate(dir.path());
    tls.reload().unwrap();
    let after = scene.join(client::tls(scene.tcp, &new)).await;
    scene.seen(before, &[after]);
    scene.seen(after, &[before]);
}

#[tokio::test]
async fn answers_name_udp_and_tcp_or_only_tcp_where_that_is_forced() {
    let answer = async |scene: &mut Scene, call: &CallId| {
        let offer = Peer::new(&scene.settings, 99).offer(&Plan::receiver(0, 1));
        scene.node.join(call, "somebody", Role::Viewer, &offer).await.unwrap().answer
    };
    let mut scene = Scene::new(|_| {});
    let call = scene.call.clone();
    assert_eq!(transports(&answer(&mut scene, &call).await), ["udp", "tcp"]);
    let forced = scene.node.create(CreateCall { force_tcp: true, ..CreateCall::default() }).unwrap();
    assert_eq!(forced.tcpuri, Some(scene.tcp.to_string()));
    let forced = forced.call_id.parse().unwrap();
    let text = answer(&mut scene, &forced).await;
    assert_eq!(transports(&text), ["tcp"]);
    assert!(text.contains(&format!(" {} typ host tcptype passive", scene.tcp.port())), "{text}");

    let mut forcing = Scene::new(|config| config.force_tcp = true);
    let call = forcing.call.clone();
    assert_eq!(transports(&answer(&mut forcing, &call).await), ["tcp"]);

    let mut without = Scene::new(|config| config.tcp_port = 0);
    let call = without.call.clone();
    assert_eq!(transports(&answer(&mut without, &call).await), ["udp"]);
    let refused = without.node.create(CreateCall { force_tcp: true, ..CreateCall::default() });
    assert!(matches!(refused, Err(NodeError::NoTcp)));
    assert_eq!(without.node.create(CreateCall::default()).unwrap().tcpuri, None);
}

#[tokio::test]
async fn a_connection_for_a_call_that_is_not_here_is_closed() {
    let mut scene = Scene::new(|_| {});
    let who = scene.join(client::tcp(scene.tcp)).await;
    let counted = |scene: &Scene| scene.node.counters().2;
    scene.until({
        let node = scene.node.clone();
        move |_| node.counters().2.open_tcp == 1
    });
    let mut left = scene.people.remove(who);
    scene.node.end(&scene.call, trunkline_relay_proto::event::EndReason::CallEnded).unwrap();
    // The same client's check, with a ufrag that is still good, on a new connection.
    left.peer.roam(Instant::now());
    let mut late = Client::new(left.peer, client::tcp(scene.tcp));
    late.reading = false;
    late.turn();
    let node = scene.node.clone();
    scene.until(|_| node.counters().2.refused == 1);
    assert_eq!(counted(&scene).open_tcp, 0);
}

#[tokio::test]
async fn a_tcp_port_in_use_says_what_to_do() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let config = NodeConfig { listen: vec![[127, 0, 0, 1].into()], tcp_port: port, ..NodeConfig::default() };
    let error = Node::start(config).unwrap_err();
    assert!(matches!(error, StartError::TcpPort { .. }));
    let text = error.to_string();
    assert!(
        text.starts_with("media.tcp_port: cannot listen on TCP port") && text.contains("0 for none"),
        "{text}"
    );
}

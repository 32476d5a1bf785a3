//! Links over real sockets: who gets in, what travels, and how it ends.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use tempfile::TempDir;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use trunkline_gateway::identity::{Files, Identity};
use trunkline_gateway::link::{
    LinkCommand, LinkConfig, LinkEvent, LinkId, LinkSender, Links, Transport, tls,
};
use trunkline_gateway_proto::directory::{Directory, PeerRecord, PeerState, Trust};
use trunkline_gateway_proto::frame::{BLOB_CHUNK_BYTES, Channel, FRAME_BYTES_MAX};
use trunkline_gateway_proto::key::ChannelBinding;
use trunkline_gateway_proto::pin::{Pin, PinSet};
use trunkline_gateway_proto::store::{LANES, Lane, PeerKey};
use trunkline_gateway_proto::time::Time;
use trunkline_gateway_proto::wire::frame::Body;
use trunkline_gateway_proto::wire::{Blob, BlobRef, Data, Goaway, Item, Ping, Reason, item};
use trunkline_testkit::shaper::{Cut, Profile, Rate, Shaper, Which};

/// The other side's number in each directory.
const PEER: PeerKey = PeerKey(7);
const DEADLINE: Duration = Duration::from_secs(20);

/// A deployment with its links.
struct Side {
    dir: TempDir,
    identity: Arc<Identity>,
    directory: Arc<ArcSwap<Directory>>,
    links: Links,
    events: mpsc::Receiver<LinkEvent>,
}

/// What `Opened` said.
struct Open {
    link: LinkId,
    dialed: Option<PeerKey>,
    transport: Transport,
    certificate: Bytes,
    vouched: Vec<PeerKey>,
    binding: ChannelBinding,
    sender: LinkSender,
}

fn config() -> LinkConfig {
    LinkConfig { listen: "127.0.0.1:0".parse().unwrap(), ..LinkConfig::default() }
}

fn only(transport: Transport) -> LinkConfig {
    LinkConfig { quic: transport == Transport::Quic, tcp: transport == Transport::Tcp, ..config() }
}

async fn side(domain: &str, config: LinkConfig) -> Side {
    let dir = tempfile::tempdir().unwrap();
    let domain = domain.parse().unwrap();
    Identity::create(dir.path(), &domain).unwrap();
    side_with(dir, Identity::open, domain, config).await
}

async fn side_with(
    dir: TempDir,
    open: impl FnOnce(
        &std::path::Path,
        trunkline_common::ids::Domain,
    ) -> Result<Arc<Identity>, trunkline_gateway::identity::IdentityError>,
    domain: trunkline_common::ids::Domain,
    config: LinkConfig,
) -> Side {
    let identity = open(dir.path(), domain).unwrap();
    let directory = Arc::new(ArcSwap::from_pointee(Directory::default()));
    let (sender, events) = mpsc::channel(64);
    let links = Links::start(config, Arc::clone(&identity), Arc::clone(&directory), sender).await.unwrap();
    Side { dir, identity, directory, links, events }
}

fn peer(domain: &str, trust: Trust, endpoints: &[SocketAddr]) -> PeerRecord {
    PeerRecord {
        state: PeerState::Active,
        trust,
        endpoints: endpoints.iter().map(SocketAddr::to_string).collect(),
        allow_private_ips: true,
        ..PeerRecord::new(PEER, domain.parse().unwrap(), Time::from_unix_ms(0))
    }
}

fn pinned(pin: Pin) -> Trust {
    Trust::Pinned { pins: PinSet::current(pin) }
}

/// Two deployments that trust each other; alpha knows where beta is.
async fn pair(alpha: LinkConfig, beta: LinkConfig) -> (Side, Side) {
    let (alpha, beta) = (side("alpha.test", alpha).await, side("beta.test", beta).await);
    alpha.knows("beta.test", pinned(beta.identity.current().pin()), &beta);
    beta.knows("alpha.test", pinned(alpha.identity.current().pin()), &alpha);
    (alpha, beta)
}

impl Side {
    fn knows(&self, domain: &str, trust: Trust, at: &Side) {
        self.put(peer(domain, trust, &[at.links.local_addr()]));
    }

    fn put(&self, record: PeerRecord) {
        let mut directory = Directory::default();
        directory.put_peer(record);
        self.directory.store(Arc::new(directory));
    }

    async fn event(&mut self) -> LinkEvent {
        within(self.events.recv()).await.expect("links report while they exist")
    }

    async fn opened(&mut self) -> Open {
        match self.event().await {
            LinkEvent::Opened { link, dialed, transport, certificate, vouched, binding, sender, .. } => {
                Open { link, dialed, transport, certificate, vouched, binding, sender }
            }
            other => panic!("expected a link, got {other:?}"),
        }
    }

    async fn frame(&mut self) -> (Channel, Body) {
        match self.event().await {
            LinkEvent::Frame { channel, body, .. } => (channel, body),
            other => panic!("expected a frame, got {other:?}"),
        }
    }

    async fn closed(&mut self) -> String {
        match self.event().await {
            LinkEvent::Closed { reason, .. } => reason,
            other => panic!("expected the end of a link, got {other:?}"),
        }
    }

    async fn failed(&mut self) -> String {
        match self.event().await {
            LinkEvent::DialFailed { reason, .. } => reason,
            other => panic!("expected a failed dial, got {other:?}"),
        }
    }

    /// A dial that is refused: it fails, or ends before a frame came.
    async fn refused(&mut self) -> String {
        self.links.dial(PEER);
        match self.event().await {
            LinkEvent::DialFailed { reason, .. } => reason,
            LinkEvent::Opened { sender, .. } => {
                let _ = sender.send(LinkCommand::Send(Channel::Control, ping(1)));
                self.closed().await
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("within the deadline")
}

/// Both ends of a link that alpha dialled, and a first frame on it, as the core sends one.
async fn connect(alpha: &mut Side, beta: &mut Side) -> (Open, Open) {
    alpha.links.dial(PEER);
    let near = alpha.opened().await;
    let far = beta.opened().await;
    send(&near, Channel::Control, ping(0));
    assert_eq!(beta.frame().await, (Channel::Control, ping(0)));
    (near, far)
}

fn ping(nonce: u64) -> Body {
    Body::Ping(Ping { nonce })
}

fn data(first_seq: u64, length: usize) -> Body {
    let body = Some(item::Body::Envelope(vec![7; length].into()));
    Body::Data(Data { first_seq, items: vec![Item { ttl_ms: 1, body }] })
}

fn send(link: &Open, channel: Channel, body: Body) {
    link.sender.send(LinkCommand::Send(channel, body)).unwrap();
}

async fn accepted_over(transport: Transport) {
    let (mut alpha, mut beta) = pair(only(transport), only(transport)).await;
    let (near, far) = connect(&mut alpha, &mut beta).await;
    assert_eq!((near.transport, far.transport), (transport, transport));
    assert_eq!((near.dialed, far.dialed), (Some(PEER), None));
    assert_eq!(near.certificate, beta.identity.current().der());
    assert_eq!(far.certificate, alpha.identity.current().der());
    assert_ne!(near.link, LinkId(0));
}

#[tokio::test]
async fn the_right_pins_are_let_in_over_quic() {
    accepted_over(Transport::Quic).await;
}

#[tokio::test]
async fn the_right_pins_are_let_in_over_tcp() {
    accepted_over(Transport::Tcp).await;
}

async fn wrong_server_pin(transport: Transport) {
    let (mut alpha, beta) = pair(only(transport), only(transport)).await;
    alpha.knows("beta.test", pinned(Pin::from_bytes([1; 32])), &beta);
    let reason = alpha.refused().await;
    assert!(reason.contains("not one of its pins"), "{reason}");
}

#[tokio::test]
async fn a_server_with_another_pin_is_refused_over_quic() {
    wrong_server_pin(Transport::Quic).await;
}

#[tokio::test]
async fn a_server_with_another_pin_is_refused_over_tcp() {
    wrong_server_pin(Transport::Tcp).await;
}

async fn wrong_client_pin(transport: Transport) {
    let (mut alpha, beta) = pair(only(transport), only(transport)).await;
    beta.knows("alpha.test", pinned(Pin::from_bytes([1; 32])), &alpha);
    let reason = alpha.refused().await;
    assert!(reason.contains("refused our certificate"), "{reason}");
}

#[tokio::test]
async fn a_client_with_another_pin_is_refused_over_quic_and_told_so() {
    wrong_client_pin(Transport::Quic).await;
}

#[tokio::test]
async fn a_client_with_another_pin_is_refused_over_tcp_and_told_so() {
    wrong_client_pin(Transport::Tcp).await;
}

#[tokio::test]
async fn a_client_that_nobody_knows_is_refused() {
    let (mut alpha, mut beta) = pair(config(), config()).await;
    beta.directory.store(Arc::default());
    let reason = alpha.refused().await;
    assert!(reason.contains("refused our certificate"), "{reason}");
    assert!(beta.events.try_recv().is_err());
}

async fn bindings(transport: Transport) {
    let (mut alpha, mut beta) = pair(only(transport), only(transport)).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (near, far) = connect(&mut alpha, &mut beta).await;
        for (a, b) in [
            (near.binding.dialer, far.binding.dialer),
            (near.binding.acceptor, far.binding.acceptor),
            (near.binding.rotation, far.binding.rotation),
        ] {
            assert_eq!(a, b);
            assert!(!seen.contains(&a));
            seen.push(a);
        }
        drop(near.sender);
        alpha.closed().await;
        beta.closed().await;
    }
}

#[tokio::test]
async fn both_ends_export_the_same_values_and_each_connection_others_over_quic() {
    bindings(Transport::Quic).await;
}

#[tokio::test]
async fn both_ends_export_the_same_values_and_each_connection_others_over_tcp() {
    bindings(Transport::Tcp).await;
}

async fn no_resumption(transport: Transport) {
    let (mut alpha, mut beta) = pair(only(transport), only(transport)).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    drop(near);
    alpha.closed().await;
    beta.closed().await;
    beta.knows("alpha.test", Trust::Pinned { pins: PinSet::default() }, &alpha);
    let reason = alpha.refused().await;
    assert!(reason.contains("refused our certificate"), "{reason}");
}

#[tokio::test]
async fn a_removed_pin_is_refused_although_it_was_let_in_a_moment_ago_over_quic() {
    no_resumption(Transport::Quic).await;
}

#[tokio::test]
async fn a_removed_pin_is_refused_although_it_was_let_in_a_moment_ago_over_tcp() {
    no_resumption(Transport::Tcp).await;
}

/// A raw QUIC client with alpha's identity, and the way to beta.
async fn raw_quic(alpha: &Side, beta: &Side) -> (quinn::Endpoint, quinn::Connecting) {
    let client = tls::client_config(
        Arc::clone(&alpha.identity),
        Arc::clone(&alpha.directory),
        PEER,
        Arc::new(OnceLock::new()),
    );
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(client, beta.links.local_addr(), "beta.test").unwrap();
    (endpoint, connecting)
}

/// As [`raw_quic`] over TCP, as far as the request's body.
async fn raw_tcp(alpha: &Side, beta: &Side) -> h2::SendStream<Bytes> {
    let client = tls::client_config(
        Arc::clone(&alpha.identity),
        Arc::clone(&alpha.directory),
        PEER,
        Arc::new(OnceLock::new()),
    );
    let stream = TcpStream::connect(beta.links.local_addr()).await.unwrap();
    let name = "beta.test".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("https://beta.test/trunkline/1").body(()).unwrap();
    let (response, send) = requests.ready().await.unwrap().send_request(request, false).unwrap();
    assert!(response.await.unwrap().status().is_success());
    send
}

#[tokio::test]
async fn the_server_gives_out_no_session_tickets() {
    let (alpha, beta) = pair(config(), config()).await;
    let mut client = tls::client_config(
        Arc::clone(&alpha.identity),
        Arc::clone(&alpha.directory),
        PEER,
        Arc::new(OnceLock::new()),
    );
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    client.enable_early_data = true;
    let connector = TlsConnector::from(Arc::new(client));
    for _ in 0..2 {
        let stream = TcpStream::connect(beta.links.local_addr()).await.unwrap();
        let stream = connector.connect("beta.test".try_into().unwrap(), stream).await.unwrap();
        // The server's settings come after where tickets would.
        stream.get_ref().0.readable().await.unwrap();
        let (_, tls) = stream.get_ref();
        assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(tls.tls13_tickets_received(), 0);
        assert!(!tls.is_early_data_accepted());
    }
}

/// A CA, and certificates under it in a directory.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    fn trust(&self) -> Trust {
        Trust::Ca { bundle_pem: self.0.pem() }
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let files = Files::named(dir.path(), "current");
        std::fs::write(files.key, key.serialize_pem()).unwrap();
        std::fs::write(files.certificate, certificate.pem()).unwrap();
        dir
    }
}

/// Alpha with this certificate dials beta, who trusts alpha by CA.
async fn ca_mode(alpha: TempDir, trusted: &Authority) -> (Side, Side) {
    let mut beta = side("beta.test", config()).await;
    let mut alpha = side_with(alpha, Identity::open, "alpha.test".parse().unwrap(), config()).await;
    alpha.knows("beta.test", pinned(beta.identity.current().pin()), &beta);
    beta.knows("alpha.test", trusted.trust(), &alpha);
    let _ = (&mut alpha, &mut beta);
    (alpha, beta)
}

#[tokio::test]
async fn in_ca_mode_a_good_chain_that_names_the_domain_is_let_in() {
    let authority = Authority::new();
    let (mut alpha, mut beta) = ca_mode(authority.issue("alpha.test", |_| ()), &authority).await;
    let (near, far) = connect(&mut alpha, &mut beta).await;
    assert_eq!(far.certificate, alpha.identity.current().der());
    assert_eq!((near.vouched, far.vouched), (Vec::new(), vec![PEER]));
}

#[tokio::test]
async fn in_ca_mode_a_dialled_server_is_held_to_its_chain_too() {
    let authority = Authority::new();
    let (alpha, mut beta) = ca_mode(authority.issue("alpha.test", |_| ()), &authority).await;
    let mut alpha = alpha;
    beta.links.dial(PEER);
    // Alpha knows beta by its pin, beta knows alpha by the CA.
    let near = beta.opened().await;
    alpha.opened().await;
    assert_eq!(near.vouched, [PEER]);
    beta.knows("alpha.test", Authority::new().trust(), &alpha);
    beta.links.dial(PEER);
    let reason = beta.failed().await;
    assert!(reason.contains("not good under its CA bundle"), "{reason}");
}

#[tokio::test]
async fn in_ca_mode_another_name_is_refused() {
    let authority = Authority::new();
    let (mut alpha, _beta) = ca_mode(authority.issue("gamma.test", |_| ()), &authority).await;
    assert!(alpha.refused().await.contains("refused our certificate"));
}

#[tokio::test]
async fn in_ca_mode_a_wildcard_is_refused() {
    let authority = Authority::new();
    let (mut alpha, _beta) = ca_mode(authority.issue("*.test", |_| ()), &authority).await;
    assert!(alpha.refused().await.contains("refused our certificate"));
}

#[tokio::test]
async fn in_ca_mode_another_authority_is_refused() {
    let (trusted, other) = (Authority::new(), Authority::new());
    let (mut alpha, _beta) = ca_mode(other.issue("alpha.test", |_| ()), &trusted).await;
    assert!(alpha.refused().await.contains("refused our certificate"));
}

#[tokio::test]
async fn in_ca_mode_an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let expired = authority.issue("alpha.test", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let (mut alpha, _beta) = ca_mode(expired, &authority).await;
    assert!(alpha.refused().await.contains("refused our certificate"));
}

#[tokio::test]
async fn in_ca_mode_a_certificate_for_servers_only_is_no_client() {
    let authority = Authority::new();
    let server_only = authority.issue("alpha.test", |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let (mut alpha, _beta) = ca_mode(server_only, &authority).await;
    assert!(alpha.refused().await.contains("refused our certificate"));
}

#[tokio::test]
async fn when_pinned_expiry_usage_and_name_do_not_matter() {
    let odd = Authority::new().issue("nobody.test", |params| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    });
    let mut alpha = side_with(odd, Identity::open, "alpha.test".parse().unwrap(), config()).await;
    let mut beta = side("beta.test", config()).await;
    alpha.knows("beta.test", pinned(beta.identity.current().pin()), &beta);
    beta.knows("alpha.test", pinned(alpha.identity.current().pin()), &alpha);
    connect(&mut alpha, &mut beta).await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_by_the_next_handshake() {
    let (mut alpha, mut beta) = pair(config(), config()).await;
    let (near, far) = connect(&mut alpha, &mut beta).await;
    let next = beta.identity.make_next().unwrap();
    beta.identity.promote().unwrap();
    alpha.knows("beta.test", pinned(next.pin()), &beta);
    let (again, _far_again) = connect(&mut alpha, &mut beta).await;
    assert_eq!(again.certificate, next.der());
    assert_ne!(again.certificate, near.certificate);
    drop(far);
    assert!(beta.dir.path().join("current.crt").exists());
}

async fn round_trip(transport: Transport) {
    let (mut alpha, mut beta) = pair(only(transport), only(transport)).await;
    let (near, far) = connect(&mut alpha, &mut beta).await;
    let mut frames = vec![(Channel::Control, ping(1))];
    for lane in 0..LANES {
        frames.push((Channel::Lane(Lane(lane)), data(u64::from(lane), 1000)));
    }
    let blob = Blob { blob_id: 3, chunk: vec![1; BLOB_CHUNK_BYTES].into(), last: true };
    frames.push((Channel::Blob(3), Body::Blob(blob)));
    let key = |(channel, _): &(Channel, Body)| *channel;
    for (from, to) in [(&near, &mut beta), (&far, &mut alpha)] {
        for (channel, body) in &frames {
            send(from, *channel, body.clone());
        }
        let mut got = Vec::new();
        for _ in 0..frames.len() {
            got.push(to.frame().await);
        }
        got.sort_by_key(key);
        assert_eq!(got, frames);
    }
}

#[tokio::test]
async fn frames_of_every_channel_arrive_both_ways_over_quic() {
    round_trip(Transport::Quic).await;
}

#[tokio::test]
async fn frames_of_every_channel_arrive_both_ways_over_tcp() {
    round_trip(Transport::Tcp).await;
}

async fn keeps_order(transport: Transport) {
    let (mut alpha, mut beta) = pair(only(transport), only(transport)).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    let count = 2000;
    for seq in 0..count {
        let lane = Channel::Lane(Lane(u8::try_from(seq % 2).unwrap()));
        send(&near, lane, data(seq, usize::try_from(seq % 5000).unwrap()));
    }
    let mut last = [None, None];
    for _ in 0..count {
        let (channel, Body::Data(data)) = beta.frame().await else { panic!("only data was sent") };
        let Channel::Lane(Lane(lane)) = channel else { panic!("on lanes") };
        let last = &mut last[usize::from(lane)];
        assert!(*last < Some(data.first_seq));
        *last = Some(data.first_seq);
    }
}

#[tokio::test]
async fn a_lane_keeps_its_order_over_quic() {
    keeps_order(Transport::Quic).await;
}

#[tokio::test]
async fn a_lane_keeps_its_order_over_tcp() {
    keeps_order(Transport::Tcp).await;
}

/// Sends a placeholder and its blob in pieces.
fn send_blob(link: &Open, blob_id: u64, bytes: usize) {
    let body = Some(item::Body::Blob(BlobRef { blob_id, bytes: bytes as u64 }));
    let items = vec![Item { ttl_ms: 1, body }];
    send(link, Channel::Lane(Lane(0)), Body::Data(Data { first_seq: blob_id, items }));
    let pieces = bytes / BLOB_CHUNK_BYTES;
    for piece in 1..=pieces {
        let chunk = vec![0; BLOB_CHUNK_BYTES].into();
        send(link, Channel::Blob(blob_id), Body::Blob(Blob { blob_id, chunk, last: piece == pieces }));
    }
}

#[tokio::test]
async fn a_large_blob_does_not_hold_up_another_lane_over_tcp() {
    let (mut alpha, mut beta) = pair(only(Transport::Tcp), only(Transport::Tcp)).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    send_blob(&near, 1, 1 << 20);
    send(&near, Channel::Lane(Lane(5)), data(1, 100));
    let mut pieces = 0;
    while beta.frame().await.0 != Channel::Lane(Lane(5)) {
        pieces += 1;
    }
    assert!(pieces < 12, "the lane waited for {pieces} frames of 17");
}

#[tokio::test]
async fn more_blobs_than_may_go_at_once_all_arrive_over_quic() {
    let (mut alpha, mut beta) = pair(only(Transport::Quic), only(Transport::Quic)).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    let (blobs, pieces) = (100, 2);
    for blob_id in 0..blobs {
        send_blob(&near, blob_id, pieces * BLOB_CHUNK_BYTES);
    }
    let mut got = 0;
    while got < 100 * pieces {
        got += usize::from(matches!(beta.frame().await.0, Channel::Blob(_)));
    }
}

async fn goes_away(transport: Transport) {
    let (mut alpha, mut beta) = pair(only(transport), only(transport)).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    for seq in 0..100 {
        send(&near, Channel::Lane(Lane(1)), data(seq, 10_000));
    }
    let goaway = Goaway { reason: Reason::Paused.into(), retry_after_ms: 5, detail: "x".to_owned() };
    near.sender.send(LinkCommand::Close(Some(goaway.clone()))).unwrap();
    let asked = Instant::now();
    let mut got = Vec::new();
    for _ in 0..101 {
        got.push(beta.frame().await.1);
    }
    assert!(got.contains(&Body::Goaway(goaway)));
    assert_eq!(beta.closed().await, "the peer closed the link");
    alpha.closed().await;
    assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_close_sends_what_waits_and_its_goaway_first_over_quic() {
    goes_away(Transport::Quic).await;
}

#[tokio::test]
async fn a_close_sends_what_waits_and_its_goaway_first_over_tcp() {
    goes_away(Transport::Tcp).await;
}

/// What comes from a stranger and what the link says of it, on the control channel.
fn garbage() -> [(Bytes, &'static str); 3] {
    let mut long = BytesMut::new();
    long.put_u32(u32::try_from(FRAME_BYTES_MAX).unwrap() + 1);
    let mut malformed = BytesMut::new();
    malformed.put_u32(3);
    malformed.put_slice(&[0xff; 3]);
    let mut misplaced = BytesMut::new();
    trunkline_gateway_proto::frame::encode(data(1, 10), &mut misplaced);
    [
        (long.freeze(), "frame longer than"),
        (malformed.freeze(), "not valid protobuf"),
        (misplaced.freeze(), "frame on the wrong channel"),
    ]
}

#[tokio::test]
async fn garbage_closes_a_quic_link_with_a_reason() {
    let (alpha, mut beta) = pair(config(), config()).await;
    for (bytes, expected) in garbage() {
        let (_endpoint, connecting) = raw_quic(&alpha, &beta).await;
        let connection = within(connecting).await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_chunk(bytes).await.unwrap();
        let _link = beta.opened().await;
        let reason = beta.closed().await;
        assert!(reason.contains(expected) && reason.contains("peer's fault"), "{reason}");
        let told = within(connection.closed()).await.to_string();
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn garbage_closes_a_tcp_link_with_a_reason() {
    let (alpha, mut beta) = pair(config(), config()).await;
    for (bytes, expected) in garbage() {
        let mut send = raw_tcp(&alpha, &beta).await;
        let _link = beta.opened().await;
        let mut framed = BytesMut::from(&[0_u8][..]);
        framed.put_slice(&bytes);
        send.send_data(framed.freeze(), false).unwrap();
        let reason = beta.closed().await;
        assert!(reason.contains(expected) && reason.contains("peer's fault"), "{reason}");
    }
}

#[tokio::test]
async fn two_streams_for_one_lane_close_a_quic_link() {
    let (alpha, mut beta) = pair(config(), config()).await;
    let (_endpoint, connecting) = raw_quic(&alpha, &beta).await;
    let connection = within(connecting).await.unwrap();
    let (mut control, _receive) = connection.open_bi().await.unwrap();
    control.write_all(&[0]).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[1]).await.unwrap();
        streams.push(stream);
    }
    let _link = beta.opened().await;
    let reason = beta.closed().await;
    assert!(reason.contains("a second stream for one lane"), "{reason}");
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_of_a_frame_closes_the_link() {
    let (alpha, mut beta) = pair(config(), config()).await;
    let mut send = raw_tcp(&alpha, &beta).await;
    let _link = beta.opened().await;
    send.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), true).unwrap();
    let reason = beta.closed().await;
    assert!(reason.contains("in the middle of a frame"), "{reason}");
}

#[tokio::test]
async fn when_udp_is_dropped_tcp_is_up_within_a_second() {
    let (mut alpha, mut beta) = pair(config(), only(Transport::Tcp)).await;
    // Swallows what comes: nothing is more silent than a firewall.
    let _hole = UdpSocket::bind(beta.links.local_addr()).await.unwrap();
    let begun = Instant::now();
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    assert_eq!(near.transport, Transport::Tcp);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn when_both_transports_work_quic_wins() {
    let (mut alpha, mut beta) = pair(config(), config()).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    assert_eq!(near.transport, Transport::Quic);
}

#[tokio::test]
async fn a_peer_that_tcp_reached_is_found_over_quic_once_that_works() {
    let probing = LinkConfig { quic_probe_interval: Duration::ZERO, ..config() };
    let (mut alpha, mut beta) = pair(probing, only(Transport::Tcp)).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    assert_eq!(near.transport, Transport::Tcp);
    let mut moved = side("gamma.test", config()).await;
    moved.knows("alpha.test", pinned(alpha.identity.current().pin()), &alpha);
    alpha.knows("beta.test", pinned(moved.identity.current().pin()), &moved);
    alpha.links.probe_quic(PEER);
    assert_eq!(alpha.opened().await.transport, Transport::Quic);
    moved.opened().await;
}

#[tokio::test]
async fn a_peer_that_is_down_is_reported_with_what_was_tried() {
    let (mut alpha, beta) = pair(config(), config()).await;
    let quick = LinkConfig { handshake_timeout: Duration::from_millis(500), ..config() };
    let mut prober = side("gamma.test", quick).await;
    prober.knows("beta.test", pinned(beta.identity.current().pin()), &beta);
    beta.links.shutdown().await;
    drop(beta);
    prober.links.dial(PEER);
    let reason = prober.failed().await;
    assert!(reason.contains("beta.test cannot be reached"), "{reason}");
    assert!(reason.contains("QUIC to") && reason.contains("TCP to"), "{reason}");
    assert!(!reason.contains("127.0.0.1"), "addresses need a higher log detail: {reason}");
    assert!(alpha.events.try_recv().is_err());
}

#[tokio::test]
async fn a_private_address_is_refused_unless_the_operator_allows_it() {
    let (mut alpha, beta) = pair(config(), config()).await;
    let mut record = peer("beta.test", pinned(beta.identity.current().pin()), &[beta.links.local_addr()]);
    record.allow_private_ips = false;
    alpha.put(record);
    alpha.links.dial(PEER);
    let reason = alpha.failed().await;
    assert!(reason.contains("loopback") && reason.contains("allow_private_ips"), "{reason}");
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_reported() {
    let (mut alpha, beta) = pair(config(), config()).await;
    let mut record = peer("beta.test", pinned(beta.identity.current().pin()), &[]);
    record.endpoints = vec!["nowhere".to_owned()];
    alpha.put(record);
    alpha.links.dial(PEER);
    assert!(alpha.failed().await.contains("`nowhere` is not host:port"));
}

/// A DNS server with one SRV record, for `gate.beta.test` at a port of 127.0.0.1; everything else it denies.
async fn dns(port: u16) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let answer = dns_answer(&query[..length], port);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

fn dns_answer(query: &[u8], port: u16) -> BytesMut {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &query[12..name_end + 4];
    let name = question[..question.len() - 4].to_ascii_lowercase();
    let kind = u16::from_be_bytes([query[name_end], query[name_end + 1]]);
    let gate = b"\x04gate\x04beta\x04test\0";
    let record = match kind {
        33 if name == b"\x0a_trunkline\x04_udp\x04beta\x04test\0" => {
            let mut data = BytesMut::new();
            for field in [10, 10, port] {
                data.put_u16(field);
            }
            data.put_slice(gate);
            Some(data)
        }
        1 if name == gate => Some(BytesMut::from(&[127, 0, 0, 1][..])),
        _ => None,
    };
    let exists = record.is_some() || name == gate;
    let mut answer = BytesMut::new();
    answer.put_slice(&query[..2]);
    answer.put_u16(if exists { 0x8180 } else { 0x8183 });
    for count in [1, u16::from(record.is_some()), 0, 0] {
        answer.put_u16(count);
    }
    answer.put_slice(question);
    if let Some(data) = record {
        answer.put_slice(&[0xc0, 12]);
        for field in [kind, 1, 0, 60, u16::try_from(data.len()).unwrap()] {
            answer.put_u16(field);
        }
        answer.put_slice(&data);
    }
    answer
}

#[tokio::test]
async fn a_peer_without_endpoints_is_found_through_its_srv_record() {
    let mut beta = side("beta.test", config()).await;
    let server = dns(beta.links.local_addr().port()).await;
    let mut alpha = side("alpha.test", LinkConfig { dns_servers: vec![server], ..config() }).await;
    beta.knows("alpha.test", pinned(alpha.identity.current().pin()), &alpha);
    alpha.put(peer("beta.test", pinned(beta.identity.current().pin()), &[]));
    connect(&mut alpha, &mut beta).await;
}

#[tokio::test]
async fn a_peer_that_dns_does_not_know_is_reported_with_what_to_do() {
    let server = dns(1).await;
    let mut alpha = side("alpha.test", LinkConfig { dns_servers: vec![server], ..config() }).await;
    alpha.put(peer("gamma.test", pinned(Pin::from_bytes([1; 32])), &[]));
    alpha.links.dial(PEER);
    let reason = alpha.failed().await;
    assert!(reason.contains("_trunkline._udp.gamma.test (no such record)"), "{reason}");
    let mut record = peer("gamma.test", pinned(Pin::from_bytes([1; 32])), &[]);
    record.endpoints = vec!["gate.gamma.test:8443".to_owned()];
    alpha.put(record);
    alpha.links.dial(PEER);
    let reason = alpha.failed().await;
    assert!(reason.contains("no address for gate.gamma.test (no such record)"), "{reason}");
}

#[tokio::test]
async fn strangers_that_only_connect_get_a_small_share_and_no_more() {
    let narrow = LinkConfig { pending_per_source_max: 2, ..config() };
    let (mut alpha, mut beta) = pair(only(Transport::Tcp), narrow).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(TcpStream::connect(beta.links.local_addr()).await.unwrap());
    }
    let reason = alpha.refused().await;
    assert!(reason.contains("TCP to"), "{reason}");
    drop(idle);
    // The places are free again once the listener saw the ends.
    let deadline = Instant::now() + DEADLINE;
    loop {
        alpha.links.dial(PEER);
        match alpha.event().await {
            LinkEvent::Opened { .. } => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    beta.opened().await;
}

/// Alpha reaches beta through a shaper.
async fn shaped_pair(transport: Transport, config: LinkConfig) -> (Side, Side, Shaper) {
    let config = LinkConfig { listen: "127.0.0.1:0".parse().unwrap(), ..config };
    let config =
        LinkConfig { quic: transport == Transport::Quic, tcp: transport == Transport::Tcp, ..config };
    let (alpha, beta) = pair(config.clone(), config).await;
    let shaper = Shaper::start(beta.links.local_addr(), 1).unwrap();
    alpha.put(peer("beta.test", pinned(beta.identity.current().pin()), &[shaper.addr()]));
    (alpha, beta, shaper)
}

async fn silence(transport: Transport) {
    let patient = LinkConfig {
        keep_alive: Duration::from_millis(200),
        idle_timeout: Duration::from_secs(1),
        ..config()
    };
    let (mut alpha, mut beta, shaper) = shaped_pair(transport, patient).await;
    let (_near, _far) = connect(&mut alpha, &mut beta).await;
    shaper.cut(Which::All, Cut::Silent);
    assert_eq!(alpha.closed().await, "nothing was heard from the peer any more");
    assert_eq!(beta.closed().await, "nothing was heard from the peer any more");
}

#[tokio::test]
async fn a_path_that_goes_silent_ends_the_link_on_both_sides_over_quic() {
    silence(Transport::Quic).await;
}

#[tokio::test]
async fn a_path_that_goes_silent_ends_the_link_on_both_sides_over_tcp() {
    silence(Transport::Tcp).await;
}

#[tokio::test]
async fn control_overtakes_a_backlog_on_a_slow_path() {
    let (mut alpha, mut beta, shaper) = shaped_pair(Transport::Quic, config()).await;
    let rate = Rate { bytes_per_s: 4_000_000, queue_bytes: 200_000 };
    shaper.set(Which::All, Profile { rate: Some(rate), ..Profile::default() });
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    let frames = 200;
    for seq in 0..frames {
        send(&near, Channel::Lane(Lane(u8::try_from(seq % 16).unwrap())), data(seq, 64 * 1024));
    }
    // The backlog is on its way when the first of it arrives.
    beta.frame().await;
    send(&near, Channel::Control, ping(9));
    let mut before = 0;
    while beta.frame().await.0 != Channel::Control {
        before += 1;
    }
    assert!(before < frames / 4, "{before} of {frames} frames came first");
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_frees_the_port() {
    let (mut alpha, mut beta) = pair(config(), config()).await;
    let (near, _far) = connect(&mut alpha, &mut beta).await;
    send(&near, Channel::Control, ping(1));
    assert_eq!(beta.frame().await.1, ping(1));
    let address = beta.links.local_addr();
    beta.links.shutdown().await;
    let (_, Body::Goaway(goaway)) = alpha.frame().await else { panic!("expected a GOAWAY") };
    assert_eq!(goaway.reason(), Reason::Shutdown);
    alpha.closed().await;
    let again = LinkConfig { listen: address, ..config() };
    drop(beta);
    within(async {
        loop {
            let (sender, _events) = mpsc::channel(1);
            let identity = Arc::clone(&alpha.identity);
            match Links::start(again.clone(), identity, Arc::clone(&alpha.directory), sender).await {
                Ok(_) => break,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
}

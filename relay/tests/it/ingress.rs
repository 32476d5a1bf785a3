//! Calls through an ingress, over real sockets: nodes and ingresses in this process, clients that are light peers.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_relay::ingress::config::IngressConfig;
use trunkline_relay::ingress::plane::{Counters, Plane};
use trunkline_relay::node::{CallId, CreateCall, IngressAccess, Node, NodeConfig};
use trunkline_relay_peer::{Frame, Peer, PeerEvent, Plan, Received, Settings};
use trunkline_relay_proto::event::{Role, SourceName};
use trunkline_relay_proto::flow::Refusal;
use trunkline_relay_proto::framing::{self, Deframer};
use trunkline_relay_proto::path::Transport;
use trunkline_relay_proto::stun::write_request;
use trunkline_relay_proto::tunnel::{self, Header, Kind};
use trunkline_relay_proto::ufrag::{Key, Route};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two packets of somebody who speaks.
const PACE: Duration = Duration::from_millis(10);

const KEY: [u8; 32] = [9; 32];
const UDP_PORT: u16 = 16_384;
const TCP_PORT: u16 = 16_443;

/// A loopback network of this test alone: every test runs in a process of its own.
fn ip(host: u8) -> IpAddr {
    let id = std::process::id();
    let byte = |value: u32| u8::try_from(value % 254 + 1).unwrap();
    [127, byte(id / 254), byte(id), host].into()
}

pub(crate) fn ingress_ip() -> IpAddr {
    ip(2)
}

pub(crate) fn node_ip(number: u16) -> IpAddr {
    ip(10 + u8::try_from(number).unwrap())
}

/// An ingress in front of two nodes.
fn start_ingress() -> Plane {
    start_ingress_with(2)
}

/// The same with so many threads, over which the system spreads clients.
fn start_ingress_with(threads: usize) -> Plane {
    let nodes: String = (1..=2)
        .map(|number| {
            let at = node_ip(number);
            format!("[[nodes]]\nnode = {number}\ntunnel = \"{at}:8446\"\napi = \"http://{at}:8444\"\n")
        })
        .collect();
    let ip = ingress_ip();
    let text = format!(
        "{nodes}[media]\nlisten = [\"{ip}\"]\ntcp_port = {TCP_PORT}\nthreads = {threads}\n[tunnel]\nlisten = \"{ip}:8700\"\n"
    );
    let config = IngressConfig::parse("ingress.toml", &text).unwrap();
    Plane::start(&config, KEY, None).unwrap()
}

fn start_node(number: u16) -> Node {
    let ingress = IngressAccess {
        listen: SocketAddr::new(node_ip(number), 8446),
        from: vec![ingress_ip()],
        advertise: vec![ingress_ip()],
        udp_port: UDP_PORT,
        tcp_port: TCP_PORT,
    };
    let config = NodeConfig {
        node: number,
        workers: 2,
        ufrag_key: KEY,
        ingress: Some(ingress),
        ..NodeConfig::default()
    };
    Node::start(config).unwrap().0
}

fn create(node: &Node) -> CallId {
    node.create(CreateCall::default()).unwrap().call_id.parse().unwrap()
}

/// How a client reaches the ingress.
enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream, Deframer),
}

impl Wire {
    fn udp() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self::Udp(socket)
    }

    fn tcp() -> Self {
        let stream = TcpStream::connect((ingress_ip(), TCP_PORT)).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::Tcp(stream, Deframer::default())
    }

    fn send(&mut self, datagram: &[u8]) {
        match self {
            Self::Udp(socket) => {
                socket.send_to(datagram, (ingress_ip(), UDP_PORT)).unwrap();
            }
            // So little is sent here that there is always room.
            Self::Tcp(stream, _) => {
                stream.write_all(&[&framing::length(datagram).unwrap()[..], datagram].concat()).unwrap();
            }
        }
    }

    fn receive(&mut self, mut handle: impl FnMut(&mut [u8])) {
        let mut buffer = [0; 16 * 1024];
        match self {
            Self::Udp(socket) => {
                while let Ok(len) = socket.recv(&mut buffer) {
                    handle(&mut buffer[..len]);
                }
            }
            Self::Tcp(stream, deframer) => loop {
                match stream.read(&mut buffer) {
                    Ok(0) => panic!("the ingress closed the connection"),
                    Ok(len) => deframer.feed(&mut buffer[..len], &mut handle),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(error) => panic!("{error}"),
                }
            },
        }
    }
}

/// A client, its socket, and what it heard.
pub(crate) struct Client {
    peer: Peer,
    wire: Wire,
    pub(crate) speaks: bool,
    spoke_at: Instant,
    timestamp: u32,
    /// Media that came.
    pub(crate) heard: u64,
    connected: bool,
    /// It sends nothing at all.
    muted: bool,
}

impl Client {
    async fn join(node: &Node, call: &CallId, name: &str, seed: u64) -> Self {
        let (mut client, offer) = Self::offering(seed);
        let joined = node.join(call, name, Role::Presenter, &offer).await.unwrap();
        client.answered(&joined.answer);
        client
    }

    /// One that is about to join, and what it offers.
    pub(crate) fn offering(seed: u64) -> (Self, String) {
        let now = Instant::now();
        let settings: Arc<Settings> = Settings::new(now).unwrap().shared();
        let mut peer = Peer::new(&settings, seed);
        let offer = peer.offer(&Plan::receiver(2, 0).sending(&[SourceName::Microphone]));
        let (speaks, muted, connected) = (false, false, false);
        let wire = Wire::udp();
        (Self { peer, wire, speaks, spoke_at: now, timestamp: 0, heard: 0, connected, muted }, offer)
    }

    /// It is let in.
    pub(crate) fn answered(&mut self, answer: &str) {
        self.peer.answer(Instant::now(), answer).unwrap();
        assert_eq!(self.peer.remote_address(), Some(SocketAddr::new(ingress_ip(), UDP_PORT)));
    }

    /// Sends what there is to send, and takes what came.
    fn turn(&mut self) {
        let now = Instant::now();
        let Self { peer, wire, heard, .. } = self;
        wire.receive(|datagram| {
            let received = peer.handle_datagram(now, datagram);
            *heard += u64::from(matches!(received, Some(Received::Media(_))));
        });
        let mut buffer = [0; 2000];
        if self.peer.poll_timeout().is_some_and(|at| at <= now) {
            self.peer.handle_timeout(now);
        }
        while !self.muted
            && let Some(len) = self.peer.poll_transmit(now, &mut buffer)
        {
            self.wire.send(&buffer[..len]);
        }
        if self.speaks && self.connected && now >= self.spoke_at + PACE {
            self.spoke_at = now;
            self.timestamp += 480;
            let frame =
                Frame { audio_level: Some((true, 20)), ..Frame::new(self.timestamp, false, &[7; 100]) };
            let len = self.peer.send_media(now, &mut buffer, SourceName::Microphone, &frame);
            self.wire.send(&buffer[..len]);
        }
        while let Some(event) = self.peer.poll_event() {
            assert!(
                !matches!(event, PeerEvent::Closed | PeerEvent::Lost | PeerEvent::Failed(_)),
                "{event:?}"
            );
            self.connected |= event == PeerEvent::Connected;
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Lets clients go on until something is so.
pub(crate) async fn until(clients: &mut [&mut Client], mut is_so: impl FnMut(&mut [&mut Client]) -> bool) {
    let began = Instant::now();
    loop {
        clients.iter_mut().for_each(|client| client.turn());
        if is_so(clients) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it does not become so");
        tokio::task::yield_now().await;
    }
}

/// Two people in a new call of a node, of whom the first speaks and the second hears it.
async fn conversation(node: &Node, seed: u64) -> (Client, Client) {
    let call = create(node);
    let mut ann = Client::join(node, &call, "ann", seed).await;
    let mut ben = Client::join(node, &call, "ben", seed + 1).await;
    ann.speaks = true;
    until(&mut [&mut ann, &mut ben], |clients| clients[1].heard > 10).await;
    (ann, ben)
}

/// Lets two people go on until the second heard more.
pub(crate) async fn goes_on(ann: &mut Client, ben: &mut Client) {
    let before = ben.heard;
    until(&mut [ann, ben], |clients| clients[1].heard > before + 10).await;
}

async fn counted(plane: &Plane, is_so: impl Fn(&Counters) -> bool) {
    until(&mut [], |_| is_so(&plane.counters())).await;
}

#[tokio::test]
async fn a_call_goes_through_the_ingress_both_ways() {
    let (plane, node) = (start_ingress(), start_node(1));
    let (mut ann, mut ben) = Box::pin(conversation(&node, 1)).await;
    ben.speaks = true;
    goes_on(&mut ben, &mut ann).await;
    counted(&plane, |counters| counters.flows == 2 && counters.downstream.datagrams > 20).await;
    let counters = plane.counters();
    assert_eq!((counters.tunnel_stranger, counters.tunnel_malformed), (0, 0));
    node.shutdown();
}

#[tokio::test]
async fn a_node_behind_an_ingress_opens_no_port_but_its_tunnels_and_names_the_ingress() {
    let node = start_node(1);
    let info = node.create(CreateCall::default()).unwrap();
    assert_eq!(info.calluri, format!("{}:{UDP_PORT}", ingress_ip()));
    assert!(UdpSocket::bind((ingress_ip(), UDP_PORT)).is_ok(), "that port is the ingress's to open");
    assert!(UdpSocket::bind((node_ip(1), 8447)).is_err(), "the second worker listens on the next port");
    assert!(UdpSocket::bind((node_ip(1), 8448)).is_ok());
    node.shutdown();
}

#[tokio::test]
async fn two_nodes_behind_one_ingress_get_the_people_of_their_own_calls() {
    let (_plane, one, two) = (start_ingress(), start_node(1), start_node(2));
    let (mut ann, mut ben) = Box::pin(conversation(&one, 1)).await;
    let (mut cid, mut dan) = Box::pin(conversation(&two, 10)).await;
    let before = (ben.heard, dan.heard);
    until(&mut [&mut ann, &mut ben, &mut cid, &mut dan], |clients| {
        clients[1].heard > before.0 + 10 && clients[3].heard > before.1 + 10
    })
    .await;
    let joined = |node: &Node| node.list().iter().map(|call| call.participants).sum::<usize>();
    assert_eq!((joined(&one), joined(&two)), (2, 2));
    one.shutdown();
    two.shutdown();
}

#[tokio::test]
async fn after_a_nat_rebinding_media_is_dropped_until_the_next_check_and_then_flows() {
    let (plane, node) = (start_ingress(), start_node(1));
    let (mut ann, mut ben) = Box::pin(conversation(&node, 1)).await;
    ann.wire = Wire::udp();
    ann.wire.send(&[0x80, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    counted(&plane, |counters| counters.flow.refused(Refusal::UnknownFlow) >= 1).await;
    ann.peer.roam(Instant::now());
    goes_on(&mut ann, &mut ben).await;
    // What is for ann goes to her new port.
    ben.speaks = true;
    goes_on(&mut ben, &mut ann).await;
    node.shutdown();
}

#[tokio::test]
async fn a_restarted_ingress_sends_on_at_once_what_nodes_send_to_clients_it_has_not_heard_of() {
    let (plane, node) = (start_ingress(), start_node(1));
    let (mut ann, mut ben) = Box::pin(conversation(&node, 1)).await;
    // Ben says nothing at all from now on, so no check tells the new ingress of him.
    ben.muted = true;
    drop(plane);
    let plane = start_ingress();
    goes_on(&mut ann, &mut ben).await;
    counted(&plane, |counters| counters.flows == 1).await;
    ben.muted = false;
    ben.speaks = true;
    goes_on(&mut ben, &mut ann).await;
    node.shutdown();
}

/// What the tunnel carries for a client over UDP that talks to the ingress's address.
fn tunnelled(client: SocketAddr, body: &[u8]) -> Vec<u8> {
    let IpAddr::V4(local) = ingress_ip() else { panic!("an IPv4 test network") };
    let header =
        Header { kind: Kind::Datagram, transport: Transport::Udp, remote: client, flow: local.to_bits() };
    [&header.write()[..], body].concat()
}

#[tokio::test]
async fn tunnel_packets_from_an_address_that_is_no_ingress_change_nothing_at_the_node() {
    let (_plane, node) = (start_ingress(), start_node(1));
    let call = create(&node);
    let mut ann = Client::join(&node, &call, "ann", 1).await;
    let mut buffer = [0; 2000];
    let len = ann.peer.poll_transmit(Instant::now(), &mut buffer).unwrap();
    let stranger = UdpSocket::bind((ip(99), 0)).unwrap();
    // A perfect check: only where it comes from is wrong.
    for port in [8446, 8447] {
        let packet = tunnelled(SocketAddr::from(([192, 0, 2, 1], 5000)), &buffer[..len]);
        stranger.send_to(&packet, (node_ip(1), port)).unwrap();
    }
    until(&mut [], |_| node.tunnel_counters().dropped_stranger == 2).await;
    assert_eq!(node.counters().0.datagrams_in, 0);
    until(&mut [&mut ann], |clients| clients[0].connected).await;
    node.shutdown();
}

#[tokio::test]
async fn tunnel_packets_from_an_address_that_is_no_node_reach_no_client() {
    let plane = start_ingress();
    let (client, stranger) = (socket(), UdpSocket::bind((ip(99), 8446)).unwrap());
    let to = client.local_addr().unwrap();
    stranger.send_to(&tunnelled(to, b"spoofed"), (ingress_ip(), 8700)).unwrap();
    counted(&plane, |counters| counters.tunnel_stranger == 1).await;
    // The same from a node arrives, alone.
    let node = UdpSocket::bind((node_ip(1), 8446)).unwrap();
    node.send_to(&tunnelled(to, b"from a node"), (ingress_ip(), 8700)).unwrap();
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 100];
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (&b"from a node"[..], SocketAddr::new(ingress_ip(), UDP_PORT)));
}

/// A check for the first worker of node 1, whose ufrag was made with this key.
fn check(key: [u8; 32]) -> Vec<u8> {
    let route = Route { node: 1, worker: 0, call: 1, participant: 1, expires_min: u32::MAX };
    let username = format!("{}:client", Key::new(key).write(&route));
    let mut check = [0; 256];
    let len = write_request(&mut check, &username, "password", 1, 1, true, [1; 12]).unwrap();
    check[..len].to_vec()
}

/// A socket in the place of node 1's first worker.
fn fake_node() -> UdpSocket {
    let node = UdpSocket::bind((node_ip(1), 8446)).unwrap();
    node.set_read_timeout(Some(PATIENCE)).unwrap();
    node
}

/// The next thing that the ingress sends to a fake node.
fn next_at(node: &UdpSocket) -> (Header, Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (len, from) = node.recv_from(&mut buffer).unwrap();
    let (header, body) = Header::parse(&buffer[..len]).unwrap();
    (header, body.to_vec(), from)
}

#[tokio::test]
async fn forged_first_packets_reach_no_node_and_make_no_flow() {
    let plane = start_ingress();
    let node = fake_node();
    Wire::udp().send(&check([8; 32]));
    counted(&plane, |counters| counters.flow.refused(Refusal::Forged) == 1).await;
    assert_eq!((plane.counters().flows, plane.counters().tunnel.datagrams), (0, 0));
    node.set_nonblocking(true).unwrap();
    assert!(node.recv(&mut [0; 100]).is_err());
}

#[tokio::test]
async fn who_comes_over_tcp_talks_with_who_comes_over_udp() {
    let (plane, node) = (start_ingress(), start_node(1));
    let call = create(&node);
    let mut ann = Client::join(&node, &call, "ann", 1).await;
    let mut ben = Client::join(&node, &call, "ben", 2).await;
    ann.wire = Wire::tcp();
    (ann.speaks, ben.speaks) = (true, true);
    until(&mut [&mut ann, &mut ben], |clients| clients.iter().all(|client| client.heard > 10)).await;
    counted(&plane, |counters| (counters.flows, counters.connections.open_tcp) == (1, 1)).await;
    // The connection is gone; who comes again over another one goes on without a new join.
    ann.wire = Wire::tcp();
    ann.peer.roam(Instant::now());
    goes_on(&mut ann, &mut ben).await;
    goes_on(&mut ben, &mut ann).await;
    counted(&plane, |counters| (counters.connections.closed, counters.connections.open_tcp) == (1, 1)).await;
    node.shutdown();
}

#[tokio::test]
async fn a_node_hears_of_a_connection_that_is_closed_and_of_one_that_is_not_there() {
    let _plane = start_ingress();
    let node = fake_node();
    let mut client = Wire::tcp();
    let first = check(KEY);
    client.send(&first);
    let (header, body, from) = next_at(&node);
    assert_eq!((header.kind, header.transport, body), (Kind::Datagram, Transport::Tcp, first));
    drop(client);
    assert_eq!(next_at(&node).0, Header { kind: Kind::Closed, ..header });
    node.send_to(&[&header.write()[..], b"late"].concat(), from).unwrap();
    assert_eq!(next_at(&node).0, Header { kind: Kind::Closed, ..header });
}

#[tokio::test]
async fn a_connection_that_a_node_closes_ends() {
    let plane = start_ingress();
    let node = fake_node();
    let mut client = Wire::tcp();
    client.send(&check(KEY));
    let (header, _, from) = next_at(&node);
    node.send_to(&Header { kind: Kind::Closed, ..header }.write(), from).unwrap();
    counted(&plane, |counters| counters.connections.closed == 1).await;
    let Wire::Tcp(stream, _) = &mut client else { panic!("TCP") };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(stream.read(&mut [0; 100]).unwrap(), 0);
}

#[tokio::test]
async fn a_node_is_told_whose_packets_were_dropped_because_a_connection_was_too_slow() {
    let plane = start_ingress();
    let node = fake_node();
    let mut client = Wire::tcp();
    client.send(&check(KEY));
    let (header, _, from) = next_at(&node);
    let mut packet = [&header.write()[..], &[0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], &[1; 1100]].concat();
    let mut sent = 0_u32;
    while plane.counters().connections.dropped_slow == 0 {
        for _ in 0..50 {
            sent += 1;
            packet[24 + 2..24 + 8].copy_from_slice(&[&sent.to_be_bytes()[2..], &sent.to_be_bytes()].concat());
            node.send_to(&packet, from).unwrap();
        }
        assert!(sent < 10_000_000, "nothing is dropped");
        tokio::task::yield_now().await;
    }
    let Wire::Tcp(stream, _) = &mut client else { panic!("TCP") };
    let mut buffer = vec![0; 1 << 20];
    node.set_nonblocking(true).unwrap();
    let told = loop {
        let _ = stream.read(&mut buffer);
        let mut datagram = [0; 2000];
        if let Ok(len) = node.recv(&mut datagram) {
            let (header, body) = Header::parse(&datagram[..len]).unwrap();
            break (header.kind, tunnel::dropped(body).collect::<Vec<_>>());
        }
        // What is sent now finds room, and shows that the connection takes something again.
        node.send_to(&packet, from).unwrap();
        tokio::task::yield_now().await;
    };
    assert_eq!(told, (Kind::Dropped, vec![7]));
}

#[tokio::test]
async fn connections_that_a_node_never_answers_make_way_for_their_participants_next() {
    let _plane = start_ingress_with(1);
    let node = fake_node();
    let check = check(KEY);
    let connect = || {
        let mut client = Wire::tcp();
        client.send(&check);
        let (header, _, from) = next_at(&node);
        (client, header, from)
    };
    // The participant's own, which the node knows, and fifteen of somebody who saw a ufrag.
    let (_own, own, from) = connect();
    node.send_to(&[&own.write()[..], b"answer"].concat(), from).unwrap();
    let strangers: Vec<_> = (0..15).map(|_| connect()).collect();
    let mut next = Wire::tcp();
    next.send(&check);
    let began = Instant::now();
    let said: Vec<Header> = (0..2).map(|_| next_at(&node).0).collect();
    assert!(
        said.contains(&Header { kind: Kind::Closed, ..strangers[0].1 }),
        "the oldest of them goes: {said:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "not because its time was over");
    let new = said.iter().find(|header| header.kind == Kind::Datagram).unwrap();
    assert!(strangers.iter().all(|(_, known, _)| known.flow != new.flow) && new.flow != own.flow);
}

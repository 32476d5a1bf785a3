//! Trains and batches over loopback.

use std::collections::HashMap;
use std::net::UdpSocket;

use super::*;

/// What came: as much as is expected, and what is there beyond that.
fn drain(socket: &UdpSocket, expected: usize) -> Vec<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("settable");
    let mut buffer = [0; 2000];
    let mut got = Vec::new();
    while let Ok(len) = socket.recv(&mut buffer) {
        got.push(buffer[..len].to_vec());
        if got.len() >= expected {
            socket.set_nonblocking(true).expect("settable");
        }
    }
    got
}

fn loopback(ip: &str) -> (UdpSocket, Path) {
    let ip: IpAddr = ip.parse().expect("an address");
    let socket = UdpSocket::bind((ip, 0)).expect("a port");
    let remote = socket.local_addr().expect("bound");
    (socket, Path::new(remote, ip))
}

fn train(egress: &mut Egress, path: Path, sizes: &[usize]) -> Vec<Vec<u8>> {
    let datagrams: Vec<Vec<u8>> =
        sizes.iter().enumerate().map(|(at, size)| vec![u8::try_from(at).unwrap_or(0); *size]).collect();
    datagrams.iter().for_each(|datagram| egress.push(path, datagram));
    datagrams
}

#[test]
fn trains_arrive_as_the_datagrams_they_are_made_of_with_and_without_offload() {
    for offload in [true, false] {
        let mut socket = Socket::bind(0, None).expect("a port");
        if !offload {
            socket.switch_offload_off();
        }
        for ip in ["127.0.0.1", "::1"] {
            let (client, path) = loopback(ip);
            let mut egress = Egress::default();
            let sent = train(&mut egress, path, &[1200, 1200, 1200, 700, 100, 100]);
            socket.send(&egress);
            assert_eq!(drain(&client, sent.len()), sent, "{ip}, offload {offload}");
        }
        assert_eq!(socket.counters.datagrams, 12);
        assert_eq!(socket.counters.datagrams_in_trains > 0, offload);
    }
}

#[test]
fn what_a_client_sends_comes_with_both_addresses_and_is_answered_from_there() {
    let mut socket = Socket::bind(0, None).expect("a port");
    let mut batch = Batch::default();
    for ip in ["127.0.0.1", "::1"] {
        let (client, path) = loopback(ip);
        client.connect((path.local, socket.port())).expect("connectable");
        for at in 0..10_u8 {
            client.send(&[at; 500]).expect("sent");
        }
        let mut got = Vec::new();
        while got.len() < 10 {
            socket.receive(&mut batch, |path, datagram| got.push((path, datagram.to_vec()))).expect("sound");
        }
        assert!(
            got.iter().enumerate().all(|(at, (from, bytes))| *from == path && usize::from(bytes[0]) == at)
        );
        let mut egress = Egress::default();
        egress.push(got[0].0, b"answer");
        socket.send(&egress);
        // A connected socket takes datagrams from the address it wrote to only.
        assert_eq!(drain(&client, 1), [b"answer"]);
    }
}

#[test]
fn trains_between_two_sockets_are_taken_apart_again() {
    let (mut from, to) = (Socket::bind(0, None).expect("a port"), Socket::bind(0, None).expect("a port"));
    let path = Path::new(([127, 0, 0, 1], to.port()).into(), [127, 0, 0, 1].into());
    let mut egress = Egress::default();
    let sent = train(&mut egress, path, &[1000; 40]);
    from.send(&egress);
    let (mut batch, mut got) = (Batch::default(), Vec::new());
    while got.len() < sent.len() {
        to.receive(&mut batch, |_, datagram| got.push(datagram.to_vec())).expect("sound");
    }
    assert_eq!(got, sent);
}

#[test]
fn a_destination_that_cannot_be_reached_costs_its_own_datagrams_only() {
    let mut socket = Socket::bind(0, None).expect("a port");
    let (client, path) = loopback("127.0.0.1");
    let nowhere = Path::new(([255, 255, 255, 255], 9).into(), [127, 0, 0, 1].into());
    let mut egress = Egress::default();
    for at in 0..3_u8 {
        egress.push(path, &[at; 10]);
        egress.push(nowhere, &[at; 10]);
    }
    socket.send(&egress);
    assert_eq!(drain(&client, 3).len(), 3);
    assert_eq!((socket.counters.datagrams, socket.counters.dropped_unreachable), (3, 3));
}

#[test]
fn a_refused_train_goes_as_single_datagrams_and_takes_no_other_with_it() {
    let mut socket = Socket::bind(0, None).expect("a port");
    sys::limit_ipv6_mtu(socket.as_fd(), 1280).expect("settable");
    let ((narrow, through_narrow), (wide, through_wide)) = (loopback("::1"), loopback("127.0.0.1"));
    let mut egress = Egress::default();
    let mut to_wide = train(&mut egress, through_wide, &[1300; 4]);
    let to_narrow = train(&mut egress, through_narrow, &[1300; 3]);
    to_wide.extend(train(&mut egress, through_wide, &[1300; 4]));
    socket.send(&egress);
    assert_eq!(drain(&wide, 8), to_wide);
    assert_eq!(drain(&narrow, 3), to_narrow);
    let expected = SocketCounters {
        datagrams: 11,
        datagrams_in_trains: 8,
        messages: 5,
        offload_refused: 1,
        ..SocketCounters::default()
    };
    assert_eq!(socket.counters, expected);
}

#[test]
fn trains_that_are_always_refused_are_given_up() {
    let mut socket = Socket::bind(0, None).expect("a port");
    sys::limit_ipv6_mtu(socket.as_fd(), 1280).expect("settable");
    let clients = [loopback("::1"), loopback("::1")];
    let mut egress = Egress::default();
    for _ in 0..10 {
        for (_, path) in &clients {
            train(&mut egress, *path, &[1300; 2]);
        }
    }
    socket.send(&egress);
    assert!(clients.iter().all(|(client, _)| drain(client, 20).len() == 20));
    assert_eq!(socket.counters.offload_refused, u64::from(REFUSALS_MAX));
    assert_eq!((socket.counters.datagrams, socket.counters.datagrams_in_trains), (40, 0));
}

#[test]
fn a_port_in_use_says_so() {
    let socket = Socket::bind(0, None).expect("a port");
    let error = Socket::bind(socket.port(), None).expect_err("taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_large_batch_is_sent_whole() {
    let mut socket = Socket::bind(0, None).expect("a port");
    let clients: Vec<_> = (0..100).map(|_| loopback("127.0.0.1")).collect();
    let mut egress = Egress::default();
    for (_, path) in &clients {
        train(&mut egress, *path, &[50, 60, 50]);
    }
    socket.send(&egress);
    let got: HashMap<usize, usize> =
        clients.iter().enumerate().map(|(at, (client, _))| (at, drain(client, 3).len())).collect();
    assert!(got.values().all(|count| *count == 3), "{got:?}");
}

/// A header of the tunnel for this client.
fn header(port: u16) -> [u8; HEADER_BYTES] {
    use trunkline_relay_proto::path::Transport;
    use trunkline_relay_proto::tunnel::{Header, Kind};
    let remote = SocketAddr::from(([192, 0, 2, 1], port));
    Header { kind: Kind::Datagram, transport: Transport::Udp, remote, flow: 1 }.write()
}

#[test]
fn every_datagram_of_a_train_gets_its_header_and_loses_it_again_with_and_without_offload() {
    for offload in [true, false] {
        let (mut node, mut ingress) = (Socket::bind(0, None).unwrap(), Socket::bind(0, None).unwrap());
        if !offload {
            node.switch_offload_off();
            ingress.switch_offload_off();
        }
        let (client, through) = loopback("127.0.0.1");
        let sent: Vec<Vec<u8>> = (0..70_u8).map(|at| vec![at; if at == 69 { 300 } else { 1200 }]).collect();
        let (arena, header) = (sent.concat(), header(7));
        let to = SocketAddr::from(([127, 0, 0, 1], ingress.port()));
        let load = Load {
            to,
            local: NO_LOAD.local,
            framing: Framing::Tunnel(&header),
            bytes: &arena,
            segment: 1200,
        };
        node.send_loads(|at| (at == 0).then_some(load));
        let (mut batch, mut came) = (Batch::default(), 0);
        while came < sent.len() {
            let messages = ingress.receive_messages(&mut batch).expect("sound");
            for message in (0..messages).filter_map(|at| batch.message(at)) {
                assert!(message.bytes.chunks(message.segment).all(|datagram| datagram.starts_with(&header)));
                came += message.bytes.len().div_ceil(message.segment);
                let Arrived { bytes, segment, .. } = message;
                let load = Load {
                    to: through.remote,
                    local: through.local,
                    framing: Framing::Untunnel,
                    bytes,
                    segment,
                };
                ingress.send_loads(|at| (at == 0).then_some(load));
            }
        }
        assert_eq!(drain(&client, sent.len()), sent, "offload {offload}");
        // 53 datagrams of 1,224 bytes fill a message of UDP.
        assert_eq!(
            (node.counters.datagrams, node.counters.messages),
            if offload { (70, 2) } else { (70, 70) }
        );
    }
}

#[test]
fn loads_of_many_clients_share_a_train_through_the_tunnel_when_sizes_allow() {
    let (mut node, ingress) = (Socket::bind(0, None).unwrap(), Socket::bind(0, None).unwrap());
    let headers: Vec<_> = (1..=150).map(header).collect();
    let to = SocketAddr::from(([127, 0, 0, 1], ingress.port()));
    let sizes = |at: usize| if at == 100 { 90 } else { 100 };
    let payload = [7; 100];
    node.send_loads(|at| {
        let framing = Framing::Tunnel(headers.get(at)?);
        Some(Load { to, local: NO_LOAD.local, framing, bytes: &payload[..sizes(at)], segment: sizes(at) })
    });
    let (mut batch, mut got) = (Batch::default(), Vec::new());
    while got.len() < headers.len() {
        ingress.receive(&mut batch, |_, datagram| got.push(datagram.to_vec())).expect("sound");
    }
    let expected: Vec<_> = headers
        .iter()
        .enumerate()
        .map(|(at, header)| [&header[..], &payload[..sizes(at)]].concat())
        .collect();
    assert_eq!(got, expected);
    // 64, then 36 and the short one that ends its train, then 49.
    assert_eq!((node.counters.datagrams, node.counters.messages), (150, 3));
}

#[test]
fn a_tunnelled_train_that_is_refused_goes_as_single_datagrams() {
    let mut node = Socket::bind(0, None).unwrap();
    sys::limit_ipv6_mtu(node.as_fd(), 1280).unwrap();
    let (ingress, path) = loopback("::1");
    let (header, arena) = (header(7), [7; 3900]);
    let load = Load {
        to: path.remote,
        local: path.local,
        framing: Framing::Tunnel(&header),
        bytes: &arena,
        segment: 1300,
    };
    node.send_loads(|at| (at == 0).then_some(load));
    let expected = [&header[..], &arena[..1300]].concat();
    assert_eq!(drain(&ingress, 3), [expected.clone(), expected.clone(), expected]);
    assert_eq!((node.counters.offload_refused, node.counters.datagrams_in_trains), (1, 0));
}

#[test]
fn what_leaves_another_way_is_left_to_it() {
    use trunkline_relay_proto::path::Transport;
    let mut socket = Socket::bind(0, None).unwrap();
    let (client, path) = loopback("127.0.0.1");
    let elsewhere = Path::over(path.remote, Via::Ingress { endpoint: 0, transport: Transport::Udp, flow: 1 });
    let mut egress = Egress::default();
    egress.push(elsewhere, b"not here");
    egress.push(path, b"here");
    egress.push(elsewhere, b"not here");
    socket.send(&egress);
    assert_eq!(drain(&client, 1), [b"here"]);
    assert_eq!(socket.counters.datagrams, 1);
}

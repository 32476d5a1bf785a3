use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustix::event::epoll;
use trunkline_relay_proto::call::Settings;
use trunkline_relay_proto::dtls;
use trunkline_relay_proto::ufrag::Route;

use super::*;
use crate::tcp::testing;

/// Connections of one call that nobody is in, and their clients.
struct Scene {
    connections: Connections,
    epoll: OwnedFd,
    call: Call,
    now: Instant,
    listener: TcpListener,
    clients: Vec<TcpStream>,
}

impl Scene {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let signed = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let dtls = dtls::Settings::from_der(signed.der().to_vec(), key.serialize_der(), false).unwrap();
        let now = Instant::now();
        Self {
            connections: Connections::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            call: Call::new(now, Settings { participants_max: 2, dtls: Arc::new(dtls), seed: 1 }),
            now,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            clients: Vec::new(),
        }
    }

    fn add(&mut self, participant: u32) -> bool {
        self.clients.push(testing::tcp(self.listener.local_addr().unwrap()));
        let (stream, remote) = self.listener.accept().unwrap();
        let connection = Connection::new(stream, remote, None, None).unwrap();
        let route = Route { node: 1, worker: 0, call: 7, participant, expires_min: 0 };
        let admitted = Admitted { connection, route, frames: Vec::new() };
        let mut egress = Egress::default();
        self.connections.add(&self.epoll, self.now, admitted, (&mut self.call, &mut egress))
    }

    fn sweep(&mut self) {
        self.connections.sweep(self.now, |key| (key == 7).then_some(&self.call));
    }

    fn open(&self) -> u64 {
        self.connections.counters().open_tcp
    }
}

#[test]
fn a_connection_that_is_nobodys_is_closed_after_a_while() {
    let mut scene = Scene::new();
    assert!(scene.add(1));
    scene.now += UNKNOWN_MAX - Duration::from_millis(1);
    scene.sweep();
    assert_eq!(scene.open(), 1);
    scene.now += Duration::from_millis(1);
    scene.sweep();
    assert_eq!(scene.open(), 0);
    assert!(scene.connections.held.is_empty() && scene.connections.by_participant.is_empty());
}

#[test]
fn one_ufrag_is_good_for_a_few_connections_only() {
    let mut scene = Scene::new();
    for _ in 0..PER_PARTICIPANT_MAX {
        assert!(scene.add(1));
    }
    assert!(!scene.add(1));
    assert!(scene.add(2), "another participant's");
    let counters = scene.connections.counters();
    assert_eq!((counters.open_tcp, counters.refused), (PER_PARTICIPANT_MAX as u64 + 1, 1));
    scene.connections.close_call(7);
    assert!(scene.add(1));
    assert_eq!(scene.open(), 1);
}

#[test]
fn tokens_name_connections_and_nothing_else() {
    assert_eq!(Connections::of_token(TOKEN_BIT | 5), Some(5));
    assert_eq!(Connections::of_token(5), None);
    assert_eq!(Connections::of_token(u64::MAX), None);
}

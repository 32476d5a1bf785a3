use std::io::{Read, Write};

use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::tcp::testing::{self, PATIENCE};

const ROUTE: Route = Route { node: 1, worker: 0, call: 7, participant: 9, expires_min: u32::MAX };

fn key() -> ufrag::Key {
    ufrag::Key::new([1; 32])
}

/// A lobby on a port of its own, and those it admitted.
struct Scene {
    lobby: Lobby,
    at: SocketAddr,
    admitted: Vec<Admitted>,
    now: Instant,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(key());
        change(&mut settings);
        let listener = listen(0, Some(Ipv4Addr::LOCALHOST.into()), false).unwrap();
        let at = listener.local_addr().unwrap();
        let lobby = Lobby::new(vec![listener], settings).unwrap();
        Self { lobby, at, admitted: Vec::new(), now: Instant::now() }
    }

    fn turn(&mut self) {
        let Self { lobby, admitted, now, .. } = self;
        lobby.turn(*now, |route| route.node == 1, |one| admitted.push(one));
    }

    /// Lets the lobby work until something is so.
    fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        let timeout = Timespec::try_from(PATIENCE).unwrap();
        while !done(self) {
            let ready = rustix::event::poll(&mut [PollFd::new(&self.lobby, PollFlags::IN)], Some(&timeout));
            assert_eq!(ready, Ok(1), "{:?}", self.lobby.counters);
            self.turn();
        }
    }

    fn until_refused(&mut self, refusal: Refusal, count: u64) {
        self.until(|scene| scene.lobby.counters.refused(refusal) >= count);
        assert_eq!(self.lobby.counters.refused(refusal), count);
    }

    /// A client, once the lobby knows it.
    fn client(&mut self) -> TcpStream {
        let accepted = self.lobby.counters.accepted;
        let client = testing::tcp(self.at);
        self.until(|scene| scene.lobby.counters.accepted > accepted);
        client
    }
}

fn is_closed(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn a_good_check_is_admitted_with_all_that_came() {
    let mut scene = Scene::new(|_| {});
    let mut client = scene.client();
    let check = testing::check(&key(), &ROUTE);
    client.write_all(&[testing::frame(&check), testing::frame(&[22; 30])].concat()).unwrap();
    scene.until(|scene| !scene.admitted.is_empty());
    let Admitted { mut connection, route, frames } = scene.admitted.remove(0);
    assert_eq!((route, frames), (ROUTE, vec![check, vec![22; 30]]));
    assert_eq!((connection.remote(), scene.lobby.waiting()), (client.local_addr().unwrap(), 0));
    // It goes on where the lobby stopped.
    connection.push(scene.now, &[1, 2, 3]);
    connection.flush(scene.now).unwrap();
    assert_eq!(testing::next(&mut client), [1, 2, 3]);
}

#[test]
fn so_is_one_within_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, trusted) = testing::server(dir.path());
    let mut scene = Scene::new(|settings| settings.tls = Some(tls.config()));
    let at = scene.at;
    let client = std::thread::spawn(move || {
        let mut client = testing::tls(at, &trusted);
        testing::send(&mut client, &testing::check(&key(), &ROUTE));
        testing::next(&mut client)
    });
    scene.until(|scene| !scene.admitted.is_empty());
    let mut connection = scene.admitted.remove(0).connection;
    connection.push(scene.now, &[1, 2, 3]);
    connection.flush(scene.now).unwrap();
    assert_eq!(client.join().unwrap(), [1, 2, 3]);
    assert_eq!((scene.lobby.counters.admitted_tls, scene.lobby.counters.admitted_tcp), (1, 0));
}

#[test]
fn checks_that_lead_nowhere_are_cut_off_and_counted_by_reason() {
    let mut scene = Scene::new(|_| {});
    let mut forged = testing::check(&key(), &ROUTE);
    // The last character of the ufrag, in front of the colon.
    let colon = forged.iter().position(|byte| *byte == b':').unwrap();
    forged[colon - 1] = if forged[colon - 1] == b'A' { b'E' } else { b'A' };
    let mut stranger = testing::check(&key(), &ROUTE);
    stranger[colon - 1] = b'-';
    let cases = [
        (testing::check(&ufrag::Key::new([2; 32]), &ROUTE), Refusal::UfragForged, 1),
        (forged, Refusal::UfragForged, 2),
        (testing::check(&key(), &Route { expires_min: 1, ..ROUTE }), Refusal::UfragExpired, 1),
        (testing::check(&key(), &Route { node: 2, ..ROUTE }), Refusal::NoRoute, 1),
        (stranger, Refusal::UfragUnknown, 1),
        // A STUN indication.
        ([&[0, 0x11, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12]].concat(), Refusal::NoCheck, 1),
        (vec![9; 100], Refusal::NoCheck, 2),
    ];
    for (datagram, refusal, count) in cases {
        let mut client = scene.client();
        testing::send(&mut client, &datagram);
        scene.until_refused(refusal, count);
        assert!(is_closed(&mut client), "{refusal:?}");
    }
    assert!(scene.admitted.is_empty() && scene.lobby.waiting() == 0);
    assert_eq!(scene.lobby.counters.refusals().map(|(_, count)| count).sum::<u64>(), 7);
}

#[test]
fn tls_without_a_certificate_is_cut_off() {
    let mut scene = Scene::new(|_| {});
    let mut client = scene.client();
    client.write_all(&[22, 3, 1]).unwrap();
    scene.until_refused(Refusal::NoTls, 1);
    assert!(is_closed(&mut client));
}

#[test]
fn one_address_cannot_begin_more_tls_handshakes_than_it_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(|settings| {
        settings.tls = Some(testing::server(dir.path()).0.config());
        settings.tls_handshakes_per_s = 10;
        settings.tls_handshakes_burst = 2;
    });
    let begun = |scene: &Scene| {
        scene.lobby.waiting.values().filter(|waiting| matches!(waiting.stage, Stage::Speaking(_))).count()
    };
    let mut clients: Vec<_> = (0..5).map(|_| scene.client()).collect();
    for (client, count) in clients.iter_mut().zip(1..=2) {
        client.write_all(&[22, 3, 1]).unwrap();
        scene.until(|scene| begun(scene) == count);
    }
    clients[2].write_all(&[22, 3, 1]).unwrap();
    scene.until_refused(Refusal::TlsBudget, 1);
    assert!(is_closed(&mut clients[2]));
    // Without TLS it costs little.
    testing::send(&mut clients[3], &testing::check(&key(), &ROUTE));
    scene.until(|scene| !scene.admitted.is_empty());
    // Later there is another one.
    scene.now += Duration::from_millis(200);
    clients[4].write_all(&[22, 3, 1]).unwrap();
    scene.until(|scene| begun(scene) == 3);
    assert_eq!(scene.lobby.counters.refused(Refusal::TlsBudget), 1);
}

#[test]
fn a_flood_of_tls_handshakes_is_spread_over_turns_and_does_not_hold_up_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(|settings| settings.tls = Some(testing::server(dir.path()).0.config()));
    let begun = |scene: &Scene| {
        scene.lobby.waiting.values().filter(|waiting| matches!(waiting.stage, Stage::Speaking(_))).count()
    };
    let mut flood: Vec<_> = (0..2 * EVENTS_PER_TURN).map(|_| scene.client()).collect();
    let mut person = scene.client();
    for client in &mut flood {
        client.write_all(&[22, 3, 1]).unwrap();
    }
    testing::send(&mut person, &testing::check(&key(), &ROUTE));
    let mut before = 0;
    scene.until(|scene| {
        let after = begun(scene);
        assert!(after <= before + 4, "{before} {after}");
        before = after;
        !scene.admitted.is_empty()
    });
    assert!(before < flood.len());
    // Nobody is forgotten.
    scene.until(|scene| begun(scene) == flood.len());
}

#[test]
fn half_open_and_slow_connections_are_dropped_at_the_deadline() {
    let mut scene = Scene::new(|_| {});
    let mut silent = scene.client();
    let mut slow = scene.client();
    slow.write_all(&testing::frame(&testing::check(&key(), &ROUTE))[..30]).unwrap();
    let deadline = scene.lobby.poll_timeout().unwrap();
    assert_eq!(deadline, scene.now + DEADLINE);
    scene.now = deadline - Duration::from_millis(1);
    scene.turn();
    slow.write_all(&[0]).unwrap();
    scene.turn();
    assert_eq!(scene.lobby.waiting(), 2);
    scene.now = deadline;
    scene.turn();
    assert_eq!((scene.lobby.waiting(), scene.lobby.counters.refused(Refusal::Late)), (0, 2));
    assert!(is_closed(&mut silent) && is_closed(&mut slow));
    assert_eq!(scene.lobby.poll_timeout(), None);
}

#[test]
fn one_address_cannot_take_more_places_than_it_is_due() {
    let mut scene = Scene::new(|settings| settings.per_address_max = 2);
    let mut clients: Vec<_> = (0..3).map(|_| scene.client()).collect();
    assert_eq!((scene.lobby.waiting(), scene.lobby.counters.refused(Refusal::AddressCrowded)), (2, 1));
    // Its places are free again when a connection is admitted.
    testing::send(&mut clients[1], &testing::check(&key(), &ROUTE));
    scene.until(|scene| !scene.admitted.is_empty());
    scene.client();
    assert_eq!((scene.lobby.waiting(), scene.lobby.counters.refused(Refusal::AddressCrowded)), (2, 1));
}

#[test]
fn who_says_nothing_does_not_shut_out_others_of_the_same_address() {
    let mut scene = Scene::new(|settings| settings.per_address_max = 2);
    let mut silent: Vec<_> = (0..2).map(|_| scene.client()).collect();
    let mut neighbour = scene.client();
    assert!(is_closed(&mut silent[0]));
    testing::send(&mut neighbour, &testing::check(&key(), &ROUTE));
    scene.until(|scene| !scene.admitted.is_empty());
    assert_eq!((scene.lobby.waiting(), scene.lobby.counters.refused(Refusal::AddressCrowded)), (1, 1));
}

#[test]
fn when_all_places_are_taken_who_waited_longest_makes_room() {
    let mut scene = Scene::new(|settings| settings.connections_max = 3);
    let mut crowd: Vec<_> = (0..3).map(|_| scene.client()).collect();
    let mut person = scene.client();
    testing::send(&mut person, &testing::check(&key(), &ROUTE));
    scene.until(|scene| !scene.admitted.is_empty());
    assert!(is_closed(&mut crowd[0]));
    assert_eq!((scene.lobby.waiting(), scene.lobby.counters.refused(Refusal::Crowded)), (2, 1));
}

#[test]
fn who_goes_away_leaves_nothing_behind() {
    let mut scene = Scene::new(|_| {});
    drop(scene.client());
    scene.until_refused(Refusal::Closed, 1);
    assert!(scene.lobby.waiting.is_empty() && scene.lobby.by_address.is_empty());
}

#[test]
fn threads_share_a_port() {
    let first = listen(0, Some(Ipv4Addr::LOCALHOST.into()), true).unwrap();
    let port = first.local_addr().unwrap().port();
    assert!(listen(port, Some(Ipv4Addr::LOCALHOST.into()), true).is_ok());
    let error = listen(port, Some(Ipv4Addr::LOCALHOST.into()), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

use proptest::collection::vec;
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::srtp::Profile;

fn settings(version_13: bool) -> Settings {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate =
        CertificateParams::new(Vec::new()).expect("parameters").self_signed(&key).expect("signed");
    let certificate =
        DtlsCertificate { certificate: certificate.der().to_vec(), private_key: key.serialize_der() };
    Settings::new(certificate, version_13).expect("usable")
}

/// Both sides and the wire between them, in time that the test moves.
struct Pair {
    now: Instant,
    client: Handshake,
    server: Handshake,
    /// Datagrams sent so far, of both sides.
    sent: usize,
}

impl Pair {
    fn new(version_13: bool) -> Self {
        let (client, server) = (settings(version_13), settings(version_13));
        let now = Instant::now();
        Self {
            now,
            client: Handshake::new_client(now, &client, server.fingerprint()),
            server: Handshake::new(now, &server, client.fingerprint()),
            sent: 0,
        }
    }

    /// Carries datagrams until there are none, except those that `lost` says. It is asked with the number of the
    /// datagram, and whether the client sent it.
    fn exchange(&mut self, lost: &mut impl FnMut(usize, bool) -> bool) -> Result<(), DtlsError> {
        let mut out = [0; MTU];
        loop {
            let mut quiet = true;
            while let Some(len) = self.client.poll_transmit(&mut out) {
                quiet = false;
                self.sent += 1;
                if !lost(self.sent, true) {
                    self.server.handle_datagram(self.now, &out[..len])?;
                }
            }
            while let Some(len) = self.server.poll_transmit(&mut out) {
                quiet = false;
                self.sent += 1;
                if !lost(self.sent, false) {
                    self.client.handle_datagram(self.now, &out[..len])?;
                }
            }
            if quiet {
                return Ok(());
            }
        }
    }

    /// Runs until both are connected, and says how long that took.
    fn connect(&mut self, lost: &mut impl FnMut(usize, bool) -> bool) -> Result<Duration, DtlsError> {
        let start = self.now;
        loop {
            self.exchange(lost)?;
            if self.client.is_connected() && self.server.is_connected() {
                return Ok(self.now - start);
            }
            let next = [self.client.poll_timeout(), self.server.poll_timeout()].into_iter().flatten().min();
            self.now = next.expect("an unfinished handshake has a timer").max(self.now);
            self.client.handle_timeout(self.now)?;
            self.server.handle_timeout(self.now)?;
        }
    }

    fn keys(&mut self) -> (Keys, Keys) {
        (
            self.client.poll_keys().expect("the client's keys"),
            self.server.poll_keys().expect("the server's keys"),
        )
    }
}

fn no_loss(_: usize, _: bool) -> bool {
    false
}

fn assert_keys_match(client: &Keys, server: &Keys) {
    assert_eq!(client.profile, server.profile);
    assert_eq!((client.seal.key(), client.seal.salt()), (server.open.key(), server.open.salt()));
    assert_eq!((client.open.key(), client.open.salt()), (server.seal.key(), server.seal.salt()));
    assert_ne!(client.open.key(), client.seal.key());
}

#[test]
fn both_sides_get_the_same_keys_and_each_once() {
    for version_13 in [false, true] {
        let mut pair = Pair::new(version_13);
        assert_eq!(pair.connect(&mut no_loss), Ok(Duration::ZERO));
        let (client, server) = pair.keys();
        assert_keys_match(&client, &server);
        assert_eq!(server.profile, Profile::AeadAes256Gcm);
        assert!(pair.client.poll_keys().is_none() && pair.server.poll_keys().is_none());
        assert_eq!(pair.server.poll_timeout(), None);
    }
}

#[test]
fn a_handshake_without_a_cookie_takes_few_datagrams() {
    let mut pair = Pair::new(false);
    pair.connect(&mut no_loss).expect("connected");
    assert!(pair.sent <= 6, "{} datagrams", pair.sent);
}

#[test]
fn every_single_lost_datagram_is_made_up_for_soon() {
    for version_13 in [false, true] {
        for nth in 1..=8 {
            let mut pair = Pair::new(version_13);
            let time = pair.connect(&mut |n, _| n == nth).expect("connected");
            assert!(time <= RETRANSMIT_FIRST * 4, "datagram {nth} cost {time:?}");
            let (client, server) = pair.keys();
            assert_keys_match(&client, &server);
        }
    }
}

#[test]
fn the_loss_of_a_whole_flight_is_made_up_for() {
    for version_13 in [false, true] {
        for from_client in [true, false] {
            for flights in 1..=3 {
                let mut pair = Pair::new(version_13);
                let start = pair.now;
                let mut until = start;
                // All of one side's datagrams are lost for as long as it takes to repeat them once, twice, thrice.
                for _ in 0..flights {
                    pair.exchange(&mut |_, client| client == from_client).expect("nothing fails");
                    let next = [pair.client.poll_timeout(), pair.server.poll_timeout()];
                    until = next.into_iter().flatten().min().expect("a timer").max(until);
                    pair.now = until;
                    pair.client.handle_timeout(pair.now).expect("not yet");
                    pair.server.handle_timeout(pair.now).expect("not yet");
                }
                pair.connect(&mut no_loss).expect("connected");
                let (client, server) = pair.keys();
                assert_keys_match(&client, &server);
            }
        }
    }
}

#[test]
fn a_lost_last_flight_is_sent_again_when_the_client_repeats_its_own() {
    let mut pair = Pair::new(false);
    let mut lost = |_: usize, client: bool| !client;
    // The server's first flight arrives, its last does not.
    let mut out = [0; MTU];
    let len = pair.client.poll_transmit(&mut out).expect("a hello");
    pair.server.handle_datagram(pair.now, &out[..len]).expect("taken");
    while let Some(len) = pair.server.poll_transmit(&mut out) {
        pair.client.handle_datagram(pair.now, &out[..len]).expect("taken");
    }
    pair.exchange(&mut lost).expect("nothing fails");
    assert!(pair.server.is_connected() && !pair.client.is_connected());
    pair.connect(&mut no_loss).expect("connected");
    let (client, server) = pair.keys();
    assert_keys_match(&client, &server);
}

#[test]
fn another_certificate_than_announced_gives_no_keys() {
    for version_13 in [false, true] {
        let mut pair = Pair::new(version_13);
        pair.server.expected = [7; 32];
        assert_eq!(pair.connect(&mut no_loss), Err(DtlsError::Fingerprint));
        assert!(pair.server.poll_keys().is_none() && !pair.server.is_connected());
        assert_eq!(pair.server.handle_datagram(pair.now, &[22; 50]), Err(DtlsError::Fingerprint));
        let mut pair = Pair::new(version_13);
        pair.client.expected = [7; 32];
        assert_eq!(pair.connect(&mut no_loss), Err(DtlsError::Fingerprint));
        assert!(pair.client.poll_keys().is_none());
    }
}

#[test]
fn a_client_that_never_says_hello_is_given_up() {
    let mut pair = Pair::new(false);
    assert_eq!(pair.server.poll_timeout(), Some(pair.now + CONNECT_MAX));
    assert_eq!(pair.server.handle_timeout(pair.now + CONNECT_MAX), Err(DtlsError::Timeout));
    assert_eq!(pair.server.poll_timeout(), None);
}

#[test]
fn a_client_that_stops_half_way_is_given_up_sooner() {
    let mut pair = Pair::new(false);
    let start = pair.now;
    let error = pair.connect(&mut |n, client| client && n > 1).expect_err("it cannot end well");
    assert_eq!(error, DtlsError::Timeout);
    assert!(pair.now - start <= HANDSHAKE_MAX, "{:?}", pair.now - start);
}

#[test]
fn garbage_is_dropped_and_too_much_of_it_ends_the_handshake() {
    let mut pair = Pair::new(false);
    for n in 0..DATAGRAMS_MAX - 10 {
        let garbage = [u8::try_from(20 + n % 40).expect("small"); 300];
        assert_eq!(pair.server.handle_datagram(pair.now, &garbage), Ok(()));
    }
    pair.connect(&mut no_loss).expect("a handshake among garbage is fine");

    let mut pair = Pair::new(false);
    let flood: Vec<_> =
        (0..=DATAGRAMS_MAX).map(|_| pair.server.handle_datagram(pair.now, &[22; 300])).collect();
    assert!(flood.contains(&Err(DtlsError::Budget)));
}

#[test]
fn what_is_too_large_is_dropped() {
    let mut pair = Pair::new(false);
    let budget = pair.server.budget;
    assert_eq!(pair.server.handle_datagram(pair.now, &[22; DATAGRAM_BYTES_MAX + 1]), Ok(()));
    assert_eq!(pair.server.budget, budget);
}

#[test]
fn replayed_and_doubled_datagrams_change_nothing() {
    let mut pair = Pair::new(false);
    let mut out = [0; MTU];
    let mut seen = Vec::new();
    for _ in 0..10 {
        while let Some(len) = pair.client.poll_transmit(&mut out) {
            seen.push(out[..len].to_vec());
            for _ in 0..2 {
                pair.server.handle_datagram(pair.now, &out[..len]).expect("taken");
            }
        }
        while let Some(len) = pair.server.poll_transmit(&mut out) {
            for _ in 0..2 {
                pair.client.handle_datagram(pair.now, &out[..len]).expect("taken");
            }
        }
    }
    let (client, server) = pair.keys();
    assert_keys_match(&client, &server);
    for datagram in seen.iter().chain(&seen) {
        pair.server.handle_datagram(pair.now, datagram).expect("dropped");
    }
    assert!(pair.server.is_connected() && pair.server.poll_keys().is_none());
}

#[test]
fn each_side_hears_when_the_other_closes() {
    for version_13 in [false, true] {
        let mut pair = Pair::new(version_13);
        pair.connect(&mut no_loss).expect("connected");
        pair.client.close();
        pair.exchange(&mut no_loss).expect("nothing fails");
        assert!(pair.server.is_closed() && pair.client.is_closed());

        let mut pair = Pair::new(version_13);
        pair.connect(&mut no_loss).expect("connected");
        pair.server.close();
        pair.exchange(&mut no_loss).expect("nothing fails");
        assert!(pair.client.is_closed());
    }
}

#[test]
fn closing_before_the_end_of_the_handshake_says_nothing() {
    let mut pair = Pair::new(false);
    pair.server.close();
    assert_eq!(pair.server.poll_transmit(&mut [0; MTU]), None);
    assert!(pair.server.is_closed());
}

#[test]
fn unusable_certificates_are_refused_at_start_up() {
    let empty = DtlsCertificate { certificate: Vec::new(), private_key: vec![1; 40] };
    assert_eq!(Settings::new(empty, false).map(|_| ()), Err(DtlsError::Certificate));
    let wrong = DtlsCertificate { certificate: vec![1; 40], private_key: vec![1; 40] };
    assert_eq!(Settings::new(wrong, false).map(|_| ()), Err(DtlsError::Certificate));
}

/// What happens to one datagram on its way.
#[derive(Clone, Debug)]
enum Fate {
    Arrive,
    Lose,
    Double,
    Cut(prop::sample::Index),
    Flip(Vec<(prop::sample::Index, u8)>),
    Late,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Arrive),
        1 => Just(Fate::Lose),
        1 => Just(Fate::Double),
        1 => any::<prop::sample::Index>().prop_map(Fate::Cut),
        2 => vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4).prop_map(Fate::Flip),
        1 => Just(Fate::Late),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn tampering_never_panics_and_never_gives_different_keys(
        fates in vec(fate(), 40),
        version_13: bool,
    ) {
        let mut pair = Pair::new(version_13);
        let mut fates = fates.into_iter();
        let mut late: Vec<(bool, Vec<u8>)> = Vec::new();
        let mut out = [0; MTU];
        for _ in 0..12 {
            let mut wire = std::mem::take(&mut late);
            while let Some(len) = pair.client.poll_transmit(&mut out) {
                wire.push((true, out[..len].to_vec()));
            }
            while let Some(len) = pair.server.poll_transmit(&mut out) {
                wire.push((false, out[..len].to_vec()));
            }
            for (from_client, mut datagram) in wire {
                let mut times = 1;
                match fates.next().unwrap_or(Fate::Arrive) {
                    Fate::Arrive => {}
                    Fate::Lose => times = 0,
                    Fate::Double => times = 2,
                    Fate::Cut(index) => datagram.truncate(index.index(datagram.len())),
                    Fate::Flip(flips) => {
                        for (index, mask) in flips {
                            let index = index.index(datagram.len());
                            datagram[index] ^= mask;
                        }
                    }
                    Fate::Late => {
                        late.push((from_client, datagram));
                        continue;
                    }
                }
                for _ in 0..times {
                    let to = if from_client { &mut pair.server } else { &mut pair.client };
                    let _ = to.handle_datagram(pair.now, &datagram);
                }
            }
            pair.now += Duration::from_millis(300);
            let _ = pair.client.handle_timeout(pair.now);
            let _ = pair.server.handle_timeout(pair.now);
        }
        if let (Some(client), Some(server)) = (pair.client.poll_keys(), pair.server.poll_keys()) {
            assert_keys_match(&client, &server);
        }
    }
}

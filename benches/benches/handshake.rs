//! What joining costs the relay per packet: connectivity checks, ufrags, and its side of a DTLS handshake.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dimpl::DtlsCertificate;
use rcgen::{CertificateParams, KeyPair};
use trunkline_relay_proto::dtls::{Handshake, MTU, Settings};
use trunkline_relay_proto::stun::{ANSWER_BYTES_MAX, Request, write_request};
use trunkline_relay_proto::ufrag::{Key, Route};

const PWD: &str = "0123456789abcdef01234567";
const ROUTE: Route = Route { node: 1, worker: 2, call: 3, participant: 4, expires_min: u32::MAX };

fn checks(c: &mut Criterion) {
    let key = Key::new([7; 32]);
    let ufrag = key.write(&ROUTE);
    let mut datagram = [0; 256];
    let username = format!("{ufrag}:abcd");
    let len = write_request(&mut datagram, &username, PWD, 1, 2, true, *b"0123456789ab").expect("room");
    let datagram = &datagram[..len];

    let mut group = c.benchmark_group("stun");
    group.bench_function("parse", |b| b.iter(|| Request::parse(black_box(datagram)).is_ok()));
    group.bench_function("parse, verify, answer", |b| {
        let mut out = [0; ANSWER_BYTES_MAX];
        b.iter(|| {
            let request = Request::parse(black_box(datagram)).expect("a request");
            assert!(request.verify(PWD));
            request.write_success(&mut out, ([192, 0, 2, 1], 50_000).into(), PWD).expect("room")
        });
    });
    group.finish();

    let mut group = c.benchmark_group("ufrag");
    let forged = Key::new([8; 32]).write(&ROUTE);
    group.bench_function("read", |b| b.iter(|| key.read(black_box(&ufrag), 0).is_ok()));
    group.bench_function("refuse a forged one", |b| b.iter(|| key.read(black_box(&forged), 0).is_ok()));
    group.bench_function("refuse what is none", |b| b.iter(|| key.read(black_box(&forged[1..]), 0).is_ok()));
    group.finish();
}

fn settings(version_13: bool) -> Settings {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate =
        CertificateParams::new(Vec::new()).expect("parameters").self_signed(&key).expect("signed");
    let certificate =
        DtlsCertificate { certificate: certificate.der().to_vec(), private_key: key.serialize_der() };
    Settings::new(certificate, version_13).expect("usable")
}

/// Time the server's side of one handshake takes.
fn server_side(ours: &Settings, theirs: &Settings) -> Duration {
    let now = Instant::now();
    let mut out = [0; MTU];
    let mut client = Handshake::new_client(now, theirs, ours.fingerprint());
    let mut start = Instant::now();
    let mut server = Handshake::new(now, ours, theirs.fingerprint());
    let mut time = start.elapsed();
    while !server.is_connected() {
        while let Some(len) = client.poll_transmit(&mut out) {
            start = Instant::now();
            server.handle_datagram(now, &out[..len]).expect("taken");
            time += start.elapsed();
        }
        while let Some(len) = server.poll_transmit(&mut out) {
            client.handle_datagram(now, &out[..len]).expect("taken");
        }
    }
    assert!(server.poll_keys().is_some());
    time
}

fn handshakes(c: &mut Criterion) {
    let mut group = c.benchmark_group("dtls");
    for (name, version_13) in [("server side of 1.2", false), ("server side of 1.3", true)] {
        let (ours, theirs) = (settings(version_13), settings(version_13));
        group.bench_function(name, |b| {
            b.iter_custom(|times| (0..times).map(|_| server_side(&ours, &theirs)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, checks, handshakes);
criterion_main!(benches);

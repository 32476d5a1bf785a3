//! What a handshake pays for pins: reading the certificate, and finding who may show it among many peers.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails like a test, and documents itself by its ids"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use trunkline_gateway::link::tls::check_client;
use trunkline_gateway_proto::directory::{Directory, PeerRecord, PeerState, Trust};
use trunkline_gateway_proto::pin::{Pin, PinSet};
use trunkline_gateway_proto::store::PeerKey;
use trunkline_gateway_proto::time::Time;

const PEERS: u32 = 200;

fn certificate() -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    CertificateParams::new(["alpha.test".to_owned()]).unwrap().self_signed(&key).unwrap().der().clone()
}

/// Peers with three pins each; the last of them may show `pin`.
fn directory(pin: Pin) -> Directory {
    let mut directory = Directory::default();
    for n in 1..=PEERS {
        let other = |kind: u8| {
            let [a, b, ..] = n.to_le_bytes();
            let mut bytes = [kind; 32];
            bytes[..2].copy_from_slice(&[a, b]);
            Pin::from_bytes(bytes)
        };
        let mut pins = PinSet::current(other(1));
        pins.revoke(other(2));
        pins.announce(if n == PEERS { pin } else { other(3) }).unwrap();
        let domain = format!("peer{n}.test").parse().unwrap();
        directory.put_peer(PeerRecord {
            state: PeerState::Active,
            trust: Trust::Pinned { pins },
            ..PeerRecord::new(PeerKey(n), domain, Time::from_unix_ms(0))
        });
    }
    directory
}

fn pin(c: &mut Criterion) {
    let der = certificate();
    let known = directory(Pin::of_certificate(&der).unwrap());
    let stranger = certificate();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let mut group = c.benchmark_group("pin");
    group.bench_function("of_certificate", |b| b.iter(|| Pin::of_certificate(black_box(&der))));
    group.bench_function("check_known_of_200_peers", |b| {
        b.iter(|| check_client(&known, black_box(&der), &[], now).unwrap());
    });
    group.bench_function("check_stranger_of_200_peers", |b| {
        b.iter(|| check_client(&known, black_box(&stranger), &[], now).unwrap_err());
    });
    group.finish();
}

criterion_group!(benches, pin);
criterion_main!(benches);

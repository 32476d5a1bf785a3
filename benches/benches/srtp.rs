//! What one packet costs to seal and to open, and what of it AES-GCM alone costs: the difference is ours.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails like a test, and documents itself by its ids"
)]

use std::hint::black_box;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use trunkline_relay_proto::rtp::{Header, extension};
use trunkline_relay_proto::srtp::{MasterKey, Opener, Profile, Sealer};

const PROFILES: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];

/// Bytes of an audio and of a video packet, with a header of twelve.
const SIZES: [usize; 2] = [160, 1200];

const HEADER_LEN: usize = 12;

const SSRC: u32 = 0xcafe_babe;

fn master(profile: Profile) -> MasterKey {
    MasterKey::new(profile, &vec![7; profile.key_len()], &vec![9; profile.salt_len()]).unwrap()
}

fn packet(index: u64, len: usize) -> Vec<u8> {
    let [.., s0, s1] = index.to_be_bytes();
    let mut packet = vec![0x80, 96, s0, s1, 0, 0, 0, 1, 0xca, 0xfe, 0xba, 0xbe];
    packet.resize(len, 0x55);
    packet
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("srtp_seal");
    for len in SIZES {
        let mut room = packet(0, len + Sealer::TAG_LEN_MAX);
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
        group.bench_function(BenchmarkId::new("bare_aes_128_gcm", len), |b| {
            b.iter(|| {
                let (header, rest) = room.split_at_mut(HEADER_LEN);
                let (text, room) = rest.split_at_mut(len - HEADER_LEN);
                let nonce = Nonce::assume_unique_for_key([3; 12]);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header), text).unwrap();
                room.copy_from_slice(black_box(tag.as_ref()));
            });
        });
        for profile in PROFILES {
            let sealer = Sealer::new(profile, &master(profile));
            group.bench_function(BenchmarkId::new(profile.name(), len), |b| {
                b.iter(|| sealer.seal_rtp(black_box(&mut room), HEADER_LEN, len, 0));
            });
        }
    }
    group.finish();
}

/// Packets in order, as many as a window holds, so that each is new. What is measured has the copy of a packet in it.
fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("srtp_open");
    for len in SIZES {
        for profile in PROFILES {
            let (sealer, mut opener) =
                (Sealer::new(profile, &master(profile)), Opener::new(profile, &master(profile)));
            let sealed = |index| {
                let mut packet = packet(index, len + profile.tag_len());
                assert_eq!(sealer.seal_rtp(&mut packet, HEADER_LEN, len, index), packet.len());
                packet
            };
            let packets: Vec<_> = (0..1024).map(sealed).collect();
            let mut room = packets[0].clone();
            group.bench_function(BenchmarkId::new(profile.name(), len), |b| {
                opener.forget(SSRC);
                let mut at = 0;
                b.iter(|| {
                    if at == packets.len() {
                        opener.forget(SSRC);
                        at = 0;
                    }
                    room.copy_from_slice(&packets[at]);
                    at += 1;
                    let header = Header::parse(&room).unwrap();
                    black_box(opener.open_rtp(&mut room, &header).unwrap())
                });
            });
        }
    }
    group.finish();
}

/// A video packet's elements: audio level is left out, the dependency descriptor is not.
fn extensions(c: &mut Criterion) {
    let elements: [(u8, &[u8]); 4] = [(1, b"12"), (3, &[1, 2, 3]), (4, &[0x5a; 13]), (6, &[9])];
    let mut group = c.benchmark_group("rtp_extension");
    let mut out = [0; 64];
    group.bench_function("write", |b| {
        b.iter(|| extension::write(black_box(&mut out), black_box(&elements).iter().copied()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, seal, open, extensions);
criterion_main!(benches);

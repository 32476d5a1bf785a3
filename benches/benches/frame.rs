//! The frame codec: what every envelope pays on the link, on each side.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use trunkline_gateway_proto::frame::{self, Channel};
use trunkline_gateway_proto::store::Lane;
use trunkline_gateway_proto::wire::{self, frame::Body, item};

/// Envelopes in one frame, and bytes of payload in each: a full group commit of typical messages.
const ENVELOPES: usize = 64;
const PAYLOAD_BYTES: usize = 1024;

const LANE: Channel = Channel::Lane(Lane(3));

fn envelope() -> Bytes {
    let envelope = wire::Envelope {
        id: Bytes::from_static(&[0x11; 16]),
        from: "somebody@alpha.test".to_owned(),
        to: vec!["somebody.else@beta.test".to_owned()],
        kind: wire::Kind::Message.into(),
        conversation: "0123456789abcdef".to_owned(),
        network: "main".to_owned(),
        guest: false,
        payload: vec![0x5a; PAYLOAD_BYTES].into(),
    };
    envelope.encode_to_vec().into()
}

fn data() -> Body {
    let item = wire::Item { ttl_ms: 86_400_000, body: Some(item::Body::Envelope(envelope())) };
    Body::Data(wire::Data { first_seq: 1_000_000, items: vec![item; ENVELOPES] })
}

fn encoded() -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode(data(), &mut out);
    out
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Elements(ENVELOPES as u64));
    group.bench_function("encode 64 x 1 KiB", |b| {
        let body = data();
        b.iter_batched(
            || (body.clone(), BytesMut::with_capacity(128 * 1024)),
            |(body, mut out)| {
                frame::encode(body, &mut out);
                out
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("decode 64 x 1 KiB", |b| {
        let bytes = encoded();
        b.iter_batched(
            || bytes.clone(),
            |mut bytes| frame::decode(LANE, &mut bytes).expect("a whole frame"),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("body without its length 64 x 1 KiB", |b| {
        let bytes = encoded().split_off(4).freeze();
        b.iter(|| frame::decode_body(LANE, black_box(bytes.clone())).expect("a whole frame"));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("half a frame is left alone", |b| {
        let mut bytes = encoded();
        bytes.truncate(bytes.len() / 2);
        b.iter_batched(
            || bytes.clone(),
            |mut bytes| frame::decode(LANE, &mut bytes).expect("the front of a frame"),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("envelope", |b| {
        let bytes = envelope();
        b.iter(|| wire::Envelope::decode(black_box(bytes.clone())).expect("a whole envelope"));
    });
    group.finish();
}

criterion_group!(frames, benches);
criterion_main!(frames);

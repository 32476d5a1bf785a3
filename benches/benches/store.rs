//! The embedded store: what a commit of a busy gateway costs, and reading it back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use trunkline_gateway::store::Store;
use trunkline_gateway::store::redb::{Options, RedbStore};
use trunkline_gateway_proto::store::{Commit, Head, LANES, Lane, NetworkKey, Op, PeerKey, Record, Stream};
use trunkline_gateway_proto::time::Time;

/// Envelopes in a commit: what gathers in two milliseconds of a busy gateway.
const BATCH: u64 = 512;
const BODY_BYTES: usize = 1024;

fn stream(lane: u8) -> Stream {
    Stream::Outbox { peer: PeerKey(1), lane: Lane(lane) }
}

/// Appends the `round`-th batch to all lanes and removes the one before.
fn round(round: u64, body: &Bytes) -> Commit {
    let per_lane = BATCH / u64::from(LANES);
    let first_seq = round * per_lane + 1;
    let head = Head { id: [7; 16], network: NetworkKey(1), expires: Time::NEVER, at: Time::default() };
    let mut ops = Vec::with_capacity(2 * usize::from(LANES));
    for stream in (0..LANES).map(stream) {
        let records = (0..per_lane).map(|_| Record { head, body: body.clone() }).collect();
        ops.push(Op::Append { stream, first_seq, records });
        ops.push(Op::Truncate { stream, up_to: first_seq.saturating_sub(1) });
    }
    Commit { ops, now: Time::default() }
}

fn open(dir: &tempfile::TempDir) -> Arc<RedbStore> {
    let options = Options::new(dir.path(), [7; 32].into());
    RedbStore::open(&options).expect("a new store opens in an empty directory")
}

fn append_and_truncate(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, runtime) = (open(&dir), Runtime::new().expect("a runtime"));
    let body = Bytes::from(vec![0xa5; BODY_BYTES]);
    let mut rounds = 0..;
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(BATCH)).measurement_time(Duration::from_secs(5));
    group.bench_function("append 512 x 1 KiB on 16 lanes, truncate as many, durable", |bencher| {
        bencher.iter(|| {
            let commit = round(rounds.next().unwrap_or_default(), &body);
            runtime.block_on(store.commit(commit)).expect("the commit is durable");
        });
    });
    let lane = stream(0);
    group.throughput(Throughput::Elements(BATCH / u64::from(LANES)));
    group.bench_function("read back one block of 32 x 1 KiB", |bencher| {
        bencher.iter(|| runtime.block_on(store.read(lane, 0, usize::MAX)).expect("the block is read"));
    });
    group.finish();
}

criterion_group!(benches, append_and_truncate);
criterion_main!(benches);

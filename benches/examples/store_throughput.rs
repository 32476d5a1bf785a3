//! The embedded store under a backlog: appends, a restart, a drain, and steady traffic, with CPU, memory and
//! bytes written for each. Arguments: `[directory] [records] [bytes of a body] [records of a commit]`.

#![allow(clippy::print_stdout, reason = "it is run to be read")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;
use trunkline_gateway::store::Store;
use trunkline_gateway::store::redb::{Options, RedbStore};
use trunkline_gateway_proto::store::{
    Commit, Head, LANES, Lane, NetworkKey, Op, PeerKey, Record, Recovered, Stream,
};
use trunkline_gateway_proto::time::Time;

/// What one reading of a peer's queue asks for.
const READ_BYTES: usize = 256 * 1024;

struct Meter {
    name: &'static str,
    began: Instant,
    cpu: Duration,
    written: u64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map(std::path::PathBuf::from);
    let mut number = |default: u64| args.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (count, size, batch) = (number(1_000_000), number(1024), number(512));
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.unwrap_or_else(|| temporary.path().to_owned());
    let runtime = Runtime::new().expect("a runtime");
    let options = Options::new(dir, [7; 32].into());
    let body = Bytes::from(vec![0xa5; usize::try_from(size).expect("a size in memory")]);
    let commits = count / batch;

    let meter = Meter::start("open");
    let store = RedbStore::open(&options).expect("the store opens");
    meter.stop(count, size);
    let mut left = 0;
    store
        .recover(&mut |recovered| left += u64::from(matches!(recovered, Recovered::Block { .. })))
        .expect("everything is recovered");
    if left > 0 {
        println!("  {left} blocks were left by an earlier run: done");
        return;
    }
    let meter = Meter::start("append");
    for n in 0..commits {
        runtime.block_on(store.commit(append(n, batch, &body))).expect("the commit is durable");
    }
    meter.stop(count, size);

    let meter = Meter::start("close and reopen");
    drop(store);
    let store = RedbStore::open(&options).expect("the store opens again");
    meter.stop(count, size);
    recover(&store, count, size);

    let meter = Meter::start("read and truncate");
    let mut drained = 0;
    let mut next = [1_u64; LANES as usize];
    while drained < commits * batch {
        let mut ops = Vec::new();
        for (lane, next) in (0..LANES).zip(&mut next) {
            let read = runtime.block_on(store.read(stream(lane), *next, READ_BYTES)).expect("a read");
            drained += read.len() as u64;
            *next += read.len() as u64;
            ops.push(Op::Truncate { stream: stream(lane), up_to: *next - 1 });
        }
        runtime.block_on(store.commit(Commit { ops, now: Time::default() })).expect("the commit is durable");
    }
    meter.stop(count, size);

    let meter = Meter::start("append and truncate");
    for n in commits..2 * commits {
        let mut commit = append(n, batch, &body);
        let done = n * (batch / u64::from(LANES));
        commit.ops.extend((0..LANES).map(|lane| Op::Truncate { stream: stream(lane), up_to: done }));
        runtime.block_on(store.commit(commit)).expect("the commit is durable");
    }
    meter.stop(count, size);

    // A process that dies leaves the file as it is: the next open verifies it as after a crash.
    std::mem::forget(store);
}

fn stream(lane: u8) -> Stream {
    Stream::Outbox { peer: PeerKey(1), lane: Lane(lane) }
}

fn append(n: u64, batch: u64, body: &Bytes) -> Commit {
    let per_lane = batch / u64::from(LANES);
    let head = Head { id: [7; 16], network: NetworkKey(1), expires: Time::NEVER, at: Time::default() };
    let ops = (0..LANES).map(|lane| Op::Append {
        stream: stream(lane),
        first_seq: n * per_lane + 1,
        records: (0..per_lane).map(|_| Record { head, body: body.clone() }).collect(),
    });
    Commit { ops: ops.collect(), now: Time::default() }
}

fn recover(store: &Arc<RedbStore>, count: u64, size: u64) {
    let meter = Meter::start("recover");
    let mut records = 0;
    store
        .recover(&mut |recovered| {
            if let Recovered::Block { heads, .. } = recovered {
                records += heads.len() as u64;
            }
        })
        .expect("everything is recovered");
    meter.stop(count, size);
    println!("  {records} records recovered");
}

impl Meter {
    fn start(name: &'static str) -> Self {
        Self { name, began: Instant::now(), cpu: cpu(), written: written() }
    }

    fn stop(self, records: u64, size: u64) {
        let (wall, cpu, written) = (self.began.elapsed(), cpu() - self.cpu, written() - self.written);
        let per_record = |time: Duration| time.as_secs_f64() * 1e6 / records as f64;
        println!(
            "{:20} {:7.3} s  {:9.0} records/s  {:6.2} us CPU per record  {:5.2} bytes written per byte  {:4} MB RSS",
            self.name,
            wall.as_secs_f64(),
            records as f64 / wall.as_secs_f64(),
            per_record(cpu),
            written as f64 / (records * size) as f64,
            field("/proc/self/status", "VmRSS:") / 1024,
        );
    }
}

/// CPU time of this process so far: fields 14 and 15 of its stat line, in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .filter_map(|field| field.parse().ok())
        .collect();
    // The first field behind the name is a letter, so that utime is the eleventh number.
    Duration::from_millis(10 * fields.iter().skip(10).take(2).sum::<u64>())
}

fn written() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

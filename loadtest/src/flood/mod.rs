//! `flood`: forged first packets from everywhere, while people are on a call through the same ingress. What it may do is
//! cost processor time; memory must not grow, and those on the call must hardly notice.
//!
//! Turns without and with the flood follow each other. Whoever forges sits on the same processors as everybody else, so
//! what the call loses is more than the ingress alone would make it lose.
//!
//! # Layout
//! - [`forged`]: the packets, and the thread that sends them

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;
use trunkline_relay_peer::{Plan, Settings};

use crate::call::clients::Clients;
use crate::call::entrance::{Entrance, Participant};
use crate::call::process::Metrics;
use crate::call::publish::{Publisher, Traffic};
use crate::call::relay::{create_call, mint};
use crate::call::site::{self, Ingress, Site, Transport, Via};
use crate::call::{everybody_joined, median, settle};
use crate::error::LoadError;
use crate::progress::Progress;
use crate::report::{mb, round};
use crate::{Common, Judged};
use forged::Forger;

mod forged;

/// What the ingress counts, and how old its counts are at most.
const DROPPED: &str = "trunkline_ingress_dropped_datagrams_total";
const METRICS_AFTER: Duration = Duration::from_millis(1100);

/// Turns with the flood, each after one without.
const TURNS: u32 = 5;

/// How long a turn without lasts at most. Longer says no more.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// How long everybody may take to join.
const JOINED_WITHIN: Duration = Duration::from_secs(20);

/// How long the call runs before anything is measured.
const WARM_UP: Duration = Duration::from_millis(1500);

/// Share of the call's throughput that may be lost.
const LOST_MAX: f64 = 0.25;

/// Bytes that the memory of an ingress may grow by: what is touched for the first time. A flow takes 170, so that as
/// many of them as packets are forged would be a thousand times this.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

/// Who is on the call, and what is forged.
#[derive(Clone, Debug, Args)]
pub(crate) struct FloodArgs {
    /// Forged packets in all.
    #[arg(long, default_value_t = 10_000_000)]
    forged: u64,
    /// Forged packets a second, as far as there is processor time for them.
    #[arg(long, default_value_t = 200_000)]
    forged_per_s: u64,
    /// People on the call.
    #[arg(long, default_value_t = 20)]
    participants: u32,
    /// Packets of one picture.
    #[arg(long, default_value_t = 8)]
    video_burst: u32,
    /// Pictures a second.
    #[arg(long, default_value_t = 60)]
    fps: u32,
    /// What is forged follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The relay program to run [default: the relay this program was built with]
    #[arg(long)]
    relay_bin: Option<std::path::PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FloodReport {
    scenario: &'static str,
    participants: u32,
    video_burst: u32,
    fps: u32,
    seed: u64,
    build: &'static str,
    /// Forged packets that were sent, and how many a second while they were.
    forged_packets: u64,
    forged_per_s: f64,
    /// What the ingress dropped meanwhile, by its reasons. What is missing, the kernel dropped before the ingress saw it.
    dropped: BTreeMap<String, u64>,
    /// Processor time of the ingress for each forged packet it saw: of turns with the flood, less that of as much time
    /// without; in nanoseconds, so the share of one core in packets per nanosecond.
    cpu_ns_per_forged_packet: f64,
    /// Memory of the ingress before the first forged packet and after the last.
    rss_mb_before: f64,
    rss_mb_after: f64,
    rss_grew_bytes: u64,
    /// Media packets a second that reached the people on the call: median of the turns.
    packets_per_s_quiet: f64,
    packets_per_s_flooded: f64,
    /// The second for the first: the median of the pairs.
    throughput_ratio: f64,
    /// Clients that failed.
    failed: u64,
}

impl Judged for FloodReport {
    fn flawless(&self) -> bool {
        self.rss_grew_bytes <= GROWTH_BYTES_MAX
            && self.throughput_ratio > 1.0 - LOST_MAX
            && self.failed == 0
            && self.dropped.values().sum::<u64>() > 0
    }
}

impl FloodArgs {
    fn check(&self) -> Result<(), LoadError> {
        let usage = |what: &str| Err(LoadError::Usage(what.to_owned()));
        if !(1..=1_000_000_000).contains(&self.forged) || !(1..=10_000_000).contains(&self.forged_per_s) {
            return usage("expected --forged 1 to 1000000000 at --forged-per-s 1 to 10000000");
        }
        if !(2..=100).contains(&self.participants) || self.fps == 0 || !(1..=1000).contains(&self.video_burst)
        {
            return usage("expected --participants 2 to 100, --fps 1 or more, --video-burst 1 to 1000");
        }
        Ok(())
    }
}

/// Runs it.
///
/// # Errors
/// When it cannot be carried out.
pub(crate) async fn run(common: &Common, args: &FloodArgs) -> Result<FloodReport, LoadError> {
    args.check()?;
    let mut fleet = common.fleet()?;
    let plan = site::Plan {
        via: Via::Ingress,
        transport: Transport::Udp,
        calls: 1,
        twin: false,
        workers: site::Workers::ONE,
        relay_bin: args.relay_bin.clone(),
    };
    let site = Site::start(&mut fleet, &plan).await?;
    let clients = call(args, &site).await?;
    let ingress = site.ingress.as_ref();
    let ingress = ingress.ok_or_else(|| LoadError::Usage("there is no ingress".to_owned()))?;
    let mut forger = Forger::new(ingress.udp, args.seed, args.forged_per_s)?;

    clients.publish();
    sleep(WARM_UP + METRICS_AFTER).await;
    let (dropped_before, rss_before) = (drops(&ingress.metrics(&site).await?), ingress.process.rss_bytes()?);
    let progress = Progress::new("forging", args.forged);
    let mut turns = Vec::new();
    for number in 1..=u64::from(TURNS) {
        let share = args.forged * number / u64::from(TURNS) - args.forged * (number - 1) / u64::from(TURNS);
        let flood = Duration::from_secs_f64(share as f64 / args.forged_per_s as f64);
        let quiet = turn(&clients, ingress, async { sleep(flood.min(QUIET_MAX)).await }).await?;
        let mut sent = Ok(0);
        let flooded = turn(&clients, ingress, async { sent = forger.send(share).await }).await?;
        let sent = sent?;
        progress.advance(sent);
        turns.push(Pair { quiet, flooded, sent });
    }
    drop(progress);
    sleep(METRICS_AFTER).await;
    let (dropped_after, rss_after) = (drops(&ingress.metrics(&site).await?), ingress.process.rss_bytes()?);
    settle(&clients).await;
    let dropped: BTreeMap<_, _> = dropped_after
        .into_iter()
        .map(|(reason, count)| {
            let before = dropped_before.get(&reason).copied().unwrap_or(0);
            (reason, count - before)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    let seen = dropped.values().sum::<u64>();
    let forged_packets = turns.iter().map(|pair| pair.sent).sum::<u64>();
    let flooded_s = turns.iter().map(|pair| pair.flooded.time.as_secs_f64()).sum::<f64>();
    let extra_s = turns.iter().map(Pair::extra_cpu_s).sum::<f64>();
    let middle = |of: fn(&Pair) -> f64| round(median(turns.iter().map(of).collect()).unwrap_or_default());
    Ok(FloodReport {
        scenario: "flood",
        participants: args.participants,
        video_burst: args.video_burst,
        fps: args.fps,
        seed: args.seed,
        build: crate::BUILD,
        forged_packets,
        forged_per_s: (forged_packets as f64 / flooded_s).round(),
        dropped,
        cpu_ns_per_forged_packet: round(extra_s * 1e9 / seen.max(1) as f64),
        rss_mb_before: mb(rss_before),
        rss_mb_after: mb(rss_after),
        rss_grew_bytes: rss_after.saturating_sub(rss_before),
        packets_per_s_quiet: middle(|pair| pair.quiet.packets_per_s()),
        packets_per_s_flooded: middle(|pair| pair.flooded.packets_per_s()),
        throughput_ratio: middle(|pair| pair.flooded.packets_per_s() / pair.quiet.packets_per_s()),
        failed: clients.snapshot().await?.failed,
    })
}

/// What happened in one turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    time: Duration,
    packets: u64,
    ingress_cpu: Duration,
}

impl Turn {
    fn packets_per_s(&self) -> f64 {
        self.packets as f64 / self.time.as_secs_f64()
    }
}

/// A turn without the flood and one with it.
struct Pair {
    quiet: Turn,
    flooded: Turn,
    sent: u64,
}

impl Pair {
    /// What the ingress worked because of the flood.
    fn extra_cpu_s(&self) -> f64 {
        let usual = self.quiet.ingress_cpu.as_secs_f64() / self.quiet.time.as_secs_f64();
        self.flooded.ingress_cpu.as_secs_f64() - usual * self.flooded.time.as_secs_f64()
    }
}

/// What reaches clients while something happens.
async fn turn(
    clients: &Clients,
    ingress: &Ingress,
    happens: impl Future<Output = ()>,
) -> Result<Turn, LoadError> {
    let (received, cpu) = (clients.snapshot().await?.received, ingress.process.cpu()?);
    let began = Instant::now();
    happens.await;
    let received_after = clients.snapshot().await?.received;
    let (time, cpu_after) = (began.elapsed(), ingress.process.cpu()?);
    Ok(Turn {
        time,
        packets: received_after.saturating_sub(received),
        ingress_cpu: cpu_after.saturating_sub(cpu),
    })
}

/// Lets everybody join.
async fn call(args: &FloodArgs, site: &Site) -> Result<Clients, LoadError> {
    let traffic = Traffic { video_burst: args.video_burst, fps: args.fps, audio: false, simulcast: false };
    let epoch = Instant::now();
    let settings = Settings::new(epoch).map_err(|error| LoadError::Usage(error.to_string()))?.shared();
    let entrance = Entrance::new(site, &settings, Transport::Udp);
    let clients = Clients::start(epoch, false)?;
    let mut admin = site.admin();
    let call = create_call(&mut admin, args.participants).await?;
    for number in 0..args.participants {
        let publishes = number == 0;
        let role = if publishes { "presenter" } else { "viewer" };
        let token = mint(&mut admin, &call, &format!("p{number}"), role).await?;
        let sources = if publishes { traffic.sources() } else { Vec::new() };
        let plan = Plan::receiver(1, 1).sending(&sources);
        let who = Participant { call: &call, token: &token, plan, seed: u64::from(number) + 1 };
        let publisher = publishes.then(|| Publisher::new(traffic, 0, 1));
        clients.join(entrance.enter(&who, publisher).await?);
    }
    let everybody = usize::try_from(args.participants).unwrap_or(usize::MAX);
    everybody_joined(&clients, everybody, JOINED_WITHIN).await?;
    Ok(clients)
}

/// Datagrams the ingress dropped so far, by reason.
fn drops(metrics: &Metrics) -> BTreeMap<String, u64> {
    let samples = metrics.samples(DROPPED).map(|(labels, value)| {
        let reason = labels.split('"').nth(1).unwrap_or(labels);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = value as u64;
        (reason.to_owned(), count)
    });
    samples.collect()
}

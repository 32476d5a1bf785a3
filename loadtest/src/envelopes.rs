//! `envelopes`: how many envelopes cross from one deployment to another, at what cost and how fast.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::database::{Database, Extent, StoreArgs, StoreKind};
use crate::error::LoadError;
use crate::fleet;
use crate::ledger::Latency;
use crate::progress::Progress;
use crate::report::{mb, round};
use crate::shaped::Path;
use crate::submit::Plan;
use crate::{Common, Judged};

/// What to send, and over what.
#[derive(Clone, Debug, Args)]
pub(crate) struct EnvelopesArgs {
    /// Envelopes to send.
    #[arg(long, default_value_t = 300_000)]
    count: u64,
    /// Payload bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Round-trip time between the deployments.
    #[arg(long, default_value_t = 0)]
    rtt_ms: u64,
    /// Share of packets lost, for example 0.01.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Envelopes per second, one a request; as fast as possible when left out.
    #[arg(long)]
    rate: Option<u32>,
    /// What carries the link.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    transport: Transport,
    /// Conversations they belong to.
    #[arg(long, default_value_t = 1000)]
    conversations: u32,
    /// Envelopes in one request, at full speed.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Connections to the local API, at full speed.
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Envelopes that may be on the way, at full speed.
    #[arg(long, default_value_t = 32_768)]
    under_way: u64,
    #[command(flatten)]
    store: StoreArgs,
}

/// What carries the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// What the gateways choose.
    Auto,
    /// QUIC; it is an error when the link comes up otherwise.
    Quic,
    /// HTTP/2 over TLS over TCP: UDP between the deployments is blocked.
    Tcp,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EnvelopesReport {
    scenario: &'static str,
    count: u64,
    size: usize,
    rtt_ms: u64,
    loss: f64,
    transport: String,
    store: StoreKind,
    replicas: u8,
    filesystem: &'static str,
    build: &'static str,
    /// From the first submission to the last receipt.
    envelopes_per_s: f64,
    /// While the middle four fifths arrived; null when the run was too short.
    steady_envelopes_per_s: Option<f64>,
    /// In each tenth of the run, by arrivals; null for one that was too short.
    envelopes_per_s_by_tenth: Vec<Option<f64>>,
    elapsed_s: f64,
    cpu_us_per_envelope_sender: f64,
    cpu_us_per_envelope_receiver: f64,
    cpu_us_per_envelope_driver: f64,
    /// Of all the database server's processes.
    cpu_us_per_envelope_database: Option<f64>,
    latency_ms: Latency,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
    receipts_delivered: u64,
    rss_mb: Rss,
    database: Option<Databases>,
}

/// What each side's database takes at the end.
#[derive(Clone, Copy, Debug, Serialize)]
struct Databases {
    sender: Extent,
    receiver: Extent,
}

/// The most memory each side ever had, in MiB.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rss {
    sender: f64,
    receiver: f64,
}

/// Runs it.
///
/// # Errors
/// When it cannot be carried out.
pub(crate) async fn run(common: &Common, args: &EnvelopesArgs) -> Result<EnvelopesReport, LoadError> {
    let mut fleet = common.fleet()?;
    let path = Path {
        rtt: Duration::from_millis(args.rtt_ms),
        loss: args.loss,
        udp: args.transport != Transport::Tcp,
    };
    if !path.is_plain() && args.store.replicas > 1 {
        return Err(LoadError::Usage(
            "--rtt-ms and --loss are for one replica: only one is shaped".to_owned(),
        ));
    }
    let database = fleet.database(args.store).await?;
    let (mut to_alpha, mut to_beta) = (fleet.addresses()?, fleet.addresses()?);
    let mut shapers = Vec::new();
    if !path.is_plain() {
        // Which of the two connections stays is the gateways' affair, so both are shaped.
        for addresses in [&mut to_alpha, &mut to_beta] {
            let shaper = path.before(addresses.federation)?;
            addresses.advertised = shaper.addr();
            shapers.push(shaper);
        }
    }
    let replicas = args.store.replicas;
    let alpha = fleet.deploy_replicas("alpha.test", to_alpha, replicas, database.as_ref()).await?;
    let beta = fleet.deploy_replicas("beta.test", to_beta, replicas, database.as_ref()).await?;
    fleet::peer(alpha.first()?, beta.first()?).await?;
    let transport = fleet::transport(alpha.first()?, &beta.domain).await?;
    if args.transport == Transport::Quic && transport != "quic" {
        return Err(LoadError::Usage(format!("the link came up over {transport}, not over QUIC")));
    }

    let (sender, receiver) = (alpha.messaging()?, beta.messaging()?);
    let ledger = sender.flow_to(&receiver, args.conversations, args.size)?;
    let plan = match args.rate {
        Some(rate) => Plan::steady(args.count, rate),
        None => Plan {
            batch: args.batch.max(1),
            connections: args.connections,
            under_way_max: args.under_way.max(1),
            ..Plan::full_speed(args.count)
        },
    };
    let _progress = Progress::of("envelopes", args.count, &ledger);
    let own = std::process::id();
    let database_cpu = || database.as_ref().map(Database::cpu).transpose();
    let database_before = database_cpu()?;
    let before = (alpha.usage()?.cpu, beta.usage()?.cpu, crate::procfs::usage(own)?.cpu);
    let exchange = sender.exchange(&receiver, &ledger, plan).await?;
    let (alpha_used, beta_used) = (alpha.usage()?, beta.usage()?);
    let driver_cpu = crate::procfs::usage(own)?.cpu;
    let database_used =
        database_cpu()?.zip(database_before).map(|(after, before)| after.saturating_sub(before));
    let extents = match &database {
        Some(database) => Some(Databases {
            sender: database.extent(&alpha.domain).await?,
            receiver: database.extent(&beta.domain).await?,
        }),
        None => None,
    };

    let total = exchange.submitted.total;
    let elapsed_us = exchange.outcome.last_us.max(exchange.submitted.last_us) - exchange.submitted.first_us;
    let elapsed_s = Duration::from_micros(elapsed_us).as_secs_f64();
    let each = |cpu: Duration| round(cpu.as_secs_f64() * 1e6 / total.max(1) as f64);
    let verdict = exchange.verdict;
    Ok(EnvelopesReport {
        scenario: "envelopes",
        count: total,
        size: args.size,
        rtt_ms: args.rtt_ms,
        loss: args.loss,
        transport,
        store: args.store.store,
        replicas,
        filesystem: fleet::filesystem(fleet.root()),
        build: crate::BUILD,
        envelopes_per_s: round(total as f64 / elapsed_s),
        steady_envelopes_per_s: ledger.rate(total / 10, total * 9 / 10).map(round),
        envelopes_per_s_by_tenth: ledger
            .rates_by_tenth(total)
            .into_iter()
            .map(|rate| rate.map(round))
            .collect(),
        elapsed_s: round(elapsed_s),
        cpu_us_per_envelope_sender: each(alpha_used.cpu - before.0),
        cpu_us_per_envelope_receiver: each(beta_used.cpu - before.1),
        cpu_us_per_envelope_driver: each(driver_cpu - before.2),
        cpu_us_per_envelope_database: database_used.map(each),
        latency_ms: ledger.latency(0).unwrap_or_default(),
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        reordered: verdict.reordered,
        corrupted: verdict.corrupted + receiver.inbox.foreign(),
        receipts_delivered: exchange.outcome.delivered,
        rss_mb: Rss { sender: mb(alpha_used.rss_peak_bytes), receiver: mb(beta_used.rss_peak_bytes) },
        database: extents,
    })
}

impl Judged for EnvelopesReport {
    fn flawless(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupted == 0
    }
}

//! `outage`: a peer is away while a backlog queues for it; it returns; another peer must not notice.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::watch;

use crate::error::LoadError;
use crate::fleet;
use crate::messaging::MessagingServer;
use crate::progress::Progress;
use crate::report::{mb, round};
use crate::submit::Plan;
use crate::{Common, Judged};

/// How long the peer is away, in envelopes.
#[derive(Clone, Debug, Args)]
pub(crate) struct OutageArgs {
    /// Envelopes that queue while the peer is away.
    #[arg(long, default_value_t = 1_000_000)]
    backlog: u64,
    /// Payload bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Envelopes of the run before, which the drain is held against [default: a quarter of the backlog]
    #[arg(long)]
    steady: Option<u64>,
    /// Envelopes per second to the healthy peer, all the time.
    #[arg(long, default_value_t = 200)]
    healthy_rate: u32,
    /// Seconds in which only the healthy peer's flow runs.
    #[arg(long, default_value_t = 15)]
    quiet_s: u64,
    /// Conversations of each flow.
    #[arg(long, default_value_t = 1000)]
    conversations: u32,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OutageReport {
    scenario: &'static str,
    backlog: u64,
    size: usize,
    filesystem: &'static str,
    build: &'static str,
    /// Drain rate over steady rate.
    drain_ratio: f64,
    steady_envelopes_per_s: f64,
    fill_envelopes_per_s: f64,
    drain_envelopes_per_s: f64,
    /// From the moment the peer was ready to the last arrival.
    drain_s: f64,
    /// The most memory any of the gateways ever had, in MiB.
    rss_mb: f64,
    rss_mb_by_gateway: RssByGateway,
    /// p99 of the healthy peer during the drain over its p99 while the backlog only waits.
    healthy_p99_ratio: f64,
    healthy_p99_ms: HealthyP99,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
}

/// The most memory each gateway ever had, in MiB.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct RssByGateway {
    sender: f64,
    returning: f64,
    healthy: f64,
}

/// p99 of the flow to the healthy peer, in milliseconds, by what else happened.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct HealthyP99 {
    /// Full speed to the other peer.
    steady: Option<f64>,
    /// The other peer is away and its backlog grows at full speed.
    fill: Option<f64>,
    /// The other peer is away and its backlog waits.
    quiet: Option<f64>,
    /// The other peer is back and its backlog drains.
    drain: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// When it cannot be carried out.
pub(crate) async fn run(common: &Common, args: &OutageArgs) -> Result<OutageReport, LoadError> {
    let mut fleet = common.fleet()?;
    let alpha = fleet.deploy("alpha.test").await?;
    let mut beta = fleet.deploy("beta.test").await?;
    let gamma = fleet.deploy("gamma.test").await?;
    fleet::peer(&alpha, &beta).await?;
    fleet::peer(&alpha, &gamma).await?;
    let (sender, returning, healthy) =
        (MessagingServer::start(&alpha)?, MessagingServer::start(&beta)?, MessagingServer::start(&gamma)?);

    let healthy_flow = sender.flow_to(&healthy, args.conversations, args.size)?;
    let steady_flow = sender.flow_to(&returning, args.conversations, args.size)?;
    let backlog_flow = sender.flow_to(&returning, args.conversations, args.size)?;
    let (stop, stopped) = watch::channel(false);
    let healthy_plan = Plan::steady(u64::MAX, args.healthy_rate);

    let course = async {
        let steady_phase = healthy_flow.begin_phase();
        let count = args.steady.unwrap_or(args.backlog / 4).max(1);
        let steady = {
            let _progress = Progress::of("steady", count, &steady_flow);
            sender.exchange(&returning, &steady_flow, Plan::full_speed(count)).await?
        };
        let beta_before = beta.usage()?;
        beta.stop().await?;

        let fill_phase = healthy_flow.begin_phase();
        let fill_plan = Plan { under_way_max: u64::MAX, ..Plan::full_speed(args.backlog) };
        let filled = sender.submit(&backlog_flow, fill_plan, stopped.clone()).await?;
        let quiet_phase = healthy_flow.begin_phase();
        tokio::time::sleep(Duration::from_secs(args.quiet_s)).await;

        let drain_phase = healthy_flow.begin_phase();
        beta.up().await?;
        let back_us = crate::flow::now_us();
        let (fill_first, fill_last) = (filled.first_us, filled.last_us);
        let drained = {
            let _progress = Progress::of("drain", args.backlog, &backlog_flow);
            returning.inbox.wait_for(&backlog_flow, filled.total, crate::messaging::PATIENCE).await.ok();
            let drained_us = crate::flow::now_us();
            (sender.settle(&returning, &backlog_flow, filled).await?, drained_us - back_us)
        };
        stop.send_replace(true);
        let phases = [steady_phase, fill_phase, quiet_phase, drain_phase];
        Ok::<_, LoadError>((steady, drained, fill_last - fill_first, phases, beta_before))
    };
    let (healthy_sent, course) =
        tokio::join!(sender.submit(&healthy_flow, healthy_plan, stopped.clone()), course);
    let (steady, (backlog, drain_us), fill_us, phases, beta_before) = course?;
    let healthy_done = sender.settle(&healthy, &healthy_flow, healthy_sent?).await?;

    let total = backlog.submitted.total;
    let seconds = |us: u64| Duration::from_micros(us.max(1)).as_secs_f64();
    let overall = |count: u64, us: u64| count as f64 / seconds(us);
    let middle = |ledger: &crate::ledger::Ledger, count: u64, us: u64| {
        ledger.rate(count / 10, count * 9 / 10).unwrap_or_else(|| overall(count, us))
    };
    let steady_us = steady.outcome.last_us.saturating_sub(steady.submitted.first_us);
    let steady_rate = middle(&steady_flow, steady.submitted.total, steady_us);
    let drain_rate = middle(&backlog_flow, total, drain_us);
    let p99 = phases.map(|phase| healthy_flow.latency(phase).map(|latency| round(latency.p99)));
    let [steady_p99, fill_p99, quiet_p99, drain_p99] = p99;
    let beta_peak = beta.usage()?.rss_peak_bytes.max(beta_before.rss_peak_bytes);
    let peaks = [alpha.usage()?.rss_peak_bytes, beta_peak, gamma.usage()?.rss_peak_bytes];
    let verdict = steady.verdict + backlog.verdict + healthy_done.verdict;
    Ok(OutageReport {
        scenario: "outage",
        backlog: total,
        size: args.size,
        filesystem: fleet::filesystem(fleet.root()),
        build: crate::BUILD,
        drain_ratio: round(drain_rate / steady_rate),
        steady_envelopes_per_s: round(steady_rate),
        fill_envelopes_per_s: round(overall(total, fill_us)),
        drain_envelopes_per_s: round(drain_rate),
        drain_s: round(seconds(drain_us)),
        rss_mb: mb(peaks.iter().copied().max().unwrap_or(0)),
        rss_mb_by_gateway: RssByGateway {
            sender: mb(peaks[0]),
            returning: mb(peaks[1]),
            healthy: mb(peaks[2]),
        },
        healthy_p99_ratio: round(drain_p99.unwrap_or(0.0) / quiet_p99.unwrap_or(f64::MAX)),
        healthy_p99_ms: HealthyP99 { steady: steady_p99, fill: fill_p99, quiet: quiet_p99, drain: drain_p99 },
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        reordered: verdict.reordered,
        corrupted: verdict.corrupted + returning.inbox.foreign() + healthy.inbox.foreign(),
    })
}

impl Judged for OutageReport {
    fn flawless(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupted == 0
    }
}

//! What a forwarded packet costs, by turns with the bare job.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::args::{CallArgs, RECEIVERS_MAX};
use super::clients::Clients;
use super::limits::{Job, Limits};
use super::site::Site;
use crate::error::LoadError;
use crate::progress::Progress;

/// How long publishers send before anything is measured: key frames were asked for, slots are filled.
const WARM_UP: Duration = Duration::from_millis(1500);

/// How long they send in each turn before it is measured: who begins to speak is told to everybody, which is no part of
/// what a packet costs.
pub(super) const LEAD: Duration = Duration::from_millis(400);

/// How long what is under way may take to arrive.
const SETTLE: Duration = Duration::from_millis(250);

/// What the relay counts.
const SENT: &str = "trunkline_relay_sent_datagrams_total";
const SENT_IN_TRAINS: &str = "trunkline_relay_sent_in_trains_datagrams_total";

/// One turn: processor time, and packets it was spent on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) cpu: Duration,
    pub(super) packets: u64,
}

impl Turn {
    fn ns_per_packet(&self) -> Option<f64> {
        (self.packets > 0).then(|| self.cpu.as_secs_f64() * 1e9 / self.packets as f64)
    }
}

/// The median of their costs.
pub(super) fn median_of(turns: &[Turn]) -> Option<f64> {
    median(turns.iter().filter_map(Turn::ns_per_packet).collect())
}

/// All turns.
pub(super) struct Turns {
    /// Latencies until everybody had their pictures.
    pub(super) warm_up_us: Histogram<u64>,
    pub(super) relay: Vec<Turn>,
    pub(super) limit: Vec<f64>,
    pub(super) ingress: Vec<Turn>,
    pub(super) ingress_limit: Vec<f64>,
    pub(super) allocations: Option<u64>,
    pub(super) gso_fraction: Option<f64>,
    /// Media packets that the relay sealed since it started.
    pub(super) forwarded_in_all: u64,
}

impl Turns {
    fn after(warm_up_us: Histogram<u64>) -> Self {
        Self {
            warm_up_us,
            relay: Vec::new(),
            limit: Vec::new(),
            ingress: Vec::new(),
            ingress_limit: Vec::new(),
            allocations: Some(0),
            gso_fraction: None,
            forwarded_in_all: 0,
        }
    }
}

/// Lets publishers send to the relay, by turns with the bare jobs.
pub(super) async fn measure(
    args: &CallArgs,
    site: &mut Site,
    call: &str,
    clients: &Clients,
) -> Result<Turns, LoadError> {
    let Site { relay, ingress, .. } = site;
    let mut admin = relay.admin();
    clients.publish();
    sleep(WARM_UP).await;
    settle(clients).await;
    let snapshot = clients.snapshot().await?;
    let each = relay.forwarded(&mut admin, call).await?.div_ceil(snapshot.sent.max(1));
    let each = usize::try_from(each).unwrap_or(usize::MAX).clamp(1, RECEIVERS_MAX);
    let (traffic, tiles) = (args.traffic(), args.tiles());
    let job = Job { traffic, transport: args.transport, via: args.via, receivers: each, tiles };
    let mut limits = if args.is_shaped() { None } else { Some(Limits::new(job, &snapshot)?) };
    let turn = args.turn();
    let count = u128::from(args.duration_s) * 1000 / turn.as_millis().max(1);
    let mut turns = Turns::after(snapshot.latency_us);
    let warm = relay.fresh_metrics().await?;
    let progress = Progress::new("measuring", u64::try_from(count.max(1)).unwrap_or(u64::MAX));
    for _ in 0..count.max(1) {
        clients.publish();
        sleep(LEAD).await;
        let (before, sent) = (relay.forwarded(&mut admin, call).await?, clients.snapshot().await?.sent);
        let allocations = relay.process.allocations().await?;
        let ingress_cpu = ingress.as_ref().map(|ingress| ingress.process.cpu()).transpose()?;
        let cpu = relay.process.cpu()?;
        sleep(turn).await;
        let cpu = relay.process.cpu()?.saturating_sub(cpu);
        let ingress_now = ingress.as_ref().map(|ingress| ingress.process.cpu()).transpose()?;
        let allocated = relay.process.allocations().await?.zip(allocations);
        let allocated = allocated.map(|(after, before)| after - before);
        let packets = relay.forwarded(&mut admin, call).await?.saturating_sub(before);
        let sent = clients.snapshot().await?.sent - sent;
        settle(clients).await;
        turns.allocations = turns.allocations.zip(allocated).map(|(sum, turn)| sum + turn);
        turns.relay.push(Turn { cpu, packets });
        if let Some((now, before)) = ingress_now.zip(ingress_cpu) {
            turns.ingress.push(Turn { cpu: now.saturating_sub(before), packets: packets + sent });
        }
        if let Some(limits) = &mut limits {
            turns.limit.push(limits.relay()?);
            turns.ingress_limit.extend(limits.ingress()?);
        }
        progress.advance(1);
    }
    drop(progress);
    let last = relay.fresh_metrics().await?;
    let since = |name: &str| Some(last.value(name)? - warm.value(name)?);
    turns.gso_fraction =
        since(SENT_IN_TRAINS).zip(since(SENT)).filter(|(_, all)| *all > 0.0).map(|(gso, all)| gso / all);
    turns.forwarded_in_all = relay.forwarded(&mut admin, call).await?;
    Ok(turns)
}

/// Publishers stop, and what is under way arrives.
pub(crate) async fn settle(clients: &Clients) {
    clients.pause();
    sleep(SETTLE).await;
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

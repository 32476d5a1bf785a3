//! `crash`: kill -9 and standstill of gateways, and the end of the database that they may share, at random moments under
//! load.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::watch;
use trunkline_testkit::rng::Rng;

use crate::database::{StoreArgs, StoreKind};
use crate::error::LoadError;
use crate::faults::{Faults, FaultsReport};
use crate::fleet;
use crate::gateway::Gateway;
use crate::ledger::Verdict;
use crate::progress::Progress;
use crate::replicas::Replicas;
use crate::report::round;
use crate::submit::Plan;
use crate::{Common, Judged};

/// Longest time between a gateway's start and its next death. Shorter kills more often during recovery, and
/// leaves less load between.
const LIFE_MS_MAX: u64 = 600;

/// Longest time a killed gateway stays down.
const DOWN_MS_MAX: u64 = 150;

/// Longest life of a gateway that is killed while it starts.
const YOUTH_MS_MAX: u64 = 60;

/// What to kill, and how often.
#[derive(Clone, Debug, Args)]
pub(crate) struct CrashArgs {
    /// How many times something is killed: one of the gateways, or the database.
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Repeats the victims and the moments of another run.
    #[arg(long)]
    seed: Option<u64>,
    /// Envelopes per second, each way.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Payload bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Conversations each way.
    #[arg(long, default_value_t = 200)]
    conversations: u32,
    #[command(flatten)]
    store: StoreArgs,
    /// With a database: every so many kills its primary's end makes a standby take over, which is there for that and
    /// without which nothing is acknowledged; 0 for never, and no standby.
    #[arg(long, default_value_t = 10)]
    promote_every: u32,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CrashReport {
    scenario: &'static str,
    kills: u32,
    /// Of those, while the gateway was starting.
    kills_while_starting: u32,
    seed: u64,
    store: StoreKind,
    replicas: u8,
    filesystem: &'static str,
    build: &'static str,
    envelopes: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
    receipts_delivered: u64,
    receipts_failed: u64,
    /// Batches that were handed in again because they were not answered.
    retried_batches: u64,
    /// Envelopes that a gateway recognised as handed in before.
    recognised: u64,
    /// Envelopes that were handed out again, with their number, because they were not acknowledged.
    handed_out_again: u64,
    elapsed_s: f64,
    /// With a database: what was killed, and how long nothing moved then.
    by_kind: Option<FaultsReport>,
}

/// Runs it.
///
/// # Errors
/// When it cannot be carried out.
pub(crate) async fn run(common: &Common, args: &CrashArgs) -> Result<CrashReport, LoadError> {
    let seed = args.seed.unwrap_or_else(|| u64::from_le_bytes(trunkline_common::token::random::<8>()) >> 16);
    let mut fleet = common.fleet()?;
    let mut database = fleet.database(args.store).await?;
    if let Some(database) = &mut database
        && (1..=args.kills).contains(&args.promote_every)
    {
        let port = fleet.port()?;
        database.add_standby(fleet.root(), port).await?;
    }
    let replicas = args.store.replicas;
    let (to_alpha, to_beta) = (fleet.addresses()?, fleet.addresses()?);
    let alpha = fleet.deploy_replicas("alpha.test", to_alpha, replicas, database.as_ref()).await?;
    let beta = fleet.deploy_replicas("beta.test", to_beta, replicas, database.as_ref()).await?;
    fleet::peer(alpha.first()?, beta.first()?).await?;
    let (a, b) = (alpha.messaging()?, beta.messaging()?);
    let there = a.flow_to(&b, args.conversations, args.size)?;
    let back = b.flow_to(&a, args.conversations, args.size)?;
    let started = tokio::time::Instant::now();

    let (stop, stopped) = watch::channel(false);
    // A batch is rarely alone: several of one conversation are on the way when the lights go out.
    let plan = Plan { batch: 8, under_way_max: 50_000, ..Plan::steady(u64::MAX, args.rate) };
    let mut deployments = [alpha, beta];
    let killing = async {
        let killed = match &mut database {
            None => kill_at_random(&mut deployments, args.kills, seed).await.map(|starting| (starting, None)),
            Some(database) => {
                let ledgers = [&there, &back];
                let (deployments, kills) = (&mut deployments, args.kills);
                let faults =
                    Faults { deployments, database, ledgers, kills, promote_every: args.promote_every };
                faults.run(seed).await.map(|report| (report.kills_while_starting(), Some(report)))
            }
        };
        stop.send_replace(true);
        killed
    };
    let (sent_there, sent_back, killed) = tokio::join!(
        a.submit(&there, plan, stopped.clone()),
        b.submit(&back, plan, stopped.clone()),
        killing
    );
    let (kills_while_starting, by_kind) = killed?;
    let (sent_there, sent_back) = (sent_there?, sent_back?);
    let (there, back) = tokio::try_join!(a.settle(&b, &there, sent_there), b.settle(&a, &back, sent_back))?;

    let verdict: Verdict = there.verdict + back.verdict;
    let outcomes = [there.outcome, back.outcome];
    Ok(CrashReport {
        scenario: "crash",
        kills: args.kills,
        kills_while_starting,
        seed,
        store: args.store.store,
        replicas,
        filesystem: fleet::filesystem(fleet.root()),
        build: crate::BUILD,
        envelopes: there.submitted.total + back.submitted.total,
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        reordered: verdict.reordered,
        corrupted: verdict.corrupted + a.inbox.foreign() + b.inbox.foreign(),
        receipts_delivered: outcomes.iter().map(|outcome| outcome.delivered).sum(),
        receipts_failed: outcomes.iter().map(|outcome| outcome.failed).sum(),
        retried_batches: there.submitted.retries + back.submitted.retries,
        recognised: there.submitted.recognised + back.submitted.recognised,
        handed_out_again: a.inbox.handed_out_again() + b.inbox.handed_out_again(),
        elapsed_s: round(started.elapsed().as_secs_f64()),
        by_kind,
    })
}

/// Kills one of the gateways again and again, and leaves both up. Answers how many deaths came while the
/// victim was starting.
async fn kill_at_random(deployments: &mut [Replicas; 2], kills: u32, seed: u64) -> Result<u32, LoadError> {
    let mut gateways: Vec<&mut Gateway> = deployments.iter_mut().flat_map(Replicas::all).collect();
    let mut rng = Rng::new(seed);
    let progress = Progress::new("kills", u64::from(kills));
    let mut while_starting = 0;
    let mut killed = 0;
    while killed < kills {
        let life = Duration::from_millis(rng.range(1..LIFE_MS_MAX));
        let down = Duration::from_millis(rng.range(0..DOWN_MS_MAX));
        // Every fourth victim dies again while it may still be reading its store back.
        let (again, youth) = (rng.chance(0.25), Duration::from_millis(rng.range(0..YOUTH_MS_MAX)));
        let victim = rng.index(gateways.len());
        let Some(victim) = gateways.get_mut(victim) else { continue };
        tokio::time::sleep(life).await;
        victim.kill().await?;
        killed += 1;
        tokio::time::sleep(down).await;
        victim.start()?;
        if again && killed < kills {
            tokio::time::sleep(youth).await;
            victim.kill().await?;
            (killed, while_starting) = (killed + 1, while_starting + 1);
            victim.start()?;
        }
        victim.ready().await?;
        progress.at(u64::from(killed));
    }
    Ok(while_starting)
}

impl Judged for CrashReport {
    fn flawless(&self) -> bool {
        let every_one_receipted = self.receipts_delivered == self.envelopes && self.receipts_failed == 0;
        self.lost + self.duplicated + self.reordered + self.corrupted == 0 && every_one_receipted
    }
}

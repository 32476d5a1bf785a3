//! `join-storm`: many people join many calls in little time, as at the full hour: from each one's request to its keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use trunkline_relay_peer::{Plan, Settings};

use crate::call::Percentiles;
use crate::call::clients::Clients;
use crate::call::entrance::{Entrance, Participant};
use crate::call::relay::{create_call, mint};
use crate::call::site::{self, Site, Transport, Via};
use crate::error::LoadError;
use crate::progress::Progress;
use crate::report::round;
use crate::{Common, Judged};

/// Most joins of one run: each is a socket of this process.
const JOINS_MAX: u32 = 10_000;

/// Most calls of one run: each is a port of the node.
const CALLS_MAX: u32 = 40;

/// People on a call, as the relay limits them.
const PARTICIPANTS_MAX: u32 = 500;

/// How long the last ones may take, once all have begun.
const JOINED_WITHIN: Duration = Duration::from_secs(20);

/// How often it looks who is in.
const LOOK: Duration = Duration::from_millis(100);

/// What people offer to receive in.
const SLOTS: (usize, usize) = (3, 9);

/// Who joins, and how fast.
#[derive(Clone, Debug, Args)]
pub(crate) struct JoinStormArgs {
    /// Joins.
    #[arg(long, default_value_t = 1000)]
    joins: u32,
    /// The time in which all of them begin.
    #[arg(long, default_value_t = 10.0)]
    over_s: f64,
    /// People on each call.
    #[arg(long, default_value_t = 50)]
    participants_per_call: u32,
    /// What people connect to
    #[arg(long, value_enum, default_value_t = Via::Ingress)]
    via: Via,
    /// How they connect
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    transport: Transport,
    /// The relay program to run [default: the relay this program was built with]
    #[arg(long)]
    relay_bin: Option<std::path::PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct JoinStormReport {
    scenario: &'static str,
    via: Via,
    transport: Transport,
    build: &'static str,
    joins: u32,
    over_s: f64,
    participants_per_call: u32,
    /// Joins that were refused, or had no keys in time.
    failed: u64,
    /// What the first of them was refused with.
    failure: Option<String>,
    /// From the request with the offer to the keys.
    join_ms: Percentiles,
    /// The slowest of them.
    join_ms_max: f64,
    /// Processor time of the node.
    cpu_ms_per_join: f64,
    /// Processor time of the ingress. Null without one.
    ingress_cpu_ms_per_join: Option<f64>,
}

impl Judged for JoinStormReport {
    fn flawless(&self) -> bool {
        self.failed == 0
    }
}

impl JoinStormArgs {
    fn calls(&self) -> u32 {
        self.joins.div_ceil(self.participants_per_call.max(1))
    }

    fn check(&self) -> Result<(), LoadError> {
        let usage = |what: String| Err(LoadError::Usage(what));
        if !(1..=JOINS_MAX).contains(&self.joins) || !(0.0..=3600.0).contains(&self.over_s) {
            return usage(format!("expected --joins 1 to {JOINS_MAX}, --over-s 0 to 3600"));
        }
        if !(1..=PARTICIPANTS_MAX).contains(&self.participants_per_call) || self.calls() > CALLS_MAX {
            return usage(format!(
                "--participants-per-call: expected 1 to {PARTICIPANTS_MAX}, for {CALLS_MAX} calls at most"
            ));
        }
        Ok(())
    }
}

/// Runs it.
///
/// # Errors
/// When it cannot be carried out. Joins that fail are no error, but what it is about.
pub(crate) async fn run(common: &Common, args: &JoinStormArgs) -> Result<JoinStormReport, LoadError> {
    args.check()?;
    let mut fleet = common.fleet()?;
    let calls = u16::try_from(args.calls()).unwrap_or(u16::MAX);
    let plan = site::Plan {
        via: args.via,
        transport: args.transport,
        calls,
        twin: false,
        workers: site::Workers::ONE,
        relay_bin: args.relay_bin.clone(),
    };
    let site = Site::start(&mut fleet, &plan).await?;
    let epoch = Instant::now();
    let settings = Settings::new(epoch).map_err(|error| LoadError::Usage(error.to_string()))?.shared();
    let entrance = Entrance::new(&site, &settings, args.transport);
    let clients = Arc::new(Clients::start(epoch, false)?);
    let tickets = tickets(&site, args).await?;

    let cpu = || -> Result<_, LoadError> {
        let ingress = site.ingress.as_ref().map(|ingress| ingress.process.cpu()).transpose()?;
        Ok((site.relay.process.cpu()?, ingress))
    };
    let before = cpu()?;
    let progress = Progress::new("joining", u64::from(args.joins));
    let mut asking = begin(args, &entrance, &clients, tickets);
    let (mut refused, mut failure) = (0, None);
    let deadline = Instant::now() + Duration::from_secs_f64(args.over_s) + JOINED_WITHIN;
    let snapshot = loop {
        while let Some(asked) = asking.try_join_next() {
            let asked = asked.map_err(|error| LoadError::Usage(format!("a join panicked: {error}")))?;
            if let Err(error) = asked {
                refused += 1;
                failure.get_or_insert(error.to_string());
            }
        }
        let snapshot = clients.snapshot().await?;
        let done = snapshot.joins.len() as u64 + snapshot.failed + refused;
        progress.at(done);
        if done >= u64::from(args.joins) || Instant::now() > deadline {
            break snapshot;
        }
        tokio::time::sleep(LOOK).await;
    };
    drop(progress);
    let after = cpu()?;
    let joined = snapshot.joins.len() as u64;
    let each = |cpu: Duration| round(cpu.as_secs_f64() * 1e3 / joined.max(1) as f64);
    let slowest = snapshot.joins.iter().max().copied().unwrap_or_default();
    Ok(JoinStormReport {
        scenario: "join-storm",
        via: args.via,
        transport: args.transport,
        build: crate::BUILD,
        joins: args.joins,
        over_s: args.over_s,
        participants_per_call: args.participants_per_call,
        failed: u64::from(args.joins).saturating_sub(joined),
        failure,
        join_ms: Percentiles::of(snapshot.joins),
        join_ms_max: round(slowest.as_secs_f64() * 1e3),
        cpu_ms_per_join: each(after.0.saturating_sub(before.0)),
        ingress_cpu_ms_per_join: after.1.zip(before.1).map(|(after, before)| each(after - before)),
    })
}

/// What somebody needs to join.
struct Ticket {
    call: Arc<str>,
    token: String,
}

/// Creates the calls, and tokens for everybody, in the order of joining: calls fill side by side.
async fn tickets(site: &Site, args: &JoinStormArgs) -> Result<Vec<Ticket>, LoadError> {
    let mut admin = site.admin();
    let mut calls: Vec<Arc<str>> = Vec::new();
    for _ in 0..args.calls() {
        calls.push(create_call(&mut admin, args.participants_per_call).await?.into());
    }
    let mut tickets = Vec::new();
    for (number, call) in (0..args.joins).zip(calls.iter().cycle()) {
        let token = mint(&mut admin, call, &format!("p{number}"), "viewer").await?;
        tickets.push(Ticket { call: Arc::clone(call), token });
    }
    Ok(tickets)
}

/// Everybody begins when it is their turn, whether those before them are in or not.
fn begin(
    args: &JoinStormArgs,
    entrance: &Entrance,
    clients: &Arc<Clients>,
    tickets: Vec<Ticket>,
) -> JoinSet<Result<(), LoadError>> {
    let mut asking = JoinSet::new();
    let (start, apart) = (tokio::time::Instant::now(), args.over_s / f64::from(args.joins));
    for (number, ticket) in (0_u32..).zip(tickets) {
        let (entrance, clients) = (entrance.clone(), Arc::clone(clients));
        asking.spawn(async move {
            tokio::time::sleep_until(start + Duration::from_secs_f64(apart * f64::from(number))).await;
            let plan = Plan::receiver(SLOTS.0, SLOTS.1);
            let who =
                Participant { call: &ticket.call, token: &ticket.token, plan, seed: u64::from(number) + 1 };
            clients.join(entrance.enter(&who, None).await?);
            Ok(())
        });
    }
    asking
}

//! Real processes, real sockets, real fsync: what the gateway and the relay are measured and broken with.
//!
//! # Layout
//! - the gateway's scenarios: [`demo`], [`envelopes`], [`outage`], [`dead_peers`], [`crash`]
//! - the relay's: [`call`], [`join_storm`], [`flood`]
//! - [`fleet`], [`replicas`], [`gateway`], [`ports`]: deployments, their processes, where they listen
//! - [`database`]: the PostgreSQL server they may share
//! - [`faults`], [`resumption`]: what is broken when they share one, and how long nothing moves then
//! - [`shaped`]: the network between them
//! - [`messaging`]: the messaging server of a deployment, made of [`submit`] and [`reader`]
//! - [`flow`], [`ledger`]: envelopes that say which one they are, and the book of those that arrived
//! - [`http`], [`procfs`], [`progress`], [`report`], [`error`], [`allocations`]: tools

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use error::LoadError;
use fleet::Fleet;
use gateway::Launcher;

mod allocations;
mod call;
mod crash;
mod database;
mod dead_peers;
mod demo;
mod envelopes;
mod error;
mod faults;
mod fleet;
mod flood;
mod flow;
mod gateway;
mod http;
mod join_storm;
mod ledger;
mod messaging;
mod outage;
mod ports;
mod procfs;
mod progress;
mod reader;
mod replicas;
mod report;
mod resumption;
mod shaped;
mod submit;

/// How this program, and so the gateways it starts, was built: a measurement of a debug build says little.
const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// Load, fault and demo scenarios for Trunkline with real processes.
///
/// Exit codes: 0 done and nothing lost, duplicated or reordered; 1 it was; 2 the scenario could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "trunkline-loadtest", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    scenario: Scenario,
}

/// What all scenarios have in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Print the result as one line of JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Where the gateways keep their data: a new or empty directory on a real disk, left as it is afterwards
    /// [default: a temporary one]
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// The gateway program to run [default: the gateway this program was built with]
    #[arg(long, global = true)]
    gateway_bin: Option<PathBuf>,
    /// Give up after so many seconds.
    #[arg(long, global = true, default_value_t = 1800)]
    time_max_s: u64,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Two peered deployments on loopback from an empty directory, with consoles, messaging pages and calls; prints their
    /// links and a tour, and stays until Ctrl-C.
    Demo(demo::DemoArgs),
    /// Throughput, CPU time, latency and memory from one deployment to another.
    Envelopes(envelopes::EnvelopesArgs),
    /// A peer is away while a backlog queues, and returns.
    Outage(outage::OutageArgs),
    /// Most peers do not answer: what is left for the others.
    DeadPeers(dead_peers::DeadPeersArgs),
    /// kill -9 of gateways, and of the database that they may share, at random moments under load; gateways that share
    /// one stand still as well
    Crash(crash::CrashArgs),
    /// A call of many people on one relay: cost per forwarded packet and per join, held against the bare job.
    Call(call::CallArgs),
    /// Many people join in little time through one ingress.
    JoinStorm(join_storm::JoinStormArgs),
    /// Forged first packets from everywhere, while people are on a call through the same ingress.
    Flood(flood::FloodArgs),
    /// Be a relay that says how often it allocates: what `call` and others start.
    #[command(hide = true, disable_help_flag = true)]
    Relay {
        /// Handed through.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Be a gateway: what the scenarios start.
    #[command(hide = true, disable_help_flag = true)]
    Gateway {
        /// Handed through.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Counts allocations in the relay processes that are this very program, and does nothing else anywhere.
#[global_allocator]
static ALLOCATOR: allocations::CountingAllocator = allocations::CountingAllocator;

/// A result that can be good or bad.
pub(crate) trait Judged: Serialize {
    /// Whether everything arrived exactly once, in order.
    fn flawless(&self) -> bool;
}

impl Common {
    /// An empty fleet for a scenario.
    ///
    /// # Errors
    /// When its directory cannot be used.
    pub(crate) fn fleet(&self) -> Result<Fleet, LoadError> {
        Fleet::new(Launcher::new(self.gateway_bin.clone())?, self.dir.as_deref())
    }
}

fn main() -> ExitCode {
    let Cli { common, scenario } = Cli::parse();
    if let Scenario::Gateway { args } = scenario {
        // However this program's parent ends, no gateway stays behind.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        return trunkline_gateway::cli::main([OsString::from("trunkline-gateway")].into_iter().chain(args));
    }
    if let Scenario::Relay { args } = scenario {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        if let Err(error) = call::process::answer_with_allocations() {
            let _ = writeln!(std::io::stderr(), "trunkline-loadtest: {error}");
            return ExitCode::from(2);
        }
        return trunkline_relay::cli::main([OsString::from("trunkline-relay")].into_iter().chain(args));
    }
    // One thread for the whole driver: it shares the processors with the gateways it measures, and the parent
    // whose death ends them must be a thread that lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .map_err(LoadError::io("starting the runtime"))
        .and_then(|runtime| runtime.block_on(Box::pin(carry_out(&common, scenario))));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "trunkline-loadtest: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs a scenario until it is done, takes too long, or is interrupted; dropping it kills its gateways.
async fn carry_out(common: &Common, scenario: Scenario) -> Result<bool, LoadError> {
    if matches!(&scenario, Scenario::Demo(args) if !args.once) {
        // It stays until its user has seen enough, and sees to the interruption itself.
        return run(common, scenario).await;
    }
    let limit = Duration::from_secs(common.time_max_s);
    let mut terminated =
        signal(SignalKind::terminate()).map_err(LoadError::io("listening for the signal to end"))?;
    let interrupted = || Err(LoadError::Usage("interrupted: the gateways were killed".to_owned()));
    tokio::select! {
        outcome = tokio::time::timeout(limit, Box::pin(run(common, scenario))) => match outcome {
            Ok(outcome) => outcome,
            Err(_) => Err(LoadError::TimedOut { what: "the end of the scenario".to_owned(), waited: limit }),
        },
        _ = tokio::signal::ctrl_c() => interrupted(),
        _ = terminated.recv() => interrupted(),
    }
}

async fn run(common: &Common, scenario: Scenario) -> Result<bool, LoadError> {
    match scenario {
        Scenario::Demo(args) => demo::run(common, &args).await,
        Scenario::Envelopes(args) => present(common, &envelopes::run(common, &args).await?),
        Scenario::Outage(args) => present(common, &outage::run(common, &args).await?),
        Scenario::DeadPeers(args) => present(common, &dead_peers::run(common, &args).await?),
        Scenario::Crash(args) => present(common, &crash::run(common, &args).await?),
        Scenario::Call(args) => present(common, &call::run(common, &args).await?),
        Scenario::JoinStorm(args) => present(common, &join_storm::run(common, &args).await?),
        Scenario::Flood(args) => present(common, &flood::run(common, &args).await?),
        Scenario::Gateway { .. } | Scenario::Relay { .. } => Ok(true),
    }
}

fn present(common: &Common, report: &impl Judged) -> Result<bool, LoadError> {
    report::print(report, common.json)?;
    Ok(report.flawless())
}

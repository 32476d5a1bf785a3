//! `demo`: two deployments on loopback from an empty directory, with consoles, messaging pages and calls.
//!
//! # Layout
//! - [`deployment`]: gateway, relay node, ingress and messaging server of one deployment; [`console`]: its first log-in
//! - [`server`]: the messaging server, made of [`directory`], [`mailbox`], [`courier`], [`hosting`] and [`pages`]
//! - [`sealed`]: end-to-end encryption in the page's format
//! - [`story`]: the tour without a browser, by [`person`]s without one, in [`steps`]
//! - [`tour`]: what is printed for people with a browser

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::Common;
use crate::error::LoadError;
use crate::fleet::{self, Fleet};
use crate::progress::Progress;
use deployment::{Deployment, PARTS, Ports};
use steps::Steps;

mod console;
mod courier;
mod deployment;
mod directory;
mod hosting;
mod mailbox;
mod pages;
mod person;
mod sealed;
mod server;
mod steps;
mod story;
mod tour;

/// How often it is looked whether everything still runs.
const LOOK: Duration = Duration::from_secs(1);

/// Whether to stay, and how far to go.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Play the tour without a browser, check every step, then stop.
    #[arg(long)]
    pub once: bool,
    /// Bring both up without peering them: do that in the two consoles.
    #[arg(long, conflicts_with = "once")]
    pub fresh: bool,
}

/// Both deployments, and how they know each other.
struct Running {
    alpha: Deployment,
    beta: Deployment,
    transport: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When something does not do what it should.
pub(crate) async fn run(common: &Common, args: &DemoArgs) -> Result<bool, LoadError> {
    let mut fleet = common.fleet()?;
    let mut steps = Steps::new(!common.json);
    if args.once {
        once(common, &mut fleet, &mut steps).await?;
    } else {
        Box::pin(stay(common, args, &mut fleet, &steps)).await?;
    }
    Ok(true)
}

/// The story, and nothing stays.
async fn once(common: &Common, fleet: &mut Fleet, steps: &mut Steps) -> Result<(), LoadError> {
    let started = Instant::now();
    steps.say(&format!("Two deployments in {}:", fleet.root().display()))?;
    let running = start(fleet, false).await?;
    let transport = running.transport.as_deref().unwrap_or("unknown");
    steps.done(&format!(
        "gateway, relay, ingress and messaging server of each are up; peered over {transport}"
    ))?;
    let delivered = Box::pin(story::play(&running.alpha, &running.beta, steps)).await?;
    let Running { alpha, beta, transport } = running;
    tokio::try_join!(alpha.stop(), beta.stop())?;
    steps.done("everything stopped")?;
    let took_s = started.elapsed().as_secs_f64();
    steps.say(&format!("All of it works, in {took_s:.1} s."))?;
    if common.json {
        let report = json!({
            "scenario": "demo",
            "delivered": delivered,
            "transport": transport,
            "took_s": crate::report::round(took_s),
            "steps": steps.all(),
        });
        crate::report::print(&report, true)?;
    }
    Ok(())
}

/// Until somebody has seen enough.
async fn stay(common: &Common, args: &DemoArgs, fleet: &mut Fleet, steps: &Steps) -> Result<(), LoadError> {
    let Running { mut alpha, mut beta, .. } = tokio::select! {
        running = Box::pin(start(fleet, args.fresh)) => running?,
        // What was started goes with it.
        interrupted = interrupted() => return interrupted,
    };
    let call = alpha.server.open_call();
    if common.json {
        crate::report::print(&tour::report(&alpha, &beta, &call), true)?;
    } else {
        steps.say(&tour::text(&alpha, &beta, &call, fleet.root(), args.fresh))?;
    }
    tokio::select! {
        // First, because Ctrl-C in a terminal reaches all of them.
        biased;
        interrupted = interrupted() => interrupted?,
        ended = ended(&mut alpha, &mut beta) => return Err(ended),
    }
    steps.say("\nStopping.")?;
    tokio::try_join!(alpha.stop(), beta.stop()).map(drop)
}

/// Waits for Ctrl-C, or the order to end.
async fn interrupted() -> Result<(), LoadError> {
    let ended = signal(SignalKind::terminate());
    let mut ended = ended.map_err(LoadError::io("listening for the signal to end"))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = ended.recv() => {}
    }
    Ok(())
}

/// Waits until a process has ended that should not have: somebody who looks at a console must not wonder why it stands
/// still.
async fn ended(alpha: &mut Deployment, beta: &mut Deployment) -> LoadError {
    loop {
        if let Err(error) = alpha.lives().and_then(|()| beta.lives()) {
            return error;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Brings both up side by side, and introduces them.
async fn start(fleet: &mut Fleet, fresh: bool) -> Result<Running, LoadError> {
    let ports = (Ports::take(fleet)?, Ports::take(fleet)?);
    let progress = Progress::new("starting two deployments", 2 * PARTS + u64::from(!fresh));
    let (alpha, beta) = tokio::try_join!(
        Box::pin(Deployment::start(fleet, "alpha.test", ports.0, &progress)),
        Box::pin(Deployment::start(fleet, "beta.test", ports.1, &progress)),
    )?;
    let mut transport = None;
    if !fresh {
        fleet::peer(&alpha.gateway, &beta.gateway).await?;
        transport = Some(fleet::transport(&alpha.gateway, &beta.gateway.domain).await?);
        progress.advance(1);
    }
    Ok(Running { alpha, beta, transport })
}

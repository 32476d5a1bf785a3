//! `status`: what is wrong and what to do, then the figures.

use std::fmt::Write;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use trunkline_gateway_proto::admin::{NetworkView, PeerView, Totals};
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::view;

use super::{Api, CliError, Console, console};
use crate::doctor::{Check, Outcome, peers};
use crate::replica::Replica;

/// How often `--watch` looks again.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Days before our certificate ends in CA mode when that is said.
const DAYS_LEFT: u64 = 14;

/// To the upper left corner, and away with what stood below.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look again every second, until interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Deserialize)]
struct Status {
    domain: String,
    version: String,
    uptime_s: u64,
    reason: Option<String>,
    leader: Option<String>,
    /// A gateway of an older release tells none.
    #[serde(default)]
    replicas: Vec<Replica>,
    peers: Counts,
    networks: usize,
    outbox_depth: u64,
    outbox_oldest: Option<Time>,
    inbox_depth: u64,
    totals: Totals,
}

#[derive(Deserialize)]
struct Counts {
    all: usize,
    up: usize,
    down: usize,
    paused: usize,
    invited: usize,
    alarm: usize,
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerView>,
}

#[derive(Deserialize)]
struct Networks {
    networks: Vec<NetworkView>,
}

#[derive(Deserialize)]
struct Identity {
    mode: String,
    current: Certificate,
}

#[derive(Deserialize)]
struct Certificate {
    not_after: Time,
}

/// Everything `status` looks at.
struct Facts {
    status: Status,
    peers: Vec<PeerView>,
    networks: Vec<NetworkView>,
    identity: Identity,
}

pub(super) async fn call(args: &Args, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    if !args.watch {
        return show(api, out).await;
    }
    if out.json || !out.screen {
        return Err(CliError::Usage(
            "--watch needs a terminal: without one, `events` follows what happens".into(),
        ));
    }
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A restart of the gateway is something to see, not something to end for.
        let text = match facts(api).await {
            Ok(facts) => text(&facts, console::now()),
            Err(error) => error.to_string(),
        };
        out.text(&format!("{CLEAR}{text}"));
    }
}

async fn show(api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    if out.json {
        let answer = api.get("/admin/v1/status").await?;
        out.value(&answer);
        return Ok(());
    }
    let facts = facts(api).await?;
    out.text(&text(&facts, console::now()));
    Ok(())
}

async fn facts(api: &Api) -> Result<Facts, CliError> {
    let status = view(&api.get("/admin/v1/status").await?)?;
    let Peers { peers } = view(&api.get("/admin/v1/peers").await?)?;
    let Networks { networks } = view(&api.get("/admin/v1/networks").await?)?;
    let identity = view(&api.get("/admin/v1/identity").await?)?;
    Ok(Facts { status, peers, networks, identity })
}

fn text(facts: &Facts, now: Time) -> String {
    let mut text = String::new();
    for Check { subject, finding, advice, .. } in wrong(facts, now) {
        let _ = writeln!(text, "{subject}: {finding}");
        if let Some(advice) = advice {
            let _ = writeln!(text, "  {advice}");
        }
    }
    if text.is_empty() {
        text.push_str("Nothing is wrong.\n");
    }
    let _ = write!(text, "\n{}", figures(&facts.status));
    if !facts.status.replicas.is_empty() {
        let _ = write!(text, "\n\n{}", replicas(&facts.status.replicas));
    }
    text
}

/// What an operator should know first, the worst before the rest.
fn wrong(facts: &Facts, now: Time) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(reason) = &facts.status.reason {
        checks.push(Check::failed(
            "gateway",
            facts.status.domain.as_str(),
            format!("The gateway is not ready: {}.", reason.trim_end_matches('.')),
            "See its log, and `doctor`.",
        ));
    }
    checks.extend(certificate(facts, now));
    checks.extend(facts.peers.iter().flat_map(|peer| peers::of_peer(peer, now)));
    checks.extend(facts.networks.iter().flat_map(|network| peers::of_network(network, now)));
    checks.retain(|check| check.outcome != Outcome::Ok);
    checks.sort_by_key(|check| check.outcome);
    checks
}

fn certificate(facts: &Facts, now: Time) -> Option<Check> {
    let left = facts.identity.current.not_after.since(now).as_secs() / 86_400;
    (facts.identity.mode == "ca" && left < DAYS_LEFT).then(|| {
        Check::warning(
            "certificate",
            "certificate",
            format!("Our certificate is good for {left} days; then peers refuse new links."),
            "Replace certificate and key; the gateway reads them by itself.",
        )
    })
}

fn figures(status: &Status) -> String {
    let oldest = status.outbox_oldest.map_or_else(String::new, |at| format!(", oldest {}", console::age(at)));
    let Counts { all, up, down, paused, invited, alarm } = status.peers;
    let Totals { submitted, delivered, received, local, refused, expired, purged, .. } = status.totals;
    let leader = status.leader.clone().map(|address| ("leader", address));
    let mut fields = vec![
        ("domain", status.domain.clone()),
        ("version", status.version.clone()),
        ("uptime", console::span(Duration::from_secs(status.uptime_s))),
        ("ready", status.reason.clone().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}"))),
        (
            "peers",
            format!("{all}: {up} up, {down} down, {paused} paused, {invited} invited, {alarm} in alarm"),
        ),
        ("networks", status.networks.to_string()),
        ("outbox", format!("{}{oldest}", status.outbox_depth)),
        ("inbox", status.inbox_depth.to_string()),
        ("sent", format!("{submitted} submitted, {delivered} delivered, {local} local")),
        ("not sent", format!("{refused} refused, {expired} expired, {purged} purged")),
        ("received", received.to_string()),
    ];
    fields.splice(1..1, leader);
    console::fields(&fields)
}

fn replicas(replicas: &[Replica]) -> String {
    let row = |replica: &Replica| {
        [
            replica.address.clone().unwrap_or_else(|| "unknown".to_owned()),
            if replica.leads { "leads" } else { "follows" }.to_owned(),
            console::age(replica.since),
            console::or_dash(replica.version.clone()),
        ]
    };
    console::table(["REPLICA", "STANDING", "FOR", "VERSION"], &replicas.iter().map(row).collect::<Vec<_>>())
}

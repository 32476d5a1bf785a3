//! `status`: everything at a glance.

use serde::Deserialize;
use std::time::Duration;
use trunkline_gateway_proto::admin::Totals;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::view;

use super::{Api, CliError, Console, console};

#[derive(Deserialize)]
struct Status {
    domain: String,
    version: String,
    uptime_s: u64,
    reason: Option<String>,
    peers: Peers,
    networks: usize,
    outbox_depth: u64,
    outbox_oldest: Option<Time>,
    inbox_depth: u64,
    totals: Totals,
}

#[derive(Deserialize)]
struct Peers {
    all: usize,
    up: usize,
    down: usize,
    paused: usize,
    invited: usize,
    alarm: usize,
}

pub(super) async fn show(api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let answer = api.get("/admin/v1/status").await?;
    if out.json {
        out.value(&answer);
        return Ok(());
    }
    let Status { domain, version, peers, totals, .. } = view(&answer)?;
    let status: Status = view(&answer)?;
    let oldest = status.outbox_oldest.map_or_else(String::new, |at| format!(", oldest {}", console::age(at)));
    let Peers { all, up, down, paused, invited, alarm } = peers;
    let Totals { submitted, delivered, received, local, refused, expired, purged, .. } = totals;
    out.text(&console::fields(&[
        ("domain", domain),
        ("version", version),
        ("uptime", console::span(Duration::from_secs(status.uptime_s))),
        ("ready", status.reason.map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}"))),
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
    ]));
    Ok(())
}

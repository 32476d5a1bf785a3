//! `outbox`: what waits for peers.

use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use trunkline_common::ids::Domain;
use trunkline_common::units::Span;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::view;
use trunkline_http::cli::progress::Progress;

use super::{Api, CliError, Console, console};

/// How often `wait` looks. More often moves the bar more smoothly, and asks the core more.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What waits for whom, and since when
    Show,
    /// Dial a peer now, or all peers that are down
    Retry {
        /// The peer's federation domain
        domain: Option<Domain>,
    },
    /// Wait until what waits now has left: delivered, refused or expired
    Wait {
        /// The peer's federation domain [default: all peers]
        domain: Option<Domain>,
        /// Give up after this long, such as 90s or 10m [default: never]
        #[arg(long, value_name = "SPAN")]
        timeout: Option<Span>,
    },
    /// Throw away what waits for a peer; senders get receipts
    Purge {
        /// The peer's federation domain
        domain: Domain,
        /// Only this lane, 0 to 15
        #[arg(long)]
        lane: Option<u8>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Deserialize)]
struct Outbox {
    depth: u64,
    bytes: u64,
    peers: Vec<Peer>,
}

#[derive(Deserialize)]
struct Peer {
    domain: String,
    depth: u64,
    bytes: u64,
    oldest: Option<Time>,
    link: String,
    next_dial: Option<Time>,
    last_error: Option<String>,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::Show => {
            let answer = api.get("/admin/v1/outbox").await?;
            let outbox: Outbox = view(&answer)?;
            out.show(&answer, || text(&outbox));
        }
        Verb::Retry { domain } => {
            let answer = api.post("/admin/v1/outbox/retry", &json!({ "domain": domain })).await?;
            out.show(&answer, || format!("dialling {} peers now", count(&answer)));
        }
        Verb::Wait { domain, timeout } => wait(domain.as_ref(), timeout, api, out).await?,
        Verb::Purge { domain, lane, yes } => {
            out.confirm(yes, &format!("Throw away what waits for {domain}?"))?;
            let body = json!({ "domain": domain, "lane": lane });
            let answer = api.post("/admin/v1/outbox/purge", &body).await?;
            out.show(&answer, || format!("{} envelopes purged; their senders get receipts", count(&answer)));
        }
    }
    Ok(())
}

/// What still waits of what waited when it was asked.
struct Waiting {
    depth: u64,
    /// Peers it waits for, with what keeps them.
    held_up: Vec<String>,
}

async fn wait(
    domain: Option<&Domain>,
    limit: Option<Span>,
    api: &Api,
    out: &mut Console<'_>,
) -> Result<(), CliError> {
    let (asked, began) = (console::now(), Instant::now());
    let whom = domain.map_or_else(|| "any peer".to_owned(), ToString::to_string);
    let mut progress: Option<Progress> = None;
    let mut total = 0;
    loop {
        let outbox: Outbox = view(&api.get("/admin/v1/outbox").await?)?;
        let Waiting { depth, held_up } = waiting(&outbox, domain, asked)?;
        total = total.max(depth);
        if depth == 0 {
            break;
        }
        if limit.is_some_and(|limit| began.elapsed() >= limit.0) {
            let why = if held_up.is_empty() { "links are up".to_owned() } else { held_up.join("; ") };
            return Err(CliError::Failed(format!("{depth} envelopes still wait for {whom}: {why}")));
        }
        let bar = progress.get_or_insert_with(|| Progress::new("delivering", total));
        bar.of(total);
        bar.at(total - depth);
        bar.say(held_up.first().cloned().unwrap_or_else(|| "delivering".to_owned()));
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drop(progress);
    let took = began.elapsed();
    let value = json!({ "done": true, "left": total, "seconds": took.as_secs_f64() });
    out.show(&value, || match total {
        0 => format!("nothing waits for {whom}"),
        _ => {
            format!("nothing that waited waits for {whom} any more: {total} left in {}", console::span(took))
        }
    });
    Ok(())
}

/// What came after `asked` does not count; within one peer the oldest tells.
fn waiting(outbox: &Outbox, domain: Option<&Domain>, asked: Time) -> Result<Waiting, CliError> {
    let meant = |peer: &&Peer| domain.is_none_or(|domain| peer.domain == domain.as_str());
    if let Some(domain) = domain
        && !outbox.peers.iter().any(|peer| meant(&peer))
    {
        return Err(CliError::Failed(format!("there is no peer `{domain}`")));
    }
    let mut waiting = Waiting { depth: 0, held_up: Vec::new() };
    for peer in outbox.peers.iter().filter(meant) {
        if peer.depth == 0 || peer.oldest.is_some_and(|oldest| oldest > asked) {
            continue;
        }
        waiting.depth += peer.depth;
        if peer.link != "up" {
            let why = peer.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            waiting.held_up.push(format!("{} is {}{why}", peer.domain, peer.link));
        }
    }
    Ok(waiting)
}

fn count(answer: &serde_json::Value) -> u64 {
    answer.get("count").and_then(serde_json::Value::as_u64).unwrap_or(0)
}

fn text(outbox: &Outbox) -> String {
    let row = |peer: &Peer| {
        [
            peer.domain.clone(),
            peer.depth.to_string(),
            console::bytes(peer.bytes),
            console::or_dash(peer.oldest.map(console::age)),
            peer.link.clone(),
            console::or_dash(peer.next_dial.map(console::moment)),
            console::or_dash(peer.last_error.clone()),
        ]
    };
    let rows: Vec<_> = outbox.peers.iter().map(row).collect();
    let header = ["PEER", "ENVELOPES", "BYTES", "OLDEST", "LINK", "NEXT DIAL", "LAST ERROR"];
    let total = format!("{} envelopes, {} in all", outbox.depth, console::bytes(outbox.bytes));
    format!("{}\n{total}", console::table(header, &rows))
}

//! `outbox`: what waits for peers.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use trunkline_common::ids::Domain;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::view;

use super::{Api, CliError, Console, console};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What waits for whom, and since when
    Show,
    /// Dial a peer now, or all peers that are down
    Retry {
        /// The peer's federation domain
        domain: Option<Domain>,
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
        Verb::Purge { domain, lane, yes } => {
            out.confirm(yes, &format!("Throw away what waits for {domain}?"))?;
            let body = json!({ "domain": domain, "lane": lane });
            let answer = api.post("/admin/v1/outbox/purge", &body).await?;
            out.show(&answer, || format!("{} envelopes purged; their senders get receipts", count(&answer)));
        }
    }
    Ok(())
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

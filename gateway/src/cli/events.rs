//! `events`: what happens, as it happens.

use serde::Deserialize;
use serde_json::Value;
use trunkline_gateway_proto::time::Time;

use super::{Api, CliError, Console, console};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stop after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Deserialize)]
struct Event {
    at_ms: u64,
    kind: String,
    peer: Option<String>,
    detail: String,
}

/// Bytes of one event at most: what is longer is no event of ours. The largest are samples of many peers.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

pub(super) async fn follow(args: &Args, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let mut response = api.follow("/admin/v1/events").await?;
    let (mut waiting, mut seen, mut sample) = (Vec::new(), 0, false);
    while let Some(chunk) = response.chunk().await.map_err(ended)? {
        waiting.extend_from_slice(&chunk);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(name) = line.strip_prefix("event:") {
                // Samples are for charts: `outbox show` says as much.
                sample = name.trim() == "sample";
            }
            let Some(data) = line.trim_end().strip_prefix("data:").filter(|_| !sample) else { continue };
            if !show(data.trim_start(), out) {
                continue;
            }
            seen += 1;
            if args.count.is_some_and(|count| seen >= count) {
                return Ok(());
            }
        }
        if waiting.len() > EVENT_BYTES_MAX {
            return Err(CliError::Failed("the gateway sent an event without end: is this its URL?".into()));
        }
    }
    Err(CliError::Failed("the gateway closed the connection: it is stopping".into()))
}

/// Shows one event; answers whether it was one.
fn show(data: &str, out: &mut Console<'_>) -> bool {
    let Ok(value) = serde_json::from_str::<Value>(data) else { return false };
    let Ok(event) = Event::deserialize(&value) else {
        out.hint(&format!("({data} events were missed: this reader is too slow)"));
        return false;
    };
    // One line per event, so that a pipe can read them.
    let text = if out.json {
        value.to_string()
    } else {
        let Event { at_ms, kind, peer, detail } = event;
        format!(
            "{}  {kind}  {}  {detail}",
            console::moment(Time::from_unix_ms(at_ms)),
            console::or_dash(peer)
        )
    };
    out.text(&text);
    true
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function of map_err")]
fn ended(error: reqwest::Error) -> CliError {
    CliError::Failed(format!("the connection to the gateway broke ({error}): start again"))
}

//! `relay`: the deployment's relays.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::{segment, view};

use super::{Api, CliError, Console, console};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All relays, and how they are
    List,
    /// Let a node take nobody new
    Drain {
        /// Its name in the configuration
        name: String,
        /// Its calls move to other nodes or end within so many seconds
        #[arg(long, value_name = "SECONDS")]
        deadline_s: Option<u64>,
    },
    /// Undo a drain
    Undrain {
        /// Its name in the configuration
        name: String,
    },
}

#[derive(Deserialize)]
struct Relays {
    relays: Vec<Relay>,
}

#[derive(Deserialize)]
struct Relay {
    name: String,
    kind: Option<String>,
    state: String,
    error: Option<String>,
    since: Option<Time>,
    draining: bool,
    calls: u64,
    calls_max: Option<u64>,
    participants: u64,
    busy: Option<f64>,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::List => {
            let answer = api.get("/admin/v1/relays").await?;
            let Relays { relays } = view(&answer)?;
            out.show(&answer, || match relays.as_slice() {
                [] => "no relays: [[relays]] in gateway.toml names them".to_owned(),
                relays => text(relays),
            });
        }
        Verb::Drain { name, deadline_s } => {
            let body = deadline_s.map_or_else(|| json!({}), |deadline_s| json!({ "deadline_s": deadline_s }));
            let answer = api.post(&path(&name), &body).await?;
            out.show(&answer, || format!("{name} takes nobody new; `relay undrain {name}` undoes it"));
        }
        Verb::Undrain { name } => {
            let answer = api.delete(&path(&name)).await?;
            out.show(&answer, || format!("{name} takes calls again"));
        }
    }
    Ok(())
}

fn path(name: &str) -> String {
    format!("/admin/v1/relays/{}/drain", segment(name))
}

fn text(relays: &[Relay]) -> String {
    let row = |relay: &Relay| {
        let state = if relay.draining { "draining".to_owned() } else { relay.state.clone() };
        let calls = match relay.calls_max {
            Some(max) => format!("{} of {max}", relay.calls),
            None => relay.calls.to_string(),
        };
        [
            relay.name.clone(),
            console::or_dash(relay.kind.clone()),
            state,
            console::or_dash(relay.since.map(console::age)),
            calls,
            relay.participants.to_string(),
            console::or_dash(relay.busy.map(|busy| format!("{:.0} %", busy * 100.0))),
            console::or_dash(relay.error.clone()),
        ]
    };
    let header = ["RELAY", "KIND", "STATE", "SINCE", "CALLS", "PARTICIPANTS", "BUSY", "ERROR"];
    console::table(header, &relays.iter().map(row).collect::<Vec<_>>())
}

//! `call`: live calls on the deployment's relays. Creating them and inviting people is the relay's own API.

use clap::Subcommand;
use serde::Deserialize;
use trunkline_gateway_proto::time::Time;
use trunkline_http::cli::client::{segment, view};

use super::{Api, CliError, Console, console};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All calls
    List,
    /// End a call, for everybody on it
    End {
        /// Its id
        call: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Deserialize)]
struct Calls {
    calls: Vec<Call>,
    errors: Vec<Missing>,
}

#[derive(Deserialize)]
struct Call {
    relay: String,
    call_id: String,
    created_at: Time,
    participants: u64,
    max_participants: u64,
    meeting_id: Option<String>,
    transports: Option<Transports>,
    uplink_loss: Option<f64>,
    downlink_loss: Option<f64>,
}

#[derive(Deserialize)]
struct Transports {
    udp: u64,
    tcp: u64,
    tls: u64,
}

#[derive(Deserialize)]
struct Missing {
    relay: String,
    error: String,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::List => {
            let answer = api.get("/admin/v1/calls").await?;
            let Calls { calls, errors } = view(&answer)?;
            out.show(&answer, || text(&calls));
            for Missing { relay, error } in errors {
                out.hint(&format!("(relay {relay} is missing: {error})"));
            }
        }
        Verb::End { call, yes } => {
            out.confirm(yes, &format!("End {call} for everybody on it?"))?;
            let answer = api.delete(&format!("/admin/v1/calls/{}", segment(&call))).await?;
            out.show(&answer, || format!("{call} ended"));
        }
    }
    Ok(())
}

fn text(calls: &[Call]) -> String {
    let share = |loss: Option<f64>| console::or_dash(loss.map(|loss| format!("{:.1} %", loss * 100.0)));
    let row = |call: &Call| {
        let ways = call.transports.as_ref().map(|ways| format!("{}/{}/{}", ways.udp, ways.tcp, ways.tls));
        [
            call.call_id.clone(),
            call.relay.clone(),
            format!("{} of {}", call.participants, call.max_participants),
            console::age(call.created_at),
            console::or_dash(ways),
            share(call.uplink_loss),
            share(call.downlink_loss),
            console::or_dash(call.meeting_id.clone()),
        ]
    };
    let header = ["CALL", "RELAY", "PARTICIPANTS", "AGE", "UDP/TCP/TLS", "LOSS UP", "LOSS DOWN", "MEETING"];
    console::table(header, &calls.iter().map(row).collect::<Vec<_>>())
}

//! `call`: calls, and tokens to join them.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::json;
use trunkline_http::cli::CliError;
use trunkline_http::cli::client::{Api, segment, view};
use trunkline_http::cli::console::{Console, deliver_secret, fields, or_dash, span, table, vacant};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Create a call
    Create(CreateArgs),
    /// All calls
    List,
    /// One call: who is on it
    Show {
        /// Its id
        call: String,
    },
    /// End a call
    End {
        /// Its id
        call: String,
    },
    /// Mint a token with which one participant joins a call
    Token(TokenArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Participants at a time [default: as configured]
    #[arg(long, value_name = "N")]
    max_participants: Option<usize>,
    /// Up to 500 participants, of whom viewers do not send
    #[arg(long)]
    broadcast: bool,
    /// What records call it
    #[arg(long, value_name = "ID")]
    meeting_id: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    /// The call's id
    call: String,
    /// The name that others on the call see
    #[arg(long, value_name = "NAME")]
    participant: String,
    /// May watch and listen, and not send
    #[arg(long)]
    viewer: bool,
    /// How many seconds it is good for [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    ttl_s: Option<u64>,
    /// Where to write it [default: shown]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Created {
    call_id: String,
    calluri: String,
    calluriipv6: Option<String>,
}

#[derive(Deserialize)]
struct Calls {
    calls: Vec<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    call_id: String,
    calluri: String,
    mode: String,
    meeting_id: Option<String>,
    participants: usize,
    max_participants: usize,
    created_at: u64,
}

#[derive(Deserialize)]
struct Call {
    participants: Vec<Person>,
}

#[derive(Deserialize)]
struct Person {
    participant: String,
    role: String,
    state: String,
    quality: String,
    quality_cause: Option<String>,
    srtp_profile: Option<String>,
    estimate_bps: Option<u64>,
    rtt_ms: Option<f64>,
    uplink_loss: f64,
    downlink_loss: f64,
    slots: Vec<Slot>,
}

#[derive(Deserialize)]
struct Slot {
    paused: bool,
    freezes: u64,
}

pub(super) async fn call(verb: Verb, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::Create(args) => create(args, api, out).await,
        Verb::List => list(api, out).await,
        Verb::Show { call } => show(&call, api, out).await,
        Verb::End { call } => {
            let answer = api.delete(&format!("/v1/calls/{}", segment(&call))).await?;
            out.show(&answer, || format!("{call} ended"));
            Ok(())
        }
        Verb::Token(args) => token(args, api, out).await,
    }
}

async fn create(args: CreateArgs, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let mode = if args.broadcast { "broadcast" } else { "conference" };
    let mut body = json!({ "mode": mode });
    if let Some(max) = args.max_participants {
        body["max_participants"] = max.into();
    }
    if let Some(id) = args.meeting_id {
        body["meeting_id"] = id.into();
    }
    let answer = api.post("/v1/calls", &body).await?;
    let Created { call_id, calluri, calluriipv6 } = view(&answer)?;
    out.show(&answer, || {
        fields(&[("call", call_id), ("media", calluri), ("media over IPv6", or_dash(calluriipv6))])
    });
    Ok(())
}

async fn list(api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let answer = api.get("/v1/calls").await?;
    let Calls { calls } = view(&answer)?;
    let row = |call: &Summary| {
        [
            call.call_id.clone(),
            call.calluri.clone(),
            call.mode.clone(),
            format!("{} of {}", call.participants, call.max_participants),
            span(Duration::from_secs(now_s().saturating_sub(call.created_at))),
            or_dash(call.meeting_id.clone()),
        ]
    };
    let header = ["CALL", "MEDIA", "MODE", "PARTICIPANTS", "AGE", "MEETING"];
    out.show(&answer, || table(header, &calls.iter().map(row).collect::<Vec<_>>()));
    Ok(())
}

async fn show(call: &str, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let answer = api.get(&format!("/v1/calls/{}", segment(call))).await?;
    let Call { participants } = view(&answer)?;
    out.show(&answer, || people(&participants));
    Ok(())
}

/// Who is on a call, and how well: a line each.
fn people(participants: &[Person]) -> String {
    let row = |person: &Person| {
        let quality = person.quality.clone();
        let cause =
            person.quality_cause.as_ref().map(|cause| format!("{quality}: {}", cause.replace('_', " ")));
        [
            person.participant.clone(),
            person.role.clone(),
            person.state.clone(),
            cause.unwrap_or(quality),
            or_dash(person.estimate_bps.map(|bits| format!("{} kbit/s", bits / 1000))),
            or_dash(person.rtt_ms.map(|rtt| format!("{rtt:.0} ms"))),
            format!("{:.0} %", person.uplink_loss * 100.0),
            format!("{:.0} %", person.downlink_loss * 100.0),
            person.slots.iter().filter(|slot| slot.paused).count().to_string(),
            person.slots.iter().map(|slot| slot.freezes).sum::<u64>().to_string(),
            or_dash(person.srtp_profile.clone()),
        ]
    };
    let header = [
        "PARTICIPANT",
        "ROLE",
        "STATE",
        "QUALITY",
        "ESTIMATE",
        "RTT",
        "LOSS UP",
        "LOSS DOWN",
        "PAUSED",
        "FREEZES",
        "SRTP",
    ];
    table(header, &participants.iter().map(row).collect::<Vec<_>>())
}

async fn token(args: TokenArgs, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    if let Some(file) = &args.out {
        vacant(file)?;
    }
    let role = if args.viewer { "viewer" } else { "presenter" };
    let mut body = json!({ "participant": args.participant, "role": role });
    if let Some(ttl_s) = args.ttl_s {
        body["ttl_s"] = ttl_s.into();
    }
    let answer = api.post(&format!("/v1/calls/{}/tokens", segment(&args.call)), &body).await?;
    deliver_secret(out, args.out.as_deref(), answer, "token")
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_on_a_call_is_shown_with_what_spoils_their_connections() {
        let call: Call = serde_json::from_value(json!({ "call_id": "x", "participants": [
            { "participant": "Ann", "role": "presenter", "state": "connected", "quality": "poor",
              "quality_cause": "downlink_loss", "srtp_profile": "AEAD_AES_128_GCM", "estimate_bps": 812_345,
              "rtt_ms": 41.6, "uplink_loss": 0.0, "downlink_loss": 0.25, "slots": [
                { "slot": "1", "paused": true, "freezes": 2 }, { "slot": "2", "paused": false, "freezes": 1 }] },
            { "participant": "Bob", "role": "viewer", "state": "joining", "quality": "good", "quality_cause": null,
              "srtp_profile": null, "estimate_bps": null, "rtt_ms": null, "uplink_loss": 0.0,
              "downlink_loss": 0.0, "slots": [] }] }))
        .unwrap();
        let shown = people(&call.participants);
        let lines: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(
            lines,
            [
                vec![
                    "PARTICIPANT",
                    "ROLE",
                    "STATE",
                    "QUALITY",
                    "ESTIMATE",
                    "RTT",
                    "LOSS UP",
                    "LOSS DOWN",
                    "PAUSED",
                    "FREEZES",
                    "SRTP",
                ],
                vec![
                    "Ann",
                    "presenter",
                    "connected",
                    "poor: downlink loss",
                    "812 kbit/s",
                    "42 ms",
                    "0 %",
                    "25 %",
                    "1",
                    "3",
                    "AEAD_AES_128_GCM",
                ],
                vec!["Bob", "viewer", "joining", "good", "-", "-", "0 %", "0 %", "0", "0", "-"],
            ]
        );
    }
}

//! `status` and `drain`.

use serde::Deserialize;
use serde_json::json;
use trunkline_http::cli::CliError;
use trunkline_http::cli::client::{Api, view};
use trunkline_http::cli::console::{Console, fields};

#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// End the calls that are left after so many seconds [default: they end by themselves]
    #[arg(long, value_name = "SECONDS", conflicts_with = "undo")]
    deadline_s: Option<u64>,
    /// Take calls again
    #[arg(long)]
    undo: bool,
}

#[derive(Deserialize)]
struct Node {
    calls: Vec<serde_json::Value>,
    participants: usize,
    draining: bool,
    workers: Vec<f64>,
}

#[derive(Deserialize)]
struct Drain {
    draining: bool,
    calls: usize,
}

pub(super) async fn status(api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let answer = api.get("/v1/calls").await?;
    let Node { calls, participants, draining, workers } = view(&answer)?;
    let busy: Vec<_> = workers.iter().map(|busy| format!("{:.0} %", busy * 100.0)).collect();
    let summary = json!({
        "calls": calls.len(), "participants": participants, "draining": draining, "workers": workers,
    });
    out.show(&summary, || {
        fields(&[
            ("takes calls", if draining { "no: it drains" } else { "yes" }.to_owned()),
            ("calls", calls.len().to_string()),
            ("participants", participants.to_string()),
            ("workers busy", busy.join(", ")),
        ])
    });
    Ok(())
}

pub(super) async fn drain(args: &DrainArgs, api: &Api, out: &mut Console<'_>) -> Result<(), CliError> {
    let answer = if args.undo {
        api.delete("/v1/drain").await?
    } else {
        let body =
            args.deadline_s.map_or_else(|| json!({}), |deadline_s| json!({ "deadline_s": deadline_s }));
        api.post("/v1/drain", &body).await?
    };
    let Drain { draining, calls } = view(&answer)?;
    out.show(&answer, || match (draining, calls) {
        (false, _) => "taking calls again".to_owned(),
        (true, 0) => "draining: no calls are left".to_owned(),
        (true, calls) => format!("draining: {calls} calls are left"),
    });
    Ok(())
}

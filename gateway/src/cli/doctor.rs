//! `doctor`: what is wrong, and what to do.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline_http::cli::client::{reachable, view};

use super::target::Target;
use super::{Api, CliError, Console};
use crate::config::Config;
use crate::doctor::{Check, Outcome, offline};
use crate::init::CONFIG_FILE;
use crate::run::Listening;

/// How long the admin API may take to take a connection before the gateway counts as not running.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Diagnosis {
    checks: Vec<Check>,
}

pub(super) async fn call(target: &Target, out: &mut Console<'_>) -> Result<(), CliError> {
    if let Some((config, address)) = stopped(target).await? {
        let mut checks = vec![Check::failed(
            "gateway",
            config.domain.as_str(),
            format!("The gateway does not run: nothing answers at its admin API, {address}."),
            "Start it; `run` says in one line what keeps it from starting. What follows needs no running gateway.",
        )];
        checks.extend(offline::examine(&config));
        return show(&checks, out);
    }
    let api = Api::connect(target.endpoint()?)?;
    let Diagnosis { checks } = view(&api.post("/admin/v1/doctor", &json!({})).await?)?;
    show(&checks, out)
}

/// The configuration of a gateway of this machine that does not run, and where it was looked for.
async fn stopped(target: &Target) -> Result<Option<(Config, SocketAddr)>, CliError> {
    if target.dir.is_none() && target.admin_url.is_some() {
        return Ok(None);
    }
    let Some(dir) = target.directory() else { return Ok(None) };
    let config = Config::load(&dir.join(CONFIG_FILE)).map_err(CliError::failed)?;
    let configured = config.admin_api.listen;
    let address = match (configured.port(), Listening::read(&config.data_dir)) {
        (0, Some(listening)) => listening.admin_api,
        (0, None) => return Ok(Some((config, configured))),
        _ => configured,
    };
    let address = reachable(address);
    let connected = timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
    Ok(if matches!(connected, Ok(Ok(_))) { None } else { Some((config, address)) })
}

/// Failures first, each group of a kind together, and a summary.
fn show(checks: &[Check], out: &mut Console<'_>) -> Result<(), CliError> {
    let mut sorted: Vec<_> = checks.iter().collect();
    sorted.sort_by_key(|check| check.outcome);
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
    let value = json!({ "ok": failed == 0, "checks": sorted });
    let summary = format!("{} checks: {failed} failed, {warnings} warnings", checks.len());
    out.show(&value, || format!("{}{summary}", text(&sorted)));
    match sorted.first() {
        Some(first) if failed > 0 => Err(CliError::Failed(format!(
            "{failed} of {} checks failed: {} {}: {}",
            checks.len(),
            first.check,
            first.subject,
            first.finding
        ))),
        _ => Ok(()),
    }
}

fn text(checks: &[&Check]) -> String {
    let mut text = String::new();
    for (outcome, heading) in
        [(Outcome::Failed, "Failed"), (Outcome::Warning, "Warnings"), (Outcome::Ok, "In order")]
    {
        let of_outcome: Vec<_> = checks.iter().filter(|check| check.outcome == outcome).collect();
        if of_outcome.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{heading}");
        for Check { check, subject, finding, advice, .. } in of_outcome {
            let _ = writeln!(text, "  {check}, {subject}: {finding}");
            if let Some(advice) = advice {
                let _ = writeln!(text, "    {advice}");
            }
        }
        text.push('\n');
    }
    text
}

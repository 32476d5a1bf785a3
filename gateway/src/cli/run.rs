//! `run`: the gateway itself, or a check that it could run.

use std::path::PathBuf;

use serde_json::json;

use super::target::Target;
use super::{CliError, Console, console};
use crate::check::{self, Outcome};
use crate::config::Config;
use crate::init::CONFIG_FILE;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration [default: gateway.toml in the directory]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, keys, certificates, addresses and directories, and do not run
    #[arg(long)]
    check: bool,
}

pub(super) fn run(target: &Target, args: Args, out: &mut Console<'_>) -> Result<(), CliError> {
    let file = configuration(target, args.config)?;
    let config = Config::load(&file).map_err(CliError::failed)?;
    if args.check {
        return check(&config, out);
    }
    crate::run::run(config).map_err(CliError::failed)
}

/// The configuration's file: as named, or in the directory.
pub(super) fn configuration(target: &Target, named: Option<PathBuf>) -> Result<PathBuf, CliError> {
    let in_directory = || target.directory().map(|dir| dir.join(CONFIG_FILE));
    named.or_else(in_directory).ok_or_else(|| {
        CliError::Usage(
            "which gateway? Name its configuration with --config FILE, or its directory with --dir DIR"
                .into(),
        )
    })
}

fn check(config: &Config, out: &mut Console<'_>) -> Result<(), CliError> {
    let checks = check::all(config);
    let failed: Vec<_> = checks.iter().filter_map(|check| check.failure()).collect();
    let value = json!({ "ok": failed.is_empty(), "checks": checks });
    out.show(&value, || {
        let row = |check: &check::Check| {
            let (outcome, said) = match &check.outcome {
                Outcome::Fine => ("ok", String::new()),
                Outcome::Warning(said) => ("warning", said.clone()),
                Outcome::Failed(said) => ("FAILED", said.clone()),
            };
            [check.what.to_owned(), outcome.to_owned(), said]
        };
        console::table(["CHECK", "RESULT", "WHY"], &checks.iter().map(row).collect::<Vec<_>>())
    });
    match failed.first() {
        None => Ok(()),
        Some(first) => {
            Err(CliError::Failed(format!("{} of {} checks failed: {first}", failed.len(), checks.len())))
        }
    }
}

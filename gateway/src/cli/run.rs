//! `run`: the gateway itself, or a check that it could run.

use std::path::PathBuf;

use trunkline_http::cli::check::show;

use super::target::Target;
use super::{CliError, Console};
use crate::check;
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
        return show(&check::all(&config), out);
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

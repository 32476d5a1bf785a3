//! The command line. Every verb but those that make or run a node or an ingress is a call of the node's API.
//!
//! Exit codes: 0 done, 1 it failed, 2 it was not understood. An error is one line on stderr that says what to do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trunkline_http::cli::check::show;
use trunkline_http::cli::client::Api;
pub use trunkline_http::cli::console::Console;
use trunkline_http::cli::{self, CliError};

mod call;
mod ingress;
mod init;
mod operate;
mod target;
#[cfg(test)]
mod tests;

use crate::config::{Config, ConfigError};
use crate::init::CONFIG_FILE;
use crate::{check, run};
use target::Target;

/// The calling relay: forwards end-to-end encrypted call media between the people on a call.
#[derive(Debug, Parser)]
#[command(name = "trunkline-relay", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the directory of a new node: configuration, admin token, secret of join tokens, ufrag key
    Init(init::Args),
    /// Run a node, or check that it could run
    Node(NodeArgs),
    /// Make the directory of a new ingress: one address in front of many nodes
    InitIngress(ingress::InitArgs),
    /// Run an ingress, or check that it could run
    Ingress(ingress::RunArgs),
    /// Whether the node takes calls, and how busy it is
    Status,
    /// Calls, and tokens to join them
    #[command(subcommand)]
    Call(call::Verb),
    /// Take no new calls nor participants, or undo that
    Drain(operate::DrainArgs),
    /// The OpenAPI document of the API
    Openapi,
}

#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// The configuration [default: relay.toml in the directory]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, secrets, certificates, addresses and ports, and do not run
    #[arg(long)]
    check: bool,
}

/// Runs the command line of this process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::main(|console| execute(args, console))
}

/// Runs a command line against a given console, and answers its exit code.
pub fn execute(args: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> u8 {
    cli::execute(args, console, |cli: Cli, console| {
        console.json = cli.json;
        carry_out(cli, console)
    })
}

fn carry_out(cli: Cli, console: &mut Console<'_>) -> Result<(), CliError> {
    let verb = match cli.verb {
        Verb::Init(args) => return init::init(&cli.target, args, console),
        Verb::Node(args) => return node(&cli.target, args, console),
        Verb::InitIngress(args) => return ingress::init(&cli.target, args, console),
        Verb::Ingress(args) => return ingress::run(&cli.target, args, console),
        verb => verb,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("cannot start: {error}")))?;
    let api = Api::connect(cli.target.endpoint()?)?;
    runtime.block_on(Box::pin(async {
        match verb {
            Verb::Init(_) | Verb::Node(_) | Verb::InitIngress(_) | Verb::Ingress(_) => Ok(()),
            Verb::Status => operate::status(&api, console).await,
            Verb::Call(verb) => call::call(verb, &api, console).await,
            Verb::Drain(args) => operate::drain(&args, &api, console).await,
            Verb::Openapi => {
                let document = api.get("/openapi.json").await?;
                console.value(&document);
                Ok(())
            }
        }
    }))
}

fn node(target: &Target, args: NodeArgs, out: &mut Console<'_>) -> Result<(), CliError> {
    let in_directory = || target.directory().map(|dir| dir.join(CONFIG_FILE));
    let file = args.config.or_else(in_directory).ok_or_else(|| {
        CliError::Usage(
            "which node? Name its configuration with --config FILE, or its directory with --dir DIR".into(),
        )
    })?;
    let config = load(&file)?;
    if args.check {
        return show(&check::all(&config), out);
    }
    run::run(&config).map_err(CliError::failed)
}

/// The configuration of a node; if there is none, how to make one.
fn load(file: &Path) -> Result<Config, CliError> {
    Config::load(file).map_err(|error| match &error {
        ConfigError::Unreadable { error: io, .. } if io.kind() == std::io::ErrorKind::NotFound => {
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("DIR"));
            CliError::Failed(format!(
                "{error}. `trunkline-relay init --dir {}` makes the directory of a new node",
                dir.display()
            ))
        }
        _ => CliError::failed(error),
    })
}

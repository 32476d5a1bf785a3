//! The command line. Every verb but `init`, `run`, `store` and `token recover` is a call of the admin API,
//! and `doctor` is one where there is an API to call.
//!
//! Exit codes: 0 done, 1 it failed, 2 it was not understood. An error is one line on stderr that says what to do.
//!
//! # Layout
//! - [`main`]: from arguments to an exit code
//! - `target`: where the gateway is
//! - `console`: what is shown of times
//! - one file per noun: `init`, `run`, `store`, `status`, `doctor`, `identity`, `peer`, `network`, `outbox`, `token`,
//!   `admin`, `settings`, `audit`, `relay`, `call`, `events`

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trunkline_http::cli::client::Api;
pub use trunkline_http::cli::console::Console;
use trunkline_http::cli::{self, CliError};

mod admin;
mod audit;
mod call;
mod console;
mod doctor;
mod events;
mod identity;
mod init;
mod network;
mod outbox;
mod peer;
mod relay;
mod run;
mod settings;
mod status;
mod store;
mod target;
mod token;

#[cfg(test)]
mod tests;

use target::Target;

/// The federation gateway: forwards opaque, end-to-end encrypted envelopes between deployments, durably.
#[derive(Debug, Parser)]
#[command(name = "trunkline-gateway", version, max_term_width = 100)]
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
    /// Make the directory of a new gateway: identity, keys, configuration, first tokens
    Init(init::Args),
    /// Run the gateway, or check that it could run
    Run(run::Args),
    /// The store's files
    #[command(subcommand)]
    Store(store::Verb),
    /// What is wrong, then everything at a glance
    Status(status::Args),
    /// Look for what is wrong, from outside too, and say what to do; also when the gateway does not run
    Doctor,
    /// Our certificate, and its rotation
    #[command(subcommand)]
    Identity(identity::Verb),
    /// Peer deployments
    #[command(subcommand)]
    Peer(peer::Verb),
    /// Networks (tenants) of this deployment
    #[command(subcommand)]
    Network(network::Verb),
    /// What waits for peers
    #[command(subcommand)]
    Outbox(outbox::Verb),
    /// Admin tokens
    #[command(subcommand)]
    Token(token::Verb),
    /// Administrators of the console
    #[command(subcommand)]
    Admin(admin::Verb),
    /// Settings that are changed while the gateway runs
    #[command(subcommand)]
    Settings(settings::Verb),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::Verb),
    /// The deployment's relays
    #[command(subcommand)]
    Relay(relay::Verb),
    /// Live calls on the deployment's relays
    #[command(subcommand)]
    Call(call::Verb),
    /// Follow events as they happen, until interrupted
    Events(events::Args),
    /// The OpenAPI document of both APIs
    Openapi,
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
        Verb::Run(args) => return run::run(&cli.target, args, console),
        Verb::Store(verb) => return store::call(verb, &cli.target, console),
        Verb::Token(token::Verb::Recover { out }) => {
            return token::recover(&cli.target, out.as_deref(), console);
        }
        verb => verb,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("cannot start: {error}")))?;
    if matches!(verb, Verb::Doctor) {
        return runtime.block_on(Box::pin(doctor::call(&cli.target, console)));
    }
    let api = Api::connect(cli.target.endpoint()?)?;
    runtime.block_on(Box::pin(call(verb, &api, console)))
}

async fn call(verb: Verb, api: &Api, console: &mut Console<'_>) -> Result<(), CliError> {
    match verb {
        Verb::Init(_) | Verb::Run(_) | Verb::Store(_) | Verb::Doctor => Ok(()),
        Verb::Status(args) => status::call(&args, api, console).await,
        Verb::Identity(verb) => identity::call(verb, api, console).await,
        Verb::Peer(verb) => peer::call(verb, api, console).await,
        Verb::Network(verb) => network::call(verb, api, console).await,
        Verb::Outbox(verb) => outbox::call(verb, api, console).await,
        Verb::Token(verb) => token::call(verb, api, console).await,
        Verb::Admin(verb) => admin::call(verb, api, console).await,
        Verb::Settings(verb) => settings::call(verb, api, console).await,
        Verb::Audit(verb) => audit::call(verb, api, console).await,
        Verb::Relay(verb) => relay::call(verb, api, console).await,
        Verb::Call(verb) => call::call(verb, api, console).await,
        Verb::Events(args) => events::follow(&args, api, console).await,
        Verb::Openapi => {
            let document = api.get("/openapi.json").await?;
            console.value(&document);
            Ok(())
        }
    }
}

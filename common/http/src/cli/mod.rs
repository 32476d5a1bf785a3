//! The command line of a program whose verbs are calls of its own API.
//!
//! Exit codes: 0 done, 1 it failed, 2 it was not understood. An error is one line on stderr that says what to do.
//!
//! # Layout
//! - [`main`], [`execute`]: from arguments to an exit code
//! - [`client`]: talking to the API
//! - [`console`]: what is shown, asked and written
//! - [`check`]: what a `--check` found
//! - [`progress`]: how far something is that takes longer than a moment

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use thiserror::Error;

pub mod check;
pub mod client;
pub mod console;
pub mod progress;

use console::Console;

/// Why a verb failed. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CliError {
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// It could not be done, for this reason.
    pub fn failed(text: impl std::fmt::Display) -> Self {
        Self::Failed(text.to_string())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }
}

/// Runs this process's command line on its own terminal.
pub fn main(execute: impl FnOnce(&mut Console<'_>) -> u8) -> ExitCode {
    let stdin = std::io::stdin();
    let interactive = stdin.is_terminal() && std::io::stderr().is_terminal();
    let (mut input, mut out, mut err) = (stdin.lock(), std::io::stdout(), std::io::stderr());
    let screen = out.is_terminal();
    let mut console =
        Console { input: &mut input, interactive, out: &mut out, screen, err: &mut err, json: false };
    ExitCode::from(execute(&mut console))
}

/// Parses arguments and carries them out against a given console; answers the exit code.
pub fn execute<C: Parser>(
    args: impl IntoIterator<Item = OsString>,
    console: &mut Console<'_>,
    carry_out: impl FnOnce(C, &mut Console<'_>) -> Result<(), CliError>,
) -> u8 {
    let cli = match C::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return parse_failed::<C>(&error, console),
    };
    match carry_out(cli, console) {
        Ok(()) => 0,
        Err(error) => {
            console.error(&error.to_string());
            error.code()
        }
    }
}

fn parse_failed<C: Parser>(error: &clap::Error, console: &mut Console<'_>) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            console.text(&error.render().to_string());
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let program = C::command().get_name().to_owned();
            console.error(&format!("a verb is missing: see `{program} --help`"));
            2
        }
        _ => {
            // The first paragraph says what is wrong; usage and hints follow it.
            let text = error.render().to_string();
            let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
            let line = lines.collect::<Vec<_>>().join(" ");
            console.error(&format!("{}; see `--help`", line.trim_start_matches("error: ")));
            2
        }
    }
}

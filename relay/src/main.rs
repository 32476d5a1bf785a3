//! The calling relay's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    trunkline_relay::cli::main(std::env::args_os())
}

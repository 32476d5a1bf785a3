//! The federation gateway's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    trunkline_gateway::cli::main(std::env::args_os())
}

//! What can be known while the gateway does not run.

use trunkline_gateway_proto::certificate::Certificate;
use trunkline_http::cli::check::{self, Outcome as Start};

use super::{Check, database, files, machine};
use crate::check as start;
use crate::config::Config;

/// Looks at everything that needs no running gateway. Changes nothing.
#[must_use]
pub fn examine(config: &Config) -> Vec<Check> {
    let database = database::examine(config);
    // Said once, with what to do.
    let said = |check: &check::Check| check.what == "store" && !database.is_empty();
    let mut checks: Vec<_> =
        start::all(config).into_iter().filter(|check| !said(check)).map(of_start).collect();
    checks.extend(machine::examine(config));
    checks.extend(database);
    let pem = std::fs::read_to_string(&config.identity.certificate).ok();
    let certificate =
        pem.and_then(|pem| Certificate::parse_pem(&pem).ok()).map(|(certificate, _)| certificate);
    checks.extend(files::examine(config, certificate.as_ref()));
    checks
}

/// What `run --check` says, as the doctor says it.
fn of_start(checked: check::Check) -> Check {
    let what = checked.what;
    match checked.outcome {
        Start::Fine => Check::ok("start", what, "It is as a start needs it."),
        Start::Warning(why) => {
            Check::warning("start", what, format!("{}.", upper(&why)), "See whether that is meant.")
        }
        Start::Failed(why) => Check::failed(
            "start",
            what,
            format!("{}.", upper(&why)),
            "Mend it before the gateway is started.",
        ),
    }
}

fn upper(text: &str) -> String {
    let mut rest = text.trim_end_matches('.').chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn what_keeps_a_gateway_from_starting_is_a_failure_in_a_sentence() {
        let check =
            of_start(check::Check { what: "data_dir", outcome: Start::Failed("cannot write in x".into()) });
        assert_eq!(check.outcome, Outcome::Failed);
        assert_eq!(check.finding, "Cannot write in x.");
    }
}

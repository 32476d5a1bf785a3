//! What a failure means for who asked.

use tokio_postgres::error::SqlState;

/// How the client says that the server asks for a password, and there is none.
const MISSING: &str = "password missing";

/// A failure, by what helps. The texts name no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may go better on a new connection; what became of a commit is not known.
    Passing(String),
    /// The server's disk is full.
    Full,
    /// It will not go better.
    Final(String),
}

impl From<&tokio_postgres::Error> for Failure {
    fn from(error: &tokio_postgres::Error) -> Self {
        let Some(found) = error.as_db_error() else {
            // The connection broke, or could not be made; its text names no more than that.
            return Self::Passing(with_causes(error));
        };
        let text = format!("{} ({})", found.message(), found.code().code());
        let code = found.code();
        if *code == SqlState::DISK_FULL {
            return Self::Full;
        }
        // Class by class: see appendix A of PostgreSQL's manual.
        let passing = match code.code().get(..2) {
            // Connection, authorization (which a failover may answer differently), resources, operator's
            // intervention and timeouts, rollback by the server, the system's own trouble.
            Some("08" | "28" | "40" | "53" | "57" | "58") => true,
            // No such database.
            Some("3D") => true,
            // Invalid state: a transaction that idled too long, or a primary that became a standby.
            Some("25") => true,
            // A lock that was not had in time, a table that is being upgraded.
            Some("55") => true,
            _ => false,
        };
        if passing { Self::Passing(text) } else { Self::Final(text) }
    }
}

/// Whether the server does not take the password, or asks for one and there is none.
#[must_use]
pub fn is_about_password(error: &tokio_postgres::Error) -> bool {
    // The client gives the lack of one no kind of its own.
    error.code() == Some(&SqlState::INVALID_PASSWORD) || with_causes(error).ends_with(MISSING)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

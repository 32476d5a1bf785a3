//! Why a scenario could not be carried out. A verdict, even a bad one, is no error: it is the result.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a scenario stopped.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    /// The machine refused something the scenario needs.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A gateway process ended, or never became ready.
    #[error("the gateway of {domain} {what}; the end of {log}:\n{tail}", log = log.display())]
    Gateway {
        /// Whose.
        domain: String,
        /// For example `did not become ready within 30 s`.
        what: String,
        /// Where it wrote why.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The process of a node or an ingress ended, or never became ready.
    #[error("the {name} {what}; the end of {log}:\n{tail}", log = log.display())]
    Relay {
        /// `relay` or `ingress`.
        name: &'static str,
        /// For example `did not become ready within 30 s`.
        what: String,
        /// Where it wrote why.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The connection to an API was cut, refused, or spoke no HTTP. Asking again may help.
    #[error("no answer from {address}: {why}")]
    Cut {
        /// Whose API.
        address: std::net::SocketAddr,
        /// What happened.
        why: String,
    },
    /// An API answered, but not with success.
    #[error("{request} was answered {status}: {body}")]
    Refused {
        /// Method and path.
        request: String,
        /// HTTP status.
        status: u16,
        /// The problem document.
        body: String,
    },
    /// A gateway refused an envelope that it should take.
    #[error("an envelope was not accepted: {0}")]
    NotAccepted(String),
    /// An answer that does not follow docs/API.md.
    #[error("the answer to {request} is not what docs/API.md promises: {why}")]
    Answer {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something took too long.
    #[error("{what} did not happen within {} s", waited.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
    },
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
}

impl LoadError {
    /// Adds what was being done to an I/O error.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// Whether asking again may help: the gateway is away, or cannot take more just now.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Cut { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

//! What may go wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

/// Why a browser did not do what it should.
#[derive(Error)]
pub enum Error {
    /// A program is not installed.
    #[error(
        "{program} is not installed: as root, apt-get install --no-install-recommends chromium chromium-driver"
    )]
    Missing {
        /// Which.
        program: &'static str,
    },
    /// A process or file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// chromedriver ended, or did not say in time which port it listens on.
    #[error("chromedriver did not start; it said: {0}")]
    DriverStart(String),
    /// chromedriver cannot be reached any more.
    #[error("chromedriver does not answer to {command}: {reason}")]
    Driver {
        /// Which request.
        command: String,
        /// What failed.
        reason: String,
    },
    /// chromedriver refused a command: an exception in a script, an element that is not there.
    #[error("{command}: {error}: {message}")]
    Command {
        /// Which request.
        command: String,
        /// The WebDriver error code, such as `javascript error`.
        error: String,
        /// What it means.
        message: String,
    },
    /// What a test waited for did not come.
    #[error("not within {timeout:?}: {script}\nlast value: {last}\nconsole:\n{console}")]
    Timeout {
        /// The script whose value never was true.
        script: String,
        /// How long.
        timeout: Duration,
        /// Its value in the end, or the exception it threw.
        last: String,
        /// What the pages of this browser wrote to their consoles.
        console: String,
    },
    /// An answer that is not what the protocol says.
    #[error("chromedriver answered {command} with {value}")]
    Answer {
        /// Which request.
        command: String,
        /// What came.
        value: Value,
    },
    /// A screenshot that could not be saved.
    #[error("{}: {source}", path.display())]
    Screenshot {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The same text: what tests show when they unwrap.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

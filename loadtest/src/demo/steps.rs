//! Steps of the demo, each said with the time it took.

use std::io::Write;
use std::time::Instant;

use serde::Serialize;

use crate::error::LoadError;
use crate::report::round;

/// What was done so far.
#[derive(Debug)]
pub(crate) struct Steps {
    aloud: bool,
    since: Instant,
    done: Vec<Step>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    step: String,
    ms: f64,
}

impl Steps {
    /// None yet; said on standard output, or only remembered.
    pub(crate) fn new(aloud: bool) -> Self {
        Self { aloud, since: Instant::now(), done: Vec::new() }
    }

    /// One is done; the next begins.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(crate) fn done(&mut self, step: &str) -> Result<(), LoadError> {
        let ms = round(self.since.elapsed().as_secs_f64() * 1e3);
        self.say(&format!("{ms:>7.0} ms  {step}"))?;
        self.done.push(Step { step: step.to_owned(), ms });
        self.since = Instant::now();
        Ok(())
    }

    /// Says something that is no step.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(crate) fn say(&self, text: &str) -> Result<(), LoadError> {
        if !self.aloud {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(LoadError::io("printing"))
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Step] {
        &self.done
    }
}

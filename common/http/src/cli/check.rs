//! What a `--check` found, and how it is shown.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::CliError;
use super::console::{self, Console};

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What: a setting, or a thing it names.
    pub what: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "why", rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Fine,
    /// It works, and may not be what was meant.
    Warning(String),
    /// The program would not start, or not do its work.
    Failed(String),
}

impl Check {
    /// What failed, and why.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Failed(why) => Some(format!("{}: {why}", self.what)),
            Outcome::Fine | Outcome::Warning(_) => None,
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Outcome {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(|error| Self::Failed(error.to_string()), |_| Self::Fine)
    }
}

/// Whether a file can be made in a directory.
///
/// # Errors
/// Why not, and what to do. `owner` is whose directory it should be, as in "the gateway".
pub fn writable(dir: &Path, owner: &str) -> Result<(), String> {
    let fails = |error: std::io::Error| {
        format!("cannot write in {} ({error}): make it, owned by {owner}'s user", dir.display())
    };
    let metadata = std::fs::metadata(dir).map_err(fails)?;
    if !metadata.is_dir() {
        return Err(format!("{} is not a directory", dir.display()));
    }
    let probe = dir.join(format!(".check-{}", std::process::id()));
    std::fs::write(&probe, b"trunkline").and_then(|()| std::fs::remove_file(&probe)).map_err(fails)
}

/// Shows what was found.
///
/// # Errors
/// The first failure, when there is one.
pub fn show(checks: &[Check], out: &mut Console<'_>) -> Result<(), CliError> {
    let failed: Vec<_> = checks.iter().filter_map(Check::failure).collect();
    let value = json!({ "ok": failed.is_empty(), "checks": checks });
    out.show(&value, || {
        let row = |check: &Check| {
            let (outcome, said) = match &check.outcome {
                Outcome::Fine => ("ok", String::new()),
                Outcome::Warning(said) => ("warning", said.clone()),
                Outcome::Failed(said) => ("FAILED", said.clone()),
            };
            [check.what.to_owned(), outcome.to_owned(), said]
        };
        console::table(["CHECK", "RESULT", "WHY"], &checks.iter().map(row).collect::<Vec<_>>())
    });
    match failed.first() {
        None => Ok(()),
        Some(first) => {
            Err(CliError::Failed(format!("{} of {} checks failed: {first}", failed.len(), checks.len())))
        }
    }
}

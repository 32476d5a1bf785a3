//! The progress bar of the command line, moved along by the arrivals of a flow.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use trunkline_http::cli::progress::Progress as Bar;

use crate::ledger::Ledger;

/// How often it moves.
const TICK: Duration = Duration::from_millis(200);

/// Shows how far something is until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Bar,
    task: Option<JoinHandle<()>>,
}

impl Progress {
    /// Of something that is counted by hand.
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        Self { bar: Bar::new(what, total), task: None }
    }

    /// Of the arrivals of a flow.
    pub(crate) fn of(what: &'static str, total: u64, ledger: &Arc<Ledger>) -> Self {
        let mut progress = Self::new(what, total);
        if !progress.bar.hidden() {
            let (bar, ledger) = (progress.bar.handle(), Arc::clone(ledger));
            progress.task = Some(tokio::spawn(async move {
                loop {
                    bar.at(ledger.arrived());
                    tokio::time::sleep(TICK).await;
                }
            }));
        }
        progress
    }
}

impl Deref for Progress {
    type Target = Bar;

    fn deref(&self) -> &Bar {
        &self.bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

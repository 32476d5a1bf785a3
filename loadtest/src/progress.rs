//! A progress bar on standard error, when that is a terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::ledger::Ledger;

/// How often it moves.
const TICK: Duration = Duration::from_millis(200);

/// Shows how far something is until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    task: Option<JoinHandle<()>>,
}

impl Progress {
    /// Of something that is counted by hand.
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(what);
        Self { bar, task: None }
    }

    /// Of the arrivals of a flow.
    pub(crate) fn of(what: &'static str, total: u64, ledger: &Arc<Ledger>) -> Self {
        let mut progress = Self::new(what, total);
        if !progress.bar.is_hidden() {
            let (bar, ledger) = (progress.bar.clone(), Arc::clone(ledger));
            progress.task = Some(tokio::spawn(async move {
                loop {
                    bar.set_position(ledger.arrived());
                    tokio::time::sleep(TICK).await;
                }
            }));
        }
        progress
    }

    /// So far.
    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// So much more.
    pub(crate) fn advance(&self, by: u64) {
        self.bar.inc(by);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.bar.finish_and_clear();
    }
}

//! How far something is that takes longer than a moment: on standard error when that is a terminal, and nowhere
//! otherwise, so that logs and pipes never see a bar.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns. Shorter is smoother, and costs a write each time.
const TURN: Duration = Duration::from_millis(120);

/// Shows how far something is until it is dropped, and leaves nothing behind.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// A handle does not clear the line.
    owner: bool,
}

impl Progress {
    /// Of something whose end is known.
    #[must_use]
    pub fn new(what: impl Into<Cow<'static, str>>, total: u64) -> Self {
        Self::styled(what, Some(total), "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")
    }

    /// Of something whose end is not known.
    #[must_use]
    pub fn waiting(what: impl Into<Cow<'static, str>>) -> Self {
        let progress = Self::styled(what, None, "{spinner} {wide_msg} {elapsed}");
        if !progress.bar.is_hidden() {
            progress.bar.enable_steady_tick(TURN);
        }
        progress
    }

    fn styled(what: impl Into<Cow<'static, str>>, total: Option<u64>, template: &str) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(total, target).with_style(style).with_message(what);
        Self { bar, owner: true }
    }

    /// Whether nobody sees it: then nothing needs to be counted for it either.
    #[must_use]
    pub fn hidden(&self) -> bool {
        self.bar.is_hidden()
    }

    /// So far.
    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// So much more.
    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    /// The end has moved.
    pub fn of(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// What is being done now.
    pub fn say(&self, what: impl Into<Cow<'static, str>>) {
        self.bar.set_message(what);
    }

    /// For a task that moves it along; the line lives as long as the original.
    #[must_use]
    pub fn handle(&self) -> Self {
        Self { bar: self.bar.clone(), owner: false }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.owner {
            self.bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_moves_the_bar_and_does_not_end_it() {
        let progress = Progress::new("counting", 10);
        let handle = progress.handle();
        handle.advance(4);
        drop(handle);
        assert_eq!(progress.bar.position(), 4);
        assert!(!progress.bar.is_finished());
    }

    #[test]
    fn an_end_that_moves_is_followed() {
        let progress = Progress::new("draining", 10);
        progress.of(12);
        progress.at(11);
        assert_eq!((progress.bar.length(), progress.bar.position()), (Some(12), 11));
    }
}

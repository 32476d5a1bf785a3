//! The other branches of a call.

use std::time::Instant;

use super::Call;
use crate::exchange::{Branch, Export, Message};

impl Call {
    /// The call has another branch: it is told how things are here.
    pub fn attach(&mut self, _branch: Branch) {}

    /// A branch is gone, with those who were on it.
    pub fn detach(&mut self, _now: Instant, _branch: Branch) {}

    /// Takes in what another branch said.
    pub fn import(&mut self, _now: Instant, _from: Branch, _message: Message) {}

    /// The next thing for other branches. Take it together with events.
    pub fn poll_export(&mut self) -> Option<Export> {
        None
    }

    /// Participants now, on all branches.
    #[must_use]
    pub fn people(&self) -> usize {
        self.participants()
    }
}

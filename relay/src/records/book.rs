//! From what a node says of its calls to their records.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{About, Recorder};
use crate::node::{CallEvent, CallInfo};

/// Records what a node says, and remembers which calls were ended on request.
#[derive(Debug)]
pub struct Book {
    recorder: Recorder,
    /// Ids of calls that are about to end.
    deleted: Mutex<HashSet<String>>,
}

impl Book {
    /// An empty one.
    #[must_use]
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, deleted: Mutex::default() }
    }

    /// Somebody asks for a call's end; that it ended comes later.
    pub fn deleting(&self, call: &str) {
        self.deleted().insert(call.to_owned());
    }

    /// There was no such call.
    pub fn not_deleted(&self, call: &str) {
        self.deleted().remove(call);
    }

    /// A call began or ended.
    pub fn note(&self, event: CallEvent) {
        match event {
            CallEvent::Started { info, .. } => self.recorder.begin(&about(info)),
            CallEvent::Ended { info, started, at, participants, .. } => {
                let deleted = self.deleted().remove(&info.call_id);
                let duration = at.duration_since(started).unwrap_or_default();
                self.recorder.end(&about(info), &participants, duration, deleted);
            }
        }
    }

    fn deleted(&self) -> MutexGuard<'_, HashSet<String>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn about(info: CallInfo) -> About {
    let CallInfo { call_id, calluri, calluriipv6, meeting_id, .. } = info;
    About { call_id, calluri, calluriipv6, meetingid: meeting_id }
}

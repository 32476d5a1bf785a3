//! Calls that outlive their node: made again from their id, and handed over when the node drains behind an ingress.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{CallId, CreateCall, Drain, Node, NodeError};
use crate::worker::Command;

/// Calls remembered that ended here or were handed over. More costs about 60 bytes each; an older one that ended could
/// be made again by somebody whose token for it is still good.
const FATES_MAX: usize = 65_536;

/// The share of a drain's time that handing calls over is spread across: one half. What is left is for people to join
/// elsewhere before the rest ends.
const HANDING_OVER_PART: u32 = 2;

/// How long word of having been taken for dead is about the same pause, told by another ingress. More could leave calls
/// at two nodes after a second pause; less hands over calls that came after the first ingress said so. An ingress needs
/// longer to take a node for dead: two polls.
const SAME_PAUSE: Duration = Duration::from_secs(2);

/// Who asks to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A client that talks to this node.
    Directly,
    /// A client through an ingress, which asks other nodes too: only a call that is here will do.
    ThroughIngress,
    /// An ingress, after no node knew the call: it may be made again, and one that is here and drains is handed over.
    ToRecreate,
}

/// How a call stands with this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is here.
    Here,
    /// It was handed over; those who have not left yet are served on.
    Moved,
    /// It ended here.
    Ended,
    /// It never was here in this process's life, or that is forgotten.
    Unknown,
}

impl Standing {
    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Moved => "moved",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is over.
    Ended,
    /// It goes on at another node.
    Moved,
}

/// What became of calls, of the last [`FATES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Fates {
    known: HashMap<u128, Fate>,
    order: VecDeque<u128>,
}

impl Fates {
    pub(super) fn get(&self, call: &CallId) -> Option<Fate> {
        self.known.get(&call.unique()).copied()
    }

    pub(super) fn set(&mut self, call: &CallId, fate: Fate) {
        let call = call.unique();
        if self.known.insert(call, fate).is_some() {
            return;
        }
        self.order.push_back(call);
        if self.order.len() > FATES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Node {
    /// Sees to it that a call can be joined: makes it again from its id where that is right, for at most
    /// `participants_max` people.
    ///
    /// A call that ended in this process's life is not made again. Else it is at its own node, when the process is
    /// younger than the call or had handed it over, and at another when an ingress asks for it.
    ///
    /// # Errors
    /// When the call is not here and not to be made, was handed over, or the node drains or is full.
    pub fn admit(&self, call: &CallId, asked: Asked, participants_max: usize) -> Result<(), NodeError> {
        let settings = call.settings();
        {
            let mut registry = self.registry();
            let here = registry.calls.get(call).map(|entry| entry.moved);
            if here == Some(true) {
                return Err(NodeError::Moved);
            }
            if registry.drain.is_some() {
                if here.is_none() || asked != Asked::ToRecreate || !self.0.config.hands_over {
                    return Err(NodeError::Draining);
                }
                // It is about to be made elsewhere: all of it moves, or it would be two calls.
                self.hand_over_locked(&mut registry, call)?;
                return Err(NodeError::Moved);
            }
            if here.is_some() {
                return Ok(());
            }
            let own = call.node() == self.0.config.node;
            // By the second, so that a call of this very second may be from before the start; if it is not, the node
            // knows how it ended.
            let before_start = u64::from(settings.created_s) <= self.0.started_s;
            match (registry.fates.get(call), asked) {
                (Some(Fate::Ended), _) => return Err(NodeError::NoSuchCall),
                (Some(Fate::Moved), Asked::ToRecreate) => {}
                (Some(Fate::Moved), _) => return Err(NodeError::Moved),
                (None, Asked::ThroughIngress) => return Err(NodeError::NoSuchCall),
                (None, Asked::Directly) if !(own && before_start) => return Err(NodeError::NoSuchCall),
                (None, Asked::ToRecreate) if own && !before_start => return Err(NodeError::NoSuchCall),
                (None, _) => {}
            }
        }
        let create = CreateCall {
            participants_max: Some(usize::from(settings.participants_max).min(participants_max)),
            mode: settings.mode,
            force_tcp: settings.force_tcp,
            meeting_id: None,
        };
        self.make(call.clone(), create)?;
        metrics::counter!("trunkline_relay_recreated_calls_total").increment(1);
        tracing::info!("a call was made again from its id");
        Ok(())
    }

    /// How a call stands with this node.
    #[must_use]
    pub fn standing(&self, call: &CallId) -> Standing {
        let registry = self.registry();
        match (registry.calls.get(call), registry.fates.get(call)) {
            (Some(entry), _) if entry.moved => Standing::Moved,
            (Some(_), _) => Standing::Here,
            (None, Some(Fate::Moved)) => Standing::Moved,
            (None, Some(Fate::Ended)) => Standing::Ended,
            (None, None) => Standing::Unknown,
        }
    }

    /// Hands a call over: everybody is told to join elsewhere, nobody new is taken, and those who are still there are
    /// served until they left.
    ///
    /// # Errors
    /// When there is no such call.
    pub fn hand_over(&self, call: &CallId) -> Result<(), NodeError> {
        self.hand_over_locked(&mut self.registry(), call)
    }

    /// Hands every call over, at once.
    pub fn hand_over_all(&self) {
        let mut registry = self.registry();
        let calls: Vec<CallId> = registry.calls.keys().cloned().collect();
        for call in calls {
            // A worker that is gone has nobody to tell.
            let _ = self.hand_over_locked(&mut registry, &call);
        }
    }

    /// An ingress had taken this node for dead, and may have had its calls made again elsewhere: they are handed over, so
    /// that everybody meets there. Several ingresses may say so of the same pause.
    pub fn presumed_dead(&self, now: Instant) {
        if !self.0.config.hands_over {
            return;
        }
        {
            let mut registry = self.registry();
            let last = registry.presumed_dead;
            if last.is_some_and(|last| now.saturating_duration_since(last) < SAME_PAUSE) {
                return;
            }
            registry.presumed_dead = Some(now);
        }
        tracing::warn!("an ingress took this node for dead: its calls are handed over");
        self.hand_over_all();
    }

    fn hand_over_locked(&self, registry: &mut super::Registry, call: &CallId) -> Result<(), NodeError> {
        let entry = registry.calls.get_mut(call).ok_or(NodeError::NoSuchCall)?;
        if !std::mem::replace(&mut entry.moved, true) {
            metrics::counter!("trunkline_relay_handed_over_calls_total").increment(1);
            self.tell_all(&entry.places, |key| Command::HandOver { key })?;
        }
        Ok(())
    }

    /// Hands calls over one by one and evenly over the first half of the time until the deadline, for as long as that
    /// drain lasts.
    pub(super) async fn hand_over_slowly(self, drain: Drain, deadline: Instant) {
        let began = Instant::now();
        let time = deadline.saturating_duration_since(began) / HANDING_OVER_PART;
        let calls: Vec<CallId> = self.registry().calls.keys().cloned().collect();
        for (at, call) in (0..).zip(&calls) {
            let due = began + share(time, at, calls.len());
            tokio::time::sleep_until(due.into()).await;
            // Undone or changed since. A call that ended by itself leaves a gap, no harm.
            let mut registry = self.registry();
            if registry.drain != Some(drain) {
                return;
            }
            let _ = self.hand_over_locked(&mut registry, call);
        }
    }
}

/// When the call with this number has its turn.
fn share(time: Duration, at: u32, calls: usize) -> Duration {
    let calls = u32::try_from(calls).unwrap_or(u32::MAX).max(1);
    time.mul_f64(f64::from(at) / f64::from(calls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{CallSettings, Mode};

    fn call() -> CallId {
        let settings =
            CallSettings { mode: Mode::Conference, force_tcp: false, participants_max: 2, created_s: 7 };
        CallId::new(1, settings)
    }

    #[test]
    fn what_became_of_a_call_is_remembered_and_the_oldest_forgotten() {
        let mut fates = Fates::default();
        let first = call();
        fates.set(&first, Fate::Moved);
        fates.set(&first, Fate::Ended);
        assert_eq!(fates.get(&first), Some(Fate::Ended));
        for _ in 0..FATES_MAX - 1 {
            fates.set(&call(), Fate::Ended);
        }
        assert_eq!(fates.get(&first), Some(Fate::Ended));
        fates.set(&call(), Fate::Ended);
        assert_eq!(fates.get(&first), None);
        assert_eq!((fates.known.len(), fates.order.len()), (FATES_MAX, FATES_MAX));
    }

    #[test]
    fn turns_are_even_over_the_time() {
        let time = Duration::from_secs(10);
        let turns: Vec<u64> = (0..5).map(|at| share(time, at, 5).as_secs()).collect();
        assert_eq!(turns, [0, 2, 4, 6, 8]);
        assert_eq!(share(time, 0, 0), Duration::ZERO);
    }
}

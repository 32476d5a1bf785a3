//! Named timers: what the core waits for, and until when.

use std::collections::{BTreeSet, HashMap};

use crate::link::LinkId;
use crate::store::{NetworkKey, PeerKey};
use crate::time::Time;

/// What happens when time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The group commit is due.
    Commit,
    /// Something may have expired.
    Expiry,
    /// Counts of what left the outbox go to the audit log.
    AuditFlush,
    /// Dial a peer.
    Dial(PeerKey),
    /// A link must have been proven by now.
    Handshake(LinkId),
    /// A link is idle: ask whether the peer is there, or give it up.
    Idle(LinkId),
    /// Envelopes in flight must have made progress by now.
    Progress(LinkId),
    /// A long poll of a network ends.
    Wait(NetworkKey),
}

/// The timers that are set. Each name has at most one time.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    order: BTreeSet<(Time, Timer)>,
    times: HashMap<Timer, Time>,
}

impl Timers {
    /// Sets or moves a timer.
    pub(crate) fn set(&mut self, timer: Timer, at: Time) {
        if let Some(old) = self.times.insert(timer, at) {
            if old == at {
                return;
            }
            self.order.remove(&(old, timer));
        }
        self.order.insert((at, timer));
    }

    /// Sets a timer unless it is set to something earlier.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: Time) {
        if self.times.get(&timer).is_none_or(|old| *old > at) {
            self.set(timer, at);
        }
    }

    /// Stops a timer.
    pub(crate) fn cancel(&mut self, timer: Timer) {
        if let Some(old) = self.times.remove(&timer) {
            self.order.remove(&(old, timer));
        }
    }

    /// When a timer fires, if it is set.
    pub(crate) fn get(&self, timer: Timer) -> Option<Time> {
        self.times.get(&timer).copied()
    }

    /// When the next one fires.
    pub(crate) fn next(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Timer> {
        let &(at, timer) = self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.times.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_once() {
        let at = Time::from_unix_ms;
        let mut timers = Timers::default();
        timers.set(Timer::Expiry, at(30));
        timers.set(Timer::Dial(PeerKey(1)), at(20));
        timers.set(Timer::Expiry, at(10));
        timers.set_earlier(Timer::Expiry, at(15));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.pop(at(20)), Some(Timer::Expiry));
        assert_eq!(timers.pop(at(20)), Some(Timer::Dial(PeerKey(1))));
        assert_eq!((timers.pop(at(99)), timers.next()), (None, None));
    }
}

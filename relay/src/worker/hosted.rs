//! A call on its worker, or one branch of a call that is on several.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as channel;
use trunkline_relay_proto::call::{Call, Settings};
use trunkline_relay_proto::counters::Counters;
use trunkline_relay_proto::event::ParticipantId;
use trunkline_relay_proto::exchange::Branch;

use super::exchange::Peer;
use crate::udp::Socket;

/// A call and its socket, on their worker.
pub(crate) struct Hosted {
    /// None behind an ingress.
    pub(super) socket: Option<Socket>,
    pub(super) call: Call,
    /// Which of the call's branches it is,
    pub(super) branch: Branch,
    /// and the others.
    pub(super) peers: Vec<Peer>,
    empty: Empty,
    pub(super) events: HashMap<ParticipantId, channel::Sender<Arc<str>>>,
    /// Handed over: everybody is told to join elsewhere, and it ends with the last who leaves.
    pub(super) moved: bool,
    pub(super) wake_at: Option<Instant>,
    /// Packets that found no room: in the arena, or at another branch's worker.
    pub(super) dropped: u64,
}

/// When a call that nobody is in ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Empty {
    since: Option<Instant>,
    never_joined: Duration,
    all_left: Duration,
    joined: bool,
}

impl Empty {
    /// Of a call that begins now.
    pub(crate) fn new(now: Instant, never_joined: Duration, all_left: Duration) -> Self {
        Self { since: Some(now), never_joined, all_left, joined: false }
    }
}

impl Hosted {
    /// A call that begins here.
    pub(crate) fn new(now: Instant, socket: Option<Socket>, settings: Settings, empty: Empty) -> Self {
        Self {
            socket,
            call: Call::new(now, settings),
            branch: Branch::HOME,
            peers: Vec::new(),
            empty,
            events: HashMap::new(),
            moved: false,
            wake_at: None,
            dropped: 0,
        }
    }

    /// Makes it another branch of a call, with these others.
    pub(crate) fn into_branch(mut self, now: Instant, branch: Branch, peers: Vec<Peer>) -> Self {
        self.branch = branch;
        peers.iter().for_each(|peer| self.call.attach(now, peer.branch()));
        self.peers = peers;
        self
    }

    pub(crate) fn call_mut(&mut self) -> &mut Call {
        &mut self.call
    }

    /// Whether the call began here: this branch says when it is over.
    pub(super) fn is_home(&self) -> bool {
        self.branch == Branch::HOME
    }

    pub(super) fn counters(&self) -> Counters {
        let mut counters = self.call.counters();
        counters.dropped_egress += self.dropped;
        counters
    }

    /// Takes note whether anybody is in the call.
    pub(super) fn note_empty(&mut self, now: Instant) {
        let empty = self.call.people() == 0;
        self.empty.joined |= !empty;
        if !empty {
            self.empty.since = None;
        } else if self.empty.since.is_none() {
            self.empty.since = Some(now);
        }
    }

    /// Whether nobody has been in the call for too long.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let limit = match self.empty {
            _ if !self.is_home() => return false,
            _ if self.moved => Duration::ZERO,
            Empty { joined: true, all_left, .. } => all_left,
            Empty { never_joined, .. } => never_joined,
        };
        self.empty.since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }
}

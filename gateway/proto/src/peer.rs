//! One peer: its lanes in both directions, its link, when it is dialled next.

use std::time::Duration;

use trunkline_common::ids::Domain;

use crate::core::{Action, Core};
use crate::departure::{Departures, Latency};
use crate::directory::PeerState;
use crate::inbound::Inbound;
use crate::lane::{LaneOut, lanes};
use crate::link::{LinkId, Transport};
use crate::pin::Pin;
use crate::store::{Lane, PeerKey};
use crate::time::Time;
use crate::timer::Timer;

/// First back-off between dials. Smaller finds a peer sooner, and bothers it more.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Longest back-off in the first hour.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Longest back-off afterwards.
const BACKOFF_MAX_LATER: Duration = Duration::from_secs(300);

/// When a peer counts as gone for long.
const BACKOFF_LATER: Duration = Duration::from_secs(3600);

/// A link that lived this long starts the back-off anew when it breaks.
const STABLE: Duration = Duration::from_secs(10);

/// How often a link over TCP is tried over QUIC again.
const REPROBE: Duration = Duration::from_secs(300);

/// What a peer lets us send, and what we sent, since the link came up.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
    pub(crate) used_bytes: u64,
    pub(crate) used_messages: u64,
}

impl Credit {
    /// Whether the peer wants so much more.
    pub(crate) fn covers(&self, bytes: u64) -> bool {
        self.used_messages < self.messages && self.used_bytes + bytes <= self.bytes
    }

    pub(crate) fn spend(&mut self, bytes: u64) {
        self.used_bytes += bytes;
        self.used_messages += 1;
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PeerKey,
    pub(crate) domain: Domain,
    pub(crate) lanes: Vec<LaneOut>,
    pub(crate) inbound: Inbound,
    /// The link that was proven last.
    pub(crate) link: Option<LinkId>,
    /// Whether envelopes flow on it.
    pub(crate) up: bool,
    pub(crate) dialing: bool,
    attempts: u32,
    /// When the link came up or went down.
    pub(crate) since: Time,
    pub(crate) last_error: Option<String>,
    /// Why nothing is sent until the operator resumes.
    pub(crate) alarm: Option<Alarm>,
    /// The operator resumed after an alarm: what the peer lost is skipped. Rests in the store until the peer has
    /// acknowledged that.
    pub(crate) rewind_allowed: bool,
    /// The pin of our next certificate that it has stored.
    pub(crate) ready: Option<Pin>,
    pub(crate) credit: Credit,
    /// Bytes of envelopes in flight.
    pub(crate) flight_bytes: u64,
    /// Large envelopes in flight.
    pub(crate) blobs: usize,
    pub(crate) payload_bytes_max: u64,
    /// When envelopes in flight last made progress.
    pub(crate) progress: Time,
    /// Which lane is served first next time.
    pub(crate) first_lane: u8,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) refused: u64,
    pub(crate) departures: Departures,
    pub(crate) latency: Latency,
    /// Removed by the operator: what still waits is being purged.
    pub(crate) leaving: bool,
}

/// A watermark that is not where it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// The peer forgot what it had acknowledged.
    PeerLost(String),
    /// The peer has more than we ever sent: our own store went back.
    WeLost(String),
}

impl Alarm {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::PeerLost(text) | Self::WeLost(text) => text,
        }
    }
}

impl Peer {
    pub(crate) fn new(key: PeerKey, domain: Domain, now: Time) -> Self {
        Self {
            key,
            domain,
            lanes: lanes().map(|lane| LaneOut::new(key, lane)).collect(),
            inbound: Inbound::default(),
            link: None,
            up: false,
            dialing: false,
            attempts: 0,
            since: now,
            last_error: None,
            alarm: None,
            rewind_allowed: false,
            ready: None,
            credit: Credit::default(),
            flight_bytes: 0,
            blobs: 0,
            payload_bytes_max: u64::MAX,
            progress: now,
            first_lane: 0,
            sent: 0,
            received: 0,
            refused: 0,
            departures: Departures::default(),
            latency: Latency::default(),
            leaving: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    pub(crate) fn lane_mut(&mut self, lane: Lane) -> &mut LaneOut {
        self.lanes.get_mut(usize::from(lane.0)).expect("lanes are below LANES")
    }

    pub(crate) fn outbox_bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.queue.bytes).sum()
    }

    /// Forgets what belongs to the present link. Answers how many bytes in memory that were.
    pub(crate) fn unlink(&mut self) -> usize {
        self.up = false;
        self.link = None;
        (self.flight_bytes, self.blobs) = (0, 0);
        self.inbound.link_down();
        let released = self.lanes.iter().map(|lane| lane.queue.tail_bytes()).sum();
        self.lanes.iter_mut().for_each(LaneOut::link_down);
        released
    }

    pub(crate) fn in_flight(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.flight.is_empty())
    }
}

impl Core {
    /// Whether a peer may be dialled at all.
    fn may_dial(&self, key: PeerKey) -> bool {
        let record_ok =
            self.directory.peer(key).is_some_and(|r| r.state == PeerState::Active && !r.keys_held.is_empty());
        let peer_ok = self.peers.get(&key).is_some_and(|p| p.alarm.is_none() && !p.dialing);
        !self.stopping && record_ok && peer_ok
    }

    /// The time to dial a peer has come.
    pub(crate) fn dial(&mut self, now: Time, key: PeerKey) {
        if !self.may_dial(key) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let on_tcp =
            |link: LinkId| self.links.get(&link).is_some_and(|l| l.opened.transport == Transport::Tcp);
        match peer.link {
            Some(link) if on_tcp(link) => {
                self.timers.set(Timer::Dial(key), now + REPROBE);
                self.actions.push_back(Action::Probe(key));
            }
            Some(_) => {}
            None => {
                peer.dialing = true;
                self.actions.push_back(Action::Dial(key));
            }
        }
    }

    /// Dials a peer as soon as its back-off allows; at once when `fresh`.
    pub(crate) fn schedule_dial(&mut self, now: Time, key: PeerKey, fresh: bool) {
        if !self.may_dial(key) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if fresh {
            peer.attempts = 0;
            self.timers.set(Timer::Dial(key), now);
            return;
        }
        let max = if now.since(peer.since) > BACKOFF_LATER { BACKOFF_MAX_LATER } else { BACKOFF_MAX };
        let ceiling = BACKOFF_MIN.saturating_mul(1 << peer.attempts.min(16)).min(max);
        peer.attempts = peer.attempts.saturating_add(1);
        // Full jitter: peers that lost the same machine must not come back in step.
        let delay = self.rng.up_to(u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX));
        self.timers.set(Timer::Dial(key), now + Duration::from_millis(delay));
    }

    /// A dial came to nothing.
    pub fn handle_dial_failed(&mut self, now: Time, key: PeerKey, reason: String) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.dialing = false;
        if peer.link.is_some() {
            return;
        }
        peer.last_error = Some(reason);
        self.schedule_dial(now, key, false);
    }

    /// A peer's link went away.
    pub(crate) fn peer_down(&mut self, now: Time, key: PeerKey, reason: &str) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let was_up = peer.up;
        self.resident_bytes -= peer.unlink();
        peer.last_error = Some(reason.to_owned());
        if was_up {
            if now.since(peer.since) > STABLE {
                peer.attempts = 0;
            }
            peer.since = now;
            let domain = peer.domain.clone();
            self.event("link.down", Some(domain), reason.to_owned());
        }
        self.schedule_dial(now, key, false);
    }

    /// A peer's link came up.
    pub(crate) fn peer_up(&mut self, now: Time, key: PeerKey, link: LinkId) {
        let Some(transport) = self.links.get(&link).map(|l| l.opened.transport) else { return };
        let dialed = self.links.get(&link).is_some_and(|l| l.opened.dialed.is_some());
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.up = true;
        peer.since = now;
        peer.progress = now;
        peer.last_error = None;
        let domain = peer.domain.clone();
        self.event("link.up", Some(domain), format!("over {}", transport.name()));
        self.timers.cancel(Timer::Dial(key));
        if dialed && transport == Transport::Tcp {
            self.timers.set(Timer::Dial(key), now + REPROBE);
        }
    }
}

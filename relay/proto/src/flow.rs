//! The flow table of one thread of an ingress: which node and worker a client's packets go to.
//!
//! Only a connectivity check whose ufrag was made with the cluster's key makes an entry, or moves one; everything else
//! goes where the flow's last such check said, or no further than a counter. Nothing here is worth keeping: the next
//! check of a client says it all again.
//!
//! # Limits
//! All memory is reserved at the start. Flows are bounded in all, and for each participant, so that whoever holds one
//! ufrag and spoofs addresses takes up a participant's share only. Addresses have a budget of new flows, spent by checks
//! that verified: what is forged cannot spend it for others. Idle flows are looked for a few at a time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use crate::demux::{self, Protocol};
use crate::stun;
use crate::ufrag::{Key, LEN, Route, UfragError};

/// A flow without a packet from the client for this long is forgotten. Clients check at least every few seconds; longer
/// keeps the places of those who are gone.
pub const IDLE: Duration = Duration::from_secs(60);

/// Flows of one participant at a time: a handful of networks, each with a few candidates, and what NATs left behind
/// within [`IDLE`]. More helps those who spoof; fewer would cut off who roams much.
pub const PARTICIPANT_FLOWS_MAX: usize = 32;

/// Flows looked at by one [`Flows::sweep`]. More finds idle ones sooner, and delays the packets that wait.
const SWEEP_FLOWS: usize = 256;

/// Budgets of source addresses. Addresses share them by hash: fewer are shared more.
const BUDGETS: usize = 4096;

/// How a flow table is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Flows at a time.
    pub flows_max: usize,
    /// New flows per second of one source address (an IPv6 /64 counts as one),
    pub source_flows_per_s: u32,
    /// and how many of them may come at once.
    pub source_flows_burst: u32,
    /// Numbers of the nodes there are at first. A [`Target`] names one by its place here.
    pub nodes: Vec<u16>,
    /// Where hashes begin. Draw it at random: who knows it can make lookups slow.
    pub seed: u64,
}

/// Where a flow's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node's place, in [`Settings::nodes`] or as [`Flows::set_nodes`] said.
    pub place: usize,
    /// The worker of that node.
    pub worker: u8,
}

/// A check that verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Where it goes.
    pub target: Target,
    /// What its ufrag says.
    pub route: Route,
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A check whose ufrag was not made with the cluster's key.
    Forged,
    /// A check whose ufrag was, but long ago.
    Expired,
    /// STUN, but not a check with a ufrag of a relay.
    Malformed,
    /// A check for a node that is not there.
    UnknownNode,
    /// Not a check, of a flow that no check made: also what comes first after a NAT changed a client's port.
    UnknownFlow,
    /// As many flows as there may be.
    Full,
    /// As many flows of this participant as there may be.
    ParticipantFull,
    /// More new flows of one address than its budget.
    Budget,
}

impl Refusal {
    /// All of them, with their names in metrics.
    pub const NAMED: [(Self, &'static str); 8] = [
        (Self::Forged, "forged"),
        (Self::Expired, "expired"),
        (Self::Malformed, "malformed"),
        (Self::UnknownNode, "unknown_node"),
        (Self::UnknownFlow, "unknown_flow"),
        (Self::Full, "full"),
        (Self::ParticipantFull, "participant_full"),
        (Self::Budget, "budget"),
    ];
}

/// What a table counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// Packets that went no further, in the order of [`Refusal::NAMED`].
    refused: [u64; Refusal::NAMED.len()],
    /// Flows that began.
    pub made: u64,
    /// Flows that another check moved to another route.
    pub moved: u64,
    /// Flows that idled out.
    pub idled: u64,
}

impl FlowCounters {
    /// Packets that went no further, for one reason.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused.get(refusal as usize).copied().unwrap_or_default()
    }

    /// Counts packets that go no further.
    pub fn refuse(&mut self, refusal: Refusal, packets: u64) {
        if let Some(count) = self.refused.get_mut(refusal as usize) {
            *count += packets;
        }
    }

    /// Adds another table's.
    pub fn add(&mut self, other: &Self) {
        self.refused.iter_mut().zip(other.refused).for_each(|(count, more)| *count += more);
        self.made += other.made;
        self.moved += other.moved;
        self.idled += other.idled;
    }
}

/// A flow: the client's socket, and the number of our address that it talks to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    ip: u128,
    port_and_local: u64,
}

impl Flow {
    fn new(client: SocketAddr, local: u32) -> Self {
        let ip = match client.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        Self { ip, port_and_local: u64::from(client.port()) << 32 | u64::from(local) }
    }
}

/// A participant, as routes name it. An ICE restart is a new one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Participant {
    node_and_worker: u32,
    call: u32,
    number: u32,
}

impl Participant {
    fn of(route: &Route) -> Self {
        Self {
            node_and_worker: u32::from(route.node) << 8 | u32::from(route.worker),
            call: route.call,
            number: route.participant,
        }
    }

    fn node(&self) -> u16 {
        u16::try_from(self.node_and_worker >> 8).unwrap_or_default()
    }
}

struct Entry {
    target: Target,
    heard: Instant,
    participant: Participant,
    /// What the last check said: the same again needs no verification.
    ufrag: [u8; LEN],
}

/// See the module's text.
pub struct Flows {
    key: Key,
    settings: Settings,
    /// Which node is at which place now.
    places: Vec<Option<u16>>,
    began: Instant,
    hash: FixedState,
    flows: HashMap<Flow, Entry, FixedState>,
    participants: HashMap<Participant, usize, FixedState>,
    /// Each flow once, with when it is to be looked at.
    idle: VecDeque<(Instant, Flow)>,
    /// When the budget of each group of sources is whole again, in nanoseconds since `began`.
    budgets: Box<[u64]>,
    counters: FlowCounters,
}

impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flows").field("flows", &self.flows.len()).finish_non_exhaustive()
    }
}

impl Flows {
    /// A table without flows. All the memory it will ever need is reserved.
    #[must_use]
    pub fn new(now: Instant, key: Key, settings: Settings) -> Self {
        let hash = FixedState::with_seed(settings.seed);
        Self {
            flows: HashMap::with_capacity_and_hasher(settings.flows_max, hash.clone()),
            participants: HashMap::with_capacity_and_hasher(settings.flows_max, hash.clone()),
            idle: VecDeque::with_capacity(settings.flows_max),
            budgets: vec![0; BUDGETS].into(),
            counters: FlowCounters::default(),
            began: now,
            key,
            places: settings.nodes.iter().copied().map(Some).collect(),
            settings,
            hash,
        }
    }

    /// Where a client's packet goes. `local` is what the tunnel calls the address of ours that it came to, `now_min` the
    /// minutes since the Unix epoch.
    ///
    /// # Errors
    /// When it goes no further; it has been counted.
    pub fn handle(
        &mut self,
        now: Instant,
        now_min: u32,
        client: SocketAddr,
        local: u32,
        datagram: &[u8],
    ) -> Result<Target, Refusal> {
        let flow = Flow::new(client, local);
        let is_stun = demux::classify(datagram) == Protocol::Stun;
        let places = &self.places;
        // Of a node that is not there any more, whose place another may have by now, an entry says nothing.
        let leads = |entry: &&mut Entry| {
            places.get(entry.target.place).is_some_and(|node| *node == Some(entry.participant.node()))
        };
        let known = self.flows.get_mut(&flow).filter(leads);
        if let Some(entry) = known {
            entry.heard = now;
            let ufrag = if is_stun { stun::local_ufrag(datagram) } else { None };
            if ufrag.is_none_or(|ufrag| ufrag == entry.ufrag) {
                return Ok(entry.target);
            }
        } else if !is_stun {
            return Err(self.refuse(Refusal::UnknownFlow));
        }
        let (verified, ufrag) = self.verify(now_min, datagram).map_err(|refusal| self.refuse(refusal))?;
        let placed = self.place(now, client, flow, &verified, ufrag);
        placed.map(|()| verified.target).map_err(|refusal| self.refuse(refusal))
    }

    /// The first check of a connection, which has no entry here: the connection itself remembers what it says.
    ///
    /// # Errors
    /// When it is none, or does not verify; it has been counted.
    pub fn handle_connection(&mut self, now_min: u32, frame: &[u8]) -> Result<Verified, Refusal> {
        let verified = self.verify(now_min, frame).map_err(|refusal| self.refuse(refusal));
        verified.map(|(verified, _)| verified)
    }

    /// Says which nodes there are from now on, each at its place. Flows of others lead nowhere, until a check says
    /// otherwise; nothing is looked through for that.
    pub fn set_nodes(&mut self, places: impl IntoIterator<Item = Option<u16>>) {
        self.places.clear();
        self.places.extend(places);
    }

    /// A node's place.
    #[must_use]
    pub fn place_of(&self, node: u16) -> Option<usize> {
        self.places.iter().position(|known| *known == Some(node))
    }

    /// Forgets idle flows, a bounded number at a time: call it about once per turn of the thread's loop.
    pub fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_FLOWS {
            let Some((_, flow)) = self.idle.pop_front_if(|(at, _)| *at <= now) else { return };
            let Some(entry) = self.flows.get(&flow) else { continue };
            let due = entry.heard + IDLE;
            if due > now {
                self.idle.push_back((due, flow));
                continue;
            }
            let participant = entry.participant;
            self.flows.remove(&flow);
            self.release(participant);
            self.counters.idled += 1;
        }
    }

    /// Flows now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> FlowCounters {
        self.counters
    }

    fn refuse(&mut self, refusal: Refusal) -> Refusal {
        self.counters.refuse(refusal, 1);
        refusal
    }

    /// Believes a check, or does not. What is cheap is looked at first.
    fn verify(&self, now_min: u32, datagram: &[u8]) -> Result<(Verified, [u8; LEN]), Refusal> {
        let ufrag = stun::local_ufrag(datagram).and_then(|ufrag| <[u8; LEN]>::try_from(ufrag).ok());
        let ufrag = ufrag.ok_or(Refusal::Malformed)?;
        let route = self.key.read(ufrag, now_min).map_err(|error| match error {
            UfragError::Malformed | UfragError::Version => Refusal::Malformed,
            UfragError::Forged => Refusal::Forged,
            UfragError::Expired => Refusal::Expired,
        })?;
        let place = self.place_of(route.node).ok_or(Refusal::UnknownNode)?;
        Ok((Verified { target: Target { place, worker: route.worker }, route }, ufrag))
    }

    /// Makes or moves an entry.
    fn place(
        &mut self,
        now: Instant,
        client: SocketAddr,
        flow: Flow,
        verified: &Verified,
        ufrag: [u8; LEN],
    ) -> Result<(), Refusal> {
        let participant = Participant::of(&verified.route);
        let known = self.flows.get(&flow).map(|entry| entry.participant);
        if known.is_none() && self.flows.len() >= self.settings.flows_max {
            return Err(Refusal::Full);
        }
        let of_participant = self.participants.get(&participant).copied().unwrap_or_default();
        if known != Some(participant) && of_participant >= PARTICIPANT_FLOWS_MAX {
            return Err(Refusal::ParticipantFull);
        }
        match known {
            Some(before) => {
                self.release(before);
                self.counters.moved += 1;
            }
            None => {
                self.spend(now, client.ip())?;
                self.idle.push_back((now + IDLE, flow));
                self.counters.made += 1;
            }
        }
        *self.participants.entry(participant).or_default() += 1;
        self.flows.insert(flow, Entry { target: verified.target, heard: now, participant, ufrag });
        Ok(())
    }

    /// One flow fewer of a participant.
    fn release(&mut self, participant: Participant) {
        if let Some(count) = self.participants.get_mut(&participant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.participants.remove(&participant);
            }
        }
    }

    /// Takes one flow out of an address's budget (GCRA: a budget is a time up to which it is spent).
    fn spend(&mut self, now: Instant, source: IpAddr) -> Result<(), Refusal> {
        let group = match source {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).unwrap_or_default(),
        };
        let place = self.hash.hash_one(group) % BUDGETS as u64;
        let budget = usize::try_from(place).ok().and_then(|place| self.budgets.get_mut(place));
        let budget = budget.ok_or(Refusal::Budget)?;
        let elapsed = now.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let each = 1_000_000_000 / u64::from(self.settings.source_flows_per_s.max(1));
        let spent = (*budget).max(now).saturating_add(each);
        if spent - now > each.saturating_mul(u64::from(self.settings.source_flows_burst.max(1))) {
            return Err(Refusal::Budget);
        }
        *budget = spent;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

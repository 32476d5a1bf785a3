//! What a test says about the network.

use std::net::SocketAddr;
use std::time::Duration;

/// How one direction of one protocol treats what it carries. The default lets everything through at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Profile {
    /// Time on the way.
    pub delay: Duration,
    /// Up to this much more, evenly distributed, for each datagram or run of bytes. Datagrams overtake each
    /// other then; TCP keeps its order.
    pub jitter: Duration,
    /// Share of packets that are lost, 0 to 1. TCP sends them again: what was lost, and all behind it, arrives a
    /// round trip later.
    pub loss: f64,
    /// Share of datagrams that are held back for some milliseconds, so that others overtake them. UDP only.
    pub reorder: f64,
    /// Share of datagrams that arrive twice. UDP only.
    pub duplicate: f64,
    /// The bottleneck, if there is one.
    pub rate: Option<Rate>,
    /// Whether anything gets through at all.
    pub cut: Cut,
}

/// A bottleneck with a queue in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What passes.
    pub bytes_per_s: u64,
    /// How much may wait. Datagrams beyond it are lost, TCP senders have to wait.
    pub queue_bytes: u64,
}

/// Whether anything gets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Yes.
    #[default]
    Open,
    /// Nothing, and nobody is told: datagrams vanish, also those on their way; TCP connections hang, new ones
    /// too, and go on when it is open again.
    Silent,
    /// As a firewall that says no: TCP connections are reset, new ones too; datagrams vanish.
    Reset,
}

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From clients to the target.
    ToTarget,
    /// From the target to its clients.
    FromTarget,
}

/// Which profiles a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All four.
    All,
    /// UDP both ways.
    Udp,
    /// TCP both ways.
    Tcp,
    /// Both protocols from clients to the target.
    ToTarget,
    /// Both protocols from the target to clients.
    FromTarget,
    /// This one.
    Only(Protocol, Direction),
}

/// What one direction of one protocol has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams, or runs of TCP bytes, that were passed on.
    pub carried: u64,
    /// Their bytes.
    pub carried_bytes: u64,
    /// Datagrams that were dropped, and TCP losses that were made up for.
    pub lost: u64,
    /// Datagrams that arrived twice.
    pub duplicated: u64,
    /// Datagrams that were held back.
    pub reordered: u64,
}

impl Profile {
    /// Nothing but a delay.
    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

impl Which {
    pub(super) fn covers(self) -> impl Iterator<Item = (Protocol, Direction)> {
        [Protocol::Udp, Protocol::Tcp]
            .into_iter()
            .flat_map(|protocol| {
                [Direction::ToTarget, Direction::FromTarget].map(|direction| (protocol, direction))
            })
            .filter(move |&(protocol, direction)| match self {
                Self::All => true,
                Self::Udp => protocol == Protocol::Udp,
                Self::Tcp => protocol == Protocol::Tcp,
                Self::ToTarget => direction == Direction::ToTarget,
                Self::FromTarget => direction == Direction::FromTarget,
                Self::Only(only, way) => protocol == only && direction == way,
            })
    }
}

/// All that can be changed while the shaper runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) target: SocketAddr,
    profiles: [[Profile; 2]; 2],
    /// Raised once to reset all connections that are open.
    pub(super) resets: u64,
    pub(super) stopping: bool,
}

impl Settings {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self { target, profiles: Default::default(), resets: 0, stopping: false }
    }

    pub(super) fn profile(&self, protocol: Protocol, direction: Direction) -> Profile {
        let (protocol, direction) = index(protocol, direction);
        self.profiles[protocol][direction]
    }

    pub(super) fn profile_mut(&mut self, protocol: Protocol, direction: Direction) -> &mut Profile {
        let (protocol, direction) = index(protocol, direction);
        &mut self.profiles[protocol][direction]
    }

    /// The worse of TCP's two directions.
    pub(super) fn tcp_cut(&self) -> Cut {
        let cuts =
            [Direction::ToTarget, Direction::FromTarget].map(|way| self.profile(Protocol::Tcp, way).cut);
        [Cut::Reset, Cut::Silent].into_iter().find(|cut| cuts.contains(cut)).unwrap_or_default()
    }
}

/// Where a pair stands in arrays of two by two.
pub(super) fn index(protocol: Protocol, direction: Direction) -> (usize, usize) {
    (usize::from(protocol == Protocol::Tcp), usize::from(direction == Direction::FromTarget))
}

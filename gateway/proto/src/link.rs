//! One connection to a peer, from TLS being up to its end.

use bytes::Bytes;
use trunkline_common::ids::Domain;

use crate::key::ChannelBinding;
use crate::pin::Pin;
use crate::store::PeerKey;
use crate::time::Time;

/// One connection of this process. The shell counts them; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// QUIC.
    Quic,
    /// HTTP/2 over TLS over TCP.
    Tcp,
}

impl Transport {
    /// As the admin API and metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// A connection that TLS let in.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Whom we dialled; `None` when we accepted it.
    pub dialed: Option<PeerKey>,
    /// What carries it.
    pub transport: Transport,
    /// DER of the peer's certificate.
    pub certificate: Bytes,
    /// Peers in CA mode whose authorities vouch for the certificate, with their federation domain in it.
    pub vouched: Vec<PeerKey>,
    /// What proofs are bound to.
    pub binding: ChannelBinding,
}

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for the peer's HELLO.
    Hello,
    /// The peer proved itself; waiting for its RESUME.
    Resume,
    /// Envelopes flow.
    Up,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) opened: Opened,
    pub(crate) opened_at: Time,
    pub(crate) pin: Pin,
    pub(crate) phase: Phase,
    /// Known once it is dialled or HELLO came.
    pub(crate) peer: Option<PeerKey>,
    /// Id of the key the peer proved.
    pub(crate) proven_key: Option<String>,
    /// Another key was announced to the peer on this link.
    pub(crate) rotated: bool,
    /// What the peer had acknowledged of each lane when we said HELLO: its RESUME on this link, which may come
    /// late, is no older than that.
    pub(crate) acked: Vec<u64>,
    /// Id of the key we proved.
    pub(crate) our_key: Option<String>,
    pub(crate) heard: Time,
    /// Whether a PING waits for its answer.
    pub(crate) pinged: bool,
    /// When we last answered a PING.
    pub(crate) ponged: Option<Time>,
    /// KEYS and KEYS_ACK received.
    pub(crate) keys: u32,
}

impl Link {
    /// Who dialled: what decides between two links to the same peer.
    pub(crate) fn dialer<'a>(&self, us: &'a Domain, them: &'a Domain) -> &'a Domain {
        if self.opened.dialed.is_some() { us } else { them }
    }
}

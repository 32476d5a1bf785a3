//! Links to peers: authenticated connections that carry frames on channels, whatever the transport.
//!
//! The [`crate::hub`] sees a link as a [`LinkSender`] and a run of [`LinkEvent`]s: `Opened` first, then frames,
//! `Closed` last. TLS let the certificate in because the directory knows its pin; who the peer really is, and
//! whether it holds the right API key, the core decides when HELLO arrives. On a dialled QUIC link `Opened` comes
//! before the peer has judged our certificate: a refusal shows as `Closed`, and only an answered HELLO means up.
//!
//! # Layout
//! - [`listen`]: [`Links`], the listeners and the door
//! - `admit`: how many strangers may stand in it
//! - [`tls`]: who may come in, and whom we trust when we dial
//! - [`resolve`], `dial`: where a peer is, and which transport gets there first
//! - `quic`, `tcp`: a link over either, the same frames
//! - `end`: how one ends
//! - `congestion`: how fast QUIC sends
//! - `outgoing`: whose turn it is
//! - [`knock`]: a look at a listener from outside

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::sync::mpsc;
use trunkline_gateway_proto::frame::Channel;
use trunkline_gateway_proto::key::ChannelBinding;
use trunkline_gateway_proto::store::PeerKey;
use trunkline_gateway_proto::wire::frame::Body;

mod admit;
mod congestion;
mod dial;
mod end;
pub mod knock;
pub mod listen;
mod outgoing;
mod quic;
pub mod resolve;
mod tcp;
pub mod tls;

pub use trunkline_gateway_proto::link::{LinkId, Transport};

pub use listen::{Congestion, LinkConfig, Links, StartError};

/// What happens on links. The queue to the hub is bounded: a hub that falls behind slows its peers down.
#[derive(Debug)]
pub enum LinkEvent {
    /// TLS is up on both sides, and the certificate is one that some peer may show.
    Opened {
        /// Names it from now on.
        link: LinkId,
        /// Whom we dialled; `None` when we accepted it.
        dialed: Option<PeerKey>,
        /// What carries it.
        transport: Transport,
        /// DER of the peer's certificate.
        certificate: Bytes,
        /// Peers in CA mode whose authorities vouch for the certificate.
        vouched: Vec<PeerKey>,
        /// The other end.
        remote: SocketAddr,
        /// What proofs are bound to.
        binding: ChannelBinding,
        /// How to send on it.
        sender: LinkSender,
    },
    /// A frame arrived.
    Frame {
        /// On which link.
        link: LinkId,
        /// On which channel.
        channel: Channel,
        /// What.
        body: Body,
    },
    /// It is gone; nothing follows.
    Closed {
        /// Which.
        link: LinkId,
        /// Why, for the operator.
        reason: String,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Whom.
        peer: PeerKey,
        /// Why, for the operator: names whose fault it is and what to do.
        reason: String,
    },
}

/// What the hub asks of a link.
#[derive(Debug)]
pub enum LinkCommand {
    /// Send a frame. Frames of one channel keep their order; control never waits behind data.
    Send(Channel, Body),
    /// Send what was asked before, then this GOAWAY, then close.
    Close(Option<trunkline_gateway_proto::wire::Goaway>),
}

/// The hub's end of a link. Dropping it closes the link.
pub type LinkSender = mpsc::UnboundedSender<LinkCommand>;

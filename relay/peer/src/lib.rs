//! A light WebRTC client for the relay's tests and load runs, without I/O, clock or threads: hundreds fit into one
//! process. It speaks what a browser speaks (SDP, ICE, DTLS, SRTP, RTCP), to one address, with streams whose payload
//! the test makes up.
//!
//! Drive a [`Peer`] so: [`Peer::offer`] and [`Peer::answer`] (or [`Peer::description`] and [`Peer::connect`], where no
//! SDP is wanted); then [`Peer::poll_transmit`] until it has nothing left, after everything that is done to it;
//! [`Peer::handle_datagram`] for what arrives; [`Peer::handle_timeout`] at [`Peer::poll_timeout`].
//!
//! # Layout
//! - [`settings`]: what peers share, and what each of them sends and receives
//! - [`sdp`]: the offer as text, and what is read of an answer
//! - [`framed`]: datagrams as frames on a TCP or TLS connection
//! - [`peer`]: one client; `check` its connectivity checks, `receive` what arrives, `feedback` its RTCP, `adapt` what it
//!   knows of its line
//! - [`outgoing`]: a source it sends; [`encoding`] one stream of it, with what is kept to send again
//! - [`incoming`]: a stream it receives: what came, what is missing, what came twice
//! - [`stamp`]: the time in a payload that latency is measured by

mod adapt;
mod check;
pub mod encoding;
mod feedback;
pub mod framed;
pub mod incoming;
pub mod outgoing;
pub mod peer;
mod receive;
pub mod sdp;
mod section;
pub mod settings;
pub mod stamp;

#[cfg(test)]
mod tests;

pub use incoming::SlotStatistics;
pub use outgoing::Frame;
pub use peer::{Media, Peer, PeerCounters, PeerEvent, Received, Remote};
pub use sdp::{Answer, AnswerError};
pub use settings::{Plan, Settings};

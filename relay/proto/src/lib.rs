//! The calling relay's core, without I/O, clock or threads: datagrams and the time go in, datagrams and events come
//! out. It works from RTP headers and extensions alone; what people say and show is encrypted end to end.
//!
//! # Layout
//! What the shell hands in and takes out:
//! - [`media`]: what an offer and its answer agreed on
//! - [`path`], [`egress`]: where datagrams come from, and what is to be sent
//! - [`framing`], [`turn`], [`tunnel`]: datagrams on TCP and TLS connections, and between an ingress and a node
//! - [`backlog`]: what waits for one connection
//! - [`flow`]: where an ingress sends what clients send
//! - [`event`], [`snapshot`], [`counters`], [`receivers`]: what is told to people and operators; [`histogram`], `quality`:
//!   in which form, and how often
//! - [`exchange`]: what a call in several places tells itself
//!
//! The journey of one packet through a [`call`]:
//! - [`demux`]: what a datagram is (RFC 7983)
//! - [`stun`], [`ice`], [`ufrag`]: whose path it came on
//! - [`dtls`], [`srtp`]: keys, and what they open and seal
//! - [`rtp`]: headers and extensions
//! - `participant`: who sends it, and under which SSRC
//! - `source`, `encoding`, `layers`: what it belongs to; `elsewhere`: who wants it in other branches of the call
//! - `history`, `reception`, `loss`: what is kept of it, and what is missing
//! - `speaker`, `allocate`: who is to hear and see it
//! - [`congestion`], [`bandwidth`]: how much each receiver's line carries, and which layers go into that
//! - `slot`, `line`: the stream it goes out in, and when
//! - [`rtcp`], `key_frame`: what both sides report and ask for; `budget`: how much of that is done

mod allocate;
pub mod backlog;
pub mod bandwidth;
mod budget;
pub mod call;
pub mod congestion;
pub mod counters;
pub mod demux;
pub mod dtls;
pub mod egress;
mod elsewhere;
mod encoding;
pub mod event;
pub mod exchange;
pub mod flow;
pub mod framing;
pub mod histogram;
mod history;
pub mod ice;
mod key_frame;
mod layers;
mod line;
mod loss;
pub mod media;
mod participant;
pub mod path;
mod quality;
pub mod receivers;
mod reception;
mod rng;
pub mod rtcp;
pub mod rtp;
mod slot;
pub mod snapshot;
mod source;
mod speaker;
pub mod srtp;
pub mod stun;
pub mod tunnel;
pub mod turn;
pub mod ufrag;

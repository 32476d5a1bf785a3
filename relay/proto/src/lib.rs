//! The calling relay's core, without I/O, clock or threads: datagrams and the time go in, datagrams and events come
//! out. It works from RTP headers and extensions alone; what people say and show is encrypted end to end.
//!
//! # Layout
//! What the shell hands in and takes out:
//! - [`media`]: what an offer and its answer agreed on
//! - [`path`], [`egress`]: where datagrams come from, and what is to be sent
//! - [`event`], [`snapshot`], [`counters`]: what is told to people and operators
//!
//! The journey of one packet:
//! - [`demux`]: which protocol it is
//! - [`stun`], [`ufrag`], [`ice`]: connectivity checks, what routes them, and the path they agree on
//! - [`dtls`]: the handshake that gives the media keys
//! - [`srtp`]: what is opened when it comes in, and sealed when it goes out
//! - [`rtp`]: headers, header extensions and the dependency descriptor
//! - [`rtcp`]: reports and feedback
//! - [`call`]: one call, which everything else belongs to

pub mod call;
pub mod counters;
pub mod demux;
pub mod dtls;
pub mod egress;
pub mod event;
pub mod ice;
pub mod media;
pub mod path;
pub mod rtcp;
pub mod rtp;
pub mod snapshot;
pub mod srtp;
pub mod stun;
pub mod ufrag;

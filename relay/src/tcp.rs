//! Media over TCP and TLS: connections that clients open (RFC 6544, passive candidates), for networks without UDP.
//!
//! # Layout
//! - [`lobby`]: who connects, until a good check says whose connection it is
//! - [`connection`]: one connection: frames in, frames out
//!
//! Nothing here knows calls: a node's workers and an ingress's threads do with connections what is theirs to do.

pub mod connection;
pub mod lobby;
#[cfg(test)]
pub(crate) mod testing;

pub use connection::{Closed, Connection};
pub use lobby::{Admitted, Lobby, LobbyCounters, Refusal, Settings};

/// Protocols of ALPN that TLS takes: TURN (RFC 7443) and WebRTC (RFC 8833). A client need not name any.
pub const PROTOCOLS: &[&str] = &["stun.turn", "webrtc"];

//! The calling relay: a WebRTC media relay that never sees media in clear.
//!
//! # Layout
//! The journey of one packet:
//! - [`udp`]: a call's socket, batches in and trains out
//! - `worker`: one thread, its calls and their sockets; the rules are in `trunkline-relay-proto`
//!
//! Joining a call:
//! - [`sdp`]: an offer comes in, what was agreed on and an answer come out
//! - [`node`]: the workers, the calls on them, and who is in them
//! - [`ports`], [`interfaces`]: where calls are reached
//!
//! People in browsers:
//! - [`web`]: the example client

pub mod interfaces;
pub mod node;
pub mod ports;
pub mod sdp;
pub mod udp;
pub mod web;
mod worker;

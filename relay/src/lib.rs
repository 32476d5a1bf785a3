//! The calling relay: a WebRTC media relay that never sees media in clear.
//!
//! # Layout
//! The journey of one packet:
//! - [`udp`]: a call's socket, batches in and trains out
//! - [`tcp`]: connections of those without UDP
//! - [`ingress`]: one address for many nodes; [`tunnel`]: their end of the way there
//! - `worker`: one thread, its calls and their sockets; the rules are in `trunkline-relay-proto`
//!
//! Joining a call:
//! - [`api`]: the HTTP API; [`token`]: who may join which call
//! - [`sdp`]: an offer comes in, what was agreed on and an answer come out
//! - [`node`]: the workers, the calls on them, and who is in them
//! - [`ports`], [`interfaces`]: where calls are reached
//! - [`web`]: the example client
//!
//! One address for many nodes:
//! - [`ingress`]: requests go to the node that has the call, and calls outlive their node
//! - [`registry`]: where ingresses find nodes that nobody listed for them
//!
//! Running a node:
//! - [`config`], [`key`], [`init`], [`check`], [`run`]: from a configuration file to a running node
//! - [`records`], [`metrics`]: what is kept of calls, and what is measured
//! - [`cli`]: the command line

pub mod api;
pub mod check;
pub mod cli;
pub mod config;
pub mod ingress;
pub mod init;
pub mod interfaces;
pub mod key;
pub mod metrics;
pub mod node;
pub mod ports;
pub mod records;
pub mod registry;
pub mod run;
pub mod sdp;
pub mod tcp;
pub mod token;
pub mod tunnel;
pub mod udp;
pub mod web;
mod worker;

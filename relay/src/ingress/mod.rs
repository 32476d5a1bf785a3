//! The ingress: one address for every node.
//!
//! It holds no state that it could not do without: flows come back with the next check of each client, and what nodes
//! send says itself where it goes. Nor does it remember anything of calls.
//!
//! # Layout
//! - [`config`], [`init`], [`check`], [`run`]: from a configuration file to a running ingress
//! - [`plane`]: the threads that forward media; `thread` one of them, `locals` its addresses,
//!   `connections` its clients over TCP
//! - [`front`]: the HTTP front, which every request for a call goes through
//! - [`nodes`]: which nodes are alive, how busy they are, and which of them a request goes to
//! - [`places`]: which nodes there are, by the configuration and by the registry; [`registered`]: reading that
//! - [`metrics`]: what is measured

pub mod check;
pub mod config;
mod connections;
pub mod front;
pub mod init;
mod locals;
pub mod metrics;
pub mod nodes;
pub mod places;
pub mod plane;
pub mod registered;
pub mod run;
mod thread;

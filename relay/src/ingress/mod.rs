//! The ingress: one address for every node.
//!
//! It holds no state that it could not do without: flows come back with the next check of each client, and what nodes
//! send says itself where it goes.
//!
//! # Layout
//! - [`config`], [`init`], [`check`], [`run`]: from a configuration file to a running ingress
//! - [`plane`]: the threads that forward media; `thread` one of them, `locals` its addresses,
//!   `connections` its clients over TCP
//! - [`metrics`]: what is measured

pub mod check;
pub mod config;
mod connections;
pub mod init;
mod locals;
pub mod metrics;
pub mod plane;
pub mod run;
mod thread;

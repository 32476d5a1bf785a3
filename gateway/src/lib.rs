//! The federation gateway: forwards opaque, end-to-end encrypted envelopes between deployments, durably.
//!
//! # Layout
//! In the order an envelope walks through:
//! - [`hub`], [`driver`]: the handle on the core, and the one task that owns it
//! - [`store`]: durable storage
//! - [`identity`]: the certificate that peers know us by
//! - [`link`]: connections to peers
//! - [`api`]: the local API, for the deployment's own messaging servers
//! - [`admin`]: the admin API, for its operators
//! - [`history`], [`relays`]: what its console shows beside: what was, and the relays of the deployment
//! - [`console`]: the pages that operators see
//! - [`metrics`]: what is measured
//! - [`config`], [`init`], [`service`], [`check`], [`run`]: from a configuration file to a running gateway
//! - [`doctor`]: what is wrong, and what to do
//! - `clock`: the machine's clock, for all but the core
//! - [`cli`]: the command line

pub mod admin;
pub mod api;
pub mod check;
pub mod cli;
mod clock;
pub mod config;
pub mod console;
pub mod doctor;
pub mod driver;
pub mod history;
pub mod hub;
pub mod identity;
pub mod init;
pub mod link;
pub mod metrics;
pub mod relays;
pub mod replica;
pub mod run;
pub mod service;
pub mod store;

//! What every part of Trunkline shares.
//!
//! # Layout
//! - [`ids`]: domains, addresses, envelope ids, networks; they do not print what they identify
//! - [`redact`]: the log detail an operator chose, and who may print what at it
//! - [`limits`]: limits that more than one crate must agree on
//! - [`digest`]: the SHA-256 of bytes
//! - [`token`]: random bearer tokens and the hashes they are stored as
//! - [`units`]: durations and sizes as operators write them
//! - `config`: loading a configuration file with errors that name file, line and field (feature `process`)
//! - `secret`: files that only their owner reads (feature `process`)
//! - `telemetry`: structured logs (feature `process`)
//! - `shutdown`: one signal, seen by every task, and a drain that ends (feature `process`)

pub mod digest;
pub mod ids;
pub mod limits;
pub mod redact;
pub mod token;
pub mod units;

#[cfg(feature = "process")]
pub mod config;
#[cfg(feature = "process")]
pub mod secret;
#[cfg(feature = "process")]
pub mod shutdown;
#[cfg(feature = "process")]
pub mod telemetry;

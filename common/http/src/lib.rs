//! What Trunkline's HTTP APIs share.
//!
//! # Layout
//! In the order a request meets them:
//! - [`serve`]: a router over TCP or TLS, bounded
//! - [`auth`], [`lockout`]: bearer tokens, and budgets for those who guess and for those who ask too much
//! - [`extract`]: bodies, paths and queries, bounded, refused with problem documents
//! - [`problem`]: the one shape of every error
//! - [`files`]: pages that are part of the binary
//! - [`openapi`]: what the APIs say of themselves
//! - [`rfc3339`]: times as text
//! - `cli`: the command line that speaks to such an API (feature `cli`)

pub mod auth;
#[cfg(feature = "cli")]
pub mod cli;
pub mod extract;
pub mod files;
pub mod lockout;
pub mod openapi;
pub mod problem;
pub mod rfc3339;
pub mod serve;

//! The local API.
//!
//! # Layout
//! - [`problem`]: the one shape of every error
//! - [`extract`]: bodies and queries, bounded, refused with problem documents

pub mod extract;
pub mod problem;

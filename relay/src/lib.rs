//! The calling relay.

pub mod api;
pub mod check;
pub mod config;
pub mod init;
pub mod key;
pub mod metrics;
pub mod records;
pub mod sdp;
pub mod token;

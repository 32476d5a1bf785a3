//! The calling relay.

pub mod sdp;
pub mod web;

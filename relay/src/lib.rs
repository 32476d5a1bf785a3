//! The calling relay.

pub mod sdp;

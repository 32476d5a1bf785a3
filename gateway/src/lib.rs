//! The federation gateway: forwards opaque, end-to-end encrypted envelopes between deployments, durably.
//!
//! # Layout
//! In the order an envelope walks through:
//! - [`hub`]: the one task that owns the core and ties everything together
//! - [`store`]: durable storage
//! - [`identity`]: the certificate that peers know us by
//! - [`link`]: connections to peers

pub mod hub;
pub mod identity;
pub mod link;
pub mod store;

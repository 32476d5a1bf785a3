//! The federation gateway: forwards opaque, end-to-end encrypted envelopes between deployments, durably.
//!
//! # Layout
//! In the order an envelope walks through:
//! - [`hub`]: the one task that owns the core and ties everything together
//! - [`store`]: durable storage
//! - [`identity`]: the certificate that peers know us by
//! - [`link`]: connections to peers
//! - [`serve`]: HTTP over TCP or TLS, bounded
//! - [`api`]: the local API, for the deployment's own messaging servers

pub mod api;
pub mod hub;
pub mod identity;
pub mod link;
pub mod serve;
pub mod store;

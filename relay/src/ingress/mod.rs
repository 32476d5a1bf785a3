//! The ingress: one address for every node.
//!
//! # Layout
//! - [`front`]: the HTTP front, which every request for a call goes through
//! - [`nodes`]: which nodes are alive, how busy they are, and which of them a request goes to

pub mod front;
pub mod nodes;

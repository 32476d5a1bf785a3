//! The federation gateway's core, without I/O, clock or threads.
//!
//! # Layout
//! - [`wire`]: the protobuf messages of the link and of the local API
//! - [`frame`]: frames on channels, and their bounds
//! - [`pin`], [`certificate`], [`key`]: what a peer must show and prove
//! - [`bundle`]: how two operators introduce their deployments
//! - [`directory`], [`policy`]: who is who, and who may write to whom
//! - [`store`]: what the core asks of a store, as data
//! - [`time`]: time as the core sees it

pub mod admin;
pub mod audit;
pub mod bundle;
pub mod certificate;
pub mod directory;
pub mod frame;
pub mod key;
pub mod pin;
pub mod policy;
pub mod store;
pub mod time;
pub mod wire;

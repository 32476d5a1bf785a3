//! The federation gateway's core, without I/O, clock or threads.
//!
//! # Layout
//! What both sides speak:
//! - [`wire`]: the protobuf messages of the link and of the local API
//! - [`frame`]: frames on channels, and their bounds
//! - [`envelope`]: reading an envelope in place, and its bounds
//! - [`pin`], [`certificate`], [`key`], [`bundle`]: what a peer must show and prove, and how operators introduce each
//!   other
//!
//! Who is who:
//! - [`directory`], [`policy`]: peers, networks, tokens, and who may write to whom
//! - [`administrator`], [`settings`]: who may log in to the console, and what is set there
//! - [`identity`]: who we are ourselves, where replicas share that
//! - [`admin`], [`audit`]: what operators ask for, and the record of it
//!
//! The journey of one envelope through [`core`]:
//! - `submit`: from a messaging server into a lane
//! - [`lane`], `queue`: the ordered sequences to a peer, and what of a stream is in memory
//! - `outbound`: out to the peer within its credit, and back as acknowledgement or refusal
//! - [`link`], `session`, `peer`: the connection it travels on, and when it is dialled
//! - `inbound`: past watermark and policy into an inbox
//! - `reader`: out to the other messaging server
//! - [`receipt`], `retire`, `departure`: what became of it: delivered, refused, expired or purged
//!
//! And around it:
//! - [`store`], [`state`], [`recover`]: what the core asks of a store, and how it starts from one
//! - `operate`, `view`: what operators change and see
//! - [`timer`], [`time`]: what happens when, by a clock that the shell hands in

pub mod admin;
pub mod administrator;
pub mod audit;
pub mod bundle;
pub mod certificate;
pub mod core;
mod departure;
pub mod directory;
pub mod envelope;
pub mod frame;
pub mod identity;
mod inbound;
pub mod key;
pub mod lane;
pub mod link;
mod operate;
mod outbound;
mod peer;
pub mod pin;
pub mod policy;
#[doc(hidden)]
pub mod probe;
mod queue;
mod reader;
pub mod receipt;
pub mod recover;
mod retire;
mod rng;
mod session;
pub mod settings;
pub mod state;
pub mod store;
mod submit;
pub mod time;
pub mod timer;
mod view;
pub mod wire;

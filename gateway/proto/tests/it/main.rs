//! The core under simulation: several gateways, their stores and the network between them in one thread, with
//! virtual time, all from a seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fuzz_seeds;
mod lanes;
mod ledger;
mod links;
mod networks;
mod peering;
mod policies;
mod refusals;
mod scene;
mod simulation;
mod store;
mod watermarks;
mod world;

//! The core under simulation: several gateways, their stores and the network between them in one thread, with
//! virtual time, all from a seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "a failing seed tells how to replay it")]

mod delivery;
mod departures;
mod fuzz_seeds;
mod hostile;
mod identity;
mod lanes;
mod ledger;
mod links;
mod networks;
mod operators;
mod peering;
mod policies;
mod recorded;
mod refusals;
mod scene;
mod simulation;
mod store;
mod watermarks;
mod world;

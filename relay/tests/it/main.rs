//! Integration tests of the relay, one module per subject.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail the test: clippy excuses only functions marked as tests"
)]

mod adapts;
mod calls;
mod front;
mod fuzz_seeds;
mod ingress;
mod interop;
mod moves;
mod networks;
mod process;
mod registry;
mod tcp;
mod web;

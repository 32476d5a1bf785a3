//! The core from outside.

mod calls;
mod client;
mod fuzz_seeds;
mod simulation;

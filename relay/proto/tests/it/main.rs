//! The core from outside.
#![allow(clippy::print_stderr, reason = "a failing seed tells how to replay it")]

mod bounds;
mod branches;
mod calls;
mod client;
mod connections;
mod fuzz_seeds;
mod layers;
mod numbers;
mod requests;
mod simulation;

//! Integration tests of the gateway, one module per subject.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail the test: clippy excuses only functions marked as tests"
)]

mod admin;
mod api;
mod cli;
mod config;
mod database;
mod doctor;
mod federation;
mod link;
mod process;
mod relays;
mod store;

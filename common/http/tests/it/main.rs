//! Integration tests of the shared HTTP pieces, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail the test: clippy excuses only functions marked as tests"
)]

mod serve;

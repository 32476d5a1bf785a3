//! The messages of `trunkline.proto`, as generated.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated code; trunkline.proto documents it"
)]

include!(concat!(env!("OUT_DIR"), "/trunkline.v1.rs"));

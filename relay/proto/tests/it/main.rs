//! The core from outside.

mod fuzz_seeds;

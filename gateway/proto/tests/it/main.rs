//! Tests of the core as its users see it.

mod fuzz_seeds;

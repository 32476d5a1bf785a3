//! Criterion benches of the hot paths: see the `*.rs` files beside this one.

//! Tests of the relay's core through its public interface.

mod calls;
mod client;

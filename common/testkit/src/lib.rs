//! Tools for tests and load runs: everything that a real machine does by chance, done on command and from a seed.
//!
//! # Layout
//! - [`rng`]: the random source that all the rest draws from; the same seed gives the same run
//! - [`seeds`]: runs a test over many seeds and prints the one that failed
//! - [`clock`]: wall-clock time that moves only when the test says so
//! - [`shaper`]: a slow, lossy, breakable network between real UDP and TCP sockets
//! - [`disk`]: a disk that forgets what was not synced, and fails where it is told to
//! - [`postgres`]: a PostgreSQL server, and a proxy that cuts its connections at the worst moment
//! - [`secluded`]: a network of a test's own, with a firewall

pub mod clock;
pub mod disk;
pub mod postgres;
pub mod rng;
pub mod secluded;
pub mod seeds;
pub mod shaper;

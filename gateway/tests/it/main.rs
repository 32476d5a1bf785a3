//! The gateway's integration tests, one module per subject.

#[cfg(test)]
mod store;

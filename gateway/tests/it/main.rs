//! The gateway's integration tests, one module per subject.

#[cfg(test)]
mod link;
#[cfg(test)]
mod store;

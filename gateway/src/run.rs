//! A running gateway: what starts in which order, and what stops in which.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::Config;

/// Where a running gateway listens, in its data directory: for the CLI, when the configuration says port 0.
const LISTENING_FILE: &str = "listening.json";

/// Where a running gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// UDP and TCP, for peers.
    pub link: SocketAddr,
    /// TCP, for messaging servers.
    pub local_api: SocketAddr,
    /// TCP, for operators.
    pub admin_api: SocketAddr,
}

impl Listening {
    /// What the gateway of a data directory wrote when it started; `None` when it does not run, or never did.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data_dir.join(LISTENING_FILE)).ok()?).ok()
    }
}

/// Why a gateway does not start.
#[derive(Debug, Error)]
pub enum RunError {}

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(_config: Config) -> Result<(), RunError> {
    Ok(())
}

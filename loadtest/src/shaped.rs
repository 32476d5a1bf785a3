//! The network between two deployments: distance, loss, and firewalls.

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_testkit::shaper::{Cut, Profile, Shaper, Which};

use crate::error::LoadError;

/// What a path between two deployments is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Path {
    /// There and back.
    pub rtt: Duration,
    /// Share of packets that are lost, each way.
    pub loss: f64,
    /// Whether UDP gets through.
    pub udp: bool,
}

impl Path {
    /// Whether loopback itself is such a path.
    pub(crate) fn is_plain(&self) -> bool {
        self.rtt.is_zero() && self.loss <= 0.0 && self.udp
    }

    /// Puts a shaper before a gateway: peers that dial it are on this path.
    ///
    /// # Errors
    /// When it cannot be started, or the loss is no share.
    pub(crate) fn before(self, gateway: SocketAddr) -> Result<Shaper, LoadError> {
        if !(0.0..1.0).contains(&self.loss) {
            return Err(LoadError::Usage(format!("--loss {} is no share: expected 0 to 0.99", self.loss)));
        }
        // Which packets are lost depends on how many the gateways send, so a fixed seed repeats a run only
        // about; it keeps runs comparable.
        let seed = u64::from(gateway.port());
        let shaper = Shaper::start(gateway, seed).map_err(LoadError::io("starting a network shaper"))?;
        let profile = Profile { delay: self.rtt / 2, loss: self.loss, ..Profile::default() };
        shaper.set(Which::All, profile);
        if !self.udp {
            shaper.cut(Which::Udp, Cut::Silent);
        }
        Ok(shaper)
    }
}

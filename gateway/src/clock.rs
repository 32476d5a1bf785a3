//! The machine's clock, for what is told to people and machines outside. The core is given its time by the driver.

use std::time::{SystemTime, UNIX_EPOCH};

use trunkline_gateway_proto::time::Time;

/// What the clock says now.
pub(crate) fn now() -> Time {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

//! How much a receiver's line carries, when it goes there, and what senders are told about theirs: congestion control as
//! draft-ietf-rmcat-gcc-02 describes it, with what WebRTC's implementations taught since.
//!
//! # Layout
//! - [`Downlink`]: one receiver, from what is sent and what it reports
//!   - `history`: what was sent; `clock`: when the receiver says it arrived; `throughput`: how much arrives
//!   - `groups`, `trend`: whether the queue grows; `queue`: how long it is; `rate`: what follows from it
//!   - `rivals`: whether others fill the queue
//!   - `loss`: the rate that losses allow, and which losses are the line's own
//!   - `probe`: whether there is more; `pacing`: when packets leave
//! - [`Arrivals`]: one sender, what arrived of it and how that is reported
//! - [`uplink`]: one sender without transport-wide feedback, what its line carries

mod arrivals;
mod clock;
mod downlink;
mod groups;
mod history;
mod loss;
mod pacing;
mod probe;
mod queue;
mod rate;
mod rivals;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod throughput;
mod trend;
pub mod uplink;

use std::time::{Duration, Instant};

pub use arrivals::Arrivals;
pub use downlink::Downlink;

/// The least estimate: audio alone, in bits per second. Lower stops calls on the worst lines, higher floods them.
const RATE_MIN: f64 = 30_000.0;

/// The largest estimate. A participant's slots take no more; higher takes more memory for what was sent.
const RATE_MAX: f64 = 50_000_000.0;

/// The estimate before anything is known of the line. Higher shows better pictures sooner, and floods slow lines at
/// every join.
const INITIAL: f64 = 300_000.0;

/// Windows over which throughput is measured: what the rate may grow to, and what it falls to.
const ARRIVING_US: i64 = 500_000;
const ARRIVING_LATELY_US: i64 = 250_000;

/// Microseconds of a time, which is never long.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Microseconds since a moment; none before it.
fn micros_since(epoch: Instant, now: Instant) -> i64 {
    micros(now.saturating_duration_since(epoch))
}

/// The moment so many microseconds after another.
fn moment(epoch: Instant, us: i64) -> Option<Instant> {
    epoch.checked_add(Duration::from_micros(u64::try_from(us).unwrap_or(0)))
}

/// A rate or a size as a whole number.
#[expect(clippy::cast_possible_truncation, reason = "what is too large or below zero saturates")]
fn whole(value: f64) -> usize {
    value as usize
}

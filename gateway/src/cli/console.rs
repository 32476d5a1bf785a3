//! What the command line shows of times, beside what every command line of ours shows.

use trunkline_gateway_proto::time::Time;
pub(super) use trunkline_http::cli::console::{
    bytes, deliver_secret, fields, or_dash, span, table, vacant, write_secret,
};
use trunkline_http::rfc3339::Utc;

pub(crate) use crate::clock::now;

/// A moment in UTC, as RFC 3339 writes it, to the second.
pub(super) fn moment(time: Time) -> String {
    format!("{:.0}", Utc(time.unix_ms()))
}

/// How long ago, in the largest unit that fits.
pub(super) fn age(time: Time) -> String {
    span(now().since(time))
}

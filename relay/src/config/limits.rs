//! How many and how long.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Fault, Span};

/// Most participants a call can be configured to take: roster and slots are told to each of them.
pub const PARTICIPANTS_CEILING: usize = 500;

/// Most calls a node can be configured to hold: each has a UDP port of its own.
const CALLS_CEILING: usize = 65_535;

/// When calls end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallsConfig {
    /// How long a call waits for its first participant.
    pub unjoined_timeout: Span,
    /// How long a call goes on after its last participant left.
    pub empty_timeout: Span,
}

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Calls at a time.
    pub calls_max: usize,
    /// Participants of a conference at a time.
    pub conference_participants_max: usize,
    /// Participants of a broadcast at a time.
    pub broadcast_participants_max: usize,
    /// Joins per second from one address.
    pub joins_per_s: NonZeroU32,
    /// HTTP connections at a time.
    pub connections_max: usize,
    /// Events connections at a time.
    pub events_max: usize,
}

impl CallsConfig {
    pub(super) fn check(&self) -> Result<(), Fault> {
        for (span, field) in
            [(self.unjoined_timeout, "calls.unjoined_timeout"), (self.empty_timeout, "calls.empty_timeout")]
        {
            if !(Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&span.0) {
                return Err((field, format!("expected \"1s\" to \"7d\", found \"{span}\"")));
            }
        }
        Ok(())
    }
}

impl LimitsConfig {
    pub(super) fn check(&self) -> Result<(), Fault> {
        let bounds = [
            ("limits.calls_max", self.calls_max, CALLS_CEILING),
            ("limits.conference_participants_max", self.conference_participants_max, PARTICIPANTS_CEILING),
            ("limits.broadcast_participants_max", self.broadcast_participants_max, PARTICIPANTS_CEILING),
            ("limits.connections_max", self.connections_max, 1_000_000),
            ("limits.events_max", self.events_max, 1_000_000),
        ];
        for (field, value, ceiling) in bounds {
            if !(1..=ceiling).contains(&value) {
                return Err((field, format!("expected 1 to {ceiling}, found {value}")));
            }
        }
        Ok(())
    }
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            unjoined_timeout: Span(Duration::from_secs(3600)),
            empty_timeout: Span(Duration::from_secs(300)),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            calls_max: 1000,
            conference_participants_max: 100,
            broadcast_participants_max: PARTICIPANTS_CEILING,
            joins_per_s: NonZeroU32::MIN.saturating_add(19),
            connections_max: 4096,
            events_max: 10_000,
        }
    }
}

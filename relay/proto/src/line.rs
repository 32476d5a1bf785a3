//! What sending to one participant takes: keys, a path, and what is known of how much the path carries.

use std::time::Instant;

use crate::budget::Budget;
use crate::congestion::Downlink;
use crate::path::Path;
use crate::rtp::extension;
use crate::srtp::Sealer;

/// A way to one participant.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// Seals what it is sent.
    pub sealer: &'a Sealer,
    /// Where to.
    pub path: Path,
    /// How much goes through. None for those who tell nothing of it.
    pub downlink: Option<&'a mut Downlink>,
    /// Packets that may be sent again in all its slots together.
    pub repairs: &'a mut Budget,
    /// When the call began: what send times count from.
    pub began: Instant,
}

impl Line<'_> {
    /// The transport-wide sequence number of the next packet.
    pub(crate) fn transport_sequence(&self) -> u16 {
        self.downlink.as_ref().map_or(0, |downlink| downlink.next_sequence())
    }

    /// The absolute send time of a packet that leaves now.
    pub(crate) fn send_time(&self, now: Instant) -> [u8; 3] {
        extension::absolute_send_time_value(now.saturating_duration_since(self.began))
    }

    /// Whether a packet of video may leave now.
    pub(crate) fn has_room(&mut self, now: Instant, bytes: usize) -> bool {
        self.downlink.as_mut().is_none_or(|downlink| downlink.allowance(now) >= bytes)
    }

    /// A packet left.
    pub(crate) fn sent(&mut self, now: Instant, bytes: usize, probe: bool) {
        if let Some(downlink) = &mut self.downlink {
            downlink.sent(now, bytes, probe);
        }
    }
}

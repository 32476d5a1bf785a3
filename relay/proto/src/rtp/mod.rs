//! RTP packets (RFC 3550) as a relay sees them: headers and header extensions, never a byte of payload.

pub mod descriptor;
pub mod extension;
pub mod header;
pub mod layers_allocation;

pub use header::{Header, payload};

/// What is wrong with an RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// It ends before its header does.
    #[error("an RTP packet is shorter than its header")]
    Short,
    /// More bytes than a UDP datagram can hold.
    #[error("an RTP packet is longer than a datagram")]
    Long,
    /// Its version is not 2.
    #[error("an RTP packet is not of version 2")]
    Version,
    /// Its padding is empty, or longer than its payload.
    #[error("an RTP packet's padding is not within its payload")]
    Padding,
}

/// The extended sequence number nearest to `highest` that ends in `sequence`, never negative (RFC 3711, appendix A).
#[must_use]
pub fn nearest(highest: u64, sequence: u16) -> u64 {
    const CYCLE: u64 = 1 << 16;
    const HALF: u64 = CYCLE / 2;
    let low = highest % CYCLE;
    let same = highest - low + u64::from(sequence);
    if u64::from(sequence) > low + HALF {
        same.checked_sub(CYCLE).unwrap_or(same)
    } else if u64::from(sequence) + HALF < low {
        same.saturating_add(CYCLE)
    } else {
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_number_is_extended_to_the_nearest_number() {
        assert_eq!(nearest(0, 0), 0);
        assert_eq!(nearest(65_535, 0), 65_536);
        assert_eq!(nearest(65_536, 65_535), 65_535);
        assert_eq!(nearest(3 << 16 | 40_000, 7_000), 4 << 16 | 7_000);
        assert_eq!(nearest(3 << 16 | 7_000, 40_000), 2 << 16 | 40_000);
        assert_eq!(
            nearest(3 << 16 | 7_000, 39_768),
            3 << 16 | 39_768,
            "half a cycle away it is the same cycle"
        );
        assert_eq!(nearest(3 << 16 | 40_000, 7_232), 3 << 16 | 7_232, "and so backwards");
        assert_eq!(nearest(5, 65_000), 65_000, "nothing lies before zero");
        assert_eq!(nearest(u64::MAX, 0), u64::MAX, "nothing lies beyond the end");
    }
}

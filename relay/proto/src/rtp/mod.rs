//! RTP packets (RFC 3550) as a relay sees them: headers and header extensions, never a byte of payload.

pub mod descriptor;
pub mod extension;
pub mod header;

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

/// Extends sequence numbers of 16 bits that come in about the order they were given out in.
///
/// It starts one cycle up, at 65,536 plus the first sequence number, so that what came before the first one and was
/// overtaken by it has a number too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwrap {
    highest: Option<u64>,
}

impl Unwrap {
    /// The extended sequence number, nearest to the highest one so far.
    pub fn extend(&mut self, sequence: u16) -> u64 {
        let extended = match self.highest {
            Some(highest) => nearest(highest, sequence),
            None => (1 << 16) + u64::from(sequence),
        };
        self.highest = self.highest.max(Some(extended));
        extended
    }

    /// The highest one so far.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.highest
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

    #[test]
    fn what_was_overtaken_at_the_start_comes_before_it() {
        let mut unwrap = Unwrap::default();
        assert_eq!(unwrap.highest(), None);
        assert_eq!(unwrap.extend(2), 65_538);
        assert_eq!(unwrap.extend(65_534), 65_534);
        assert_eq!(unwrap.highest(), Some(65_538));
        assert_eq!(unwrap.extend(3), 65_539);
    }

    #[test]
    fn numbers_go_on_over_many_cycles_in_spite_of_reordering() {
        let mut unwrap = Unwrap::default();
        unwrap.extend(0);
        for n in (1..300_000_u64).map(|n| n ^ 3) {
            let sequence = u16::try_from(n % 65_536).unwrap();
            assert_eq!(unwrap.extend(sequence), 65_536 + n);
        }
    }
}

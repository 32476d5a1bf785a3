//! RTCP: reports (RFC 3550), feedback (RFC 4585), full intra requests (RFC 5104), transport-wide feedback and estimates
//! of the whole, read and written without allocating. What the relay does not act on is skipped.

mod read;
mod transport;
mod write;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use read::{Blocks, FirEntries, Lost, Packet, Packets, Ssrcs, packets};
pub use transport::{Arrived, TICKS_PER_REFERENCE, TransportFeedback};
pub use write::Writer;

/// Report blocks, or SSRCs, that one packet can carry: its count has five bits.
pub const COUNT_MAX: usize = 31;

/// Payload types (RFC 3550, section 12.1; RFC 4585, section 6.1).
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;

/// Formats of feedback.
const FORMAT_NACK: u8 = 1;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
/// Of both kinds: transport-wide feedback, and messages of applications, of which REMB is one.
const FORMAT_TRANSPORT: u8 = 15;
const FORMAT_APPLICATION: u8 = 15;

/// How an estimate of the whole begins (draft-alvestrand-rmcat-remb-03, section 2.2).
const REMB: [u8; 4] = *b"REMB";

/// Bits of its mantissa, and what its SSRCs are counted in.
const REMB_MANTISSA_BITS: u32 = 18;
const REMB_SSRCS_MAX: usize = 255;

/// Bytes of a packet's header, of a report block, of what a sender report says about the sender, and of the two SSRCs
/// that feedback begins with.
const HEADER_BYTES: usize = 4;
const BLOCK_BYTES: usize = 24;
const SENDER_BYTES: usize = 24;
const FEEDBACK_BYTES: usize = 8;

/// How well one stream is received (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The stream.
    pub ssrc: u32,
    /// Share lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the beginning, 24 bits with a sign: duplicates can make it negative.
    pub lost: i32,
    /// Highest sequence number received, extended by its cycles.
    pub highest: u32,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// The middle 32 bits of the NTP time of the last sender report, zero when there was none.
    pub last_sr: u32,
    /// Time since then, in 1/65536 s.
    pub delay: u32,
}

/// Why a compound packet cannot be read any further. All of it is the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RtcpError {
    /// A header, or the length in it, reaches beyond the datagram.
    #[error("an RTCP packet is cut short")]
    Truncated,
    /// Not version 2.
    #[error("not an RTCP packet of version 2")]
    Version,
    /// More padding than there is packet, or none although it is announced.
    #[error("an RTCP packet's padding is wrong")]
    Padding,
    /// Too short for what its header announces.
    #[error("an RTCP packet is shorter than its count says")]
    Count,
}

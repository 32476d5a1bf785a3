//! Reading compound packets.

use super::{
    BLOCK_BYTES, BYE, Block, FEEDBACK_BYTES, FORMAT_APPLICATION, FORMAT_FIR, FORMAT_NACK, FORMAT_PLI,
    FORMAT_TRANSPORT, HEADER_BYTES, PAYLOAD_FEEDBACK, RECEIVER_REPORT, REMB, REMB_MANTISSA_BITS, RtcpError,
    SENDER_BYTES, SENDER_REPORT, TRANSPORT_FEEDBACK, TransportFeedback,
};

/// One packet of a compound packet.
#[derive(Clone, Debug)]
pub enum Packet<'a> {
    /// What a sender says of its stream.
    SenderReport {
        /// The stream.
        ssrc: u32,
        /// The sender's clock, NTP format.
        ntp: u64,
        /// The same moment as an RTP timestamp.
        rtp: u32,
        /// Packets sent since the beginning.
        packets: u32,
        /// Payload bytes sent since the beginning.
        octets: u32,
        /// What it receives.
        blocks: Blocks<'a>,
    },
    /// What a receiver says of the streams it receives.
    ReceiverReport {
        /// Who says it.
        ssrc: u32,
        /// Of which streams.
        blocks: Blocks<'a>,
    },
    /// Packets to send again (RFC 4585, section 6.2.1).
    Nack {
        /// Who asks.
        sender: u32,
        /// Of which stream.
        media: u32,
        /// Sequence numbers.
        lost: Lost<'a>,
    },
    /// A picture is lost (RFC 4585, section 6.3.1).
    Pli {
        /// Who says so.
        sender: u32,
        /// Of which stream.
        media: u32,
    },
    /// A key frame is wanted (RFC 5104, section 4.3.1).
    Fir {
        /// Who asks.
        sender: u32,
        /// Of which streams.
        entries: FirEntries<'a>,
    },
    /// When packets arrived, by their transport-wide sequence numbers
    /// (draft-holmer-rmcat-transport-wide-cc-extensions-01).
    TransportFeedback(TransportFeedback<'a>),
    /// What a receiver can take altogether (draft-alvestrand-rmcat-remb-03).
    Remb {
        /// Who says so.
        sender: u32,
        /// How much.
        bits_per_s: u64,
        /// Of which streams.
        ssrcs: Ssrcs<'a>,
    },
    /// Streams that end.
    Bye {
        /// Which.
        ssrcs: Ssrcs<'a>,
    },
    /// Well-formed as far as its header goes, and nothing the relay acts on.
    Other,
}

/// The packets of a datagram. After an error there are no more.
#[must_use]
pub fn packets(datagram: &[u8]) -> Packets<'_> {
    Packets { rest: datagram }
}

/// See [`packets`].
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let packet = split(self.rest);
        self.rest = packet.as_ref().map_or(&[], |(_, rest)| rest);
        Some(packet.map(|(packet, _)| packet))
    }
}

/// The first packet of a datagram, and what follows it.
fn split(datagram: &[u8]) -> Result<(Packet<'_>, &[u8]), RtcpError> {
    let (header, rest) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(RtcpError::Truncated)?;
    let [first, kind, high, low] = *header;
    if first >> 6 != 2 {
        return Err(RtcpError::Version);
    }
    let len = usize::from(u16::from_be_bytes([high, low])) * 4;
    let (body, rest) = rest.split_at_checked(len).ok_or(RtcpError::Truncated)?;
    let body = if first & 0x20 == 0 { body } else { without_padding(body)? };
    Ok((packet(kind, first & 0x1f, body)?, rest))
}

fn without_padding(body: &[u8]) -> Result<&[u8], RtcpError> {
    let padding = usize::from(*body.last().ok_or(RtcpError::Padding)?);
    if padding == 0 {
        return Err(RtcpError::Padding);
    }
    let len = body.len().checked_sub(padding).ok_or(RtcpError::Padding)?;
    body.get(..len).ok_or(RtcpError::Padding)
}

fn packet(kind: u8, count: u8, body: &[u8]) -> Result<Packet<'_>, RtcpError> {
    match (kind, count) {
        (SENDER_REPORT, count) => sender_report(body, count),
        (RECEIVER_REPORT, count) => {
            let (ssrc, rest) = take_u32(body)?;
            Ok(Packet::ReceiverReport { ssrc, blocks: Blocks::new(rest, count)? })
        }
        (BYE, count) => {
            let ssrcs = body.get(..usize::from(count) * 4).ok_or(RtcpError::Count)?;
            Ok(Packet::Bye { ssrcs: Ssrcs { rest: ssrcs } })
        }
        (TRANSPORT_FEEDBACK, FORMAT_NACK) => {
            let (sender, media, rest) = feedback(body)?;
            Ok(Packet::Nack { sender, media, lost: Lost { rest, first: 0, mask: 0 } })
        }
        (TRANSPORT_FEEDBACK, FORMAT_TRANSPORT) => {
            let (sender, media, rest) = feedback(body)?;
            Ok(Packet::TransportFeedback(TransportFeedback::parse(sender, media, rest)?))
        }
        (PAYLOAD_FEEDBACK, FORMAT_PLI) => {
            let (sender, media, _) = feedback(body)?;
            Ok(Packet::Pli { sender, media })
        }
        (PAYLOAD_FEEDBACK, FORMAT_FIR) => {
            let (sender, _, rest) = feedback(body)?;
            Ok(Packet::Fir { sender, entries: FirEntries { rest } })
        }
        (PAYLOAD_FEEDBACK, FORMAT_APPLICATION) => {
            let (sender, _, rest) = feedback(body)?;
            match rest.strip_prefix(&REMB) {
                Some(rest) => remb(sender, rest),
                None => Ok(Packet::Other),
            }
        }
        _ => Ok(Packet::Other),
    }
}

/// What follows the name of an estimate: how many SSRCs, six bits of exponent, the mantissa, the SSRCs.
fn remb(sender: u32, body: &[u8]) -> Result<Packet<'_>, RtcpError> {
    let ([count, high, middle, low], rest) = body.split_first_chunk().ok_or(RtcpError::Count)?;
    let ssrcs = rest.get(..usize::from(*count) * 4).ok_or(RtcpError::Count)?;
    let mantissa = u64::from(u32::from_be_bytes([0, high & 0x03, *middle, *low]));
    let exponent = u32::from(high >> 2);
    // An exponent can say more than 64 bits hold, which is as good as no limit.
    let fits = mantissa.leading_zeros() >= exponent;
    debug_assert!(mantissa < 1 << REMB_MANTISSA_BITS, "what the mask leaves");
    let bits_per_s = if fits { mantissa << exponent.min(63) } else { u64::MAX };
    Ok(Packet::Remb { sender, bits_per_s, ssrcs: Ssrcs { rest: ssrcs } })
}

fn sender_report(body: &[u8], count: u8) -> Result<Packet<'_>, RtcpError> {
    let (sender, blocks) = body.split_at_checked(SENDER_BYTES).ok_or(RtcpError::Count)?;
    let (ssrc, sender) = take_u32(sender)?;
    let (ntp, sender) = sender.split_first_chunk().ok_or(RtcpError::Count)?;
    let (rtp, sender) = take_u32(sender)?;
    let (packets, sender) = take_u32(sender)?;
    let (octets, _) = take_u32(sender)?;
    let blocks = Blocks::new(blocks, count)?;
    Ok(Packet::SenderReport { ssrc, ntp: u64::from_be_bytes(*ntp), rtp, packets, octets, blocks })
}

/// The two SSRCs that feedback begins with, and its items.
fn feedback(body: &[u8]) -> Result<(u32, u32, &[u8]), RtcpError> {
    let (ssrcs, items) = body.split_at_checked(FEEDBACK_BYTES).ok_or(RtcpError::Count)?;
    let (sender, ssrcs) = take_u32(ssrcs)?;
    let (media, _) = take_u32(ssrcs)?;
    Ok((sender, media, items))
}

fn take_u32(bytes: &[u8]) -> Result<(u32, &[u8]), RtcpError> {
    let (value, rest) = bytes.split_first_chunk().ok_or(RtcpError::Count)?;
    Ok((u32::from_be_bytes(*value), rest))
}

/// Report blocks.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    rest: &'a [u8],
}

impl<'a> Blocks<'a> {
    fn new(rest: &'a [u8], count: u8) -> Result<Self, RtcpError> {
        let rest = rest.get(..usize::from(count) * BLOCK_BYTES).ok_or(RtcpError::Count)?;
        Ok(Self { rest })
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let (block, rest) = self.rest.split_first_chunk::<BLOCK_BYTES>()?;
        self.rest = rest;
        let (ssrc, block) = block.split_first_chunk()?;
        let ([fraction_lost, high, middle, low], block) = block.split_first_chunk()?;
        let (highest, block) = block.split_first_chunk()?;
        let (jitter, block) = block.split_first_chunk()?;
        let (last_sr, block) = block.split_first_chunk()?;
        let (delay, _) = block.split_first_chunk()?;
        Some(Block {
            ssrc: u32::from_be_bytes(*ssrc),
            fraction_lost: *fraction_lost,
            // The shift back carries the sign of the 24 bits along.
            lost: i32::from_be_bytes([*high, *middle, *low, 0]) >> 8,
            highest: u32::from_be_bytes(*highest),
            jitter: u32::from_be_bytes(*jitter),
            last_sr: u32::from_be_bytes(*last_sr),
            delay: u32::from_be_bytes(*delay),
        })
    }
}

/// Sequence numbers of lost packets: at most 17 for every four bytes of the datagram.
#[derive(Clone, Debug)]
pub struct Lost<'a> {
    rest: &'a [u8],
    /// The last number given, and which of those after it are lost too.
    first: u16,
    mask: u16,
}

impl Iterator for Lost<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.mask == 0 {
            let ([p0, p1, m0, m1], rest) = self.rest.split_first_chunk()?;
            self.rest = rest;
            self.first = u16::from_be_bytes([*p0, *p1]);
            self.mask = u16::from_be_bytes([*m0, *m1]);
            return Some(self.first);
        }
        let skip = self.mask.trailing_zeros();
        // At most 16 bits, of which the last may be the one that is shifted out.
        self.mask = self.mask.checked_shr(skip + 1).unwrap_or(0);
        self.first = self.first.wrapping_add(u16::try_from(skip + 1).unwrap_or(0));
        Some(self.first)
    }

    /// How many there still are, without a look at each.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let bits = |mask: u16| mask.count_ones() as usize;
        let (entries, _) = self.rest.as_chunks::<4>();
        let to_come = entries.iter().map(|[_, _, m0, m1]| 1 + bits(u16::from_be_bytes([*m0, *m1])));
        let count = bits(self.mask) + to_come.sum::<usize>();
        (count, Some(count))
    }
}

impl ExactSizeIterator for Lost<'_> {}

/// Streams a key frame is wanted of, each with the number of the request.
#[derive(Clone, Debug)]
pub struct FirEntries<'a> {
    rest: &'a [u8],
}

impl Iterator for FirEntries<'_> {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<(u32, u8)> {
        let ([s0, s1, s2, s3, sequence, _, _, _], rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some((u32::from_be_bytes([*s0, *s1, *s2, *s3]), *sequence))
    }
}

/// SSRCs.
#[derive(Clone, Debug)]
pub struct Ssrcs<'a> {
    rest: &'a [u8],
}

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (ssrc, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*ssrc))
    }
}

//! Writing compound packets.

use super::transport::{Chunks, DELTA_LARGE_BYTES, delta_bytes};
use super::{
    BLOCK_BYTES, BYE, Block, COUNT_MAX, FEEDBACK_BYTES, FORMAT_APPLICATION, FORMAT_FIR, FORMAT_NACK,
    FORMAT_PLI, FORMAT_TRANSPORT, HEADER_BYTES, PAYLOAD_FEEDBACK, RECEIVER_REPORT, REMB, REMB_MANTISSA_BITS,
    REMB_SSRCS_MAX, SENDER_BYTES, SENDER_REPORT, SOURCE_DESCRIPTION, TRANSPORT_FEEDBACK,
};

/// Packets that follow a lost one and fit into its mask.
const NACK_MASK_BITS: u16 = 16;

/// Writes one packet after the other. Each method says whether its packet fitted; one that did not leaves no trace.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Writes into `out`, from its beginning.
    #[must_use]
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A sender report. `ntp` is 32 bits of seconds and 32 of their fraction.
    pub fn sender_report(
        &mut self,
        ssrc: u32,
        ntp: u64,
        rtp: u32,
        packets: u32,
        octets: u32,
        blocks: &[Block],
    ) -> bool {
        self.packet(SENDER_REPORT, count(blocks.len()), |body| {
            body.put(&ssrc.to_be_bytes())?;
            body.put(&ntp.to_be_bytes())?;
            body.put(&rtp.to_be_bytes())?;
            body.put(&packets.to_be_bytes())?;
            body.put(&octets.to_be_bytes())?;
            debug_assert_eq!(body.len, HEADER_BYTES + SENDER_BYTES, "what the reader splits off");
            blocks.iter().try_for_each(|block| body.block(block))
        })
    }

    /// A receiver report.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[Block]) -> bool {
        self.packet(RECEIVER_REPORT, count(blocks.len()), |body| {
            body.put(&ssrc.to_be_bytes())?;
            blocks.iter().try_for_each(|block| body.block(block))
        })
    }

    /// A source description that holds the canonical name, at most 255 bytes.
    pub fn sdes_cname(&mut self, ssrc: u32, name: &str) -> bool {
        self.packet(SOURCE_DESCRIPTION, Some(1), |body| {
            body.put(&ssrc.to_be_bytes())?;
            body.put(&[1, u8::try_from(name.len()).ok()?])?;
            body.put(name.as_bytes())?;
            // At least one zero ends the items, and more fill the last word.
            let end = (body.len / 4 + 1) * 4;
            body.put([0; 4].get(..end - body.len)?)
        })
    }

    /// Packets to send again, in ascending order; the order may wrap around. Without any, nothing is written.
    pub fn nack(&mut self, sender: u32, media: u32, lost: impl IntoIterator<Item = u16>) -> bool {
        let mut lost = lost.into_iter();
        let Some(mut first) = lost.next() else { return true };
        self.packet(TRANSPORT_FEEDBACK, Some(FORMAT_NACK), |body| {
            body.feedback(sender, media)?;
            let mut mask = 0_u16;
            for sequence in lost {
                match sequence.wrapping_sub(first) {
                    0 => {}
                    behind @ 1..=NACK_MASK_BITS => mask |= 1 << (behind - 1),
                    _ => {
                        body.nack_item(first, mask)?;
                        (first, mask) = (sequence, 0);
                    }
                }
            }
            body.nack_item(first, mask)
        })
    }

    /// A picture is lost.
    pub fn pli(&mut self, sender: u32, media: u32) -> bool {
        self.packet(PAYLOAD_FEEDBACK, Some(FORMAT_PLI), |body| body.feedback(sender, media))
    }

    /// A key frame is wanted of each stream; its number changes with every new request and stays when one is repeated.
    pub fn fir(&mut self, sender: u32, entries: &[(u32, u8)]) -> bool {
        self.packet(PAYLOAD_FEEDBACK, Some(FORMAT_FIR), |body| {
            body.feedback(sender, 0)?;
            entries.iter().try_for_each(|(ssrc, sequence)| {
                body.put(&ssrc.to_be_bytes())?;
                body.put(&[*sequence, 0, 0, 0])
            })
        })
    }

    /// When packets arrived: `arrivals` has one entry for every sequence number from `base_sequence` on, the time since
    /// the reference time (signed 24 bits, in 64 ms) in ticks of 250 us, or none for what did not arrive. Nothing is
    /// written when there are none or more than 16 bits count, or when two follow each other by more than 16 bits of
    /// ticks.
    pub fn transport_feedback(
        &mut self,
        sender: u32,
        media: u32,
        base_sequence: u16,
        reference_time: i32,
        feedback_count: u8,
        arrivals: impl Iterator<Item = Option<i32>> + Clone,
    ) -> bool {
        self.packet(TRANSPORT_FEEDBACK, Some(FORMAT_TRANSPORT), |body| {
            let count = u16::try_from(arrivals.clone().count()).ok().filter(|count| *count > 0)?;
            body.feedback(sender, media)?;
            body.put(&base_sequence.to_be_bytes())?;
            body.put(&count.to_be_bytes())?;
            let [_, high, middle, low] = reference_time.to_be_bytes();
            body.put(&[high, middle, low, feedback_count])?;
            for chunk in Chunks::new(arrivals.clone()) {
                body.put(&chunk?.to_be_bytes())?;
            }
            let mut before = 0;
            for ticks in arrivals.flatten() {
                let delta = i16::try_from(ticks.checked_sub(before)?).ok()?;
                before = ticks;
                let bytes = delta.to_be_bytes();
                body.put(bytes.get(DELTA_LARGE_BYTES - delta_bytes(delta)..)?)?;
            }
            let end = body.len.next_multiple_of(4);
            body.put([0; 4].get(..end - body.len)?)
        })
    }

    /// What a receiver can take altogether, rounded down to what 18 bits and an exponent can say.
    pub fn remb(&mut self, sender: u32, bits_per_s: u64, ssrcs: &[u32]) -> bool {
        let bits = u64::BITS - bits_per_s.leading_zeros();
        let exponent = bits.saturating_sub(REMB_MANTISSA_BITS);
        let mantissa = bits_per_s >> exponent;
        self.packet(PAYLOAD_FEEDBACK, Some(FORMAT_APPLICATION), |body| {
            let count = u8::try_from(ssrcs.len()).ok()?;
            debug_assert!(usize::from(count) <= REMB_SSRCS_MAX, "a byte counts them");
            body.feedback(sender, 0)?;
            body.put(&REMB)?;
            let [_, high, middle, low] = u32::try_from(mantissa).ok()?.to_be_bytes();
            body.put(&[count, u8::try_from(exponent).ok()? << 2 | high, middle, low])?;
            ssrcs.iter().try_for_each(|ssrc| body.put(&ssrc.to_be_bytes()))
        })
    }

    /// A stream ends.
    pub fn bye(&mut self, ssrc: u32) -> bool {
        self.packet(BYE, Some(1), |body| body.put(&ssrc.to_be_bytes()))
    }

    /// Writes a header and what `write` puts behind it, or nothing.
    fn packet(
        &mut self,
        kind: u8,
        count: Option<u8>,
        write: impl FnOnce(&mut Body<'_>) -> Option<()>,
    ) -> bool {
        self.try_packet(kind, count, write).is_some()
    }

    fn try_packet(
        &mut self,
        kind: u8,
        count: Option<u8>,
        write: impl FnOnce(&mut Body<'_>) -> Option<()>,
    ) -> Option<()> {
        let mut body = Body { out: self.out.get_mut(self.len..)?, len: HEADER_BYTES };
        write(&mut body)?;
        let len = body.len;
        let [high, low] = u16::try_from(len / 4 - 1).ok()?.to_be_bytes();
        let header = body.out.first_chunk_mut::<HEADER_BYTES>()?;
        *header = [0x80 | count?, kind, high, low];
        self.len += len;
        Some(())
    }
}

/// What a header can count.
fn count(items: usize) -> Option<u8> {
    if items > COUNT_MAX { None } else { u8::try_from(items).ok() }
}

/// The packet being written.
struct Body<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Body<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    fn block(&mut self, block: &Block) -> Option<()> {
        let start = self.len;
        // What 24 bits cannot hold stays at their limit (RFC 3550, section 6.4.1).
        let [_, high, middle, low] = block.lost.clamp(-0x80_0000, 0x7f_ffff).to_be_bytes();
        self.put(&block.ssrc.to_be_bytes())?;
        self.put(&[block.fraction_lost, high, middle, low])?;
        self.put(&block.highest.to_be_bytes())?;
        self.put(&block.jitter.to_be_bytes())?;
        self.put(&block.last_sr.to_be_bytes())?;
        self.put(&block.delay.to_be_bytes())?;
        debug_assert_eq!(self.len - start, BLOCK_BYTES, "what the reader splits off");
        Some(())
    }

    fn feedback(&mut self, sender: u32, media: u32) -> Option<()> {
        self.put(&sender.to_be_bytes())?;
        self.put(&media.to_be_bytes())?;
        debug_assert_eq!(self.len, HEADER_BYTES + FEEDBACK_BYTES, "what the reader splits off");
        Some(())
    }

    fn nack_item(&mut self, first: u16, mask: u16) -> Option<()> {
        self.put(&first.to_be_bytes())?;
        self.put(&mask.to_be_bytes())
    }
}

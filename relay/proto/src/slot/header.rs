//! A packet as its receiver gets it: header and extensions of the slot's stream around the payload that its sender wrote.

use std::time::Instant;

use crate::history::{ELEMENTS_BYTES_MAX, Packet};
use crate::line::Line;
use crate::media::{Extension, ExtensionIds, Mid};
use crate::rtp::{descriptor, extension};

/// Fixed header and one CSRC.
const HEADER_LEN: usize = 16;

/// The frame number in a packet's dependency descriptor.
pub(super) fn frame_number(packet: &Packet<'_>) -> Option<u16> {
    let (_, at, _) = packet.elements.iter().find(|(kind, ..)| *kind == Extension::DependencyDescriptor)?;
    let bytes = packet.values.get(at + 1..at + 3)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// What the header of a packet to a receiver says.
#[derive(Debug)]
pub(super) struct OutHeader {
    pub(super) payload_type: u8,
    pub(super) marker: bool,
    pub(super) index: u64,
    pub(super) timestamp: u32,
    pub(super) ssrc: u32,
    pub(super) csrc: u32,
    pub(super) mid: Option<Mid>,
    pub(super) frame_delta: u16,
    /// The sequence number of what is sent again.
    pub(super) original: Option<u16>,
}

impl OutHeader {
    /// Writes header, payload and padding, and seals them. The datagram's length; `None` when it does not fit.
    #[expect(clippy::cast_possible_truncation, reason = "the header carries the lower half of the index")]
    pub(super) fn write(
        &self,
        now: Instant,
        room: &mut [u8],
        (ids, mixed): (&ExtensionIds, bool),
        packet: &Packet<'_>,
        pad: u8,
        line: &Line<'_>,
    ) -> Option<usize> {
        let fixed = room.first_chunk_mut::<HEADER_LEN>()?;
        fixed[1] = self.payload_type & 0x7f | u8::from(self.marker) << 7;
        fixed[2..4].copy_from_slice(&(self.index as u16).to_be_bytes());
        fixed[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        fixed[12..16].copy_from_slice(&self.csrc.to_be_bytes());

        let mut rewritten = [0; ELEMENTS_BYTES_MAX];
        let mut values = packet.values;
        if self.frame_delta != 0
            && let Some(frame) = frame_number(packet)
            && let Some((_, at, len)) =
                packet.elements.iter().find(|(kind, ..)| *kind == Extension::DependencyDescriptor)
        {
            let copy = rewritten.get_mut(..values.len())?;
            copy.copy_from_slice(values);
            descriptor::write_frame_number(copy.get_mut(at..at + len)?, frame.wrapping_add(self.frame_delta));
            values = copy;
        }
        let mid = self.mid.as_ref().and_then(|mid| Some((ids.id(Extension::Mid)?, mid.as_bytes())));
        let passed = packet
            .elements
            .iter()
            .filter_map(|(kind, at, len)| Some((ids.id(kind)?, values.get(at..at + len)?)))
            .filter(|(id, value)| mixed || (*id < 15 && (1..=16).contains(&value.len())));
        let sequence = line.transport_sequence().to_be_bytes();
        let sequence = ids.id(Extension::TransportSequence).map(|id| (id, &sequence[..]));
        let time = ids.id(Extension::AbsoluteSendTime).map(|id| (id, line.send_time(now)));
        let time = time.as_ref().map(|(id, time)| (*id, &time[..]));
        let ours = mid.into_iter().chain(sequence).chain(time);
        let extension_len = extension::write(room.get_mut(HEADER_LEN..)?, ours.chain(passed))?;
        // Version 2, one CSRC.
        let first = 0x81 | u8::from(pad > 0) << 5 | u8::from(extension_len > 0) << 4;
        *room.first_mut()? = first;

        let header_len = HEADER_LEN + extension_len;
        let mut at = header_len;
        if let Some(sequence) = self.original {
            room.get_mut(at..at + 2)?.copy_from_slice(&sequence.to_be_bytes());
            at += 2;
        }
        room.get_mut(at..at + packet.payload.len())?.copy_from_slice(packet.payload);
        at += packet.payload.len();
        if pad > 0 {
            let padding = room.get_mut(at..at + usize::from(pad))?;
            padding.fill(0);
            *padding.last_mut()? = pad;
            at += usize::from(pad);
        }
        // None: no room for the tag.
        Some(line.sealer.seal_rtp(room, header_len, at, self.index)).filter(|len| *len > 0)
    }
}

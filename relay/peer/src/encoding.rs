//! One encoding of a source that a peer sends: its numbers go on without gaps, and what was sent lately can be sent
//! again.

use std::collections::VecDeque;
use std::time::Instant;

use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::{Extension, Kind, Mid, Rid};
use trunkline_relay_proto::rtp::{extension, header, nearest};
use trunkline_relay_proto::srtp::Sealer;
use trunkline_testkit::rng::Rng;

use crate::outgoing::{Frame, Wire, clock_rate, ssrc, ticks};
use crate::section::{self, payload_type};

/// Packets that carry the names of section and encoding at the beginning. Browsers do so on the first 15 to 40.
const NAMES: u8 = 20;

/// Extensions of one packet: descriptor, allocation, transport sequence, and the names.
const ELEMENTS_MAX: usize = 6;

struct Kept {
    sequence: u16,
    timestamp: u32,
    marker: bool,
    audio_level: Option<(bool, u8)>,
    descriptor: Option<Box<[u8]>>,
    payload: Box<[u8]>,
}

/// What a packet says besides its own numbers.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) source: SourceName,
    pub(crate) mid: Mid,
    pub(crate) wire: Wire,
}

/// What a packet is.
#[derive(Clone, Copy)]
enum What {
    Media,
    /// What had this sequence number.
    Again(u16),
    /// Its payload is nothing but padding.
    Padding,
}

/// One encoding.
pub struct Encoding {
    rid: Option<Rid>,
    ssrc: u32,
    rtx_ssrc: Option<u32>,
    index: u64,
    rtx_index: u64,
    names_left: u8,
    rtx_names_left: u8,
    history: VecDeque<Kept>,
    packets: u64,
    octets: u64,
    retransmissions: u64,
    last: Option<(Instant, u32)>,
}

impl Encoding {
    pub(crate) fn new(kind: Kind, rid: Option<Rid>, rng: &mut Rng) -> Self {
        let rtx = payload_type(kind, false).rtx;
        // In the lower half, so that a receiver that misses the first packets still guesses the right roll-over.
        let mut start = || rng.range(0..0x4000);
        let (index, rtx_index) = (start(), start());
        Self {
            rid,
            ssrc: ssrc(rng),
            rtx_ssrc: rtx.map(|_| ssrc(rng)),
            index,
            rtx_index,
            names_left: NAMES,
            rtx_names_left: NAMES,
            history: VecDeque::new(),
            packets: 0,
            octets: 0,
            retransmissions: 0,
            last: None,
        }
    }

    /// Its name, where a source has several.
    #[must_use]
    pub fn rid(&self) -> Option<Rid> {
        self.rid
    }

    /// The SSRC it is sent with.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The SSRC of retransmissions, for video.
    #[must_use]
    pub fn rtx_ssrc(&self) -> Option<u32> {
        self.rtx_ssrc
    }

    /// Packets sent, without retransmissions.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Payload bytes sent, without retransmissions.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Retransmissions sent.
    #[must_use]
    pub fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    /// The RTP timestamp that media made now would have. `None` before anything was sent.
    pub(crate) fn timestamp_at(&self, now: Instant, source: SourceName) -> Option<u32> {
        let (at, timestamp) = self.last?;
        Some(timestamp.wrapping_add(ticks(now.saturating_duration_since(at), clock_rate(source))))
    }

    /// Seals a packet into `out`: its length, 0 when it does not fit.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        frame: &Frame<'_>,
        (place, history_packets): (Place, usize),
        sealer: &Sealer,
        out: &mut [u8],
    ) -> usize {
        let index = self.index + 1;
        let written = self.write(out, self.ssrc, index, What::Media, (place, frame));
        let sealed = written.map_or(0, |(header_len, len)| sealer.seal_rtp(out, header_len, len, index));
        if sealed == 0 {
            return 0;
        }
        self.index = index;
        self.names_left = self.names_left.saturating_sub(1);
        self.packets += 1;
        self.octets += frame.payload.len() as u64;
        self.last = Some((now, frame.timestamp));
        if history_packets > 0 && self.rtx_ssrc.is_some() {
            if self.history.len() >= history_packets {
                self.history.pop_front();
            }
            self.history.push_back(Kept {
                sequence: low(index),
                timestamp: frame.timestamp,
                marker: frame.marker,
                audio_level: frame.audio_level,
                descriptor: frame.descriptor.map(Box::from),
                payload: Box::from(frame.payload),
            });
        }
        sealed
    }

    /// Seals again what was sent under a sequence number. 0 when it is not there any more.
    pub(crate) fn send_again(
        &mut self,
        sequence: u16,
        place: Place,
        sealer: &Sealer,
        out: &mut [u8],
    ) -> usize {
        let Some(ssrc) = self.rtx_ssrc else { return 0 };
        let back = self.index.checked_sub(nearest(self.index, sequence));
        let at = back.and_then(|back| self.history.len().checked_sub(usize::try_from(back).ok()? + 1));
        let Some(kept) = at.and_then(|at| self.history.get(at)).filter(|kept| kept.sequence == sequence)
        else {
            return 0;
        };
        let index = self.rtx_index + 1;
        let frame = Frame {
            audio_level: kept.audio_level,
            descriptor: kept.descriptor.as_deref(),
            ..Frame::new(kept.timestamp, kept.marker, &kept.payload)
        };
        let written = self.write(out, ssrc, index, What::Again(sequence), (place, &frame));
        let sealed = written.map_or(0, |(header_len, len)| sealer.seal_rtp(out, header_len, len, index));
        if sealed > 0 {
            self.rtx_index = index;
            self.rtx_names_left = self.rtx_names_left.saturating_sub(1);
            self.retransmissions += 1;
        }
        sealed
    }

    /// Seals a packet of 1 to 255 bytes of padding on the stream of retransmissions. `None` without such a stream, or
    /// without room.
    pub(crate) fn send_padding(
        &mut self,
        padding: usize,
        place: Place,
        sealer: &Sealer,
        out: &mut [u8],
    ) -> Option<usize> {
        let ssrc = self.rtx_ssrc.filter(|_| self.packets > 0)?;
        let (_, timestamp) = self.last?;
        let index = self.rtx_index + 1;
        let mut bytes = [0; 255];
        let bytes = bytes.get_mut(..padding)?;
        *bytes.last_mut()? = u8::try_from(padding).ok()?;
        let what = What::Padding;
        let written = self.write(out, ssrc, index, what, (place, &Frame::new(timestamp, false, bytes)));
        let sealed = written.map_or(0, |(header_len, len)| sealer.seal_rtp(out, header_len, len, index));
        if sealed == 0 {
            return None;
        }
        self.rtx_index = index;
        self.rtx_names_left = self.rtx_names_left.saturating_sub(1);
        Some(sealed)
    }

    /// Writes header and payload: the lengths of the header and of both.
    fn write(
        &self,
        out: &mut [u8],
        ssrc: u32,
        index: u64,
        what: What,
        (place, frame): (Place, &Frame<'_>),
    ) -> Option<(usize, usize)> {
        let kind = place.source.kind();
        let known = payload_type(kind, place.wire.adaptive);
        let again = !matches!(what, What::Media);
        let number = if again { known.rtx? } else { known.number };
        let fixed = out.first_chunk_mut::<{ header::FIXED_LEN }>()?;
        let [s0, s1] = low(index).to_be_bytes();
        let [t0, t1, t2, t3] = frame.timestamp.to_be_bytes();
        let [i0, i1, i2, i3] = ssrc.to_be_bytes();
        let second = number | u8::from(frame.marker) << 7;
        *fixed = [0x80, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3];

        let level = frame.audio_level.map(|(voice, level)| [u8::from(voice) << 7 | level & 0x7f]);
        let transport = place.wire.transport_sequence.to_be_bytes();
        // Retransmissions of what has but one encoding go by the media's names, as they always did.
        let named = match self.rid {
            Some(_) if again => self.rtx_names_left > 0,
            _ => self.names_left > 0,
        };
        let rid = self.rid.as_ref().filter(|_| named).map(Rid::as_bytes);
        let mut elements: [Option<(u8, &[u8])>; ELEMENTS_MAX] = [None; ELEMENTS_MAX];
        for (room, (id, extension)) in
            elements.iter_mut().zip(section::extensions(kind, place.wire.adaptive, self.rid.is_some()))
        {
            let value = match extension {
                Extension::AudioLevel => level.as_ref().map(<[u8; 1]>::as_slice),
                Extension::DependencyDescriptor => frame.descriptor,
                Extension::LayersAllocation => frame.layers_allocation,
                Extension::TransportSequence => Some(&transport[..]),
                Extension::Mid if named => Some(place.mid.as_bytes()),
                Extension::Rid if !again => rid,
                Extension::RepairedRid if again => rid,
                _ => None,
            };
            *room = value.map(|value| (id, value));
        }
        let extension_len =
            extension::write(out.get_mut(header::FIXED_LEN..)?, elements.iter().flatten().copied())?;
        if extension_len > 0 {
            *out.first_mut()? |= 0x10;
        }
        let header_len = header::FIXED_LEN + extension_len;
        let mut at = header_len;
        if matches!(what, What::Padding) {
            *out.first_mut()? |= 0x20;
        }
        if let What::Again(sequence) = what {
            out.get_mut(at..at + 2)?.copy_from_slice(&sequence.to_be_bytes());
            at += 2;
        }
        out.get_mut(at..at + frame.payload.len())?.copy_from_slice(frame.payload);
        Some((header_len, at + frame.payload.len()))
    }
}

/// The lower 16 bits, which the header carries.
#[expect(clippy::cast_possible_truncation, reason = "the header carries the lower half")]
fn low(index: u64) -> u16 {
    index as u16
}

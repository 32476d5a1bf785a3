//! A stream that a peer sends: its numbers go on without gaps, and what was sent lately can be sent again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::Mid;
use trunkline_relay_proto::rtp::{extension, header, nearest};
use trunkline_relay_proto::srtp::Sealer;
use trunkline_testkit::rng::Rng;

use crate::section::{self, payload_type};

/// Packets that carry the section's name at the beginning. Browsers do so on the first 15 to 40.
const MIDS: u8 = 20;

/// Extensions of one packet: level or descriptor, and mid.
const ELEMENTS_MAX: usize = 3;

/// One packet to send.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// RTP timestamp.
    pub timestamp: u32,
    /// The last packet of a picture, or the first of a talkspurt.
    pub marker: bool,
    /// Voice or not, and dB below the loudest: 0 to 127.
    pub audio_level: Option<(bool, u8)>,
    /// A dependency descriptor: see [`descriptor`].
    pub descriptor: Option<&'a [u8]>,
    /// What is sent. To the relay it is opaque.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A packet without extensions.
    #[must_use]
    pub const fn new(timestamp: u32, marker: bool, payload: &'a [u8]) -> Self {
        Self { timestamp, marker, audio_level: None, descriptor: None, payload }
    }
}

/// Bytes of a descriptor that brings the structure, as the first packet of a key frame does.
pub const KEY_DESCRIPTOR_LEN: usize = 9;

/// The structure of one spatial and one temporal layer: two templates, of which the second needs the frame before.
const STRUCTURE: [u8; 6] = [0x80, 0x00, 0x3a, 0x41, 0x01, 0x00];

/// Writes the dependency descriptor of a packet of a stream with one layer, and says how long it is.
pub fn descriptor(
    out: &mut [u8; KEY_DESCRIPTOR_LEN],
    frame_number: u16,
    key_frame: bool,
    (first, last): (bool, bool),
) -> usize {
    let [high, low] = frame_number.to_be_bytes();
    let [b0, b1, b2, structure @ ..] = out;
    *b0 = u8::from(first) << 7 | u8::from(last) << 6 | u8::from(!key_frame);
    (*b1, *b2, *structure) = (high, low, STRUCTURE);
    if key_frame && first { KEY_DESCRIPTOR_LEN } else { KEY_DESCRIPTOR_LEN - STRUCTURE.len() }
}

struct Kept {
    sequence: u16,
    timestamp: u32,
    marker: bool,
    audio_level: Option<(bool, u8)>,
    descriptor: Option<Box<[u8]>>,
    payload: Box<[u8]>,
}

/// A stream that a peer sends.
pub struct Outgoing {
    source: SourceName,
    mid: Mid,
    ssrc: u32,
    rtx_ssrc: Option<u32>,
    index: u64,
    rtx_index: u64,
    mids_left: u8,
    history: VecDeque<Kept>,
    packets: u64,
    octets: u64,
    retransmissions: u64,
    last: Option<(Instant, u32)>,
}

impl Outgoing {
    pub(crate) fn new(source: SourceName, mid: Mid, rng: &mut Rng) -> Self {
        let rtx = payload_type(source.kind()).rtx;
        // In the lower half, so that a receiver that misses the first packets still guesses the right roll-over.
        let mut start = || rng.range(0..0x4000);
        let (index, rtx_index) = (start(), start());
        Self {
            source,
            mid,
            ssrc: ssrc(rng),
            rtx_ssrc: rtx.map(|_| ssrc(rng)),
            index,
            rtx_index,
            mids_left: MIDS,
            history: VecDeque::new(),
            packets: 0,
            octets: 0,
            retransmissions: 0,
            last: None,
        }
    }

    /// What it shows.
    #[must_use]
    pub fn source(&self) -> SourceName {
        self.source
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
    pub(crate) fn timestamp_at(&self, now: Instant) -> Option<u32> {
        let (at, timestamp) = self.last?;
        Some(timestamp.wrapping_add(ticks(now.saturating_duration_since(at), clock_rate(self.source))))
    }

    /// Seals a packet into `out`: its length, 0 when it does not fit.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        frame: &Frame<'_>,
        history_packets: usize,
        sealer: &Sealer,
        out: &mut [u8],
    ) -> usize {
        let index = self.index + 1;
        let written = self.write(out, self.ssrc, index, None, frame);
        let sealed = written.map_or(0, |(header_len, len)| sealer.seal_rtp(out, header_len, len, index));
        if sealed == 0 {
            return 0;
        }
        self.index = index;
        self.mids_left = self.mids_left.saturating_sub(1);
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
    pub(crate) fn send_again(&mut self, sequence: u16, sealer: &Sealer, out: &mut [u8]) -> usize {
        let Some(ssrc) = self.rtx_ssrc else { return 0 };
        let back = self.index.checked_sub(nearest(self.index, sequence));
        let at = back.and_then(|back| self.history.len().checked_sub(usize::try_from(back).ok()? + 1));
        let Some(kept) = at.and_then(|at| self.history.get(at)).filter(|kept| kept.sequence == sequence)
        else {
            return 0;
        };
        let index = self.rtx_index + 1;
        let frame = Frame {
            timestamp: kept.timestamp,
            marker: kept.marker,
            audio_level: kept.audio_level,
            descriptor: kept.descriptor.as_deref(),
            payload: &kept.payload,
        };
        let written = self.write(out, ssrc, index, Some(sequence), &frame);
        let sealed = written.map_or(0, |(header_len, len)| sealer.seal_rtp(out, header_len, len, index));
        if sealed > 0 {
            self.rtx_index = index;
            self.retransmissions += 1;
        }
        sealed
    }

    /// Writes header and payload: the lengths of the header and of both.
    fn write(
        &self,
        out: &mut [u8],
        ssrc: u32,
        index: u64,
        original: Option<u16>,
        frame: &Frame<'_>,
    ) -> Option<(usize, usize)> {
        let kind = self.source.kind();
        let known = payload_type(kind);
        let number = if original.is_some() { known.rtx? } else { known.number };
        let fixed = out.first_chunk_mut::<{ header::FIXED_LEN }>()?;
        let [s0, s1] = low(index).to_be_bytes();
        let [t0, t1, t2, t3] = frame.timestamp.to_be_bytes();
        let [i0, i1, i2, i3] = ssrc.to_be_bytes();
        let second = number | u8::from(frame.marker) << 7;
        *fixed = [0x80, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3];

        let level = frame.audio_level.map(|(voice, level)| [u8::from(voice) << 7 | level & 0x7f]);
        let mut elements: [Option<(u8, &[u8])>; ELEMENTS_MAX] = [None; ELEMENTS_MAX];
        for (place, (id, extension)) in elements.iter_mut().zip(section::extensions(kind)) {
            use trunkline_relay_proto::media::Extension;
            let value = match extension {
                Extension::AudioLevel => level.as_ref().map(<[u8; 1]>::as_slice),
                Extension::DependencyDescriptor => frame.descriptor,
                Extension::Mid if self.mids_left > 0 => Some(self.mid.as_bytes()),
                _ => None,
            };
            *place = value.map(|value| (*id, value));
        }
        let extension_len =
            extension::write(out.get_mut(header::FIXED_LEN..)?, elements.iter().flatten().copied())?;
        if extension_len > 0 {
            *out.first_mut()? |= 0x10;
        }
        let header_len = header::FIXED_LEN + extension_len;
        let mut at = header_len;
        if let Some(sequence) = original {
            out.get_mut(at..at + 2)?.copy_from_slice(&sequence.to_be_bytes());
            at += 2;
        }
        out.get_mut(at..at + frame.payload.len())?.copy_from_slice(frame.payload);
        Some((header_len, at + frame.payload.len()))
    }
}

/// Ticks of a source's clock per second.
pub(crate) const fn clock_rate(source: SourceName) -> u32 {
    match source {
        SourceName::Microphone | SourceName::ScreenAudio => 48_000,
        SourceName::Camera | SourceName::Screen => 90_000,
    }
}

/// A time in ticks, which wrap as timestamps do.
#[expect(clippy::cast_possible_truncation, reason = "timestamps wrap")]
pub(crate) fn ticks(time: Duration, rate: u32) -> u32 {
    (time.as_nanos() * u128::from(rate) / 1_000_000_000) as u32
}

/// The lower 16 bits, which the header carries.
#[expect(clippy::cast_possible_truncation, reason = "the header carries the lower half")]
fn low(index: u64) -> u16 {
    index as u16
}

/// An SSRC, not zero.
#[expect(clippy::cast_possible_truncation, reason = "any 32 bits will do")]
pub(crate) fn ssrc(rng: &mut Rng) -> u32 {
    (rng.next_u64() as u32).max(1)
}

//! A source that a peer sends, in one encoding or in several at a time.

use std::time::{Duration, Instant};

use trunkline_relay_proto::event::SourceName;
use trunkline_relay_proto::media::{ENCODINGS_MAX, Mid, Rid};
use trunkline_relay_proto::srtp::Sealer;
use trunkline_testkit::rng::Rng;

use crate::encoding::{Encoding, Place};

/// Names of encodings, the smallest picture first, as browsers' examples have them.
const RIDS: [&str; ENCODINGS_MAX] = ["q", "h", "f"];

/// One packet to send.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Which of the source's encodings, the smallest first: 0 where there is but one.
    pub encoding: usize,
    /// RTP timestamp.
    pub timestamp: u32,
    /// The last packet of a picture, or the first of a talkspurt.
    pub marker: bool,
    /// Voice or not, and dB below the loudest: 0 to 127.
    pub audio_level: Option<(bool, u8)>,
    /// A dependency descriptor: see [`descriptor`].
    pub descriptor: Option<&'a [u8]>,
    /// A video layers allocation, of a camera in several encodings.
    pub layers_allocation: Option<&'a [u8]>,
    /// What is sent. To the relay it is opaque.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A packet without extensions, of the first encoding.
    #[must_use]
    pub const fn new(timestamp: u32, marker: bool, payload: &'a [u8]) -> Self {
        Self {
            encoding: 0,
            timestamp,
            marker,
            audio_level: None,
            descriptor: None,
            layers_allocation: None,
            payload,
        }
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

/// A source that a peer sends.
pub struct Outgoing {
    source: SourceName,
    mid: Mid,
    encodings: Vec<Encoding>,
}

impl Outgoing {
    /// With `encodings` above one, they have names.
    pub(crate) fn new(source: SourceName, mid: Mid, encodings: usize, rng: &mut Rng) -> Self {
        let rids: Vec<Option<Rid>> = match encodings {
            0 | 1 => vec![None],
            several => RIDS.iter().take(several).map(|rid| Rid::new(rid)).collect(),
        };
        let encodings = rids.into_iter().map(|rid| Encoding::new(source.kind(), rid, rng)).collect();
        Self { source, mid, encodings }
    }

    /// What it shows.
    #[must_use]
    pub fn source(&self) -> SourceName {
        self.source
    }

    /// Its encodings, the smallest picture first. One at least.
    #[must_use]
    pub fn encodings(&self) -> &[Encoding] {
        &self.encodings
    }

    /// The SSRC it is sent with: of simulcast, that of the first encoding.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.encodings.first().map_or(0, Encoding::ssrc)
    }

    /// The SSRC of retransmissions, for video: of simulcast, that of the first encoding.
    #[must_use]
    pub fn rtx_ssrc(&self) -> Option<u32> {
        self.encodings.first()?.rtx_ssrc()
    }

    /// The names of its encodings. Empty where there is but one, without a name.
    pub fn rids(&self) -> impl Iterator<Item = Rid> {
        self.encodings.iter().filter_map(Encoding::rid)
    }

    /// Packets sent, without retransmissions.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.encodings.iter().map(Encoding::packets).sum()
    }

    /// Payload bytes sent, without retransmissions.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.encodings.iter().map(Encoding::octets).sum()
    }

    /// Retransmissions sent.
    #[must_use]
    pub fn retransmissions(&self) -> u64 {
        self.encodings.iter().map(Encoding::retransmissions).sum()
    }

    /// The encoding of an SSRC, by position.
    pub(crate) fn position(&self, ssrc: u32) -> Option<usize> {
        self.encodings.iter().position(|encoding| encoding.ssrc() == ssrc)
    }

    /// Seals a packet into `out`: its length, 0 when it does not fit or there is no such encoding.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        frame: &Frame<'_>,
        (wire, history_packets): (Wire, usize),
        sealer: &Sealer,
        out: &mut [u8],
    ) -> usize {
        let place = Place { source: self.source, mid: self.mid, wire };
        let encoding = self.encodings.get_mut(frame.encoding);
        encoding.map_or(0, |encoding| encoding.send(now, frame, (place, history_packets), sealer, out))
    }

    /// Seals a packet of so many bytes of padding, on the first stream of retransmissions. `None` without any.
    pub(crate) fn send_padding(
        &mut self,
        padding: usize,
        wire: Wire,
        sealer: &Sealer,
        out: &mut [u8],
    ) -> Option<usize> {
        let place = Place { source: self.source, mid: self.mid, wire };
        self.encodings.first_mut()?.send_padding(padding, place, sealer, out)
    }

    /// Seals again what an encoding sent under a sequence number. 0 when it is not there any more.
    pub(crate) fn send_again(
        &mut self,
        encoding: usize,
        sequence: u16,
        wire: Wire,
        sealer: &Sealer,
        out: &mut [u8],
    ) -> usize {
        let place = Place { source: self.source, mid: self.mid, wire };
        let encoding = self.encodings.get_mut(encoding);
        encoding.map_or(0, |encoding| encoding.send_again(sequence, place, sealer, out))
    }
}

/// What every packet of a peer has in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    /// Arrivals are told by transport-wide sequence number.
    pub(crate) adaptive: bool,
    /// The next transport-wide sequence number.
    pub(crate) transport_sequence: u16,
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

/// An SSRC, not zero.
#[expect(clippy::cast_possible_truncation, reason = "any 32 bits will do")]
pub(crate) fn ssrc(rng: &mut Rng) -> u32 {
    (rng.next_u64() as u32).max(1)
}

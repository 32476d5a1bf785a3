//! What a participant receives in one media section: a stream of the relay's own, fed by one source after another.
//!
//! To the receiver it is one sender: sequence numbers and timestamps go on when the source changes, and the CSRC says
//! whose packet it is. Each number of the stream is sealed for one packet only, and once: a source gives each packet
//! out once, and what is asked for again goes out on the retransmission SSRC under a number of its own (RFC 4588).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::egress::Egress;
use crate::event::SourceName;
use crate::history::{ELEMENTS_BYTES_MAX, Packet};
use crate::key_frame::Asker;
use crate::media::{Downstream, Extension, ExtensionIds, Kind, Mid, PayloadType, Section};
use crate::path::Path;
use crate::reception::ticks;
use crate::rng::Rng;
use crate::rtp::{descriptor, extension, nearest};
use crate::source::Source;
use crate::srtp::Sealer;

/// Sources shown before that retransmissions can still be asked of.
const SEGMENTS_MAX: usize = 4;

/// First packets that carry the section's name, for receivers that go by it. The answer names the SSRC anyway.
const MIDS: u8 = 20;

/// Retransmissions to one slot at once, and how many more each second. Above what 10 % loss of 5 Mbit/s needs.
const RETRANSMISSIONS_BURST: u32 = 256;
const RETRANSMISSIONS_PER_S: u32 = 500;

/// Fixed header and one CSRC.
const HEADER_LEN: usize = 16;

/// Whom a client wants to see in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The participant's name: a pin outlives a reload.
    pub participant: Arc<str>,
    /// Which source; none means the screen if there is one, else the camera.
    pub source: Option<SourceName>,
}

/// A stretch of the stream that came from one source.
#[derive(Clone, Copy, Debug)]
struct Segment {
    source: usize,
    csrc: u32,
    generation: u32,
    /// First packet of the source, and the number it got here.
    source_base: u64,
    out_base: u64,
    /// What to add to timestamps and to the frame numbers of dependency descriptors.
    timestamp_delta: u32,
    frame_delta: u16,
}

impl Segment {
    fn is_of(&self, source: &Source) -> bool {
        self.csrc == source.csrc && self.generation == source.generation
    }
}

/// One slot.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The section's name.
    pub mid: Mid,
    /// Sound or pictures.
    pub kind: Kind,
    /// Whom the client wants to see here.
    pub pin: Option<Pin>,
    /// The source it shows (index in the call).
    pub source: Option<usize>,
    /// What it shows, or whether it is pinned, is not what its owner was told last.
    pub untold: bool,
    /// How often key frame requests of this receiver are heard.
    pub asker: Asker,
    /// Media packets sent.
    pub packets: u64,
    /// Payload bytes sent.
    pub octets: u64,
    /// Retransmissions sent.
    pub retransmissions: u64,
    /// Share lost on the way, 0 to 1, as the last receiver report says.
    pub fraction_lost: f64,
    /// Packets sent when the last sender report was made.
    pub reported_packets: u64,
    stream: Downstream,
    /// Two-byte header extensions may come between one-byte ones.
    mixed: bool,
    ids: ExtensionIds,
    payload_types: Vec<PayloadType>,
    /// The receiver's payload type for each of the source's, by position.
    mapped: Vec<Option<PayloadType>>,
    segments: [Option<Segment>; SEGMENTS_MAX],
    /// What is shown changed: the next packet begins a segment.
    begin: bool,
    highest: u64,
    timestamp: u32,
    sent_at: Option<Instant>,
    frame: u16,
    rtx_index: u64,
    mids_left: u8,
    budget: u32,
    budget_at: Option<Instant>,
}

impl Slot {
    /// The slot of a section, if the client receives in it. `mixed` says whether `a=extmap-allow-mixed` was agreed on.
    #[must_use]
    pub(crate) fn new(section: &Section, mixed: bool, rng: &mut Rng) -> Option<Self> {
        let stream = section.receive?;
        Some(Self {
            mid: section.mid,
            kind: section.kind,
            pin: None,
            source: None,
            untold: false,
            asker: Asker::default(),
            packets: 0,
            octets: 0,
            retransmissions: 0,
            fraction_lost: 0.0,
            reported_packets: 0,
            stream,
            mixed,
            ids: section.extensions,
            payload_types: section.payload_types.clone(),
            mapped: Vec::new(),
            segments: [None; SEGMENTS_MAX],
            begin: true,
            // In the lower half, so that a receiver that misses the first packets still guesses the right roll-over.
            highest: u64::from(rng.next_u32() & 0x3fff),
            timestamp: rng.next_u32(),
            sent_at: None,
            frame: 0,
            rtx_index: u64::from(rng.next_u32() & 0x3fff),
            mids_left: MIDS,
            budget: RETRANSMISSIONS_BURST,
            budget_at: None,
        })
    }

    /// A new offer was agreed on. What is shown goes on, unless payload types changed.
    pub(crate) fn renegotiate(&mut self, section: &Section) {
        self.ids = section.extensions;
        if self.payload_types != section.payload_types {
            self.payload_types.clone_from(&section.payload_types);
            self.show(None);
        }
    }

    /// The stream's SSRC.
    #[must_use]
    pub(crate) fn ssrc(&self) -> u32 {
        self.stream.ssrc
    }

    /// Shows a source from now on, or nothing. True when a key frame is needed for it.
    pub(crate) fn show(&mut self, shown: Option<(usize, &Source)>) -> bool {
        self.source = shown.map(|(index, _)| index);
        self.untold = true;
        self.begin = true;
        self.asker.reset();
        let Some((_, source)) = shown else { return false };
        self.map(source);
        self.kind == Kind::Video
    }

    /// Looks up the receiver's payload types for those of the source that is shown.
    pub(crate) fn map(&mut self, source: &Source) {
        let ours = |theirs: &PayloadType| self.payload_types.iter().find(|ours| ours.means(theirs)).copied();
        self.mapped = source.known_types.iter().map(ours).collect();
    }

    /// Whether the receiver understands any codec of a source.
    #[must_use]
    pub(crate) fn can_show(&self, source: &Source) -> bool {
        self.kind == source.kind()
            && source
                .payload_types
                .iter()
                .any(|theirs| self.payload_types.iter().any(|ours| ours.means(theirs)))
    }

    /// Seals a packet of the source that is shown. `pad` bytes of RTP padding equalise sizes within a train. False
    /// when there is nothing to send for it.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        (index, source): (usize, &Source),
        (packet, pad): (&Packet<'_>, u8),
        (sealer, path): (&Sealer, Path),
        egress: &mut Egress,
    ) -> bool {
        let Some(mapped) = self.mapped.get(usize::from(packet.meta.payload_type)).copied().flatten() else {
            return false;
        };
        let Some(segment) = self.segment_for(now, index, source, packet) else { return false };
        let Some(out) = packet.meta.index.checked_sub(segment.source_base).map(|at| at + segment.out_base)
        else {
            return false;
        };
        let Some(room) = egress.reserve() else { return false };
        let header = OutHeader {
            payload_type: mapped.number,
            marker: packet.meta.marker,
            index: out,
            timestamp: packet.meta.timestamp.wrapping_add(segment.timestamp_delta),
            ssrc: self.stream.ssrc,
            csrc: segment.csrc,
            mid: (self.mids_left > 0).then_some(self.mid),
            frame_delta: segment.frame_delta,
            original: None,
        };
        let Some(len) = header.write(room, (&self.ids, self.mixed), packet, pad, sealer) else {
            return false;
        };
        egress.commit(path, len);
        self.mids_left = self.mids_left.saturating_sub(1);
        self.packets += 1;
        self.octets += packet.payload.len() as u64;
        if out > self.highest {
            self.highest = out;
            self.timestamp = header.timestamp;
            self.sent_at = Some(now);
        }
        if let Some(frame) = frame_number(packet) {
            let frame = frame.wrapping_add(segment.frame_delta);
            if frame.wrapping_sub(self.frame) < 0x8000 {
                self.frame = frame;
            }
        }
        true
    }

    /// Seals again, on the retransmission SSRC, what was sent under a sequence number. False when it cannot be.
    pub(crate) fn retransmit(
        &mut self,
        now: Instant,
        sequence: u16,
        sources: &[Option<Source>],
        (sealer, path): (&Sealer, Path),
        egress: &mut Egress,
    ) -> bool {
        let Some(ssrc) = self.stream.rtx_ssrc else { return false };
        let out = nearest(self.highest, sequence);
        if out > self.highest {
            return false;
        }
        let Some(segment) = self.segments.iter().flatten().find(|segment| segment.out_base <= out) else {
            return false;
        };
        let Some(source) = sources.get(segment.source).and_then(Option::as_ref).filter(|s| segment.is_of(s))
        else {
            return false;
        };
        let Some(packet) = source.history.get(out - segment.out_base + segment.source_base) else {
            return false;
        };
        let Some(number) = source
            .known_types
            .get(usize::from(packet.meta.payload_type))
            .and_then(|theirs| self.payload_types.iter().find(|ours| ours.means(theirs))?.rtx)
        else {
            return false;
        };
        if !spend(&mut self.budget, &mut self.budget_at, now) {
            return false;
        }
        let Some(room) = egress.reserve() else { return false };
        let header = OutHeader {
            payload_type: number,
            marker: packet.meta.marker,
            index: self.rtx_index + 1,
            timestamp: packet.meta.timestamp.wrapping_add(segment.timestamp_delta),
            ssrc,
            csrc: segment.csrc,
            mid: None,
            frame_delta: segment.frame_delta,
            original: Some(sequence),
        };
        let Some(len) = header.write(room, (&self.ids, self.mixed), &packet, 0, sealer) else { return false };
        self.rtx_index += 1;
        self.retransmissions += 1;
        egress.commit(path, len);
        true
    }

    /// The RTP timestamp that media captured now would have, for a sender report. None before anything was sent.
    #[must_use]
    pub(crate) fn timestamp_at(&self, now: Instant, source: Option<&Source>) -> Option<u32> {
        let sent_at = self.sent_at?;
        if let (Some(source), Some(segment)) = (source, self.segments.first().copied().flatten())
            && segment.is_of(source)
            && let Some(clock) = source.reception.clock()
        {
            return Some(clock.timestamp_at(now, source.clock_rate()).wrapping_add(segment.timestamp_delta));
        }
        Some(self.timestamp.wrapping_add(ticks(now.saturating_duration_since(sent_at), self.clock_rate())))
    }

    fn clock_rate(&self) -> u32 {
        match self.kind {
            Kind::Audio => 48_000,
            Kind::Video => 90_000,
        }
    }

    /// The stretch this packet belongs to; begins one when the source changed, at a key frame where key frames can
    /// be told.
    fn segment_for(
        &mut self,
        now: Instant,
        index: usize,
        source: &Source,
        packet: &Packet<'_>,
    ) -> Option<Segment> {
        if !self.begin
            && let Some(segment) = self.segments.first().copied().flatten()
            && segment.is_of(source)
        {
            return Some(segment);
        }
        if self.kind == Kind::Video && source.has_descriptors && !packet.meta.key_frame {
            return None;
        }
        let elapsed = self.sent_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let timestamp = self.timestamp.wrapping_add(ticks(elapsed, self.clock_rate()).max(1));
        let segment = Segment {
            source: index,
            csrc: source.csrc,
            generation: source.generation,
            source_base: packet.meta.index,
            out_base: self.highest + 1,
            timestamp_delta: timestamp.wrapping_sub(packet.meta.timestamp),
            frame_delta: frame_number(packet)
                .map_or(0, |frame| self.frame.wrapping_add(1).wrapping_sub(frame)),
        };
        self.begin = false;
        self.segments.rotate_right(1);
        if let Some(first) = self.segments.first_mut() {
            *first = Some(segment);
        }
        Some(segment)
    }
}

/// Takes one retransmission off the budget, filled up as time goes by.
fn spend(budget: &mut u32, filled_at: &mut Option<Instant>, now: Instant) -> bool {
    let elapsed = now.saturating_duration_since(*filled_at.get_or_insert(now));
    let earned = ticks(elapsed.min(Duration::from_secs(1)), RETRANSMISSIONS_PER_S);
    if earned > 0 {
        *budget = (*budget + earned).min(RETRANSMISSIONS_BURST);
        *filled_at = Some(now);
    }
    let enough = *budget > 0;
    *budget = budget.saturating_sub(1);
    enough
}

/// The frame number in a packet's dependency descriptor.
fn frame_number(packet: &Packet<'_>) -> Option<u16> {
    let (_, at, _) = packet.elements.iter().find(|(kind, ..)| *kind == Extension::DependencyDescriptor)?;
    let bytes = packet.values.get(at + 1..at + 3)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// What the header of a packet to a receiver says.
#[derive(Debug)]
struct OutHeader {
    payload_type: u8,
    marker: bool,
    index: u64,
    timestamp: u32,
    ssrc: u32,
    csrc: u32,
    mid: Option<Mid>,
    frame_delta: u16,
    /// The sequence number of what is sent again.
    original: Option<u16>,
}

impl OutHeader {
    /// Writes header, payload and padding, and seals them. The datagram's length; `None` when it does not fit.
    #[expect(clippy::cast_possible_truncation, reason = "the header carries the lower half of the index")]
    fn write(
        &self,
        room: &mut [u8],
        (ids, mixed): (&ExtensionIds, bool),
        packet: &Packet<'_>,
        pad: u8,
        sealer: &Sealer,
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
        let extension_len = extension::write(room.get_mut(HEADER_LEN..)?, mid.into_iter().chain(passed))?;
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
        Some(sealer.seal_rtp(room, header_len, at, self.index)).filter(|len| *len > 0)
    }
}

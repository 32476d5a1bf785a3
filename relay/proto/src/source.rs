//! What a participant sends in one media section: a camera, a microphone, a screen. Kept once, for all receivers.

use std::time::{Duration, Instant};

use crate::event::SourceName;
use crate::history::{self, ElementsBuffer, History, Meta};
use crate::key_frame::Authority;
use crate::loss::Losses;
use crate::media::{Kind, Mid, PAYLOAD_TYPES_MAX, PayloadType};
use crate::reception::Reception;
use crate::rtp::nearest;
use crate::speaker::Meter;

/// Packets of one source that wait to be forwarded. The shell forwards after every batch it receives; more is dropped.
const PENDING_MAX: usize = 2048;

/// Payload types of all offers. More only serves those who make up codecs.
const KNOWN_TYPES_MAX: usize = 2 * PAYLOAD_TYPES_MAX;

/// A source that sends nothing for so long shows nothing. Shorter empties tiles on a short outage.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the relay's own numbering of a source's packets begins: far enough from zero for late ones.
const FIRST_INDEX: u64 = 1 << 20;

/// A packet as it came, opened.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    /// Its SSRC.
    pub ssrc: u32,
    /// Its extended sequence number under that SSRC.
    pub index: u64,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// Its marker bit.
    pub marker: bool,
    /// Which of the source's known payload types, by position.
    pub payload_type: u8,
    /// Extensions that go on.
    pub elements: &'a ElementsBuffer,
    /// Payload without padding.
    pub payload: &'a [u8],
    /// Level as the extension says, where it came: −dBov, 0 (loud) to 127.
    pub audio_level: Option<u8>,
    /// Whether a dependency descriptor came, and begins a key frame.
    pub key_frame: Option<bool>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits to be forwarded.
    Pending,
    /// Silence: kept from receivers.
    Withheld,
    /// It came before, or is too old to tell.
    Duplicate,
    /// Larger than is forwarded, or more at once than is.
    Overflow,
}

/// Who receives a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscriber {
    /// Index of the participant.
    pub receiver: usize,
    /// Index of its slot.
    pub slot: usize,
}

/// One source.
#[derive(Debug)]
pub(crate) struct Source {
    /// The number that names it in forwarded packets; never used again in this call.
    pub csrc: u32,
    /// Index of its participant.
    pub owner: usize,
    /// Its section.
    pub mid: Mid,
    /// Which of its owner's sources.
    pub name: SourceName,
    /// Muted by its owner.
    pub muted: bool,
    /// What it may be sent with, the preferred one first.
    pub payload_types: Vec<PayloadType>,
    /// What it was ever sent with: positions stay when an offer changes the order, since packets kept go by them.
    pub known_types: Vec<PayloadType>,
    /// Its packets.
    pub history: History,
    /// What is missing of it.
    pub losses: Losses,
    /// Who may ask for a key frame.
    pub key_frames: Authority,
    /// How loud it is, if it is sound.
    pub meter: Meter,
    /// How well it is received.
    pub reception: Reception,
    /// Changes when its SSRC does: sequence numbers and timestamps before and after have nothing in common.
    pub generation: u32,
    /// Indexes of packets that wait to be forwarded, in the order they came.
    pub pending: Vec<u64>,
    /// Who receives it.
    pub subscribers: Vec<Subscriber>,
    /// Packets taken.
    pub packets: u64,
    /// Whether dependency descriptors come, so that key frames can be told.
    pub has_descriptors: bool,
    ssrc: Option<u32>,
    /// What to take from an index under the SSRC to get the relay's own.
    shift: u64,
    newest: Option<u64>,
    /// Packets before it belong to another SSRC, or to silence.
    run_start: u64,
    last_media: Option<Instant>,
}

impl Source {
    /// A source that has not sent yet.
    #[must_use]
    pub(crate) fn new(
        csrc: u32,
        owner: usize,
        mid: Mid,
        name: SourceName,
        payload_types: Vec<PayloadType>,
    ) -> Self {
        let capacity = match name {
            SourceName::Microphone | SourceName::ScreenAudio => history::AUDIO,
            SourceName::Camera => history::VIDEO,
            SourceName::Screen => history::SLIDES,
        };
        Self {
            csrc,
            owner,
            mid,
            name,
            muted: false,
            known_types: payload_types.clone(),
            payload_types,
            history: History::new(capacity),
            losses: Losses::default(),
            key_frames: Authority::default(),
            meter: Meter::default(),
            reception: Reception::default(),
            generation: 0,
            pending: Vec::new(),
            subscribers: Vec::new(),
            packets: 0,
            has_descriptors: false,
            ssrc: None,
            shift: 0,
            newest: None,
            run_start: 0,
            last_media: None,
        }
    }

    /// A new offer was agreed on. True when receivers have to look at its payload types anew.
    pub(crate) fn renegotiate(&mut self, name: SourceName, payload_types: &[PayloadType]) -> bool {
        self.name = name;
        if self.payload_types == payload_types {
            return false;
        }
        self.payload_types = payload_types.to_vec();
        for agreed in payload_types {
            if let Some(known) = self.known_types.iter_mut().find(|known| known.means(agreed)) {
                *known = *agreed;
            } else if self.known_types.len() < KNOWN_TYPES_MAX {
                self.known_types.push(*agreed);
            }
        }
        true
    }

    /// Which of the known payload types one is.
    #[must_use]
    pub(crate) fn position(&self, payload_type: &PayloadType) -> Option<u8> {
        let position = self.known_types.iter().position(|known| known.means(payload_type))?;
        u8::try_from(position).ok()
    }

    /// Sound or pictures.
    #[must_use]
    pub(crate) fn kind(&self) -> Kind {
        self.name.kind()
    }

    /// Ticks of its RTP clock per second.
    #[must_use]
    pub(crate) fn clock_rate(&self) -> u32 {
        match self.kind() {
            Kind::Audio => 48_000,
            Kind::Video => 90_000,
        }
    }

    /// Its SSRC, once known.
    #[must_use]
    pub(crate) fn ssrc(&self) -> Option<u32> {
        self.ssrc
    }

    /// Whether it is sending.
    #[must_use]
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        self.last_media.is_some_and(|at| now.saturating_duration_since(at) < LIVE_TIMEOUT)
    }

    /// Whether lost packets can be asked for.
    fn repairs(&self) -> bool {
        self.payload_types.first().is_some_and(|payload_type| payload_type.nack)
    }

    /// Takes a packet that came on the media's own SSRC.
    pub(crate) fn receive(&mut self, now: Instant, arrival: &Arrival<'_>) -> Taken {
        if self.ssrc != Some(arrival.ssrc) {
            self.begin(arrival.ssrc, arrival.index);
        }
        self.reception.packet(now, arrival.index, arrival.timestamp, self.clock_rate());
        self.take(now, arrival)
    }

    /// Takes a packet that was sent again: `sequence` is what it had at first (RFC 4588).
    pub(crate) fn receive_repair(&mut self, now: Instant, sequence: u16, mut arrival: Arrival<'_>) -> Taken {
        let Some(newest) = self.newest else { return Taken::Duplicate };
        let newest = newest.wrapping_add(self.shift);
        arrival.index = nearest(newest, sequence);
        // What nobody misses is padding sent to probe, or a second answer.
        if arrival.index >= newest || !self.losses.arrived(arrival.index.wrapping_sub(self.shift)) {
            return Taken::Duplicate;
        }
        self.take(now, &arrival)
    }

    /// A sequence number as its sender knows it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a sequence number is the lower half")]
    pub(crate) fn sequence(&self, index: u64) -> u16 {
        index.wrapping_add(self.shift) as u16
    }

    /// Another SSRC, or the first: numbering goes on without a hole.
    fn begin(&mut self, ssrc: u32, index: u64) {
        let next = self.newest.map_or(FIRST_INDEX, |newest| newest + 1);
        self.ssrc = Some(ssrc);
        self.shift = index.wrapping_sub(next);
        self.run_start = next;
        self.generation = self.generation.wrapping_add(1);
        self.losses.clear();
        self.reception = Reception::default();
        // If this is not its key frame, that was lost, and nobody knows what came before the first packet.
        self.key_frames.want();
    }

    fn take(&mut self, now: Instant, arrival: &Arrival<'_>) -> Taken {
        self.last_media = Some(now);
        let index = arrival.index.wrapping_sub(self.shift);
        if let Some(level) = arrival.audio_level {
            self.meter.level(now, level);
        }
        if self.kind() == Kind::Audio && self.meter.is_silent(now) {
            return self.withhold(index);
        }
        match self.newest {
            Some(newest) if index <= newest => {
                let known = index < self.run_start || newest - index > self.history.window();
                if known || self.history.contains(index) {
                    return Taken::Duplicate;
                }
                self.losses.arrived(index);
            }
            Some(newest) => {
                if self.repairs() && index - newest > 1 && self.losses.gap(now, newest, index) {
                    self.key_frames.want();
                }
                self.newest = Some(index);
            }
            None => self.newest = Some(index),
        }
        self.packets += 1;
        if !arrival.payload.is_empty() {
            // Another codec may come without; and mere padding always does.
            self.has_descriptors = arrival.key_frame.is_some();
        }
        if arrival.key_frame == Some(true) {
            self.key_frames.arrived();
        }
        let meta = Meta {
            index,
            timestamp: arrival.timestamp,
            marker: arrival.marker,
            payload_type: arrival.payload_type,
            key_frame: arrival.key_frame == Some(true),
        };
        if self.pending.len() >= PENDING_MAX || !self.history.insert(meta, arrival.elements, arrival.payload)
        {
            return Taken::Overflow;
        }
        self.pending.push(index);
        Taken::Pending
    }

    /// Silence leaves no hole: the next packet that is forwarded takes the number of the first that was not.
    fn withhold(&mut self, index: u64) -> Taken {
        let next = self.newest.map_or(FIRST_INDEX, |newest| newest + 1);
        if index < next {
            return Taken::Duplicate;
        }
        self.shift = self.shift.wrapping_add(index + 1 - next);
        self.run_start = next;
        self.losses.clear();
        Taken::Withheld
    }
}

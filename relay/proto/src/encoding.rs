//! One encoding of a source: what comes under one SSRC at a time. A source without simulcast has one; with it, each size of
//! the picture is one. Kept once, for all receivers.

use std::time::{Duration, Instant};

use crate::budget::{Allowance, Budget};
use crate::history::{self, Capacity, History, Meta};
use crate::key_frame::Authority;
use crate::layers::Layers;
use crate::loss::Losses;
use crate::media::{Kind, Rid};
use crate::reception::Reception;
use crate::rtp::nearest;
use crate::source::{Arrival, Taken};

/// Packets of one encoding that wait to be forwarded. The shell forwards after every batch it receives; more is dropped.
const PENDING_MAX: usize = 2048;

/// Where the relay's own numbering of an encoding's packets begins: far enough from zero for late ones.
const FIRST_INDEX: u64 = 1 << 20;

/// So many packets without a descriptor are a codec that has none. Fewer let a picture begin where it cannot be decoded, after
/// a descriptor that was left out; more make that codec wait.
const BARE_MAX: u8 = 16;

/// An encoding that sends nothing for so long is not there to be shown. Shorter takes a pause of the sender's network for
/// the end of it.
const LIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two packets of an encoding that is being sent. Longer shows pictures of before to those who are to see it.
const FLOWING_TIMEOUT: Duration = Duration::from_millis(500);

/// An encoding stays wanted for so long after the last who wanted it. Shorter saves its sender more, and makes those who come
/// back wait.
const WANTED_TIMEOUT: Duration = Duration::from_secs(4);

/// How long an encoding may take to begin after its sender was told that it is wanted.
const STARTS_WITHIN: Duration = Duration::from_secs(3);

/// Numbers that may be missing and are kept for what is missing: at once, and more each second. Receivers know the roll-over of
/// numbers (RFC 3711, section 3.3.1) only if fewer than 32,768 go by between two packets that reach them. So much keeps what a
/// second of an outage loses; more lets them miss fewer seconds of a stream that is full of holes.
const HOLES: Allowance = Allowance { burst: 512, per_s: 512 };

/// One encoding.
#[derive(Debug)]
pub(crate) struct Encoding {
    /// Its name in the offer, with simulcast.
    pub rid: Option<Rid>,
    /// Its packets.
    pub history: History,
    /// What is missing of it.
    pub losses: Losses,
    /// Who may ask for a key frame.
    pub key_frames: Authority,
    /// How well it is received.
    pub reception: Reception,
    /// What its descriptors say of layers, and what each takes.
    pub layers: Layers,
    /// Changes when its SSRC does: sequence numbers and timestamps before and after have nothing in common.
    pub generation: u32,
    /// Indexes of packets that wait to be forwarded, in the order they came.
    pub pending: Vec<u64>,
    /// Packets taken.
    pub packets: u64,
    /// Whether dependency descriptors come, so that key frames can be told.
    pub has_descriptors: bool,
    /// Packets since the last with a descriptor.
    bare: u8,
    /// Whether its sender was told that anybody wants it.
    pub is_wanted: bool,
    /// When it was last wanted, and since when without a pause.
    wanted: Option<(Instant, Instant)>,
    kind: Kind,
    capacity: Capacity,
    ssrc: Option<u32>,
    /// What to take from an index under the SSRC to get the relay's own.
    shift: u64,
    newest: Option<u64>,
    /// Packets before it belong to another SSRC, or to silence.
    run_start: u64,
    /// Numbers that may be missing.
    holes: Budget,
    /// The first packet of the last key frame.
    key_frame: Option<u64>,
    last_media: Option<Instant>,
}

impl Encoding {
    /// One that has not sent yet. It takes memory for packets once it does.
    #[must_use]
    pub(crate) fn new(rid: Option<Rid>, kind: Kind, capacity: Capacity) -> Self {
        Self {
            rid,
            history: History::new(history::NOTHING),
            losses: Losses::default(),
            key_frames: Authority::default(),
            reception: Reception::default(),
            layers: Layers::default(),
            generation: 0,
            pending: Vec::new(),
            packets: 0,
            has_descriptors: false,
            bare: 0,
            is_wanted: true,
            wanted: None,
            kind,
            capacity,
            ssrc: None,
            shift: 0,
            newest: None,
            run_start: 0,
            holes: Budget::new(HOLES),
            key_frame: None,
            last_media: None,
        }
    }

    /// Its SSRC, once known.
    #[must_use]
    pub(crate) fn ssrc(&self) -> Option<u32> {
        self.ssrc
    }

    /// Whether anything came within a time.
    #[must_use]
    pub(crate) fn came_within(&self, now: Instant, time: Duration) -> bool {
        self.last_media.is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    /// Whether it is being sent.
    #[must_use]
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        self.came_within(now, LIVE_TIMEOUT)
    }

    /// Somebody is to see it.
    pub(crate) fn wanted(&mut self, now: Instant) {
        let since = self.wanted.filter(|_| self.is_wanted_at(now)).map_or(now, |(_, since)| since);
        self.wanted = Some((now, since));
    }

    /// Whether somebody was to see it lately.
    #[must_use]
    pub(crate) fn is_wanted_at(&self, now: Instant) -> bool {
        self.wanted.is_some_and(|(at, _)| now.saturating_duration_since(at) < WANTED_TIMEOUT)
    }

    /// Whether it can be had: it comes, or would if somebody wanted it, as far as is known.
    #[must_use]
    pub(crate) fn can_be_had(&self, now: Instant) -> bool {
        !self.is_missing(now, STARTS_WITHIN)
    }

    /// Whether it is wanted for so long already, and does not come: its sender cannot send it.
    #[must_use]
    pub(crate) fn is_missing(&self, now: Instant, time: Duration) -> bool {
        let wanted = self.wanted.filter(|_| self.is_wanted_at(now) && !self.is_live(now));
        wanted.is_some_and(|(_, since)| now.saturating_duration_since(since) >= time)
    }

    /// Bits per second of a source of sound.
    #[must_use]
    pub(crate) fn audio_bits_per_s(&self) -> u64 {
        self.layers.bits_per_s(0, 0).unwrap_or(0)
    }

    /// Ticks of its RTP clock per second.
    #[must_use]
    pub(crate) fn clock_rate(&self) -> u32 {
        self.kind.clock_rate()
    }

    /// What was forwarded since the last key frame began, with it: first and last packet. None when a part of it is not
    /// kept any more, there was none, or nothing has come for a while: what comes next will begin anew.
    #[must_use]
    pub(crate) fn since_key_frame(&self, now: Instant) -> Option<(u64, u64)> {
        // One of several may have been told to stop.
        let within = if self.rid.is_some() { FLOWING_TIMEOUT } else { LIVE_TIMEOUT };
        if !self.came_within(now, within) {
            return None;
        }
        let (first, newest) = (self.key_frame?, self.newest?);
        self.history.get(first)?;
        Some((first, newest))
    }

    /// Takes a packet that came on the media's own SSRC, or withholds it, being silence.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        (repairs, is_silence): (bool, bool),
    ) -> Taken {
        if self.ssrc != Some(arrival.ssrc) {
            self.begin(arrival.ssrc, arrival.index);
        }
        self.reception.packet(now, arrival.index, arrival.timestamp, self.clock_rate());
        self.last_media = Some(now);
        if is_silence { self.withhold(arrival.index) } else { self.take(now, arrival, repairs) }
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
        self.last_media = Some(now);
        self.take(now, &arrival, true)
    }

    /// Takes a packet that another branch of the call numbered, and had from its sender.
    pub(crate) fn adopt(&mut self, now: Instant, generation: u32, arrival: &Arrival<'_>) -> Taken {
        if self.ssrc.is_none() || self.generation != generation {
            if self.ssrc.is_none() {
                self.history = History::new(self.capacity);
            } else {
                self.reception = Reception::default();
            }
            self.ssrc = Some(arrival.ssrc);
            self.generation = generation;
            self.newest = None;
            self.key_frame = None;
        }
        self.last_media = Some(now);
        self.take(now, arrival, false)
    }

    /// What comes next does not follow what came before.
    pub(crate) fn interrupted(&mut self) {
        self.key_frame = None;
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
        if self.ssrc.is_none() {
            self.history = History::new(self.capacity);
        }
        self.ssrc = Some(ssrc);
        self.shift = index.wrapping_sub(next);
        self.run_start = next;
        self.key_frame = None;
        self.generation = self.generation.wrapping_add(1);
        self.losses.clear();
        self.reception = Reception::default();
        // If this is not its key frame, that was lost, and nobody knows what came before the first packet.
        self.key_frames.want();
    }

    fn take(&mut self, now: Instant, arrival: &Arrival<'_>, repairs: bool) -> Taken {
        let mut index = arrival.index.wrapping_sub(self.shift);
        match self.newest {
            Some(newest) if index <= newest => {
                let known = index < self.run_start || newest - index > self.history.window();
                if known || self.history.contains(index) {
                    return Taken::Duplicate;
                }
                self.losses.arrived(index);
                self.holes.give_back();
            }
            Some(newest) => {
                let hole = index - newest - 1;
                let is_kept = hole == 0
                    || self.holes.spend(now, hole) && !(repairs && self.losses.gap(now, newest, index));
                if !is_kept {
                    self.close_hole(hole);
                    index -= hole;
                }
                self.newest = Some(index);
            }
            None => self.newest = Some(index),
        }
        self.packets += 1;
        let key_frame = arrival.descriptor.is_some_and(|descriptor| descriptor.is_key_frame());
        if !arrival.payload.is_empty() {
            // Another codec may come without; and mere padding always does.
            self.bare = if arrival.descriptor.is_some() { 0 } else { self.bare.saturating_add(1) };
            self.has_descriptors = self.bare == 0 || self.has_descriptors && self.bare < BARE_MAX;
        }
        if key_frame {
            self.key_frames.arrived();
            self.key_frame = Some(self.key_frame.map_or(index, |before| before.max(index)));
        }
        let frame = self.layers.read(now, arrival);
        let meta = Meta {
            index,
            timestamp: arrival.timestamp,
            marker: arrival.marker,
            payload_type: arrival.payload_type,
            key_frame,
            frame,
        };
        if self.pending.len() >= PENDING_MAX || !self.history.insert(meta, arrival.elements, arrival.payload)
        {
            return Taken::Overflow;
        }
        self.pending.push(index);
        Taken::Pending
    }

    /// A hole that is not asked for, or one too many: numbering goes on without it, and what is missing never comes.
    fn close_hole(&mut self, hole: u64) {
        self.losses.give_up(hole);
        self.shift = self.shift.wrapping_add(hole);
        self.run_start = self.newest.map_or(FIRST_INDEX, |newest| newest + 1);
        // What was kept since the last one does not lead to what comes next.
        self.key_frame = None;
        self.key_frames.want();
    }

    /// Silence leaves no hole: the next packet that is forwarded takes the number of the first that was not.
    fn withhold(&mut self, index: u64) -> Taken {
        let index = index.wrapping_sub(self.shift);
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

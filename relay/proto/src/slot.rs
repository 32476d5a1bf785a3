//! What a participant receives in one media section: a stream of the relay's own, fed by one source after another, and
//! by one encoding of a source after another.
//!
//! To the receiver it is one sender: sequence numbers, timestamps and frame numbers go on when the source or its encoding
//! changes and where layers are left out, and the CSRC says whose packet it is. Each number of the stream is sealed for one
//! packet only, and once: a source gives each packet out once, and what is asked for again goes out on the retransmission
//! SSRC under a number of its own (RFC 4588).
//!
//! - [`place`]: where each packet goes: [`runs`] has its number, [`selector`] which packets belong to the layers that are shown
//! - [`again`]: what goes out once more
//! - `queue`: what waits until the line has room
//! - `header`: a packet as its receiver gets it
//! - `freezes`, `switches`: what is counted of its pictures

use std::sync::Arc;
use std::time::Instant;

use crate::bandwidth::Priority;
use crate::budget::Budget;
use crate::counters::Counters;
use crate::egress::Egress;
use crate::event::SourceName;
use crate::history::Packet;
use crate::key_frame::Askers;
use crate::layers::Layer;
use crate::line::Line;
use crate::media::{Codec, Downstream, ExtensionIds, Kind, Mid, PayloadType, Section};
use crate::reception::ticks;
use crate::rng::Rng;
use crate::source::Source;

mod again;
mod freezes;
mod header;
mod place;
mod queue;
mod runs;
mod selector;
mod switches;

pub(crate) use again::Again;
use again::RETRANSMISSIONS;
use freezes::Freezes;
use header::{OutHeader, frame_number};
use place::Place;
use queue::Queue;
use runs::Runs;
use selector::Selector;
use switches::Switches;

/// First packets that carry the section's name, for receivers that go by it. The answer names the SSRC anyway.
const MIDS: u8 = 20;

/// What is caught up on at most, in packets. More is a picture without asking its sender more often, and more to send at
/// once: about 300 kB at most.
const CATCH_UP_PACKETS_MAX: u64 = 256;

/// The same while something else of the source is in sight, which stands still meanwhile.
const CATCH_UP_PACKETS_IN_SIGHT: u64 = 24;

/// A line takes one packet of it for so many bits per second that it carries: about half a second in all.
const CATCH_UP_BPS_PER_PACKET: u64 = 20_000;

/// Padding of a packet that has nothing else.
const HOLLOW_PAD: u8 = 1;

/// Whom a client wants to see in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The participant's name: a pin outlives a reload.
    pub participant: Arc<str>,
    /// Which source; none means the screen if there is one, else the camera.
    pub source: Option<SourceName>,
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
    askers: Askers,
    /// What it shows has to begin with a key frame, which its receiver asked for too often to be heard.
    unheard: bool,
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
    /// Picture height its owner has room for, in pixels.
    pub height_max: Option<u32>,
    /// How important it is among its owner's slots: see [`Priority`].
    pub priority: Priority,
    /// What it shows, and what it is to show.
    selector: Selector,
    /// Nothing is sent for it, because the line does not carry it.
    pub paused: bool,
    /// What waits until the line has room.
    pub queue: Queue,
    /// What it shows has to begin with a key frame, which nobody was asked for yet.
    pub wants_key_frame: bool,
    /// How smoothly its pictures leave.
    pub freezes: Freezes,
    /// How often other layers were chosen.
    switches: Switches,
    stream: Downstream,
    /// Two-byte header extensions may come between one-byte ones.
    mixed: bool,
    ids: ExtensionIds,
    payload_types: Vec<PayloadType>,
    /// The receiver's payload type for each of the source's, by position.
    mapped: Vec<Option<PayloadType>>,
    runs: Runs,
    /// What is being caught up on: up to this packet.
    catching_up: Option<u64>,
    /// Timestamp of the newest packet, as it came and as it was sent.
    timestamp: (u32, u32),
    sent_at: Option<Instant>,
    frame: u16,
    rtx_index: u64,
    mids_left: u8,
    budget: Budget,
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
            askers: Askers::default(),
            unheard: false,
            packets: 0,
            octets: 0,
            retransmissions: 0,
            fraction_lost: 0.0,
            reported_packets: 0,
            height_max: None,
            priority: Priority::Rest,
            selector: Selector::default(),
            paused: false,
            queue: Queue::default(),
            wants_key_frame: false,
            freezes: Freezes::default(),
            switches: Switches::default(),
            stream,
            mixed,
            ids: section.extensions,
            payload_types: section.payload_types.clone(),
            mapped: Vec::new(),
            // In the lower half, so that a receiver that misses the first packets still guesses the right roll-over.
            runs: Runs::new(u64::from(rng.next_u32() & 0x3fff)),
            catching_up: None,
            timestamp: (0, rng.next_u32()),
            sent_at: None,
            frame: 0,
            rtx_index: u64::from(rng.next_u32() & 0x3fff),
            mids_left: MIDS,
            budget: Budget::new(RETRANSMISSIONS),
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

    /// Shows a source from now on, or nothing; which layers of it, [`Slot::aim`] says.
    pub(crate) fn show(&mut self, shown: Option<(usize, &Source)>) {
        self.source = shown.map(|(index, _)| index);
        self.untold = true;
        self.unheard = false;
        self.selector.aim(None);
        self.paused = false;
        self.queue.clear();
        self.catching_up = None;
        self.freezes.pause();
        if let Some((_, source)) = shown {
            self.map(source);
        }
    }

    /// Which layers to show from now on; none: nothing, because the line carries no more, which is estimated at
    /// `estimate_bps`. True when a key frame of the layers' encoding has to be asked for now.
    pub(crate) fn aim(
        &mut self,
        now: Instant,
        source: &Source,
        layer: Option<Layer>,
        estimate_bps: Option<u64>,
    ) -> bool {
        let before = self.selector.target();
        if before == layer && layer.is_some() {
            return self.unheard && self.needs_key_frame(source) && self.ask(now, source);
        }
        self.unheard = false;
        self.untold |= self.paused != layer.is_none();
        self.switches.count(before, self.paused, layer);
        self.paused = layer.is_none();
        self.selector.aim(layer);
        let needs_key_frame = self.needs_key_frame(source);
        let Some(layer) = layer else {
            self.queue.clear();
            self.catching_up = None;
            self.freezes.pause();
            return false;
        };
        let shown = self.selector.shown();
        if !self.queue.is_empty() && shown.is_some_and(|shown| layer.encoding < shown.encoding) {
            // What waits of the larger one would only keep the smaller one waiting.
            self.restart();
        }
        let packets_max = if shown.is_some() {
            CATCH_UP_PACKETS_IN_SIGHT
        } else {
            estimate_bps.map_or(u64::MAX, |bits| bits / CATCH_UP_BPS_PER_PACKET).min(CATCH_UP_PACKETS_MAX)
        };
        needs_key_frame && !self.catch_up(now, source, layer.encoding, packets_max) && self.ask(now, source)
    }

    /// Whether a key frame is asked for on behalf of this receiver now. If it had too many, what it waits for is asked for
    /// later, when layers are chosen anew.
    pub(crate) fn ask(&mut self, now: Instant, source: &Source) -> bool {
        let heard = self.kind == Kind::Video && self.askers.allow(now, source.csrc);
        self.unheard = !heard;
        heard
    }

    /// Whether what it is to show has to wait for a key frame.
    pub(crate) fn needs_key_frame(&self, source: &Source) -> bool {
        let encoding = self.selector.target().and_then(|target| source.encoding(target.encoding));
        self.kind == Kind::Video && self.selector.needs_key_frame(encoding)
    }

    /// Lets what was kept of an encoding since its last key frame go first, if that is little: a picture at once, and nobody
    /// has to make a key frame.
    fn catch_up(&mut self, now: Instant, source: &Source, at: u8, packets_max: u64) -> bool {
        let Some(encoding) = source.encoding(at).filter(|encoding| encoding.has_descriptors) else {
            return false;
        };
        let Some((first, newest)) = encoding.since_key_frame(now) else { return false };
        if newest - first >= packets_max {
            return false;
        }
        self.queue.clear();
        self.selector.restart();
        let waiting = |index: &u64| !encoding.pending.contains(index);
        for index in (first..=newest).filter(waiting).filter(|index| encoding.history.contains(*index)) {
            self.queue.push(at, index);
        }
        self.catching_up = Some(newest);
        true
    }

    /// What it has to begin with anew: its next picture is a key frame.
    pub(crate) fn restart(&mut self) {
        self.selector.restart();
        self.queue.clear();
        self.catching_up = None;
    }

    /// Adds what happened to its pictures since it was asked last.
    pub(crate) fn add_to(&mut self, counters: &mut Counters) {
        let Switches { up, down, pauses } = std::mem::take(&mut self.switches);
        counters.layer_switches_up += up;
        counters.layer_switches_down += down;
        counters.slot_pauses += pauses;
        counters.freezes += self.freezes.take_new();
    }

    /// What it is to show of its source; none while it is paused or empty.
    #[must_use]
    pub(crate) fn target(&self) -> Option<Layer> {
        self.selector.target()
    }

    /// What it shows.
    #[must_use]
    pub(crate) fn shown(&self) -> Option<Layer> {
        self.selector.shown()
    }

    /// Whether packets of one of its source's encodings are of interest.
    #[must_use]
    pub(crate) fn cares_for(&self, encoding: u8) -> bool {
        self.selector.cares_for(encoding)
    }

    /// Looks up the receiver's payload types for those of the source that is shown.
    pub(crate) fn map(&mut self, source: &Source) {
        let ours = |theirs: &PayloadType| self.payload_types.iter().find(|ours| ours.means(theirs)).copied();
        self.mapped = source.known_types.iter().map(ours).collect();
    }

    /// Whether the receiver understands sound with redundancy.
    pub(crate) fn takes_redundancy(&self) -> bool {
        self.payload_types.iter().any(|payload_type| payload_type.codec == Codec::OpusRed)
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
        (index, source, at): (usize, &Source, u8),
        (packet, pad): (&Packet<'_>, u8),
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> bool {
        let Some(encoding) = source.encoding(at) else { return false };
        let Some(mapped) = self.mapped.get(usize::from(packet.meta.payload_type)).copied().flatten() else {
            return false;
        };
        let Some(Place { run, number, hollow }) = self.place(now, (index, source), (at, encoding), packet)
        else {
            return false;
        };
        let header = OutHeader {
            payload_type: mapped.number,
            marker: run.portion.ends_picture(&packet.meta),
            index: number,
            timestamp: run.timestamp(packet.meta.timestamp),
            ssrc: self.stream.ssrc,
            csrc: run.csrc,
            mid: (self.mids_left > 0).then_some(self.mid),
            frame_delta: run.frame_delta,
            original: None,
        };
        let packet = &if hollow { packet.hollow() } else { *packet };
        let pad = if hollow { HOLLOW_PAD } else { pad };
        let Some(room) = egress.reserve() else { return false };
        let Some(len) = header.write(now, room, (&self.ids, self.mixed), packet, pad, line) else {
            return false;
        };
        egress.commit(line.path, len);
        line.sent(now, len, false);
        self.runs.sealed(number);
        self.mids_left = self.mids_left.saturating_sub(1);
        self.packets += 1;
        self.octets += packet.payload.len() as u64;
        if number == self.runs.highest {
            self.timestamp = (packet.meta.timestamp, header.timestamp);
            self.sent_at = Some(now);
        }
        if let Some(frame) = frame_number(packet) {
            self.reach(frame.wrapping_add(run.frame_delta));
        }
        if self.kind == Kind::Video && header.marker && !hollow {
            self.freezes.picture(now, self.catching_up.is_some());
        }
        true
    }

    /// A packet has to wait until the line has room. Where too many do, what it shows begins anew.
    pub(crate) fn hold(&mut self, encoding: u8, index: u64) {
        if !self.queue.push(encoding, index) {
            self.restart();
            self.wants_key_frame = true;
        }
    }

    /// Sends what waited, as far as the line has room, and says how many packets that were. None when the arena is full.
    pub(crate) fn send_waiting(
        &mut self,
        now: Instant,
        sources: &[Option<Source>],
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> Option<u64> {
        let mut sent = 0;
        while let Some((at, index)) = self.queue.front() {
            let source = self.source.and_then(|source| Some((source, sources.get(source)?.as_ref()?)));
            let packet = source.and_then(|(_, source)| source.encoding(at)?.history.get(index));
            let (Some((number, source)), Some(packet)) = (source, packet) else {
                // It waited for so long that newer ones took its room: the receiver will ask for a key frame.
                self.queue.pop();
                continue;
            };
            if !line.has_room(now, packet.payload.len()) {
                break;
            }
            if !egress.has_room_for_media() {
                return None;
            }
            self.queue.pop();
            sent += u64::from(self.forward(now, (number, source, at), (&packet, 0), line, egress));
        }
        Some(sent)
    }

    /// The RTP timestamp that media captured now would have, for a sender report. None before anything was sent.
    #[must_use]
    pub(crate) fn timestamp_at(&self, now: Instant, sources: &[Option<Source>]) -> Option<u32> {
        let sent_at = self.sent_at?;
        if let Some(run) = self.runs.newest().filter(|_| self.catching_up.is_none())
            && let Some((_, encoding)) = run.encoding(sources)
            && let Some(clock) = encoding.reception.clock()
        {
            return Some(run.timestamp(clock.timestamp_at(now, encoding.clock_rate())));
        }
        let elapsed = now.saturating_duration_since(sent_at);
        Some(self.timestamp.1.wrapping_add(ticks(elapsed, self.kind.clock_rate())))
    }
}

//! What a participant receives in one media section: a stream of the relay's own, fed by one source after another, and
//! by one encoding of a source after another.
//!
//! To the receiver it is one sender: sequence numbers, timestamps and frame numbers go on when the source or its encoding
//! changes and where layers are left out, and the CSRC says whose packet it is. Each number of the stream is sealed for one
//! packet only, and once: a source gives each packet out once, and what is asked for again goes out on the retransmission
//! SSRC under a number of its own (RFC 4588).
//!
//! - [`runs`]: which number each packet has
//! - [`selector`]: which packets belong to the layers that are shown
//! - `queue`: what waits until the line has room
//! - `header`: a packet as its receiver gets it
//! - `freezes`, `switches`: what is counted of its pictures

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bandwidth::Priority;
use crate::counters::Counters;
use crate::egress::Egress;
use crate::encoding::Encoding;
use crate::event::SourceName;
use crate::history::{Meta, Packet};
use crate::key_frame::Asker;
use crate::layers::Layer;
use crate::line::Line;
use crate::media::{Codec, Downstream, ExtensionIds, Kind, Mid, PayloadType, Section};
use crate::reception::ticks;
use crate::rng::Rng;
use crate::rtp::nearest;
use crate::source::Source;

mod freezes;
mod header;
mod queue;
mod runs;
mod selector;
mod switches;

use freezes::Freezes;
use header::{OutHeader, frame_number};
use queue::Queue;
use runs::{Beginning, Run, Runs};
use selector::{Decision, Selector};
use switches::Switches;

/// First packets that carry the section's name, for receivers that go by it. The answer names the SSRC anyway.
const MIDS: u8 = 20;

/// Retransmissions to one slot at once, and how many more each second. Above what 10 % loss of 5 Mbit/s needs.
const RETRANSMISSIONS_BURST: u32 = 256;
const RETRANSMISSIONS_PER_S: u32 = 500;

/// What is caught up on at most, in packets. More is a picture without asking its sender more often, and more to send at
/// once: about 300 kB at most.
const CATCH_UP_PACKETS_MAX: u64 = 256;

/// The same while something else of the source is in sight, which stands still meanwhile.
const CATCH_UP_PACKETS_IN_SIGHT: u64 = 24;

/// A line takes one packet of it for so many bits per second that it carries: about half a second in all.
const CATCH_UP_BPS_PER_PACKET: u64 = 20_000;

/// Packets that a line is filled with, from the newest back, and how many of them at once.
const PROBE_PACKETS_MAX: u64 = 8;
const PROBE_DATAGRAMS_MAX: usize = 128;

/// Padding of a packet that a line is filled with: as much as its last byte can count.
const PROBE_PAD: u8 = 255;

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

/// Where a packet goes in the stream.
#[derive(Clone, Copy, Debug)]
struct Place {
    run: Run,
    number: u64,
    /// Only its number is needed.
    hollow: bool,
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

    /// Shows a source from now on, or nothing; which layers of it, [`Slot::aim`] says.
    pub(crate) fn show(&mut self, shown: Option<(usize, &Source)>) {
        self.source = shown.map(|(index, _)| index);
        self.untold = true;
        self.asker.reset();
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
    /// `estimate_bps`. True when a key frame of the layers' encoding is needed for it.
    pub(crate) fn aim(
        &mut self,
        now: Instant,
        source: &Source,
        layer: Option<Layer>,
        estimate_bps: Option<u64>,
    ) -> bool {
        let before = self.selector.target();
        if before == layer && layer.is_some() {
            return false;
        }
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
        needs_key_frame && !self.catch_up(now, source, layer.encoding, packets_max)
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

    /// Where a packet goes in the stream. None when it is not for this receiver.
    fn place(
        &mut self,
        now: Instant,
        (index, source): (usize, &Source),
        (at, encoding): (u8, &Encoding),
        packet: &Packet<'_>,
    ) -> Option<Place> {
        let meta = &packet.meta;
        let frame = meta.frame.as_ref();
        if self.selector.shows(at, encoding)
            && let Some(late) = self.runs.late(source, at, encoding, meta.index)
        {
            let (run, number) = late?;
            // Its number was kept for it. If it turns out to be of a layer that is left out, an empty packet takes it:
            // the receiver would ask for it for ever.
            let hollow = !run.portion.has(meta);
            if let Some(frame) = frame.filter(|_| hollow) {
                self.selector.left_out(frame);
            }
            return Some(Place { run, number, hollow });
        }
        let shows = self.selector.shows(at, encoding);
        let after_gap = self.runs.is_after_gap(meta.index);
        let decision = self.selector.decide(self.kind, (at, encoding), meta, after_gap);
        let portion = self.selector.portion(encoding);
        match decision {
            Decision::Skip => {
                if shows {
                    self.runs.skip(meta.index, frame.map(|frame| frame.number));
                    // What is missing before it may still come.
                    if let (Some(frame), Some(run)) = (frame, self.runs.newest()) {
                        self.reach(frame.number.wrapping_add(run.frame_delta));
                    }
                }
                None
            }
            Decision::Begin => {
                let elapsed = self.sent_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
                let timestamp_out =
                    self.timestamp.1.wrapping_add(ticks(elapsed, self.kind.clock_rate()).max(1));
                let run = self.runs.begin(
                    source,
                    at,
                    encoding,
                    Beginning {
                        source: index,
                        index: meta.index,
                        timestamp: meta.timestamp,
                        timestamp_out,
                        frame_delta: frame_number(packet)
                            .map_or(0, |frame| self.frame.wrapping_add(1).wrapping_sub(frame)),
                        portion,
                        catches_up: self.catching_up.is_some(),
                    },
                );
                self.take_up(now, (at, encoding), meta);
                Some(Place { run, number: self.runs.highest, hollow: false })
            }
            Decision::Follow if self.catching_up.is_some_and(|newest| meta.index > newest) => {
                self.catching_up = None;
                let (run, number) = self.runs.catch_up(meta.index, self.timestamp, portion)?;
                Some(Place { run, number, hollow: false })
            }
            Decision::Follow => {
                let starts = frame.filter(|frame| frame.start).map(|frame| frame.number);
                let (run, number) = self.runs.follow(meta.index, starts, portion)?;
                Some(Place { run, number, hollow: false })
            }
        }
    }

    /// What begins came late: what was passed over while it was missing goes right after it.
    fn take_up(&mut self, now: Instant, (at, encoding): (u8, &Encoding), meta: &Meta) {
        let Some((first, newest)) = encoding.since_key_frame(now) else { return };
        if first != meta.index || newest - first >= CATCH_UP_PACKETS_MAX || !encoding.has_descriptors {
            return;
        }
        let passed = encoding.pending.iter().position(|index| *index == first).map_or(0, |at| at + 1);
        let to_come = encoding.pending.get(passed..).unwrap_or_default();
        for index in (first + 1..=newest).rev() {
            if encoding.history.contains(index) && !to_come.contains(&index) {
                self.queue.push_front(at, index);
            }
        }
    }

    /// A frame number of the stream is taken, or kept for what may still come.
    fn reach(&mut self, frame: u16) {
        if frame.wrapping_sub(self.frame) < 0x8000 {
            self.frame = frame;
        }
    }

    /// Seals again, on the retransmission SSRC, what was sent under a sequence number. False when it cannot be.
    pub(crate) fn retransmit(
        &mut self,
        now: Instant,
        sequence: u16,
        sources: &[Option<Source>],
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> bool {
        let number = nearest(self.runs.highest, sequence);
        // What the line owes already is not made more: it is asked for again.
        line.has_room(now, 1)
            && spend(&mut self.budget, &mut self.budget_at, now)
            && self.send_again(now, number, (sources, false), line, egress).is_some()
    }

    /// Fills a line to find out what it carries: packets sent lately go out once more, on the retransmission SSRC. The bytes
    /// that were sent; none when there is nothing to fill it with.
    pub(crate) fn probe(
        &mut self,
        now: Instant,
        bytes: usize,
        sources: &[Option<Source>],
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> usize {
        let mut sent = 0;
        let newest = self.runs.highest;
        for back in (0..PROBE_PACKETS_MAX).cycle().take(PROBE_DATAGRAMS_MAX) {
            if sent >= bytes {
                break;
            }
            let again = self.send_again(now, newest.saturating_sub(back), (sources, true), line, egress);
            let Some(len) = again.or_else(|| {
                // Of what is paused there is nothing to send again.
                let is_paused = self.selector.target().is_none();
                is_paused.then(|| self.send_padding(now, line, egress)).flatten()
            }) else {
                if back == 0 {
                    break;
                }
                continue;
            };
            sent += len;
        }
        sent
    }

    /// Seals a packet of nothing but padding, on the retransmission SSRC.
    fn send_padding(&mut self, now: Instant, line: &mut Line<'_>, egress: &mut Egress) -> Option<usize> {
        let header = OutHeader {
            payload_type: self.payload_types.iter().find_map(|payload_type| payload_type.rtx)?,
            marker: false,
            index: self.rtx_index + 1,
            timestamp: self.timestamp.1,
            ssrc: self.stream.rtx_ssrc?,
            csrc: 0,
            mid: None,
            frame_delta: 0,
            original: None,
        };
        let room = egress.reserve()?;
        let len = header.write(now, room, (&self.ids, self.mixed), &Packet::EMPTY, PROBE_PAD, line)?;
        self.rtx_index += 1;
        egress.commit(line.path, len);
        line.sent(now, len, true);
        Some(len)
    }

    fn send_again(
        &mut self,
        now: Instant,
        number: u64,
        (sources, probe): (&[Option<Source>], bool),
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> Option<usize> {
        let ssrc = self.stream.rtx_ssrc?;
        if number > self.runs.highest {
            return None;
        }
        let (run, index) = self.runs.sent(number)?;
        // Of a picture that nobody waits for any more nothing is missing; it would take the room of the one that is to come.
        if !self.selector.cares_for(run.encoding) {
            return None;
        }
        let (source, encoding) = run.encoding(sources)?;
        let packet = encoding.history.get(index)?;
        let theirs = source.known_types.get(usize::from(packet.meta.payload_type))?;
        let payload_type = self.payload_types.iter().find(|ours| ours.means(theirs))?.rtx?;
        let room = egress.reserve()?;
        let header = OutHeader {
            payload_type,
            marker: run.portion.ends_picture(&packet.meta),
            index: self.rtx_index + 1,
            timestamp: run.timestamp(packet.meta.timestamp),
            ssrc,
            csrc: run.csrc,
            mid: None,
            frame_delta: run.frame_delta,
            #[expect(clippy::cast_possible_truncation, reason = "a sequence number is the lower half")]
            original: Some(number as u16),
        };
        // A number that was only filled is filled again.
        let packet = if run.portion.has(&packet.meta) { packet } else { packet.hollow() };
        let len = header.write(now, room, (&self.ids, self.mixed), &packet, 0, line)?;
        self.rtx_index += 1;
        self.retransmissions += u64::from(!probe);
        egress.commit(line.path, len);
        line.sent(now, len, probe);
        Some(len)
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

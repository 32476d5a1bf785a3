//! What goes to other branches of the call: who is here, what they send that others want, and what is wanted of theirs.
//!
//! A call without other branches does nothing of this.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::Call;
use crate::elsewhere::{Away, Owner, bit};
use crate::event::{EndReason, ParticipantId};
use crate::exchange::{
    Allocation, Batch, Branch, Branches, Clock, Export, Level, Levels, Message, Person, SourceState, Wanted,
};
use crate::media::Kind;
use crate::source::Source;

/// Messages that wait to be taken. The shell takes them after every call; more means that it does not.
const EXPORTS_MAX: usize = 65_536;

/// Packets since the last key frame that a branch gets at once when it begins to want an encoding. More gives a picture
/// without asking its sender more often, and is more to hand over at once.
const CATCH_UP_PACKETS_MAX: u64 = 512;

/// What a call has to do with its other branches.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Those there are.
    pub attached: Branches,
    /// People of theirs,
    pub people: Vec<Option<Away>>,
    /// by their numbers there,
    pub by_id: HashMap<(Branch, ParticipantId), usize>,
    pub by_name: HashMap<Arc<str>, usize>,
    /// and their sources by CSRC.
    pub by_csrc: HashMap<(Branch, u32), usize>,
    /// Of how many speakers each wants to know.
    pub places: HashMap<Branch, u8>,
    /// What waits to be forwarded here was handed over already.
    pub media_shared: bool,
    /// What others were told of this branch: how many speakers it wants to know of, and whether any is heard here.
    told_levels: (u8, bool),
    exports: VecDeque<Export>,
}

impl Exchange {
    fn export(&mut self, to: Branches, message: Message) {
        if !to.is_empty() && self.exports.len() < EXPORTS_MAX {
            self.exports.push_back(Export { to, message });
        }
    }

    /// Of how many speakers any other branch wants to know.
    pub(super) fn places(&self) -> usize {
        self.places.values().copied().max().unwrap_or(0).into()
    }

    /// A sender said what it sends.
    pub(super) fn share_allocation(&mut self, now: Instant, source: &mut Source, value: &[u8]) {
        if !self.attached.is_empty() && source.elsewhere.tells_allocation(now, value) {
            let allocation = Allocation { source: source.csrc, value: value.into() };
            self.export(self.attached, Message::Allocation(allocation));
        }
    }
}

impl Call {
    /// The call has another branch: it is told how things are here.
    pub fn attach(&mut self, now: Instant, branch: Branch) {
        self.exchange.attached.insert(branch);
        self.sources.iter_mut().flatten().for_each(|source| source.elsewhere.forget_allocation());
        let here: Vec<usize> = self.everybody().map(|(index, _)| index).collect();
        for index in here {
            if let Some(person) = self.describe_person(now, index) {
                self.exchange.export(Branches::only(branch), Message::Person(Arc::new(person)));
            }
        }
        // The next tick tells it, too, who is heard.
        self.exchange.told_levels = (0, true);
    }

    /// The next thing for other branches. Take it as often as events.
    pub fn poll_export(&mut self) -> Option<Export> {
        self.exchange.exports.pop_front()
    }

    /// Participants now, on all branches.
    #[must_use]
    pub fn people(&self) -> usize {
        self.participants() + self.exchange.by_id.len()
    }

    /// A participant is new or changed.
    pub(super) fn share_person(&mut self, now: Instant, index: usize) {
        if self.exchange.attached.is_empty() {
            return;
        }
        let Some(person) = self.describe_person(now, index) else { return };
        let Self { participants, sources, exchange, .. } = self;
        let own = participants.get(index).and_then(Option::as_deref).map_or(&[][..], |own| &own.sources);
        for at in own {
            if let Some(source) = sources.get_mut(*at).and_then(Option::as_mut) {
                source.elsewhere.told_live = source.is_live(now);
            }
        }
        exchange.export(exchange.attached, Message::Person(Arc::new(person)));
    }

    /// A participant is gone.
    pub(super) fn share_left(&mut self, id: ParticipantId, reason: EndReason) {
        let replaced = reason == EndReason::Replaced;
        self.exchange.export(self.exchange.attached, Message::Left { id, replaced });
    }

    /// What others have to know at every tick: who is heard, and which sources began or ceased to send.
    pub(super) fn share_state(&mut self, now: Instant) {
        if self.exchange.attached.is_empty() {
            return;
        }
        self.share_levels(now);
        let changed: Vec<usize> = self
            .everybody()
            .filter(|(_, participant)| {
                participant
                    .sources
                    .iter()
                    .filter_map(|at| self.source(*at))
                    .any(|source| source.has_sent() && source.is_live(now) != source.elsewhere.told_live)
            })
            .map(|(index, _)| index)
            .collect();
        changed.into_iter().for_each(|index| self.share_person(now, index));
        for source in self.sources.iter_mut().flatten() {
            let Source { encodings, elsewhere, .. } = source;
            for (at, encoding) in encodings.iter_mut().enumerate() {
                if !elsewhere.takers(at).is_empty() {
                    encoding.wanted(now);
                }
            }
        }
    }

    fn share_levels(&mut self, now: Instant) {
        let levels: Vec<Level> = self
            .sources
            .iter()
            .flatten()
            .filter(|source| source.owner.here().is_some() && source.kind() == Kind::Audio)
            .filter(|source| !source.muted && source.is_live(now))
            .filter_map(|source| {
                let (level, speech) = source.meter.share(now)?;
                Some(Level { source: source.csrc, level, speech })
            })
            .collect();
        let places = u8::try_from(self.places_wanted()).unwrap_or(u8::MAX);
        let told = (places, !levels.is_empty());
        // What everybody knows already is that nobody is heard.
        if told.1 || told != self.exchange.told_levels {
            self.exchange.told_levels = told;
            let levels = Message::Levels(Arc::new(Levels { places, levels }));
            self.exchange.export(self.exchange.attached, levels);
        }
    }

    /// Hands over what waits to be forwarded, as far as other branches want it: before it is sealed for those here, so
    /// that all work at the same time.
    pub(super) fn share_media(&mut self) {
        if self.exchange.attached.is_empty() || self.exchange.media_shared {
            return;
        }
        let Self { sources, pending, exchange, loudest, counters, .. } = self;
        for (at, place) in pending.iter().copied() {
            let Some(source) = sources.get(at).and_then(Option::as_ref) else { continue };
            if source.owner.here().is_none() {
                continue;
            }
            let mut to = source.elsewhere.takers(place);
            if source.kind() == Kind::Audio && loudest.ranked().contains(&at) {
                // Who is heard is heard everywhere, from the first packet on.
                to = to.or(exchange.attached);
            }
            let Some(encoding) = source.encodings.get(place).filter(|_| !to.is_empty()) else { continue };
            if let Some(batch) = batch_of(source, place, encoding.pending.iter().copied()) {
                counters.shared_out += batch.len() as u64;
                exchange.export(to, Message::Media(Arc::new(batch)));
            }
        }
    }

    /// A branch begins to want an encoding: what was forwarded since its last key frame gives it a picture at once.
    pub(super) fn catch_up(&mut self, now: Instant, branch: Branch, at: usize, place: usize) {
        let Some(source) = self.source(at) else { return };
        let Some(encoding) = source.encodings.get(place) else { return };
        let (first, newest) = encoding
            .since_key_frame(now)
            .filter(|(first, newest)| newest.saturating_sub(*first) < CATCH_UP_PACKETS_MAX)
            .unwrap_or((1, 0));
        let Some(mut batch) = batch_of(source, place, first..=newest) else { return };
        batch.fresh = true;
        self.counters.shared_out += batch.len() as u64;
        self.exchange.export(Branches::only(branch), Message::Media(Arc::new(batch)));
    }

    /// A sender's clock was heard of.
    pub(super) fn share_clock(&mut self, at: usize, place: usize) {
        if self.exchange.attached.is_empty() {
            return;
        }
        let Some(source) = self.source(at) else { return };
        let clock = source.encodings.get(place).and_then(|encoding| encoding.reception.clock());
        if let (Some(clock), Ok(encoding)) = (clock, u8::try_from(place)) {
            let clock = Message::Clock(Clock { source: source.csrc, encoding, clock });
            self.exchange.export(self.exchange.attached, clock);
        }
    }

    /// Tells branches which encodings of their sources are wanted here, where that changed.
    pub(super) fn share_wanted(&mut self, now: Instant) {
        if self.exchange.attached.is_empty() {
            return;
        }
        let Self { participants, sources, exchange, .. } = self;
        for source in sources.iter_mut().flatten() {
            let Owner::Elsewhere(away) = source.owner else { continue };
            let slots = source.subscribers.iter().filter_map(|subscriber| {
                participants.get(subscriber.receiver)?.as_deref()?.slots.get(subscriber.slot)
            });
            let (mut encodings, mut height_max) = (0_u8, 0);
            for slot in slots {
                for at in 0..u8::try_from(source.encodings.len()).unwrap_or(0) {
                    if slot.cares_for(at) {
                        encodings |= bit(at);
                    }
                }
                height_max = height_max.max(slot.height_max.unwrap_or(u32::MAX));
            }
            let height = Some(height_max).filter(|height| encodings != 0 && *height < u32::MAX);
            if source.elsewhere.told_wanted == (encodings, height) {
                continue;
            }
            // What is kept of an encoding ends here: nobody must be shown what is old by the time that it is wanted again.
            let before = source.elsewhere.told_wanted.0;
            for (at, encoding) in (0_u8..).zip(&mut source.encodings) {
                if before & !encodings & bit(at) != 0 {
                    encoding.interrupted();
                }
            }
            source.elsewhere.tell_wanted(now, encodings, height);
            if let Some(away) = exchange.people.get(away).and_then(Option::as_ref) {
                let wanted = Wanted { source: source.csrc, encodings, height };
                exchange.export(Branches::only(away.branch), Message::Wanted(wanted));
            }
        }
    }

    /// Asks branches for key frames of their sources that somebody here needs. How often, their own authority decides.
    pub(super) fn share_key_frames(&mut self, now: Instant) {
        if self.exchange.attached.is_empty() {
            return;
        }
        let Self { sources, exchange, .. } = self;
        for source in sources.iter_mut().flatten().filter(|source| source.kind() == Kind::Video) {
            let Owner::Elsewhere(away) = source.owner else { continue };
            let Some(away) = exchange.people.get(away).and_then(Option::as_ref) else { continue };
            let to = Branches::only(away.branch);
            let Source { encodings, elsewhere, csrc, .. } = source;
            for (place, encoding) in (0_u8..).zip(encodings) {
                if elsewhere.awaits(now, place) {
                    continue;
                }
                if encoding.key_frames.poll(now, encoding.has_descriptors) {
                    exchange.export(to, Message::KeyFrame { source: *csrc, encoding: place });
                }
            }
        }
    }

    fn describe_person(&self, now: Instant, index: usize) -> Option<Person> {
        let participant = self.participant(index)?;
        // What never sent anything is a section held in reserve.
        let sources = participant.sources.iter().filter_map(|at| self.source(*at));
        let states = sources.filter(|source| source.has_sent()).map(|source| SourceState {
            csrc: source.csrc,
            mid: source.mid,
            name: source.name,
            muted: source.muted,
            live: source.is_live(now),
            payload_types: source.payload_types.clone(),
            known_types: source.known_types.clone(),
            rids: source.encodings.iter().filter_map(|encoding| encoding.rid).collect(),
        });
        Some(Person {
            id: participant.id,
            name: participant.name.clone(),
            role: participant.role,
            redundancy: participant.takes_redundancy(),
            order: participant.order,
            spoke: participant.spoke,
            quality: participant.quality,
            sources: states.collect(),
        })
    }
}

/// Packets of an encoding, as far as they are kept.
fn batch_of(source: &Source, place: usize, indexes: impl Iterator<Item = u64> + Clone) -> Option<Batch> {
    let encoding = source.encodings.get(place)?;
    let packets = || indexes.clone().filter_map(|index| encoding.history.get(index));
    let bytes = packets().map(|packet| packet.values.len() + packet.payload.len()).sum();
    let key = (source.csrc, u8::try_from(place).ok()?, encoding.generation);
    let mut batch = Batch::new(key, packets().count(), bytes);
    packets().for_each(|packet| batch.push(&packet));
    Some(batch)
}

//! What comes from other branches of the call: their people and sources, to be shown here as if they were here.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use super::Call;
use crate::elsewhere::{Away, Owner, bit};
use crate::event::{Audience, EndReason, Notice, ParticipantId, RosterEntry, SourceEntry, SourceName};
use crate::exchange::{Batch, Branch, Levels, Message, Person, SOURCES_MAX, SourceState, Wanted};
use crate::media::Kind;
use crate::rtp::descriptor::Descriptor;
use crate::source::{Arrival, Source, Taken};

/// People of other branches. More than any call takes only costs memory.
const AWAY_MAX: usize = 4096;

/// A participant of any branch, as far as it matters who shows what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Face<'a> {
    pub name: &'a Arc<str>,
    pub order: u64,
    pub spoke: u64,
    pub(super) sources: &'a [usize],
}

impl Call {
    /// Takes in what another branch said. What follows from it is to be taken out as after a datagram.
    pub fn import(&mut self, now: Instant, from: Branch, message: Message) {
        if !self.exchange.attached.contains(from) {
            return;
        }
        match message {
            Message::Person(person) => self.import_person(now, from, &person),
            Message::Left { id, replaced } => self.import_left(now, (from, id), replaced),
            Message::Media(batch) => self.import_media(now, from, &batch),
            Message::Levels(levels) => self.import_levels(now, from, &levels),
            Message::Allocation(allocation) => {
                if let Some(source) = self.away_source(from, allocation.source) {
                    source.told(now, &allocation.value);
                }
            }
            Message::Clock(clock) => {
                let encoding = self
                    .away_source(from, clock.source)
                    .and_then(|source| source.encodings.get_mut(usize::from(clock.encoding)));
                if let Some(encoding) = encoding {
                    encoding.reception.adopt_clock(clock.clock);
                }
            }
            Message::Wanted(wanted) => self.import_wanted(now, from, wanted),
            Message::KeyFrame { source, encoding } => {
                if let Some(at) = self.own_source(source)
                    && let Some(encoding) = self.encoding_mut(at, usize::from(encoding))
                {
                    encoding.key_frames.want();
                }
            }
        }
    }

    /// A branch is gone, with those who were on it.
    pub fn detach(&mut self, now: Instant, branch: Branch) {
        self.exchange.attached.remove(branch);
        self.exchange.places.remove(&branch);
        let gone: Vec<_> = self.exchange.by_id.keys().filter(|(on, _)| *on == branch).copied().collect();
        for key in gone {
            self.import_left(now, key, false);
        }
        for source in self.sources.iter_mut().flatten() {
            source.elsewhere.want(branch, 0, None);
        }
    }

    fn import_person(&mut self, now: Instant, from: Branch, person: &Person) {
        self.next_order = self.next_order.max(person.order.saturating_add(1));
        // Who joined later stays. Whoever lets people join sees to it that it is the same branch, if it can.
        let before = self.named(&person.name).map(|participant| (participant.order, participant.id));
        if let Some((_, id)) = before.filter(|before| *before < (person.order, person.id)) {
            self.leave(now, id, EndReason::Replaced);
        }
        let key = (from, person.id);
        let known = self.exchange.by_id.get(&key).copied();
        let told = known.and_then(|at| self.away_entry(at));
        let Some(at) = known.or_else(|| self.meet(from, person)) else { return };
        let Some(away) = self.exchange.people.get_mut(at).and_then(Option::as_mut) else { return };
        away.role = person.role;
        away.redundancy = person.redundancy;
        let quality_changed = std::mem::replace(&mut away.quality, person.quality) != person.quality;
        for source in std::mem::take(&mut away.sources) {
            let stays = self.source(source).is_some_and(|source| {
                person.sources.iter().any(|state| state.csrc == source.csrc && source.has_rids(&state.rids))
            });
            if stays {
                if let Some(away) = self.exchange.people.get_mut(at).and_then(Option::as_mut) {
                    away.sources.push(source);
                }
            } else {
                self.forget_away_source(source);
            }
        }
        for state in person.sources.iter().take(SOURCES_MAX) {
            self.import_source(now, from, at, state);
        }
        let entry = self.away_entry(at);
        if entry != told {
            let participants = entry.into_iter().collect();
            self.tell(Audience::Everyone, Notice::Roster { complete: false, participants, left: Vec::new() });
        }
        if quality_changed && !person.sources.is_empty() {
            let (quality, cause) = person.quality;
            let participant = person.name.clone();
            self.tell(Audience::Everyone, Notice::Quality { participant, quality, cause });
        }
        self.rearrange(now);
    }

    /// Somebody of another branch whom this one did not know.
    fn meet(&mut self, from: Branch, person: &Person) -> Option<usize> {
        let people = &mut self.exchange.people;
        let at = people.iter().position(Option::is_none).unwrap_or(people.len());
        if at >= AWAY_MAX {
            return None;
        }
        if at == people.len() {
            people.push(None);
        }
        *people.get_mut(at)? = Some(Away {
            branch: from,
            name: person.name.clone(),
            role: person.role,
            redundancy: person.redundancy,
            order: person.order,
            spoke: person.spoke,
            quality: person.quality,
            sources: Vec::new(),
        });
        self.next_spoke = self.next_spoke.max(person.spoke.saturating_add(1));
        self.exchange.by_id.insert((from, person.id), at);
        self.exchange.by_name.insert(person.name.clone(), at);
        Some(at)
    }

    /// A source of somebody elsewhere is new or changed.
    fn import_source(&mut self, now: Instant, from: Branch, away: usize, state: &SourceState) {
        let at = match self.exchange.by_csrc.entry((from, state.csrc)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let owner = Owner::Elsewhere(away);
                let types = state.payload_types.clone();
                let mut source = Source::new(state.csrc, owner, state.mid, state.name, types, &state.rids);
                source.known_types.clone_from(&state.known_types);
                // Until it is said how loud it is.
                source.meter.adopt(now, None);
                let at = self.sources.iter().position(Option::is_none).unwrap_or(self.sources.len());
                if at == self.sources.len() {
                    self.sources.push(None);
                }
                if let (Some(place), Some(away)) =
                    (self.sources.get_mut(at), self.exchange.people.get_mut(away).and_then(Option::as_mut))
                {
                    *place = Some(source);
                    away.sources.push(at);
                }
                *new.insert(at)
            }
        };
        let Self { participants, sources, .. } = self;
        let Some(source) = sources.get_mut(at).and_then(Option::as_mut) else { return };
        source.name = state.name;
        source.muted = state.muted;
        source.elsewhere.live = Some(state.live);
        if source.payload_types != state.payload_types || source.known_types != state.known_types {
            source.payload_types.clone_from(&state.payload_types);
            source.known_types.clone_from(&state.known_types);
            for subscriber in &source.subscribers {
                let receiver = participants.get_mut(subscriber.receiver).and_then(Option::as_deref_mut);
                if let Some(slot) = receiver.and_then(|receiver| receiver.slots.get_mut(subscriber.slot)) {
                    slot.map(source);
                }
            }
        }
    }

    fn import_left(&mut self, now: Instant, key: (Branch, ParticipantId), replaced: bool) {
        let Some(at) = self.exchange.by_id.remove(&key) else { return };
        let Some(away) = self.exchange.people.get_mut(at).and_then(Option::take) else { return };
        // Somebody who joined again elsewhere has the same name.
        if self.exchange.by_name.get(&away.name) == Some(&at) {
            self.exchange.by_name.remove(&away.name);
        }
        away.sources.iter().for_each(|source| self.forget_away_source(*source));
        if !replaced {
            self.tell_left(&away.name);
        }
        self.rearrange(now);
    }

    fn import_media(&mut self, now: Instant, from: Branch, batch: &Batch) {
        let Some(at) = self.exchange.by_csrc.get(&(from, batch.source)).copied() else { return };
        let place = usize::from(batch.encoding);
        let Self { sources, pending, counters, .. } = self;
        let Some(source) = sources.get_mut(at).and_then(Option::as_mut) else { return };
        let is_video = source.kind() == Kind::Video;
        // Under way when it was said that nobody here wants it any more.
        if is_video && source.elsewhere.told_wanted.0 & bit(batch.encoding) == 0 {
            return;
        }
        let Some(encoding) = source.encodings.get_mut(place) else { return };
        let was_sent = encoding.is_live(now);
        if batch.fresh {
            encoding.interrupted();
            source.elsewhere.caught_up(batch.encoding);
        }
        for packet in batch.packets() {
            let arrival = Arrival {
                ssrc: 0,
                index: packet.index,
                timestamp: packet.timestamp,
                marker: packet.marker,
                payload_type: packet.payload_type,
                elements: &packet.elements,
                payload: packet.payload,
                audio_level: None,
                descriptor: packet.descriptor.and_then(Descriptor::parse),
                descriptor_bytes: packet.descriptor.unwrap_or_default(),
            };
            match encoding.adopt(now, batch.generation, &arrival) {
                Taken::Pending => {
                    counters.shared_in += 1;
                    if encoding.pending.len() == 1 {
                        pending.push((at, place));
                    }
                }
                Taken::Overflow => counters.dropped_egress += 1,
                // What a branch gets to catch up on may come again.
                Taken::Duplicate | Taken::Withheld => {}
            }
        }
        if is_video && !was_sent {
            self.reconsider(now, at);
        }
    }

    fn import_levels(&mut self, now: Instant, from: Branch, levels: &Levels) {
        self.exchange.places.insert(from, levels.places);
        let Self { sources, exchange, .. } = self;
        for ((_, csrc), at) in exchange.by_csrc.iter().filter(|((branch, _), _)| *branch == from) {
            let Some(source) = sources.get_mut(*at).and_then(Option::as_mut) else { continue };
            if source.kind() == Kind::Audio {
                let heard = levels.levels.iter().find(|level| level.source == *csrc);
                source.meter.adopt(now, heard.map(|level| (level.level, level.speech)));
            }
        }
    }

    fn import_wanted(&mut self, now: Instant, from: Branch, wanted: Wanted) {
        let Some(at) = self.own_source(wanted.source) else { return };
        let Some(source) = self.source_mut(at) else { return };
        let new = source.elsewhere.want(from, wanted.encodings, wanted.height);
        let is_video = source.kind() == Kind::Video;
        for place in 0..source.encodings.len() {
            if new & bit(u8::try_from(place).unwrap_or(u8::MAX)) == 0 {
                continue;
            }
            if let Some(encoding) = self.encoding_mut(at, place) {
                encoding.wanted(now);
            }
            if is_video {
                self.catch_up(now, from, at, place);
            }
        }
    }

    /// Tells everybody that somebody left, unless they are there again.
    pub(super) fn tell_left(&mut self, name: &Arc<str>) {
        let here = self.everybody().any(|(_, participant)| participant.name == *name);
        if !here && !self.exchange.people.iter().flatten().any(|away| away.name == *name) {
            let left = vec![name.clone()];
            self.tell(Audience::Everyone, Notice::Roster { complete: false, participants: Vec::new(), left });
        }
    }

    /// Whose a source is.
    pub(super) fn face(&self, owner: Owner) -> Option<Face<'_>> {
        match owner {
            Owner::Here(index) => self.participant(index).map(|participant| Face {
                name: &participant.name,
                order: participant.order,
                spoke: participant.spoke,
                sources: &participant.sources,
            }),
            Owner::Elsewhere(at) => self.exchange.people.get(at)?.as_ref().map(|away| Face {
                name: &away.name,
                order: away.order,
                spoke: away.spoke,
                sources: &away.sources,
            }),
        }
    }

    /// Somebody by name, but not this receiver.
    pub(super) fn find(&self, name: &Arc<str>, receiver: usize) -> Option<Owner> {
        let here = self.by_name.get(name).copied().filter(|at| *at != receiver).map(Owner::Here);
        here.or_else(|| self.exchange.by_name.get(name).copied().map(Owner::Elsewhere))
    }

    /// Somebody's source by name.
    pub(super) fn source_by(&self, owner: Owner, name: SourceName) -> Option<usize> {
        let sources = self.face(owner)?.sources;
        sources.iter().copied().find(|at| self.source(*at).is_some_and(|source| source.name == name))
    }

    /// Somebody began to speak.
    pub(super) fn set_spoke(&mut self, owner: Owner, spoke: u64) {
        let place = match owner {
            Owner::Here(index) => self.participant_mut(index).map(|participant| &mut participant.spoke),
            Owner::Elsewhere(at) => {
                self.exchange.people.get_mut(at).and_then(Option::as_mut).map(|away| &mut away.spoke)
            }
        };
        if let Some(place) = place {
            *place = spoke;
        }
    }

    /// The turn of whoever began to speak last.
    pub(super) fn latest_spoke(&self) -> u64 {
        let here = self.everybody().map(|(_, participant)| participant.spoke);
        let elsewhere = self.exchange.people.iter().flatten().map(|away| away.spoke);
        here.chain(elsewhere).max().unwrap_or(0)
    }

    /// People of other branches, as others see them.
    pub(super) fn roster_elsewhere(&self) -> impl Iterator<Item = RosterEntry> {
        (0..self.exchange.people.len()).filter_map(|at| self.away_entry(at))
    }

    /// How good connections of people of other branches are, where that is not as it should be.
    pub(super) fn quality_elsewhere(&self) -> Vec<Notice> {
        let people = self.exchange.people.iter().flatten();
        let poor = people.filter(|away| !away.sources.is_empty() && away.quality.1.is_some());
        poor.map(|away| {
            let (quality, cause) = away.quality;
            Notice::Quality { participant: away.name.clone(), quality, cause }
        })
        .collect()
    }

    fn away_entry(&self, at: usize) -> Option<RosterEntry> {
        let away = self.exchange.people.get(at)?.as_ref()?;
        let sources = away
            .sources
            .iter()
            .filter_map(|at| self.source(*at))
            .map(|source| SourceEntry { source: source.name, muted: source.muted, csrc: source.csrc })
            .collect();
        Some(RosterEntry {
            participant: away.name.clone(),
            role: away.role,
            redundancy: away.redundancy,
            sources,
        })
    }

    fn away_source(&mut self, from: Branch, csrc: u32) -> Option<&mut Source> {
        let at = *self.exchange.by_csrc.get(&(from, csrc))?;
        self.source_mut(at)
    }

    /// A source of somebody here.
    fn own_source(&self, csrc: u32) -> Option<usize> {
        let is_it = |source: &Source| source.csrc == csrc && source.owner.here().is_some();
        self.sources.iter().position(|source| source.as_ref().is_some_and(is_it))
    }

    fn forget_away_source(&mut self, at: usize) {
        self.exchange.by_csrc.retain(|_, known| *known != at);
        self.remove_source(at);
    }
}

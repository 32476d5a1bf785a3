//! Who speaks, and which source each slot shows.

use std::sync::Arc;
use std::time::Instant;

use super::Call;
use crate::allocate::{Place, choose};
use crate::elsewhere::Owner;
use crate::event::{Audience, Notice, ParticipantId, SourceName};
use crate::layers::Layer;
use crate::media::Kind;
use crate::participant::Participant;
use crate::slot;
use crate::source::{Source, Subscriber};

/// The loudest sources that are ranked: as many as the most audio slots anybody has, and one for those who are among
/// them and do not hear themselves.
const LOUDEST_MAX: usize = 17;

impl Call {
    /// Ranks speakers, and lets slots follow.
    pub(super) fn listen(&mut self, now: Instant) {
        let audible = self.sources.iter().enumerate().filter_map(|(at, source)| {
            let source = source.as_ref()?;
            let heard = source.kind() == Kind::Audio && !source.meter.is_silent(now);
            (heard && self.is_there(now, at)).then(|| (at, source.meter.smoothed()))
        });
        let audible: Vec<_> = audible.collect();
        let places = self.places_wanted().max(self.exchange.places()).min(LOUDEST_MAX);
        let mut changed = self.loudest.rank(audible.into_iter(), places);
        changed |= self.hear_speakers(now);
        changed |= self.order_video(now);
        if changed {
            self.rearrange(now);
        }
    }

    /// How many speakers have to be known here.
    pub(super) fn places_wanted(&self) -> usize {
        let slots = |participant: &Participant| participant.slots_of(Kind::Audio).count();
        let most = self.everybody().map(|(_, participant)| slots(participant)).max().unwrap_or(0);
        (1 + most).min(LOUDEST_MAX)
    }

    /// Tells who speaks, when that changed. True when somebody began.
    fn hear_speakers(&mut self, now: Instant) -> bool {
        let speaking: Vec<(Owner, Arc<str>)> = self
            .loudest
            .ranked()
            .iter()
            .filter_map(|at| self.source(*at))
            .filter(|source| source.name == SourceName::Microphone && source.meter.is_speech(now))
            .filter_map(|source| Some((source.owner, self.face(source.owner)?.name.clone())))
            .collect();
        if speaking.len() == self.speakers.len()
            && speaking.iter().zip(&self.speakers).all(|(a, b)| a.1 == *b)
        {
            return false;
        }
        let mut began = false;
        // The loudest of those who began last: it is the most recent speaker.
        for (owner, name) in speaking.iter().rev() {
            if !self.speakers.contains(name) {
                began = true;
                let spoke = self.next_spoke;
                self.next_spoke += 1;
                self.set_spoke(*owner, spoke);
            }
        }
        self.speakers = speaking.into_iter().map(|(_, name)| name).collect();
        self.tell(Audience::Everyone, Notice::Speakers { speakers: self.speakers.clone() });
        began
    }

    /// Orders video sources, most wanted first: screens, then cameras of the most recent speakers, then by joining.
    /// True when the order changed.
    fn order_video(&mut self, now: Instant) -> bool {
        let mut order: Vec<(bool, u64, u64, usize)> = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(at, source)| {
                let source = source.as_ref()?;
                let shown = source.kind() == Kind::Video && self.is_there(now, at);
                let owner = self.face(source.owner).filter(|_| shown)?;
                Some((source.name != SourceName::Screen, u64::MAX - owner.spoke, owner.order, at))
            })
            .collect();
        order.sort_unstable();
        if order.len() == self.video_order.len()
            && order.iter().zip(&self.video_order).all(|(a, b)| a.3 == *b)
        {
            return false;
        }
        self.video_order.clear();
        self.video_order.extend(order.into_iter().map(|(.., at)| at));
        true
    }

    /// Whether a source is to be heard and seen: it is sent, and is the first of its owner's under that name that is. Else one
    /// participant could take all slots of everybody.
    fn is_there(&self, now: Instant, at: usize) -> bool {
        let is_sent = |source: &Source| !source.muted && source.is_live(now);
        let Some(source) = self.source(at).filter(|source| is_sent(source)) else { return false };
        let Some(owner) = self.face(source.owner) else { return false };
        let same = |other: &Source| other.name == source.name && is_sent(other);
        owner.sources.iter().find(|other| self.source(**other).is_some_and(same)) == Some(&at)
    }

    /// Gives every slot the source it should show now, and tells those whose slots changed.
    pub(super) fn rearrange(&mut self, now: Instant) {
        self.order_video(now);
        for index in 0..self.participants.len() {
            self.arrange(now, index);
        }
        self.share_wanted(now);
    }

    /// The same for one participant alone: nobody else is concerned.
    pub(super) fn arrange(&mut self, now: Instant, index: usize) {
        let Some(participant) = self.participant(index) else { return };
        let mut changes: Vec<(usize, Option<usize>)> = Vec::new();
        for kind in [Kind::Audio, Kind::Video] {
            let wanted: &[usize] = match kind {
                Kind::Audio => self.loudest.ranked(),
                Kind::Video => &self.video_order,
            };
            let slots: Vec<usize> = participant.slots_of(kind).map(|(at, _)| at).collect();
            let places: Vec<Place> = participant
                .slots_of(kind)
                .map(|(_, slot)| Place {
                    shows: slot.source,
                    pin: slot.pin.as_ref().map(|pin| self.pinned(index, slot, pin)),
                })
                .collect();
            let fits = |at: &usize| {
                self.source(*at).is_some_and(|source| {
                    source.owner != Owner::Here(index)
                        && !source.muted
                        && participant.slots_of(kind).next().is_some_and(|(_, slot)| slot.can_show(source))
                })
            };
            // Whoever fell silent keeps a slot that nobody needs: it costs nothing, and the next word is heard
            // from its first packet on.
            let keep = |at: usize| {
                kind == Kind::Audio
                    && self
                        .source(at)
                        .is_some_and(|source| source.owner != Owner::Here(index) && !source.muted)
            };
            let chosen = choose(&places, wanted.iter().copied().filter(fits), keep);
            changes.extend(
                slots
                    .into_iter()
                    .zip(&places)
                    .zip(chosen)
                    .filter(|((_, place), to)| place.shows != *to)
                    .map(|((slot, _), to)| (slot, to)),
            );
        }
        self.show(now, index, &changes);
        self.tell_slots(index);
    }

    /// What a pin stands for now, if that is there.
    fn pinned(&self, receiver: usize, slot: &slot::Slot, pin: &slot::Pin) -> Option<usize> {
        let owner = self.find(&pin.participant, receiver)?;
        let names = match (pin.source, slot.kind) {
            (Some(name), _) => [name, name],
            (None, Kind::Video) => [SourceName::Screen, SourceName::Camera],
            (None, Kind::Audio) => [SourceName::Microphone, SourceName::ScreenAudio],
        };
        names.into_iter().find_map(|name| {
            self.source_by(owner, name)
                .filter(|at| self.source(*at).is_some_and(|source| !source.muted && slot.can_show(source)))
        })
    }

    /// Carries a choice out for one receiver.
    fn show(&mut self, now: Instant, index: usize, changes: &[(usize, Option<usize>)]) {
        for (at, to) in changes {
            let subscriber = Subscriber { receiver: index, slot: *at };
            let Self { participants, sources, .. } = self;
            let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) else {
                return;
            };
            let Some(slot) = participant.slots.get_mut(*at) else { continue };
            if let Some(before) =
                slot.source.and_then(|before| sources.get_mut(before)).and_then(Option::as_mut)
            {
                before.subscribers.retain(|known| *known != subscriber);
            }
            let Some(source) = to.and_then(|to| sources.get_mut(to)).and_then(Option::as_mut) else {
                slot.show(None);
                continue;
            };
            slot.show(to.map(|to| (to, &*source)));
            if slot.kind == Kind::Audio {
                slot.aim(now, source, Some(Layer::SOUND), None);
            } else {
                source.refresh(now);
            }
            source.subscribers.push(subscriber);
        }
        if !changes.is_empty() {
            self.allocate(now, index);
        }
    }

    /// Tells a participant of its slots that changed.
    pub(super) fn tell_slots(&mut self, index: usize) {
        let Some(participant) = self.participant(index).filter(|p| p.slots.iter().any(|slot| slot.untold))
        else {
            return;
        };
        let untold = participant.slots.iter().filter(|slot| slot.untold);
        let slots = untold.map(|slot| self.slot_entry(slot)).collect();
        let id = participant.id;
        self.tell(Audience::One(id), Notice::Slots { slots });
        let Some(participant) = self.participant_mut(index) else { return };
        for slot in &mut participant.slots {
            slot.untold = false;
        }
    }

    /// Everything anew for one participant: its events connection just began.
    pub fn resend_state(&mut self, id: ParticipantId) {
        let Some(index) = self.by_id.get(&id).copied() else { return };
        let Some(participant) = self.participant(index) else { return };
        let here = self.everybody().map(|(at, _)| at).filter_map(|at| self.roster_entry(at));
        let roster = here.chain(self.roster_elsewhere()).collect();
        let slots = participant.slots.iter().map(|slot| self.slot_entry(slot)).collect();
        let (quality, cause) = participant.quality;
        let name = participant.name.clone();
        let speakers = self.speakers.clone();
        // Of the others only what is not as it should be.
        let others: Vec<Notice> = self
            .everybody()
            .filter(|(at, other)| *at != index && !other.sources.is_empty() && other.quality.1.is_some())
            .map(|(_, other)| {
                let (quality, cause) = other.quality;
                Notice::Quality { participant: other.name.clone(), quality, cause }
            })
            .collect();
        let to = Audience::One(id);
        self.tell(to, Notice::Roster { complete: true, participants: roster, left: Vec::new() });
        self.tell(to, Notice::Slots { slots });
        self.tell(to, Notice::Speakers { speakers });
        self.tell(to, Notice::Quality { participant: name, quality, cause });
        for notice in others.into_iter().chain(self.quality_elsewhere()) {
            self.tell(to, notice);
        }
        self.tell_all_wanted(index);
    }
}

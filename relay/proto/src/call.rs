//! One call: its participants, what they send, and who sees and hears whom.
//!
//! # Layout
//! - `receive`: a datagram from the network to a source's history
//! - `send`: from there to everybody who receives it
//! - `feedback`: reports, lost packets and key frames, in both directions
//! - `show`: who speaks, and which source each slot shows
//! - `adapt`: which layers of it, as each receiver's line carries, and what senders need not send
//! - `branches`, `import`: what goes to other branches of a call that is in several places, and what comes from them
//! - `view`: the roster, and what operators see

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::congestion::Downlink;
use crate::counters::Counters;
use crate::dtls;
use crate::egress::{DATAGRAM_BYTES_MAX, Egress};
use crate::elsewhere::Owner;
use crate::encoding::Encoding;
use crate::event::{Audience, EndReason, Event, Notice, ParticipantId, Pin, Request, Role, SourceName};
use crate::ice::Agent;
use crate::media::{Description, IceCredentials, Mid, Upstream};
use crate::participant::Participant;
use crate::path::Path;
use crate::receivers::Receivers;
use crate::rng::Rng;
use crate::slot::{self, Slot};
use crate::source::{Source, Subscriber};
use crate::speaker::Loudest;

mod adapt;
mod branches;
mod feedback;
mod import;
mod receive;
mod send;
mod show;
mod view;

/// How often speakers are ranked, reports and time-outs looked at. Shorter notices a first word sooner.
const TICK: Duration = Duration::from_millis(50);

/// How often lost packets are looked at while any is missing.
const LOSS_TICK: Duration = Duration::from_millis(10);

/// Events that wait to be taken. The shell takes them after every call; more means that it does not.
const EVENTS_MAX: usize = 65_536;

/// What a call is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Participants at a time.
    pub participants_max: usize,
    /// The certificate and limits of DTLS handshakes, shared by all calls of the node.
    pub dtls: Arc<dtls::Settings>,
    /// Where numbers that only have to differ come from. Draw it at random; a test gives the same for the same run.
    pub seed: u64,
}

/// Who joins, and with what.
#[derive(Debug)]
pub struct Join {
    /// The shell's number for it.
    pub id: ParticipantId,
    /// The name from the join token.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// What offer and answer agreed on.
    pub description: Description,
    /// The relay's credentials in the answer.
    pub ice: IceCredentials,
}

/// Why somebody cannot join, or change what they agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// As many participants as the call takes.
    #[error("the call is full")]
    Full,
    /// No such participant, any more.
    #[error("this participant has left")]
    Gone,
    /// A change of certificate needs a new join.
    #[error("the certificate fingerprint changed: leave, and join anew")]
    Fingerprint,
    /// A media section changed its name or kind.
    #[error("media section {0} is not what it was")]
    Section(usize),
}

/// Why a request cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No such participant, any more.
    #[error("this participant has left")]
    Gone,
    /// No slot of that name.
    #[error("no slot of this name")]
    NoSuchSlot,
    /// No source of that name.
    #[error("this participant sends no such source")]
    NoSuchSource,
    /// An audio source for a video slot, or the other way round.
    #[error("slot and source are of different kinds")]
    WrongKind,
}

/// One call. Drive it so: `handle_*` or [`Call::join`] and the like, then [`Call::poll_egress`] until it says that
/// nothing is left (sending and clearing in between), then [`Call::poll_event`] until it is empty; the call wants
/// [`Call::handle_timeout`] at [`Call::poll_timeout`].
pub struct Call {
    settings: Settings,
    began: Instant,
    rng: Rng,
    participants: Vec<Option<Box<Participant>>>,
    by_id: HashMap<ParticipantId, usize>,
    by_name: HashMap<Arc<str>, usize>,
    by_path: HashMap<Path, usize>,
    by_ufrag: HashMap<String, usize>,
    sources: Vec<Option<Source>>,
    /// Sources and their encodings with packets that wait to be forwarded, and how far forwarding got.
    pending: Vec<(usize, usize)>,
    cursor: send::Cursor,
    /// Datagrams that close DTLS with those who left.
    farewells: Vec<(Path, Vec<u8>)>,
    pads: Vec<u8>,
    loudest: Loudest,
    video_order: Vec<usize>,
    speakers: Vec<Arc<str>>,
    next_order: u64,
    next_spoke: u64,
    tick_at: Option<Instant>,
    loss_at: Option<Instant>,
    /// When people's lines are looked at for room.
    pace_at: Option<Instant>,
    exchange: branches::Exchange,
    events: VecDeque<Event>,
    counters: Counters,
    receivers: Receivers,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("participants", &self.by_id.len()).finish_non_exhaustive()
    }
}

impl Call {
    /// A call without participants.
    #[must_use]
    pub fn new(now: Instant, settings: Settings) -> Self {
        Self {
            rng: Rng::new(settings.seed),
            settings,
            began: now,
            participants: Vec::new(),
            by_id: HashMap::new(),
            by_name: HashMap::new(),
            by_path: HashMap::new(),
            by_ufrag: HashMap::new(),
            sources: Vec::new(),
            pending: Vec::new(),
            cursor: send::Cursor::default(),
            farewells: Vec::new(),
            pads: Vec::new(),
            loudest: Loudest::default(),
            video_order: Vec::new(),
            speakers: Vec::new(),
            next_order: 0,
            next_spoke: 1,
            tick_at: None,
            loss_at: None,
            pace_at: None,
            exchange: branches::Exchange::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            receivers: Receivers::default(),
        }
    }

    /// Takes a participant in. One of the same name is replaced.
    ///
    /// # Errors
    /// When the call is full.
    pub fn join(&mut self, now: Instant, join: Join) -> Result<(), JoinError> {
        let Join { id, name, role, description, ice } = join;
        let before = self.named(&name).map(|participant| participant.id);
        if before.is_none() && self.by_id.len() >= self.settings.participants_max {
            return Err(JoinError::Full);
        }
        if let Some(before) = before {
            self.leave(now, before, EndReason::Replaced);
        }
        let index = self.participants.iter().position(Option::is_none).unwrap_or(self.participants.len());
        let agent = Agent::new(now, ice.clone(), description.ice.clone());
        let mut participant = Box::new(Participant::new(
            now,
            id,
            name.clone(),
            role,
            self.next_order,
            agent,
            &self.settings.dtls,
            description.fingerprint,
            &mut self.rng,
        ));
        self.next_order += 1;
        self.agree(now, index, &mut participant, description);
        if index == self.participants.len() {
            self.participants.push(None);
        }
        if let Some(place) = self.participants.get_mut(index) {
            *place = Some(participant);
        }
        self.by_id.insert(id, index);
        self.by_name.insert(name, index);
        self.by_ufrag.insert(ice.ufrag, index);
        self.counters.joins += 1;
        self.tick_at.get_or_insert(now + TICK);
        self.announce(now, index);
        self.rearrange(now);
        Ok(())
    }

    /// A new offer of a participant: more sections, other directions, an ICE restart (new `ice`).
    ///
    /// # Errors
    /// When it is gone, or changed what cannot change.
    pub fn update(
        &mut self,
        now: Instant,
        id: ParticipantId,
        description: Description,
        ice: Option<IceCredentials>,
    ) -> Result<(), JoinError> {
        let (index, mut participant) = self.take_out(id).ok_or(JoinError::Gone)?;
        let verdict = if participant.fingerprint == description.fingerprint {
            let changed = participant
                .sections
                .iter()
                .zip(&description.sections)
                // A section that was rejected or stopped may become another (RFC 8829, section 5.2.2).
                .position(|(was, is)| {
                    (was.mid != is.mid || was.kind != is.kind) && !was.payload_types.is_empty()
                });
            changed.map_or(Ok(()), |section| Err(JoinError::Section(section)))
        } else {
            Err(JoinError::Fingerprint)
        };
        if verdict.is_ok() {
            if let Some(ice) = ice {
                self.by_ufrag.insert(ice.ufrag.clone(), index);
                participant.ice.restart(now, ice, description.ice.clone());
                forget_ufrags(&mut self.by_ufrag, index, &participant.ice);
            }
            self.agree(now, index, &mut participant, description);
        }
        self.put_back(index, participant);
        if verdict.is_ok() {
            self.announce(now, index);
            self.rearrange(now);
        }
        verdict
    }

    /// An ICE restart alone (RFC 8840 fragment): new credentials on both sides, media as it was.
    ///
    /// # Errors
    /// When the participant is gone.
    pub fn restart_ice(
        &mut self,
        now: Instant,
        id: ParticipantId,
        remote: IceCredentials,
        local: IceCredentials,
    ) -> Result<(), JoinError> {
        let index = *self.by_id.get(&id).ok_or(JoinError::Gone)?;
        let participant =
            self.participants.get_mut(index).and_then(Option::as_deref_mut).ok_or(JoinError::Gone)?;
        self.by_ufrag.insert(local.ufrag.clone(), index);
        participant.ice.restart(now, local, remote);
        forget_ufrags(&mut self.by_ufrag, index, &participant.ice);
        Ok(())
    }

    /// Lets a participant go, who is told so, by DTLS too (RFC 9725, section 4.2). Not an error when it is gone.
    pub fn leave(&mut self, now: Instant, id: ParticipantId, reason: EndReason) {
        let Some((index, mut participant)) = self.take_out(id) else { return };
        self.say_farewell(&mut participant);
        participant.slots.iter_mut().for_each(|slot| slot.add_to(&mut self.counters));
        self.by_id.remove(&id);
        self.by_name.remove(&participant.name);
        self.by_path.retain(|_, at| *at != index);
        self.by_ufrag.retain(|_, at| *at != index);
        for source in &participant.sources {
            self.remove_source(*source);
        }
        for source in self.sources.iter_mut().flatten() {
            source.subscribers.retain(|subscriber| subscriber.receiver != index);
        }
        self.tell(Audience::One(id), Notice::Ended { reason });
        self.share_left(id, reason);
        if reason != EndReason::Replaced {
            self.tell_left(&participant.name);
        }
        if self.by_id.is_empty() {
            self.tick_at = None;
            self.loss_at = None;
            self.pace_at = None;
            self.speakers.clear();
        }
        self.rearrange(now);
    }

    /// Ends the call for everybody.
    pub fn end(&mut self, now: Instant, reason: EndReason) {
        let everybody: Vec<ParticipantId> = self.by_id.keys().copied().collect();
        for id in everybody {
            self.leave(now, id, reason);
        }
    }

    /// What a participant asks for.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn request(&mut self, now: Instant, id: ParticipantId, request: Request) -> Result<(), RequestError> {
        let index = *self.by_id.get(&id).ok_or(RequestError::Gone)?;
        match request {
            Request::Pin(pin) => {
                self.pin(index, pin)?;
                self.arrange(now, index);
                self.share_wanted(now);
            }
            Request::Mute(mute) => {
                let source = self.source_of(index, mute.source).ok_or(RequestError::NoSuchSource)?;
                let Some(source) = self.source_mut(source) else { return Err(RequestError::NoSuchSource) };
                // Everybody is told of what changed, and is not to be bothered with what did not.
                if source.muted == mute.muted {
                    return Ok(());
                }
                source.muted = mute.muted;
                self.announce(now, index);
                self.rearrange(now);
            }
        }
        Ok(())
    }

    /// A path is gone: its connection closed. Media goes on by the one heard last, if there is another.
    pub fn handle_closed(&mut self, path: Path) {
        let Some(index) = self.by_path.remove(&path) else { return };
        let Self { participants, sources, counters, .. } = self;
        let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let before = participant.ice.path();
        participant.ice.forget(path);
        if let Some(to) = participant.ice.path().filter(|after| before != Some(*after)) {
            feedback::moved(participant, sources, counters, before, to);
        }
    }

    /// What was to go out on a path was dropped, because the path was too slow for it: packets of these SSRCs. What they
    /// show has to begin anew. SSRCs of sound, of retransmissions and of nobody do not matter.
    pub fn handle_dropped(&mut self, now: Instant, path: Path, ssrcs: impl IntoIterator<Item = u32>) {
        let Some(index) = self.by_path.get(&path).copied() else { return };
        for ssrc in ssrcs {
            self.begin_anew(now, index, ssrc);
        }
    }

    /// Whether a path belongs to a participant.
    #[must_use]
    pub fn knows(&self, path: Path) -> bool {
        self.by_path.contains_key(&path)
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Instant, egress: &mut Egress) {
        if self.loss_at.is_some_and(|at| at <= now) {
            self.loss_at = None;
            self.ask_again(now, egress);
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = Some(now + TICK);
            self.tick(now, egress);
        }
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.tick_at, self.loss_at, self.pace_at].into_iter().flatten().min()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Participants now.
    #[must_use]
    pub fn participants(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a participant is in the call.
    #[must_use]
    pub fn has(&self, id: ParticipantId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Counts since the call began.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the lines of its people are like, since the call began.
    #[must_use]
    pub fn receivers(&self) -> &Receivers {
        &self.receivers
    }

    /// Time-outs, handshakes, reports, speakers.
    fn tick(&mut self, now: Instant, egress: &mut Egress) {
        let mut gone = Vec::new();
        for index in 0..self.participants.len() {
            let Some(participant) = self.participants.get_mut(index).and_then(Option::as_deref_mut) else {
                continue;
            };
            if participant.ice.poll_timeout() <= now && participant.ice.handle_timeout(now).is_some() {
                gone.push((participant.id, EndReason::TimedOut));
                continue;
            }
            if participant.dtls.poll_timeout().is_some_and(|at| at <= now) {
                if participant.dtls.handle_timeout(now).is_err() {
                    gone.push((participant.id, EndReason::Refused));
                    continue;
                }
                self.send_handshake(index, egress);
            }
        }
        for (id, reason) in gone {
            self.leave(now, id, reason);
        }
        self.report(now, egress);
        self.tell_arrivals(now, egress);
        self.share_state(now);
        self.listen(now);
        self.adapt_all(now);
        self.share_wanted(now);
        self.follow_moves(now);
        self.send_key_frame_requests(now, egress);
    }

    /// Makes sources and slots of what was agreed on; those that stay keep their streams.
    fn agree(&mut self, now: Instant, index: usize, participant: &mut Participant, description: Description) {
        let may_send = participant.role == Role::Presenter;
        for at in std::mem::take(&mut participant.sources) {
            let stays = self.source(at).is_some_and(|source| {
                let same = |send: &Upstream| source.has_rids(&send.rids);
                let mut sections = description.sections.iter().filter(|section| section.mid == source.mid);
                may_send && sections.any(|section| section.send.as_ref().is_some_and(same))
            });
            if stays {
                participant.sources.push(at);
            } else {
                self.remove_source(at);
                participant.streams.retain(|stream| stream.source != at);
            }
        }
        for section in description.sections.iter().filter(|section| may_send && section.send.is_some()) {
            let Some(send) = &section.send else { continue };
            let name = SourceName::of(section.kind, send.content);
            let known = participant
                .sources
                .iter()
                .copied()
                .find(|at| self.source(*at).is_some_and(|source| source.mid == section.mid));
            let Self { sources, participants, .. } = self;
            if let Some(source) = known.and_then(|at| sources.get_mut(at)).and_then(Option::as_mut) {
                if source.renegotiate(name, &section.payload_types) {
                    for subscriber in &source.subscribers {
                        let receiver =
                            participants.get_mut(subscriber.receiver).and_then(Option::as_deref_mut);
                        if let Some(slot) =
                            receiver.and_then(|receiver| receiver.slots.get_mut(subscriber.slot))
                        {
                            slot.map(source);
                        }
                    }
                }
                continue;
            }
            // A CSRC is never used again, so that nobody takes an old packet for a new source's.
            let csrc = self.rng.next_u32();
            let source = Source::new(
                csrc,
                Owner::Here(index),
                section.mid,
                name,
                section.payload_types.clone(),
                &send.rids,
            );
            let at = self.sources.iter().position(Option::is_none).unwrap_or(self.sources.len());
            if at == self.sources.len() {
                self.sources.push(None);
            }
            if let Some(place) = self.sources.get_mut(at) {
                *place = Some(source);
            }
            participant.sources.push(at);
        }

        let mut slots = Vec::new();
        for section in &description.sections {
            let known = participant.slots.iter().position(|slot| slot.mid == section.mid);
            let slot = match known.map(|at| participant.slots.swap_remove(at)) {
                Some(mut slot) if section.receive.is_some() => {
                    slot.renegotiate(section);
                    Some(slot)
                }
                _ => Slot::new(section, description.extmap_allow_mixed, &mut self.rng),
            };
            slots.extend(slot);
        }
        participant.slots = slots;
        participant.sections = description.sections;
        participant.agree_on_feedback(now);
        // Slots may stand at other places than before.
        for source in self.sources.iter_mut().flatten() {
            source.subscribers.retain(|subscriber| subscriber.receiver != index);
        }
        for (slot, at) in participant.slots.iter().enumerate().filter_map(|(slot, s)| Some((slot, s.source?)))
        {
            if let Some(source) = self.source_mut(at) {
                source.subscribers.push(Subscriber { receiver: index, slot });
            }
        }
    }

    /// Closes DTLS with somebody who leaves; it is sent with the next media.
    fn say_farewell(&mut self, participant: &mut Participant) {
        let Some(path) = participant.ice.path() else { return };
        participant.dtls.close();
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        while let Some(len) = participant.dtls.poll_transmit(&mut datagram) {
            self.farewells.extend(datagram.get(..len).map(|datagram| (path, datagram.to_vec())));
        }
    }

    fn pin(&mut self, index: usize, pin: Pin) -> Result<(), RequestError> {
        let mid = Mid::new(&pin.slot).ok_or(RequestError::NoSuchSlot)?;
        let began = self.began;
        let participant = self.participant_mut(index).ok_or(RequestError::Gone)?;
        let slot =
            participant.slots.iter_mut().find(|slot| slot.mid == mid).ok_or(RequestError::NoSuchSlot)?;
        if pin.source.is_some_and(|source| source.kind() != slot.kind) {
            return Err(RequestError::WrongKind);
        }
        let was_pinned = slot.pin.is_some();
        slot.height_max = pin.height.filter(|height| *height > 0);
        slot.pin = pin.participant.map(|name| slot::Pin { participant: name.into(), source: pin.source });
        slot.untold |= slot.pin.is_some() != was_pinned;
        // What fits into another height may be another layer.
        participant.allocate_at = began;
        Ok(())
    }

    fn tell(&mut self, to: Audience, notice: Notice) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(Event { to, notice });
        }
    }

    fn everybody(&self) -> impl Iterator<Item = (usize, &Participant)> {
        self.participants.iter().enumerate().filter_map(|(index, place)| Some((index, place.as_deref()?)))
    }

    fn participant(&self, index: usize) -> Option<&Participant> {
        self.participants.get(index)?.as_deref()
    }

    fn participant_mut(&mut self, index: usize) -> Option<&mut Participant> {
        self.participants.get_mut(index)?.as_deref_mut()
    }

    fn named(&self, name: &str) -> Option<&Participant> {
        self.participant(*self.by_name.get(name)?)
    }

    fn take_out(&mut self, id: ParticipantId) -> Option<(usize, Box<Participant>)> {
        let index = *self.by_id.get(&id)?;
        Some((index, self.participants.get_mut(index)?.take()?))
    }

    fn put_back(&mut self, index: usize, participant: Box<Participant>) {
        if let Some(place) = self.participants.get_mut(index) {
            *place = Some(participant);
        }
    }

    fn source(&self, index: usize) -> Option<&Source> {
        self.sources.get(index)?.as_ref()
    }

    fn source_mut(&mut self, index: usize) -> Option<&mut Source> {
        self.sources.get_mut(index)?.as_mut()
    }

    fn encoding_mut(&mut self, source: usize, encoding: usize) -> Option<&mut Encoding> {
        self.source_mut(source)?.encodings.get_mut(encoding)
    }

    fn downlink_mut(&mut self, index: usize) -> Option<&mut Downlink> {
        self.participant_mut(index)?.downlink.as_deref_mut()
    }

    /// A participant's source by name.
    fn source_of(&self, index: usize, name: SourceName) -> Option<usize> {
        let participant = self.participant(index)?;
        participant
            .sources
            .iter()
            .copied()
            .find(|at| self.source(*at).is_some_and(|source| source.name == name))
    }

    /// A source ends: nobody shows it any more.
    fn remove_source(&mut self, at: usize) {
        let Some(source) = self.sources.get_mut(at).and_then(Option::take) else { return };
        for subscriber in &source.subscribers {
            let slot =
                self.participant_mut(subscriber.receiver).and_then(|p| p.slots.get_mut(subscriber.slot));
            if let Some(slot) = slot {
                slot.show(None);
            }
        }
        self.pending.retain(|(pending, _)| *pending != at);
        self.cursor = send::Cursor::default();
        self.loudest.remove(at);
    }
}

/// After an ICE restart: user names that the agent no longer answers to.
fn forget_ufrags(by_ufrag: &mut HashMap<String, usize>, index: usize, agent: &Agent) {
    by_ufrag.retain(|ufrag, at| *at != index || agent.local_ufrags().any(|known| known == ufrag));
}

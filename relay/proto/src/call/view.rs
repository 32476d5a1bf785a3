//! The roster as people see it, and the call as operators do.

use std::time::Instant;

use super::Call;
use crate::event::{Audience, Notice, RosterEntry, SlotEntry, SourceEntry};
use crate::participant::Participant;
use crate::slot::Slot;
use crate::snapshot::{ParticipantSnapshot, SlotSnapshot, Snapshot, SourceSnapshot};

impl Call {
    /// What the API shows of it.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut everybody: Vec<&Participant> = self.everybody().map(|(_, participant)| participant).collect();
        everybody.sort_by_key(|participant| participant.order);
        Snapshot {
            participants: everybody.into_iter().map(|participant| self.describe(now, participant)).collect(),
        }
    }

    /// Tells everybody what a participant is and sends now, if that is not what they were told last.
    pub(super) fn announce(&mut self, now: Instant, index: usize) {
        self.share_person(now, index);
        let Some(entry) = self.roster_entry(index) else { return };
        let Some(participant) = self.participant_mut(index) else { return };
        if participant.told.as_ref() == Some(&entry) {
            return;
        }
        participant.told = Some(entry.clone());
        let participants = vec![entry];
        self.tell(Audience::Everyone, Notice::Roster { complete: false, participants, left: Vec::new() });
    }

    pub(super) fn roster_entry(&self, index: usize) -> Option<RosterEntry> {
        let participant = self.participant(index)?;
        let sources = participant
            .sources
            .iter()
            .filter_map(|at| self.source(*at))
            // What never sent anything is a section held in reserve.
            .filter(|source| source.has_sent())
            .map(|source| SourceEntry { source: source.name, muted: source.muted, csrc: source.csrc })
            .collect();
        Some(RosterEntry {
            participant: participant.name.clone(),
            role: participant.role,
            redundancy: participant.takes_redundancy(),
            sources,
        })
    }

    pub(super) fn slot_entry(&self, slot: &Slot) -> SlotEntry {
        let source = slot.source.and_then(|at| self.source(at));
        SlotEntry {
            slot: slot.mid.as_str().to_owned(),
            participant: source.and_then(|source| Some(self.face(source.owner)?.name.clone())),
            source: source.map(|source| source.name),
            csrc: source.map(|source| source.csrc),
            pinned: slot.pin.is_some(),
            paused: slot.paused,
        }
    }

    fn describe(&self, now: Instant, participant: &Participant) -> ParticipantSnapshot {
        let sources: Vec<_> = participant.sources.iter().filter_map(|at| self.source(*at)).collect();
        let encodings = sources.iter().flat_map(|source| &source.encodings);
        let uplink_loss = encodings
            .filter(|encoding| encoding.is_live(now))
            .map(|encoding| encoding.reception.fraction_lost)
            .fold(0.0, f64::max);
        ParticipantSnapshot {
            order: participant.order,
            participant: participant.name.clone(),
            role: participant.role,
            state: if participant.secure.is_some() { "connected" } else { "joining" },
            transport: participant.ice.path().map(|path| path.transport().name()),
            srtp_profile: participant.secure.as_ref().map(|secure| secure.profile.name()),
            quality: participant.quality.0,
            quality_cause: participant.quality.1,
            estimate_bps: participant.downlink.as_ref().and_then(|downlink| downlink.estimate_bps()),
            queue_delay_ms: participant
                .downlink
                .as_ref()
                .map(|downlink| downlink.queue_delay().as_secs_f64() * 1000.0),
            rtt_ms: participant.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            downlink_loss: participant.downlink_loss(),
            uplink_loss,
            sources: sources
                .iter()
                .map(|source| SourceSnapshot {
                    source: source.name,
                    csrc: source.csrc,
                    muted: source.muted,
                    packets: source.encodings.iter().map(|encoding| encoding.packets).sum(),
                    lost: source.encodings.iter().map(|encoding| encoding.losses.lost).sum(),
                    repaired: source.encodings.iter().map(|encoding| encoding.losses.repaired).sum(),
                    key_frame_requests: source
                        .encodings
                        .iter()
                        .map(|encoding| encoding.key_frames.requests)
                        .sum(),
                    encodings: source.describe_encodings(now),
                })
                .collect(),
            slots: participant
                .slots
                .iter()
                .map(|slot| {
                    let source = slot.source.and_then(|at| self.source(at));
                    SlotSnapshot {
                        slot: slot.mid.as_str().to_owned(),
                        participant: source.and_then(|source| Some(self.face(source.owner)?.name.clone())),
                        source: source.map(|source| source.name),
                        packets: slot.packets,
                        retransmissions: slot.retransmissions,
                        layer: slot.shown().and_then(|layer| source?.describe_layer(layer)),
                        paused: slot.paused,
                        lost: slot.fraction_lost,
                        freezes: slot.freezes.count,
                    }
                })
                .collect(),
        }
    }
}

//! RTCP in both directions: reports are made here, not passed on; what receivers miss is sent again from a source's
//! history; what is missing itself, and key frames, are asked of its sender by one authority.

use std::time::{Duration, Instant};

use super::{Call, LOSS_TICK};
use crate::congestion::Arrivals;
use crate::counters::Counters;
use crate::egress::Egress;
use crate::encoding::Encoding;
use crate::event::{Audience, Notice};
use crate::media::Kind;
use crate::participant::Participant;
use crate::path::{Path, Transport};
use crate::rtcp::{self, Packet, Writer};
use crate::slot::{Again, Slot};
use crate::source::Source;

/// Between two reports to one participant (RFC 3550 recommends 5 s; round-trip times and lip sync want it sooner).
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The name of the relay's streams in source descriptions. It says nothing of people.
const CNAME: &str = "trunkline";

/// Packets asked for in one NACK message.
const NACKS_MAX: usize = 256;

/// Tag and index of SRTCP.
const SRTCP_GROWTH_MAX: usize = 20;

/// Round-trip times above this are clocks gone wrong.
const RTT_MAX: Duration = Duration::from_secs(10);

impl Call {
    /// Opened RTCP of a participant.
    pub(super) fn handle_feedback(
        &mut self,
        now: Instant,
        index: usize,
        datagram: &[u8],
        egress: &mut Egress,
    ) {
        for packet in rtcp::packets(datagram) {
            let Ok(packet) = packet else {
                self.counters.dropped_malformed += 1;
                return;
            };
            match packet {
                Packet::SenderReport { ssrc, ntp, rtp, blocks, .. } => {
                    let stream = self.participant(index).and_then(|participant| participant.stream(ssrc));
                    if let Some(stream) = stream.filter(|stream| !stream.rtx)
                        && let Some(encoding) = self.encoding_mut(stream.source, stream.encoding)
                    {
                        encoding.reception.sender_report(now, ntp, rtp);
                        self.share_clock(stream.source, stream.encoding);
                    }
                    blocks.for_each(|block| self.handle_block(now, index, &block));
                }
                Packet::ReceiverReport { blocks, .. } => {
                    blocks.for_each(|block| self.handle_block(now, index, &block))
                }
                Packet::Nack { media, lost, .. } => self.send_again(now, index, media, lost, egress),
                Packet::Pli { media, .. } => self.want_key_frame(now, index, media),
                Packet::Fir { entries, .. } => {
                    entries.for_each(|(ssrc, _)| self.want_key_frame(now, index, ssrc))
                }
                Packet::TransportFeedback(feedback) => {
                    if let Some(downlink) = self.downlink_mut(index) {
                        downlink.feedback(now, &feedback);
                    }
                }
                Packet::Remb { bits_per_s, .. } => {
                    if let Some(downlink) = self.downlink_mut(index) {
                        downlink.remb(now, bits_per_s);
                    }
                }
                Packet::Bye { .. } | Packet::Other => {}
            }
        }
        self.send_key_frame_requests(now, egress);
        self.adapt(now, index);
    }

    /// How well a participant receives one of its slots.
    fn handle_block(&mut self, now: Instant, index: usize, block: &rtcp::Block) {
        let middle = ntp_middle(now.saturating_duration_since(self.began));
        let Some(participant) = self.participant_mut(index) else { return };
        let Some(slot) = participant.slots.iter_mut().find(|slot| slot.ssrc() == block.ssrc) else { return };
        slot.fraction_lost = f64::from(block.fraction_lost) / 256.0;
        if block.last_sr != 0 {
            let ticks = middle.wrapping_sub(block.last_sr).wrapping_sub(block.delay);
            let rtt = Duration::from_nanos(u64::from(ticks) * 1_000_000_000 / 65_536);
            if rtt < RTT_MAX {
                participant.rtt = Some(rtt);
            }
        }
        let (loss, rtt) = (participant.downlink_loss(), participant.rtt);
        if let Some(downlink) = participant.downlink.as_deref_mut() {
            downlink.report_loss(now, loss, rtt);
        }
    }

    fn send_again(
        &mut self,
        now: Instant,
        index: usize,
        media: u32,
        lost: rtcp::Lost<'_>,
        egress: &mut Egress,
    ) {
        let Self { participants, sources, counters, .. } = self;
        let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let Some((mut line, slots)) = participant.line_and_slots(self.began) else { return };
        // A connection loses nothing. What is missing there was too old for it, or is still to come from its sender.
        if line.path.transport() != Transport::Udp {
            counters.nacks_in += lost.len() as u64;
            return;
        }
        let Some(slot) = slots.iter_mut().find(|slot| slot.ssrc() == media) else { return };
        counters.nacks_in += lost.len() as u64;
        for sequence in lost {
            let before = egress.len();
            match slot.retransmit(now, sequence, sources, &mut line, egress) {
                Again::Sent => {
                    counters.retransmissions_out += 1;
                    counters.bytes_out += (egress.len() - before) as u64;
                }
                Again::Gone => {}
                Again::Enough => break,
            }
        }
    }

    fn want_key_frame(&mut self, now: Instant, index: usize, media: u32) {
        self.counters.key_frame_requests_in += 1;
        self.begin_anew(now, index, media);
    }

    /// What a participant is shown under an SSRC has to begin with a key frame again, if it has not had that too often.
    pub(super) fn begin_anew(&mut self, now: Instant, index: usize, media: u32) {
        let Self { participants, sources, .. } = self;
        let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) else { return };
        if let Some(slot) = participant.slots.iter_mut().find(|slot| slot.ssrc() == media) {
            want_key_frame(now, slot, sources);
        }
    }

    /// Somebody can receive from now on: what its video slots show has to begin with a key frame.
    pub(super) fn start_video(&mut self, index: usize) {
        let Self { participants, sources, .. } = self;
        let Some(participant) = participants.get(index).and_then(Option::as_deref) else { return };
        for (_, slot) in participant.slots_of(Kind::Video) {
            if let Some((source, at)) = shown_by(slot, sources)
                && let Some(encoding) = source.encodings.get_mut(at)
            {
                encoding.key_frames.want();
            }
        }
    }

    /// What people's slots show begins anew where media goes to them by a network of another kind than before: what was
    /// under way is lost, and waiting until it is asked for again would take longer than a new picture. Who goes to and fro
    /// is heard no more often than who asks for key frames.
    pub(super) fn follow_moves(&mut self, now: Instant) {
        let Self { participants, sources, .. } = self;
        for participant in participants.iter_mut().flatten() {
            let Some(transport) = participant.ice.path().map(|path| path.transport()) else { continue };
            if participant.transport.replace(transport).is_some_and(|before| before != transport) {
                for slot in participant.slots.iter_mut().filter(|slot| slot.kind == Kind::Video) {
                    want_key_frame(now, slot, sources);
                }
            }
        }
    }

    /// Asks senders for the key frames that are due.
    pub(super) fn send_key_frame_requests(&mut self, now: Instant, egress: &mut Egress) {
        let Self { participants, sources, counters, .. } = self;
        for source in sources.iter_mut().flatten().filter(|source| source.kind() == Kind::Video) {
            let payload_type = source.payload_types.first();
            let pli = payload_type.is_none_or(|payload_type| payload_type.pli || !payload_type.fir);
            for encoding in source.encodings.iter_mut().filter(|encoding| encoding.key_frames.is_waiting()) {
                let Some(media) = encoding.ssrc() else { continue };
                let owner = source.owner.here().and_then(|at| participants.get_mut(at));
                let Some(owner) = owner.and_then(Option::as_deref_mut) else {
                    continue;
                };
                if owner.secure.is_none() || !encoding.key_frames.poll(now, encoding.has_descriptors) {
                    continue;
                }
                let asked = u8::try_from(encoding.key_frames.requests & 0xff).unwrap_or(0);
                counters.bytes_out += send_rtcp(owner, egress, |writer, feedback| {
                    writer.receiver_report(feedback, &[])
                        && if pli {
                            writer.pli(feedback, media)
                        } else {
                            writer.fir(feedback, &[(media, asked)])
                        }
                });
                counters.key_frame_requests_out += 1;
            }
        }
        self.share_key_frames(now);
    }

    /// Asks senders for packets that are missing.
    pub(super) fn ask_again(&mut self, now: Instant, egress: &mut Egress) {
        let Self { participants, sources, counters, .. } = self;
        let mut missing = false;
        for source in sources.iter_mut().flatten() {
            for encoding in source.encodings.iter_mut().filter(|encoding| !encoding.losses.is_empty()) {
                let owner = source.owner.here().and_then(|at| participants.get_mut(at));
                let Some(owner) = owner.and_then(Option::as_deref_mut) else {
                    continue;
                };
                let mut wanted = [0_u64; NACKS_MAX];
                let mut count = 0;
                let lost = encoding.losses.lost;
                encoding.losses.poll(now, owner.rtt, |index| {
                    if let Some(place) = wanted.get_mut(count) {
                        *place = index;
                        count += 1;
                    }
                });
                missing |= !encoding.losses.is_empty();
                if encoding.losses.lost > lost {
                    // Nobody gets it any more. Receivers would ask for a key frame too, once they gave up themselves.
                    encoding.key_frames.want();
                }
                if count == 0 {
                    continue;
                }
                let Some(media) = encoding.ssrc() else { continue };
                counters.nacks_out += count as u64;
                let encoding: &Encoding = encoding;
                let sequences = wanted.iter().take(count).map(|index| encoding.sequence(*index));
                counters.bytes_out += send_rtcp(owner, egress, |writer, feedback| {
                    writer.receiver_report(feedback, &[]) && writer.nack(feedback, media, sequences)
                });
            }
        }
        if missing {
            self.loss_at = Some(now + LOSS_TICK);
        }
    }

    /// Sender and receiver reports that are due, and what they say of people's connections.
    pub(super) fn report(&mut self, now: Instant, egress: &mut Egress) {
        let ntp = ntp(now.saturating_duration_since(self.began));
        for index in 0..self.participants.len() {
            let Self { participants, sources, counters, receivers, .. } = self;
            let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) else {
                continue;
            };
            if participant.report_at > now {
                continue;
            }
            participant.report_at = now + REPORT_INTERVAL;
            if participant.secure.is_none() {
                continue;
            }
            let mut uplink_loss: f64 = 0.0;
            let mut blocks = [rtcp::Block::default(); rtcp::COUNT_MAX];
            let mut count = 0;
            for at in &participant.sources {
                let Some(source) = sources.get_mut(*at).and_then(Option::as_mut) else { continue };
                for encoding in source.encodings.iter_mut().filter(|encoding| encoding.is_live(now)) {
                    let Some(ssrc) = encoding.ssrc() else { continue };
                    if let (Some(block), Some(place)) =
                        (encoding.reception.report(now, ssrc), blocks.get_mut(count))
                    {
                        *place = block;
                        count += 1;
                        uplink_loss = uplink_loss.max(encoding.reception.fraction_lost);
                    }
                }
            }
            let blocks = blocks.get(..count).unwrap_or_default();
            let remb = participant.uplink.as_ref().and_then(|uplink| uplink.estimate_bps());
            let slots = std::mem::take(&mut participant.slots);
            counters.bytes_out += send_rtcp(participant, egress, |writer, feedback| {
                let mut first = true;
                for slot in slots.iter().filter(|slot| slot.packets > slot.reported_packets) {
                    let Some(timestamp) = slot.timestamp_at(now, sources) else { continue };
                    let blocks = if first { blocks } else { &[] };
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "counts in a sender report wrap (RFC 3550)"
                    )]
                    let (packets, octets) = (slot.packets as u32, slot.octets as u32);
                    writer.sender_report(slot.ssrc(), ntp, timestamp, packets, octets, blocks);
                    if first {
                        writer.sdes_cname(slot.ssrc(), CNAME);
                    }
                    first = false;
                }
                // A compound packet begins with a report (RFC 3550, section 6.1).
                (!first || (blocks.is_empty() && remb.is_none()) || writer.receiver_report(feedback, blocks))
                    && remb.is_none_or(|bits_per_s| writer.remb(feedback, bits_per_s, &[]))
            });
            participant.slots = slots;
            for slot in &mut participant.slots {
                slot.reported_packets = slot.packets;
                slot.add_to(counters);
            }
            receivers.read(participant, (!blocks.is_empty()).then_some(uplink_loss));
            if participant.judge(now, uplink_loss) {
                self.tell_quality(index);
                self.share_person(now, index);
            }
        }
    }

    /// What came from each participant, for its estimate of how much it can send.
    pub(super) fn tell_arrivals(&mut self, now: Instant, egress: &mut Egress) {
        let Self { participants, sources, counters, .. } = self;
        for participant in participants.iter_mut().flatten() {
            let is_due = |arrivals: &mut Box<Arrivals>| arrivals.poll_timeout().is_some_and(|at| at <= now);
            if let Some(mut arrivals) = participant.arrivals.take_if(is_due) {
                let media = participant
                    .sources
                    .iter()
                    .filter_map(|at| sources.get(*at)?.as_ref())
                    .find_map(|source| source.encodings.iter().find_map(Encoding::ssrc))
                    .unwrap_or(0);
                counters.bytes_out += send_rtcp(participant, egress, |writer, feedback| {
                    arrivals.write(now, writer, feedback, media)
                });
                participant.arrivals = Some(arrivals);
            }
        }
    }

    /// Tells how good somebody's connection is: everybody, if it sends, since others see and hear that; else itself.
    fn tell_quality(&mut self, index: usize) {
        let Some(participant) = self.participant(index) else { return };
        let (quality, cause) = participant.quality;
        let to =
            if participant.sources.is_empty() { Audience::One(participant.id) } else { Audience::Everyone };
        let participant = participant.name.clone();
        self.tell(to, Notice::Quality { participant, quality, cause });
    }
}

/// Media of a participant goes by another path than before. What it sent by a network of another kind is lost, and waiting
/// until it is asked for again would take longer than a new picture. For what it is sent see [`Call::follow_moves`].
pub(super) fn moved(
    participant: &mut Participant,
    sources: &mut [Option<Source>],
    counters: &mut Counters,
    from: Option<Path>,
    to: Path,
) {
    let Some(from) = from else { return };
    counters.migrations += 1;
    if let Some(downlink) = participant.downlink.as_deref_mut()
        && (from.transport(), from.remote.ip()) != (to.transport(), to.remote.ip())
    {
        downlink.moved();
    }
    if from.transport() != to.transport() {
        for at in &participant.sources {
            if let Some(source) = sources.get_mut(*at).and_then(Option::as_mut) {
                source.encodings.iter_mut().for_each(|encoding| encoding.key_frames.want());
            }
        }
    }
}

/// What a slot shows has to begin with a key frame, if its receiver has not had that too often.
fn want_key_frame(now: Instant, slot: &mut Slot, sources: &mut [Option<Source>]) {
    if let Some((source, at)) = shown_by(slot, sources)
        && slot.ask(now, source)
        && let Some(encoding) = source.encodings.get_mut(at)
    {
        encoding.key_frames.want();
    }
}

/// What a slot shows, or is to show: the source, and which of its encodings.
fn shown_by<'a>(slot: &Slot, sources: &'a mut [Option<Source>]) -> Option<(&'a mut Source, usize)> {
    let layer = slot.shown().or(slot.target())?;
    Some((sources.get_mut(slot.source?)?.as_mut()?, usize::from(layer.encoding)))
}

/// Writes and seals one RTCP datagram. Bytes of it; none when there is nothing to say or no way to.
fn send_rtcp(
    participant: &mut Participant,
    egress: &mut Egress,
    write: impl FnOnce(&mut Writer<'_>, u32) -> bool,
) -> u64 {
    let feedback = participant.feedback_ssrc;
    let Some(path) = participant.ice.path() else { return 0 };
    let Some(secure) = participant.secure.as_mut() else { return 0 };
    let Some(room) = egress.reserve() else { return 0 };
    let Some(plain) = room.len().checked_sub(SRTCP_GROWTH_MAX) else { return 0 };
    let Some(plain) = room.get_mut(..plain) else { return 0 };
    let mut writer = Writer::new(plain);
    // What did not fit is said another time.
    let _ = write(&mut writer, feedback);
    let len = writer.len();
    if len == 0 {
        return 0;
    }
    let len = secure.sealer.seal_rtcp(room, len);
    egress.commit(path, len);
    len as u64
}

/// Time since the call began as a 32.32 fixed point number of seconds. RFC 3550 asks for wall-clock time only of
/// those who have it and would be compared by it; receivers need one clock for all streams.
fn ntp(elapsed: Duration) -> u64 {
    // An hour ahead, since a middle part of zero means that no report came.
    ((elapsed.as_secs() + 3600) << 32) | ((u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000)
}

#[expect(clippy::cast_possible_truncation, reason = "the middle 32 bits")]
fn ntp_middle(elapsed: Duration) -> u32 {
    (ntp(elapsed) >> 16) as u32
}

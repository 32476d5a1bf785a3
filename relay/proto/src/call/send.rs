//! From a source's history to everybody who receives it: one train of datagrams per receiver.

use std::time::{Duration, Instant};

use super::Call;
use crate::bandwidth::Priority;
use crate::egress::Egress;
use crate::encoding::Encoding;
use crate::history::{History, Packet};
use crate::line::Line;
use crate::media::Kind;
use crate::slot::Slot;
use crate::source::Source;

/// Packets of one train that differ by no more than this are padded to one size, so that segmentation offload takes
/// them together. Senders split a picture into packets that differ by a byte or two.
const PAD_MAX: usize = 16;

/// How often what waits for room on people's lines is looked at. Shorter makes trains shorter, longer makes video later.
const PACE: Duration = Duration::from_millis(5);

/// How far forwarding got when the arena was full.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    encoding: usize,
    subscriber: usize,
    packet: usize,
}

impl Cursor {
    fn next_encoding(self) -> Self {
        Self { encoding: self.encoding + 1, subscriber: 0, packet: 0 }
    }
}

impl Call {
    /// Seals what was received since the last time for those who receive it, as much as `egress` takes. True when
    /// there is more: send, clear, and call again.
    pub fn poll_egress(&mut self, now: Instant, egress: &mut Egress) -> bool {
        for (path, datagram) in self.farewells.drain(..) {
            egress.push(path, &datagram);
            self.counters.bytes_out += datagram.len() as u64;
        }
        self.share_media();
        let more = self.forward_pending(now, egress) || self.send_waiting(now, egress);
        self.exchange.media_shared = more;
        more
    }

    /// What just came goes to everybody whose line has room for it; for the others it waits.
    fn forward_pending(&mut self, now: Instant, egress: &mut Egress) -> bool {
        let Self { participants, sources, pending, cursor, pads, counters, began, pace_at, .. } = self;
        while let Some((at, place)) = pending.get(cursor.encoding).copied() {
            let source = sources.get(at).and_then(Option::as_ref);
            let Some((source, encoding)) =
                source.and_then(|source| Some((source, source.encodings.get(place)?)))
            else {
                *cursor = cursor.next_encoding();
                continue;
            };
            let place = u8::try_from(place).unwrap_or(u8::MAX);
            let is_video = source.kind() == Kind::Video;
            if cursor.subscriber == 0 && cursor.packet == 0 {
                equalise(encoding, pads);
            }
            while let Some(subscriber) = source.subscribers.get(cursor.subscriber) {
                let receiver = participants.get_mut(subscriber.receiver).and_then(Option::as_deref_mut);
                let mut held = false;
                if let Some((mut line, slots)) = receiver.and_then(|receiver| receiver.line_and_slots(*began))
                    && let Some(slot) = slots.get_mut(subscriber.slot).filter(|slot| slot.cares_for(place))
                {
                    while let Some(index) = encoding.pending.get(cursor.packet) {
                        if !egress.has_room_for_media() {
                            return true;
                        }
                        let pad = pads.get(cursor.packet).copied().unwrap_or(0);
                        if let Some(packet) = encoding.history.get(*index) {
                            let len = packet.payload.len();
                            if is_video && (!slot.queue.is_empty() || !line.has_room(now, len)) {
                                slot.hold(place, *index);
                                held = true;
                            } else {
                                let before = egress.len();
                                let what = (at, source, place);
                                if slot.forward(now, what, (&packet, pad), &mut line, egress) {
                                    counters.media_out += 1;
                                    counters.bytes_out += (egress.len() - before) as u64;
                                }
                            }
                        }
                        cursor.packet += 1;
                    }
                    // Also what was passed over before its key frame came.
                    held |= !slot.queue.is_empty();
                }
                if held
                    && let Some(receiver) =
                        participants.get_mut(subscriber.receiver).and_then(Option::as_deref_mut)
                {
                    receiver.waits = true;
                    *pace_at = Some(pace_at.map_or(now + PACE, |at| at.min(now + PACE)));
                }
                cursor.subscriber += 1;
                cursor.packet = 0;
            }
            *cursor = cursor.next_encoding();
        }
        for (at, place) in pending.drain(..) {
            let source = sources.get_mut(at).and_then(Option::as_mut);
            if let Some(encoding) = source.and_then(|source| source.encodings.get_mut(place)) {
                encoding.pending.clear();
            }
        }
        *cursor = Cursor::default();
        false
    }

    /// What waited, where lines have room by now; and what lines are filled with to find out what they carry.
    fn send_waiting(&mut self, now: Instant, egress: &mut Egress) -> bool {
        if self.pace_at.is_none_or(|at| at > now) {
            return false;
        }
        let Self { participants, sources, counters, began, .. } = self;
        let mut again = None;
        for participant in participants.iter_mut().flatten() {
            let probes = participant.downlink.as_ref().and_then(|downlink| downlink.poll_timeout());
            if !participant.waits && probes.is_none_or(|at| at > now) {
                again = again.into_iter().chain(probes).min();
                continue;
            }
            let Some((mut line, slots)) = participant.line_and_slots(*began) else { continue };
            let mut waits = false;
            // The most important ones first.
            for priority in Priority::ALL {
                for slot in slots.iter_mut().filter(|slot| slot.priority == priority) {
                    let before = egress.len();
                    let Some(sent) = slot.send_waiting(now, sources, &mut line, egress) else { return true };
                    counters.media_out += sent;
                    counters.bytes_out += (egress.len() - before) as u64;
                    waits |= !slot.queue.is_empty();
                }
            }
            let before = egress.len();
            fill(now, slots, sources, &mut line, egress);
            counters.probe_bytes_out += (egress.len() - before) as u64;
            counters.bytes_out += (egress.len() - before) as u64;
            let probes = line.downlink.as_ref().and_then(|downlink| downlink.poll_timeout());
            participant.waits = waits;
            let due = probes.into_iter().chain(waits.then_some(now + PACE)).min();
            again = again.into_iter().chain(due).min();
        }
        self.pace_at = again.map(|at: Instant| at.max(now + PACE));
        false
    }

    /// Something waits, or wants to be sent, at a time: the lines are looked at then.
    pub(super) fn pace(&mut self, at: Instant) {
        self.pace_at = Some(self.pace_at.map_or(at, |before| before.min(at)));
    }
}

/// Sends what a probe wants sent.
fn fill(
    now: Instant,
    slots: &mut [Slot],
    sources: &[Option<Source>],
    line: &mut Line<'_>,
    egress: &mut Egress,
) {
    let Some(bytes) = line.downlink.as_mut().map(|downlink| downlink.poll_probe(now)).filter(|b| *b > 0)
    else {
        return;
    };
    let mut left = bytes;
    for slot in slots.iter_mut().filter(|slot| slot.kind == Kind::Video && slot.source.is_some()) {
        left = left.saturating_sub(slot.probe(now, left, sources, line, egress));
        if left == 0 {
            return;
        }
    }
}

/// How much padding each waiting packet of an encoding gets.
fn equalise(encoding: &Encoding, pads: &mut Vec<u8>) {
    pads.clear();
    pads.resize(encoding.pending.len(), 0);
    if encoding.pending.len() < 2 {
        return;
    }
    let size = |at: usize| encoding.pending.get(at).and_then(|index| size(&encoding.history, *index));
    let mut start = 0;
    while start < pads.len() {
        let Some((mut low, mut high)) = size(start).map(|size| (size, size)) else {
            start += 1;
            continue;
        };
        let mut end = start + 1;
        while let Some(next) = size(end) {
            let (lower, higher) = (low.min(next), high.max(next));
            if higher - lower > PAD_MAX {
                break;
            }
            (low, high) = (lower, higher);
            end += 1;
        }
        for (at, pad) in pads.iter_mut().enumerate().take(end).skip(start) {
            let missing = size(at).map_or(0, |size| high - size);
            *pad = u8::try_from(missing).unwrap_or(0);
        }
        start = end;
    }
}

/// Bytes of a packet that vary: extensions as they are written, and payload.
fn size(history: &History, index: u64) -> Option<usize> {
    let packet: Packet<'_> = history.get(index)?;
    let (mut bytes, mut wide) = (0, false);
    for (_, _, len) in packet.elements.iter() {
        bytes += len + 1;
        wide |= len == 0 || len > 16;
    }
    if wide {
        bytes += packet.elements.iter().count();
    }
    Some(bytes.next_multiple_of(4) + packet.payload.len())
}

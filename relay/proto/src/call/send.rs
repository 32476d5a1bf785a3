//! From a source's history to everybody who receives it: one train of datagrams per receiver.

use std::time::Instant;

use super::Call;
use crate::egress::Egress;
use crate::history::{History, Packet};
use crate::source::Source;

/// Packets of one train that differ by no more than this are padded to one size, so that segmentation offload takes
/// them together. Senders split a picture into packets that differ by a byte or two.
const PAD_MAX: usize = 16;

/// How far forwarding got when the arena was full.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    source: usize,
    subscriber: usize,
    packet: usize,
}

impl Call {
    /// Seals what was received since the last time for those who receive it, as much as `egress` takes. True when
    /// there is more: send, clear, and call again.
    pub fn poll_egress(&mut self, now: Instant, egress: &mut Egress) -> bool {
        for (path, datagram) in self.farewells.drain(..) {
            egress.push(path, &datagram);
            self.counters.bytes_out += datagram.len() as u64;
        }
        let Self { participants, sources, pending, cursor, pads, counters, .. } = self;
        while let Some(at) = pending.get(cursor.source).copied() {
            let Some(source) = sources.get(at).and_then(Option::as_ref) else {
                *cursor = Cursor { source: cursor.source + 1, subscriber: 0, packet: 0 };
                continue;
            };
            if cursor.subscriber == 0 && cursor.packet == 0 {
                equalise(source, pads);
            }
            while let Some(subscriber) = source.subscribers.get(cursor.subscriber) {
                let receiver = participants.get_mut(subscriber.receiver).and_then(Option::as_deref_mut);
                if let Some((sender, slots)) = receiver.and_then(|receiver| receiver.sender_and_slots())
                    && let Some(slot) = slots.get_mut(subscriber.slot)
                {
                    while let Some(index) = source.pending.get(cursor.packet) {
                        if !egress.has_room_for_media() {
                            return true;
                        }
                        let pad = pads.get(cursor.packet).copied().unwrap_or(0);
                        if let Some(packet) = source.history.get(*index) {
                            let before = egress.len();
                            if slot.forward(now, (at, source), (&packet, pad), sender, egress) {
                                counters.media_out += 1;
                                counters.bytes_out += (egress.len() - before) as u64;
                            }
                        }
                        cursor.packet += 1;
                    }
                }
                cursor.subscriber += 1;
                cursor.packet = 0;
            }
            *cursor = Cursor { source: cursor.source + 1, subscriber: 0, packet: 0 };
        }
        for at in pending.drain(..) {
            if let Some(source) = sources.get_mut(at).and_then(Option::as_mut) {
                source.pending.clear();
            }
        }
        *cursor = Cursor::default();
        false
    }
}

/// How much padding each waiting packet of a source gets.
fn equalise(source: &Source, pads: &mut Vec<u8>) {
    pads.clear();
    pads.resize(source.pending.len(), 0);
    if source.pending.len() < 2 {
        return;
    }
    let size = |at: usize| source.pending.get(at).and_then(|index| size(&source.history, *index));
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

//! A datagram from the network: told apart, authenticated, opened in place, and kept with its source.

use std::time::Instant;

use super::feedback::moved;
use super::{Call, LOSS_TICK};
use crate::demux::{self, Protocol};
use crate::egress::{DATAGRAM_BYTES_MAX, Egress};
use crate::event::EndReason;
use crate::history::ElementsBuffer;
use crate::ice::{Change, IceError};
use crate::media::{Extension, Kind, Section};
use crate::participant::Secure;
use crate::path::Path;
use crate::rtp::descriptor::Descriptor;
use crate::rtp::{self, Header, extension};
use crate::source::{Arrival, Taken};
use crate::srtp::{OpenError, Opener, Sealer};
use crate::stun;

/// What a forwarded packet may gain over what its sender wrote: a CSRC, extensions in another form, a longer tag.
const GROWTH_MAX: usize = 64;

impl Call {
    /// One datagram, opened in place. What must not wait (STUN, DTLS, retransmissions) is in `egress` afterwards;
    /// media waits for [`Call::poll_egress`].
    pub fn handle_datagram(&mut self, now: Instant, path: Path, datagram: &mut [u8], egress: &mut Egress) {
        self.counters.datagrams_in += 1;
        self.counters.bytes_in += datagram.len() as u64;
        let protocol = demux::classify(datagram);
        if protocol == Protocol::Stun {
            self.handle_stun(now, path, datagram, egress);
            return;
        }
        let Some(index) = self.by_path.get(&path).copied() else {
            self.counters.dropped_path += 1;
            return;
        };
        let Some(participant) = self.participants.get_mut(index).and_then(Option::as_deref_mut) else {
            return;
        };
        if !participant.within_rate(now) {
            self.counters.dropped_rate += 1;
            return;
        }
        match protocol {
            Protocol::Rtp => self.handle_rtp(now, index, path, datagram),
            Protocol::Rtcp => self.handle_rtcp_datagram(now, index, path, datagram, egress),
            Protocol::Dtls => self.handle_dtls(now, index, datagram, egress),
            Protocol::Stun | Protocol::Unknown => self.counters.dropped_unknown += 1,
        }
    }

    fn handle_stun(&mut self, now: Instant, path: Path, datagram: &[u8], egress: &mut Egress) {
        let Ok(request) = stun::Request::parse(datagram) else {
            self.counters.dropped_stun_malformed += 1;
            return;
        };
        let Some(index) = self.by_ufrag.get(request.local_ufrag()).copied() else {
            self.counters.dropped_stun_username += 1;
            return;
        };
        let Some(participant) = self.participants.get_mut(index).and_then(Option::as_deref_mut) else {
            return;
        };
        let Some(room) = egress.reserve() else { return };
        let handled = match participant.ice.handle_request(now, path, &request, room) {
            Ok(handled) => handled,
            Err(IceError::Username) => {
                self.counters.dropped_stun_username += 1;
                return;
            }
            Err(_) => {
                self.counters.dropped_stun_integrity += 1;
                return;
            }
        };
        egress.commit(path, handled.len);
        self.counters.bytes_out += handled.len as u64;
        if let Some(evicted) = handled.evicted {
            self.by_path.remove(&evicted);
        }
        if handled.change.is_some() {
            // Another participant's path cannot be taken over: its ICE password was needed for this request, and
            // whoever holds both addresses now is who showed it last.
            let before = self.by_path.insert(path, index).filter(|before| *before != index);
            if let Some(before) = before.and_then(|before| self.participant_mut(before)) {
                before.ice.forget(path);
            }
        }
        if let Some(Change::Selected { from, to }) = handled.change {
            let Self { participants, sources, counters, .. } = self;
            if let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) {
                moved(participant, sources, counters, from, to);
            }
        }
    }

    fn handle_dtls(&mut self, now: Instant, index: usize, datagram: &[u8], egress: &mut Egress) {
        let Some(participant) = self.participants.get_mut(index).and_then(Option::as_deref_mut) else {
            return;
        };
        let id = participant.id;
        if participant.dtls.handle_datagram(now, datagram).is_err() {
            self.counters.dropped_dtls += 1;
            // Before media flows there is nothing to lose; afterwards a forged record must not end a call, and the
            // keys are established.
            if participant.secure.is_none() {
                self.leave(now, id, EndReason::Refused);
            }
            return;
        }
        if let Some(keys) = participant.dtls.poll_keys() {
            participant.secure = Some(Secure {
                opener: Opener::new(keys.profile, &keys.open),
                sealer: Sealer::new(keys.profile, &keys.seal),
                profile: keys.profile,
            });
            self.counters.handshakes += 1;
            self.start_video(index);
        }
        let closed =
            self.participants.get(index).and_then(Option::as_deref).is_some_and(|p| p.dtls.is_closed());
        self.send_handshake(index, egress);
        if closed {
            self.leave(now, id, EndReason::Left);
        }
    }

    /// Sends what DTLS wants sent: on the path that an authenticated check came from, without waiting for nomination.
    pub(super) fn send_handshake(&mut self, index: usize, egress: &mut Egress) {
        let Some(participant) = self.participants.get_mut(index).and_then(Option::as_deref_mut) else {
            return;
        };
        let Some(path) = participant.ice.path() else { return };
        while let Some(room) = egress.reserve() {
            let Some(len) = participant.dtls.poll_transmit(room) else { return };
            egress.commit(path, len);
            self.counters.bytes_out += len as u64;
        }
    }

    fn handle_rtp(&mut self, now: Instant, index: usize, path: Path, datagram: &mut [u8]) {
        let bytes = datagram.len();
        let Self { participants, sources, counters, .. } = self;
        let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) else { return };
        if datagram.len() + GROWTH_MAX > DATAGRAM_BYTES_MAX {
            counters.dropped_size += 1;
            return;
        }
        let Ok(header) = Header::parse(datagram) else {
            counters.dropped_malformed += 1;
            return;
        };
        let Some(secure) = participant.secure.as_mut() else {
            counters.dropped_early += 1;
            return;
        };
        let opened = match secure.opener.open_rtp(datagram, &header) {
            Ok(opened) => opened,
            Err(error) => {
                count_open_error(counters, error);
                return;
            }
        };
        if let Some(Change::Selected { from, to }) = participant.ice.handle_media(now, path) {
            moved(participant, sources, counters, from, to);
        }
        let packet = datagram.get(..opened.len).unwrap_or_default();
        let stream = participant.stream(header.ssrc).or_else(|| {
            let owned = participant.sources.clone();
            participant.learn(&header, packet, |mid| {
                owned
                    .iter()
                    .copied()
                    .find(|at| sources.get(*at).and_then(Option::as_ref).is_some_and(|s| s.mid == mid))
            })
        });
        let Some(stream) = stream else {
            // One that was in use may be again, under the same key: what it sent must not be played back then.
            if let Some(secure) = participant.secure.as_mut().filter(|_| opened.first) {
                secure.opener.forget(header.ssrc);
            }
            counters.dropped_ssrc += 1;
            return;
        };
        let Some(section) = participant.sections.get(stream.section) else { return };
        let Ok(payload) = rtp::payload(packet, &header) else {
            counters.dropped_malformed += 1;
            return;
        };
        let Some(source) = sources.get_mut(stream.source).and_then(Option::as_mut) else { return };
        let payload_type = section.payload_types.iter().find(|payload_type| {
            let number = if stream.rtx { payload_type.rtx } else { Some(payload_type.number) };
            number == Some(header.payload_type)
        });
        let Some(payload_type) = payload_type.and_then(|payload_type| source.position(payload_type)) else {
            counters.dropped_payload_type += 1;
            return;
        };

        let mut elements = ElementsBuffer::default();
        let seen = read_elements(section, &header, packet, &mut elements);
        if let (Some(arrivals), Some(sequence)) = (&mut participant.arrivals, seen.transport_sequence) {
            arrivals.record(now, sequence);
        }
        let (repaired, payload) = match payload.split_first_chunk::<2>() {
            Some((sequence, rest)) if stream.rtx => (Some(u16::from_be_bytes(*sequence)), rest),
            // Padding on the retransmission stream: a probe for bandwidth.
            None if stream.rtx => return,
            _ => (None, payload),
        };
        if let (Some(uplink), Some(time)) = (&mut participant.uplink, seen.send_time) {
            uplink.record(now, time, bytes);
        }
        let arrival = Arrival {
            ssrc: header.ssrc,
            index: opened.index,
            timestamp: header.timestamp,
            marker: header.marker,
            payload_type,
            elements: &elements,
            payload,
            audio_level: seen.audio_level,
            descriptor: seen.descriptor.and_then(Descriptor::parse),
            descriptor_bytes: seen.descriptor.unwrap_or_default(),
        };
        let was_live = source.is_live(now);
        let was_sent = source.encodings.get(stream.encoding).is_some_and(|encoding| encoding.is_live(now));
        let taken = match (repaired, source.encodings.get_mut(stream.encoding)) {
            (Some(sequence), Some(encoding)) => encoding.receive_repair(now, sequence, arrival),
            _ => source.receive(now, stream.encoding, &arrival),
        };
        let is_new_video = taken == Taken::Pending && source.kind() == Kind::Video;
        if let Some(allocation) = seen.layers_allocation.filter(|_| is_new_video) {
            source.told(now, allocation);
            self.exchange.share_allocation(now, source, allocation);
        }
        let is_live = source.is_live(now);
        let Some(encoding) = source.encodings.get(stream.encoding) else { return };
        match taken {
            Taken::Pending => {
                counters.media_in += 1;
                if encoding.pending.len() == 1 {
                    self.pending.push((stream.source, stream.encoding));
                }
                if !encoding.losses.is_empty() {
                    self.loss_at.get_or_insert(now + LOSS_TICK);
                }
            }
            Taken::Withheld => counters.silence_withheld += 1,
            Taken::Duplicate => counters.dropped_replay += 1,
            Taken::Overflow => counters.dropped_egress += 1,
        }
        // What is not taken begins nothing: it would cost everybody, and as often as it comes.
        let begins = !was_sent && encoding.is_live(now);
        if is_live && !was_live {
            self.announce(now, index);
            self.rearrange(now);
        } else if begins {
            self.reconsider(now, stream.source);
        }
    }

    fn handle_rtcp_datagram(
        &mut self,
        now: Instant,
        index: usize,
        path: Path,
        datagram: &mut [u8],
        egress: &mut Egress,
    ) {
        let Some(participant) = self.participants.get_mut(index).and_then(Option::as_deref_mut) else {
            return;
        };
        let Some(secure) = participant.secure.as_mut() else {
            self.counters.dropped_early += 1;
            return;
        };
        match secure.opener.open_rtcp(datagram) {
            Ok(len) => {
                if let Some(Change::Selected { from, to }) = participant.ice.handle_media(now, path) {
                    moved(participant, &mut self.sources, &mut self.counters, from, to);
                }
                self.handle_feedback(now, index, datagram.get(..len).unwrap_or_default(), egress);
            }
            Err(error) => count_open_error(&mut self.counters, error),
        }
    }
}

fn count_open_error(counters: &mut crate::counters::Counters, error: OpenError) {
    let count = match error {
        OpenError::Short => &mut counters.dropped_malformed,
        OpenError::Authentication => &mut counters.dropped_authentication,
        OpenError::Replay => &mut counters.dropped_replay,
        OpenError::TooManySsrcs => &mut counters.dropped_ssrc,
    };
    *count += 1;
}

/// What the extensions of a packet tell the relay.
#[derive(Clone, Copy, Debug, Default)]
struct Seen<'a> {
    audio_level: Option<u8>,
    descriptor: Option<&'a [u8]>,
    transport_sequence: Option<u16>,
    send_time: Option<u32>,
    layers_allocation: Option<&'a [u8]>,
}

/// Reads the extensions the relay works from, and collects those that go on.
fn read_elements<'a>(
    section: &Section,
    header: &Header,
    packet: &'a [u8],
    elements: &mut ElementsBuffer,
) -> Seen<'a> {
    let mut seen = Seen::default();
    for (id, value) in header.elements(packet) {
        let Some(kind) = section.extensions.extension(id) else { continue };
        match kind {
            Extension::AudioLevel => seen.audio_level = extension::audio_level(value).map(|(_, level)| level),
            Extension::DependencyDescriptor => seen.descriptor = Some(value),
            Extension::TransportSequence => seen.transport_sequence = extension::transport_sequence(value),
            Extension::AbsoluteSendTime => seen.send_time = extension::absolute_send_time(value),
            Extension::LayersAllocation => seen.layers_allocation = Some(value),
            _ => {}
        }
        if kind.is_passed_on() {
            elements.push(kind, value);
        }
    }
    seen
}

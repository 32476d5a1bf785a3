//! What arrives, by protocol: answers to checks, handshakes, media, feedback.

use std::sync::Arc;
use std::time::Instant;

use trunkline_relay_proto::dtls::Handshake;
use trunkline_relay_proto::rtp::{self, Header};
use trunkline_relay_proto::srtp::{OpenError, Opener, Sealer};

use crate::feedback::REPORT_INTERVAL;
use crate::incoming::Arrival;
use crate::peer::{Media, Peer, PeerEvent, Received, Secure};
use crate::stamp;

impl Peer {
    pub(crate) fn handle_stun(&mut self, now: Instant, datagram: &[u8]) {
        match self.checks.as_mut().and_then(|checks| checks.handle_response(now, datagram)) {
            Some(true) => self.counters.checks_answered += 1,
            // A network's second copy says nothing new.
            Some(false) => return,
            None => {
                self.counters.malformed += 1;
                return;
            }
        }
        if let (None, Some(remote)) = (&self.dtls, &self.remote) {
            self.dtls = Some(Handshake::new_client(now, &self.settings.dtls, remote.fingerprint));
        }
    }

    pub(crate) fn handle_dtls(&mut self, now: Instant, datagram: &[u8]) {
        let Some(dtls) = &mut self.dtls else { return };
        if let Err(error) = dtls.handle_datagram(now, datagram) {
            self.fail(error);
            return;
        }
        if let Some(keys) = dtls.poll_keys() {
            self.secure = Some(Secure {
                opener: Opener::new(keys.profile, &keys.open),
                sealer: Sealer::new(keys.profile, &keys.seal),
            });
            if self.settings.reports {
                self.report_at = Some(now + REPORT_INTERVAL);
            }
            self.tell(PeerEvent::Connected);
        }
        if self.dtls.as_ref().is_some_and(Handshake::is_closed) && self.secure.take().is_some() {
            self.checks = None;
            self.report_at = None;
            self.tell(PeerEvent::Closed);
        }
    }

    pub(crate) fn handle_rtp(&mut self, now: Instant, datagram: &mut [u8]) -> Option<Media> {
        let Ok(header) = Header::parse(datagram) else {
            self.counters.malformed += 1;
            return None;
        };
        let Some(secure) = &mut self.secure else {
            self.counters.early += 1;
            return None;
        };
        let len = match secure.opener.open_rtp(datagram, &header) {
            Ok(opened) => opened.len,
            Err(error) => {
                self.count_open_error(error);
                return None;
            }
        };
        let Some(stream) = self.stream(header.ssrc) else {
            self.counters.unknown_ssrc += 1;
            return None;
        };
        let packet = datagram.get(..len)?;
        self.arrived(now, &header, packet);
        let Ok(payload) = rtp::payload(packet, &header) else {
            self.counters.malformed += 1;
            return None;
        };
        let settings = Arc::clone(&self.settings);
        let csrc = csrc(&header, packet);
        let (original, payload) = match payload.split_first_chunk::<2>() {
            // What has no payload at all is padding.
            _ if !stream.rtx => (None, payload),
            Some((original, payload)) => (Some(u16::from_be_bytes(*original)), payload),
            None => return None,
        };
        let start = header.len + if original.is_some() { 2 } else { 0 };
        let latency = stamp::age(payload, settings.epoch, now);
        let payload_len = payload.len();
        let section = self.sections.get_mut(stream.section)?;
        let mid = section.mid;
        let incoming = section.incoming_mut()?;
        let arrival = match original {
            Some(original) => incoming.repaired(original, payload_len),
            None => {
                incoming.clock(now.saturating_duration_since(settings.epoch), header.timestamp);
                incoming.media(now, header.sequence, payload_len, settings.repair)
            }
        };
        let new = matches!(arrival, Arrival::New(_));
        if new {
            incoming.note(csrc, latency);
        }
        Some(Media {
            mid,
            rtx: stream.rtx,
            new,
            index: arrival.index(),
            csrc,
            payload: start..start + payload_len,
            latency,
            header,
        })
    }

    pub(crate) fn handle_rtcp_datagram(&mut self, now: Instant, datagram: &mut [u8]) -> Option<Received> {
        let Some(secure) = &mut self.secure else {
            self.counters.early += 1;
            return None;
        };
        match secure.opener.open_rtcp(datagram) {
            Ok(len) => {
                self.handle_feedback(now, datagram.get(..len)?);
                Some(Received::Rtcp(0..len))
            }
            Err(error) => {
                self.count_open_error(error);
                None
            }
        }
    }

    fn count_open_error(&mut self, error: OpenError) {
        match error {
            OpenError::Replay => self.counters.replayed += 1,
            OpenError::Authentication => self.counters.unauthentic += 1,
            OpenError::TooManySsrcs => self.counters.unknown_ssrc += 1,
            OpenError::Short => self.counters.malformed += 1,
        }
    }
}

/// The first contributing source, which a relay names the sender by.
pub(crate) fn csrc(header: &Header, packet: &[u8]) -> Option<u32> {
    let bytes = packet.get(rtp::header::FIXED_LEN..)?.first_chunk()?;
    (header.csrc_count > 0).then(|| u32::from_be_bytes(*bytes))
}

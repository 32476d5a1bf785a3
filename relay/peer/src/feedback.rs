//! A peer's RTCP: what it is asked for, what it asks for, and its reports.

use std::time::{Duration, Instant};

use trunkline_relay_proto::media::Mid;
use trunkline_relay_proto::rtcp::{self, Block, Packet, Writer};

use crate::peer::{DATAGRAM_BYTES_MAX, Peer, PeerEvent};

/// Between two reports.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What a datagram of feedback may have before it is sealed.
const PLAIN_BYTES_MAX: usize = 1200;

const CNAME: &str = "peer";

impl Peer {
    /// Asks for packets of a slot again. False when there is no such slot, or nothing to say it with.
    pub fn nack(&mut self, mid: Mid, sequences: &[u16]) -> bool {
        let Some(media) = self.slot_ssrc(mid) else { return false };
        self.counters.nacks_sent += sequences.len() as u64;
        self.send_rtcp(|writer, sender| {
            writer.receiver_report(sender, &[]) && writer.nack(sender, media, sequences.iter().copied())
        })
    }

    /// Asks for a key frame of what a slot shows, by PLI. False as above.
    pub fn request_key_frame(&mut self, mid: Mid) -> bool {
        let Some(media) = self.slot_ssrc(mid) else { return false };
        self.send_rtcp(|writer, sender| writer.receiver_report(sender, &[]) && writer.pli(sender, media))
    }

    /// The same by FIR.
    pub fn request_key_frame_by_fir(&mut self, mid: Mid) -> bool {
        let Some(media) = self.slot_ssrc(mid) else { return false };
        self.fir = self.fir.wrapping_add(1);
        let number = self.fir;
        self.send_rtcp(|writer, sender| {
            writer.receiver_report(sender, &[]) && writer.fir(sender, &[(media, number)])
        })
    }

    /// Opened feedback.
    pub(crate) fn handle_feedback(&mut self, now: Instant, datagram: &[u8]) {
        for packet in rtcp::packets(datagram) {
            let Ok(packet) = packet else {
                self.counters.malformed += 1;
                return;
            };
            match packet {
                Packet::SenderReport { ssrc, ntp, .. } => {
                    self.counters.reports += 1;
                    let mut slots = self.sections.iter_mut().filter_map(|section| section.incoming_mut());
                    if let Some(incoming) = slots.find(|incoming| incoming.stream().ssrc == ssrc) {
                        incoming.sender_report(now, middle(ntp));
                    }
                }
                Packet::ReceiverReport { .. } => self.counters.reports += 1,
                Packet::Nack { media, lost, .. } => self.send_again(now, media, lost),
                Packet::Pli { media, .. } => self.want_key_frame(media),
                Packet::TransportFeedback(feedback) => self.handle_transport_feedback(now, &feedback),
                Packet::Fir { entries, .. } => entries.for_each(|(ssrc, _)| self.want_key_frame(ssrc)),
                Packet::Remb { .. } | Packet::Bye { .. } | Packet::Other => {}
            }
        }
    }

    fn want_key_frame(&mut self, media: u32) {
        self.counters.key_frame_requests += 1;
        let mut all = self.sections.iter().filter_map(|section| section.outgoing());
        let found = all.find_map(|outgoing| Some((outgoing.source(), outgoing.position(media)?)));
        if let Some((source, encoding)) = found {
            self.tell(PeerEvent::KeyFrameWanted(source, encoding));
        }
    }

    fn send_again(&mut self, now: Instant, media: u32, lost: rtcp::Lost<'_>) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        for sequence in lost {
            self.counters.nacks += 1;
            let wire = self.wire();
            let Some(secure) = &self.secure else { return };
            let mut all = self.sections.iter_mut().filter_map(|section| section.outgoing_mut());
            let found = all.find_map(|outgoing| Some((outgoing.position(media)?, outgoing)));
            let Some((encoding, outgoing)) = found else { return };
            let len = outgoing.send_again(encoding, sequence, wire, &secure.sealer, &mut out);
            self.sent(now, len, false);
            self.enqueue(out.get(..len).unwrap_or_default());
        }
    }

    /// Asks for what is missing and was not asked for lately.
    pub(crate) fn ask_again(&mut self, now: Instant) {
        let (mut sequences, retry) = (Vec::new(), self.settings.repair_retry);
        for at in 0..self.sections.len() {
            let Some(section) = self.sections.get_mut(at) else { continue };
            let mid = section.mid;
            let Some(incoming) = section.incoming_mut() else { continue };
            incoming.poll_wanted(now, retry, &mut sequences);
            if !sequences.is_empty() {
                self.nack(mid, &sequences);
                sequences.clear();
            }
        }
    }

    /// Sender and receiver reports, when they are due.
    pub(crate) fn report(&mut self, now: Instant) {
        if self.report_at.is_none_or(|at| at > now) {
            return;
        }
        self.report_at = Some(now + REPORT_INTERVAL);
        let elapsed = now.saturating_duration_since(self.settings.epoch);
        let mut blocks: Vec<Block> = Vec::new();
        let mut senders = Vec::new();
        for section in &mut self.sections {
            if let Some(outgoing) = section.outgoing() {
                senders.extend(outgoing.encodings().iter().filter_map(|encoding| {
                    let timestamp = encoding.timestamp_at(now, outgoing.source())?;
                    Some((encoding.ssrc(), timestamp, encoding.packets(), encoding.octets()))
                }));
            }
            if blocks.len() < rtcp::COUNT_MAX {
                blocks.extend(section.incoming_mut().and_then(|incoming| incoming.report(now)));
            }
        }
        self.send_rtcp(|writer, feedback| {
            let mut blocks = blocks.as_slice();
            let mut written = true;
            for (ssrc, timestamp, packets, octets) in senders {
                written &=
                    writer.sender_report(ssrc, ntp(elapsed), timestamp, low(packets), low(octets), blocks);
                blocks = &[];
            }
            if writer.is_empty() {
                written = writer.receiver_report(feedback, blocks);
            }
            written && writer.sdes_cname(feedback, CNAME)
        });
    }

    fn slot_ssrc(&self, mid: Mid) -> Option<u32> {
        let section = self.sections.iter().find(|section| section.mid == mid)?;
        Some(section.incoming()?.stream().ssrc)
    }

    /// Writes, seals and queues one datagram. False when there are no keys, or not all of it fitted.
    pub(crate) fn send_rtcp(&mut self, write: impl FnOnce(&mut Writer<'_>, u32) -> bool) -> bool {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let Some(secure) = &mut self.secure else { return false };
        let mut writer = Writer::new(out.get_mut(..PLAIN_BYTES_MAX).unwrap_or_default());
        let written = write(&mut writer, self.feedback_ssrc);
        let len = writer.len();
        let sealed = if len > 0 { secure.sealer.seal_rtcp(&mut out, len) } else { 0 };
        self.enqueue(out.get(..sealed).unwrap_or_default());
        written && sealed > 0
    }
}

/// Time since the run's beginning in NTP format, an hour ahead: zero would mean that there was no report.
fn ntp(elapsed: Duration) -> u64 {
    ((elapsed.as_secs() + 3600) << 32) | ((u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000)
}

#[expect(clippy::cast_possible_truncation, reason = "the middle 32 bits")]
fn middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "counts in reports wrap")]
fn low(count: u64) -> u32 {
    count as u32
}

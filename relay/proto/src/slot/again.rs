//! What goes out once more, on the retransmission SSRC (RFC 4588): what is asked for again, and what a line is filled with to
//! find out what it carries.

use std::time::Instant;

use super::Slot;
use super::header::OutHeader;
use crate::budget::Allowance;
use crate::egress::Egress;
use crate::history::Packet;
use crate::line::Line;
use crate::rtp::nearest;
use crate::source::Source;

/// Retransmissions to one slot at once, and how many more each second. Above what 10 % loss of 5 Mbit/s needs.
pub(super) const RETRANSMISSIONS: Allowance = Allowance { burst: 256, per_s: 500 };

/// Packets that a line is filled with, from the newest back, and how many of them at once.
const PROBE_PACKETS_MAX: u64 = 8;
const PROBE_DATAGRAMS_MAX: usize = 128;

/// Padding of a packet that a line is filled with: as much as its last byte can count.
const PROBE_PAD: u8 = 255;

/// What became of a request for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It was sent again.
    Sent,
    /// There is no such packet, any more.
    Gone,
    /// No more is sent again for now, whichever packet it is.
    Enough,
}

impl Slot {
    /// Seals again, on the retransmission SSRC, what was sent under a sequence number.
    pub(crate) fn retransmit(
        &mut self,
        now: Instant,
        sequence: u16,
        sources: &[Option<Source>],
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> Again {
        let number = nearest(self.runs.highest, sequence);
        // What the line owes already is not made more: it is asked for again.
        if !line.has_room(now, 1) || !self.budget.spend(now, 1) || !line.repairs.spend(now, 1) {
            return Again::Enough;
        }
        match self.send_again(now, number, (sources, false), line, egress) {
            Some(_) => Again::Sent,
            None => Again::Gone,
        }
    }

    /// Fills a line to find out what it carries: packets sent lately go out once more, on the retransmission SSRC. The bytes
    /// that were sent; none when there is nothing to fill it with.
    pub(crate) fn probe(
        &mut self,
        now: Instant,
        bytes: usize,
        sources: &[Option<Source>],
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> usize {
        let mut sent = 0;
        let newest = self.runs.highest;
        for back in (0..PROBE_PACKETS_MAX).cycle().take(PROBE_DATAGRAMS_MAX) {
            if sent >= bytes {
                break;
            }
            let again = self.send_again(now, newest.saturating_sub(back), (sources, true), line, egress);
            let Some(len) = again.or_else(|| {
                // Of what is paused there is nothing to send again.
                let is_paused = self.selector.target().is_none();
                is_paused.then(|| self.send_padding(now, line, egress)).flatten()
            }) else {
                if back == 0 {
                    break;
                }
                continue;
            };
            sent += len;
        }
        sent
    }

    /// Seals a packet of nothing but padding, on the retransmission SSRC.
    fn send_padding(&mut self, now: Instant, line: &mut Line<'_>, egress: &mut Egress) -> Option<usize> {
        let header = OutHeader {
            payload_type: self.payload_types.iter().find_map(|payload_type| payload_type.rtx)?,
            marker: false,
            index: self.rtx_index + 1,
            timestamp: self.timestamp.1,
            ssrc: self.stream.rtx_ssrc?,
            csrc: 0,
            mid: None,
            frame_delta: 0,
            original: None,
        };
        let room = egress.reserve()?;
        let len = header.write(now, room, (&self.ids, self.mixed), &Packet::EMPTY, PROBE_PAD, line)?;
        self.rtx_index += 1;
        egress.commit(line.path, len);
        line.sent(now, len, true);
        Some(len)
    }

    fn send_again(
        &mut self,
        now: Instant,
        number: u64,
        (sources, probe): (&[Option<Source>], bool),
        line: &mut Line<'_>,
        egress: &mut Egress,
    ) -> Option<usize> {
        let ssrc = self.stream.rtx_ssrc?;
        if number > self.runs.highest {
            return None;
        }
        let (run, index) = self.runs.sent(number)?;
        // Of a picture that nobody waits for any more nothing is missing; it would take the room of the one that is to come.
        if !self.selector.cares_for(run.encoding) {
            return None;
        }
        let (source, encoding) = run.encoding(sources)?;
        let packet = encoding.history.get(index)?;
        let theirs = source.known_types.get(usize::from(packet.meta.payload_type))?;
        let payload_type = self.payload_types.iter().find(|ours| ours.means(theirs))?.rtx?;
        let room = egress.reserve()?;
        let header = OutHeader {
            payload_type,
            marker: run.portion.ends_picture(&packet.meta),
            index: self.rtx_index + 1,
            timestamp: run.timestamp(packet.meta.timestamp),
            ssrc,
            csrc: run.csrc,
            mid: None,
            frame_delta: run.frame_delta,
            #[expect(clippy::cast_possible_truncation, reason = "a sequence number is the lower half")]
            original: Some(number as u16),
        };
        // A number that was only filled is filled again.
        let packet = if run.portion.has(&packet.meta) { packet } else { packet.hollow() };
        let len = header.write(now, room, (&self.ids, self.mixed), &packet, 0, line)?;
        self.rtx_index += 1;
        self.retransmissions += u64::from(!probe);
        egress.commit(line.path, len);
        line.sent(now, len, probe);
        Some(len)
    }
}

//! A stream that a peer receives: what came, what is missing, what came twice or too late. A few hundred bytes each.

use std::time::{Duration, Instant};

use trunkline_relay_proto::media::{Downstream, Kind};
use trunkline_relay_proto::rtcp::Block;
use trunkline_relay_proto::rtp::nearest;

use crate::outgoing::ticks;

/// Packets behind the highest that are told apart, in words of 64. What comes later than that went back.
const WINDOW_WORDS: usize = 16;

/// The same in packets.
const WINDOW: u64 = WINDOW_WORDS as u64 * 64;

/// Where the numbering of a stream begins: far enough from zero for packets that the first one overtook.
const FIRST: u64 = 1 << 20;

/// Missing packets that are asked for at a time. More than a burst's worth is an outage, which a key frame ends.
const WANTED_MAX: usize = 256;

/// How often one packet is asked for.
const TRIES_MAX: u8 = 10;

/// A packet may be late for so long before it is asked for.
const PATIENCE: Duration = Duration::from_millis(10);

/// What a slot received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStatistics {
    /// Different packets that came on the media SSRC.
    pub packets: u64,
    /// Different packets that came on the retransmission SSRC alone.
    pub repaired: u64,
    /// Payload bytes of both.
    pub bytes: u64,
    /// Packets that came although they had come before: on the other SSRC, or again past what SRTP notices.
    pub duplicates: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Packets further behind than any network reorders: the stream's numbers went back.
    pub went_back: u64,
    /// Numbers between the first and the highest of which no packet came.
    pub missing: u64,
    /// How often another CSRC than before came.
    pub switches: u64,
    /// Payloads that bore a stamp.
    pub stamped: u64,
    /// The longest way any of them took.
    pub latency_max: Duration,
}

#[derive(Clone, Copy)]
struct Wanted {
    index: u64,
    tries: u8,
    at: Instant,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is new, and has this number.
    New(u64),
    /// It was there before, or might have been.
    Known(u64),
}

impl Arrival {
    pub(crate) fn index(self) -> u64 {
        match self {
            Self::New(index) | Self::Known(index) => index,
        }
    }
}

/// A stream that a peer receives.
pub struct Incoming {
    stream: Downstream,
    kind: Kind,
    first: u64,
    highest: Option<u64>,
    seen: [u64; WINDOW_WORDS],
    statistics: SlotStatistics,
    csrc: Option<u32>,
    wanted: Vec<Wanted>,
    /// For reports: expected and received when the last one was made, transit time and jitter, the last sender report.
    reported: (u64, u64),
    transit: Option<u32>,
    jitter: u32,
    sender_report: Option<(Instant, u32)>,
}

impl Incoming {
    pub(crate) fn new(stream: Downstream, kind: Kind) -> Self {
        Self {
            stream,
            kind,
            first: 0,
            highest: None,
            seen: [0; WINDOW_WORDS],
            statistics: SlotStatistics::default(),
            csrc: None,
            wanted: Vec::new(),
            reported: (0, 0),
            transit: None,
            jitter: 0,
            sender_report: None,
        }
    }

    /// The SSRCs the relay sends with.
    #[must_use]
    pub fn stream(&self) -> Downstream {
        self.stream
    }

    pub(crate) fn set_stream(&mut self, stream: Downstream) {
        if self.stream != stream {
            *self = Self::new(stream, self.kind);
        }
    }

    /// What came so far.
    #[must_use]
    pub fn statistics(&self) -> SlotStatistics {
        self.statistics
    }

    /// The source of the last packet.
    #[must_use]
    pub fn csrc(&self) -> Option<u32> {
        self.csrc
    }

    /// A packet of the media SSRC; `repair` when gaps are to be asked for.
    pub(crate) fn media(&mut self, now: Instant, sequence: u16, len: usize, repair: bool) -> Arrival {
        let index = self.extend(sequence);
        let before = self.highest;
        let arrival = self.arrive(index);
        if arrival == Arrival::New(index) {
            self.statistics.packets += 1;
            self.statistics.bytes += len as u64;
            match before {
                Some(highest) if index < highest => {
                    self.statistics.reordered += 1;
                    self.wanted.retain(|wanted| wanted.index != index);
                }
                Some(highest) if repair && self.stream.rtx_ssrc.is_some() => {
                    for index in highest + 1..index {
                        if self.wanted.len() < WANTED_MAX {
                            self.wanted.push(Wanted { index, tries: 0, at: now + PATIENCE });
                        }
                    }
                }
                _ => {}
            }
        }
        arrival
    }

    /// A packet of the retransmission SSRC, under the number it had first.
    pub(crate) fn repaired(&mut self, sequence: u16, len: usize) -> Arrival {
        let index = self.extend(sequence);
        let arrival = self.arrive(index);
        self.wanted.retain(|wanted| wanted.index != index);
        if arrival == Arrival::New(index) {
            self.statistics.repaired += 1;
            self.statistics.bytes += len as u64;
        }
        arrival
    }

    /// What the clear part of a packet says besides its number.
    pub(crate) fn note(&mut self, csrc: Option<u32>, latency: Option<Duration>) {
        if csrc.is_some() && self.csrc != csrc {
            self.statistics.switches += u64::from(self.csrc.is_some());
            self.csrc = csrc;
        }
        if let Some(latency) = latency {
            self.statistics.stamped += 1;
            self.statistics.latency_max = self.statistics.latency_max.max(latency);
        }
    }

    /// Interarrival jitter (RFC 3550, section 6.4.1).
    pub(crate) fn clock(&mut self, elapsed: Duration, timestamp: u32) {
        let rate = match self.kind {
            Kind::Audio => 48_000,
            Kind::Video => 90_000,
        };
        let transit = ticks(elapsed, rate).wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let ahead = transit.wrapping_sub(before);
            let change = ahead.min(ahead.wrapping_neg());
            // Sixteenths, as the RFC suggests.
            self.jitter =
                self.jitter.saturating_add(change).saturating_sub(self.jitter.saturating_add(8) >> 4);
        }
    }

    pub(crate) fn sender_report(&mut self, now: Instant, ntp_middle: u32) {
        self.sender_report = Some((now, ntp_middle));
    }

    /// A report block, if anything came.
    pub(crate) fn report(&mut self, now: Instant) -> Option<Block> {
        let highest = self.highest?;
        let expected = highest - self.first + 1;
        let received = self.statistics.packets;
        let (expected_before, received_before) = std::mem::replace(&mut self.reported, (expected, received));
        let (expected_since, received_since) =
            (expected.saturating_sub(expected_before), received.saturating_sub(received_before));
        let lost_since = expected_since.saturating_sub(received_since);
        let fraction = (lost_since * 256).checked_div(expected_since).unwrap_or(0).min(255);
        let (last_sr, delay) = self
            .sender_report
            .map_or((0, 0), |(at, middle)| (middle, ticks(now.saturating_duration_since(at), 65_536)));
        Some(Block {
            ssrc: self.stream.ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            lost: i32::try_from(expected.saturating_sub(received)).unwrap_or(i32::MAX),
            highest: u32::try_from(highest - FIRST + (1 << 16)).unwrap_or(u32::MAX),
            jitter: self.jitter >> 4,
            last_sr,
            delay,
        })
    }

    /// When something missing is to be asked for.
    pub(crate) fn repair_at(&self) -> Option<Instant> {
        self.wanted.iter().map(|wanted| wanted.at).min()
    }

    /// Sequence numbers to ask for now, in ascending order; those asked for are due again after `retry`.
    pub(crate) fn poll_wanted(&mut self, now: Instant, retry: Duration, sequences: &mut Vec<u16>) {
        let oldest = self.highest.unwrap_or(0).saturating_sub(WINDOW - 1);
        self.wanted.retain(|wanted| wanted.tries < TRIES_MAX && wanted.index >= oldest);
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.at <= now) {
            wanted.tries += 1;
            wanted.at = now + retry;
            sequences.push(low(wanted.index));
        }
    }

    /// The number nearest to the highest, so that its lower 16 bits are the sequence number.
    fn extend(&self, sequence: u16) -> u64 {
        match self.highest {
            Some(highest) => nearest(highest, sequence),
            None => FIRST + u64::from(sequence),
        }
    }

    fn arrive(&mut self, index: u64) -> Arrival {
        let Some(highest) = self.highest else {
            self.first = index;
            self.highest = Some(index);
            self.set(index);
            return Arrival::New(index);
        };
        if index > highest {
            if index - highest >= WINDOW {
                self.seen = [0; WINDOW_WORDS];
            } else {
                (highest + 1..index).for_each(|skipped| self.clear(skipped));
            }
            self.statistics.missing += index - highest - 1;
            self.highest = Some(index);
            self.set(index);
            return Arrival::New(index);
        }
        if highest - index >= WINDOW {
            self.statistics.went_back += 1;
            return Arrival::Known(index);
        }
        if self.is_set(index) {
            self.statistics.duplicates += 1;
            return Arrival::Known(index);
        }
        self.set(index);
        if index < self.first {
            self.statistics.missing += self.first - index - 1;
            self.first = index;
        } else {
            self.statistics.missing = self.statistics.missing.saturating_sub(1);
        }
        Arrival::New(index)
    }

    fn place(index: u64) -> (usize, u64) {
        (usize::try_from(index % WINDOW / 64).unwrap_or(0), 1 << (index % 64))
    }

    fn is_set(&self, index: u64) -> bool {
        let (word, bit) = Self::place(index);
        self.seen.get(word).is_some_and(|seen| seen & bit != 0)
    }

    fn set(&mut self, index: u64) {
        let (word, bit) = Self::place(index);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen |= bit;
        }
    }

    fn clear(&mut self, index: u64) {
        let (word, bit) = Self::place(index);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen &= !bit;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a sequence number is the lower half")]
fn low(index: u64) -> u16 {
    index as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming() -> Incoming {
        Incoming::new(Downstream { ssrc: 1, rtx_ssrc: Some(2) }, Kind::Video)
    }

    fn feed(incoming: &mut Incoming, now: Instant, sequences: &[u16]) {
        for sequence in sequences {
            incoming.media(now, *sequence, 10, true);
        }
    }

    #[test]
    fn what_is_missing_is_known_until_it_comes() {
        let (mut incoming, now) = (incoming(), Instant::now());
        feed(&mut incoming, now, &[65_534, 65_535, 2, 1]);
        assert_eq!(incoming.statistics().missing, 1);
        assert_eq!(incoming.statistics().reordered, 1);
        incoming.repaired(0, 10);
        let statistics = incoming.statistics();
        assert_eq!((statistics.missing, statistics.packets, statistics.repaired), (0, 4, 1));
        assert_eq!(statistics.bytes, 50);
    }

    #[test]
    fn what_comes_twice_is_counted_and_changes_nothing_else() {
        let (mut incoming, now) = (incoming(), Instant::now());
        feed(&mut incoming, now, &[10, 11, 12, 11]);
        incoming.repaired(12, 10);
        let statistics = incoming.statistics();
        assert_eq!((statistics.duplicates, statistics.packets, statistics.repaired), (2, 3, 0));
    }

    #[test]
    fn numbers_that_go_back_are_noticed() {
        let (mut incoming, now) = (incoming(), Instant::now());
        feed(&mut incoming, now, &[5000, 3000]);
        assert_eq!(incoming.statistics().went_back, 1);
    }

    #[test]
    fn what_is_missing_is_asked_for_a_few_times() {
        let (mut incoming, mut now) = (incoming(), Instant::now());
        feed(&mut incoming, now, &[10, 13]);
        let mut asked = Vec::new();
        incoming.poll_wanted(now, Duration::from_millis(40), &mut asked);
        assert!(asked.is_empty(), "it may just be late");
        while let Some(at) = incoming.repair_at() {
            now = at;
            incoming.poll_wanted(now, Duration::from_millis(40), &mut asked);
        }
        assert_eq!(asked.len(), 2 * usize::from(TRIES_MAX));
        assert_eq!(asked[..2], [11, 12]);
    }

    #[test]
    fn a_report_says_what_was_lost_since_the_last_one() {
        let (mut incoming, now) = (incoming(), Instant::now());
        assert_eq!(incoming.report(now), None);
        feed(&mut incoming, now, &[1, 2, 4]);
        let block = incoming.report(now).unwrap();
        assert_eq!((block.fraction_lost, block.lost, block.ssrc), (64, 1, 1));
        feed(&mut incoming, now, &[5, 6]);
        let block = incoming.report(now).unwrap();
        assert_eq!((block.fraction_lost, block.lost), (0, 1));
    }
}

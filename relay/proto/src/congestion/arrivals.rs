//! One sender: when its packets arrived, by transport-wide sequence numbers, and the feedback that says so.

use std::time::Instant;

use super::clock::TICK_US;
use super::{micros_since, moment};
use crate::rtcp::{TICKS_PER_REFERENCE, Writer};
use crate::rtp::nearest;

/// Packets that can wait for a report. More survives longer pauses, at four bytes each.
const PACKETS: u64 = 1024;

/// Packets one message speaks of. More needs larger datagrams: 500 take at most 1150 bytes.
const MESSAGE_PACKETS: u64 = 400;

/// A message is sent for about this many packets, within bounds. Fewer tells senders sooner; this many keep messages near
/// a twentieth of what they report about.
const PACKETS_PER_MESSAGE: u32 = 10;
const APART_US_MIN: i64 = 50_000;
const APART_US_MAX: i64 = 100_000;

/// For those that send next to nothing (audio alone).
const APART_US_SLOW: i64 = 200_000;

/// Packets per second below which a sender is one of those.
const SLOW_PER_S: f64 = 70.0;

/// After this many packets in a row that are far too late, they are the stream that is sent now: it went on elsewhere.
const STALE_MAX: u32 = 30;

/// What marks a packet that did not arrive.
const NEVER: u32 = 0;

/// When packets arrived.
#[derive(Debug)]
pub struct Arrivals {
    epoch: Instant,
    /// By number: ticks of 250 us since the epoch, which wrap around after twelve days. Empty before the first packet.
    ring: Box<[u32]>,
    /// The first number that is not reported yet, and the one after the highest that arrived.
    begin: u64,
    end: u64,
    /// Packets that wait for a report.
    waiting: u32,
    /// Packets in a row that came far too late.
    stale: u32,
    feedback_count: u8,
    reported_us: i64,
    apart_us: i64,
}

impl Arrivals {
    /// Nothing arrived.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            ring: Box::default(),
            begin: 0,
            end: 0,
            waiting: 0,
            stale: 0,
            feedback_count: 0,
            reported_us: 0,
            apart_us: APART_US_MIN,
        }
    }

    /// A packet arrived. One that comes again, or very late, is not reported.
    pub fn record(&mut self, now: Instant, sequence: u16) {
        let now_us = micros_since(self.epoch, now);
        if self.ring.is_empty() {
            self.ring = vec![NEVER; usize::try_from(PACKETS).unwrap_or(0)].into_boxed_slice();
            self.begin_at(sequence);
            self.reported_us = now_us;
        }
        let number = nearest(self.end, sequence);
        if number >= self.end {
            self.advance(number + 1);
        } else if number + PACKETS < self.end {
            self.stale += 1;
            if self.stale > STALE_MAX {
                self.begin_at(sequence.wrapping_add(1));
            }
            return;
        } else if self.at(number) != NEVER {
            return;
        }
        self.stale = 0;
        self.begin = self.begin.min(number);
        let [.., t0, t1, t2, t3] = (now_us / TICK_US + 1).to_be_bytes();
        let ticks = u32::from_be_bytes([t0, t1, t2, t3]).max(NEVER + 1);
        if let Some(place) = self.place(number) {
            *place = ticks;
        }
        if self.waiting == 0 {
            self.reported_us = self.reported_us.max(now_us - self.apart_us);
        }
        self.waiting = self.waiting.saturating_add(1);
    }

    /// Writes one message of what came since the last. Whether there was something to write and it fitted; when more is
    /// left, [`Self::poll_timeout`] is now.
    pub fn write(
        &mut self,
        now: Instant,
        writer: &mut Writer<'_>,
        sender_ssrc: u32,
        media_ssrc: u32,
    ) -> bool {
        let now_us = micros_since(self.epoch, now);
        if self.waiting == 0 {
            return false;
        }
        let Some(first) = (self.begin..self.end).find(|number| self.at(*number) != NEVER) else {
            (self.begin, self.waiting) = (self.end, 0);
            return false;
        };
        // The message may begin with packets that did not arrive, and ends with one that did.
        let begin = self.begin.max(first.saturating_sub(MESSAGE_PACKETS / 2));
        let steps = self.at(first) / TICKS_PER_REFERENCE.unsigned_abs();
        let reference = steps.wrapping_mul(TICKS_PER_REFERENCE.unsigned_abs());
        let since = |number: u64| match self.at(number) {
            NEVER => None,
            ticks => Some(ticks.wrapping_sub(reference).cast_signed()),
        };
        let (mut end, mut before, mut packets) = (begin, 0, 0);
        for number in begin..self.end.min(begin + MESSAGE_PACKETS) {
            let Some(ticks) = since(number) else { continue };
            if i16::try_from(i64::from(ticks) - i64::from(before)).is_err() {
                break;
            }
            (end, before) = (number + 1, ticks);
            packets += 1;
        }
        let [.., high, low] = begin.to_be_bytes();
        let base_sequence = u16::from_be_bytes([high, low]);
        let reference_time = (steps << 8).cast_signed() >> 8;
        let arrivals = (begin..end).map(since);
        let count = self.feedback_count;
        if !writer.transport_feedback(sender_ssrc, media_ssrc, base_sequence, reference_time, count, arrivals)
        {
            return false;
        }
        self.feedback_count = count.wrapping_add(1);
        self.begin = end;
        self.waiting = if end == self.end { 0 } else { self.waiting.saturating_sub(packets).max(1) };
        if end == self.end {
            self.apart(now_us, packets);
        }
        true
    }

    /// When the next message is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let full = u64::from(self.waiting) >= MESSAGE_PACKETS / 2;
        let due_us = if full { self.reported_us } else { self.reported_us + self.apart_us };
        moment(self.epoch, due_us)
    }

    /// The next packet is the first.
    fn begin_at(&mut self, sequence: u16) {
        // Room for what comes before it.
        self.begin = (1 << 16) + u64::from(sequence);
        self.end = self.begin;
        (self.waiting, self.stale) = (0, 0);
        self.ring.fill(NEVER);
    }

    /// Messages come as often as the load allows.
    fn apart(&mut self, now_us: i64, packets: u32) {
        let elapsed_us = (now_us - self.reported_us).max(1_000);
        self.reported_us = now_us;
        let per_s = f64::from(packets) * 1e6 / elapsed_us as f64;
        let most = if per_s < SLOW_PER_S { APART_US_SLOW } else { APART_US_MAX };
        let fair_us = elapsed_us * i64::from(PACKETS_PER_MESSAGE) / i64::from(packets.max(1));
        self.apart_us = fair_us.clamp(APART_US_MIN, most);
    }

    /// Makes room for numbers up to `end`. What is overwritten is never reported.
    fn advance(&mut self, end: u64) {
        for number in self.end.max(end.saturating_sub(PACKETS))..end {
            if let Some(place) = self.place(number) {
                *place = NEVER;
            }
        }
        self.end = end;
        self.begin = self.begin.max(end.saturating_sub(PACKETS));
    }

    fn at(&self, number: u64) -> u32 {
        let place = usize::try_from(number % PACKETS).ok();
        place.and_then(|place| self.ring.get(place)).copied().unwrap_or(NEVER)
    }

    fn place(&mut self, number: u64) -> Option<&mut u32> {
        self.ring.get_mut(usize::try_from(number % PACKETS).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rtcp::{Packet, packets};

    /// The sequence numbers that arrived, with their times in us; and which did not.
    type Message = (Vec<(u16, i64)>, Vec<u16>);

    fn message(arrivals: &mut Arrivals, now: Instant) -> Option<Message> {
        let mut out = [0; 1200];
        let mut writer = Writer::new(&mut out);
        if !arrivals.write(now, &mut writer, 1, 2) {
            return None;
        }
        let len = writer.len();
        let Some(Ok(Packet::TransportFeedback(feedback))) = packets(&out[..len]).next() else {
            panic!("what was written is read");
        };
        let base_us = i64::from(feedback.reference_time) * 64_000;
        let (mut arrived, mut missing) = (Vec::new(), Vec::new());
        for (sequence, ticks) in feedback.packets() {
            match ticks {
                Some(ticks) => arrived.push((sequence, base_us + i64::from(ticks) * TICK_US - TICK_US)),
                None => missing.push(sequence),
            }
        }
        Some((arrived, missing))
    }

    #[test]
    fn what_arrived_is_told_once_with_its_time_and_what_is_missing_too() {
        let epoch = Instant::now();
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        let mut arrivals = Arrivals::new(epoch);
        assert_eq!(message(&mut arrivals, at(0)), None);
        for (ms, sequence) in [(100, 65_534), (110, 65_535), (130, 1), (130, 1), (135, 0), (160, 4)] {
            arrivals.record(at(ms), sequence);
        }
        let arrived = vec![(65_534, 100_000), (65_535, 110_000), (0, 135_000), (1, 130_000), (4, 160_000)];
        assert_eq!(message(&mut arrivals, at(170)), Some((arrived, vec![2, 3])));
        assert_eq!(message(&mut arrivals, at(170)), None);
        assert_eq!(arrivals.poll_timeout(), None);
        arrivals.record(at(200), 3);
        let (arrived, missing) = message(&mut arrivals, at(250)).expect("it came late");
        assert_eq!((arrived[0], missing), ((3, 200_000), vec![]));
    }

    #[test]
    fn pauses_and_gaps_are_told_in_several_messages() {
        let epoch = Instant::now();
        let mut arrivals = Arrivals::new(epoch);
        arrivals.record(epoch, 0);
        arrivals.record(epoch + Duration::from_secs(20), 1);
        arrivals.record(epoch + Duration::from_secs(21), 900);
        arrivals.record(epoch + Duration::from_secs(22), 30_000);
        let now = epoch + Duration::from_secs(23);
        let told: Vec<_> =
            std::iter::from_fn(|| message(&mut arrivals, now)).flat_map(|told| told.0).collect();
        assert_eq!(told, [(30_000, 22_000_000)], "what is too far behind is given up");
        for sequence in 30_001..30_900 {
            arrivals.record(now, sequence);
        }
        let messages: Vec<_> = std::iter::from_fn(|| message(&mut arrivals, now)).collect();
        assert_eq!(messages.iter().map(|(arrived, _)| arrived.len()).collect::<Vec<_>>(), [400, 400, 99]);
    }

    #[test]
    fn a_stream_that_goes_on_elsewhere_is_followed() {
        let epoch = Instant::now();
        let mut arrivals = Arrivals::new(epoch);
        arrivals.record(epoch, 40_000);
        assert!(message(&mut arrivals, epoch).is_some());
        (10_000..10_040).for_each(|sequence| arrivals.record(epoch, sequence));
        let (arrived, missing) = message(&mut arrivals, epoch).expect("some of it");
        assert_eq!((arrived.last(), missing), (Some(&(10_039, 0)), vec![]));
    }

    #[test]
    fn messages_come_more_often_when_more_arrives() {
        let epoch = Instant::now();
        for (packets_per_s, least_ms, most_ms) in [(50_u32, 150, 220), (90, 90, 112), (400, 45, 60)] {
            let (mut arrivals, mut count) = (Arrivals::new(epoch), 0);
            for n in 0..packets_per_s * 4 {
                let now = epoch + Duration::from_micros(u64::from(n) * 1_000_000 / u64::from(packets_per_s));
                if arrivals.poll_timeout().is_some_and(|due| due <= now)
                    && message(&mut arrivals, now).is_some()
                {
                    count += 1;
                }
                arrivals.record(now, u16::try_from(n).unwrap());
            }
            let apart_ms = 4_000 / count;
            assert!((least_ms..=most_ms).contains(&apart_ms), "{apart_ms} ms at {packets_per_s} packets/s");
        }
    }

    proptest! {
        #[test]
        fn whatever_arrives_every_message_fits_and_there_is_an_end(
            steps in prop::collection::vec((any::<u16>(), 0..100_000_u64, any::<bool>()), 1..300),
        ) {
            let mut now = Instant::now();
            let mut arrivals = Arrivals::new(now);
            for (sequence, us, written) in steps {
                now += Duration::from_micros(us);
                arrivals.record(now, sequence);
                if written {
                    let messages = std::iter::from_fn(|| message(&mut arrivals, now)).take(2000).count();
                    prop_assert!(messages < 2000);
                    prop_assert_eq!(arrivals.poll_timeout(), None);
                }
            }
        }
    }
}

//! How well one incoming stream is received, for receiver reports (RFC 3550, section 6.4.1 and appendix A).

use std::time::{Duration, Instant};

use crate::rtcp;

/// Where a sender's RTP clock stood when, by its last sender report as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SenderClock {
    rtp: u32,
    at: Instant,
    /// Middle 32 bits of the report's NTP time, which a receiver report gives back.
    ntp_middle: u32,
}

impl SenderClock {
    /// The RTP timestamp of media that would arrive now.
    #[must_use]
    pub(crate) fn timestamp_at(&self, now: Instant, clock_rate: u32) -> u32 {
        let elapsed = now.saturating_duration_since(self.at);
        self.rtp.wrapping_add(ticks(elapsed, clock_rate))
    }
}

/// A duration in ticks of an RTP clock, modulo 2³² as RTP timestamps are.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "RTP timestamps wrap")]
pub(crate) fn ticks(duration: Duration, clock_rate: u32) -> u32 {
    (duration.as_nanos() * u128::from(clock_rate) / 1_000_000_000) as u32
}

/// Reception statistics of one SSRC.
#[derive(Debug, Default)]
pub(crate) struct Reception {
    first: Option<u64>,
    highest: u64,
    received: u64,
    reported_expected: u64,
    reported_received: u64,
    /// Interarrival jitter in 1/16 of a timestamp tick.
    jitter_16: u32,
    last: Option<(Instant, u32)>,
    clock: Option<SenderClock>,
    /// Share lost over the last report interval, 0 to 1.
    pub fraction_lost: f64,
}

impl Reception {
    /// A packet came.
    pub(crate) fn packet(&mut self, now: Instant, index: u64, timestamp: u32, clock_rate: u32) {
        self.first.get_or_insert(index);
        self.received += 1;
        if self.received > 1 && index <= self.highest {
            return;
        }
        self.highest = index;
        if let Some((at, before)) = self.last.replace((now, timestamp)) {
            // Packets of one picture share a timestamp and say nothing of jitter.
            if before != timestamp {
                let arrived = ticks(now.saturating_duration_since(at), clock_rate);
                #[expect(clippy::cast_possible_wrap, reason = "RTP timestamps differ modulo 2^32")]
                let transit = arrived.wrapping_sub(timestamp.wrapping_sub(before)) as i32;
                let deviation = transit.unsigned_abs().min(clock_rate);
                self.jitter_16 = self.jitter_16 + deviation - ((self.jitter_16 + 8) >> 4);
            }
        }
    }

    /// A sender report came.
    #[expect(clippy::cast_possible_truncation, reason = "the middle 32 bits are what a report gives back")]
    pub(crate) fn sender_report(&mut self, now: Instant, ntp: u64, rtp: u32) {
        self.clock = Some(SenderClock { rtp, at: now, ntp_middle: (ntp >> 16) as u32 });
    }

    /// Another branch of the call heard where the sender's clock stood.
    pub(crate) fn adopt_clock(&mut self, clock: SenderClock) {
        self.clock = Some(clock);
    }

    /// The sender's clock, once it sent a report.
    #[must_use]
    pub(crate) fn clock(&self) -> Option<SenderClock> {
        self.clock
    }

    /// The report block of this interval, if anything came since the stream began. Starts the next interval.
    #[expect(clippy::cast_possible_truncation, reason = "fields of a report block wrap or are clamped here")]
    pub(crate) fn report(&mut self, now: Instant, ssrc: u32) -> Option<rtcp::Block> {
        let expected = self.highest.wrapping_sub(self.first?) + 1;
        let lost = expected as i64 - self.received as i64;
        let expected_interval = expected.saturating_sub(self.reported_expected);
        let received_interval = self.received.saturating_sub(self.reported_received);
        let lost_interval = expected_interval.saturating_sub(received_interval);
        self.reported_expected = expected;
        self.reported_received = self.received;
        let fraction_256 = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255);
        self.fraction_lost = fraction_256 as f64 / 256.0;
        let (last_sr, delay) = self.clock.map_or((0, 0), |clock| {
            (clock.ntp_middle, ticks(now.saturating_duration_since(clock.at), 65_536))
        });
        Some(rtcp::Block {
            ssrc,
            fraction_lost: fraction_256 as u8,
            lost: lost.clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest: self.highest as u32,
            jitter: self.jitter_16 >> 4,
            last_sr,
            delay,
        })
    }
}

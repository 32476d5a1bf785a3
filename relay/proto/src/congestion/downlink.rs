//! One receiver: what its line carries, from what is sent to it and what it reports.

use std::time::{Duration, Instant};

use super::clock::{Clock, TICK_US};
use super::groups::Groups;
use super::history::History;
use super::loss::{LossLimit, Sending};
use super::pacing::Pacer;
use super::probe::Probes;
use super::queue::{Queue, Standing, Verdict};
use super::rate::{Rate, Seen};
use super::rivals::Rivals;
use super::throughput::Throughput;
use super::trend::{Signal, Trend};
use super::{
    ARRIVING_LATELY_US, ARRIVING_US, INITIAL, RATE_MAX, RATE_MIN, micros, micros_since, moment, whole,
};
use crate::rtcp::TransportFeedback;

/// The round trip before it is known.
const RTT_US: i64 = 200_000;

/// How much a new round trip counts.
const RTT_GAIN: f64 = 0.2;

/// Packets a receiver may report for every one it was sent, and how many at once. It bounds the work that reports make;
/// honest ones tell of each packet once, or twice when some came late.
const REPORTS_PER_PACKET: u32 = 4;
const REPORTS_MAX: u32 = 16_384;

/// How long feedback that was agreed on may take to begin. Shorter takes slow networks for receivers that give none.
const MUTE_US: i64 = 3_000_000;

/// Feedback that is missing for this long, or this many round trips, while packets are sent makes the estimate smaller,
/// and again after each of the shorter times, down to a share of what it was.
const SILENCE_US: i64 = 1_000_000;
const SILENCE_ROUND_TRIPS: i64 = 4;
const SILENCE_AGAIN_US: i64 = 500_000;
const SILENCE_FACTOR: f64 = 0.7;
const SILENCE_LEAST: f64 = 0.2;

/// Where nothing is heard for this long somebody may not want at all what is sent there: it becomes as little as can be. Shorter
/// makes outages of networks last longer.
const SILENCE_LONG_US: i64 = 8_000_000;

/// Feedback not older than this, and a queue not longer than that, are what a probe may begin with.
const PROBE_FEEDBACK_US: i64 = 500_000;
const PROBE_QUEUE_US: i64 = 40_000;

/// A probe of so many times what is sent otherwise tells whether losses are the line's own.
const MORE: f64 = 1.5;

/// Where nothing was sent for this long there is no feedback to wait for, and what was known of the queue is old.
const IDLE_US: i64 = 1_000_000;

/// Below this share of the estimate what arrives, or what is sent where delays differ much, cannot be what makes a queue grow for
/// long. Higher falls less for bursts, and is later to see that a line became worse.
const USED_MIN: f64 = 0.85;

/// The estimate grows no further beyond what is sent than this, unless a probe showed more. Higher climbs without probes, and
/// takes a line that is not used for wider than it is.
const UNPROVED: f64 = 1.1;
const UNPROVED_BPS: f64 = 10_000.0;

/// Where delays differ by more than this, they do so whatever is sent. Less takes for jitter what packets wait for each other
/// on slow lines that are full.
const JITTER_ALWAYS_US: f64 = 20_000.0;

/// A queue longer than this is drained even while a probe may have made it.
const PROBE_DISTURBS_US: i64 = 120_000;

/// A queue longer than this is drained by sending less than the line carries: none of it where the queue is this much
/// longer, but no less than this share. Steeper drains sooner, and takes more layers away for it.
const DRAIN_QUEUE_US: i64 = 100_000;
const DRAIN_SPAN_US: f64 = 600_000.0;
const DRAIN_MIN: f64 = 0.6;

/// An estimate that falls below this share of what it was within the window is a drop, which is expected to end.
const DROP: f64 = 0.65;
const DROP_WINDOW_US: i64 = 3_000_000;

/// What is known of a receiver's line.
///
/// Every packet takes [`next_sequence`], goes out and is [`sent`]. What the receiver reports goes into [`feedback`], or
/// into [`report_loss`] and [`remb`] where no transport-wide feedback was agreed. [`poll_probe`] and [`allowance`] say
/// how much padding and video may go out now; [`poll_timeout`], when to ask again.
///
/// [`next_sequence`]: Self::next_sequence
/// [`sent`]: Self::sent
/// [`feedback`]: Self::feedback
/// [`report_loss`]: Self::report_loss
/// [`remb`]: Self::remb
/// [`poll_probe`]: Self::poll_probe
/// [`allowance`]: Self::allowance
/// [`poll_timeout`]: Self::poll_timeout
#[derive(Debug)]
pub struct Downlink {
    epoch: Instant,
    history: History,
    clock: Clock,
    arriving: Throughput,
    leaving: Throughput,
    groups: Groups,
    trend: Trend,
    queue: Queue,
    standing: Standing,
    rate: Rate,
    rivals: Rivals,
    /// The share of the rate that leaves room for the queue to drain.
    drain: f64,
    losses: LossLimit,
    probes: Probes,
    pacer: Pacer,
    /// Whether transport-wide feedback is agreed, or came.
    agreed: bool,
    remb_bps: Option<f64>,
    /// Loss was reported by somebody who reports nothing better.
    reported_us: Option<i64>,
    rtt_us: Option<f64>,
    rtt_reported: bool,
    /// Packets that may still be reported.
    reports: u32,
    /// What is let go in any case.
    pace_min: f64,
    feedback_us: Option<i64>,
    /// When the first packet left after feedback was agreed on.
    first_sent_us: Option<i64>,
    sent_us: i64,
    /// When the first packet was sent after feedback came.
    unheard_us: Option<i64>,
    shrunk_us: i64,
    /// The largest estimate of late.
    peak: (f64, i64),
}

impl Downlink {
    /// Nothing is known: the estimate has no limit.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            history: History::default(),
            clock: Clock::default(),
            arriving: Throughput::default(),
            leaving: Throughput::default(),
            groups: Groups::default(),
            trend: Trend::default(),
            queue: Queue::default(),
            standing: Standing::default(),
            rate: Rate::new(INITIAL),
            rivals: Rivals::default(),
            drain: 1.0,
            losses: LossLimit::default(),
            probes: Probes::default(),
            pacer: Pacer::default(),
            agreed: false,
            remb_bps: None,
            reported_us: None,
            rtt_us: None,
            rtt_reported: false,
            reports: 0,
            pace_min: 0.0,
            feedback_us: None,
            first_sent_us: None,
            sent_us: 0,
            unheard_us: None,
            shrunk_us: 0,
            peak: (0.0, 0),
        }
    }

    /// Transport-wide feedback is agreed: the estimate begins, low, before there is any.
    pub fn agree(&mut self) {
        self.agreed = true;
        self.history.reserve();
    }

    /// Whether transport-wide feedback is agreed, or came.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        self.agreed
    }

    /// Whether transport-wide feedback ever came.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.feedback_us.is_some()
    }

    /// The transport-wide sequence number of the packet that is sent next.
    #[must_use]
    pub fn next_sequence(&self) -> u16 {
        self.history.next_sequence()
    }

    /// A packet of so many bytes is sent under [`Self::next_sequence`]; `probe` when it is nothing but the padding that
    /// [`Self::poll_probe`] asked for.
    pub fn sent(&mut self, now: Instant, bytes: usize, probe: bool) {
        let now_us = self.us(now);
        self.leaving.add(now_us, bytes);
        let id = self.probes.id();
        self.probes.sent(now_us, self.history.next(), bytes, self.round_trip_us());
        self.history.sent(now_us, bytes, id);
        self.reports = self.reports.saturating_add(REPORTS_PER_PACKET).min(REPORTS_MAX);
        if let Some(estimate) = self.limit()
            && !probe
        {
            self.pacer.sent(now_us, self.pace(estimate), bytes);
        }
        self.sent_us = now_us;
        self.unheard_us.get_or_insert(now_us);
        self.silence(now_us);
    }

    /// What the receiver reports of packets. It may be late, doubled, out of order or wrong: the work is bounded by what
    /// was sent.
    pub fn feedback(&mut self, now: Instant, feedback: &TransportFeedback<'_>) {
        let count = u32::from(feedback.packet_count);
        let Some(left) = self.reports.checked_sub(count) else { return };
        self.reports = left;
        let now_us = self.us(now);
        let (reference_us, jumped) = self.clock.reference_us(now_us, feedback.reference_time);
        if jumped {
            self.forget_delays();
        }
        self.agree();
        let (mut arrived, mut missing, mut late) = (0_u32, 0_u32, 0_u32);
        let mut newest: Option<(u64, i64)> = None;
        let mut signal = None;
        for (sequence, ticks) in feedback.packets() {
            let Some(ticks) = ticks else {
                if let Some(probe) = self.history.missing(sequence) {
                    missing += 1;
                    self.probes.missing(probe);
                }
                continue;
            };
            let Some(sent) = self.history.arrived(sequence) else { continue };
            arrived += 1;
            late += u32::from(sent.was_missing);
            let arrived_us = reference_us.saturating_add(i64::from(ticks) * TICK_US);
            self.arriving.add(arrived_us, usize::from(sent.bytes));
            self.queue.push(now_us, sent.sent_us, arrived_us);
            self.probes.arrived(&sent, arrived_us);
            if let Some(step) = self.groups.push(sent.sent_us, arrived_us) {
                let now = self.trend.push(step);
                signal = if signal == Some(Signal::Over) { signal } else { Some(now) };
            }
            newest = newest.max(Some((sent.number, sent.sent_us)));
        }
        let Some((newest, sent_us)) = newest else { return };
        if !self.rtt_reported {
            self.round_trip(now_us - sent_us);
        }
        self.losses.count(arrived, missing, late);
        self.feedback_us = Some(now_us);
        self.unheard_us = None;
        self.update(now_us, signal.unwrap_or(self.trend.signal()), missing > late);
        let estimate = self.estimate();
        if let Some(found) = self.probes.concluded(now_us, newest, estimate)
            && found.bps > estimate
            && (found.as_sent || !self.losses.holds())
        {
            let leaving = self.leaving.bps(ARRIVING_US).unwrap_or(0.0);
            if found.as_sent && found.bps > MORE * leaving && !self.rivals.suspected(now_us) {
                self.losses.same_with_more(found.loss);
            }
            self.rate.raise(found.bps);
            self.losses.raise(found.bps);
        }
        self.watch_for_drops(now_us);
    }

    /// A receiver report: the share of packets lost since the one before, and the round trip. The loss counts only where
    /// no transport-wide feedback is agreed.
    pub fn report_loss(&mut self, now: Instant, fraction: f64, rtt: Option<Duration>) {
        let now_us = self.us(now);
        if let Some(rtt) = rtt {
            self.rtt_reported = true;
            self.round_trip(micros(rtt));
        }
        if self.agreed {
            return;
        }
        let elapsed_us = self.reported_us.map_or(0, |before| now_us - before);
        let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        let leaving = self.leaving.bps(ARRIVING_US).unwrap_or(0.0);
        let sending = Sending {
            bps: leaving,
            arriving_bps: leaving * (1.0 - fraction),
            estimate_bps: self.limit().unwrap_or(leaving.max(INITIAL)),
            queue_us: 0,
            crowded: false,
        };
        self.reported_us = Some(now_us);
        // A report is of a second or so, and of how many packets is not said.
        self.losses.observe(now_us, fraction, 50, elapsed_us, &sending);
    }

    /// What the receiver says it can take altogether. It counts only where no transport-wide feedback is agreed.
    pub fn remb(&mut self, now: Instant, bits_per_s: u64) {
        let now_us = self.us(now);
        self.remb_bps = Some((bits_per_s as f64).clamp(RATE_MIN, RATE_MAX));
        self.watch_for_drops(now_us);
    }

    /// What the line carries, in bits per second, or `None` as long as nothing is known: then there is no limit.
    #[must_use]
    pub fn estimate_bps(&self) -> Option<u64> {
        self.limit().map(|bps| whole(bps) as u64)
    }

    /// The share of packets lost lately, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.losses.loss()
    }

    /// Whether more packets are lost than are lost whatever is sent: less is to be sent then.
    #[must_use]
    pub fn loses_more_than_usual(&self) -> bool {
        self.losses.holds()
    }

    /// How long packets wait in queues on the way.
    #[must_use]
    pub fn queue_delay(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.queue.us()).unwrap_or(0))
    }

    /// The round trip: what receiver reports say, or else how long feedback takes, which is up to 100 ms more.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt_us.map(|us| Duration::from_micros(whole(us) as u64))
    }

    /// The rate that the next better pictures would take, in bits per second: probes look whether the line carries it.
    /// `None` when there is nothing better to send.
    pub fn want(&mut self, bps: Option<u64>) {
        self.probes.want(bps.map(|bps| (bps as f64).clamp(RATE_MIN, RATE_MAX)));
    }

    /// Bytes of padding that are due now, mostly 0. What is sent of it is [`sent`] with `probe`; media that is sent
    /// meanwhile counts as well.
    ///
    /// [`sent`]: Self::sent
    pub fn poll_probe(&mut self, now: Instant) -> usize {
        let now_us = self.us(now);
        if !self.agreed {
            return 0;
        }
        let heard = self.feedback_us.is_some_and(|heard| now_us - heard < PROBE_FEEDBACK_US);
        let grows = self.trend.signal() == Signal::Over && !self.is_jitter();
        let calm = self.queue.us() < PROBE_QUEUE_US && !grows;
        // Where everything stopped, nothing but a probe brings feedback.
        let idle = now_us - self.sent_us > IDLE_US;
        let begins =
            (idle || (heard && calm)).then(|| if self.is_unused() { self.queue.jitter_us() } else { 0.0 });
        self.probes.poll(now_us, self.estimate(), begins)
    }

    /// Bytes of video that pacing lets go now. Without an estimate there is no limit.
    pub fn allowance(&mut self, now: Instant) -> usize {
        let now_us = self.us(now);
        match self.limit() {
            Some(estimate) => self.pacer.allowance(now_us, self.pace(estimate)),
            None => usize::MAX,
        }
    }

    /// Lets so much go whatever the estimate is: what has no smaller size has to be tried.
    pub fn pace_at_least(&mut self, bits_per_s: u64) {
        self.pace_min = bits_per_s as f64;
    }

    /// When a probe begins or goes on.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let estimate = self.limit().filter(|_| self.agreed)?;
        moment(self.epoch, self.probes.timeout_us(estimate)?)
    }

    /// What is sent takes another way from now on: nothing that was learnt of the one before holds, and reports of what was
    /// sent before say nothing.
    pub fn moved(&mut self) {
        self.history.forget();
        *self = Self {
            history: std::mem::take(&mut self.history),
            clock: std::mem::take(&mut self.clock),
            agreed: self.agreed,
            reports: self.reports,
            ..Self::new(self.epoch)
        };
    }

    fn us(&self, now: Instant) -> i64 {
        micros_since(self.epoch, now)
    }

    fn limit(&self) -> Option<f64> {
        if self.agreed {
            return Some(self.estimate());
        }
        match (self.remb_bps, self.losses.bps()) {
            (Some(remb), Some(loss)) => Some(remb.min(loss)),
            (remb, loss) => remb.or(loss),
        }
    }

    /// What delay and loss allow.
    fn estimate(&self) -> f64 {
        let rate = self.rate.bps() * self.drain;
        self.losses.bps().map_or(rate, |loss| loss.min(rate)).clamp(RATE_MIN, RATE_MAX)
    }

    /// What is paced at: media that waits is part of a probe.
    fn pace(&self, estimate: f64) -> f64 {
        let estimate = estimate.max(self.pace_min);
        self.probes.sending_bps().map_or(estimate, |probe| probe.max(estimate))
    }

    fn round_trip_us(&self) -> i64 {
        self.rtt_us.map_or(RTT_US, |us| i64::try_from(whole(us)).unwrap_or(RTT_US))
    }

    fn round_trip(&mut self, us: i64) {
        let us = us.clamp(0, 10_000_000) as f64;
        self.rtt_us = Some(self.rtt_us.map_or(us, |before| before + RTT_GAIN * (us - before)));
    }

    /// Whether less is sent than may be. Then delays that differ are not of our making, and a queue not our doing.
    fn is_unused(&self) -> bool {
        self.leaving.bps(ARRIVING_US).unwrap_or(0.0) < USED_MIN * self.estimate()
    }

    /// Whether delays that grow are nothing but jitter.
    fn is_jitter(&self) -> bool {
        self.queue.is_jitter() && (self.queue.jitter_us() > JITTER_ALWAYS_US || self.is_unused())
    }

    fn update(&mut self, now_us: i64, signal: Signal, lost: bool) {
        let queue_us = self.queue.us();
        let excused = self.probes.disturbs(now_us) && queue_us < PROBE_DISTURBS_US;
        let signal = match signal {
            Signal::Over if self.is_jitter() => Signal::Normal,
            Signal::Over if excused => Signal::Under,
            signal => signal,
        };
        let signal = match self.standing.update(now_us, queue_us) {
            Verdict::Fine => signal,
            Verdict::Long => Signal::Over,
            Verdict::Path => {
                self.queue = Queue::default();
                signal
            }
        };
        // What the line loses by itself was carried all the same.
        let carried = 1.0 / (1.0 - self.losses.inherent());
        // What differs by so much is no measure over a short time.
        let lately = self.arriving.bps(ARRIVING_LATELY_US).filter(|_| !self.queue.is_jittery());
        let is_unused = if self.queue.is_jittery() {
            self.is_unused()
        } else {
            self.arriving.bps(ARRIVING_US).is_some_and(|bps| bps * carried < USED_MIN * self.rate.bps())
        };
        let arriving_bps = self.arriving.bps(ARRIVING_US).map(|bps| bps * carried);
        let leaving_bps = self.leaving.bps(ARRIVING_US).unwrap_or(0.0);
        let seen = Seen {
            signal,
            arriving_bps,
            most_bps: UNPROVED * arriving_bps.unwrap_or(0.0).max(leaving_bps) + UNPROVED_BPS,
            arriving_lately_bps: lately.map(|bps| bps * carried),
            is_unused,
            queue_us,
            rtt_us: self.round_trip_us(),
        };
        if self.rivals.update(now_us, seen.arriving_bps, queue_us) {
            self.drain = 1.0;
            self.rate.compete(now_us, &seen, lost && !self.losses.is_inherent());
        } else {
            let over_us = (queue_us - DRAIN_QUEUE_US).max(0);
            self.drain = (1.0 - over_us as f64 / DRAIN_SPAN_US).max(DRAIN_MIN);
            if self.rate.update(now_us, &seen) {
                self.rivals.fell();
            }
        }
        let sending = Sending {
            bps: leaving_bps,
            arriving_bps: seen.arriving_lately_bps.or(seen.arriving_bps).unwrap_or(0.0),
            estimate_bps: self.estimate(),
            queue_us,
            crowded: self.rivals.suspected(now_us),
        };
        self.losses.update(now_us, &sending);
    }

    /// A large decrease is answered by asking, soon and again, whether it is over.
    fn watch_for_drops(&mut self, now_us: i64) {
        let estimate = self.estimate();
        let (peak, since_us) = self.peak;
        if estimate < peak {
            let far = estimate < DROP * peak;
            if far {
                self.probes.dropped(now_us, peak);
            }
            if !far && now_us - since_us < DROP_WINDOW_US {
                return;
            }
        }
        self.peak = (estimate, now_us);
    }

    /// Less where nothing is heard.
    fn silence(&mut self, now_us: i64) {
        if self.agreed && self.feedback_us.is_none() {
            // Whoever agreed on feedback and gives none is treated as who did not agree.
            let since_us = *self.first_sent_us.get_or_insert(now_us);
            self.agreed = now_us - since_us < MUTE_US;
        }
        let Some(unheard_us) = self.unheard_us.filter(|_| self.feedback_us.is_some()) else { return };
        let long_us = (SILENCE_ROUND_TRIPS * self.round_trip_us()).max(SILENCE_US);
        if now_us - unheard_us < long_us || now_us - self.shrunk_us < SILENCE_AGAIN_US {
            return;
        }
        self.shrunk_us = now_us;
        let least =
            if now_us - unheard_us < SILENCE_LONG_US { self.peak.0 * SILENCE_LEAST } else { RATE_MIN };
        self.rate.shrink(SILENCE_FACTOR, least);
    }

    /// Another time line: nothing of before can be compared.
    fn forget_delays(&mut self) {
        self.groups = Groups::default();
        self.trend = Trend::default();
        self.queue = Queue::default();
        self.arriving = Throughput::default();
    }
}

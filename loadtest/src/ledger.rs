//! The ledger of a flow: what arrived, checked envelope by envelope, in memory that does not grow with the run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Notify;

use crate::flow::{Flow, Stamp, now_us};
use crate::report::round;
use crate::resumption::{Pause, Resumption};

/// Gaps that are remembered, to tell an envelope that comes late from one that comes twice. A run with more is
/// broken anyway.
const GAPS_MAX: usize = 1_000_000;

/// Distance of two samples of the rate in microseconds. Shorter resolves more, and takes more memory.
const SAMPLE_US: u64 = 10_000;

/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Everything known of a flow's arrivals. Shared by its submitter, its receiver and whoever waits.
#[derive(Debug)]
pub(crate) struct Ledger {
    flow: Flow,
    book: Mutex<Book>,
    /// Envelopes handed in, answered or not.
    handed_in: AtomicU64,
    /// Different envelopes that arrived.
    arrived: AtomicU64,
    /// Wakes whoever waits for arrivals.
    progress: Notify,
}

#[derive(Debug)]
struct Book {
    /// Per conversation, the counter expected next.
    next: Vec<u32>,
    /// Passed over, and not seen yet.
    gaps: BTreeSet<(u32, u32)>,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
    /// Latencies by the phase an envelope was handed in; the first phase starts at 0.
    phases: Vec<(u64, Histogram<u64>)>,
    /// (time, arrived) every [`SAMPLE_US`].
    samples: Vec<(u64, u64)>,
    resumption: Resumption,
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Accepted by the sender's gateway, and never seen.
    pub lost: u64,
    /// Arrived again with a new inbox sequence number.
    pub duplicated: u64,
    /// Arrived after a later one of the same conversation.
    pub reordered: u64,
    /// Arrived with other bytes than were sent.
    pub corrupted: u64,
}

/// Latency of a phase, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 99 % are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

impl Ledger {
    /// For a flow of which nothing arrived yet.
    pub(crate) fn new(flow: Flow) -> Arc<Self> {
        let book = Book {
            next: vec![0; flow.conversations() as usize],
            gaps: BTreeSet::new(),
            duplicated: 0,
            reordered: 0,
            corrupted: 0,
            phases: vec![(0, histogram())],
            samples: Vec::new(),
            resumption: Resumption::default(),
        };
        Arc::new(Self {
            flow,
            book: Mutex::new(book),
            handed_in: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            progress: Notify::new(),
        })
    }

    /// Whose ledger this is.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Different envelopes that arrived so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    /// Counts envelopes that are about to be handed in.
    pub(crate) fn hand_in(&self, count: u64) {
        self.handed_in.fetch_add(count, Ordering::AcqRel);
    }

    /// Handed in and not arrived yet.
    pub(crate) fn under_way(&self) -> u64 {
        self.handed_in.load(Ordering::Acquire).saturating_sub(self.arrived())
    }

    /// Envelopes handed in from now on are counted in a new phase. Answers its number.
    pub(crate) fn begin_phase(&self) -> usize {
        let mut book = self.book();
        book.phases.push((now_us(), histogram()));
        book.phases.len() - 1
    }

    /// Enters envelopes of this flow in the order they arrived in.
    pub(crate) fn enter<'a>(&self, arrivals: impl IntoIterator<Item = (Stamp, &'a [u8])>) {
        let now = now_us();
        let mut book = self.book();
        let mut new = 0;
        for (stamp, payload) in arrivals {
            if !self.flow.intact(payload) {
                book.corrupted += 1;
            }
            if book.enter(stamp) {
                new += 1;
                book.note_latency(stamp.sent_us, now);
                book.resumption.arrived((stamp.conversation, stamp.counter), now);
            }
        }
        let arrived = self.arrived.fetch_add(new, Ordering::AcqRel) + new;
        if book.samples.last().is_none_or(|(at, _)| now >= at + SAMPLE_US) {
            book.samples.push((now, arrived));
        }
        drop(book);
        self.progress.notify_waiters();
    }

    /// An envelope that the sender's gateway was asked to take at `asked_us` was new to it, and taken.
    pub(crate) fn accepted(&self, asked_us: u64, envelope: (u32, u32)) {
        let mut book = self.book();
        let arrived = book.next.get(envelope.0 as usize).is_some_and(|next| *next > envelope.1);
        let arrived = arrived && !book.gaps.contains(&envelope);
        book.resumption.taken(envelope, asked_us, now_us(), arrived);
    }

    /// Something on its way was broken at `broken_us`, and does nothing more from now on.
    pub(crate) fn broken(&self, broken_us: u64) {
        self.book().resumption.mark(broken_us, now_us());
    }

    /// How long nothing moved since [`Self::broken`]; `None` while that is so.
    pub(crate) fn pause(&self) -> Option<Pause> {
        self.book().resumption.pause()
    }

    /// Waits until something arrives, or a moment has passed.
    pub(crate) async fn changed(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(50), self.progress.notified()).await;
    }

    /// Latency of the envelopes handed in during a phase; `None` when there was none.
    pub(crate) fn latency(&self, phase: usize) -> Option<Latency> {
        let book = self.book();
        let (_, histogram) = book.phases.get(phase).filter(|(_, histogram)| !histogram.is_empty())?;
        let ms = |us: u64| round(Duration::from_micros(us).as_secs_f64() * 1e3);
        Some(Latency {
            p50: ms(histogram.value_at_quantile(0.5)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        })
    }

    /// Arrivals per second between the arrival of number `from` and number `to`; `None` when the run was too
    /// short to tell.
    pub(crate) fn rate(&self, from: u64, to: u64) -> Option<f64> {
        let book = self.book();
        let at = |count: u64| book.samples.iter().find(|(_, arrived)| *arrived >= count).copied();
        let ((start, first), (end, last)) = (at(from)?, at(to)?);
        let seconds = Duration::from_micros(end.saturating_sub(start)).as_secs_f64();
        // Fewer than eleven samples are noise.
        (end >= start + 10 * SAMPLE_US).then(|| (last - first) as f64 / seconds)
    }

    /// Arrivals per second in each tenth of `count` envelopes, in order; `None` for one that was too short to tell.
    pub(crate) fn rates_by_tenth(&self, count: u64) -> Vec<Option<f64>> {
        let book = self.book();
        let at = |count: u64| {
            let reached = book.samples.partition_point(|(_, arrived)| *arrived < count);
            // Between two samples the last envelopes go unseen.
            book.samples.get(reached).or(book.samples.last()).copied()
        };
        let rate = |tenth: u64| {
            let ((start, first), (end, last)) = (at(count * tenth / 10)?, at(count * (tenth + 1) / 10)?);
            let us = end.saturating_sub(start);
            (us >= 10 * SAMPLE_US).then(|| last.saturating_sub(first) as f64 * 1e6 / us as f64)
        };
        (0..10).map(rate).collect()
    }

    /// What became of the flow when `accepted` envelopes of each conversation were accepted.
    pub(crate) fn verdict(&self, accepted: &[u32]) -> Verdict {
        let book = self.book();
        let mut missing = vec![0_u32; book.next.len()];
        for (conversation, _) in &book.gaps {
            if let Some(count) = missing.get_mut(*conversation as usize) {
                *count += 1;
            }
        }
        let arrived = book.next.iter().zip(&missing).map(|(next, missing)| next - missing);
        let lost = accepted.iter().zip(arrived).map(|(accepted, arrived)| accepted.saturating_sub(arrived));
        Verdict {
            lost: lost.map(u64::from).sum(),
            duplicated: book.duplicated,
            reordered: book.reordered,
            corrupted: book.corrupted,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Enters one arrival. Answers whether it is the first of this envelope.
    fn enter(&mut self, stamp: Stamp) -> bool {
        let Stamp { conversation, counter, .. } = stamp;
        let Some(next) = self.next.get_mut(conversation as usize) else {
            self.corrupted += 1;
            return false;
        };
        if counter >= *next {
            for gap in *next..counter {
                if self.gaps.len() < GAPS_MAX {
                    self.gaps.insert((conversation, gap));
                }
            }
            *next = counter + 1;
            return true;
        }
        if self.gaps.remove(&(conversation, counter)) {
            self.reordered += 1;
            return true;
        }
        self.duplicated += 1;
        false
    }

    fn note_latency(&mut self, sent_us: u64, now: u64) {
        let phase = self.phases.iter_mut().rev().find(|(start, _)| *start <= sent_us);
        if let Some((_, histogram)) = phase {
            histogram.saturating_record(now.saturating_sub(sent_us).max(1));
        }
    }
}

impl std::ops::Add for Verdict {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
            corrupted: self.corrupted + other.corrupted,
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .expect("the bounds are constants that hdrhistogram takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<Ledger> {
        Ledger::new(Flow::new("a@alpha.test", "b@beta.test", 2, 32).unwrap())
    }

    fn arrive(ledger: &Ledger, conversation: u32, counters: &[u32]) {
        let run = ledger.flow().run();
        let payload: Vec<u8> = (0..32).collect();
        let stamp = |counter: &u32| Stamp { run, conversation, counter: *counter, sent_us: 0 };
        ledger.enter(counters.iter().map(|counter| (stamp(counter), payload.as_slice())));
    }

    #[test]
    fn a_complete_and_ordered_run_is_clean() {
        let ledger = ledger();
        arrive(&ledger, 0, &[0, 1, 2]);
        arrive(&ledger, 1, &[0, 1]);
        assert_eq!(ledger.verdict(&[3, 2]), Verdict::default());
        assert_eq!(ledger.arrived(), 5);
    }

    #[test]
    fn what_was_accepted_and_never_came_is_lost_wherever_it_is_missing() {
        let ledger = ledger();
        arrive(&ledger, 0, &[0, 2]);
        assert_eq!(ledger.verdict(&[4, 3]), Verdict { lost: 2 + 3, ..Verdict::default() });
    }

    #[test]
    fn a_late_envelope_is_reordered_and_a_second_copy_is_duplicated() {
        let ledger = ledger();
        arrive(&ledger, 0, &[0, 2, 1, 1, 0]);
        assert_eq!(ledger.verdict(&[3, 0]), Verdict { reordered: 1, duplicated: 2, ..Verdict::default() });
        assert_eq!(ledger.arrived(), 3);
    }

    #[test]
    fn other_bytes_than_were_sent_are_counted() {
        let ledger = ledger();
        let stamp = Stamp { run: ledger.flow().run(), conversation: 0, counter: 0, sent_us: 0 };
        ledger.enter([(stamp, &[0_u8; 32][..])]);
        assert_eq!(ledger.verdict(&[1, 0]), Verdict { corrupted: 1, ..Verdict::default() });
    }

    #[test]
    fn a_run_that_slows_down_shows_it_by_tenths() {
        let ledger = ledger();
        // 100 envelopes at 100/s, then 100 more at half of that.
        ledger.book().samples = (0..=100_u64)
            .map(|n| (n * 10_000, n))
            .chain((1..=100).map(|n| (1_000_000 + n * 20_000, 100 + n)))
            .collect();
        let rates: Vec<_> = ledger.rates_by_tenth(200).into_iter().map(Option::unwrap).collect();
        assert_eq!(rates, [[100.0; 5], [50.0; 5]].concat());
        assert_eq!(ledger.rates_by_tenth(20), [None; 10]);
    }

    #[test]
    fn a_latency_belongs_to_the_phase_its_envelope_was_handed_in() {
        let ledger = ledger();
        let second = ledger.begin_phase();
        arrive(&ledger, 0, &[0]);
        assert!(ledger.latency(0).is_some());
        assert_eq!(ledger.latency(second), None);
    }
}

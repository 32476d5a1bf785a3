//! What became of envelopes other than by acknowledgement, and what was refused of a peer's: counted by outcome and
//! reason for each peer, since this process started.
//!
//! Reasons are names of this program: a peer's refusal travels as a number ([`crate::wire::Refusal`]), and one that is
//! not known here counts as `refused`. So there are never more entries than outcomes times names, whatever a peer says,
//! and none of them carries anything of an envelope.

use std::borrow::Cow;
use std::time::Duration;

use crate::admin::{Departed, Departure};
use crate::receipt::{Outcome, refusal_name};
use crate::time::Time;

/// Latency that was last measured this long ago is no longer shown: it says nothing about now.
const LATENCY_STALE: Duration = Duration::from_secs(60);

/// How much a new measurement counts. More follows changes faster, and shows more noise.
const LATENCY_WEIGHT: f64 = 1.0 / 8.0;

/// Counts of one peer.
#[derive(Debug, Default)]
pub(crate) struct Departures(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    outcome: Departed,
    reason: &'static str,
    count: u64,
    last: Time,
}

impl Departures {
    /// One more.
    pub(crate) fn count(&mut self, now: Time, outcome: Departed, reason: &'static str) {
        match self.0.iter_mut().find(|entry| entry.outcome == outcome && entry.reason == reason) {
            Some(entry) => {
                entry.count += 1;
                entry.last = now;
            }
            None => self.0.push(Entry { outcome, reason, count: 1, last: now }),
        }
    }

    /// One more that left the outbox; those that were delivered are counted elsewhere.
    pub(crate) fn left(&mut self, now: Time, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered => {}
            Outcome::Refused(nack) => self.count(now, Departed::Refused, refusal_name(nack.reason())),
            Outcome::Expired => self.count(now, Departed::Expired, "time-to-live"),
            Outcome::Purged => self.count(now, Departed::Purged, "operator"),
        }
    }

    /// As operators see them, the most recent first.
    pub(crate) fn view(&self) -> Vec<Departure> {
        let mut view: Vec<_> = self
            .0
            .iter()
            .map(|entry| Departure {
                outcome: entry.outcome,
                reason: Cow::Borrowed(entry.reason),
                count: entry.count,
                last: entry.last,
            })
            .collect();
        view.sort_by_key(|departure| (std::cmp::Reverse(departure.last), departure.outcome));
        view
    }
}

/// How long a peer's envelopes take from submission to acknowledgement, of late.
#[derive(Debug, Default)]
pub(crate) struct Latency(Option<(f64, Time)>);

impl Latency {
    /// One was acknowledged.
    pub(crate) fn measured(&mut self, now: Time, latency: Duration) {
        let ms = latency.as_secs_f64() * 1000.0;
        let smoothed = self.recent_ms(now).map_or(ms, |before| before + (ms - before) * LATENCY_WEIGHT);
        self.0 = Some((smoothed, now));
    }

    /// Smoothed, when something was acknowledged of late.
    pub(crate) fn recent_ms(&self, now: Time) -> Option<f64> {
        self.0.filter(|(_, at)| now.since(*at) < LATENCY_STALE).map(|(ms, _)| ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn at(ms: u64) -> Time {
        Time::from_unix_ms(ms)
    }

    #[test]
    fn refusals_of_unknown_kinds_make_one_entry_however_many_there_are() {
        let mut departures = Departures::default();
        for number in 0..1000 {
            let nack = wire::Nack { reason: number, ..wire::Nack::default() };
            departures.left(at(u64::try_from(number).unwrap()), &Outcome::Refused(nack));
        }
        let view = departures.view();
        assert_eq!(view.iter().map(|departure| departure.count).sum::<u64>(), 1000);
        assert!(view.len() <= 9, "{view:?}");
        assert_eq!((view[0].reason.as_ref(), view[0].last), ("refused", at(999)));
    }

    #[test]
    fn what_was_delivered_is_no_departure() {
        let mut departures = Departures::default();
        departures.left(at(1), &Outcome::Delivered);
        assert!(departures.view().is_empty());
    }

    #[test]
    fn latency_follows_what_is_measured_and_is_not_shown_when_it_is_old() {
        let mut latency = Latency::default();
        assert_eq!(latency.recent_ms(at(0)), None);
        latency.measured(at(0), Duration::from_millis(80));
        assert_eq!(latency.recent_ms(at(1)), Some(80.0));
        latency.measured(at(1), Duration::from_millis(0));
        assert_eq!(latency.recent_ms(at(2)), Some(70.0));
        assert_eq!(latency.recent_ms(at(60_001)), None);
        latency.measured(at(60_002), Duration::from_millis(5));
        assert_eq!(latency.recent_ms(at(60_002)), Some(5.0));
    }
}

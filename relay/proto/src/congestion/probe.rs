//! Probes: short clusters of more than the estimate, mostly padding, that show whether the line carries more. Key frames
//! are never what a probe is made of.

use super::history::Sent;
use super::{INITIAL, whole};

/// How long a cluster takes. Longer measures better, and leaves a longer queue where there is less.
const CLUSTER_US: f64 = 40_000.0;

/// Where delays differ by more than this from packet to packet, a cluster takes so much longer for each microsecond of it,
/// up to a limit.
const JITTER_US: f64 = 4_000.0;
const JITTER_TIMES: f64 = 10.0;
const CLUSTER_US_MAX: f64 = 160_000.0;

/// Bytes of a cluster at least and at most: some packets of padding, which are short.
const CLUSTER_BYTES_MIN: f64 = 1_500.0;
const CLUSTER_BYTES_MAX: f64 = 65_536.0;

/// Packets of a cluster that have to arrive.
const ARRIVED_MIN: u32 = 4;

/// The first probe, and those that follow, go this far beyond the estimate at most.
const FIRST: f64 = 3.0;
const NEXT: f64 = 2.0;

/// The same for clusters that take this long.
const LONG_US: f64 = 100_000.0;
const NEXT_LONG: f64 = 1.5;

/// A probe is at least this fast: slower ones take long, and say little.
const BPS_MIN: f64 = 120_000.0;

/// And this far beyond what is wanted at most: an estimate that is just enough is too little with every larger picture.
const WANT_MARGIN: f64 = 1.5;

/// A probe whose result is at least this share of its target did not find the limit.
const SUCCESS: f64 = 0.75;

/// Where less arrives than this share of what was sent, the limit is found; a little less is taken, so that the queue
/// drains.
const SATURATED: f64 = 0.9;
const SATURATED_KEEPS: f64 = 0.95;

/// What arrives over less than this share of the time it was sent in was held up on the way and says nothing.
const HELD_UP: f64 = 0.5;

/// Time between probes at first, and at most after some that failed. Shorter finds more sooner, and disturbs more.
const APART_US: i64 = 3_000_000;
const APART_US_MAX: i64 = 24_000_000;

/// After a drop, for how long, and how often, the line is asked whether that is over.
const DROP_US: i64 = 60_000_000;
const DROP_APART_US: i64 = 4_000_000;

/// And for how much of what there was before, whatever is wanted meanwhile. More finds the last bit of it, at the price of
/// probes that cannot succeed.
const DROP_BACK: f64 = 0.85;

/// How much longer than planned a cluster may take, and how long its feedback.
const SENDING_US_MAX: i64 = 150_000;
const FEEDBACK_US_MAX: i64 = 1_500_000;

/// How often padding is asked for while a cluster goes on, and less than this is not worth a packet.
const STEP_US: i64 = 5_000;
const PADDING_MIN: f64 = 100.0;

/// How long after a probe a queue that grows may still be its doing.
const AFTERMATH_US: i64 = 150_000;

/// How long the next one waits where one must not begin.
const POSTPONE_US: i64 = 250_000;

/// A cluster while it is sent.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    id: u8,
    bps: f64,
    bytes: f64,
    sent: f64,
    since_us: i64,
    due_us: i64,
    last: u64,
}

/// A cluster while feedback comes.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    id: u8,
    packets: u32,
    missing: u32,
    bytes: f64,
    first_sent_us: i64,
    last_sent_us: i64,
    last_sent_bytes: f64,
    /// The first packet that arrived, and sums for the line through all: what times are since then.
    origin: Option<(i64, i64)>,
    sums: Sums,
    /// The last packet of it that was sent, once the cluster is complete, and until when it is waited for.
    complete: Option<(u64, i64, f64)>,
}

/// Times in ms at which packets were sent (x) and arrived (y).
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// What arrives.
    pub(super) bps: f64,
    /// Whether that is about all that was sent.
    pub(super) as_sent: bool,
    /// The share of its packets that were lost.
    pub(super) loss: f64,
}

/// What becomes of the probes that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The line carried it: on to the next limit.
    Carried,
    /// It did not, or nothing of it was reported: the next one waits for longer.
    Failed,
    /// It shows nothing about the line, as where a busy machine sends or takes it late: tried again as if it had not been.
    Unknown,
}

/// Decides when to probe, and what came of it.
#[derive(Debug)]
pub(super) struct Probes {
    want: Option<f64>,
    first: bool,
    next_us: i64,
    apart_us: i64,
    /// When the estimate fell far, and from where.
    dropped: Option<(i64, f64)>,
    id: u8,
    cluster: Option<Cluster>,
    measure: Option<Measure>,
    ended_us: Option<i64>,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            want: None,
            first: true,
            next_us: 0,
            apart_us: APART_US,
            dropped: None,
            id: 0,
            cluster: None,
            measure: None,
            ended_us: None,
        }
    }
}

impl Probes {
    /// What would be sent if there were room.
    pub(super) fn want(&mut self, bps: Option<f64>) {
        self.want = bps;
    }

    /// The estimate fell far: soon it is asked whether that is over, at first after a while.
    pub(super) fn dropped(&mut self, now_us: i64, from: f64) {
        let before = self.dropped_from(now_us).unwrap_or(0.0);
        self.dropped = Some((now_us, before.max(from)));
        self.apart_us = self.apart_us.min(DROP_APART_US);
        self.next_us = self.next_us.max(now_us + APART_US);
    }

    /// The rate of the cluster that is being sent.
    pub(super) fn sending_bps(&self) -> Option<f64> {
        self.cluster.map(|cluster| cluster.bps)
    }

    /// The cluster that packets belong to, 0 for none.
    pub(super) fn id(&self) -> u8 {
        self.cluster.map_or(0, |cluster| cluster.id)
    }

    /// Whether a queue that grows may be a probe's doing.
    pub(super) fn disturbs(&self, now_us: i64) -> bool {
        self.measure.is_some() || self.ended_us.is_some_and(|ended| now_us - ended < AFTERMATH_US)
    }

    /// When [`Self::poll`] has something to do.
    pub(super) fn timeout_us(&self, estimate: f64) -> Option<i64> {
        if let Some(cluster) = &self.cluster {
            return Some(cluster.due_us);
        }
        if let Some(measure) = &self.measure {
            return measure.complete.map(|(_, until_us, _)| until_us);
        }
        let lacks = self.wanted(self.next_us).is_some_and(|want| want > estimate);
        lacks.then_some(self.next_us)
    }

    /// Where the estimate was before a drop of late.
    fn dropped_from(&self, now_us: i64) -> Option<f64> {
        self.dropped.filter(|(at_us, _)| now_us - at_us < DROP_US).map(|(_, from)| from)
    }

    /// What is wanted, and where that is less, most of what there was before a drop: what comes next after it takes more
    /// than the next step.
    fn wanted(&self, now_us: i64) -> Option<f64> {
        let want = self.want?;
        Some(self.dropped_from(now_us).map_or(want, |from| want.max(DROP_BACK * from)))
    }

    /// Bytes of padding that are due. `jitter_us`: how much delays differ from packet to packet, or none where no probe may
    /// begin.
    pub(super) fn poll(&mut self, now_us: i64, estimate: f64, jitter_us: Option<f64>) -> usize {
        if self.cluster.is_none() {
            if let Some((_, until_us, _)) = self.measure.and_then(|measure| measure.complete)
                && now_us >= until_us
            {
                self.end(now_us, Outcome::Failed);
            }
            self.begin(now_us, estimate, jitter_us);
        }
        let Some(cluster) = &mut self.cluster else { return 0 };
        let planned_s = cluster.bytes * 8.0 / cluster.bps;
        if (now_us - cluster.since_us - SENDING_US_MAX) as f64 / 1e6 > planned_s {
            // Nobody sends what is due: we are late ourselves.
            self.cluster = None;
            self.end(now_us, Outcome::Unknown);
            return 0;
        }
        cluster.due_us = now_us + STEP_US;
        let elapsed_s = (now_us - cluster.since_us + STEP_US) as f64 / 1e6;
        let due = (cluster.bps / 8.0 * elapsed_s).min(cluster.bytes) - cluster.sent;
        if due < PADDING_MIN && cluster.sent + due < cluster.bytes {
            return 0;
        }
        whole(due.max(PADDING_MIN))
    }

    fn begin(&mut self, now_us: i64, estimate: f64, jitter_us: Option<f64>) {
        let Some(want) = self.wanted(now_us).filter(|want| *want > estimate) else { return };
        if self.measure.is_some() || now_us < self.next_us {
            return;
        }
        let Some(jitter_us) = jitter_us else {
            self.next_us = now_us + POSTPONE_US;
            return;
        };
        let bps = if self.first { (FIRST * INITIAL).max(NEXT * estimate) } else { NEXT * estimate };
        let longer_us = JITTER_TIMES * (jitter_us - JITTER_US).max(0.0);
        let cluster_us = (CLUSTER_US + longer_us).min(CLUSTER_US_MAX);
        let bps = if cluster_us >= LONG_US { bps.min(NEXT_LONG * estimate) } else { bps };
        let bps = bps.max(BPS_MIN).min(want * WANT_MARGIN);
        self.first = false;
        self.id = self.id.checked_add(1).unwrap_or(1);
        let bytes = (bps / 8.0 * (cluster_us / 1e6)).clamp(CLUSTER_BYTES_MIN, CLUSTER_BYTES_MAX);
        self.cluster =
            Some(Cluster { id: self.id, bps, bytes, sent: 0.0, since_us: now_us, due_us: now_us, last: 0 });
        self.measure = Some(Measure { id: self.id, ..Measure::default() });
    }

    /// A packet is sent.
    pub(super) fn sent(&mut self, now_us: i64, number: u64, bytes: usize, rtt_us: i64) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.sent += bytes as f64;
        cluster.last = number;
        if cluster.sent < cluster.bytes {
            return;
        }
        let complete = (cluster.last, now_us + rtt_us.saturating_add(FEEDBACK_US_MAX), cluster.bps);
        self.cluster = None;
        if let Some(measure) = &mut self.measure {
            measure.complete = Some(complete);
        }
    }

    /// A packet is reported missing.
    pub(super) fn missing(&mut self, id: u8) {
        if let Some(measure) = self.measure.as_mut().filter(|measure| measure.id == id && id != 0) {
            measure.missing += 1;
        }
    }

    /// A packet arrived.
    pub(super) fn arrived(&mut self, sent: &Sent, arrived_us: i64) {
        let Some(measure) =
            self.measure.as_mut().filter(|measure| measure.id == sent.probe && sent.probe != 0)
        else {
            return;
        };
        let (sent_us, bytes) = (sent.sent_us, f64::from(sent.bytes));
        measure.missing = measure.missing.saturating_sub(u32::from(sent.was_missing));
        if measure.packets == 0 {
            measure.first_sent_us = sent_us;
        }
        measure.packets += 1;
        measure.bytes += bytes;
        measure.first_sent_us = measure.first_sent_us.min(sent_us);
        if sent_us >= measure.last_sent_us {
            (measure.last_sent_us, measure.last_sent_bytes) = (sent_us, bytes);
        }
        let (x0, y0) = *measure.origin.get_or_insert((sent_us, arrived_us));
        let x = sent_us.saturating_sub(x0) as f64 / 1e3;
        let y = arrived_us.saturating_sub(y0) as f64 / 1e3;
        let sums = &mut measure.sums;
        (sums.x, sums.y) = (sums.x + x, sums.y + y);
        (sums.xx, sums.xy) = (sums.xx + x * x, sums.xy + x * y);
    }

    /// Feedback came that speaks of packets up to `newest`. What the probe came to, if it ended.
    pub(super) fn concluded(&mut self, now_us: i64, newest: u64, estimate: f64) -> Option<Found> {
        let measure = self.measure?;
        let (last, _, target) = measure.complete?;
        if newest < last {
            return None;
        }
        let found = measure.result(target);
        self.end(
            now_us,
            match found {
                Some(found) if found.as_sent && found.bps > estimate => Outcome::Carried,
                Some(_) => Outcome::Failed,
                None if measure.missing > measure.packets => Outcome::Failed,
                None => Outcome::Unknown,
            },
        );
        found
    }

    fn end(&mut self, now_us: i64, outcome: Outcome) {
        self.measure = None;
        self.ended_us = Some(now_us);
        self.next_us = now_us + self.apart_us;
        match outcome {
            Outcome::Carried => (self.next_us, self.apart_us) = (now_us, APART_US),
            Outcome::Failed => {
                let dropped = self.dropped_from(now_us);
                let most = if dropped.is_some() { DROP_APART_US } else { APART_US_MAX };
                self.apart_us = (self.apart_us * 2).min(most);
            }
            Outcome::Unknown => {}
        }
    }
}

impl Measure {
    fn result(&self, target: f64) -> Option<Found> {
        if self.packets < ARRIVED_MIN {
            return None;
        }
        let sent_s = self.last_sent_us.saturating_sub(self.first_sent_us).max(1_000) as f64 / 1e6;
        // Few packets of a cluster can seem faster than the cluster was.
        let sent = ((self.bytes - self.last_sent_bytes) * 8.0 / sent_s).min(target);
        // How much longer it took to arrive than to be sent.
        let stretch = self.stretch().filter(|stretch| *stretch >= HELD_UP)?;
        let bps = if stretch * SATURATED > 1.0 { SATURATED_KEEPS * sent / stretch } else { sent };
        let loss = f64::from(self.missing) / f64::from(self.missing.saturating_add(self.packets));
        Some(Found { bps, as_sent: bps >= SUCCESS * target, loss })
    }

    /// The slope of arrival over sending, by least squares: jitter of single packets counts little.
    fn stretch(&self) -> Option<f64> {
        let (n, sums) = (f64::from(self.packets), &self.sums);
        let below = sums.xx - sums.x * sums.x / n;
        (below > 1.0).then(|| (sums.xy - sums.x * sums.y / n) / below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a whole cluster in packets of 250 bytes, a millisecond at a time: how many bytes, and when it ended.
    fn cluster(probes: &mut Probes, from_us: i64, estimate: f64) -> (Vec<(i64, u8)>, i64) {
        let (mut sent, mut now_us) = (Vec::new(), from_us);
        loop {
            let mut due = probes.poll(now_us, estimate, Some(0.0));
            if due == 0 && probes.id() == 0 {
                return (sent, now_us);
            }
            while due > 0 && probes.id() > 0 {
                sent.push((now_us, probes.id()));
                probes.sent(now_us, sent.len() as u64, 250, 50_000);
                due = due.saturating_sub(250);
            }
            now_us += 1_000;
        }
    }

    fn report(probes: &mut Probes, sent: &[(i64, u8)], arrived: impl Fn(usize, i64) -> i64) {
        for (n, (sent_us, id)) in sent.iter().enumerate() {
            let sent = Sent { number: 0, sent_us: *sent_us, bytes: 250, probe: *id, was_missing: false };
            probes.arrived(&sent, arrived(n, *sent_us));
        }
    }

    #[test]
    fn probes_go_on_until_the_limit_is_found_and_then_come_less_and_less_often() {
        let mut probes = Probes::default();
        probes.want(Some(5e6));
        let (sent, ended_us) = cluster(&mut probes, 0, 3e5);
        assert!((15..=25).contains(&sent.len()), "40 ms of 900 kbit/s: {}", sent.len());
        report(&mut probes, &sent, |_, sent_us| sent_us + 20_000);
        let found = probes.concluded(ended_us, sent.len() as u64, 3e5).expect("all of it is reported");
        assert!((7e5..=9e5).contains(&found.bps), "{found:?}");
        assert_eq!(probes.timeout_us(found.bps), Some(ended_us), "at once");
        let mut from_us = ended_us;
        let mut apart = Vec::new();
        for _ in 0..5 {
            let (sent, ended_us) = cluster(&mut probes, from_us, 1e6);
            report(&mut probes, &sent, |n, _| from_us + i64::try_from(n).unwrap() * 2_000);
            let found = probes.concluded(ended_us, sent.len() as u64, 1e6).expect("it is reported");
            assert!((9e5..1.05e6).contains(&found.bps), "{found:?}");
            let next_us = probes.timeout_us(1e6).expect("more is wanted");
            apart.push((next_us - ended_us) / 1_000_000);
            from_us = next_us;
        }
        assert_eq!(apart, [3, 6, 12, 24, 24]);
        assert_eq!(probes.timeout_us(5e6), None, "nothing more is wanted");
    }

    #[test]
    fn a_cluster_that_nobody_sends_or_reports_is_given_up() {
        let mut probes = Probes::default();
        probes.want(Some(5e6));
        assert!(probes.poll(0, 3e5, Some(0.0)) > 0);
        assert_eq!(probes.poll(300_000, 3e5, Some(0.0)), 0);
        assert!(probes.timeout_us(3e5).is_some_and(|next| next >= APART_US), "and not asked for at once");
        let (sent, ended_us) = cluster(&mut probes, 10_000_000, 3e5);
        assert!(!sent.is_empty() && probes.disturbs(ended_us));
        let until_us = probes.timeout_us(3e5).expect("feedback is waited for");
        assert_eq!(probes.poll(until_us, 3e5, Some(0.0)), 0);
        assert!(!probes.disturbs(until_us + AFTERMATH_US));
    }

    #[test]
    fn what_seems_faster_than_it_was_sent_is_not_believed() {
        let mut probes = Probes::default();
        probes.want(Some(5e6));
        let (sent, ended_us) = cluster(&mut probes, 0, 3e5);
        report(&mut probes, &sent, |n, _| 100_000 + i64::try_from(n).unwrap() * 300);
        assert_eq!(probes.concluded(ended_us, sent.len() as u64, 3e5), None);
        let mut from_us = ended_us;
        for _ in 0..4 {
            let next_us = probes.timeout_us(3e5).expect("more is wanted");
            assert_eq!(next_us - from_us, APART_US, "it says nothing about the line");
            let (sent, ended_us) = cluster(&mut probes, next_us, 3e5);
            report(&mut probes, &sent, |n, _| 100_000 + i64::try_from(n).unwrap() * 300);
            assert_eq!(probes.concluded(ended_us, sent.len() as u64, 3e5), None);
            from_us = ended_us;
        }
    }
}

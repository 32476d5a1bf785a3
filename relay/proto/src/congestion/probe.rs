//! Probes: short clusters of more than the estimate, mostly padding, that show whether the line carries more. Key frames
//! are never what a probe is made of.

use super::{INITIAL, whole};

/// How long a cluster takes. Longer measures better, and leaves a longer queue where there is less.
const CLUSTER_US: i64 = 40_000;

/// Bytes of a cluster at least and at most: some packets of padding, which are short.
const CLUSTER_BYTES_MIN: f64 = 1_500.0;
const CLUSTER_BYTES_MAX: f64 = 65_536.0;

/// Packets of a cluster that have to arrive.
const ARRIVED_MIN: u32 = 4;

/// The first probe, and those that follow, go this far beyond the estimate at most.
const FIRST: f64 = 3.0;
const NEXT: f64 = 2.0;

/// A probe is at least this fast: slower ones take long, and say little.
const BPS_MIN: f64 = 120_000.0;

/// And this far beyond what is wanted: what is wanted has to fit besides what a probe does not see.
const WANT_MARGIN: f64 = 1.1;

/// A probe whose result is at least this share of its target did not find the limit.
const SUCCESS: f64 = 0.75;

/// Where less arrives than this share of what was sent, the limit is found; a little less is taken, so that the queue
/// drains.
const SATURATED: f64 = 0.9;
const SATURATED_KEEPS: f64 = 0.95;

/// Time between probes at first, and at most after some that failed. Shorter finds more sooner, and disturbs more.
const APART_US: i64 = 3_000_000;
const APART_US_MAX: i64 = 24_000_000;

/// After a drop, for how long, and how often, the line is asked whether that is over.
const DROP_US: i64 = 60_000_000;
const DROP_APART_US: i64 = 4_000_000;

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
    bytes: f64,
    first_sent_us: i64,
    last_sent_us: i64,
    last_sent_bytes: f64,
    first_arrived_us: i64,
    first_arrived_bytes: f64,
    last_arrived_us: i64,
    /// The last packet of it that was sent, once the cluster is complete, and until when it is waited for.
    complete: Option<(u64, i64, f64)>,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// What arrives.
    pub(super) bps: f64,
}

/// Decides when to probe, and what came of it.
#[derive(Debug)]
pub(super) struct Probes {
    want: Option<f64>,
    first: bool,
    next_us: i64,
    apart_us: i64,
    dropped_us: Option<i64>,
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
            dropped_us: None,
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

    /// The estimate fell: soon it is asked whether that is over, at first after a while.
    pub(super) fn dropped(&mut self, now_us: i64, far: bool) {
        if far {
            self.dropped_us = Some(now_us);
            self.apart_us = self.apart_us.min(DROP_APART_US);
        }
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
        self.want.filter(|want| *want > estimate).map(|_| self.next_us)
    }

    /// Bytes of padding that are due.
    pub(super) fn poll(&mut self, now_us: i64, estimate: f64, may_begin: bool) -> usize {
        if self.cluster.is_none() {
            if let Some((_, until_us, _)) = self.measure.and_then(|measure| measure.complete)
                && now_us >= until_us
            {
                self.end(now_us, false);
            }
            self.begin(now_us, estimate, may_begin);
        }
        let Some(cluster) = &mut self.cluster else { return 0 };
        let planned_s = cluster.bytes * 8.0 / cluster.bps;
        if (now_us - cluster.since_us - SENDING_US_MAX) as f64 / 1e6 > planned_s {
            // Nobody sends what is due.
            self.cluster = None;
            self.end(now_us, false);
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

    fn begin(&mut self, now_us: i64, estimate: f64, may_begin: bool) {
        let Some(want) = self.want.filter(|want| *want > estimate) else { return };
        if self.measure.is_some() || now_us < self.next_us {
            return;
        }
        if !may_begin {
            self.next_us = now_us + POSTPONE_US;
            return;
        }
        let bps = if self.first { (FIRST * INITIAL).max(NEXT * estimate) } else { NEXT * estimate };
        let bps = bps.max(BPS_MIN).min(want * WANT_MARGIN);
        self.first = false;
        self.id = self.id.checked_add(1).unwrap_or(1);
        let bytes = (bps / 8.0 * (CLUSTER_US as f64 / 1e6)).clamp(CLUSTER_BYTES_MIN, CLUSTER_BYTES_MAX);
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

    /// A packet arrived.
    pub(super) fn arrived(&mut self, id: u8, sent_us: i64, arrived_us: i64, bytes: u16) {
        let Some(measure) = self.measure.as_mut().filter(|measure| measure.id == id && id != 0) else {
            return;
        };
        let bytes = f64::from(bytes);
        if measure.packets == 0 {
            measure.first_sent_us = sent_us;
            (measure.last_sent_us, measure.last_sent_bytes) = (sent_us, bytes);
            (measure.first_arrived_us, measure.first_arrived_bytes) = (arrived_us, bytes);
            measure.last_arrived_us = arrived_us;
        }
        measure.packets += 1;
        measure.bytes += bytes;
        measure.first_sent_us = measure.first_sent_us.min(sent_us);
        if sent_us >= measure.last_sent_us {
            (measure.last_sent_us, measure.last_sent_bytes) = (sent_us, bytes);
        }
        if arrived_us < measure.first_arrived_us {
            (measure.first_arrived_us, measure.first_arrived_bytes) = (arrived_us, bytes);
        }
        measure.last_arrived_us = measure.last_arrived_us.max(arrived_us);
    }

    /// Feedback came that speaks of packets up to `newest`. What the probe came to, if it ended.
    pub(super) fn concluded(&mut self, now_us: i64, newest: u64, estimate: f64) -> Option<Found> {
        let measure = self.measure?;
        let (last, _, target) = measure.complete?;
        if newest < last {
            return None;
        }
        // Few packets of a cluster can seem faster than the cluster was.
        let found = measure.result().map(|bps| bps.min(target));
        let success = found.is_some_and(|bps| bps >= SUCCESS * target && bps > estimate);
        self.end(now_us, success);
        found.map(|bps| Found { bps })
    }

    fn end(&mut self, now_us: i64, success: bool) {
        self.measure = None;
        self.ended_us = Some(now_us);
        if success {
            // On to the next limit.
            self.next_us = now_us;
            self.apart_us = APART_US;
            return;
        }
        self.next_us = now_us + self.apart_us;
        let dropped = self.dropped_us.is_some_and(|dropped| now_us - dropped < DROP_US);
        let most = if dropped { DROP_APART_US } else { APART_US_MAX };
        self.apart_us = (self.apart_us * 2).min(most);
    }
}

impl Measure {
    fn result(&self) -> Option<f64> {
        if self.packets < ARRIVED_MIN {
            return None;
        }
        let rate = |bytes: f64, us: i64| (us >= 1_000).then(|| bytes * 8e6 / us as f64);
        let sent =
            rate(self.bytes - self.last_sent_bytes, self.last_sent_us.saturating_sub(self.first_sent_us))?;
        let arrived = rate(
            self.bytes - self.first_arrived_bytes,
            self.last_arrived_us.saturating_sub(self.first_arrived_us),
        )?;
        // What arrives at twice the speed was held up on the way and says nothing.
        if arrived > 2.0 * sent {
            return None;
        }
        Some(if arrived < SATURATED * sent { SATURATED_KEEPS * arrived } else { arrived.min(sent) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a whole cluster in packets of 250 bytes, a millisecond at a time: how many bytes, and when it ended.
    fn cluster(probes: &mut Probes, from_us: i64, estimate: f64) -> (Vec<(i64, u8)>, i64) {
        let (mut sent, mut now_us) = (Vec::new(), from_us);
        loop {
            let mut due = probes.poll(now_us, estimate, true);
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
            probes.arrived(*id, *sent_us, arrived(n, *sent_us), 250);
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
        assert!(probes.poll(0, 3e5, true) > 0);
        assert_eq!(probes.poll(300_000, 3e5, true), 0);
        assert!(probes.timeout_us(3e5).is_some_and(|next| next >= APART_US), "and not asked for at once");
        let (sent, ended_us) = cluster(&mut probes, 10_000_000, 3e5);
        assert!(!sent.is_empty() && probes.disturbs(ended_us));
        let until_us = probes.timeout_us(3e5).expect("feedback is waited for");
        assert_eq!(probes.poll(until_us, 3e5, true), 0);
        assert!(!probes.disturbs(until_us + AFTERMATH_US));
    }

    #[test]
    fn what_seems_faster_than_it_was_sent_is_not_believed() {
        let mut probes = Probes::default();
        probes.want(Some(5e6));
        let (sent, ended_us) = cluster(&mut probes, 0, 3e5);
        report(&mut probes, &sent, |n, _| 100_000 + i64::try_from(n).unwrap() * 300);
        assert_eq!(probes.concluded(ended_us, sent.len() as u64, 3e5), None);
    }
}

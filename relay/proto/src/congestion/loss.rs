//! The rate that losses allow. A line may lose packets whatever is sent (radio), or because too much is sent: the model
//! has an inherent loss, which costs nothing, and learns it by sending less for a while and looking whether that helps.

use super::RATE_MIN;

/// Loss beyond the inherent one up to which the rate may grow, and above which it falls at once; between them it stays
/// (draft-ietf-rmcat-gcc-02, section 6).
const GROW_MAX: f64 = 0.02;
const FALL_MIN: f64 = 0.10;

/// Loss that stays between the two for this long is looked into, too.
const HOLD_US: i64 = 2_000_000;

/// Packets, and time, that one observation takes, and the time after which fewer packets will do.
const PACKETS_MIN: u32 = 20;
const OBSERVE_US: i64 = 200_000;
const OBSERVE_US_MAX: i64 = 1_000_000;

/// How much a new observation counts. Higher reacts sooner, to chance too.
const GAIN: f64 = 0.3;

/// How far the rate falls to see whether losing less is possible: to this share of what is not lost beyond the inherent
/// loss, and within these shares of what it was.
const DIP: f64 = 0.95;
const DIP_MOST: f64 = 0.5;
const DIP_LEAST: f64 = 0.85;

/// What arrives is what the line carries: this share of it is safe.
const CARRIED: f64 = 0.85;

/// A loss that is so much more than the smoothed one is no chance.
const JUMP: f64 = 0.15;

/// A probe that loses no more than this beyond what is lost otherwise loses the same. Higher forgives small probes their
/// bad luck, and takes lines for lossy that drop what is too much.
const SAME: f64 = 0.1;

/// How long, and for how many packets, that is watched, once what was sent before is reported. Longer takes chance out of
/// it.
const SETTLE_US: i64 = 300_000;
const WATCH_US: i64 = 1_000_000;
const WATCH_PACKETS: u32 = 60;
const WATCH_US_MAX: i64 = 3_000_000;

/// Only who sends less than this share of before can see what that does.
const LESS: f64 = 0.95;

/// No line loses more than this by itself and still carries a call.
const INHERENT_MAX: f64 = 0.4;

/// How fast the inherent loss follows downward, per observation.
const INHERENT_GAIN: f64 = 0.02;

/// Where the queue is longer than this, loss is not inherent.
const QUEUE_US_MAX: i64 = 60_000;

/// Growth per second while losses limit.
const GROWTH_PER_S: f64 = 0.08;

/// After a fall that helped, growth waits this long.
const REST_US: i64 = 2_000_000;

/// Watching whether a lower rate loses less.
#[derive(Clone, Copy, Debug)]
struct Watch {
    since_us: i64,
    bps_before: f64,
    loss_before: f64,
    limit_before: Option<f64>,
    packets: u32,
    lost: f64,
}

/// The limit, and what it is made of.
#[derive(Debug, Default)]
pub(super) struct LossLimit {
    arrived: u32,
    missing: u32,
    since_us: Option<i64>,
    loss: f64,
    /// Of the last observation alone.
    last: f64,
    inherent: f64,
    limit: Option<f64>,
    held_us: Option<i64>,
    watch: Option<Watch>,
    rest_until_us: i64,
}

/// What is known when an observation ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// What is sent.
    pub(super) bps: f64,
    /// What arrives.
    pub(super) arriving_bps: f64,
    /// What may be sent.
    pub(super) estimate_bps: f64,
    /// How long the queue is.
    pub(super) queue_us: i64,
    /// Whether others may fill it.
    pub(super) crowded: bool,
}

impl LossLimit {
    /// The share of packets lost lately.
    pub(super) fn loss(&self) -> f64 {
        self.loss
    }

    /// The limit, if losses set one.
    pub(super) fn bps(&self) -> Option<f64> {
        self.limit
    }

    /// The share of packets the line loses whatever is sent.
    pub(super) fn inherent(&self) -> f64 {
        self.inherent
    }

    /// Whether more loss than inherent keeps the rate from growing. An observation without it is enough to ask again.
    pub(super) fn holds(&self) -> bool {
        let most = self.inherent + GROW_MAX + self.chance();
        self.loss > most && self.last > most
    }

    /// Whether packets are lost that much whatever is sent that a loss says nothing.
    pub(super) fn is_inherent(&self) -> bool {
        self.inherent > GROW_MAX / 2.0
    }

    /// A probe showed that more arrives.
    pub(super) fn raise(&mut self, bps: f64) {
        if self.limit.is_some_and(|limit| limit < bps) {
            (self.limit, self.watch) = (Some(bps), None);
        }
    }

    /// Much more was sent for a moment, arrived as fast, and so much of it was lost: where that is no more than otherwise,
    /// the line loses it by itself.
    pub(super) fn same_with_more(&mut self, loss: f64) {
        if loss > self.loss + SAME {
            return;
        }
        self.inherent = self.inherent.max(self.loss.min(INHERENT_MAX));
        self.held_us = None;
        if let Some(watch) = self.watch.take() {
            self.limit = watch.limit_before;
        }
    }

    /// Packets arrived and did not arrive. Some that did had been counted as missing.
    pub(super) fn count(&mut self, arrived: u32, missing: u32, late: u32) {
        self.arrived = self.arrived.saturating_add(arrived);
        self.missing = self.missing.saturating_add(missing).saturating_sub(late);
    }

    /// Looks whether there is enough for an observation. Whether the limit fell.
    pub(super) fn update(&mut self, now_us: i64, sending: &Sending) -> bool {
        let packets = self.arrived.saturating_add(self.missing);
        let since_us = *self.since_us.get_or_insert(now_us);
        let elapsed_us = now_us - since_us;
        if packets == 0 || elapsed_us < OBSERVE_US || (packets < PACKETS_MIN && elapsed_us < OBSERVE_US_MAX) {
            return false;
        }
        let loss = f64::from(self.missing) / f64::from(packets);
        (self.arrived, self.missing, self.since_us) = (0, 0, Some(now_us));
        self.observe(now_us, loss, packets, elapsed_us, sending)
    }

    /// An observation. Whether the limit fell.
    pub(super) fn observe(
        &mut self,
        now_us: i64,
        loss: f64,
        packets: u32,
        elapsed_us: i64,
        sending: &Sending,
    ) -> bool {
        self.loss += GAIN * (loss - self.loss);
        self.last = loss;
        if self.loss < self.inherent {
            self.inherent += INHERENT_GAIN * (self.loss - self.inherent);
        }
        if self.watch.is_some() {
            return self.watch(now_us, loss, packets, sending);
        }
        let excess = self.loss - self.inherent;
        // What is remembered of a loss that is over is no reason to fall.
        let goes_on = loss - self.inherent > GROW_MAX;
        if excess > FALL_MIN + self.chance() {
            return goes_on && self.fall(now_us, sending);
        }
        if excess > GROW_MAX + self.chance() {
            let held_us = *self.held_us.get_or_insert(now_us);
            return goes_on && now_us - held_us > HOLD_US && self.fall(now_us, sending);
        }
        self.held_us = None;
        self.grow(now_us, elapsed_us, sending);
        false
    }

    /// How far chance alone may take the loss from the inherent one.
    fn chance(&self) -> f64 {
        // The smoothing makes about a hundred packets of an observation's twenty.
        2.0 * (self.inherent * (1.0 - self.inherent) / 100.0).max(0.0).sqrt()
    }

    fn fall(&mut self, now_us: i64, sending: &Sending) -> bool {
        if self.last > self.loss + JUMP {
            self.loss = self.last;
        }
        let factor = (DIP * (1.0 - (self.loss - self.inherent))).clamp(DIP_MOST, DIP_LEAST);
        let from = sending.estimate_bps.min(sending.bps.max(RATE_MIN));
        self.watch = Some(Watch {
            since_us: now_us,
            bps_before: sending.bps,
            loss_before: self.loss,
            limit_before: self.limit,
            packets: 0,
            lost: 0.0,
        });
        self.held_us = None;
        self.limit = Some((from * factor).max(CARRIED * sending.arriving_bps.min(from)).max(RATE_MIN));
        true
    }

    fn watch(&mut self, now_us: i64, loss: f64, packets: u32, sending: &Sending) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        let elapsed_us = now_us - watch.since_us;
        if elapsed_us < SETTLE_US {
            return false;
        }
        watch.packets = watch.packets.saturating_add(packets);
        watch.lost += loss * f64::from(packets);
        let less = sending.bps <= LESS * watch.bps_before;
        let enough = watch.packets >= WATCH_PACKETS && less;
        if elapsed_us < WATCH_US || (!enough && elapsed_us < WATCH_US_MAX) {
            return false;
        }
        let watch = *watch;
        self.watch = None;
        let remains = watch.lost / f64::from(watch.packets.max(1));
        self.loss = remains;
        // If the line carried all it can, it carries the same now, which is a larger share of what is sent.
        let carried = (1.0 - watch.loss_before) * watch.bps_before.max(1.0) / sending.bps.max(1.0);
        let by_sending = (1.0 - carried).clamp(0.0, watch.loss_before);
        let own = remains > (by_sending + watch.loss_before) / 2.0;
        if own && sending.queue_us < QUEUE_US_MAX && !sending.crowded {
            self.inherent = remains.min(INHERENT_MAX);
            self.limit = watch.limit_before;
            return false;
        }
        self.inherent = self.inherent.min(remains);
        self.rest_until_us = now_us + REST_US;
        false
    }

    fn grow(&mut self, now_us: i64, elapsed_us: i64, sending: &Sending) {
        let Some(limit) = self.limit else { return };
        if now_us < self.rest_until_us {
            return;
        }
        let grown = limit * (1.0 + GROWTH_PER_S * (elapsed_us.clamp(0, OBSERVE_US_MAX) as f64 / 1e6));
        // Far above what is sent it says nothing.
        self.limit = (grown < 3.0 * sending.bps.max(sending.estimate_bps)).then_some(grown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a minute of a sender that follows the limit from 2 Mbit/s down, over a line that loses so much at a rate. The
    /// last rate, and the inherent loss.
    fn half_a_minute(loss: fn(f64) -> f64) -> (f64, f64) {
        let mut limit = LossLimit::default();
        let mut bps = 2e6;
        for n in 1..=150 {
            bps = limit.bps().map_or(2e6, |most| most.min(2e6));
            let lost = loss(bps);
            let sending = Sending {
                bps,
                arriving_bps: bps * (1.0 - lost),
                estimate_bps: bps,
                queue_us: 0,
                crowded: false,
            };
            limit.observe(n * OBSERVE_US, lost, 40, OBSERVE_US, &sending);
        }
        (bps, limit.inherent())
    }

    #[test]
    fn loss_that_stays_whatever_is_sent_is_the_lines_own_and_costs_nothing() {
        for loss in [(|_| 0.05) as fn(f64) -> f64, |_| 0.12, |_| 0.25] {
            let (bps, inherent) = half_a_minute(loss);
            assert_eq!(bps, 2e6);
            assert!((inherent - loss(0.0)).abs() < 0.02, "{inherent}");
        }
    }

    #[test]
    fn loss_by_sending_too_much_limits() {
        let (bps, inherent) = half_a_minute(|bps| (1.0 - 1e6 / bps).max(0.0));
        assert!((0.7e6..1.25e6).contains(&bps), "{bps}");
        assert!(inherent < 0.05, "{inherent}");
    }

    #[test]
    fn packets_that_came_late_are_not_lost() {
        let mut limit = LossLimit::default();
        let sending = Sending { bps: 1e6, arriving_bps: 1e6, estimate_bps: 1e6, queue_us: 0, crowded: false };
        limit.update(0, &sending);
        limit.count(10, 10, 0);
        limit.count(40, 0, 10);
        limit.update(OBSERVE_US, &sending);
        assert_eq!(limit.loss(), 0.0);
    }

    #[test]
    fn a_probe_that_loses_no_more_shows_that_the_line_loses_by_itself() {
        let sending = Sending { bps: 2e5, arriving_bps: 2e5, estimate_bps: 3e5, queue_us: 0, crowded: false };
        let lossy = || {
            let mut limit = LossLimit::default();
            (1..=10).for_each(|n| {
                limit.observe(n * OBSERVE_US, 0.2, 20, OBSERVE_US, &sending);
            });
            limit
        };
        let mut own = lossy();
        assert!(own.holds());
        own.same_with_more(0.22);
        assert!(!own.holds() && own.bps().is_none(), "{:?}", own.bps());
        let mut policed = lossy();
        policed.same_with_more(0.5);
        assert!(policed.holds());
    }

    #[test]
    fn a_loss_that_is_over_is_no_reason_to_fall_further() {
        let sending = Sending { bps: 4e4, arriving_bps: 4e4, estimate_bps: 2e5, queue_us: 0, crowded: false };
        let mut limit = LossLimit { loss: 0.9, ..LossLimit::default() };
        (1..=20).for_each(|n| {
            limit.observe(n * OBSERVE_US, 0.0, 20, OBSERVE_US, &sending);
        });
        assert_eq!(limit.bps(), None);
    }
}

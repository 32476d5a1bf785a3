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

/// How far the rate falls to see whether losing less is possible, and the most it falls at once.
const DIP: f64 = 0.85;
const FALL_MOST: f64 = 0.6;

/// How long, and for how many packets, that is watched. Longer takes chance out of it.
const WATCH_US: i64 = 800_000;
const WATCH_PACKETS: u32 = 60;
const WATCH_US_MAX: i64 = 3_000_000;

/// Loss that remains of what there was is inherent above this share.
const REMAINS_MIN: f64 = 0.6;

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
    /// What may be sent.
    pub(super) estimate_bps: f64,
    /// How long the queue is.
    pub(super) queue_us: i64,
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

    /// Whether more loss than inherent keeps the rate from growing.
    pub(super) fn holds(&self) -> bool {
        self.watch.is_some() || self.loss - self.inherent > GROW_MAX + self.chance()
    }

    /// A probe showed that more arrives.
    pub(super) fn raise(&mut self, bps: f64) {
        self.limit = self.limit.map(|limit| limit.max(bps));
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
        if self.loss < self.inherent {
            self.inherent += INHERENT_GAIN * (self.loss - self.inherent);
        }
        if self.watch.is_some() {
            return self.watch(now_us, loss, packets, sending);
        }
        let excess = self.loss - self.inherent;
        if excess > FALL_MIN + self.chance() {
            return self.fall(now_us, (1.0 - excess / 2.0).clamp(FALL_MOST, DIP + 0.1), sending);
        }
        if excess > GROW_MAX + self.chance() {
            let held_us = *self.held_us.get_or_insert(now_us);
            return now_us - held_us > HOLD_US && self.fall(now_us, DIP, sending);
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

    fn fall(&mut self, now_us: i64, factor: f64, sending: &Sending) -> bool {
        let from = sending.estimate_bps.min(sending.bps.max(RATE_MIN));
        self.watch = Some(Watch {
            since_us: now_us,
            loss_before: self.loss,
            limit_before: self.limit,
            packets: 0,
            lost: 0.0,
        });
        self.held_us = None;
        self.limit = Some((from * factor).max(RATE_MIN));
        true
    }

    fn watch(&mut self, now_us: i64, loss: f64, packets: u32, sending: &Sending) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        watch.packets = watch.packets.saturating_add(packets);
        watch.lost += loss * f64::from(packets);
        let elapsed_us = now_us - watch.since_us;
        if elapsed_us < WATCH_US || (watch.packets < WATCH_PACKETS && elapsed_us < WATCH_US_MAX) {
            return false;
        }
        let watch = *watch;
        self.watch = None;
        let remains = watch.lost / f64::from(watch.packets.max(1));
        self.loss = remains;
        if remains >= REMAINS_MIN * watch.loss_before && sending.queue_us < QUEUE_US_MAX {
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

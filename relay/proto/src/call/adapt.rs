//! Everybody gets what their own line carries: which layers each slot shows, and which layers senders need to send.

use std::time::{Duration, Instant};

use super::Call;
use crate::bandwidth::{Priority, Wish};
use crate::congestion::Downlink;
use crate::encoding::Encoding;
use crate::event::{Audience, Notice, SourceName};
use crate::media::Kind;
use crate::slot::Slot;
use crate::source::Source;

/// How often layers are chosen anew while nothing happens. Shorter follows sooner and costs more with many receivers.
const ALLOCATE_INTERVAL: Duration = Duration::from_millis(200);

/// While packets wait for no longer than this, what is shown may take so much of the estimate, in percent: a picture larger than
/// others makes an estimate smaller for a moment, and is no reason to show less.
const CALM_QUEUE: Duration = Duration::from_millis(40);
const CALM_PERCENT: u64 = 125;

/// The share of an estimate that is kept for packets sent again, at most: what is lost because a queue overflows is not
/// lost any more once less is sent.
const REPAIRS_MAX: f64 = 0.15;

/// What comes in one size only is tried beyond the estimate, up to so many times it, while packets wait for no longer than this and
/// no more are lost than without: the other choice is nothing at all.
const SINGLE_TIMES: u64 = 3;
const SINGLE_QUEUE: Duration = Duration::from_millis(200);

/// What is shown to those who tell nothing of their line takes no more than this altogether. More serves nobody, and would make
/// the relay a means to flood others.
const UNTOLD_BPS: u64 = 50_000_000;

/// A line that is known to carry so much of what is shown, in percent, is not asked for more.
const SPARE_PERCENT: u64 = 130;

/// Bits per second that a packet of sound takes beyond its payload: 50 a second with header and tag.
const AUDIO_OVERHEAD: u64 = 20_000;

/// Between two choices of layers because of feedback, unless the estimate falls by a tenth meanwhile. Shorter costs more with those
/// who tell more often than they need to.
const ADAPT_INTERVAL: Duration = Duration::from_millis(20);

impl Call {
    /// Something was told of a participant's line. What shrinks is followed at once.
    pub(super) fn adapt(&mut self, now: Instant, index: usize) {
        let Some(participant) = self.participant_mut(index) else { return };
        let allocated = participant.allocated;
        let Some(downlink) = participant.downlink.as_deref() else { return };
        let estimate = downlink.estimate_bps();
        if let Some(estimate) = estimate.filter(|estimate| *estimate < allocated) {
            let due = adapts_at(now, estimate, participant.adapted);
            participant.allocate_at = participant.allocate_at.min(due);
        }
        if participant.allocate_at <= now {
            participant.adapted = estimate.map(|estimate| (now, estimate));
            self.allocate(now, index);
        }
        let downlink = self.participant(index).and_then(|participant| participant.downlink.as_deref());
        if let Some(at) = downlink.and_then(Downlink::poll_timeout) {
            self.pace(at);
        }
    }

    /// Layers of everybody for whom they are due, and what that means for those who send.
    pub(super) fn adapt_all(&mut self, now: Instant) {
        for source in self.sources.iter_mut().flatten().filter(|source| source.kind() == Kind::Video) {
            source.refresh(now);
        }
        for index in 0..self.participants.len() {
            if self.participant(index).is_some_and(|participant| participant.allocate_at <= now) {
                self.allocate(now, index);
            }
        }
        self.tell_wanted(now);
    }

    /// An encoding of a source began to come: whoever sees the source may see that.
    pub(super) fn reconsider(&mut self, now: Instant, at: usize) {
        let Self { participants, sources, .. } = self;
        let Some(source) = sources.get_mut(at).and_then(Option::as_mut) else { return };
        source.refresh(now);
        for subscriber in &source.subscribers {
            if let Some(receiver) = participants.get_mut(subscriber.receiver).and_then(Option::as_deref_mut) {
                receiver.allocate_at = now;
            }
        }
    }

    /// Chooses layers for one participant's slots.
    pub(super) fn allocate(&mut self, now: Instant, index: usize) {
        let latest = self.latest_spoke();
        let priorities: Vec<Priority> = match self.participant(index) {
            Some(participant) => participant.slots.iter().map(|slot| self.priority(slot, latest)).collect(),
            None => return,
        };
        let Self { participants, sources, .. } = self;
        let Some(participant) = participants.get_mut(index).and_then(Option::as_deref_mut) else { return };
        participant.allocate_at = now + ALLOCATE_INTERVAL;
        if participant.secure.is_none() {
            return;
        }
        let estimate = participant.downlink.as_deref().and_then(Downlink::estimate_bps);
        let told = participant.downlink.as_deref().and_then(|downlink| {
            let mut estimate = downlink.estimate_bps()?;
            if downlink.queue_delay() < CALM_QUEUE {
                estimate = estimate.max(participant.allocated.min(estimate * CALM_PERCENT / 100));
            }
            Some(estimate.saturating_sub(reserved(downlink, estimate, &participant.slots, sources)))
        });
        let mut wishes = Vec::new();
        let mut wishing = Vec::new();
        // Of what there is in one size only there is nothing smaller to begin with: it is tried, while nothing speaks against it.
        let mut single = 0;
        for ((place, slot), priority) in participant.slots.iter_mut().enumerate().zip(priorities) {
            slot.priority = priority;
            let Some(source) = slot.source.and_then(|at| sources.get(at)?.as_ref()) else { continue };
            if slot.kind == Kind::Audio {
                continue;
            }
            let current = slot.target().and_then(|target| source.offer_of(target));
            let (height_max, layers) = (slot.height_max, source.offers_for(now, slot.height_max));
            single += source.only_offer().map_or(0, |only| only.bits_per_s);
            wishes.push(Wish { source: source.csrc, priority, height_max, layers, current });
            wishing.push(place);
        }
        let tries = participant.downlink.as_deref().filter(|_| single > 0).is_some_and(|downlink| {
            downlink.queue_delay() < SINGLE_QUEUE && !downlink.loses_more_than_usual()
        });
        let budget = told.map_or(UNTOLD_BPS, |bits| {
            let single = (single * CALM_PERCENT / 100).min(bits * SINGLE_TIMES);
            if tries { bits.max(single) } else { bits }
        });
        let allocation = participant.allocator.allocate(now, Some(budget), &wishes);
        let next_bps = allocation.next_bps;
        let chosen = allocation.layers.to_vec();
        let offers = chosen.iter().zip(&wishes).filter_map(|(chosen, wish)| wish.layers.get((*chosen)?));
        participant.allocated = offers.map(|offer| offer.bits_per_s).sum();
        // What only waits for its time is not for want of bandwidth.
        participant.is_short = next_bps.is_some_and(|next| next > budget);
        if let Some(at) = allocation.again_at {
            participant.allocate_at = participant.allocate_at.min(at);
        }
        let mut probes_at = None;
        if let Some(downlink) = participant.downlink.as_deref_mut() {
            let reserve =
                estimate.map_or(0, |estimate| reserved(downlink, estimate, &participant.slots, sources));
            participant.allocated += reserve;
            downlink.pace_at_least(if tries { participant.allocated } else { 0 });
            // Also for what is shown already it is good to know that there is more.
            let spare = participant.allocated * SPARE_PERCENT / 100;
            downlink.want(Some(next_bps.map_or(spare, |next| next + reserve)));
            // Who was sent nothing yet tells nothing: the first probe has to come by itself.
            probes_at = downlink.poll_timeout().filter(|_| !downlink.is_heard());
        }
        for (place, chosen) in wishing.into_iter().zip(chosen) {
            let Some(slot) = participant.slots.get_mut(place) else { continue };
            let Some(source) = slot.source.and_then(|at| sources.get_mut(at)?.as_mut()) else { continue };
            let target = chosen.and_then(|offer| source.layer(offer));
            if let Some(missed) = source.missed(now, slot.height_max, estimate.unwrap_or(u64::MAX))
                && let Some(encoding) = source.encodings.get_mut(usize::from(missed))
            {
                encoding.wanted(now);
            }
            let asks = slot.aim(now, source, target, estimate) || std::mem::take(&mut slot.wants_key_frame);
            participant.waits |= !slot.queue.is_empty();
            let Some(layer) = target else { continue };
            let waits = slot.needs_key_frame(source);
            let Some(encoding) = source.encodings.get_mut(usize::from(layer.encoding)) else { continue };
            encoding.wanted(now);
            if asks {
                encoding.key_frames.want();
            } else if waits && slot.queue.is_empty() && encoding.has_descriptors && encoding.is_live(now) {
                encoding.key_frames.remind(now);
            }
        }
        let paces_at = participant.waits.then_some(now).into_iter().chain(probes_at).min();
        if let Some(at) = paces_at {
            self.pace(at);
        }
        self.tell_slots(index);
    }

    /// How important what a slot shows is to its owner. `latest` is the turn of whoever began to speak last.
    fn priority(&self, slot: &Slot, latest: u64) -> Priority {
        let Some(source) = slot.source.and_then(|at| self.source(at)) else { return Priority::Rest };
        if slot.pin.is_some() || source.name == SourceName::Screen {
            return Priority::First;
        }
        let spoke = self.face(source.owner).map_or(0, |owner| owner.spoke);
        if spoke > 0 && spoke == latest { Priority::Speaker } else { Priority::Rest }
    }

    /// Tells a participant which layers of all it sends anybody wants.
    pub(super) fn tell_all_wanted(&mut self, index: usize) {
        let Some(participant) = self.participant(index) else { return };
        let sources: Vec<_> = participant
            .sources
            .iter()
            .filter_map(|at| self.source(*at))
            .filter(|source| source.kind() == Kind::Video)
            .map(Source::wanted_layers)
            .collect();
        let id = participant.id;
        if !sources.is_empty() {
            self.tell(Audience::One(id), Notice::Layers { sources });
        }
    }

    /// Tells senders which layers anybody wants, where that changed.
    fn tell_wanted(&mut self, now: Instant) {
        for index in 0..self.participants.len() {
            let Self { participants, sources, .. } = self;
            let Some(participant) = participants.get(index).and_then(Option::as_deref) else { continue };
            let mut changed = Vec::new();
            for at in &participant.sources {
                let Some(source) = sources.get_mut(*at).and_then(Option::as_mut) else { continue };
                let slots = source.subscribers.iter().filter_map(|subscriber| {
                    participants.get(subscriber.receiver)?.as_deref()?.slots.get(subscriber.slot)
                });
                let height = slots.map(|slot| slot.height_max.unwrap_or(u32::MAX)).max().unwrap_or(0);
                let height = height.max(source.elsewhere.height());
                changed.extend(source.wanted(now, height));
            }
            let id = participant.id;
            if !changed.is_empty() {
                self.tell(Audience::One(id), Notice::Layers { sources: changed });
            }
        }
    }
}

/// When layers are to be chosen for an estimate that is less than they take; `before` is when they were chosen because of feedback
/// last, and for which estimate.
fn adapts_at(now: Instant, estimate: u64, before: Option<(Instant, u64)>) -> Instant {
    match before {
        Some((at, before)) if estimate >= before - before / 10 => at + ADAPT_INTERVAL,
        _ => now,
    }
}

/// What of an estimate is not for pictures: sound, which comes first, and what will have to be sent twice.
fn reserved(downlink: &Downlink, estimate: u64, slots: &[Slot], sources: &[Option<Source>]) -> u64 {
    let audio: u64 = slots
        .iter()
        .filter(|slot| slot.kind == Kind::Audio)
        .filter_map(|slot| sources.get(slot.source?)?.as_ref()?.encodings.first())
        .map(Encoding::audio_bits_per_s)
        .map(|bits| if bits > 0 { bits + AUDIO_OVERHEAD } else { 0 })
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of an estimate, between zero and it"
    )]
    let repairs = (estimate as f64 * downlink.loss().clamp(0.0, REPAIRS_MAX)) as u64;
    (audio + repairs).min(estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_that_says_the_same_again_and_again_is_followed_once_in_a_while() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(1);
        let before = Some((now, 1_000_000));
        assert_eq!(adapts_at(now, 1_000_000, None), now, "the first time at once");
        for estimate in [1_000_000, 2_000_000, 999_999, 900_000] {
            assert_eq!(adapts_at(soon, estimate, before), now + ADAPT_INTERVAL);
        }
        assert_eq!(adapts_at(soon, 899_999, before), soon, "less is followed at once");
        assert_eq!(adapts_at(soon, 0, Some((now, 0))), now + ADAPT_INTERVAL);
    }
}

//! A link with a queue, a sender that follows the estimate, and a receiver that reports with [`Arrivals`]. Everything
//! comes from a seed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Arrivals, Downlink, whole};
use crate::rng::Rng;
use crate::rtcp::{Packet, Writer, packets};

const PACKET: usize = 1_200;
const FRAME_US: u64 = 40_000;
const AUDIO_US: u64 = 20_000;

/// A rate at a second.
pub(super) type Bps = fn(f64) -> f64;

/// What a call goes over, and what it has to send.
#[derive(Clone)]
pub(super) struct Scenario {
    pub(super) seconds: u64,
    /// Bits per second at a second.
    pub(super) rate: Bps,
    pub(super) delay_ms: u64,
    pub(super) queue_ms: f64,
    pub(super) loss: f64,
    /// Of what the receiver reports.
    pub(super) loss_back: f64,
    pub(super) jitter_ms: u64,
    /// What the best pictures take, or the steps there are.
    pub(super) layers: &'static [f64],
    /// Any rate between the layers can be sent.
    pub(super) smooth: bool,
    /// A flow that takes what it gets, from this second on.
    pub(super) greedy_from: Option<u64>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seconds: 30,
            rate: |_| 1e6,
            delay_ms: 25,
            queue_ms: 400.0,
            loss: 0.0,
            loss_back: 0.0,
            jitter_ms: 3,
            layers: &[5e6],
            smooth: true,
            greedy_from: None,
        }
    }
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// Media that arrived, by second, in bits.
    pub(super) media: Vec<f64>,
    /// What the other flow got.
    pub(super) greedy: Vec<f64>,
    pub(super) padding: f64,
    /// The estimate every 100 ms.
    pub(super) estimates: Vec<f64>,
    queued_ms: Vec<f64>,
}

impl Outcome {
    pub(super) fn share(&self, from: usize, to: usize, of: f64) -> f64 {
        self.media[from..to].iter().sum::<f64>() / (to - from) as f64 / of
    }

    pub(super) fn queue_p95_ms(&self) -> f64 {
        let mut sorted = self.queued_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(0.0)
    }

    /// The first second from which on, for three seconds, this much arrives.
    pub(super) fn reaches(&self, from: usize, bps: f64) -> Option<usize> {
        (from..self.media.len() - 2).find(|at| self.media[*at..at + 3].iter().all(|bits| *bits >= bps))
    }
}

/// The queue in front of the bottleneck, and the way behind it.
struct Link {
    free_us: f64,
    last_us: u64,
    rng: Rng,
}

impl Link {
    fn chance(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// When a packet arrives, and how long it was queued.
    fn carry(&mut self, scenario: &Scenario, now_us: u64, bytes: usize) -> (Option<u64>, f64) {
        let start = self.free_us.max(now_us as f64);
        let queued_us = start - now_us as f64;
        if queued_us > scenario.queue_ms * 1e3 {
            return (None, queued_us);
        }
        let rate = (scenario.rate)(start / 1e6);
        self.free_us = start + bytes as f64 * 8e6 / rate;
        if self.chance() < scenario.loss {
            return (None, queued_us);
        }
        let jitter = self.chance() * (scenario.jitter_ms * 1_000) as f64;
        let at = Duration::from_secs_f64((self.free_us + jitter) / 1e6).as_micros();
        let at = u64::try_from(at).unwrap() + scenario.delay_ms * 1_000;
        self.last_us = self.last_us.max(at);
        (Some(self.last_us), queued_us)
    }
}

/// A flow that grows until it loses, as TCP does.
struct Greedy {
    window: f64,
    in_flight: VecDeque<(u64, bool)>,
    halved_us: u64,
}

impl Greedy {
    fn step(&mut self, scenario: &Scenario, link: &mut Link, now_us: u64) -> f64 {
        let mut bits = 0.0;
        while let Some((_, lost)) = self.in_flight.pop_front_if(|(at, _)| *at <= now_us) {
            if lost && now_us > self.halved_us + 100_000 {
                self.window = (self.window / 2.0).max(2.0);
                self.halved_us = now_us;
            } else if !lost {
                self.window += 1.0 / self.window;
                bits += 12_000.0;
            }
        }
        while (self.in_flight.len() as f64) < self.window {
            let (at, queued) = link.carry(scenario, now_us, 1_500);
            let lost_at = now_us + u64::try_from(Duration::from_secs_f64(queued / 1e6).as_micros()).unwrap();
            let back_us = scenario.delay_ms * 1_000;
            self.in_flight.push_back((at.unwrap_or(lost_at + back_us) + back_us, at.is_none()));
        }
        bits
    }
}

pub(super) fn run(scenario: &Scenario, seed: u64) -> Outcome {
    let epoch = Instant::now();
    let mut link = Link { free_us: 0.0, last_us: 0, rng: Rng::new(seed) };
    let mut greedy = Greedy { window: 4.0, in_flight: VecDeque::new(), halved_us: 0 };
    let (mut downlink, mut arrivals) = (Downlink::new(epoch), Arrivals::new(epoch));
    downlink.agree();
    let mut outcome = Outcome::default();
    // Arrival, sequence number, media bytes; and feedback on its way back.
    let mut flying: VecDeque<(u64, u16, usize)> = VecDeque::new();
    let mut back: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    let mut backlog = 0.0_f64;
    let top = *scenario.layers.last().unwrap();
    for now_us in (0..scenario.seconds * 1_000_000).step_by(1_000) {
        let now = epoch + Duration::from_micros(now_us);
        if now_us % 1_000_000 == 0 {
            outcome.media.push(0.0);
            outcome.greedy.push(0.0);
        }
        while let Some((_, sequence, media)) = flying.pop_front_if(|(at, ..)| *at <= now_us) {
            arrivals.record(now, sequence);
            *outcome.media.last_mut().unwrap() += media as f64 * 8.0;
        }
        if arrivals.poll_timeout().is_some_and(|due| due <= now) {
            let mut out = [0; 1_200];
            let mut writer = Writer::new(&mut out);
            if arrivals.write(now, &mut writer, 1, 2) {
                let len = writer.len();
                if link.chance() >= scenario.loss_back {
                    back.push_back((now_us + scenario.delay_ms * 1_000, out[..len].to_vec()));
                }
            }
        }
        while let Some((_, message)) = back.pop_front_if(|(at, _)| *at <= now_us) {
            for packet in packets(&message) {
                if let Ok(Packet::TransportFeedback(feedback)) = packet {
                    downlink.feedback(now, &feedback);
                }
            }
        }
        let estimate = downlink.estimate_bps().unwrap() as f64;
        if now_us % 100_000 == 0 {
            outcome.estimates.push(estimate);
        }
        // Audio takes its part first.
        let room = estimate - 40_000.0;
        let fits = scenario.layers.iter().copied().rfind(|layer| *layer <= room);
        let video = if scenario.smooth { room.clamp(0.0, top) } else { fits.unwrap_or(0.0) };
        let next =
            if scenario.smooth { Some(top) } else { scenario.layers.iter().copied().find(|l| *l > video) };
        downlink.want(next.filter(|next| *next > room).map(|next| whole(next) as u64 + 40_000));
        if now_us % FRAME_US == 0 {
            backlog = (backlog + video / 8.0 * FRAME_US as f64 / 1e6).min(video / 8.0);
        }
        let mut send = |downlink: &mut Downlink, bytes: usize, media: bool| {
            let sequence = downlink.next_sequence();
            downlink.sent(now, bytes, !media);
            let (at, queued_us) = link.carry(scenario, now_us, bytes);
            outcome.queued_ms.push(queued_us / 1e3);
            if let Some(at) = at {
                flying.push_back((at, sequence, if media { bytes } else { 0 }));
            }
        };
        if now_us % AUDIO_US == 0 {
            send(&mut downlink, 100, true);
        }
        while backlog >= PACKET as f64 && downlink.allowance(now) >= PACKET {
            backlog -= PACKET as f64;
            send(&mut downlink, PACKET, true);
        }
        let mut padding = downlink.poll_probe(now);
        while padding > 0 {
            let bytes = padding.clamp(50, 255);
            padding = padding.saturating_sub(bytes);
            outcome.padding += bytes as f64 * 8.0;
            send(&mut downlink, bytes, false);
        }
        if scenario.greedy_from.is_some_and(|from| now_us >= from * 1_000_000) {
            *outcome.greedy.last_mut().unwrap() += greedy.step(scenario, &mut link, now_us);
        }
    }
    outcome
}

//! What a run is judged by.

use std::time::Duration;

use super::camera::{ENCODINGS, SOUND, SOUND_EVERY};
use super::scenario::Scenario;
use super::world::{Sample, Watcher};

/// Until then a call may look for its rates.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// A rate counts as reached when it is held for so long on average.
const CONVERGED_FOR: Duration = Duration::from_secs(3);
const RECOVERED_FOR: Duration = Duration::from_secs(2);

/// Shares of what fits that count as reached.
const CONVERGED: f64 = 0.85;
const RECOVERED: f64 = 0.80;

/// Bytes on the line of a sound packet, and of a video packet's payload: headers of IP, UDP and RTP, extensions, tag.
const SOUND_WIRE: f64 = 132.0;
const VIDEO_WIRE: f64 = 1.08;

/// What of a line's rate media may take: the rest is feedback and checks.
const MEDIA: f64 = 0.97;

/// Of one run, or the median of several. Times are infinite for what never happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Score {
    /// From joining to the first picture, in milliseconds.
    pub(super) first_picture_ms: f64,
    /// From joining until what fits is received, in seconds.
    pub(super) converge_s: f64,
    /// Received payload, as a share of the largest encodings that fit the line, after 10 s.
    pub(super) utilisation: f64,
    /// The same as a share of what the line carries.
    pub(super) of_line: f64,
    /// Gaps that people notice (W3C webrtc-stats, `freezeCount`), and the longest of them.
    pub(super) freezes: f64,
    pub(super) freeze_ms: f64,
    /// How long packets of the call waited before the line.
    pub(super) queue_p95_ms: f64,
    /// Changes of the shown encoding per minute after 10 s, in the slot with most of them.
    pub(super) ups: f64,
    pub(super) downs: f64,
    /// Share of sound that was heard.
    pub(super) heard: f64,
    /// From the end of a bad stretch until 80 % of what fits is received again. Zero where there was none.
    pub(super) recovery_s: f64,
    /// Freezes of somebody else, whose line is good.
    pub(super) others: f64,
    /// Pictures that were given out as decodable and are not.
    pub(super) broken: f64,
}

impl Score {
    /// Of what somebody saw; `sent`: sound packets of each microphone.
    pub(super) fn of(scenario: &Scenario, watcher: &Watcher, sent: &[u32]) -> Self {
        let samples = &watcher.samples;
        let steady: Vec<&Sample> = samples.iter().filter(|sample| sample.at > STEADY_AFTER).collect();
        let received: f64 = steady.iter().map(|sample| sample.bits as f64 * 10.0).sum();
        let fits: f64 = steady.iter().map(|sample| scenario.fits(sample)).sum();
        let line: f64 = steady.iter().map(|sample| sample.rate as f64).sum();
        let shown = watcher.players.iter().filter_map(|(_, player)| player.shown.first());
        let first = shown.map(|shown| shown.at.saturating_duration_since(watcher.joined)).min();
        let freezes = || watcher.players.iter().flat_map(|(_, player)| &player.freezes);
        let minutes = steady.len() as f64 / 600.0;
        let switches = |up: bool| {
            let of = |heights: Vec<u16>| {
                heights.windows(2).filter(|p| p[0] != p[1] && (p[0] < p[1]) == up).count()
            };
            let players = watcher.players.iter().map(|(_, player)| {
                let shown = player.shown.iter().filter(|shown| shown.at > watcher.joined + STEADY_AFTER);
                of(shown.map(|shown| shown.height).collect())
            });
            players.max().unwrap_or(0) as f64 / minutes
        };
        let ears = watcher.ears.len().max(1) as f64;
        let sent = sent.iter().copied().max().unwrap_or(0);
        let mut waits = watcher.waits.clone();
        waits.sort_unstable();
        let p95 = waits.get(waits.len() * 95 / 100).copied().unwrap_or_default();
        Self {
            first_picture_ms: first.map_or(f64::INFINITY, ms),
            converge_s: reached(scenario, samples, Duration::ZERO, (CONVERGED, CONVERGED_FOR)),
            utilisation: received / fits.max(1.0),
            of_line: received / line.max(1.0),
            freezes: freezes().count() as f64,
            freeze_ms: freezes().map(|(_, gap)| ms(*gap)).fold(0.0, f64::max),
            queue_p95_ms: ms(p95),
            ups: switches(true),
            downs: switches(false),
            heard: watcher.ears.iter().map(|(_, ear)| ear.share(sent)).sum::<f64>() / ears,
            recovery_s: scenario.bad_until.map_or(0.0, |until| {
                let until = Duration::from_secs(until);
                reached(scenario, samples, until, (RECOVERED, RECOVERED_FOR)) - until.as_secs_f64()
            }),
            others: 0.0,
            broken: watcher.players.iter().map(|(_, player)| player.broken).sum::<u64>() as f64,
        }
    }

    /// The median of each figure.
    pub(super) fn median(scores: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| {
            let mut values: Vec<f64> = scores.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self {
            first_picture_ms: of(|s| s.first_picture_ms),
            converge_s: of(|s| s.converge_s),
            utilisation: of(|s| s.utilisation),
            of_line: of(|s| s.of_line),
            freezes: of(|s| s.freezes),
            freeze_ms: of(|s| s.freeze_ms),
            queue_p95_ms: of(|s| s.queue_p95_ms),
            ups: of(|s| s.ups),
            downs: of(|s| s.downs),
            heard: of(|s| s.heard),
            recovery_s: of(|s| s.recovery_s),
            others: of(|s| s.others),
            // A relay that gives out what cannot be decoded has a bug, whatever the others say.
            broken: scores.iter().map(|score| score.broken).fold(0.0, f64::max),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// When so large a share of what fits was first received for so long, from a time on.
fn reached(scenario: &Scenario, samples: &[Sample], from: Duration, (share, held): (f64, Duration)) -> f64 {
    let count = usize::try_from(held.as_millis() / 100).unwrap_or(1);
    let after: Vec<&Sample> = samples.iter().filter(|sample| sample.at > from).collect();
    let found = after.windows(count).find(|window| {
        let received: f64 = window.iter().map(|sample| sample.bits as f64 * 10.0).sum();
        let fits: f64 = window.iter().map(|sample| scenario.fits(sample)).sum();
        received >= share * fits
    });
    // The first sample tells of the tenth of a second before it.
    found.and_then(|window| window.first()).map_or(f64::INFINITY, |first| first.at.as_secs_f64() - 0.1)
}

/// Payload bits per second of the largest encodings that fit a line of `bps`, of which `loss` is lost and sent again: the
/// smallest for every slot, then larger ones for all alike.
pub(super) fn fits(bps: f64, (cameras, microphones): (usize, usize), loss: f64, encodings: usize) -> f64 {
    let packets_per_s = 1.0 / SOUND_EVERY.as_secs_f64();
    let microphones = microphones as f64;
    let budget = bps * MEDIA * (1.0 - loss) - microphones * packets_per_s * SOUND_WIRE * 8.0;
    let sound = microphones * packets_per_s * SOUND as f64 * 8.0 * (1.0 - loss);
    let mut rates = vec![0.0_f64; cameras];
    for (_, _, rate) in ENCODINGS.iter().take(encodings) {
        for at in 0..cameras {
            let more: f64 = rates.iter().sum::<f64>() - rates[at] + *rate as f64;
            if more * VIDEO_WIRE <= budget {
                rates[at] = *rate as f64;
            }
        }
    }
    rates.iter().sum::<f64>() + sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_whole_encodings() {
        let of = |bps, cameras| (fits(bps, (cameras, 1), 0.0, 3) / 1000.0).round();
        assert_eq!(of(500e3, 1), 174.0);
        assert_eq!(of(1e6, 1), 524.0);
        assert_eq!(of(3e6, 1), 1724.0);
        assert_eq!(of(1e6, 4), 624.0);
        assert_eq!(of(2.5e6, 4), 2024.0);
        assert_eq!(of(100e3, 1), 24.0);
    }
}

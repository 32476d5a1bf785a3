//! Who speaks, from the audio levels that senders write into a header extension (RFC 6464).

use std::time::{Duration, Instant};

/// Levels are −dBov: 0 is as loud as can be, 127 is silence. Above this nothing is heard that matters; such packets
/// are not forwarded. Lower saves more, and cuts off quiet rooms.
const SILENCE_LEVEL: f32 = 65.0;

/// Sound goes on for so long after the last that was heard, so that the ends of words are not cut off.
const SILENCE_HANGOVER: Duration = Duration::from_millis(800);

/// A smoothed level below this is speech.
const SPEECH_LEVEL: f32 = 50.0;

/// Who spoke counts as speaking for so long after: pauses between sentences do not empty the list.
const SPEECH_HANGOVER: Duration = Duration::from_millis(1200);

/// How much of a louder packet is taken into the smoothed level at once, so that the first word is noticed within
/// three packets; and how much of a quieter one, so that a pause between words changes little.
const ATTACK: f32 = 0.4;
const DECAY: f32 = 0.05;

/// How much louder (in dB) somebody must be to take the place of one who is there.
const HYSTERESIS_DB: f32 = 6.0;

/// A source without levels counts as this loud: heard when there is room.
const UNKNOWN_LEVEL: f32 = 60.0;

/// How loud one source is.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    smoothed: Option<f32>,
    heard_at: Option<Instant>,
    spoke_at: Option<Instant>,
}

impl Meter {
    /// A packet came with this level, 0 to 127 −dBov.
    pub(crate) fn level(&mut self, now: Instant, level: u8) {
        let level = f32::from(level.min(127));
        let smoothed = self.smoothed.get_or_insert(127.0);
        let share = if level < *smoothed { ATTACK } else { DECAY };
        *smoothed += (level - *smoothed) * share;
        if level < SILENCE_LEVEL {
            self.heard_at = Some(now);
        }
        if *smoothed < SPEECH_LEVEL {
            self.spoke_at = Some(now);
        }
    }

    /// Another branch of the call says how loud it is; `None` when it does not know. Silent when it says nothing.
    pub(crate) fn adopt(&mut self, now: Instant, heard: Option<(Option<f32>, bool)>) {
        self.heard_at = heard.map(|_| now);
        self.spoke_at = heard.filter(|(_, speech)| *speech).map(|_| now);
        self.smoothed = heard.map_or(Some(127.0), |(level, _)| level);
    }

    /// Smoothed level, if it says how loud it is, and whether somebody speaks: for other branches. `None` when there is
    /// nothing to hear.
    #[must_use]
    pub(crate) fn share(&self, now: Instant) -> Option<(Option<f32>, bool)> {
        (!self.is_silent(now)).then(|| (self.smoothed, self.is_speech(now)))
    }

    /// Whether there is nothing to hear. Never, for a source that does not say how loud it is.
    #[must_use]
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        self.smoothed.is_some() && !recent(self.heard_at, now, SILENCE_HANGOVER)
    }

    /// Whether somebody speaks.
    #[must_use]
    pub(crate) fn is_speech(&self, now: Instant) -> bool {
        recent(self.spoke_at, now, SPEECH_HANGOVER)
    }

    /// Smoothed level, −dBov: lower is louder.
    #[must_use]
    pub(crate) fn smoothed(&self) -> f32 {
        self.smoothed.unwrap_or(UNKNOWN_LEVEL)
    }
}

fn recent(at: Option<Instant>, now: Instant, within: Duration) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) < within)
}

/// The loudest sources, the same ones for as long as nobody is clearly louder.
#[derive(Debug, Default)]
pub(crate) struct Loudest {
    ranked: Vec<usize>,
    scored: Vec<(f32, usize)>,
}

impl Loudest {
    /// Ranks anew: `(source, smoothed level)` of all that are not silent. True when the first `places` changed.
    pub(crate) fn rank(&mut self, candidates: impl Iterator<Item = (usize, f32)>, places: usize) -> bool {
        self.scored.clear();
        for (source, level) in candidates {
            let bonus = if self.ranked.contains(&source) { HYSTERESIS_DB } else { 0.0 };
            self.scored.push((level - bonus, source));
        }
        self.scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.scored.truncate(places);
        let chosen = self.scored.iter().map(|(_, source)| *source);
        if self.ranked.len() == self.scored.len()
            && chosen.clone().all(|source| self.ranked.contains(&source))
        {
            return false;
        }
        // Those who stay keep their rank: who is in a list matters to slots, the order within does not.
        self.ranked.clear();
        self.ranked.extend(chosen);
        true
    }

    /// The loudest sources.
    #[must_use]
    pub(crate) fn ranked(&self) -> &[usize] {
        &self.ranked
    }

    /// Forgets a source that is gone.
    pub(crate) fn remove(&mut self, source: usize) {
        self.ranked.retain(|ranked| *ranked != source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_noticed_within_60_ms() {
        let now = Instant::now();
        let mut meter = Meter::default();
        (0..50).for_each(|packet| meter.level(now + Duration::from_millis(20) * packet, 127));
        assert!(!meter.is_speech(now + Duration::from_secs(1)));
        (50..54).for_each(|packet| meter.level(now + Duration::from_millis(20) * packet, 25));
        assert!(meter.is_speech(now + Duration::from_millis(1080)));
    }

    #[test]
    fn a_pause_between_words_is_not_silence() {
        let now = Instant::now();
        let mut meter = Meter::default();
        meter.level(now, 20);
        meter.level(now + Duration::from_millis(20), 127);
        assert!(!meter.is_silent(now + Duration::from_millis(700)));
        assert!(meter.is_silent(now + Duration::from_millis(900)));
    }

    #[test]
    fn a_source_that_says_no_level_is_never_silent() {
        assert!(!Meter::default().is_silent(Instant::now()));
    }

    #[test]
    fn a_little_louder_takes_no_place_and_clearly_louder_does() {
        let mut loudest = Loudest::default();
        assert!(loudest.rank([(1, 30.0), (2, 35.0)].into_iter(), 1));
        assert_eq!(loudest.ranked(), [1]);
        assert!(!loudest.rank([(1, 35.0), (2, 30.0)].into_iter(), 1));
        assert!(loudest.rank([(1, 40.0), (2, 30.0)].into_iter(), 1));
        assert_eq!(loudest.ranked(), [2]);
    }
}

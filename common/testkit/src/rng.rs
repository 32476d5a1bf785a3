//! A small seeded random source. Not for secrets.

use std::ops::Range;
use std::time::Duration;

/// Random numbers that depend on the seed alone: xoshiro256** (Blackman and Vigna), its state filled by
/// SplitMix64 so that neighbouring seeds give unrelated runs.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// A source whose numbers follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut mixer)) }
    }

    /// A source of its own for one part of a test: what it draws does not shift what the others draw.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }

    /// Any 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number in `range`; its start when the range is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        let span = range.end.saturating_sub(range.start);
        // The upper half of a 128-bit product is below `span`; its bias of span/2^64 is no matter for tests.
        let scaled = u128::from(self.next_u64()) * u128::from(span);
        range.start + u64::try_from(scaled >> 64).expect("invariant: below a 64-bit span")
    }

    /// An index below `len`; 0 when `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        let drawn = self.range(0..u64::try_from(len).unwrap_or(u64::MAX));
        usize::try_from(drawn).expect("invariant: below a usize")
    }

    /// True with `probability`: never at 0, always at 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        // 53 bits: what a double holds exactly.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A duration below `max`; zero when `max` is zero.
    pub fn duration(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.range(0..u64::try_from(max.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// One of `items`; `None` when there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.index(items.len()))
    }

    /// Fills `bytes` with random ones.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = *state;
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generators_give_the_published_numbers() {
        // SplitMix64 from state 1234567, as in the reference implementation's test vector.
        let mut state = 1_234_567;
        assert_eq!(split_mix(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(split_mix(&mut state), 3_203_168_211_198_807_973);
        // xoshiro256** from state {1, 2, 3, 4}.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let drawn: [u64; 4] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(drawn, [11_520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn a_seed_gives_the_same_run_and_another_seed_another_one() {
        let run = |seed| Rng::new(seed).bytes(100);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_fork_draws_numbers_of_its_own() {
        let mut parent = Rng::new(1);
        let mut child = parent.fork();
        assert_ne!(parent.next_u64(), child.next_u64());
    }

    #[test]
    fn a_range_reaches_both_its_ends_and_nothing_outside() {
        let mut rng = Rng::new(3);
        let drawn: Vec<u64> = (0..1_000).map(|_| rng.range(5..9)).collect();
        assert_eq!(drawn.iter().min(), Some(&5));
        assert_eq!(drawn.iter().max(), Some(&8));
        assert_eq!(rng.range(4..4), 4);
        assert_eq!(rng.index(0), 0);
    }

    #[test]
    fn a_chance_comes_true_as_often_as_it_says() {
        let mut rng = Rng::new(4);
        let hits = (0..100_000).filter(|_| rng.chance(0.01)).count();
        assert!((900..1_100).contains(&hits), "{hits} hits of 1000 expected");
        assert!(!(0..1_000).any(|_| rng.chance(0.0)));
        assert!((0..1_000).all(|_| rng.chance(1.0)));
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(5).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.into_iter().eq(0..100));
    }
}

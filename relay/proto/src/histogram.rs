//! How measures are distributed: counts in fixed buckets, as Prometheus wants them.

/// Buckets of every histogram, that of everything larger not among them. More show finer steps, and take 8 bytes each in
/// every call.
pub const BUCKETS: usize = 12;

/// Counts of measures, by size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64; BUCKETS],
    counts: [u64; BUCKETS],
    above: u64,
    sum: f64,
}

impl Histogram {
    /// A histogram with nothing in it. The bounds are the largest measure of each bucket, in ascending order.
    #[must_use]
    pub const fn new(bounds: &'static [f64; BUCKETS]) -> Self {
        Self { bounds, counts: [0; BUCKETS], above: 0, sum: 0.0 }
    }

    /// Counts a measure. What is no number does not count: one would spoil the sum for ever.
    pub fn record(&mut self, measure: f64) {
        if !measure.is_finite() {
            return;
        }
        self.sum += measure;
        match self.bounds.iter().zip(&mut self.counts).find(|(bound, _)| measure <= **bound) {
            Some((_, count)) => *count += 1,
            None => self.above += 1,
        }
    }

    /// Adds what another with the same bounds counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.above += other.above;
        self.sum += other.sum;
    }

    /// For each bucket its bound, and how many measures were no larger.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.bounds.iter().zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((*bound, *sum))
        })
    }

    /// How many measures there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// What they are together.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [f64; BUCKETS] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];

    fn of(measures: &[f64]) -> Histogram {
        let mut histogram = Histogram::new(&BOUNDS);
        measures.iter().for_each(|measure| histogram.record(*measure));
        histogram
    }

    #[test]
    fn a_measure_counts_in_the_first_bucket_that_holds_it_and_in_all_larger_ones() {
        let histogram = of(&[0.5, 1.0, 2.5, 100.0]);
        let counts: Vec<u64> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 104.0).abs() < 1e-9);
    }

    #[test]
    fn two_histograms_together_are_one_of_all_measures() {
        let mut sum = of(&[0.5, 7.5]);
        sum.add(&of(&[3.0, 40.0]));
        assert_eq!(sum, of(&[0.5, 7.5, 3.0, 40.0]));
    }

    #[test]
    fn what_is_no_number_does_not_count() {
        assert_eq!(of(&[f64::NAN, f64::INFINITY, 2.0]), of(&[2.0]));
    }
}

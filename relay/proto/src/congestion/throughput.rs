//! How much arrives: bytes per slice of time, over sliding windows.

/// One slice. Shorter makes windows exact, longer takes less memory.
const SLICE_US: i64 = 25_000;

/// Slices that are kept: 500 ms.
const SLICES: usize = 20;

/// A gap after which what came before no longer counts.
const GAP_US: i64 = 10_000_000;

/// Bytes by the time at which they arrived.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    slices: [u32; SLICES],
    /// The slice that is being filled, and the first one that there was.
    current: i64,
    first: Option<i64>,
    last_us: i64,
}

impl Throughput {
    /// Bytes arrived.
    pub(super) fn add(&mut self, at_us: i64, bytes: usize) {
        let slice = at_us.div_euclid(SLICE_US);
        if self.first.is_none() || at_us.saturating_sub(self.last_us).saturating_abs() > GAP_US {
            *self = Self { first: Some(slice), current: slice, last_us: at_us, ..Self::default() };
        }
        let (current, room) = (self.current, SLICES as i64);
        for empty in (current + 1..=slice).rev().take(SLICES) {
            self.put(empty, |bytes| *bytes = 0);
        }
        self.current = current.max(slice);
        self.last_us = self.last_us.max(at_us);
        if self.current - slice < room {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.put(slice, |sum| *sum = sum.saturating_add(bytes));
        }
    }

    /// Bits per second over the last `window_us`, at most 500 ms, or over what there is of it. `None` before there are
    /// 100 ms.
    pub(super) fn bps(&self, window_us: i64) -> Option<f64> {
        let back = (window_us / SLICE_US).clamp(1, SLICES as i64) - 1;
        let from = (self.current - back).max(self.first?);
        let elapsed_us = self.last_us.saturating_sub(from.saturating_mul(SLICE_US));
        if elapsed_us < 4 * SLICE_US - SLICE_US / 2 && window_us > 4 * SLICE_US {
            return None;
        }
        let bytes: u64 = (from..=self.current).map(|slice| u64::from(self.at(slice))).sum();
        Some(bytes as f64 * 8e6 / elapsed_us.max(SLICE_US) as f64)
    }

    fn place(slice: i64) -> usize {
        usize::try_from(slice.rem_euclid(SLICES as i64)).unwrap_or(0)
    }

    fn at(&self, slice: i64) -> u32 {
        self.slices.get(Self::place(slice)).copied().unwrap_or(0)
    }

    fn put(&mut self, slice: i64, change: impl FnOnce(&mut u32)) {
        if let Some(bytes) = self.slices.get_mut(Self::place(slice)) {
            change(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_is_measured_within_a_few_percent() {
        let mut throughput = Throughput::default();
        for packet in 0..400 {
            throughput.add(packet * 5_000, 625);
            let Some(bps) = throughput.bps(500_000) else { continue };
            assert!((0.9e6..1.12e6).contains(&bps), "{bps} after {packet}");
        }
        assert!((0.95e6..1.1e6).contains(&throughput.bps(200_000).unwrap()));
    }

    #[test]
    fn what_came_before_a_pause_fades_and_times_that_jump_begin_anew() {
        let mut throughput = Throughput::default();
        (0..100).for_each(|packet| throughput.add(packet * 5_000, 1250));
        throughput.add(900_000, 1250);
        assert!(throughput.bps(500_000).unwrap() < 1e6);
        for at in [i64::MAX, i64::MIN, 0, -1, i64::MAX] {
            throughput.add(at, 100);
            let _ = throughput.bps(500_000);
        }
    }
}

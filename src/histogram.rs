//! Durations, counted by how long they are: what the histograms of the metrics are made of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in nanoseconds: from what a local upstream takes to the default of `max_staleness`.
const BOUNDS: [u64; 18] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Adds to a counter that only this thread writes: without the lock of the bus that two writers would need.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// Durations by length. One thread writes, any number read.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// How many are in each bucket, and in no lower one.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// One more.
    pub(crate) fn observe(&self, duration: Duration) {
        let nanoseconds =
            duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into());
        // From below: most are short, and halving takes more steps than that.
        let bucket = BOUNDS.iter().take_while(|bound| **bound < nanoseconds).count();
        add(&self.buckets[bucket], 1);
        add(&self.nanoseconds, nanoseconds);
    }
}

/// What histograms hold, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    buckets: [u64; BOUNDS.len() + 1],
    nanoseconds: u64,
}

impl Durations {
    /// Adds one that may be written meanwhile.
    pub(crate) fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum = sum.wrapping_add(bucket.load(Ordering::Relaxed));
        }
        self.nanoseconds = self.nanoseconds.wrapping_add(histogram.nanoseconds.load(Ordering::Relaxed));
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.wrapping_add(*bucket))
    }

    /// All of them together, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds).as_secs_f64()
    }

    /// Each bound in seconds, with how many are not above it.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS.iter().zip(&self.buckets).scan(0_u64, |sum, (bound, bucket)| {
            *sum = sum.wrapping_add(*bucket);
            Some((Duration::from_nanos(*bound).as_secs_f64(), *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_is_not_below_it() {
        let (one, other) = (Histogram::default(), Histogram::default());
        for micros in [0, 100, 101, 60_000_000, 60_000_001] {
            one.observe(Duration::from_micros(micros));
        }
        other.observe(Duration::from_millis(2));
        let mut all = Durations::default();
        [&one, &other].into_iter().for_each(|histogram| all.add(histogram));
        let cumulative: Vec<_> = all.cumulative().collect();
        assert_eq!(cumulative[..5], [(0.0001, 2), (0.00025, 3), (0.0005, 3), (0.001, 3), (0.0025, 4)]);
        assert_eq!(cumulative.last(), Some(&(60.0, 5)));
        assert_eq!(all.count(), 6);
        assert!((all.seconds() - 120.002_202).abs() < 1e-9, "{}", all.seconds());
    }

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }
}

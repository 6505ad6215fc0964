//! How often something may happen: so many a second for each key, and some more at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Instant;
use crate::lock::Mutex;

/// Keys that are remembered. Where there are more, those are forgotten that have the longest been at rest.
const MOST: usize = 10_000;

/// A bucket of tokens for each key.
#[derive(Debug)]
pub(super) struct Rates<K> {
    per_second: f64,
    at_once: f64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

/// What was taken out, and when: it flows back.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    taken: f64,
    at: Instant,
}

impl<K: Eq + Hash + Copy> Rates<K> {
    /// So many a second, and so many at once.
    pub(super) fn new((per_second, at_once): (f64, f64)) -> Self {
        Self { per_second, at_once, buckets: Mutex::default() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// After how long there will be one again.
    pub(super) fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MOST && !buckets.contains_key(&key) {
            let is_at_rest = |bucket: &Bucket| self.remaining(bucket, now) == 0.0;
            buckets.retain(|_, bucket| !is_at_rest(bucket));
            if buckets.len() >= MOST {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { taken: 0.0, at: now });
        let taken = self.remaining(bucket, now) + 1.0;
        if taken > self.at_once {
            return Err(Duration::from_secs_f64((taken - self.at_once) / self.per_second));
        }
        *bucket = Bucket { taken, at: now };
        Ok(())
    }

    fn remaining(&self, bucket: &Bucket, now: Instant) -> f64 {
        (bucket.taken - now.duration_since(bucket.at).as_secs_f64() * self.per_second).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_so_many_a_second() {
        let rates = Rates::new((2.0, 3.0));
        let at = |millis: u64| Instant::since_boot(Duration::from_millis(10_000 + millis));
        let taken = |key: u8, millis: u64| rates.take(key, at(millis));
        assert!((0..3).all(|_| taken(1, 0).is_ok()));
        assert_eq!(taken(1, 0), Err(Duration::from_millis(500)));
        assert!(taken(2, 0).is_ok(), "another key");
        assert!(taken(1, 500).is_ok() && taken(1, 500).is_err());
        assert!((0..3).all(|_| taken(1, 10_000).is_ok()) && taken(1, 10_000).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rates = Rates::new((1.0, 1.0));
        let now = Instant::since_boot(Duration::from_secs(10));
        for key in 0..3 * MOST {
            assert!(rates.take(key, now).is_ok());
        }
        assert!(rates.buckets.lock().len() <= MOST);
    }
}

//! Digests that were seen revoked or deleted. They hold a digest and a time, nothing else.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

use super::entry::DigestHasher;
use crate::token::Digest;

/// How long a tombstone is kept. A store that lost writes longer ago than this was restored by a person, not by a
/// failover.
pub(super) const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// How many are kept; the oldest go first.
pub(super) const LIMIT: usize = 1_000_000;

/// The digests that can never authenticate again.
#[derive(Debug)]
pub(super) struct Tombstones {
    limit: usize,
    origin: Instant,
    /// When each digest was last seen removed, in seconds from `origin`.
    times: HashMap<Digest, u32, BuildHasherDefault<DigestHasher>>,
    /// In the order of their times. A digest that was removed again stands here twice; its later place counts.
    order: VecDeque<(Digest, u32)>,
}

impl Tombstones {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, origin: Instant::now(), times: HashMap::default(), order: VecDeque::new() }
    }

    /// Remembers a digest, or that it was removed again.
    pub(super) fn insert(&mut self, digest: Digest, now: Instant) {
        let now = self.seconds(now);
        if self.times.insert(digest, now) != Some(now) {
            self.order.push_back((digest, now));
        }
        while self.times.len() > self.limit || self.order.len() > self.limit.saturating_mul(2) {
            self.drop_oldest();
        }
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.times.contains_key(digest)
    }

    /// Forgets those older than [`RETENTION`].
    pub(super) fn expire(&mut self, now: Instant) {
        let now = self.seconds(now);
        while self.order.front().is_some_and(|(_, time)| u64::from(now.saturating_sub(*time)) > RETENTION.as_secs()) {
            self.drop_oldest();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    fn drop_oldest(&mut self) {
        if let Some((digest, time)) = self.order.pop_front()
            && self.times.get(&digest) == Some(&time)
        {
            self.times.remove(&digest);
        }
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.origin).as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    #[test]
    fn the_oldest_go_first_when_there_are_too_many() {
        let mut tombstones = Tombstones::new(2);
        let start = tombstones.origin;
        for number in 0..3 {
            tombstones.insert(digest(number), start + Duration::from_secs(number.into()));
        }
        assert!(!tombstones.contains(&digest(0)));
        assert!(tombstones.contains(&digest(1)) && tombstones.contains(&digest(2)));
        assert_eq!(tombstones.len(), 2);
    }

    #[test]
    fn they_age_out_after_a_day_counted_from_the_last_removal() {
        let mut tombstones = Tombstones::new(LIMIT);
        let start = tombstones.origin;
        tombstones.insert(digest(0), start);
        tombstones.insert(digest(1), start);
        tombstones.insert(digest(1), start + Duration::from_secs(60));
        tombstones.expire(start + RETENTION);
        assert_eq!(tombstones.len(), 2);
        tombstones.expire(start + RETENTION + Duration::from_secs(1));
        assert!(!tombstones.contains(&digest(0)) && tombstones.contains(&digest(1)));
        tombstones.expire(start + RETENTION + Duration::from_secs(61));
        assert_eq!((tombstones.len(), tombstones.order.len()), (0, 0));
    }
}

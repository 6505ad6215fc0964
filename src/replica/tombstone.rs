//! Digests that were seen revoked or deleted. They hold a digest and a time, nothing else.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use super::entry::DigestHasher;
use crate::clock::Instant;
use crate::token::Digest;

/// How long a tombstone is kept. A store that lost writes longer ago than this was restored by a person, not by a
/// failover.
const RETENTION_SECONDS: u32 = 24 * 60 * 60;

/// How many are kept; the oldest go first.
pub(super) const LIMIT: usize = 1_000_000;

/// The digests that can never authenticate again.
#[derive(Debug)]
pub(super) struct Tombstones {
    limit: usize,
    origin: Instant,
    /// When each digest was last seen removed, in seconds from two retentions before `origin`: an earlier
    /// run's time may be long before it.
    times: HashMap<Digest, u32, BuildHasherDefault<DigestHasher>>,
    /// In the order of their times. A digest that was removed again stands here twice; its later place counts.
    order: VecDeque<(Digest, u32)>,
    /// How many have left `order` at its front.
    left: u64,
}

impl Tombstones {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, origin: Instant::now(), times: HashMap::default(), order: VecDeque::new(), left: 0 }
    }

    /// Remembers a digest, or that it was removed again.
    pub(super) fn insert(&mut self, digest: Digest, now: Instant) {
        self.insert_aged(digest, 0, now);
    }

    /// Remembers a digest that was removed this many seconds ago. The oldest must come first.
    pub(super) fn insert_aged(&mut self, digest: Digest, age: u32, now: Instant) {
        let latest = self.order.back().map_or(0, |(_, time)| *time);
        let time = self.seconds(now).saturating_sub(age).max(latest);
        if self.times.insert(digest, time) != Some(time) {
            self.order.push_back((digest, time));
        }
        while self.times.len() > self.limit || self.order.len() > self.limit.saturating_mul(2) {
            self.drop_oldest();
        }
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.times.contains_key(digest)
    }

    /// Forgets those older than [`RETENTION_SECONDS`].
    pub(super) fn expire(&mut self, now: Instant) {
        let now = self.seconds(now);
        while self.order.front().is_some_and(|(_, time)| now.saturating_sub(*time) > RETENTION_SECONDS) {
            self.drop_oldest();
        }
    }

    /// Some of them, the oldest first, with their ages in seconds, and where to go on; `None` at the end. Starts at 0.
    /// What is inserted meanwhile is shown too.
    pub(super) fn page(&self, from: u64, limit: usize, now: Instant) -> Option<(Vec<(Digest, u32)>, u64)> {
        let start = usize::try_from(from.saturating_sub(self.left)).unwrap_or(usize::MAX);
        let now = self.seconds(now);
        let places = self.order.iter().skip(start).take(limit);
        let current = places.clone().filter(|(digest, time)| self.times.get(digest) == Some(time));
        let page: Vec<_> = current.map(|(digest, time)| (*digest, now.saturating_sub(*time))).collect();
        let passed = places.len() as u64;
        (passed > 0).then(|| (page, from.max(self.left) + passed))
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    fn drop_oldest(&mut self) {
        let Some((digest, time)) = self.order.pop_front() else { return };
        self.left += 1;
        if self.times.get(&digest) == Some(&time) {
            self.times.remove(&digest);
        }
    }

    fn seconds(&self, now: Instant) -> u32 {
        let since = u32::try_from(now.duration_since(self.origin).as_secs()).unwrap_or(u32::MAX);
        since.saturating_add(2 * RETENTION_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RETENTION: Duration = Duration::from_secs(RETENTION_SECONDS as u64);

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

    #[test]
    fn those_of_an_earlier_run_go_on_ageing() {
        let mut tombstones = Tombstones::new(LIMIT);
        let start = tombstones.origin;
        tombstones.insert_aged(digest(0), RETENTION_SECONDS - 1, start);
        tombstones.insert_aged(digest(1), 10, start);
        tombstones.expire(start + Duration::from_secs(1));
        assert_eq!(tombstones.len(), 2);
        tombstones.expire(start + Duration::from_secs(2));
        assert!(!tombstones.contains(&digest(0)) && tombstones.contains(&digest(1)));
    }

    #[test]
    fn pages_show_each_once_with_its_age_whatever_leaves_meanwhile() {
        let mut tombstones = Tombstones::new(4);
        let start = tombstones.origin;
        let at = |seconds| start + Duration::from_secs(seconds);
        for number in 0..4 {
            tombstones.insert(digest(number), at(number.into()));
        }
        tombstones.insert(digest(0), at(4));
        let (page, next) = tombstones.page(0, 3, at(10)).expect("some");
        assert_eq!((page, next), (vec![(digest(1), 9), (digest(2), 8)], 3));
        tombstones.insert(digest(9), at(5));
        let (page, next) = tombstones.page(next, 10, at(10)).expect("more");
        assert_eq!((page, next), (vec![(digest(3), 7), (digest(0), 6), (digest(9), 5)], 6));
        assert_eq!(tombstones.page(next, 10, at(10)), None);
    }
}

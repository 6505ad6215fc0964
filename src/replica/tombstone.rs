//! Digests that were seen revoked or deleted. They hold a digest and a time, nothing else.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;

use super::entry::DigestHasher;
use crate::clock::Instant;
use crate::token::Digest;

/// How long a tombstone is retained. A store that lost writes longer ago than this was restored by a person, not by a
/// failover.
pub(super) const RETENTION_SECONDS: u32 = 24 * 60 * 60;

/// How many are retained; the oldest go first.
pub(super) const LIMIT: usize = 1_000_000;

/// The digests that can never authenticate again.
#[derive(Debug)]
pub(super) struct Tombstones {
    limit: usize,
    origin: Instant,
    digests: HashSet<Digest, BuildHasherDefault<DigestHasher>>,
    /// When each was first seen removed, in that order, in seconds from two retentions before `origin`: an earlier run's
    /// time may be long before it.
    order: VecDeque<(Digest, u32)>,
    /// How many have left `order` at its front.
    left: u64,
}

impl Tombstones {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, origin: Instant::now(), digests: HashSet::default(), order: VecDeque::new(), left: 0 }
    }

    /// Remembers a digest. One that is known already stays where it is: whoever repeats the same pushes no other out.
    pub(super) fn insert(&mut self, digest: Digest, now: Instant) {
        self.insert_aged(digest, 0, now);
    }

    /// Remembers a digest that was removed this many seconds ago. The oldest must come first.
    pub(super) fn insert_aged(&mut self, digest: Digest, age: u32, now: Instant) {
        if !self.digests.insert(digest) {
            return;
        }
        let latest = self.order.back().map_or(0, |(_, time)| *time);
        let time = self.seconds(now).saturating_sub(age).max(latest);
        self.order.push_back((digest, time));
        if self.order.len() > self.limit {
            self.drop_oldest();
        }
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
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
        let page: Vec<_> = places.map(|(digest, time)| (*digest, now.saturating_sub(*time))).collect();
        let next = from.max(self.left) + page.len() as u64;
        (!page.is_empty()).then_some((page, next))
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn drop_oldest(&mut self) {
        let Some((digest, _)) = self.order.pop_front() else { return };
        self.left += 1;
        self.digests.remove(&digest);
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
    fn they_age_out_after_a_day_counted_from_the_first_removal() {
        let mut tombstones = Tombstones::new(LIMIT);
        let start = tombstones.origin;
        tombstones.insert(digest(0), start);
        tombstones.insert(digest(1), start + Duration::from_secs(60));
        tombstones.expire(start + RETENTION);
        assert_eq!(tombstones.len(), 2);
        tombstones.expire(start + RETENTION + Duration::from_secs(1));
        assert!(!tombstones.contains(&digest(0)) && tombstones.contains(&digest(1)));
        tombstones.expire(start + RETENTION + Duration::from_secs(61));
        assert_eq!((tombstones.len(), tombstones.digests.len()), (0, 0));
    }

    #[test]
    fn what_is_known_already_pushes_nothing_out() {
        let mut tombstones = Tombstones::new(3);
        let start = tombstones.origin;
        for number in 0..3 {
            tombstones.insert(digest(number), start);
        }
        for _ in 0..10 {
            (1..3).for_each(|number| tombstones.insert(digest(number), start + Duration::from_secs(1)));
        }
        assert!((0..3).all(|number| tombstones.contains(&digest(number))));
        assert_eq!(tombstones.order.len(), 3);
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
        let (page, next) = tombstones.page(0, 2, at(10)).expect("some");
        assert_eq!((page, next), (vec![(digest(0), 10), (digest(1), 9)], 2));
        tombstones.insert(digest(9), at(5));
        let (page, next) = tombstones.page(next, 10, at(10)).expect("more");
        assert_eq!((page, next), (vec![(digest(2), 8), (digest(3), 7), (digest(9), 5)], 5));
        assert_eq!(tombstones.page(next, 10, at(10)), None);
    }
}

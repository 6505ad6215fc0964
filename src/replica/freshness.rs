//! How long ago the replica was last proven to be at the store's position. Monotonic time only: a wall clock that jumps
//! changes nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The last moment as of which the replica held everything that was committed.
#[derive(Debug)]
pub(super) struct Freshness {
    origin: Instant,
    /// Milliseconds from `origin`, below zero for a proof of an earlier run; [`NEVER`] before the first one.
    as_of: AtomicI64,
}

const NEVER: i64 = i64::MIN;

impl Freshness {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), as_of: AtomicI64::new(NEVER) }
    }

    /// Records a proof. It never moves backwards: proofs may be completed out of order.
    pub(super) fn confirm(&self, as_of: Instant) {
        self.as_of.fetch_max(self.millis(as_of), Ordering::AcqRel);
    }

    /// Time since the last proof; `None` before the first one.
    pub(super) fn staleness(&self, now: Instant) -> Option<Duration> {
        let since = self.as_of.load(Ordering::Acquire);
        if since == NEVER {
            return None;
        }
        let (age, proven) = (now.saturating_duration_since(self.origin), Duration::from_millis(since.unsigned_abs()));
        Some(if since < 0 { age.saturating_add(proven) } else { age.saturating_sub(proven) })
    }

    /// Rounded down: the replica then counts as a little staler than it is, never as fresher.
    fn millis(&self, as_of: Instant) -> i64 {
        match as_of.checked_duration_since(self.origin) {
            Some(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            None => {
                let before = self.origin.saturating_duration_since(as_of).as_micros().div_ceil(1_000);
                i64::try_from(before).map_or(NEVER + 1, |before| -before)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fresh_before_the_first_proof() {
        let freshness = Freshness::new();
        assert_eq!(freshness.staleness(Instant::now()), None);
        freshness.confirm(freshness.origin);
        assert_eq!(freshness.staleness(freshness.origin), Some(Duration::ZERO));
    }

    #[test]
    fn staleness_grows_with_time_and_a_late_proof_never_moves_it_back() {
        let freshness = Freshness::new();
        let at = |millis| freshness.origin + Duration::from_millis(millis);
        freshness.confirm(at(100));
        freshness.confirm(at(50));
        assert_eq!(freshness.staleness(at(130)), Some(Duration::from_millis(30)));
        assert_eq!(freshness.staleness(at(90)), Some(Duration::ZERO));
    }

    #[test]
    fn rounding_makes_it_staler_never_fresher() {
        let freshness = Freshness::new();
        freshness.confirm(freshness.origin + Duration::from_micros(1_900));
        let now = freshness.origin + Duration::from_millis(10);
        assert_eq!(freshness.staleness(now), Some(Duration::from_millis(9)));
    }

    #[test]
    fn an_earlier_runs_proof_counts_from_when_it_was_made() {
        let freshness = Freshness::new();
        let Some(before) = freshness.origin.checked_sub(Duration::from_micros(2_500)) else { return };
        freshness.confirm(before);
        assert_eq!(freshness.staleness(freshness.origin), Some(Duration::from_millis(3)));
        let now = freshness.origin + Duration::from_millis(10);
        assert_eq!(freshness.staleness(now), Some(Duration::from_millis(13)));
        freshness.confirm(freshness.origin);
        assert_eq!(freshness.staleness(now), Some(Duration::from_millis(10)));
    }
}

//! How long ago the replica was last proven to be at the store's position. Monotonic time only: a wall clock that jumps
//! changes nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The last moment as of which the replica held everything that was committed.
#[derive(Debug)]
pub(super) struct Freshness {
    origin: Instant,
    /// Milliseconds from `origin`, plus one; 0 before the first proof.
    as_of: AtomicU64,
}

impl Freshness {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), as_of: AtomicU64::new(0) }
    }

    /// Records a proof. It never moves backwards: proofs may be completed out of order.
    pub(super) fn confirm(&self, as_of: Instant) {
        let since = as_of.saturating_duration_since(self.origin).as_millis();
        // Rounded down: the replica then counts as a little staler than it is, never as fresher.
        self.as_of.fetch_max(u64::try_from(since).unwrap_or(u64::MAX - 1).saturating_add(1), Ordering::AcqRel);
    }

    /// Time since the last proof; `None` before the first one.
    pub(super) fn staleness(&self, now: Instant) -> Option<Duration> {
        let since = self.as_of.load(Ordering::Acquire).checked_sub(1)?;
        Some(now.saturating_duration_since(self.origin).saturating_sub(Duration::from_millis(since)))
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
}

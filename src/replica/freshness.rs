//! How long ago the replica was last proven to be at the store's position, by a clock that nobody can set and that a
//! suspended machine does not stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;

/// The last moment as of which the replica held everything that was committed: nanoseconds since the machine was started,
/// or 0 before the first proof. One of an earlier run counts as well as one of this.
#[derive(Debug, Default)]
pub(super) struct Freshness(AtomicU64);

impl Freshness {
    /// Records a proof. It never moves backwards: proofs may be completed out of order.
    pub(super) fn confirm(&self, as_of: Instant) {
        let nanoseconds = u64::try_from(as_of.uptime().as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(nanoseconds.max(1), Ordering::AcqRel);
    }

    /// The moment of the last proof; `None` before the first one.
    pub(super) fn proven(&self) -> Option<Instant> {
        let nanoseconds = self.0.load(Ordering::Acquire);
        (nanoseconds > 0).then(|| Instant::since_boot(Duration::from_nanos(nanoseconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fresh_before_the_first_proof() {
        let freshness = Freshness::default();
        assert_eq!(freshness.proven(), None);
        let now = Instant::now();
        freshness.confirm(now);
        assert_eq!(freshness.proven(), Some(now));
    }

    #[test]
    fn a_late_proof_never_moves_it_back() {
        let freshness = Freshness::default();
        let at = |millis| Instant::since_boot(Duration::from_millis(millis));
        freshness.confirm(at(100));
        freshness.confirm(at(50));
        assert_eq!(freshness.proven(), Some(at(100)));
    }
}

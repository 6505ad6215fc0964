//! What follows when the replica passes a bound on its staleness, at that moment: what runs by it is looked at again, and
//! so cut off; and the log says that requests are refused, and later for how long.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::Replica;
use crate::clock::{Instant, Timer};
use crate::replica::{FreshnessConfig, MaxStaleness};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    within: Duration,
    permissions: String,
}

/// The bounds on a replica's staleness, the shortest first.
#[derive(Debug, Clone)]
pub(crate) struct Bounds(Vec<Bound>);

impl Bounds {
    /// Those of a configuration. Permissions without a bound are in none.
    #[must_use]
    pub(crate) fn new(freshness: &FreshnessConfig) -> Self {
        let own = freshness.per_permission.iter().map(|(permission, bound)| (*bound, permission.to_string()));
        let all = own.chain([(freshness.max_staleness, "all others".to_owned())]);
        let mut bounds: Vec<Bound> = Vec::new();
        for (bound, name) in all {
            let MaxStaleness::Within(within) = bound else { continue };
            match bounds.iter_mut().find(|bound| bound.within == within) {
                // Writing to a String does not fail.
                Some(bound) => write!(bound.permissions, ", {name}").unwrap_or_default(),
                None => bounds.push(Bound { within, permissions: name }),
            }
        }
        bounds.sort_by_key(|bound| bound.within);
        Self(bounds)
    }
}

/// Fresh for so long, or for as long as the shortest bound, an outage is over: a line that is nearly too slow for a bound makes
/// one outage, and not one a second.
const SETTLED: Duration = Duration::from_secs(5);

/// Requests are refused, or were until a moment ago.
struct Outage {
    /// The last proof before it.
    since: Instant,
    /// How many bounds were passed at the worst.
    worst: usize,
    /// Since when the shortest one is; `None`: it is not any more.
    refusing: Option<Instant>,
    /// How long requests were refused before that.
    refused: Duration,
    /// Since when none are.
    fresh: Instant,
}

impl Outage {
    fn begin(since: Instant) -> Self {
        Self { since, worst: 0, refusing: None, refused: Duration::ZERO, fresh: since }
    }

    /// So many bounds are passed now.
    fn move_to(&mut self, passed: usize, bounds: &[Bound], proven: Instant, now: Instant) {
        match (self.refusing, bounds.first()) {
            (None, Some(first)) if passed > 0 => self.refusing = Some(proven + first.within),
            (Some(refusing), _) if passed == 0 => {
                self.refused += now.duration_since(refusing);
                (self.refusing, self.fresh) = (None, now);
            }
            _ => {}
        }
        for bound in bounds.get(self.worst..passed).unwrap_or_default() {
            tracing::error!(
                permissions = bound.permissions,
                bound_seconds = bound.within.as_secs_f64(),
                "requests are refused: for too long the replica was not proven to be the store's"
            );
        }
        self.worst = self.worst.max(passed);
    }

    /// When it is over, if nothing happens until then.
    fn ends_at(&self, bounds: &[Bound]) -> Option<Instant> {
        let settled = bounds.first().map_or(SETTLED, |first| first.within.min(SETTLED));
        self.refusing.is_none().then_some(self.fresh + settled)
    }

    fn log_end(&self) {
        tracing::warn!(
            stale_seconds = self.fresh.duration_since(self.since).as_secs_f64(),
            refused_seconds = self.refused.as_secs_f64(),
            "the replica is fresh again: requests are served"
        );
    }
}

/// Watches the replica's staleness. Never ends; may be dropped at any point.
pub(crate) async fn watch(replica: Arc<Replica>, Bounds(bounds): Bounds) {
    let timer = Timer::new();
    let mut outage: Option<Outage> = None;
    // How many bounds are passed.
    let mut passed = 0;
    loop {
        let confirmed = replica.confirmed.notified();
        let Some(proven) = replica.proven() else {
            confirmed.await;
            continue;
        };
        let now = Instant::now();
        let staleness = now.duration_since(proven);
        let found = bounds.iter().take_while(|bound| staleness > bound.within).count();
        if found > 0 || outage.is_some() {
            outage.get_or_insert_with(|| Outage::begin(proven)).move_to(found, &bounds, proven, now);
        }
        if found > passed {
            replica.announce(true);
        }
        passed = found;
        let over = outage.take_if(|outage| outage.ends_at(&bounds).is_some_and(|end| end <= now));
        over.iter().for_each(Outage::log_end);
        // The first moment at which it is staler than that, or has been fresh for long enough.
        let passes = bounds.get(passed).map(|bound| proven + bound.within + Duration::from_nanos(1));
        let ends = outage.as_ref().and_then(|outage| outage.ends_at(&bounds));
        let due = passes.into_iter().chain(ends).min();
        tokio::select! {
            // While none is passed, a proof is only looked for when the bound would be.
            () = confirmed, if passed > 0 => {}
            () = timer.until(due.unwrap_or(now)), if due.is_some() => {}
            () = std::future::pending(), if passed == 0 && due.is_none() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_come_in_order_and_those_without_end_not_at_all() {
        let (second, minute) =
            (MaxStaleness::Within(Duration::from_secs(1)), MaxStaleness::Within(Duration::from_mins(1)));
        let own = [("heartbeat:write", MaxStaleness::Never), ("configs:read", minute), ("tokens:write", second)];
        let per_permission = own.map(|(name, bound)| (name.parse().expect("a permission"), bound)).to_vec();
        let freshness =
            FreshnessConfig { probe_interval: Duration::from_millis(1), max_staleness: minute, per_permission };
        let bounds = Bounds::new(&freshness).0.into_iter().map(|bound| (bound.within.as_secs(), bound.permissions));
        let expected = [(1, "tokens:write".to_owned()), (60, "configs:read, all others".to_owned())];
        assert_eq!(bounds.collect::<Vec<_>>(), expected);
    }

    /// The moment of the bound, neither before nor a sweep's time after; and again after a proof.
    #[tokio::test]
    async fn each_bound_is_told_when_it_is_passed() {
        let within = Duration::from_millis(60);
        let replica = Arc::new(Replica::new());
        let mut changes = replica.narrowed();
        let bounds = [1, 2].map(|n| Bound { within: within * n, permissions: n.to_string() });
        let alarm = tokio::spawn(watch(Arc::clone(&replica), Bounds(bounds.to_vec())));
        let mut latest = Duration::MAX;
        for _ in 0..5 {
            let proven = Instant::now();
            replica.confirm(proven);
            // On a busy machine both may have passed when they are looked at.
            let mut passed = 0;
            while passed < bounds.len() {
                changes.changed().await.expect("the replica lives");
                let elapsed = proven.elapsed();
                passed = bounds.iter().filter(|bound| elapsed > bound.within).count();
                let late = bounds[..passed].last().map(|bound| elapsed - bound.within).expect("not before its bound");
                latest = latest.min(late);
            }
        }
        // The promptest, since a busy machine can make any single one late.
        assert!(latest < Duration::from_millis(20), "{latest:?}");
        alarm.abort();
    }

    /// What it says is what was refused, from the bound on, whatever is proven in between.
    #[test]
    fn an_outage_is_one_however_often_it_is_nearly_over() {
        let bounds = [2, 10].map(|seconds| Bound { within: Duration::from_secs(seconds), permissions: String::new() });
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::begin(start);
        // Both bounds are passed; then a late proof ends one of them, and a later one both for a second.
        for (passed, proven, now) in [(1, 0, 3), (2, 0, 11), (1, 5, 12), (0, 12, 13), (1, 12, 15), (0, 20, 20)] {
            outage.move_to(passed, &bounds, at(proven), at(now));
            assert_eq!(outage.ends_at(&bounds), (passed == 0).then(|| at(now + 2)), "{now}");
        }
        assert_eq!((outage.worst, outage.refused.as_secs(), outage.fresh), (2, 11 + 6, at(20)));
    }
}

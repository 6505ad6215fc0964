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

/// Requests are refused for one bound, or were until a moment ago.
#[derive(Debug)]
struct Outage {
    /// The last proof before it.
    since: Instant,
    /// Since when they are; `None`: they are not any more.
    refusing: Option<Instant>,
    /// For how long they were before that.
    refused: Duration,
    /// Since when they are not.
    fresh: Instant,
}

/// A bound, and the outage for it if there is one.
struct Watched<'a> {
    bound: &'a Bound,
    /// Nothing was refused before.
    started: Instant,
    outage: Option<Outage>,
}

impl Watched<'_> {
    /// When requests are refused for this bound, if nothing is proven until then. Who starts with a proof that is stale already
    /// has refused nobody, and is about to read the store.
    fn refuses_at(&self, proven: Instant) -> Instant {
        let passes = proven + self.bound.within;
        if passes < self.started { self.started + self.bound.within } else { passes }
    }

    /// When the outage is over, if nothing happens until then.
    fn ends_at(&self) -> Option<Instant> {
        let outage = self.outage.as_ref().filter(|outage| outage.refusing.is_none())?;
        Some(outage.fresh + self.bound.within.min(SETTLED))
    }

    fn look(&mut self, proven: Instant, now: Instant) {
        let refuses_at = self.refuses_at(proven);
        if refuses_at < now {
            if self.outage.is_none() {
                self.log_begin();
            }
            let begin = || Outage { since: proven, refusing: None, refused: Duration::ZERO, fresh: proven };
            self.outage.get_or_insert_with(begin).refusing.get_or_insert(refuses_at);
        } else if let Some(outage) = &mut self.outage
            && let Some(refusing) = outage.refusing.take()
        {
            outage.refused += now.duration_since(refusing);
            outage.fresh = now;
        }
        if self.ends_at().is_some_and(|end| end <= now)
            && let Some(outage) = self.outage.take()
        {
            self.log_end(&outage);
        }
    }

    fn log_begin(&self) {
        tracing::error!(
            permissions = self.bound.permissions,
            bound_seconds = self.bound.within.as_secs_f64(),
            "requests are refused: for too long the replica was not proven to be the store's"
        );
    }

    fn log_end(&self, outage: &Outage) {
        tracing::warn!(
            permissions = self.bound.permissions,
            stale_seconds = outage.fresh.duration_since(outage.since).as_secs_f64(),
            refused_seconds = outage.refused.as_secs_f64(),
            "the replica is fresh again: requests are served"
        );
    }
}

/// Watches the replica's staleness. Never ends; may be dropped at any point.
pub(crate) async fn watch(replica: Arc<Replica>, Bounds(bounds): Bounds) {
    let timer = Timer::new();
    let started = Instant::now();
    let mut watched: Vec<_> = bounds.iter().map(|bound| Watched { bound, started, outage: None }).collect();
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
        if found > passed {
            replica.wake_waiters();
        }
        passed = found;
        watched.iter_mut().for_each(|watched| watched.look(proven, now));
        // The first moment at which something passes, or has been fresh for long enough.
        let just_after = |moment: Instant| moment + Duration::from_nanos(1);
        let passes = bounds.get(passed).map(|bound| just_after(proven + bound.within));
        let refuses =
            watched.iter().map(|watched| just_after(watched.refuses_at(proven))).filter(|moment| *moment > now).min();
        let ends = watched.iter().filter_map(Watched::ends_at).min();
        let due = [passes, refuses, ends].into_iter().flatten().min();
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
        assert_eq!(replica.revocation_lag().count(), 0, "nothing was revoked");
        alarm.abort();
    }

    const BOUND: fn(u64) -> Bound =
        |seconds| Bound { within: Duration::from_secs(seconds), permissions: String::new() };

    /// What it says is what was refused, from the bound on, whatever is proven in between.
    #[test]
    fn an_outage_is_one_however_often_it_is_nearly_over() {
        let (bound, start) = (BOUND(2), Instant::since_boot(Duration::from_secs(1000)));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watched = Watched { bound: &bound, started: start, outage: None };
        // Refused from 2 on, served at 5 and at 20.
        for (proven, now, refused) in [(0, 3, 0), (0, 4, 0), (5, 5, 3), (5, 8, 3), (5, 12, 3), (20, 20, 3 + 13)] {
            watched.look(at(proven), at(now));
            let outage = watched.outage.as_ref().expect("one outage");
            assert_eq!(outage.refused.as_secs(), refused, "{now}");
            assert_eq!(watched.ends_at(), outage.refusing.is_none().then(|| at(now + 2)), "{now}");
        }
        watched.look(at(21), at(22));
        assert!(watched.outage.is_none());
    }

    /// One that is hardly ever kept hides no other.
    #[test]
    fn each_bound_has_outages_of_its_own() {
        let (bounds, start) = ([BOUND(1), BOUND(10)], Instant::since_boot(Duration::from_secs(1000)));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watched = bounds.each_ref().map(|bound| Watched { bound, started: start, outage: None });
        let mut look = |proven, now| {
            watched.iter_mut().for_each(|watched| watched.look(at(proven), at(now)));
            watched.each_ref().map(|watched| watched.outage.as_ref().map(|outage| outage.refusing.is_some()))
        };
        assert_eq!(look(0, 3), [Some(true), None]);
        assert_eq!(look(0, 12), [Some(true), Some(true)]);
        assert_eq!(look(12, 14), [Some(true), Some(false)]);
        assert_eq!(look(18, 20), [Some(true), None], "it is over for the longer one");
        assert_eq!(look(18, 30), [Some(true), Some(true)], "and begins again");
    }

    /// While it did not run, it refused nobody.
    #[test]
    fn who_starts_with_a_stale_proof_has_refused_nobody_yet() {
        let (bound, stopped) = (BOUND(5), Instant::since_boot(Duration::from_secs(1000)));
        let at = |seconds| stopped + Duration::from_secs(seconds);
        let mut watched = Watched { bound: &bound, started: at(30), outage: None };
        watched.look(at(0), at(31));
        assert!(watched.outage.is_none());
        watched.look(at(0), at(36));
        assert_eq!(watched.outage.as_ref().and_then(|outage| outage.refusing), Some(at(35)));
        // One that is fresh yet passes when it does.
        let watched = Watched { bound: &bound, started: at(3), outage: None };
        assert_eq!(watched.refuses_at(at(0)), at(5));
    }
}

//! This sidecar among the others: it reports to the store how far its requests are decided by what was committed.
//!
//! ```text
//!   replica ── position ──► report ──► store ◄── tollgate status, tollgate token revoke --wait
//! ```
//!
//! A report follows each change of the position at once, one at a time: what happens while one is under way goes into
//! the next. At rest it is renewed every [`REFRESH`]. Proofs of freshness count only while the store has the report
//! ([`Presence`]): when reports fail for longer, this sidecar grows stale, as without the store, so that nobody who waits
//! for a revocation misses it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::chain::chain;
use crate::clock::Instant;
use crate::health::Health;
use crate::listener::ListenAddress;
use crate::replica::presence::Presence;
use crate::replica::snapshot_file::SnapshotFile;
use crate::replica::{FreshnessConfig, MaxStaleness};
use crate::store::{self, ConfigCacheReport, Report, Reports, StoreError};

/// Users named in a report.
const HELD_USERS: usize = 10;

/// Tokens named in a report that came after their end.
const LATE_TOKENS: usize = 20;

/// How often a report is renewed that says the same: well within [`report_ttl`].
const REFRESH: Duration = Duration::from_secs(5);

/// Pause after a report: a hundred revocations a second are reported one by one, a storm of them is not.
const PACE: Duration = Duration::from_millis(5);

/// Pause after a report that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Longest wait for the store to take a report.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a report is stored that is not renewed: as long as the sidecar could still let a revoked token in by what it
/// held then, and a refresh more. So whoever waits until all have applied a revocation waits for a sidecar that was cut
/// off too, until it can do no harm.
#[must_use]
pub fn report_ttl(freshness: &FreshnessConfig) -> Duration {
    const LEAST: Duration = Duration::from_secs(15);
    const UNBOUNDED: Duration = Duration::from_hours(24);
    let bounds = freshness.bounds().map(|bound| match bound {
        MaxStaleness::Within(bound) => bound,
        MaxStaleness::Never => UNBOUNDED,
    });
    bounds.fold(LEAST, Duration::max) + 2 * REFRESH
}

/// How long a report must still be stored for a proof of freshness to count: as long as it lasts, see [`Presence`].
#[must_use]
pub fn min_report_ttl(freshness: &FreshnessConfig) -> Duration {
    report_ttl(freshness) - 2 * REFRESH
}

/// For how long after a proof of freshness everything is served.
#[must_use]
pub fn bound(freshness: &FreshnessConfig) -> Duration {
    let bounds = freshness.bounds().filter_map(|bound| match bound {
        MaxStaleness::Within(bound) => Some(bound),
        MaxStaleness::Never => None,
    });
    bounds.min().unwrap_or(Duration::MAX)
}

/// Reports how a sidecar is.
#[derive(Clone)]
pub struct Reporter {
    store: Arc<dyn Reports>,
    health: Arc<Health>,
    presence: Arc<Presence>,
    /// What the next start may serve from: what is reported must be true of that, too.
    file: Option<Arc<SnapshotFile>>,
    /// What never changes; the rest is filled in for each report.
    report: Report,
    ttl: Duration,
    /// Whether the last one failed: an outage is logged once.
    failing: bool,
    /// Whether the snapshot file could be changed the last time.
    vouching: bool,
}

impl Reporter {
    /// A reporter for a sidecar that starts now.
    #[must_use]
    pub fn new(
        store: Arc<dyn Reports>,
        health: Arc<Health>,
        name: String,
        address: Option<ListenAddress>,
        presence: Arc<Presence>,
        file: Option<Arc<SnapshotFile>>,
        ttl: Duration,
    ) -> Self {
        let report = Report {
            id: presence.sidecar,
            name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: address.map(|address| address.to_string()).unwrap_or_default(),
            host: store::report::this_host(),
            started_at: Timestamp::now(),
            applied: None,
            head: None,
            unwritten_ms: None,
            held_users: Vec::new(),
            schema: store::SCHEMA,
            staleness_ms: None,
            connections: 0,
            draining: None,
            late: Vec::new(),
            config_cache: None,
        };
        Self { store, health, presence, file, report, ttl, failing: false, vouching: true }
    }

    /// Reports until asked to leave, and then takes the report back. Cancelled, the last report stays until it is
    /// too old.
    pub async fn run(mut self, mut leave: oneshot::Receiver<()>) {
        let mut positions = self.health.replica.position();
        loop {
            let position = *positions.borrow_and_update();
            // Nothing is reported as applied that the next start, from its file, would not know.
            let position = if self.vouches().await { position } else { None };
            self.report.applied = position.map(|position| (position.epoch, position.revision));
            self.report.head = position.map(|position| position.head);
            self.report.held_users = self.health.replica.held_users();
            self.report.held_users.truncate(HELD_USERS);
            let sent = self.send().await;
            let news = async {
                tokio::time::sleep(PACE).await;
                let pause = if sent { REFRESH } else { RETRY };
                tokio::select! {
                    // An error would mean that the replica is gone, and this with it.
                    _ = positions.changed(), if sent => {}
                    () = self.presence.wanted() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            };
            tokio::select! {
                () = news => {}
                _ = &mut leave => break,
            }
        }
        if let Err(error) = within(self.store.withdraw(self.report.id)).await {
            tracing::debug!(%error, "cannot withdraw the report: it stays until it expires");
        }
    }

    /// Whether what has happened here will be true after a restart too.
    async fn vouches(&mut self) -> bool {
        let Some(file) = &self.file else { return true };
        let vouched = file.vouch().await;
        match &vouched {
            Err(error) if self.vouching => tracing::warn!(
                %error,
                "cannot change the snapshot file, from which a start could let in what was revoked since: no position is reported"
            ),
            Err(error) => tracing::debug!(%error, "still cannot change the snapshot file"),
            Ok(()) if self.vouching => {}
            Ok(()) => tracing::info!("the snapshot file can be changed again: positions are reported"),
        }
        self.vouching = vouched.is_ok();
        self.vouching
    }

    /// Sends one report. Whether it arrived.
    async fn send(&mut self) -> bool {
        let staleness = self.health.replica.staleness(Instant::now());
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.report.staleness_ms = staleness.map(millis);
        self.report.unwritten_ms = self.health.uses.unwritten_for(Instant::now()).map(millis);
        self.report.draining = self.health.readiness.reported_drain().map(str::to_owned);
        self.report.connections = self.health.connections.load(Ordering::Relaxed) as u64;
        self.report.late = self.health.late.latest();
        self.report.late.truncate(LATE_TOKENS);
        let cache = self.health.cache.as_ref().map(|cache| cache.status());
        self.report.config_cache = cache.map(|cache| ConfigCacheReport {
            entries: cache.entries as u64,
            served: cache.served,
            away_ms: cache.away_for.map(millis),
        });
        let sent = within(self.store.report(&self.report, self.ttl)).await;
        match (&sent, self.failing) {
            (Ok(()), false) => {}
            (Ok(()), true) => tracing::info!("the store takes reports again"),
            (Err(reason), false) => {
                tracing::warn!(
                    reason,
                    "cannot report to the store: proofs of freshness stop to count 10 s after the last report, and requests \
                     are refused when their bound has passed then"
                );
            }
            (Err(reason), true) => tracing::debug!(reason, "still cannot report to the store"),
        }
        self.failing = sent.is_err();
        if self.failing {
            self.health.reports_failed.fetch_add(1, Ordering::Relaxed);
        }
        if sent.is_ok() {
            self.presence.taken();
        }
        sent.is_ok()
    }
}

/// The outcome within [`TIMEOUT`]; an error comes with its causes.
async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl(bounds: &[MaxStaleness]) -> u64 {
        let per_permission = bounds.iter().map(|bound| ("configs:read".parse().expect("a permission"), *bound));
        let freshness = FreshnessConfig {
            probe_interval: Duration::from_secs(1),
            max_staleness: MaxStaleness::Within(Duration::from_secs(5)),
            per_permission: per_permission.collect(),
        };
        report_ttl(&freshness).as_secs()
    }

    #[test]
    fn a_report_is_kept_as_long_as_its_sidecar_could_serve_without_the_store() {
        assert_eq!(ttl(&[]), 25);
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        assert_eq!(ttl(&[MaxStaleness::Within(minute), MaxStaleness::Within(hour)]), 3610);
        assert_eq!(ttl(&[MaxStaleness::Within(minute), MaxStaleness::Never]), 86_410);
    }
}

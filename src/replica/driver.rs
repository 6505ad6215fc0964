//! Runs the [`Synchroniser`] against a store: notices, reads, timers, and what the log says of it.

mod fetch;
mod recall;
mod vanished;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use self::fetch::Fetch;
use self::recall::Recalls;
use self::vanished::Vanished;
use super::Replica;
use super::presence::Presence;
use super::sync::{Finding, Input, Read, Remedy, Synchroniser, Table};
use crate::backoff::{Backoff, jitter};
use crate::chain::chain;
use crate::clock::{Instant, Timer};
use crate::lock::Mutex;
use crate::store::{
    Bookmark, Epoch, Feed, LogEntry, NoRegistry, Notice, Position, RECALLS_TAKEN, Revision, SnapshotItem, StoreError,
    Subject,
};

/// Over how long a fleet that has to read everything again spreads it: for each grant as long as a Redis takes that sends it
/// to some hundred sidecars, and no longer than this.
const SPREAD_PER_GRANT: Duration = Duration::from_micros(60);
const SPREAD: Duration = Duration::from_secs(15);

/// The waits between attempts.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), last: Duration::from_millis(600) };

/// Keeps the replica at the store's position until `shutdown` completes.
///
/// It asks for the position every `probe_interval`, and proves the replica fresh by it. It ends only by `shutdown` and
/// may be dropped at any point: the replica then stays as it is, and grows stale.
pub async fn run(
    replica: Arc<Replica>,
    store: Arc<dyn Feed>,
    probe_interval: Duration,
    shutdown: impl Future<Output = ()> + Send,
) {
    resume(replica, store, Synchroniser::new(), probe_interval, Duration::ZERO, None, shutdown).await;
}

/// As [`run`], going on from where the replica was brought already. With a [`Presence`], only those proofs count that were
/// made while the store knew of this sidecar. Everything is served for `bound` after a proof: a fraction of that may pass
/// before a snapshot that all of a fleet need.
pub async fn resume(
    replica: Arc<Replica>,
    store: Arc<dyn Feed>,
    machine: Synchroniser,
    probe_interval: Duration,
    bound: Duration,
    presence: Option<Arc<Presence>>,
    shutdown: impl Future<Output = ()> + Send,
) {
    // Before the first read: what is committed from here on is notified.
    let mut watch = store.watch();
    let mut shutdown = pin!(shutdown);
    let mut driver = Driver::new(&replica, &*store, machine, probe_interval, bound, presence.as_deref());
    let timer = Timer::new();
    loop {
        let input = tokio::select! {
            biased;
            () = &mut shutdown => return,
            // First: what was announced before the position was answered is here before it.
            notice = watch.next() => match notice {
                Notice::Advanced { epoch, revision, takes_away } => {
                    driver.fetch.notice(epoch, revision, takes_away, tokio::time::Instant::now());
                    continue;
                }
                notice => Input::Notice(notice),
            },
            outcome = outcome_of(&mut driver.reading) => driver.receive(outcome),
            () = driver.recalls.written() => continue,
            () = driver.vanished.answered() => continue,
            () = driver.fetch.is_due() => match driver.fetch.take(driver.machine.position()) {
                true => Input::Notice(Notice::Moved),
                false => continue,
            },
            () = renewed(driver.presence), if driver.known_since.is_none() => Input::Tick,
            () = timer.until(driver.next_probe) => Input::Tick,
        };
        driver.handle(input, Instant::now());
    }
}

/// Waits until the store has taken a report; forever where none is made.
async fn renewed(presence: Option<&Presence>) {
    match presence {
        Some(presence) => presence.renewed().await,
        None => std::future::pending().await,
    }
}

/// A read that is under way.
type Reading<'a> = Pin<Box<dyn Future<Output = Result<Answer, ReadError>> + Send + 'a>>;

/// What a read brought.
struct Answer {
    input: Input,
    /// Of a position: whether the store knew of this sidecar, or need not.
    is_known: bool,
}

impl From<Input> for Answer {
    fn from(input: Input) -> Self {
        Self { input, is_known: true }
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{0} tokens are recalled in it, of which sidecars take {RECALLS_TAKEN}")]
    TooManyRecalls(u64),
}

/// Why a read failed, as far as it matters to whoever reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    NoAnswer,
    Unusable,
    NoRegistry,
    TooManyRecalls,
}

impl ReadError {
    fn kind(&self) -> Failure {
        match self {
            Self::Store(StoreError::NoRegistry { .. }) => Failure::NoRegistry,
            Self::Store(StoreError::Unusable { .. }) => Failure::Unusable,
            Self::Store(
                StoreError::Unavailable { .. } | StoreError::Frozen { .. } | StoreError::DamagedRecord { .. },
            )
            | Self::TimedOut(_) => Failure::NoAnswer,
            Self::TooManyRecalls(_) => Failure::TooManyRecalls,
        }
    }

    /// What is there instead of a registry.
    fn found(&self) -> String {
        match self {
            Self::Store(StoreError::NoRegistry { found, .. }) => found.to_string(),
            _ => String::new(),
        }
    }
}

/// Waits for the read that is under way; forever if there is none. Cancelled, it goes on the next time.
async fn outcome_of(reading: &mut Option<Reading<'_>>) -> Result<Answer, ReadError> {
    match reading {
        Some(under_way) => {
            let outcome = under_way.await;
            *reading = None;
            outcome
        }
        None => std::future::pending().await,
    }
}

struct Driver<'a> {
    replica: &'a Replica,
    store: &'a dyn Feed,
    machine: Synchroniser,
    probe_interval: Duration,
    bound: Duration,
    /// The replica was complete before.
    was_complete: bool,
    next_probe: Instant,
    reading: Option<Reading<'a>>,
    /// When the position was asked for, if that is what is being read.
    asked_at: Option<Instant>,
    presence: Option<&'a Presence>,
    /// When the first of those positions was asked for, up to and with the last one, that the store answered while it knew of
    /// this sidecar.
    known_since: Option<Instant>,
    /// Up to when all recalls are known.
    recalls_as_of: Option<Instant>,
    /// Where a snapshot that broke off goes on.
    bookmark: Arc<Mutex<Option<Bookmark>>>,
    recalls: Recalls<'a>,
    vanished: Vanished<'a>,
    fetch: Fetch,
    /// Attempts since the replica was last confirmed.
    attempts: u32,
    /// Reads fail, or did until a moment ago.
    failing: Option<Failing>,
}

/// Reads of the store fail: one outage, until the replica has been confirmed and none has failed for [`SETTLED`]. (Some kinds may
/// fail while others are answered, again and again.)
struct Failing {
    since: Instant,
    latest: Instant,
    /// Said, each once.
    logged: Vec<Failure>,
}

/// After so long without a failure an outage is over.
const SETTLED: Duration = Duration::from_secs(3);

impl<'a> Driver<'a> {
    fn new(
        replica: &'a Replica,
        store: &'a dyn Feed,
        machine: Synchroniser,
        probe_interval: Duration,
        bound: Duration,
        presence: Option<&'a Presence>,
    ) -> Self {
        let (recalls, next_probe) = (Recalls::new(replica, store), Instant::now());
        let (reading, asked_at, bookmark, attempts, failing) = (None, None, Arc::default(), 0, None);
        Self {
            replica,
            store,
            machine,
            probe_interval,
            bound,
            was_complete: false,
            next_probe,
            reading,
            asked_at,
            presence,
            known_since: None,
            recalls_as_of: None,
            bookmark,
            recalls,
            vanished: Vanished::new(replica, store),
            fetch: Fetch::default(),
            attempts,
            failing,
        }
    }

    /// Turns the outcome of a read into an event, and says when the store goes away and comes back.
    fn receive(&mut self, outcome: Result<Answer, ReadError>) -> Input {
        let asked_at = self.asked_at.take();
        match outcome {
            Ok(Answer { input, is_known }) => {
                if let Input::Position(probe) = &input {
                    self.known_since = self.known_since.or(asked_at).filter(|_| is_known);
                    self.recalls_as_of = self.recalls_as_of.max(self.recalls.as_of(probe.recalls, asked_at));
                }
                input
            }
            Err(error) => {
                self.replica.reads_failed.fetch_add(1, Ordering::Relaxed);
                self.log_failure(&error);
                Input::Failed
            }
        }
    }

    /// Logs why reads fail: once for each kind of reason, as a store that comes back empty was away before.
    fn log_failure(&mut self, error: &ReadError) {
        let (store, reason, kind) = (self.store.describe(), chain(error), error.kind());
        let now = Instant::now();
        let failing = self.failing.get_or_insert_with(|| Failing { since: now, latest: now, logged: Vec::new() });
        failing.latest = now;
        if failing.logged.contains(&kind) {
            tracing::debug!(store, reason, "the store still does not answer");
            return;
        }
        failing.logged.push(kind);
        match kind {
            Failure::NoAnswer => {
                tracing::warn!(store, reason, "the store does not answer: the replica is growing stale");
            }
            Failure::Unusable => {
                tracing::error!(store, reason, "the store cannot be used: the replica is growing stale");
            }
            Failure::TooManyRecalls => {
                tracing::error!(
                    store,
                    reason,
                    "which tokens are recalled cannot be determined: the replica is growing stale until a tollgate command that \
                     changes something has settled them"
                );
            }
            Failure::NoRegistry if self.replica.status().owners > 0 => {
                let found = error.found();
                tracing::error!(
                    store,
                    found,
                    "the registry is gone: restore it from a backup; until then the replica stays as it is and grows stale"
                );
            }
            Failure::NoRegistry => {
                tracing::error!(store, reason, "there is no registry: nobody is let in until there is")
            }
        }
    }

    fn handle(&mut self, input: Input, now: Instant) {
        if input == Input::Tick {
            self.next_probe = now + self.probe_interval;
        }
        if input == Input::Notice(Notice::Lost) {
            self.recalls.doubt();
            self.replica.notices_lost.fetch_add(1, Ordering::Relaxed);
        }
        if let Input::Position(probe) = &input {
            let goes_on = |mark: &mut Bookmark| {
                mark.position.epoch == probe.position.epoch && mark.position.revision <= probe.position.revision
            };
            let mut bookmark = self.bookmark();
            *bookmark = bookmark.take_if(goes_on);
        }
        let (failed, is_answered) = (input == Input::Failed, matches!(input, Input::Position(_)));
        let mut writer = ReplicaTable {
            replica: self.replica,
            counts_from: self.known_since,
            counts_until: self.recalls_as_of,
            confirmed: None,
        };
        let step = self.machine.on(input, now, &mut writer);
        if let Some(as_of) = writer.confirmed {
            self.attempts = 0;
            if let Some(Failing { since, latest, .. }) = self.failing.take_if(|it| it.latest.elapsed() >= SETTLED) {
                let seconds = latest.duration_since(since).as_secs();
                tracing::info!(store = self.store.describe(), seconds, "the store answers again");
            }
            if self.machine.is_caught_up() {
                self.recalls.check(as_of);
            }
        }
        if is_answered {
            self.vanished.check();
        }
        let position = self.machine.position();
        self.replica.set_position(position);
        self.was_complete |= position.is_some();
        let is_lost = step.findings.iter().any(|finding| finding.remedy() != Remedy::None);
        let is_late = |finding: &Finding| matches!(finding, Finding::LogTruncated(_));
        if is_lost {
            match step.findings.iter().any(is_late) {
                // The store has lost nothing.
                true => self.recalls.doubt(),
                false => self.recalls.begin(),
            }
            self.bookmark().take();
        }
        for finding in step.findings {
            self.report(finding);
        }
        if let Some(read) = step.read {
            self.asked_at = (read == Read::Position).then_some(now);
            if matches!(read, Read::Changes { .. }) {
                self.fetch.read(tokio::time::Instant::now());
            }
            self.reading = Some(self.start(read));
        } else if failed || is_lost {
            self.attempts = self.attempts.saturating_add(1);
            self.next_probe = self.next_probe.min(now + BACKOFF.wait(self.attempts));
        }
    }

    fn bookmark(&self) -> MutexGuard<'_, Option<Bookmark>> {
        self.bookmark.lock()
    }

    fn report(&self, finding: Finding) {
        let store = self.store.describe();
        match finding.remedy() {
            Remedy::None => {}
            Remedy::Repair => drop(self.replica.forks.fetch_add(1, Ordering::Relaxed)),
            Remedy::Snapshot => drop(self.replica.resyncs.fetch_add(1, Ordering::Relaxed)),
        }
        match finding {
            Finding::Synced(position) => {
                let (revision, epoch) = (position.revision.0, position.epoch.to_string());
                let (grants, suppressed) = (self.replica.grants.len(), self.replica.suppressed().len());
                tracing::info!(store, epoch, revision, grants, suppressed, "the replica is complete");
            }
            Finding::Diverged(_) => {
                self.replica.divergences.fetch_add(1, Ordering::Relaxed);
                tracing::error!(store, reason = %finding, "reading the store's snapshot again");
            }
            Finding::Contradiction(_) => {
                tracing::error!(store, reason = %finding, "the store is damaged: restore it or repair its entries");
            }
            Finding::Regressed { .. } | Finding::Forked(_) => {
                tracing::warn!(store, reason = %finding, "reading again what the lost writes were about");
            }
            Finding::OtherEpoch(_)
            | Finding::NoCommonAncestor
            | Finding::LogTruncated(_)
            | Finding::LogIncomplete(_)
            | Finding::Unproven(_) => {
                tracing::warn!(store, reason = %finding, "reading the store's snapshot again");
            }
        }
    }

    /// How long to wait before everything is read again. Who has nothing to serve, or a part of it already, does not.
    fn turn(&self) -> Duration {
        if !self.was_complete || self.bookmark().is_some() {
            return Duration::ZERO;
        }
        let staleness = self.replica.staleness(Instant::now()).unwrap_or(Duration::MAX);
        wait_for_turn(self.replica.grants.len(), self.bound.saturating_sub(staleness))
    }

    fn start(&self, read: Read) -> Reading<'a> {
        let (replica, store, presence) = (self.replica, self.store, self.presence);
        let probe_timeout = (self.probe_interval * 2).max(Duration::from_secs(1));
        let (progress, until) = (Arc::clone(&self.recalls.progress), Instant::now() + self.probe_interval);
        match read {
            Read::Position => Box::pin(async move {
                let left = async {
                    match presence {
                        Some(presence) => {
                            let left = within(probe_timeout, store.report_left(presence.sidecar)).await;
                            presence.is_known(left.unwrap_or_default())
                        }
                        None => true,
                    }
                };
                let (probe, is_known) = tokio::join!(within(probe_timeout, store.probe()), left);
                let probe = probe?;
                check(store, &probe.position)?;
                recall::read(replica, store, &progress, &probe, until).await?;
                Ok(Answer { input: Input::Position(probe), is_known })
            }),
            Read::Changes { after } => Box::pin(async move {
                let changes = store.changes(after).await?;
                Ok(Input::Changes(changes).into())
            }),
            Read::Ancestor { latest, heads } => Box::pin(async move {
                let ancestor = store.ancestor(latest, &heads).await?;
                Ok(Input::Ancestor(ancestor).into())
            }),
            Read::Items(subjects) => Box::pin(async move {
                let items = store.items(&subjects).await?;
                Ok(Input::Items(items).into())
            }),
            Read::Snapshot => {
                let (bookmark, wait) = (Arc::clone(&self.bookmark), self.turn());
                Box::pin(async move {
                    tokio::time::sleep(wait).await;
                    read_snapshot(replica, store, bookmark).await
                })
            }
        }
    }
}

/// How long one of a fleet that have to read so many grants again waits for its turn, while everything is served for so
/// long yet.
fn wait_for_turn(grants: usize, served: Duration) -> Duration {
    let spread = SPREAD_PER_GRANT.saturating_mul(u32::try_from(grants).unwrap_or(u32::MAX));
    jitter(spread.min(SPREAD).min(served / 4))
}

/// For the position, which proves nothing once it is late. All else is given up by the store, where it no longer arrives.
async fn within<T>(limit: Duration, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, ReadError> {
    match tokio::time::timeout(limit, read).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(ReadError::TimedOut(limit)),
    }
}

/// Merges a snapshot into the replica, from the bookmark on.
async fn read_snapshot(
    replica: &Replica,
    store: &dyn Feed,
    bookmark: Arc<Mutex<Option<Bookmark>>>,
) -> Result<Answer, ReadError> {
    let mut mark = bookmark.lock().take();
    let mut narrowed = false;
    let outcome = store.snapshot(&mut mark, &mut |item| narrowed |= replica.merge(&item)).await;
    // Whether it came to its end or not: what it narrowed is narrowed.
    replica.announce(narrowed);
    *bookmark.lock() = mark.filter(|_| outcome.is_err());
    let position = outcome?;
    check(store, &position)?;
    Ok(Input::Snapshot { position, checksum: replica.checksum() }.into())
}

/// A store without a single commit holds no registry, whatever else it holds: `init` was broken off in it, or it lost
/// everything. Its word proves nothing.
fn check(store: &dyn Feed, position: &Position) -> Result<(), StoreError> {
    if position.revision > Revision(0) {
        return Ok(());
    }
    Err(StoreError::NoRegistry { store: store.describe(), found: NoRegistry::NoCommit })
}

/// The replica, as the state machine writes it.
struct ReplicaTable<'a> {
    replica: &'a Replica,
    /// Proofs count from this moment on; `None`: none does.
    counts_from: Option<Instant>,
    /// And up to this one.
    counts_until: Option<Instant>,
    /// The latest moment as of which it was proven.
    confirmed: Option<Instant>,
}

impl Table for ReplicaTable<'_> {
    fn apply(&mut self, entry: &LogEntry, now: Instant) -> u64 {
        tracing::debug!(revision = entry.revision.0, changes = entry.changes.len(), "applying a commit");
        self.replica.apply(entry, now)
    }

    fn revoke(&mut self, entry: &LogEntry, now: Instant) {
        self.replica.revoke(entry, now);
    }

    fn anticipate(&mut self, epoch: Epoch, entry: &LogEntry, now: Instant) {
        self.replica.anticipate(epoch, entry, now);
    }

    fn repair(&mut self, subjects: &[Subject], found: &[SnapshotItem], _now: Instant) -> u64 {
        tracing::debug!(subjects = subjects.len(), found = found.len(), "making up for lost writes");
        self.replica.repair(subjects, found)
    }

    fn sweep(&mut self) {
        self.replica.sweep();
    }

    fn confirm(&mut self, as_of: Instant) {
        self.replica.reach(as_of);
        let Some((from, until)) = self.counts_from.zip(self.counts_until) else { return };
        let as_of = as_of.min(until);
        if as_of < from {
            return;
        }
        self.confirmed = self.confirmed.max(Some(as_of));
        self.replica.confirm(as_of);
    }
}

#[cfg(test)]
mod tests;

//! Sidecars without listeners: the project's own store, synchroniser, replica and reports, a thousand of them in one process.
//!
//! Everything that a sidecar says to Redis, and hears from it, is real, on a connection of its own. Only memory would not
//! reach: most tokens are *hidden* from the replicas, on their way out of the store. None of those is ever changed, so
//! that their part of the checksum is known for every revision: it is taken out of what the store states.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tollgate::clock::Instant;
use tollgate::fleet::{self, Reporter};
use tollgate::health::Health;
use tollgate::proxy::FailedAuthLimit;
use tollgate::replica::presence::Presence;
use tollgate::replica::sync::Synchroniser;
use tollgate::replica::{FreshnessConfig, MaxStaleness, Replica, SidecarIdentity, driver};
use tollgate::store::{
    self, Absent, Bookmark, Change, Changes, Feed, Head, LogEntry, Notice, Position, Probe, RecalledPage,
    RecalledPlace, Revision, Settings, SidecarId, SnapshotItem, StoreError, Subject, Watch,
};
use tollgate::token::Digest;

/// As sidecars come.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// As sidecars come.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(60);

/// One of so many tokens is not hidden.
const SHOWN: usize = 256;

/// Whether replicas here do without this token.
pub(crate) fn is_hidden(digest: &Digest) -> bool {
    digest.as_bytes()[0] != 0
}

/// An item of a snapshot, unless it is hidden.
fn shown(item: SnapshotItem) -> Option<SnapshotItem> {
    match item {
        SnapshotItem::Begin(count) => Some(SnapshotItem::Begin(count / SHOWN)),
        SnapshotItem::Grant(digest, _) if is_hidden(&digest) => None,
        item => Some(item),
    }
}

/// The hidden tokens' part of the checksum, by the revision from which on it is so. One for all sidecars, which read the log
/// for themselves besides.
pub(crate) struct Hidden {
    feed: Arc<dyn Feed>,
    sums: Mutex<BTreeMap<Revision, u64>>,
}

/// What a sidecar's snapshot file would hold.
pub(crate) struct Seed {
    position: Position,
    items: Vec<SnapshotItem>,
}

impl Hidden {
    /// Reads everything once: nothing may be committed meanwhile.
    pub(crate) async fn read(settings: &Settings) -> (Arc<Self>, Seed) {
        let store = store::open(settings, Absent::Refuse).await.expect("opens");
        let (mut sum, mut items) = (0, Vec::new());
        let mut sink = |item| {
            if let SnapshotItem::Grant(digest, grant) = &item
                && is_hidden(digest)
            {
                sum ^= grant.fingerprint(digest);
            }
            items.extend(shown(item));
        };
        let position = store.snapshot(&mut None, &mut sink).await.expect("reads");
        let hidden = Self { feed: store, sums: Mutex::new([(position.revision, sum)].into()) };
        (Arc::new(hidden), Seed { position: Position { checksum: position.checksum ^ sum, ..position }, items })
    }

    /// The sum at a revision. Reads the log up to there if nobody has yet.
    async fn at(&self, revision: Revision) -> Result<u64, StoreError> {
        let mut sums = self.sums.lock().await;
        loop {
            let (last, mut sum) = sums.last_key_value().map(|(last, sum)| (*last, *sum)).expect("it begins with one");
            if revision <= last {
                // Before the first one, nothing was hidden that is not still.
                let known = sums.range(..=revision).next_back().or_else(|| sums.first_key_value());
                return Ok(known.map_or(0, |(_, sum)| *sum));
            }
            let (Changes::Entries(entries) | Changes::Page(entries)) = self.feed.changes(last).await? else {
                panic!("the log no longer goes back to revision {last}");
            };
            assert!(!entries.is_empty(), "revision {revision} was told, and the log ends at {last}");
            for entry in entries {
                for change in &entry.changes {
                    match change {
                        Change::PutGrant(digest, grant) if is_hidden(digest) => sum ^= grant.fingerprint(digest),
                        Change::RemoveGrant(digest) => assert!(!is_hidden(digest), "a hidden token was changed"),
                        _ => {}
                    }
                }
                sums.insert(entry.revision, sum);
            }
        }
    }

    /// What is left of it for the replicas here.
    async fn without(&self, position: Position) -> Result<Position, StoreError> {
        Ok(Position { checksum: position.checksum ^ self.at(position.revision).await?, ..position })
    }

    async fn strip(&self, entry: &mut LogEntry) -> Result<(), StoreError> {
        entry.checksum ^= self.at(entry.revision).await?;
        entry.changes.retain(|change| !matches!(change, Change::PutGrant(digest, _) if is_hidden(digest)));
        Ok(())
    }
}

/// What a sidecar's replica follows, without what is hidden.
struct Lean {
    feed: Arc<dyn Feed>,
    hidden: Arc<Hidden>,
}

#[async_trait]
impl Feed for Lean {
    async fn probe(&self) -> Result<Probe, StoreError> {
        let probe = self.feed.probe().await?;
        Ok(Probe { position: self.hidden.without(probe.position).await?, ..probe })
    }

    async fn report_left(&self, sidecar: SidecarId) -> Result<Option<Duration>, StoreError> {
        self.feed.report_left(sidecar).await
    }

    async fn snapshot(
        &self,
        bookmark: &mut Option<Bookmark>,
        sink: &mut (dyn FnMut(SnapshotItem) + Send),
    ) -> Result<Position, StoreError> {
        let mut seen = |item| {
            if let Some(item) = shown(item) {
                sink(item);
            }
        };
        let position = self.feed.snapshot(bookmark, &mut seen).await?;
        self.hidden.without(position).await
    }

    async fn changes(&self, after: Revision) -> Result<Changes, StoreError> {
        let mut changes = self.feed.changes(after).await?;
        if let Changes::Entries(entries) | Changes::Page(entries) = &mut changes {
            for entry in entries {
                self.hidden.strip(entry).await?;
            }
        }
        Ok(changes)
    }

    async fn ancestor(&self, latest: Revision, heads: &[Head]) -> Result<Option<Revision>, StoreError> {
        self.feed.ancestor(latest, heads).await
    }

    async fn items(&self, of: &[Subject]) -> Result<Vec<SnapshotItem>, StoreError> {
        Ok(self.feed.items(of).await?.into_iter().filter_map(shown).collect())
    }

    async fn removed(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.feed.removed(digests).await
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(LeanWatch { watch: self.feed.watch(), hidden: Arc::clone(&self.hidden), heard: None })
    }

    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.feed.recall(digests).await
    }

    async fn recalled(&self, from: Option<&RecalledPlace>) -> Result<RecalledPage, StoreError> {
        self.feed.recalled(from).await
    }

    fn describe(&self) -> String {
        self.feed.describe()
    }
}

/// Notices, without what is hidden.
struct LeanWatch {
    watch: Box<dyn Watch>,
    hidden: Arc<Hidden>,
    /// Taken from the watch, and not yet told: the wait may be dropped half-way.
    heard: Option<Notice>,
}

#[async_trait]
impl Watch for LeanWatch {
    async fn next(&mut self) -> Notice {
        if self.heard.is_none() {
            self.heard = Some(self.watch.next().await);
        }
        if let Some(Notice::Committed { epoch, entry }) = &self.heard {
            let (epoch, mut entry) = (*epoch, LogEntry::clone(entry));
            self.heard = Some(match self.hidden.strip(&mut entry).await {
                Ok(()) => Notice::Committed { epoch, entry: Arc::new(entry) },
                Err(_) => Notice::Lost,
            });
        }
        self.heard.take().unwrap_or(Notice::Lost)
    }
}

/// A sidecar without listeners. It ends, as a crash does, when it is dropped.
pub(crate) struct Simulated {
    pub(crate) replica: Arc<Replica>,
    tasks: [JoinHandle<()>; 2],
}

impl Simulated {
    /// Starts from a snapshot file, or with nothing.
    pub(crate) async fn start(number: usize, settings: &Settings, hidden: &Arc<Hidden>, seed: Option<&Seed>) -> Self {
        let replica = Arc::new(Replica::new());
        let machine = match seed {
            Some(Seed { position, items }) => {
                replica.begin_merge();
                items.iter().for_each(|item| _ = replica.merge(item));
                Synchroniser::resumed(*position, replica.checksum())
            }
            None => Synchroniser::new(),
        };
        let store = store::open(settings, Absent::Await).await.expect("can be used");
        let lean = Lean { feed: store.clone(), hidden: Arc::clone(hidden) };
        let freshness = FreshnessConfig {
            probe_interval: PROBE_INTERVAL,
            max_staleness: MaxStaleness::Within(MAX_STALENESS),
            per_permission: Vec::new(),
        };
        let presence = Arc::new(Presence::new(
            SidecarIdentity::take(None).expect("no file").id,
            fleet::min_report_ttl(&freshness),
        ));
        let health = Health::new(Arc::clone(&replica), freshness.max_staleness, FailedAuthLimit::default(), None);
        let reporter = Reporter::new(
            store.clone(),
            Arc::new(health),
            format!("simulated-{number}"),
            None,
            Arc::clone(&presence),
            None,
            fleet::report_ttl(&freshness),
        );
        let reporting = async move {
            let (_stays, leave) = tokio::sync::oneshot::channel();
            reporter.run(leave).await;
        };
        let forever = std::future::pending();
        let driving = driver::resume(
            Arc::clone(&replica),
            Arc::new(lean),
            machine,
            PROBE_INTERVAL,
            MAX_STALENESS,
            Some(presence),
            forever,
        );
        Self { replica, tasks: [tokio::spawn(reporting), tokio::spawn(driving)] }
    }

    /// Whether it holds what the store has at this position, as was proven at some time after `since`.
    pub(crate) fn is_level(&self, position: Position, since: Instant) -> bool {
        let is_there = self.replica.position().borrow().is_some_and(|held| held.head == position.head);
        is_there && self.is_fresh(since)
    }

    /// Whether it has been proven fresh since then.
    pub(crate) fn is_fresh(&self, since: Instant) -> bool {
        self.replica.proven().is_some_and(|proven| proven >= since)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

//! A store that can be taken away and given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use tollgate::store::{
    Agent, AuditLine, Batch, Bookmark, Changes, CommitError, CommitId, Committed, Feed, Head, Inventory, Items, Notice,
    Position, Probe, RecalledPage, RecalledPlace, Records, Report, Reported, Reports, Revision, SidecarId,
    SnapshotItem, Store, StoreError, Subject, TokenFilter, Trail, TrailEnds, TrailStep, Usage, Usages, Use, Versioned,
    Watch,
};
use tollgate::token::{Digest, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord};

/// What a broken store names itself as: no client may ever read that.
pub(crate) const SECRET_PLACE: &str = "sqlite:/secret/place";

/// Hands everything on to the real store, until it is broken: then every call fails and no notice comes.
pub(crate) struct FaultyStore {
    real: Arc<dyn Store>,
    broken: watch::Sender<bool>,
    /// Commits that still succeed.
    commits: AtomicUsize,
    /// Reports get no answer.
    deaf: AtomicBool,
    /// Probes that still panic.
    panics: AtomicUsize,
    /// How often users were asked for.
    user_reads: AtomicUsize,
}

impl FaultyStore {
    pub(crate) fn new(real: Arc<dyn Store>) -> Self {
        Self {
            real,
            broken: watch::Sender::new(false),
            commits: AtomicUsize::new(usize::MAX),
            deaf: AtomicBool::new(false),
            panics: AtomicUsize::new(0),
            user_reads: AtomicUsize::new(0),
        }
    }

    /// Takes the store away, or gives it back.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.send_replace(broken);
    }

    /// Lets this many commits through, and fails those that follow.
    pub(crate) fn fail_after(&self, commits: usize) {
        self.commits.store(commits, Ordering::Relaxed);
    }

    /// How often one user, or a page of them, was asked for.
    pub(crate) fn user_reads(&self) -> usize {
        self.user_reads.load(Ordering::Relaxed)
    }

    /// From now on reports, and what takes them back, get no answer.
    pub(crate) fn hang_at_reports(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    fn check_user_read(&self) -> Result<&dyn Store, StoreError> {
        self.user_reads.fetch_add(1, Ordering::Relaxed);
        self.check()
    }

    async fn hear(&self) -> Result<&dyn Store, StoreError> {
        match self.deaf.load(Ordering::Relaxed) {
            false => self.check(),
            true => std::future::pending().await,
        }
    }

    /// Makes so many probes panic from now on.
    pub(crate) fn panic_at_probes(&self, count: usize) {
        self.panics.store(count, Ordering::Relaxed);
    }

    /// Probes that are still to panic.
    pub(crate) fn panics_left(&self) -> usize {
        self.panics.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<&dyn Store, StoreError> {
        match *self.broken.borrow() {
            false => Ok(&*self.real),
            true => Err(broken()),
        }
    }
}

fn broken() -> StoreError {
    StoreError::Unavailable { operation: "a call", store: SECRET_PLACE.to_owned(), source: "broken by the test".into() }
}

#[async_trait]
impl Records for FaultyStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let one_less = |left: usize| left.checked_sub(1);
        match self.commits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => self.check()?.commit(batch).await,
            Err(_) => Err(broken().into()),
        }
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.check()?.position().await
    }

    async fn user(&self, id: UserId) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        self.check_user_read()?.user(id).await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        self.check_user_read()?.user_by_name(name).await
    }

    async fn schema(&self) -> Result<u32, StoreError> {
        self.check()?.schema().await
    }

    async fn token_set(&self, user: UserId) -> Result<Option<CommitId>, StoreError> {
        self.check()?.token_set(user).await
    }

    async fn users(&self, before: Option<UserId>, limit: usize) -> Result<Vec<Versioned<UserRecord>>, StoreError> {
        self.check_user_read()?.users(before, limit).await
    }

    async fn tokens_by_id(&self, ids: &[TokenId]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        self.check()?.tokens_by_id(ids).await
    }

    async fn tokens_by_digest(&self, digests: &[Digest]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        self.check()?.tokens_by_digest(digests).await
    }

    async fn tokens(
        &self,
        filter: TokenFilter,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<Versioned<TokenRecord>>, StoreError> {
        self.check()?.tokens(filter, before, limit).await
    }

    async fn count_tokens(&self, filter: TokenFilter) -> Result<u64, StoreError> {
        self.check()?.count_tokens(filter).await
    }

    async fn history(&self, id: TokenId) -> Result<Vec<HistoryEntry>, StoreError> {
        self.check()?.history(id).await
    }

    async fn retired(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.check()?.retired(digests).await
    }

    async fn settle_recalls(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.check()?.settle_recalls(digests).await
    }

    async fn dump(&self, items: Items) -> Result<Inventory, StoreError> {
        self.check()?.dump(items).await
    }

    async fn freeze(&self, reason: Option<&str>, only: Option<&str>) -> Result<bool, CommitError> {
        self.check()?.freeze(reason, only).await
    }

    async fn frozen(&self) -> Result<Option<String>, StoreError> {
        self.check()?.frozen().await
    }
}

#[async_trait]
impl Feed for FaultyStore {
    async fn probe(&self) -> Result<Probe, StoreError> {
        let one_less = |left: usize| left.checked_sub(1);
        let panics = self.panics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        assert!(!panics, "of the test");
        self.check()?.probe().await
    }

    async fn report_left(&self, sidecar: SidecarId) -> Result<Option<Duration>, StoreError> {
        self.check()?.report_left(sidecar).await
    }

    async fn snapshot(
        &self,
        bookmark: &mut Option<Bookmark>,
        sink: &mut (dyn FnMut(SnapshotItem) + Send),
    ) -> Result<Position, StoreError> {
        self.check()?.snapshot(bookmark, sink).await
    }

    async fn changes(&self, after: Revision) -> Result<Changes, StoreError> {
        self.check()?.changes(after).await
    }

    async fn ancestor(&self, latest: Revision, heads: &[Head]) -> Result<Option<Revision>, StoreError> {
        self.check()?.ancestor(latest, heads).await
    }

    async fn items(&self, of: &[Subject]) -> Result<Vec<SnapshotItem>, StoreError> {
        self.check()?.items(of).await
    }

    async fn removed(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.check()?.removed(digests).await
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(FaultyWatch { real: self.real.watch(), broken: self.broken.subscribe() })
    }

    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.check()?.recall(digests).await
    }

    async fn recalled(&self, from: Option<&RecalledPlace>) -> Result<RecalledPage, StoreError> {
        self.check()?.recalled(from).await
    }

    fn describe(&self) -> String {
        SECRET_PLACE.to_owned()
    }
}

#[async_trait]
impl Reports for FaultyStore {
    async fn report(&self, report: &Report, ttl: Duration) -> Result<(), StoreError> {
        self.hear().await?.report(report, ttl).await
    }

    async fn withdraw(&self, sidecar: SidecarId) -> Result<(), StoreError> {
        self.hear().await?.withdraw(sidecar).await
    }

    async fn sidecars(&self) -> Result<Vec<Reported>, StoreError> {
        self.check()?.sidecars().await
    }
}

#[async_trait]
impl Usage for FaultyStore {
    async fn record(&self, uses: &[Use]) -> Result<(), StoreError> {
        self.check()?.record(uses).await
    }

    async fn usage(&self, tokens: &[TokenId]) -> Result<Usages, StoreError> {
        self.check()?.usage(tokens).await
    }

    async fn last_used(&self, tokens: &[TokenId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.check()?.last_used(tokens).await
    }

    async fn agents(&self, tokens: &[TokenId], limit: usize) -> Result<Vec<Vec<Agent>>, StoreError> {
        self.check()?.agents(tokens, limit).await
    }
}

#[async_trait]
impl Trail for FaultyStore {
    async fn note(&self, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        self.check()?.note(entries).await
    }

    async fn trail_ends(&self, loose: usize) -> Result<TrailEnds, StoreError> {
        self.check()?.trail_ends(loose).await
    }

    async fn link(&self, step: &TrailStep) -> Result<bool, StoreError> {
        self.check()?.link(step).await
    }

    async fn trail_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.check()?.trail_after(seq, limit).await
    }

    async fn trail_before(&self, seq: Option<u64>, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.check()?.trail_before(seq, limit).await
    }

    async fn written_to(&self, place: &str) -> Result<Option<u64>, StoreError> {
        self.check()?.written_to(place).await
    }

    async fn set_written_to(&self, place: &str, seq: u64) -> Result<(), StoreError> {
        self.check()?.set_written_to(place, seq).await
    }
}

/// The notices of a store that may be broken.
struct FaultyWatch {
    real: Box<dyn Watch>,
    broken: watch::Receiver<bool>,
}

#[async_trait]
impl Watch for FaultyWatch {
    async fn next(&mut self) -> Notice {
        loop {
            // The sender lives as long as the store does; without it there is nothing to wait for.
            drop(self.broken.wait_for(|broken| !broken).await);
            let notice = self.real.next().await;
            if !*self.broken.borrow() {
                return notice;
            }
        }
    }
}

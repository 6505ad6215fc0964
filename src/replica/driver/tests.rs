//! The driver against real stores, one of them wrapped so that it can be taken away.

use std::path::PathBuf;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::replica::ReplicaStatus;
use crate::store::{
    Batch, Bookmark, Changes, Edit, Head, Position, Probe, RecalledPage, RecalledPlace, Records, Retention, Revision,
    SidecarId, SnapshotItem, SqliteStore, Subject, Watch,
};
use crate::token::{
    Digest, Grant, PermissionSet, Role, TokenId, TokenRecord, TokenState, UserId, UserRecord, UserStatus,
};

/// A wait this long means that what is waited for does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store that can fail, hang, or be replaced by another one.
struct Fragile {
    inner: Mutex<Arc<SqliteStore>>,
    mode: Mutex<Mode>,
    recalls: Mutex<Recalled>,
}

/// What sidecars left with the store, and how often they wrote and read.
#[derive(Default)]
struct Recalled {
    digests: Vec<Digest>,
    writes: usize,
    reads: usize,
    refused: bool,
    /// Which digests are removed it does not say.
    removed_refused: bool,
    /// More than there are.
    besides: u64,
    /// By how much the counter has moved on between a probe and a page.
    moved_on: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Works,
    Fails,
    Hangs,
}

impl Fragile {
    fn new(inner: SqliteStore, mode: Mode) -> Arc<Self> {
        let recalls = Mutex::new(Recalled::default());
        Arc::new(Self { inner: Mutex::new(Arc::new(inner)), mode: Mutex::new(mode), recalls })
    }

    fn recalls(&self) -> std::sync::MutexGuard<'_, Recalled> {
        self.recalls.lock()
    }

    fn refuse_removed(&self, refused: bool) {
        self.recalls().removed_refused = refused;
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    fn replace(&self, store: SqliteStore) {
        *self.inner.lock() = Arc::new(store);
    }

    fn inner(&self) -> Arc<SqliteStore> {
        Arc::clone(&self.inner.lock())
    }

    async fn working(&self) -> Result<Arc<SqliteStore>, StoreError> {
        let mode = *self.mode.lock();
        match mode {
            Mode::Works => Ok(self.inner()),
            Mode::Hangs => std::future::pending().await,
            Mode::Fails => {
                let (operation, store) = ("reading", "fragile".to_owned());
                Err(StoreError::Unavailable { operation, store, source: "taken away".into() })
            }
        }
    }
}

#[async_trait]
impl Feed for Fragile {
    async fn probe(&self) -> Result<Probe, StoreError> {
        // Read before the position, as any moment during the probe will do.
        let (recalls, recalled) = {
            let recalls = self.recalls();
            (recalls.digests.len() as u64, recalls.digests.len() as u64 + recalls.besides)
        };
        Ok(Probe { recalls, recalled, ..self.working().await?.probe().await? })
    }

    async fn report_left(&self, sidecar: SidecarId) -> Result<Option<Duration>, StoreError> {
        self.working().await?.report_left(sidecar).await
    }

    async fn snapshot(
        &self,
        bookmark: &mut Option<Bookmark>,
        sink: &mut (dyn FnMut(SnapshotItem) + Send),
    ) -> Result<Position, StoreError> {
        self.working().await?.snapshot(bookmark, sink).await
    }

    async fn changes(&self, after: Revision) -> Result<Changes, StoreError> {
        self.working().await?.changes(after).await
    }

    async fn ancestor(&self, latest: Revision, heads: &[Head]) -> Result<Option<Revision>, StoreError> {
        self.working().await?.ancestor(latest, heads).await
    }

    async fn items(&self, of: &[Subject]) -> Result<Vec<SnapshotItem>, StoreError> {
        self.working().await?.items(of).await
    }

    async fn removed(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        let store = self.working().await?;
        if self.recalls().removed_refused {
            let (store, problem) = ("fragile".to_owned(), "may not".into());
            return Err(StoreError::Unusable { store, problem });
        }
        store.removed(digests).await
    }

    fn watch(&self) -> Box<dyn Watch> {
        self.inner().watch()
    }

    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.working().await?;
        let mut recalls = self.recalls();
        recalls.writes += 1;
        if recalls.refused {
            let (operation, store) = ("recalling", "fragile".to_owned());
            return Err(StoreError::Unavailable { operation, store, source: "may not".into() });
        }
        recalls.digests.extend_from_slice(digests);
        Ok(())
    }

    /// Two on a page.
    async fn recalled(&self, from: Option<&RecalledPlace>) -> Result<RecalledPage, StoreError> {
        self.working().await?;
        let mut recalls = self.recalls();
        recalls.reads += 1;
        let first = from.map_or(0, |place| usize::from(place.0[0]));
        let digests: Vec<_> = recalls.digests.iter().skip(first).take(2).copied().collect();
        let next = first + digests.len();
        let next = (next < recalls.digests.len()).then(|| RecalledPlace(vec![u8::try_from(next).expect("few")]));
        let total = recalls.digests.len() as u64;
        Ok(RecalledPage {
            total,
            recalls: total + recalls.moved_on,
            begins: first == 0,
            digests,
            is_last: next.is_none(),
            next,
        })
    }

    fn describe(&self) -> String {
        "fragile".to_owned()
    }
}

/// A folder with SQLite stores.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn open(&self, name: &str) -> SqliteStore {
        SqliteStore::open(&self.path(name), Retention::default()).await.expect("opens")
    }

    /// One with a commit: without any it holds no registry.
    async fn begun(&self, name: &str) -> SqliteStore {
        let store = self.open(name).await;
        store.commit(Batch::default()).await.expect("commits");
        store
    }
}

/// A replica with its driver.
struct Running {
    replica: Arc<Replica>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(store: Arc<dyn Feed>, probe_interval: Duration) -> Self {
        let replica = Arc::new(Replica::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let task = tokio::spawn(run(Arc::clone(&replica), store, probe_interval, shutdown));
        Self { replica, stop, task }
    }

    /// With what the store had at first.
    async fn on<F: Feed>(store: &Arc<F>, probe_interval: Duration) -> Self {
        let running = Self::start(Arc::clone(store) as Arc<dyn Feed>, probe_interval);
        running.ready().await;
        running
    }

    async fn ready(&self) {
        tokio::time::timeout(PATIENCE, self.replica.ready()).await.expect("ready");
    }

    /// Waits until the replica is so; looks at it each time that its position changed.
    async fn until(&self, condition: impl Fn(&ReplicaStatus) -> bool) -> ReplicaStatus {
        let mut position = self.replica.position();
        let reached = async {
            while !condition(&self.replica.status()) {
                position.changed().await.expect("the replica lives");
            }
            self.replica.status()
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("comes to be so")
    }

    /// Waits until the replica is so; looks at it with each proof.
    async fn until_proven(&self, condition: impl Fn(&ReplicaStatus) -> bool) {
        let reached = async {
            while !condition(&self.replica.status()) {
                self.replica.confirmed.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("comes to be so");
    }

    async fn reaches(&self, revision: Revision) {
        self.until(|status| status.position.is_some_and(|position| position.revision >= revision)).await;
    }

    fn knows(&self, token: &TokenRecord) -> bool {
        self.replica.lookup(&token.digest).is_some()
    }

    async fn stop(self) {
        self.stop.send(()).expect("runs");
        self.task.await.expect("ends by itself");
    }
}

fn user() -> UserRecord {
    let now = Timestamp::now();
    let (id, name) = (UserId::generate(now), "anna".to_owned());
    UserRecord { id, name, role: Role::Manager, status: UserStatus::Active, created_at: now }
}

fn token(owner: &UserRecord, secret: &[u8]) -> TokenRecord {
    let now = Timestamp::now();
    TokenRecord {
        id: TokenId::generate(now),
        digest: Digest::of(secret),
        owner: owner.id,
        description: "a test's".to_owned(),
        permissions: PermissionSet::TELEGRAF_AGENT,
        state: TokenState::Active,
        hint: String::new(),
        created_at: now,
        created_by: "cli:test".to_owned(),
        expires_at: None,
        predecessor: None,
        successor: None,
    }
}

async fn create(store: &dyn Records, users: &[&UserRecord], tokens: &[&TokenRecord]) -> Revision {
    let users = users.iter().map(|user| Edit::Create((*user).clone())).collect();
    let tokens = tokens.iter().map(|token| Edit::Create((*token).clone())).collect();
    store.commit(Batch { users, tokens, ..Batch::default() }).await.expect("commits").position.revision
}

async fn revoke(store: &dyn Records, token: &TokenRecord) -> Revision {
    let read = store.tokens_by_id(&[token.id]).await.expect("reads");
    let before = read.into_iter().next().flatten().expect("exists");
    let state = TokenState::Revoked { at: Timestamp::now(), by: "cli:test".to_owned() };
    let after = TokenRecord { state, ..before.record.clone() };
    let batch = Batch { tokens: vec![Edit::Update { before, after }], ..Batch::default() };
    store.commit(batch).await.expect("commits").position.revision
}

async fn eventually(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.expect("comes to be so");
}

const SOON: Duration = Duration::from_millis(200);

/// Longer than any test: what happens without a probe happens by notices.
const NEVER: Duration = Duration::from_secs(600);

#[tokio::test]
async fn what_another_process_commits_arrives_without_a_probe() {
    let folder = Folder::new();
    let (ours, theirs) = (folder.open("store").await, folder.open("store").await);
    let anna = user();
    let first = token(&anna, b"first");
    create(&theirs, &[&anna], &[&first]).await;

    let running = Running::start(Arc::new(ours), NEVER);
    running.ready().await;
    assert!(running.knows(&first));
    assert!(running.replica.staleness(Instant::now()).is_some_and(|staleness| staleness < PATIENCE));

    let second = token(&anna, b"second");
    running.reaches(create(&theirs, &[], &[&second]).await).await;
    assert!(running.knows(&second));

    let mut narrowed = running.replica.narrowed();
    narrowed.mark_unchanged();
    revoke(&theirs, &first).await;
    tokio::time::timeout(PATIENCE, narrowed.changed()).await.expect("is announced").expect("the replica lives");
    assert!(!running.knows(&first) && running.knows(&second));
    running.stop().await;
}

#[tokio::test]
async fn our_own_commits_arrive_too_and_the_position_is_the_stores() {
    let folder = Folder::new();
    let store = Arc::new(folder.begun("store").await);
    let running = Running::on(&store, NEVER).await;
    let anna = user();
    let tokens: Vec<TokenRecord> = (0..20u8).map(|number| token(&anna, &[number])).collect();
    create(&*store, &[&anna], &[]).await;
    for token in &tokens {
        create(&*store, &[], &[token]).await;
    }
    for token in &tokens[..10] {
        running.reaches(revoke(&*store, token).await).await;
        assert!(!running.knows(token));
    }
    let status = running.replica.status();
    assert_eq!(status.position, Some(store.position().await.expect("reads")));
    assert_eq!((status.grants, status.owners, status.tombstones), (10, 1, 10));
    assert_eq!((status.divergences, status.resyncs, status.suppressed), (0, 0, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_is_waited_for() {
    let folder = Folder::new();
    let store = Fragile::new(folder.begun("store").await, Mode::Fails);
    let running = Running::start(Arc::clone(&store) as Arc<dyn Feed>, NEVER);
    let early = tokio::time::timeout(SOON, running.replica.ready()).await;
    assert!(early.is_err() && running.replica.staleness(Instant::now()).is_none());
    store.set(Mode::Works);
    tokio::time::timeout(Duration::from_secs(1), running.replica.ready()).await.expect("ready within a second");
    running.stop().await;
}

#[tokio::test]
async fn while_the_store_fails_or_hangs_the_replica_grows_stale_and_serves() {
    let folder = Folder::new();
    let (anna, store) = (user(), folder.open("store").await);
    let first = token(&anna, b"first");
    create(&store, &[&anna], &[&first]).await;
    for mode in [Mode::Fails, Mode::Hangs] {
        let store = Fragile::new(folder.open("store").await, Mode::Works);
        let running = Running::on(&store, SOON).await;
        store.set(mode);
        let since = Instant::now();
        // A hanging read is given up after a second; until then it looks like any other.
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        let staleness = running.replica.staleness(Instant::now()).expect("was fresh");
        assert!(staleness >= since.elapsed() - SOON, "{mode:?}: {staleness:?}");
        assert!(running.knows(&first), "{mode:?}");
        store.set(Mode::Works);
        let back = Instant::now();
        let is_fresh = |staleness| staleness <= back.elapsed();
        eventually(|| running.replica.staleness(Instant::now()).is_some_and(is_fresh)).await;
        running.stop().await;
    }
}

/// As after a restart of a Redis that loses its commits but not what was made first.
#[tokio::test]
async fn a_store_at_revision_zero_proves_nothing_and_changes_nothing() {
    let folder = Folder::new();
    let (anna, store) = (user(), folder.open("store").await);
    let first = token(&anna, b"first");
    create(&store, &[&anna], &[&first]).await;
    let store = Fragile::new(store, Mode::Works);
    let running = Running::on(&store, SOON).await;
    let before = running.replica.status();
    store.replace(folder.open("empty").await);
    let since = Instant::now();
    eventually(|| running.replica.status().reads_failed >= before.reads_failed + 3).await;
    let staleness = running.replica.staleness(Instant::now()).expect("was fresh");
    assert!(staleness + SOON >= since.elapsed(), "{staleness:?}");
    assert!(running.knows(&first));
    let status = running.replica.status();
    assert_eq!((status.position, status.resyncs), (before.position, before.resyncs));
    running.stop().await;
}

#[tokio::test]
async fn a_restored_store_cannot_bring_a_revoked_token_back() {
    let folder = Folder::new();
    let (anna, store, backup) = (user(), folder.open("store").await, folder.open("backup").await);
    let (first, second, third) = (token(&anna, b"first"), token(&anna, b"second"), token(&anna, b"third"));
    create(&store, &[&anna], &[&first, &second]).await;
    create(&store, &[], &[&third]).await;
    let restored = create(&backup, &[&anna], &[&first, &second]).await;
    let epoch = backup.position().await.expect("reads").epoch;

    let store = Fragile::new(store, Mode::Works);
    let running = Running::on(&store, SOON).await;
    running.reaches(revoke(&*store.inner(), &first).await).await;
    store.replace(backup);
    let status = running.until(|status| status.position.is_some_and(|position| position.epoch == epoch)).await;
    assert_eq!(status.position.map(|position| position.revision), Some(restored));
    assert!(!running.knows(&first) && running.knows(&second) && !running.knows(&third));
    assert_eq!(running.replica.suppressed(), [(first.id, first.digest)]);
    assert_eq!((status.resyncs, status.divergences), (1, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_revocation_that_the_store_lost_is_told_to_every_sidecar() {
    let folder = Folder::new();
    let (anna, store, backup) = (user(), folder.open("store").await, folder.open("backup").await);
    let (first, second) = (token(&anna, b"first"), token(&anna, b"second"));
    create(&store, &[&anna], &[&first, &second]).await;
    create(&backup, &[&anna], &[&first, &second]).await;
    let store = Fragile::new(store, Mode::Works);
    let saw_it = Running::on(&store, SOON).await;
    saw_it.reaches(revoke(&*store.inner(), &first).await).await;
    assert_eq!(store.recalls().writes, 0, "the store has it");

    store.recalls().refused = true;
    store.replace(backup);
    let did_not = Running::on(&store, SOON).await;
    eventually(|| store.recalls().writes >= 2).await;
    assert!(did_not.knows(&first), "it cannot know");
    store.recalls().refused = false;
    eventually(|| !did_not.knows(&first)).await;
    assert!(did_not.knows(&second));
    assert_eq!(store.recalls().digests, [first.digest]);
    // Whoever reads it does not write it again.
    let writes = store.recalls().writes;
    for running in [&saw_it, &did_not] {
        let proven = Instant::now();
        eventually(|| running.replica.staleness(Instant::now()).is_some_and(|staleness| staleness < proven.elapsed()))
            .await;
    }
    assert_eq!(store.recalls().writes, writes);
    saw_it.stop().await;
    did_not.stop().await;
}

#[tokio::test]
async fn recalls_that_come_between_a_probe_and_its_pages_are_read_once() {
    let folder = Folder::new();
    let store = Fragile::new(folder.open("store").await, Mode::Works);
    store.recalls().digests = (0..3u8).map(|number| Digest::of(&[number])).collect();
    store.recalls().moved_on = 1;
    let probe = store.probe().await.expect("answers");
    let (replica, progress, later) = (Replica::new(), Mutex::default(), Instant::now() + 2 * PATIENCE);
    let reading = recall::read(&replica, &*store, &progress, &probe, later);
    tokio::time::timeout(PATIENCE, reading).await.expect("ends").expect("reads");
    assert_eq!(store.recalls().reads, 2, "a page of two, and one of one");
}

#[tokio::test]
async fn recalls_are_read_when_their_counter_moved_and_not_with_each_probe() {
    let folder = Folder::new();
    let (anna, store) = (user(), folder.open("store").await);
    let made: Vec<_> = (0..5u8).map(|number| token(&anna, &[number])).collect();
    create(&store, &[&anna], &made.iter().collect::<Vec<_>>()).await;
    let store = Fragile::new(store, Mode::Works);
    store.recalls().digests = made[..3].iter().map(|token| token.digest).collect();
    let running = Running::on(&store, SOON).await;
    let known = |running: &Running| made.iter().map(|token| running.knows(token)).collect::<Vec<_>>();
    assert_eq!(known(&running), [false, false, false, true, true], "before it is ready");
    let proven_again = async || {
        let asked = Instant::now();
        eventually(|| running.replica.proven().is_some_and(|proven| proven > asked)).await;
    };
    let reads = store.recalls().reads;
    for _ in 0..3 {
        proven_again().await;
    }
    assert_eq!(store.recalls().reads, reads);

    // More than anybody takes: nothing is proven, and nothing of them is read, until they are settled.
    {
        let mut recalls = store.recalls();
        recalls.digests.push(made[3].digest);
        recalls.besides = RECALLS_TAKEN;
    }
    let reads_failed = || running.replica.status().reads_failed;
    eventually(|| reads_failed() >= 3).await;
    let (proven, failed) = (running.replica.proven(), reads_failed());
    eventually(|| reads_failed() >= failed + 3).await;
    assert_eq!(running.replica.proven(), proven);
    store.recalls().besides = 0;
    proven_again().await;
    assert_eq!(known(&running), [false, false, false, false, true]);
    assert_eq!(running.replica.status().tombstones, 0, "they take the place of none");
    running.stop().await;
}

#[tokio::test]
async fn what_a_sidecar_missed_beyond_the_log_reaches_it_by_a_snapshot() {
    let folder = Folder::new();
    let (ours, anna) = (folder.open("store").await, user());
    let short = Retention { log_entries: 1, ..Retention::default() };
    let theirs = SqliteStore::open(&folder.path("store"), short).await.expect("opens");
    let (first, second, third) = (token(&anna, b"first"), token(&anna, b"second"), token(&anna, b"third"));
    create(&theirs, &[&anna], &[&first, &second]).await;
    let ours = Fragile::new(ours, Mode::Works);
    let running = Running::on(&ours, SOON).await;
    // The notices end with the handle that they came from.
    ours.replace(folder.open("store").await);
    ours.set(Mode::Fails);
    revoke(&theirs, &first).await;
    let revision = create(&theirs, &[], &[&third]).await;
    assert!(running.knows(&first), "it cannot know");
    ours.set(Mode::Works);
    running.reaches(revision).await;
    assert!(!running.knows(&first) && running.knows(&second) && running.knows(&third));
    let status = running.replica.status();
    assert_eq!((status.resyncs, status.divergences), (1, 0));
    running.until_proven(|status| status.tombstones == 1).await;
    assert_eq!(running.replica.vanished(1), []);
    running.stop().await;
}

/// A token that the store has lost is gone as one that was revoked beyond the log is, and the store knows nothing of it.
#[tokio::test]
async fn what_the_store_lost_beyond_the_log_is_not_taken_for_revoked() {
    let folder = Folder::new();
    let anna = user();
    let [lost, revoked, fourth] = [&b"lost"[..], b"revoked", b"fourth"].map(|secret| token(&anna, secret));
    let short = Retention { log_entries: 1, ..Retention::default() };
    let before = SqliteStore::open(&folder.path("before"), short).await.expect("opens");
    create(&before, &[&anna], &[&revoked]).await;
    drop(before);
    std::fs::copy(folder.path("before"), folder.path("after")).expect("copies");
    let ours = Fragile::new(folder.open("before").await, Mode::Works);
    create(&*ours.inner(), &[], &[&lost]).await;
    let running = Running::on(&ours, SOON).await;
    assert!(running.knows(&lost) && running.knows(&revoked));

    ours.set(Mode::Fails);
    let after = SqliteStore::open(&folder.path("after"), short).await.expect("opens");
    revoke(&after, &revoked).await;
    let revision = create(&after, &[], &[&fourth]).await;
    ours.replace(after);
    ours.refuse_removed(true);
    ours.set(Mode::Works);
    running.reaches(revision).await;
    assert!(!running.knows(&lost) && !running.knows(&revoked) && running.knows(&fourth));
    assert_eq!(running.replica.status().resyncs, 1);
    // What cannot be asked is asked again, and proofs wait for nothing of it.
    let proven = running.replica.proven();
    running.until_proven(|_| running.replica.proven() > proven).await;
    assert_eq!((running.replica.vanished(9).len(), running.replica.status().tombstones), (2, 0));
    ours.refuse_removed(false);
    running.until_proven(|status| status.tombstones == 1).await;

    let revision = create(&*ours.inner(), &[], &[&lost]).await;
    running.reaches(revision).await;
    assert!(running.knows(&lost), "nobody has revoked it");
    assert_eq!(ours.recalls().writes, 0);
    running.stop().await;
}

#[tokio::test]
async fn what_a_snapshot_narrows_is_announced_once() {
    let folder = Folder::new();
    let (store, anna) = (folder.open("store").await, user());
    let tokens = [token(&anna, b"first"), token(&anna, b"second")];
    create(&store, &[&anna], &[&tokens[0], &tokens[1]]).await;
    let replica = Replica::new();
    for token in &tokens {
        let wide = Grant { permissions: PermissionSet::all(), ..token.grant().expect("active") };
        replica.begin_merge();
        replica.merge(&SnapshotItem::Grant(token.digest, wide));
    }
    let narrowed = replica.narrowed();
    let read = read_snapshot(&replica, &store, Arc::default()).await;
    assert!(matches!(read, Ok(Answer { input: Input::Snapshot { .. }, .. })));
    assert!(narrowed.has_changed().expect("the replica lives"));
    assert_eq!(*narrowed.borrow(), 1);
}

#[tokio::test]
async fn a_damaged_entry_costs_its_token_only() {
    let folder = Folder::new();
    let (store, anna) = (folder.open("store").await, user());
    let (first, second) = (token(&anna, b"first"), token(&anna, b"second"));
    create(&store, &[&anna], &[&first, &second]).await;
    let database = rusqlite::Connection::open(folder.path("store")).expect("opens");
    let digest = first.digest.as_bytes();
    assert_eq!(database.execute("UPDATE grants SET grant_ = x'00' WHERE digest = ?", [digest]), Ok(1));

    let store = Arc::new(store);
    let running = Running::on(&store, SOON).await;
    assert!(!running.knows(&first) && running.knows(&second));
    assert_eq!(running.replica.status().damaged, 1);
    running.reaches(revoke(&*store, &second).await).await;
    assert!(!running.knows(&second));
    assert_eq!(running.replica.status().divergences, 0);
    // Once the damaged entry itself goes, all is as it should be again.
    running.reaches(revoke(&*store, &first).await).await;
    running.until(|status| status.damaged == 0 && status.position.is_some()).await;
    assert_eq!(running.replica.checksum(), store.position().await.expect("reads").checksum);
    running.stop().await;
}

#[test]
fn waits_grow_to_a_bound_and_differ() {
    let waits = |attempt| (0..50).map(move |_| BACKOFF.wait(attempt));
    assert!(waits(1).all(|wait| (Duration::from_millis(25)..=Duration::from_millis(75)).contains(&wait)));
    assert!(waits(u32::MAX).all(|wait| (Duration::from_millis(300)..=Duration::from_millis(900)).contains(&wait)));
    assert!(waits(5).any(|wait| Some(wait) != waits(5).next()));
}

#[test]
fn a_fleet_spreads_its_snapshots_by_their_size_and_never_past_a_quarter_of_what_is_left() {
    let longest = |grants, served| (0..200).map(|_| wait_for_turn(grants, served)).max().expect("some");
    assert!(longest(100, Duration::MAX) <= Duration::from_millis(6));
    let many = longest(250_000, Duration::MAX);
    assert!(many > SPREAD / 2 && many <= SPREAD, "{many:?}");
    assert!(longest(10_000_000, Duration::from_secs(60)) <= Duration::from_secs(15));
    assert!(longest(10_000_000, Duration::from_secs(4)) <= Duration::from_secs(1));
    assert_eq!(longest(250_000, Duration::ZERO), Duration::ZERO);
}

#[test]
fn an_error_is_told_with_its_causes() {
    let source: Box<dyn std::error::Error + Send + Sync> = "connection refused".into();
    let (operation, store) = ("reading the position", "sqlite:x".to_owned());
    let error = ReadError::from(StoreError::Unavailable { operation, store, source });
    assert_eq!(chain(&error), "reading the position at sqlite:x: connection refused");
}

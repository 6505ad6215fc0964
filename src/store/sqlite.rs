//! The embedded store: one SQLite file, shared by all processes of one host.
//!
//! Commits go through one connection, reads through a few others, all of them on the threads that tokio has for
//! blocking work. WAL lets readers go on during a commit; a commit waits up to 5 s for that of another process.
//! Every commit is synced to the disk before it is acknowledged. Reports of sidecars are not: they go through a connection
//! of their own, and neither wait for a commit of this process nor count as one.
//!
//! A file that is missing or empty is no registry: it is made by `tollgate init` only, and waited for by sidecars. A file
//! that is replaced is noticed with the next operation, or within a second, and opened in the place of the one before.

mod age;
mod archive;
mod commit;
mod database;
mod fault;
mod fleet;
mod migration;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod trail;
mod usage;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::age::BootTime;
pub(super) use self::archive::SqliteUnfinished;
use self::commit::CommitFailure;
use self::database::{Closed, Database};
use self::fault::DatabaseFault;
use self::watch::Watching;
use super::notify::Notices;
use super::{
    Absent, Agent, AuditLine, Batch, Bookmark, Changes, CommitError, CommitId, Committed, Epoch, Feed, Head, Inventory,
    Items, Notice, Position, Probe, RecalledPage, RecalledPlace, Records, Report, Reported, Reports, Retention,
    Revision, SidecarId, SnapshotItem, StoreError, Subject, TokenFilter, Trail, TrailEnds, TrailStep, Usage, Usages,
    Use, Versioned, Watch,
};
use crate::clock::Instant;
use crate::lock::{Mutex, RwLock};
use crate::token::{Digest, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord};

/// Chunks of a snapshot that wait for the receiver.
const SNAPSHOT_CHUNKS: usize = 2;

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    /// Started by the first watcher.
    watching: OnceLock<Watching>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The path as a URL.
    name: String,
    retention: Retention,
    file: RwLock<File>,
    notices: Notices,
    /// The newest commit before which none is without a notice.
    announced: Mutex<Option<(Epoch, Revision)>>,
    /// Whether the log of the file may have what was deleted.
    is_unwiped: AtomicBool,
}

/// What is known of the file at the path. Whoever uses it reads this; who opens another one writes it, and so waits until
/// nobody uses the one before.
#[derive(Debug, Default)]
struct File {
    open: Option<Database>,
    /// The one that was open before.
    before: Option<Closed>,
}

impl SqliteStore {
    /// Opens the file, and makes it, readable to this user only, where there is none.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for a file that is not a store of this version, which is left as it is;
    /// [`StoreError::Unavailable`] when it cannot be opened, read or written.
    pub async fn open(path: &Path, retention: Retention) -> Result<Self, StoreError> {
        let store = Self::new(path, retention);
        store.check(Absent::Create).await?;
        Ok(store)
    }

    /// A store whose file may not be there yet. Nothing is opened before it is needed.
    #[must_use]
    pub fn new(path: &Path, retention: Retention) -> Self {
        // Fails for an empty path only, which names no file either way.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let shared = Shared {
            // Of the whole path: the same name in another working directory is another store.
            name: format!("sqlite:{}", path.display()),
            path,
            retention,
            file: RwLock::default(),
            notices: Notices::new(),
            announced: Mutex::new(None),
            is_unwiped: AtomicBool::new(true),
        };
        Self { shared: Arc::new(shared), watching: OnceLock::new() }
    }

    /// Whether the store can be used; makes one where there is none and that is asked for.
    ///
    /// # Errors
    /// As for [`SqliteStore::open`]; [`StoreError::NoRegistry`] where there is none and it is neither to be made nor
    /// waited for.
    pub async fn check(&self, absent: Absent) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let checked = spawn_blocking(move || match absent {
            Absent::Create => shared.open(true),
            Absent::Refuse | Absent::Await => shared.with(|_| Ok(())),
        });
        match checked.await.map_err(DatabaseFault::from).and_then(|checked| checked) {
            Err(DatabaseFault::NoRegistry(_)) if absent == Absent::Await => Ok(()), // whoever reads says so, again and again
            checked => checked.map_err(|fault| fault.during("opening the database", &self.shared.name)),
        }
    }

    /// Reads, on a thread where that may take its time.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, DatabaseFault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(operation, move |database| database.read(read)).await
    }

    /// Works with the file, on a thread where that may take its time.
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Database) -> Result<T, DatabaseFault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let result = spawn_blocking(move || shared.with(work)).await;
        let result = result.map_err(DatabaseFault::from).and_then(|result| result);
        result.map_err(|fault| fault.during(operation, &self.shared.name))
    }
}

impl Shared {
    /// Works with the file that the path names, which is opened first if it is not open.
    fn with<T, E: From<DatabaseFault>>(&self, work: impl FnOnce(&Database) -> Result<T, E>) -> Result<T, E> {
        {
            let file = self.file.read();
            if let Some(database) = &file.open
                && database.check().is_ok()
            {
                return work(database);
            }
        }
        self.open(false)?;
        // In between another one may have found it replaced again.
        let file = self.file.read();
        work(file.open.as_ref().ok_or(DatabaseFault::Replaced)?)
    }

    /// Opens what the path names now, unless it is open.
    fn open(&self, create: bool) -> Result<(), DatabaseFault> {
        let mut file = self.file.write();
        if let Some(database) = file.open.take() {
            if database.check().is_ok() {
                file.open = Some(database); // somebody else was faster
                return Ok(());
            }
            tracing::warn!(store = self.name, "the database file was removed or replaced while in use");
            file.before = Some(database.close());
        }
        if let Some(before) = file.before {
            before.make_way(&self.path)?;
        }
        let (database, position) = Database::open(&self.path, create)?;
        file.open = Some(database);
        self.is_unwiped.store(true, Ordering::Relaxed);
        let before = self.announced.lock().replace((position.epoch, position.revision));
        if before.is_some() {
            tracing::info!(
                store = self.name,
                revision = position.revision.0,
                "opened the database file that is there now"
            );
        }
        self.notices.send(Notice::Lost);
        Ok(())
    }

    fn commit(&self, database: &Database, batch: &Batch) -> Result<Committed, CommitFailure> {
        let mut writer = database.writer()?;
        let (epoch, entry) = commit::commit(&mut writer, batch, &self.retention, BootTime::now())?;
        let (committed, revision) = (entry.committed(epoch), entry.revision);
        let mut announced = self.announced.lock();
        // With a commit of another process in between, this one is left to be found together with that one.
        if let Some((announced_epoch, announced)) = &mut *announced
            && *announced_epoch == epoch
            && announced.next() == revision
        {
            *announced = revision;
        }
        // Before the next commit can begin, so that notices come in the order of commits.
        self.notices.send(Notice::Committed { epoch, entry: Arc::new(entry) });
        Ok(committed)
    }

    /// Leaves nothing in the log of the file of what was deleted. Where others prevent it, the next one does: whoever watches, once
    /// nothing is committed for a second.
    fn wipe(&self, database: &Database) {
        self.is_unwiped.store(false, Ordering::Relaxed);
        match database.empty_log() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, store = self.name, "cannot empty the log of the database"),
        }
        self.is_unwiped.store(true, Ordering::Relaxed);
    }

    /// The same where it is to be done still.
    fn wipe_later(&self) -> Result<(), DatabaseFault> {
        match self.is_unwiped.load(Ordering::Relaxed) {
            true => self.with(|database| {
                self.wipe(database);
                Ok(())
            }),
            false => Ok(()),
        }
    }

    /// Tells the watchers of what another process has committed.
    fn look(&self) -> Result<(), DatabaseFault> {
        self.with(|database| {
            // Held while the position is read, or a commit of this process could be announced twice, or not at all.
            let mut announced = self.announced.lock();
            let position = database.read(read::position)?;
            let found = (position.epoch, position.revision);
            if *announced != Some(found) {
                // That one may have deleted something, and have ended since.
                self.is_unwiped.store(true, Ordering::Relaxed);
            }
            match announced.replace(found) {
                Some(before) if before == found => {}
                Some((epoch, _)) if epoch == found.0 => self.notices.send(Notice::Moved),
                // Another life of the store: what it has to do with what was seen, only its position shows.
                _ => self.notices.send(Notice::Lost),
            }
            Ok(())
        })
    }
}

#[async_trait]
impl Records for SqliteStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let shared = Arc::clone(&self.shared);
        let commit = move |database: &Database| {
            let committed = shared.commit(database, &batch)?;
            if batch.deletes() {
                shared.wipe(database);
            }
            Ok(committed)
        };
        let shared = Arc::clone(&self.shared);
        let committed = spawn_blocking(move || shared.with(commit)).await;
        committed.map_err(|error| CommitFailure::Failed(error.into())).and_then(|result| result).map_err(|failure| {
            match failure {
                CommitFailure::Refused(refusal) => refusal,
                CommitFailure::Failed(fault) => fault.during("a commit to the database", &self.shared.name).into(),
            }
        })
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.read("reading the position", read::position).await
    }

    async fn schema(&self) -> Result<u32, StoreError> {
        self.read("reading the schema", schema::known).await
    }

    async fn user(&self, id: UserId) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        self.read("reading a user", move |connection| read::user(connection, id)).await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        let name = name.to_owned();
        self.read("reading a user", move |connection| read::user_by_name(connection, &name)).await
    }

    async fn token_set(&self, user: UserId) -> Result<Option<CommitId>, StoreError> {
        self.read("reading a user", move |connection| read::token_set(connection, user)).await
    }

    async fn users(&self, before: Option<UserId>, limit: usize) -> Result<Vec<Versioned<UserRecord>>, StoreError> {
        self.read("reading users", move |connection| read::users(connection, before, limit)).await
    }

    async fn tokens_by_id(&self, ids: &[TokenId]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        let ids = ids.to_vec();
        self.read("reading tokens", move |connection| read::tokens_by_id(connection, &ids)).await
    }

    async fn tokens_by_digest(&self, digests: &[Digest]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        let digests = digests.to_vec();
        self.read("reading tokens", move |connection| read::tokens_by_digest(connection, &digests)).await
    }

    async fn tokens(
        &self,
        filter: TokenFilter,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<Versioned<TokenRecord>>, StoreError> {
        self.read("reading tokens", move |connection| read::tokens(connection, filter, before, limit)).await
    }

    async fn count_tokens(&self, filter: TokenFilter) -> Result<u64, StoreError> {
        self.read("counting tokens", move |connection| read::count_tokens(connection, filter)).await
    }

    async fn history(&self, id: TokenId) -> Result<Vec<HistoryEntry>, StoreError> {
        self.read("reading the history of a token", move |connection| read::history(connection, id)).await
    }

    async fn retired(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        let digests = digests.to_vec();
        self.read("reading retired digests", move |connection| fleet::retired(connection, &digests)).await
    }

    async fn frozen(&self) -> Result<Option<String>, StoreError> {
        self.read("asking whether it is frozen", archive::frozen).await
    }

    async fn dump(&self, items: Items) -> Result<Inventory, StoreError> {
        self.read("reading the whole registry", move |connection| archive::dump(connection, &items)).await
    }

    async fn freeze(&self, reason: Option<&str>, only: Option<&str>) -> Result<bool, CommitError> {
        let operation = if reason.is_some() { "freezing the registry" } else { "lifting the freeze" };
        let (reason, only) = (reason.map(str::to_owned), only.map(str::to_owned));
        let freeze =
            move |database: &Database| archive::freeze(&mut *database.writer()?, reason.as_deref(), only.as_deref());
        Ok(self.run(operation, freeze).await?)
    }

    async fn settle_recalls(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let digests = digests.to_vec();
        self.run("settling recalls", move |database| fleet::settle_recalls(&mut *database.writer()?, &digests)).await
    }
}

#[async_trait]
impl Feed for SqliteStore {
    async fn probe(&self) -> Result<Probe, StoreError> {
        let probe = |connection: &Connection| {
            let (position, (recalls, recalled)) = (read::position(connection)?, fleet::recalls(connection)?);
            Ok(Probe { position, recalls, recalled })
        };
        self.read("reading the position", probe).await
    }

    async fn report_left(&self, sidecar: SidecarId) -> Result<Option<Duration>, StoreError> {
        let read = move |connection: &Connection| fleet::left(connection, sidecar, uptime);
        self.read("asking for a sidecar's report", read).await
    }

    async fn snapshot(
        &self,
        _bookmark: &mut Option<Bookmark>,
        sink: &mut (dyn FnMut(SnapshotItem) + Send),
    ) -> Result<Position, StoreError> {
        let (chunks, mut received) = mpsc::channel(SNAPSHOT_CHUNKS);
        // A receiver that is gone ends the reading.
        let read = self.read("reading a snapshot", move |connection| {
            read::snapshot(connection, |chunk| chunks.blocking_send(chunk).is_ok())
        });
        let receive = async {
            while let Some(chunk) = received.recv().await {
                chunk.into_iter().for_each(&mut *sink);
            }
        };
        let (position, ()) = tokio::join!(read, receive);
        position
    }

    async fn changes(&self, after: Revision) -> Result<Changes, StoreError> {
        let store = self.shared.name.clone();
        self.read("reading the change log", move |connection| read::changes(connection, after, &store)).await
    }

    async fn ancestor(&self, latest: Revision, heads: &[Head]) -> Result<Option<Revision>, StoreError> {
        let heads = heads.to_vec();
        self.read("looking for lost writes in the change log", move |connection| {
            read::ancestor(connection, latest, &heads)
        })
        .await
    }

    async fn items(&self, of: &[Subject]) -> Result<Vec<SnapshotItem>, StoreError> {
        let of = of.to_vec();
        self.read("reading entries again", move |connection| read::items(connection, &of)).await
    }

    async fn removed(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        let digests = digests.to_vec();
        self.read("asking which tokens were revoked", move |connection| fleet::removed(connection, &digests)).await
    }

    fn watch(&self) -> Box<dyn Watch> {
        let watch = self.shared.notices.watch();
        self.watching.get_or_init(|| Watching::start(Arc::clone(&self.shared)));
        watch
    }

    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let digests = digests.to_vec();
        self.run("writing recalls", move |database| fleet::recall(&mut *database.writer()?, &digests)).await
    }

    async fn recalled(&self, from: Option<&RecalledPlace>) -> Result<RecalledPage, StoreError> {
        let from = from.cloned();
        self.read("reading recalls", move |connection| fleet::recalled(connection, from.as_ref())).await
    }

    fn describe(&self) -> String {
        self.shared.name.clone()
    }
}

#[async_trait]
impl Reports for SqliteStore {
    async fn report(&self, report: &Report, ttl: Duration) -> Result<(), StoreError> {
        let report = report.clone();
        let write = move |connection: &mut Connection| fleet::report(connection, &report, ttl, uptime);
        self.run("writing a sidecar's report", move |database| database.report(write)).await
    }

    async fn withdraw(&self, sidecar: SidecarId) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| fleet::withdraw(connection, sidecar);
        self.run("withdrawing a sidecar's report", move |database| database.report(write)).await
    }

    async fn sidecars(&self) -> Result<Vec<Reported>, StoreError> {
        let store = self.shared.name.clone();
        let read = move |connection: &Connection| fleet::sidecars(connection, uptime, &store);
        self.read("reading the sidecars' reports", read).await
    }

    fn is_of_one_host(&self) -> bool {
        true
    }
}

#[async_trait]
impl Usage for SqliteStore {
    async fn record(&self, uses: &[Use]) -> Result<(), StoreError> {
        let uses = uses.to_vec();
        let retention = self.shared.retention;
        // Now: whoever is written first, and for how long, makes nobody's use a later one.
        let as_of = Timestamp::now();
        let write = move |connection: &mut Connection| usage::record(connection, &uses, &retention, as_of);
        self.run("recording the use of tokens", move |database| database.report(write)).await
    }

    async fn usage(&self, tokens: &[TokenId]) -> Result<Usages, StoreError> {
        let tokens = tokens.to_vec();
        let read = move |connection: &Connection| usage::usage(connection, &tokens, Timestamp::now());
        self.read("reading the use of tokens", read).await
    }

    async fn last_used(&self, tokens: &[TokenId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let tokens = tokens.to_vec();
        let read = move |connection: &Connection| usage::last_used(connection, &tokens, Timestamp::now());
        self.read("reading the use of tokens", read).await
    }

    async fn agents(&self, tokens: &[TokenId], limit: usize) -> Result<Vec<Vec<Agent>>, StoreError> {
        let tokens = tokens.to_vec();
        let read = move |connection: &Connection| usage::agents(connection, &tokens, limit, Timestamp::now());
        self.read("reading the agents of tokens", read).await
    }
}

#[async_trait]
impl Trail for SqliteStore {
    async fn note(&self, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.run("writing an audit entry", move |database| trail::note(&mut *database.writer()?, &entries)).await
    }

    async fn trail_ends(&self, loose: usize) -> Result<TrailEnds, StoreError> {
        self.read("reading the audit trail", move |connection| trail::ends(connection, loose)).await
    }

    async fn link(&self, step: &TrailStep) -> Result<bool, StoreError> {
        let step = step.clone();
        self.run("chaining the audit trail", move |database| trail::link(&mut *database.writer()?, &step)).await
    }

    async fn trail_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.read("reading the audit trail", move |connection| trail::after(connection, seq, limit)).await
    }

    async fn trail_before(&self, seq: Option<u64>, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.read("reading the audit trail", move |connection| trail::before(connection, seq, limit)).await
    }

    async fn written_to(&self, place: &str) -> Result<Option<u64>, StoreError> {
        let place = place.to_owned();
        self.read("reading the audit trail", move |connection| trail::written_to(connection, &place)).await
    }

    async fn set_written_to(&self, place: &str, seq: u64) -> Result<(), StoreError> {
        let place = place.to_owned();
        let write = move |database: &Database| trail::set_written_to(&*database.writer()?, &place, seq);
        self.run("writing how far the audit trail went", write).await
    }
}

/// An id as SQLite's signed integer, in the same order.
const fn key(id: u64) -> i64 {
    (id ^ (1 << 63)).cast_signed()
}

/// The inverse of [`key`].
const fn from_key(key: i64) -> u64 {
    key.cast_unsigned() ^ (1 << 63)
}

/// An id or a head as SQLite's bytes.
const fn blob(word: u128) -> [u8; 16] {
    word.to_be_bytes()
}

/// Milliseconds since the machine was started. Nobody can set that clock, and no sidecar outlives it.
fn uptime() -> i64 {
    i64::try_from(Instant::now().uptime().as_millis()).unwrap_or(i64::MAX)
}

//! The embedded store: one SQLite file, shared by all processes of one host.
//!
//! Commits go through one connection, reads through a few others, all of them on the threads that tokio keeps for
//! blocking work. WAL lets readers go on during a commit; a commit waits up to 5 s for that of another process.
//! Every commit is synced to the disk before it is acknowledged. Reports of sidecars are not: they go through a connection
//! of their own, and neither wait for a commit of this process nor count as one.
//!
//! A file that is removed or replaced while it is open is noticed with the next operation. From then on all of them fail
//! until a restart: what would be written to it is lost, and what is read from it is no longer what others see.

mod commit;
mod fault;
mod fleet;
mod migration;
mod poll;
mod read;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::commit::Stop;
use self::fault::Fault;
use self::poll::Poll;
use self::schema::Identity;
use super::notify::Notices;
use super::{
    Batch, Changes, CommitError, CommitId, Committed, Epoch, Notice, Position, Probe, Report, Reported, Retention,
    Revision, SidecarId, SnapshotItem, Store, StoreError, TokenFilter, Versioned, Watch,
};
use crate::token::{Digest, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord};

/// Reading connections kept for the next reader.
const IDLE_READERS: usize = 4;

/// Chunks of a snapshot that wait for the receiver.
const SNAPSHOT_CHUNKS: usize = 2;

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    /// Started by the first watcher.
    poll: OnceLock<Poll>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The path as a URL.
    name: String,
    retention: Retention,
    /// The file that was opened; the path may come to name another one.
    identity: Identity,
    replaced: AtomicBool,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// Opened by the first report.
    reporter: Mutex<Option<Connection>>,
    notices: Notices,
    /// The newest commit before which none is without a notice.
    announced: Mutex<(Epoch, Revision)>,
}

impl SqliteStore {
    /// Opens the file, and makes it, readable to this user only, where there is none.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for a file that is not a store of this version, which is left as it is;
    /// [`StoreError::Unavailable`] when it cannot be opened, read or written.
    pub async fn open(path: &Path, retention: Retention) -> Result<Self, StoreError> {
        let name = format!("sqlite:{}", path.display());
        let (path, store) = (path.to_owned(), name.clone());
        let opened = spawn_blocking(move || Shared::open(&path, store, retention)).await;
        let shared = opened.map_err(Fault::from).and_then(|shared| shared);
        let shared = shared.map_err(|fault| fault.during("opening the database", &name))?;
        Ok(Self { shared: Arc::new(shared), poll: OnceLock::new() })
    }

    /// Reads, on a thread where that may take its time.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let result = spawn_blocking(move || shared.read(read)).await;
        let result = result.map_err(Fault::from).and_then(|result| result);
        result.map_err(|fault| fault.during(operation, &self.shared.name))
    }
}

impl SqliteStore {
    /// Writes what is no commit, on a thread where that may take its time.
    async fn write(
        &self,
        operation: &'static str,
        write: impl FnOnce(&Shared) -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let written = spawn_blocking(move || write(&shared)).await;
        let written = written.map_err(Fault::from).and_then(|written| written);
        written.map_err(|fault| fault.during(operation, &self.shared.name))
    }
}

impl Shared {
    fn open(path: &Path, name: String, retention: Retention) -> Result<Self, Fault> {
        let path = std::path::absolute(path)?;
        let writer = schema::open(&path)?;
        let position = read::position(&writer)?;
        Ok(Self {
            identity: Identity::of(&path)?,
            path,
            name,
            retention,
            replaced: AtomicBool::new(false),
            writer: Mutex::new(writer),
            readers: Mutex::new(Vec::new()),
            reporter: Mutex::new(None),
            notices: Notices::new(),
            announced: Mutex::new((position.epoch, position.revision)),
        })
    }

    fn commit(&self, batch: &Batch) -> Result<Committed, Stop> {
        let mut writer = lock(&self.writer);
        self.check_identity()?;
        let (epoch, entry) = commit::commit(&mut writer, batch, &self.retention, now())?;
        let committed = entry.committed(epoch);
        let mut announced = self.announced();
        // With a commit of another process in between, this one is left to be found together with that one.
        if announced.0 == epoch && announced.1.next() == entry.revision {
            announced.1 = entry.revision;
        }
        // Before the next commit can begin, so that notices come in the order of commits.
        self.notices.send(Notice::Committed { epoch, entry: Arc::new(entry) });
        Ok(committed)
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        self.check_identity()?;
        let idle = lock(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = schema::open_reader(&self.path)?;
                self.check_identity()?; // or it may be a connection to another file
                connection
            }
        };
        let result = read(&connection)?;
        let mut idle = lock(&self.readers);
        if idle.len() < IDLE_READERS {
            idle.push(connection);
        }
        Ok(result)
    }

    /// Writes through the connection whose commits count.
    fn with_writer(&self, write: impl FnOnce(&mut Connection) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut writer = lock(&self.writer);
        self.check_identity()?;
        write(&mut writer)
    }

    /// Writes what may be lost in a power failure.
    fn with_reporter(&self, write: impl FnOnce(&mut Connection) -> Result<(), Fault>) -> Result<(), Fault> {
        self.check_identity()?;
        let mut reporter = lock(&self.reporter);
        let connection = match &mut *reporter {
            Some(connection) => connection,
            none => {
                let connection = schema::open_reporter(&self.path)?;
                self.check_identity()?; // or it may be a connection to another file
                none.insert(connection)
            }
        };
        write(connection)
    }

    /// Whether the path still names the file that was opened.
    fn check_identity(&self) -> Result<(), Fault> {
        if Identity::of(&self.path).is_ok_and(|identity| identity == self.identity) {
            return Ok(());
        }
        if !self.replaced.swap(true, Ordering::Relaxed) {
            tracing::error!(store = self.name, "the database file was removed or replaced while in use: restart");
        }
        Err(Fault::Replaced)
    }

    fn announced(&self) -> MutexGuard<'_, (Epoch, Revision)> {
        lock(&self.announced)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let shared = Arc::clone(&self.shared);
        let committed = spawn_blocking(move || shared.commit(&batch)).await;
        committed.map_err(|error| Stop::Failed(error.into())).and_then(|result| result).map_err(|stop| match stop {
            Stop::Refused(refusal) => refusal,
            Stop::Failed(fault) => fault.during("a commit to the database", &self.shared.name).into(),
        })
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.read("reading the position", read::position).await
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        let probe = |connection: &Connection| {
            let (position, recalls) = (read::position(connection)?, fleet::recalls(connection)?);
            Ok(Probe { position, recalls, recalled: fleet::recalled(connection)? })
        };
        self.read("reading the position", probe).await
    }

    async fn snapshot(&self, sink: &mut (dyn FnMut(SnapshotItem) + Send)) -> Result<Position, StoreError> {
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

    fn watch(&self) -> Box<dyn Watch> {
        let watch = self.shared.notices.watch();
        self.poll.get_or_init(|| Poll::start(Arc::clone(&self.shared)));
        watch
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

    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let digests = digests.to_vec();
        let recall = move |shared: &Shared| shared.with_writer(|connection| fleet::recall(connection, &digests));
        self.write("writing recalls", recall).await
    }

    async fn recalled(&self) -> Result<Vec<Digest>, StoreError> {
        self.read("reading recalls", fleet::recalled).await
    }

    async fn settle_recalls(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let digests = digests.to_vec();
        let settle =
            move |shared: &Shared| shared.with_writer(|connection| fleet::settle_recalls(connection, &digests));
        self.write("settling recalls", settle).await
    }

    async fn report(&self, report: &Report, keep: Duration) -> Result<(), StoreError> {
        let report = report.clone();
        let write = move |connection: &mut Connection| fleet::report(connection, &report, keep, now_millis());
        self.write("writing a sidecar's report", move |shared| shared.with_reporter(write)).await
    }

    async fn report_left(&self, sidecar: SidecarId) -> Result<Option<Duration>, StoreError> {
        let read = move |connection: &Connection| fleet::left(connection, sidecar);
        self.read("asking for a sidecar's report", read).await
    }

    async fn withdraw(&self, sidecar: SidecarId) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| fleet::withdraw(connection, sidecar);
        self.write("withdrawing a sidecar's report", move |shared| shared.with_reporter(write)).await
    }

    async fn sidecars(&self) -> Result<Vec<Reported>, StoreError> {
        let store = self.shared.name.clone();
        let read = move |connection: &Connection| fleet::sidecars(connection, now_millis(), &store);
        self.read("reading the sidecars' reports", read).await
    }

    fn describe(&self) -> String {
        self.shared.name.clone()
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

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Milliseconds since 1970.
fn now_millis() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A panic elsewhere leaves a connection usable: its transaction was rolled back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

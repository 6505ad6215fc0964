//! Everything that a registry is, as a stream of [`Item`]s: how it is copied to another store, backed up and restored.
//!
//! ```text
//!   Records::dump ──► Tally ──┬─► file, checksummed at its end ──► Tally ──► Unfinished ──► Tally ──► finish
//!   (while all runs)          └─► Unfinished, read back ──► Tally ──► finish
//! ```
//!
//! A store hands over what it holds while it goes on; what was changed meanwhile is handed over again, until nothing was. The
//! [`Tally`] makes one order of that, counts it and takes its checksum. An [`Unfinished`] store takes it in pieces, and is no
//! registry before its end: a copy that breaks off leaves none, and the next one begins anew.

mod file;
mod item;
mod tally;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub(super) use file::sync_directory_of;
pub use file::{Backup, BackupError, write_backup};
pub use item::{Item, Retired, TokenItem, UsageItem, UserItem};
pub use tally::{Summary, Tally};

use super::redis::RedisUnfinished;
use super::sqlite::SqliteUnfinished;
use super::{Absent, Position, Revision, Settings, Store, StoreError, StoreUrl};

/// Where a store hands over what it holds.
pub type Items = mpsc::Sender<Vec<Item>>;

/// Pieces that are read ahead.
const AHEAD: usize = 2;

/// A store that is being filled, and is no registry yet. Dropped before its end, it never becomes one.
#[async_trait]
pub trait Unfinished: Send {
    /// Takes items, in the order in which a [`Tally`] lets them through.
    async fn write(&mut self, items: Vec<Item>) -> Result<(), StoreError>;

    /// Hands over what it was given, read anew.
    async fn read(&mut self, items: Items) -> Result<(), StoreError>;

    /// Makes it a registry, in a life of its own: with another epoch, one revision after this position.
    ///
    /// # Errors
    /// [`CopyError::Unknown`] where the store does not answer whether it did; otherwise it did not.
    async fn finish(self: Box<Self>, after: Position) -> Result<Position, CopyError>;
}

/// Why a registry was not copied or restored. The target is no registry then, but where that is not known.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backup file.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The source contradicts itself.
    #[error(
        "{store} contradicts itself: its checksum is {expected:016x}, and that of its tokens and users {found:016x}. Nothing was copied"
    )]
    Contradiction {
        /// The source.
        store: String,
        /// What its position says.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// Another registry is where this one was made.
    #[error(
        "{0} holds another registry now, and this one is lost: it was made on a server that has been replaced meanwhile"
    )]
    Lost(String),
    /// All is in the target, and its last answer did not come, or too few replicas have it.
    #[error(
        "it is unknown whether the copy was completed: `tollgate status` on the target says so. If it was not, or if a \
         failover loses it, run the command again"
    )]
    Unknown(#[source] StoreError),
    /// The target does not hold what it was given.
    #[error("{store} holds {found}, and was given {given}: it was not made a registry. Try again")]
    Different {
        /// The target.
        store: String,
        /// What was written.
        given: Summary,
        /// What was read.
        found: Summary,
    },
}

/// A registry that was read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// What it is.
    pub summary: Summary,
    /// Where the store stood.
    pub position: Position,
}

/// Begins to fill the store that the settings name, which must be empty. What a copy before left that was broken off is
/// removed.
///
/// # Errors
/// [`StoreError::Unusable`] says what is there.
pub async fn begin(settings: &Settings) -> Result<Box<dyn Unfinished>, StoreError> {
    match &settings.url {
        StoreUrl::Sqlite(path) => Ok(Box::new(SqliteUnfinished::begin(path)?)),
        StoreUrl::Redis(_) => Ok(Box::new(RedisUnfinished::begin(settings).await?)),
    }
}

/// Copies a registry into an unfinished store, reads it there again, and makes it a registry. What was copied, and where the
/// target stands.
///
/// # Errors
/// [`CopyError`]: the target is no registry then, unless the error says that this is not known.
pub async fn copy(
    from: &dyn Store,
    mut to: Box<dyn Unfinished>,
    settings: &Settings,
) -> Result<(Whole, Position), CopyError> {
    let (items, mut received) = mpsc::channel(AHEAD);
    let target = &mut to;
    // It owns its end: where it fails, the source is not left waiting for room.
    let write = async move {
        let mut tally = Tally::default();
        while let Some(items) = received.recv().await {
            target.write(tally.take(items)).await?;
        }
        Ok::<_, StoreError>(tally.summary())
    };
    let whole = joined(from, from.dump(items), write).await?;
    let position = finish(to, settings, whole).await?;
    Ok((whole, position))
}

/// Restores a backup that was found whole into an unfinished store.
///
/// # Errors
/// As [`copy`].
pub async fn restore(
    mut from: Backup,
    mut to: Box<dyn Unfinished>,
    settings: &Settings,
) -> Result<(Whole, Position), CopyError> {
    let whole = from.whole();
    while let Some(items) = from.next()? {
        to.write(items).await?;
    }
    let position = finish(to, settings, whole).await?;
    Ok((whole, position))
}

/// What became of a dump, and of what was done with it.
pub(super) async fn joined<E: Into<CopyError>>(
    from: &dyn Store,
    dump: impl Future<Output = Result<Position, StoreError>>,
    work: impl Future<Output = Result<Summary, E>>,
) -> Result<Whole, CopyError> {
    // Who writes goes first: a reader that nobody listens to ends too.
    let work = async { work.await.map_err(Into::into) };
    let dump = async { dump.await.map_err(CopyError::from) };
    let (position, summary) = tokio::join!(dump, work);
    let (summary, position) = (summary?, position?);
    if summary.checksum != position.checksum {
        let (expected, found) = (position.checksum, summary.checksum);
        return Err(CopyError::Contradiction { store: from.describe(), expected, found });
    }
    Ok(Whole { summary, position })
}

async fn finish(mut to: Box<dyn Unfinished>, settings: &Settings, whole: Whole) -> Result<Position, CopyError> {
    let (items, mut received) = mpsc::channel(AHEAD);
    let count = async {
        let mut tally = Tally::default();
        while let Some(items) = received.recv().await {
            tally.take(items);
        }
        tally.summary()
    };
    let (read, found) = tokio::join!(to.read(items), count);
    read?;
    if found != whole.summary {
        return Err(CopyError::Different { store: settings.url.to_string(), given: whole.summary, found });
    }
    let position = to.finish(whole.position).await?;
    is_there(settings, position).await?;
    Ok(position)
}

/// Looks for the new registry where everybody else will: a long copy may end on a primary that is none any more.
async fn is_there(settings: &Settings, position: Position) -> Result<(), CopyError> {
    let found = match super::open(settings, Absent::Refuse).await {
        Ok(store) => store.position().await,
        Err(error) => Err(error),
    };
    match found {
        Ok(found) if found.epoch == position.epoch => Ok(()),
        Ok(_) => Err(CopyError::Lost(settings.url.to_string())),
        Err(error @ StoreError::Unavailable { .. }) => Err(CopyError::Unknown(error)),
        Err(error) => Err(error.into()),
    }
}

/// The position of a store that was filled from one that stood there: another life, and a commit further.
pub(super) fn succeeding(after: Position) -> Result<(super::CommitId, Position), crate::random::NoEntropy> {
    let (id, mut epoch) = (super::CommitId::random()?, [0; 8]);
    crate::random::fill(&mut epoch)?;
    let (epoch, revision) = (super::Epoch(u64::from_le_bytes(epoch)), Revision(after.revision.0 + 1));
    Ok((id, Position { epoch, revision, head: after.head.then(id), checksum: after.checksum }))
}

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

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use file::{Backup, BackupError, write_backup};
pub(super) use file::{name_new, sync_directory_of};
pub use item::{Item, Retired, TokenItem, UsageItem, UserItem};
pub use tally::{Summary, Tally};

use super::redis::RedisUnfinished;
use super::sqlite::SqliteUnfinished;
use super::{Absent, Position, Revision, Settings, Store, StoreError, StoreUrl, Unconfirmed};

/// Where a store hands over what it holds.
pub type Items = mpsc::Sender<Vec<Item>>;

/// Pieces that are read ahead.
const AHEAD: usize = 2;

/// A store that is being filled, and is no registry yet. Dropped before its end, it never becomes one.
#[async_trait]
pub trait Unfinished: Send {
    /// Takes items, in the order in which a [`Tally`] lets them through.
    async fn write(&mut self, items: Vec<Item>) -> Result<(), StoreError>;

    /// Hands over what it was given, read anew. All that a store derives from these items is there too, and nothing else.
    async fn read(&mut self, items: Items) -> Result<(), StoreError>;

    /// Makes it a registry, in a life of its own: with another epoch, one revision after this position. Also, which replicas
    /// do not have it yet, see [`Records::unconfirmed`](super::Records::unconfirmed).
    ///
    /// # Errors
    /// [`CopyError::Unknown`] where the store does not answer whether it did; otherwise it did not.
    async fn finish(self: Box<Self>, after: Position) -> Result<(Position, Option<Unconfirmed>), CopyError>;
}

/// Where a store stood that was read whole, and how much it says itself that it holds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inventory {
    /// Where it stood.
    pub position: Position,
    /// How many users.
    pub users: u64,
    /// How many tokens, revoked ones too.
    pub tokens: u64,
    /// How many digests of deleted tokens.
    pub retired: u64,
}

impl Inventory {
    /// Whether all of it was handed over. Digests of deleted tokens may have been forgotten since.
    fn is_in(&self, read: &Summary) -> bool {
        (self.users, self.tokens) == (read.users, read.tokens) && self.retired <= read.retired
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users, {} tokens and {} deleted digests", self.users, self.tokens, self.retired)
    }
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
    /// Not all of the source was read.
    #[error("{store} says that it holds {held}, and {read} were read: nothing was copied. Try again")]
    Incomplete {
        /// The source.
        store: String,
        /// What it says of itself.
        held: Inventory,
        /// What was read.
        read: Summary,
    },
    /// Somebody has lifted the freeze under which it was copied, or put another one in its place.
    #[error(
        "{0} is no longer frozen by this copy: it may have changed since, and nothing was copied. Have only one copy of it run, \
         and `tollgate store unfreeze` wait for it"
    )]
    Thawed(String),
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
    #[error(
        "{store} holds {found}, and was given {given}: it was not made a registry. If a failover came in between, try again"
    )]
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

/// A registry that was made of another one.
#[derive(Debug)]
pub struct Made {
    /// Of what.
    pub of: Whole,
    /// Where it stands.
    pub position: Position,
    /// A failover may lose it.
    pub unconfirmed: Option<Unconfirmed>,
}

/// Copies a registry into an unfinished store, reads it there again, and makes it a registry: of a source that was frozen for
/// this copy, only if it still is, with this reason.
///
/// # Errors
/// [`CopyError`]: the target is no registry then, unless the error says that this is not known.
pub async fn copy(
    from: &dyn Store,
    freeze: Option<&str>,
    mut to: Box<dyn Unfinished>,
    settings: &Settings,
) -> Result<Made, CopyError> {
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
    verify(&mut *to, settings, &whole).await?;
    if freeze.is_some() && from.frozen().await?.as_deref() != freeze {
        return Err(CopyError::Thawed(from.describe()));
    }
    finish(to, settings, whole).await
}

/// Restores a backup that was found whole into an unfinished store.
///
/// # Errors
/// As [`copy`].
pub async fn restore(mut from: Backup, mut to: Box<dyn Unfinished>, settings: &Settings) -> Result<Made, CopyError> {
    let whole = from.whole();
    // Files of earlier programs are not in order of names.
    let mut tally = Tally::default();
    while let Some(items) = from.next()? {
        to.write(tally.take(items)).await?;
    }
    drop(tally);
    verify(&mut *to, settings, &whole).await?;
    finish(to, settings, whole).await
}

/// What became of a dump, and of what was done with it.
pub(super) async fn joined<E: Into<CopyError>>(
    from: &dyn Store,
    dump: impl Future<Output = Result<Inventory, StoreError>>,
    work: impl Future<Output = Result<Summary, E>>,
) -> Result<Whole, CopyError> {
    // Who writes goes first: a reader that nobody listens to ends too.
    let work = async { work.await.map_err(Into::into) };
    let dump = async { dump.await.map_err(CopyError::from) };
    let (held, summary) = tokio::join!(dump, work);
    let (summary, held) = (summary?, held?);
    if !held.is_in(&summary) {
        return Err(CopyError::Incomplete { store: from.describe(), held, read: summary });
    }
    let position = held.position;
    if summary.checksum != position.checksum {
        let (expected, found) = (position.checksum, summary.checksum);
        return Err(CopyError::Contradiction { store: from.describe(), expected, found });
    }
    Ok(Whole { summary, position })
}

/// Compares what is in a store with what it was given.
async fn verify(to: &mut dyn Unfinished, settings: &Settings, whole: &Whole) -> Result<(), CopyError> {
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
    match found == whole.summary {
        true => Ok(()),
        false => Err(CopyError::Different { store: settings.describe(), given: whole.summary, found }),
    }
}

async fn finish(to: Box<dyn Unfinished>, settings: &Settings, of: Whole) -> Result<Made, CopyError> {
    let (position, unconfirmed) = to.finish(of.position).await?;
    is_there(settings, position).await?;
    Ok(Made { of, position, unconfirmed })
}

/// Looks for the new registry where everybody else will: a long copy may end on a primary that is none any more.
async fn is_there(settings: &Settings, position: Position) -> Result<(), CopyError> {
    let found = match super::open(settings, Absent::Refuse).await {
        Ok(store) => store.position().await,
        Err(error) => Err(error),
    };
    match found {
        Ok(found) if found.epoch == position.epoch => Ok(()),
        Ok(_) => Err(CopyError::Lost(settings.describe())),
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

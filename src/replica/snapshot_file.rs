//! The snapshot file: what the replica held, so that the next start need not wait for the store.
//!
//! ```text
//!   every minute, and at the end:  replica ─► FILE.new ─► fsync ─► rename to FILE
//!   at the start:                  FILE ─► replica ─► hash right? ─► the log from its position on settles it
//! ```
//!
//! The file is written while the replica moves on, shard by shard, so it is what a store's snapshot is: everything that
//! was held at the position read *before* its first item, mixed with later commits. The log after that position makes
//! it exact, and the checksum then says whether it is. A file of another epoch, or one that a store has lost writes of,
//! is found out by that in the same way as the replica of a sidecar that was never restarted.
//!
//! **It makes nothing fresher than it was.** The file says when the replica was last proven fresh, a moment before the
//! first item was written, by a clock that goes on while the sidecar is not running. So everything committed before that
//! moment is in the file, and a sidecar that starts while its store is away serves from it for exactly as long as it
//! would have without the restart. After a restart of the machine that clock means nothing: then the file saves reading
//! the store, and nothing is served until the first proof.
//!
//! **It forgets no revocation that it holds.** Tombstones are written last, so none is missing of a token that the file
//! shows, and keep their age. What was revoked after the file was written is in the log; if the store has lost it too, a
//! sidecar that was killed has forgotten it. Other sidecars have not, and recall it. One that is stopped writes the file
//! once more.
//!
//! A file that is damaged, of another store, program or version, or writable by others is reported and ignored. The
//! store is told apart by its name: the epoch would tell too, but only the store can say it, and until then the tokens
//! of another registry would be let in.

mod format;
mod moment;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::sync::Synchroniser;
use super::{Replica, table};
use crate::store::{Position, Revision};
use format::{Encoder, FormatError, Item, Standing, Tombstone};
use moment::Moment;

/// How often the file is written, if the replica has moved.
const INTERVAL: Duration = Duration::from_secs(60);

/// Bytes read and written at once.
const BUFFER: usize = 1 << 20;

/// Tombstones written at once.
const PAGE: usize = 16_384;

/// One sidecar's snapshot file.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    /// Which store the replica is of.
    store: String,
    replica: Arc<Replica>,
    /// Held while the file is written.
    writing: Mutex<Writing>,
}

#[derive(Debug, Default)]
struct Writing {
    /// The position of the file that is there.
    saved: Option<Position>,
    /// The latest attempt failed, and was logged.
    failing: bool,
}

/// Why a file is not used, or could not be written.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it {0}")]
    Format(#[from] FormatError),
    #[error("it is no regular file")]
    NoFile,
    #[error("others than its owner, or than the user this program runs as, may write it")]
    Exposed,
}

impl SnapshotFile {
    /// The file at `path`, of this replica of the store with this name. Touches neither.
    #[must_use]
    pub fn new(path: PathBuf, store: String, replica: Arc<Replica>) -> Arc<Self> {
        Arc::new(Self { path, store, replica, writing: Mutex::default() })
    }

    /// Fills the replica from the file, and returns what goes on from there. Without a usable file the replica stays
    /// empty. To be awaited before anything else writes the replica.
    pub async fn load(self: &Arc<Self>) -> Synchroniser {
        let this = Arc::clone(self);
        let loading = tokio::task::spawn_blocking(move || this.load_now(Moment::now(), Instant::now()));
        // It fails by a panic only, and then has written nothing that counts as proven.
        loading.await.unwrap_or_default()
    }

    /// Writes the file every minute, if the replica has moved and is at a position. Never ends; may be dropped at any
    /// point.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let position = *self.replica.position().borrow();
            if position.is_some() && position != self.saved() {
                self.save().await;
            }
        }
    }

    /// Writes the file now, whatever the replica's position, if it was ever proven fresh.
    pub async fn save(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let saving = tokio::task::spawn_blocking(move || this.save_now(Moment::now()));
        if saving.await.is_err() {
            tracing::error!(file = %self.path.display(), "writing the snapshot file ended by a panic");
        }
    }

    fn saved(&self) -> Option<Position> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).saved
    }

    fn load_now(&self, here: Option<Moment>, now: Instant) -> Synchroniser {
        let (started, file) = (Instant::now(), self.path.display());
        match self.read() {
            Ok((standing, tombstones)) => {
                let since = |then: Option<Moment>| here?.since(then?);
                let as_of = since(standing.proven).and_then(|elapsed| now.checked_sub(elapsed));
                let away = since(standing.saved).map_or(0, |away| u32::try_from(away.as_secs()).unwrap_or(u32::MAX));
                let aged: Vec<_> = tombstones.iter().map(|(digest, age)| (*digest, age.saturating_add(away))).collect();
                let found = self.replica.adopt(&aged, as_of, now);
                let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                let grants = self.replica.grants.len();
                let revision = standing.position.map(|(position, _)| position.revision.0);
                let proven_seconds_ago = as_of.map(|as_of| now.saturating_duration_since(as_of).as_secs());
                tracing::info!(
                    %file, grants, tombstones = aged.len(), revision, proven_seconds_ago, milliseconds,
                    "the replica was loaded from the snapshot file"
                );
                match standing.position {
                    Some((position, reaches)) => Synchroniser::resumed(position, reaches, found),
                    None => Synchroniser::new(),
                }
            }
            Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::info!(%file, "there is no snapshot file yet");
                Synchroniser::new()
            }
            Err(reason) => {
                // Nothing of it was served: nothing was proven.
                self.replica.begin_merge();
                self.replica.sweep(false, now);
                tracing::warn!(%file, %reason, "the snapshot file is ignored: the replica is read from the store");
                Synchroniser::new()
            }
        }
    }

    fn save_now(&self, here: Option<Moment>) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (started, file) = (Instant::now(), self.path.display());
        match self.write(here) {
            Ok(None) => {}
            Ok(Some(standing)) => {
                *writing = Writing { saved: standing.position.map(|(position, _)| position), failing: false };
                let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::debug!(%file, milliseconds, "wrote the snapshot file");
            }
            Err(error) if writing.failing => tracing::debug!(%file, %error, "still cannot write the snapshot file"),
            Err(error) => {
                writing.failing = true;
                tracing::warn!(%file, %error, "cannot write the snapshot file: the next start reads the store");
            }
        }
    }

    /// Merges the file into the replica. On an error the replica holds some of it.
    fn read(&self) -> Result<(Standing, Vec<Tombstone>), FileError> {
        let file = File::open(&self.path)?;
        let length = check(&file)?;
        self.replica.begin_merge();
        let mut tombstones = Vec::new();
        let file = BufReader::with_capacity(BUFFER, file);
        let standing = format::read(file, length, &self.store, &mut |item| match item {
            Item::Snapshot(item) => drop(self.replica.merge(&item)),
            Item::Tombstone(tombstone) => tombstones.push(tombstone),
        })?;
        Ok((standing, tombstones))
    }

    /// Writes a new file, and puts it in the place of the old one. `None`: there is nothing proven to be saved.
    fn write(&self, here: Option<Moment>) -> Result<Option<Standing>, FileError> {
        // Before the first item: the file holds at least what was proven then.
        let Some(staleness) = self.replica.staleness(Instant::now()) else { return Ok(None) };
        let proven = here.and_then(|here| here.before(staleness));
        let new = self.path.with_added_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let write = || -> Result<Standing, FileError> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            let out = BufWriter::with_capacity(BUFFER, file);
            let mut encoder = Encoder::new(out, &self.store, self.replica.grants.len())?;
            let position = write_items(&mut encoder, &self.replica)?;
            let standing = Standing { proven, saved: here, position };
            let mut out = encoder.end(&standing)?;
            out.flush()?;
            out.get_ref().sync_all()?;
            fs::rename(&new, &self.path)?;
            Ok(standing)
        };
        let standing = write().inspect_err(|_| {
            // What is half written is in nobody's way, and the next attempt removes it.
            fs::remove_file(&new).ok();
        })?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(Some(standing))
    }
}

/// The file's length, if only the right ones can write it: who can write it can make tokens.
fn check(file: &File) -> Result<u64, FileError> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileError::NoFile);
    }
    let owner = metadata.uid();
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if ours && metadata.mode() & 0o022 == 0 { Ok(metadata.len()) } else { Err(FileError::Exposed) }
}

/// Writes all that the replica holds, and returns from where the log makes it exact, and up to where it may be mixed.
fn write_items<W: io::Write>(
    encoder: &mut Encoder<W>,
    replica: &Replica,
) -> Result<Option<(Position, Revision)>, FileError> {
    // In this order: with a resync in between, the two do not belong together, and the generation tells.
    let (generation, _) = replica.ledger().progress();
    let position = *replica.position.borrow();
    let owners = replica.ledger().owners();
    encoder.owners(&owners)?;
    let mut index = 0;
    while let Some(grants) = table::copy_shard(&replica.grants, index) {
        encoder.grants(&grants)?;
        index += 1;
    }
    let suppressed = replica.ledger().suppressed_grants();
    encoder.grants(&suppressed)?;
    let mut from = 0;
    while let Some((page, next)) = { replica.ledger().tombstones(from, PAGE, Instant::now()) } {
        encoder.tombstones(&page)?;
        from = next;
    }
    // They are refused for as long as the store holds them, also once their tombstones have gone.
    let refused: Vec<_> = suppressed.iter().map(|(digest, _)| (*digest, 0)).collect();
    encoder.tombstones(&refused)?;
    let (last_generation, applied) = replica.ledger().progress();
    let position = position.filter(|_| generation == last_generation);
    Ok(position.map(|position| (position, position.revision.max(applied))))
}

#[cfg(test)]
mod tests;

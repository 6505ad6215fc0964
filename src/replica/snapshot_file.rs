//! The snapshot file: what the replica held, so that the next start need not wait for the store.
//!
//! ```text
//!   after changes, and at the end:  replica ─► FILE.new ─► fsync ─► rename to FILE
//!   while nothing changes:          when it was last proven ─► the end of FILE, every second
//!   at the start:                   FILE ─► replica ─► hash right? ─► the log from its position on settles it
//! ```
//!
//! The file is written while the replica moves on, shard by shard, so it is what a store's snapshot is: everything that
//! was held at the position read *before* its first item, mixed with later commits. The log after that position makes
//! it exact, and the checksum then says whether it is. A file of another epoch, or one that a store has lost writes of,
//! is found out by that in the same way as the replica of a sidecar that was never restarted.
//!
//! **It makes nothing fresher than it was, and nothing staler.** The file says when the replica was last proven fresh, a
//! moment before the first item was written, by a clock that goes on while the sidecar is not running. So everything
//! committed before that moment is in the file, and a sidecar that starts while its store is away serves from it for as
//! long as it would have without the restart. While the replica holds what the file holds, each new proof is written over
//! the one before, in a few bytes that need not reach the disk: they are for a process that is killed. After a restart of
//! the machine that clock means nothing: then the file saves reading the store, and nothing is served until the first proof.
//!
//! **What was reported is true after a restart too.** A position that is reported says that no token is let in any more
//! that was taken away up to there, by this run or the next one. So before it is reported, a file that was written before
//! something was taken away loses its proof ([`SnapshotFile::vouch`]), until it is written again: it is good for catching up
//! from, and not for serving. That need not reach the disk either.
//!
//! **It forgets no revocation that it holds.** Tombstones are written last, so none is missing of a token that the file
//! shows, and retain their age. What was revoked after the file was written is in the log; if the store has lost it too, a
//! sidecar that was killed has forgotten it. Other sidecars have not, and recall it. One that is stopped writes the file
//! once more.
//!
//! A file that is damaged, of another store, program or version, or writable by others is reported and ignored. The
//! store is identified by its name: the epoch would do too, but only the store can say it, and until then the tokens
//! of another registry would be let in.

mod format;
mod moment;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _};
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use super::identity::{self, Claim, UnstoredId};
use super::sync::Synchroniser;
use super::table::Seen;
use super::tombstone::RETENTION_SECONDS;
use super::{Extent, Replica, SidecarIdentity, table};
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::store::{Position, Revision, SidecarId};
use crate::token::UserId;
use format::{Encoder, FormatError, Item, Origin, Proof, Seal, Tombstone, Trailer};
use moment::Moment;

/// How often the proof is written, if there is a new one.
const RENEWAL: Duration = Duration::from_secs(1);

/// The shortest and the longest time between two writings of the whole file, if the replica has moved; in between, so long
/// that writing takes a fiftieth of the time.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(60);

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
    /// Whose file it is.
    sidecar: SidecarId,
    /// How long a proof may be served from at most.
    bound: Duration,
    replica: Arc<Replica>,
    /// Another process has it, which this one takes over from: it is read, and not written.
    awaits: AtomicBool,
    /// Held while the file is written.
    writing: Mutex<Writing>,
    /// Held for a moment, also while `writing` is.
    current: Mutex<Current>,
}

/// The file that is there.
#[derive(Debug)]
struct Current {
    /// What was written last, while it can be renewed.
    saved: Option<Saved>,
    /// Up to which narrowing (see [`Extent`]) the file has been brought; `None`: no start serves from it.
    narrowed: Option<u64>,
    /// Up to which narrowing it was reported that it has happened here.
    vouched: u64,
}

#[derive(Debug, Default)]
struct Writing {
    /// Before the first writing, if the file that is there is not this sidecar's.
    unstored: Option<UnstoredId>,
    /// Held while this process runs, if it took the file over.
    lock: Option<File>,
    /// When it may be written again.
    due: Option<Instant>,
    /// The latest attempt failed, and was logged.
    failing: bool,
}

/// A file that was written.
#[derive(Debug)]
struct Saved {
    file: File,
    seal: Seal,
    /// Where its proof is.
    offset: u64,
    /// Which proof that is.
    proven: Instant,
    /// What the replica held.
    extent: Extent,
}

/// Why a file is not used, or could not be written.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("the file is no regular file")]
    NoFile,
    #[error("what is there is no snapshot of a replica, and is not replaced: remove it, or name another file")]
    Foreign,
    #[error("others than its owner, or than the user this program runs as, may write it")]
    Exposed,
}

/// What a file says beside what the replica then holds.
#[derive(Debug)]
struct Loaded {
    trailer: Trailer,
    proof: Proof,
    tombstones: Vec<Tombstone>,
    announced: Vec<(UserId, Seen)>,
}

impl SnapshotFile {
    /// The file at `path`, of this sidecar's replica of the store with this name, whose proofs are served from for so long at
    /// most. Touches neither. With an id that is not stored yet, what is there is another sidecar's, until it is written.
    #[must_use]
    pub(crate) fn new(
        path: PathBuf,
        store: String,
        identity: &mut SidecarIdentity,
        bound: Duration,
        replica: Arc<Replica>,
    ) -> Arc<Self> {
        let (sidecar, unstored) = (identity.id, identity.unstored.take());
        let awaits = AtomicBool::new(identity.awaits);
        // What is there is what the replica will be filled from, or else of no use.
        let current = Mutex::new(Current { saved: None, narrowed: Some(0), vouched: 0 });
        let writing = Mutex::new(Writing { unstored, ..Writing::default() });
        Arc::new(Self { path, store, sidecar, bound, replica, awaits, writing, current })
    }

    /// Takes the file from the process that has it, if there is one, as soon as that has ended, and writes it.
    pub(crate) async fn take_over(self: &Arc<Self>) {
        if !self.awaits() {
            return;
        }
        let this = Arc::clone(self);
        let claiming = tokio::task::spawn_blocking(move || identity::claim(&this.path, this.sidecar));
        match claiming.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(Claim { unstored, lock }) => {
                {
                    let mut writing = self.writing();
                    (writing.unstored, writing.lock) = (Some(unstored), Some(lock));
                }
                self.awaits.store(false, Ordering::Release);
                self.save().await;
            }
            Err(error) => tracing::error!(
                file = %self.path.display(), %error,
                "cannot take the snapshot file over: this process goes on without one; store.snapshot_file names another"
            ),
        }
    }

    /// Gives the file up for good: whoever starts from it serves nothing until the store answers, so that nobody need wait for
    /// this sidecar.
    ///
    /// # Errors
    /// When the file can neither be changed nor removed.
    pub(crate) async fn renounce(self: &Arc<Self>) -> io::Result<()> {
        let this = Arc::clone(self);
        let renouncing = tokio::task::spawn_blocking(move || {
            let mut current = this.current();
            if this.awaits() {
                // It is another one's; should it become this one's yet, it proves nothing.
                current.vouched = u64::MAX;
                return Ok(());
            }
            current.vouch(u64::MAX, &this.path)
        });
        renouncing.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    fn awaits(&self) -> bool {
        self.awaits.load(Ordering::Acquire)
    }

    /// Fills the replica from the file, and returns what goes on from there. Without a usable file the replica stays
    /// empty. To be awaited before anything else writes the replica.
    pub(crate) async fn load(self: &Arc<Self>) -> Synchroniser {
        let this = Arc::clone(self);
        let loading = tokio::task::spawn_blocking(move || this.load_now(Moment::now()));
        // It fails by a panic only, and then has written nothing that counts as proven.
        loading.await.unwrap_or_default()
    }

    /// Writes the file when the replica has moved and is at a position, and else its proof. Never ends; may be dropped at
    /// any point.
    pub(crate) async fn save_periodically(self: Arc<Self>) {
        // From then on a start after a crash is one of this sidecar.
        self.replica.ready().await;
        loop {
            let this = Arc::clone(&self);
            // It fails by a panic only, which is logged.
            drop(tokio::task::spawn_blocking(move || this.save_if_changed(Moment::now())).await);
            tokio::time::sleep(RENEWAL).await;
        }
    }

    /// One turn of [`SnapshotFile::save_periodically`].
    fn save_if_changed(&self, here: Option<Moment>) {
        if self.awaits() {
            return;
        }
        {
            let mut current = self.current();
            match current.saved.as_mut().map(|saved| saved.renew(&self.replica, here)) {
                Some(Ok(true)) => return,
                Some(Err(error)) => {
                    tracing::debug!(file = %self.path.display(), %error, "cannot renew the snapshot file's proof");
                    current.saved = None;
                }
                Some(Ok(false)) | None => {}
            }
        }
        let due = self.writing().due.is_none_or(|due| due <= Instant::now());
        if due && self.replica.position.borrow().is_some() {
            self.save_now(here);
        }
    }

    /// Writes the file now, whatever the replica's position, if it was ever proven fresh.
    pub(crate) async fn save(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let saving = tokio::task::spawn_blocking(move || this.save_now(Moment::now()));
        if saving.await.is_err() {
            tracing::error!(file = %self.path.display(), "writing the snapshot file panicked");
        }
    }

    /// To be awaited before the replica's position is reported: makes sure that no start serves what was taken away up
    /// to now.
    ///
    /// # Errors
    /// When the file can neither be changed nor removed: then nothing must be reported.
    pub(crate) async fn vouch(self: &Arc<Self>) -> io::Result<()> {
        let this = Arc::clone(self);
        let narrowed = *this.replica.narrowed.borrow();
        // While another process has it, what starts from it is that one again.
        if self.awaits() || self.current().is_vouched(narrowed) {
            return Ok(());
        }
        let vouching = tokio::task::spawn_blocking(move || this.current().vouch(narrowed, &this.path));
        vouching.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock()
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock()
    }

    fn load_now(&self, here: Option<Moment>) -> Synchroniser {
        let (started, file) = (Instant::now(), self.path.display());
        let now = here.map_or(started, |here| here.at);
        match self.read() {
            Ok(Loaded { trailer, proof: Proof(proven), tombstones, announced }) => {
                let moment = |then: Option<Moment>| here?.recall(then?);
                // Of a longer time the store has promised nothing to those who wait for this sidecar.
                let is_covered = self.bound <= trailer.bound;
                if !is_covered {
                    tracing::warn!(
                        %file, "max_staleness is longer than it was: nothing is served from the snapshot file until the store answers"
                    );
                }
                let as_of = moment(proven).filter(|_| is_covered);
                let away = moment(trailer.saved).map_or(0, |saved| now.duration_since(saved).as_secs());
                let away = u32::try_from(away).unwrap_or(u32::MAX);
                let aged: Vec<_> = tombstones.iter().map(|(digest, age)| (*digest, age.saturating_add(away))).collect();
                let reaches = trailer.position.map_or(Revision(u64::MAX), |(_, reaches)| reaches);
                let announced = trailer.position.map(|(position, _)| (position.epoch, announced.as_slice()));
                let found = self.replica.adopt(&aged, announced, reaches, as_of, now);
                let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                let grants = self.replica.grants.len();
                let revision = trailer.position.map(|(position, _)| position.revision.0);
                let proven_seconds_ago = as_of.map(|as_of| now.duration_since(as_of).as_secs());
                tracing::info!(
                    %file, grants, tombstones = aged.len(), revision, proven_seconds_ago, milliseconds,
                    "the replica was loaded from the snapshot file"
                );
                match trailer.position {
                    Some((position, _)) => Synchroniser::resumed(position, found),
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
                self.replica.sweep();
                tracing::warn!(%file, %reason, "the snapshot file is ignored: the replica is read from the store");
                Synchroniser::new()
            }
        }
    }

    fn origin(&self, file: &File) -> io::Result<Origin> {
        let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
        let born = (found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
        Ok(Origin { sidecar: self.sidecar, inode: found.stx_ino, born })
    }

    fn save_now(&self, here: Option<Moment>) {
        if self.awaits() {
            return;
        }
        let mut writing = self.writing();
        let (started, file) = (Instant::now(), self.path.display());
        // Of a sidecar that was proven fresh the store has a report.
        if self.replica.proven().is_some()
            && let Some(id) = writing.unstored.take()
        {
            id.store();
        }
        let written = self.write(here);
        writing.due = Some(Instant::now() + (50 * started.elapsed()).clamp(*INTERVAL.start(), *INTERVAL.end()));
        match written {
            Ok(false) => {}
            Ok(true) => {
                writing.failing = false;
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
    fn read(&self) -> Result<Loaded, FileError> {
        let file = open(&self.path)?;
        let (length, origin) = (check(&file)?, self.origin(&file)?);
        self.replica.begin_merge();
        let (mut tombstones, mut announced) = (Vec::new(), Vec::new());
        let file = BufReader::with_capacity(BUFFER, file);
        let (trailer, proof) = format::read(file, length, &self.store, origin, &mut |item| match item {
            Item::Snapshot(item) => drop(self.replica.merge(&item)),
            Item::TouchedBefore(id, before) => self.replica.ledger().touched_after(id, before),
            Item::Held(id, seen) => self.replica.ledger().hold(id, seen),
            Item::Announced(id, seen) => announced.push((id, seen)),
            Item::Tombstone(tombstone) => tombstones.push(tombstone),
        })?;
        Ok(Loaded { trailer, proof, tombstones, announced })
    }

    /// Writes a new file, and puts it in the place of the old one. Nothing is done while nothing was proven. Whether it did.
    fn write(&self, here: Option<Moment>) -> Result<bool, FileError> {
        // Before the first item: the file holds at least what was proven then.
        let Some(proven) = self.replica.proven() else { return Ok(false) };
        let extent = self.replica.extent();
        if !is_ours(&self.path)? {
            return Err(FileError::Foreign);
        }
        let new = self.path.with_added_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let write = || -> Result<(), FileError> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            let origin = self.origin(&file)?;
            let out = BufWriter::with_capacity(BUFFER, file);
            let mut encoder = Encoder::new(out, &self.store, self.replica.grants.len())?;
            let position = write_items(&mut encoder, &self.replica)?;
            let proof = Proof(here.map(|here| Moment { at: proven, ..here }));
            let (out, seal) = encoder.end(&Trailer { saved: here, bound: self.bound, position }, proof, origin)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            let offset = file.metadata()?.len() - Proof::ENCODED as u64;
            let saved = Saved { file, seal, offset, proven, extent };
            let mut current = self.current();
            // Something was taken away since, and that was reported; or is announced, and the file has no place for it.
            let is_void = current.vouched > extent.narrowed || self.replica.is_behind_notices();
            if is_void {
                saved.disprove()?;
            }
            fs::rename(&new, &self.path)?;
            current.narrowed = (!is_void).then_some(extent.narrowed);
            current.saved = (position.is_some() && !is_void).then_some(saved);
            Ok(())
        };
        write().inspect_err(|_| {
            // What is half written is in nobody's way, and the next attempt removes it.
            fs::remove_file(&new).ok();
        })?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(true)
    }
}

impl Current {
    fn is_vouched(&self, narrowed: u64) -> bool {
        self.vouched >= narrowed
    }

    /// Lets no start serve from a file that was written before this narrowing.
    fn vouch(&mut self, narrowed: u64, path: &Path) -> io::Result<()> {
        if self.narrowed.is_some_and(|held| held < narrowed) {
            let disproven = self.saved.as_ref().map(Saved::disprove);
            if disproven.is_none_or(|disproven| disproven.is_err()) {
                fs::remove_file(path).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })?;
            }
            self.narrowed = None;
        }
        self.vouched = self.vouched.max(narrowed);
        Ok(())
    }
}

impl Saved {
    /// Overwrites the proof by none.
    fn disprove(&self) -> io::Result<()> {
        self.file.write_all_at(&Proof(None).encode(&self.seal), self.offset)
    }

    /// Writes the latest proof over the one in the file, if it is a proof of what the file holds. Whether it is.
    fn renew(&mut self, replica: &Replica, here: Option<Moment>) -> io::Result<bool> {
        // In this order: what was committed before a proof was applied before it.
        let proven = replica.proven();
        if replica.extent() != self.extent {
            return Ok(false);
        }
        if let (Some(proven), Some(here)) = (proven, here)
            && proven > self.proven
        {
            let proof = Proof(Some(Moment { at: proven, ..here }));
            self.file.write_all_at(&proof.encode(&self.seal), self.offset)?;
            self.proven = proven;
        }
        Ok(true)
    }
}

/// Opens what is to be read; a pipe, which may have no other end yet, without waiting for one.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

/// Whether what is there may be replaced: nothing, a snapshot, or the beginning of one.
fn is_ours(path: &Path) -> Result<bool, FileError> {
    let mut beginning = Vec::new();
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error.into()),
        Ok(file) if !file.metadata()?.is_file() => return Err(FileError::NoFile),
        Ok(file) => file.take(format::MAGIC.len() as u64).read_to_end(&mut beginning)?,
    };
    Ok(format::MAGIC.starts_with(&beginning))
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
    // In this order: with a resync in between, the two do not belong together, and the basis shows it.
    let (basis, _) = replica.ledger().progress();
    let position = *replica.position.borrow();
    let owners = replica.ledger().owners();
    let held = replica.ledger().held();
    let announced = replica.ledger().announced();
    encoder.owners(&owners)?;
    encoder.held(&held)?;
    encoder.announced(&announced)?;
    let mut index = 0;
    while let Some(grants) = table::copy_shard(&replica.grants, index) {
        encoder.grants(&grants)?;
        index += 1;
    }
    let suppressed = replica.ledger().suppressed_grants();
    encoder.grants(&suppressed)?;
    // They are refused for as long as the store holds them, whether they have a tombstone or not: so they come first, as
    // old as can be, and take the place of none.
    let refused: Vec<_> = suppressed.iter().map(|(digest, _)| (*digest, RETENTION_SECONDS)).collect();
    encoder.tombstones(&refused)?;
    let mut from = 0;
    while let Some((page, next)) = { replica.ledger().tombstones(from, PAGE, Instant::now()) } {
        encoder.tombstones(&page)?;
        from = next;
    }
    let (last_basis, applied) = replica.ledger().progress();
    let position = position.filter(|_| basis == last_basis);
    Ok(position.map(|position| (position, position.revision.max(applied))))
}

#[cfg(test)]
mod tests;

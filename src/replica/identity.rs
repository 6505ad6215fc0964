//! Who a sidecar is, from one start to the next.
//!
//! With a snapshot file it may let in at its start what it let in before, while the store that it reported to is away. Whoever
//! waits for a revocation then waits for the report of the run before: so this run has its id, from a file beside that.
//!
//! ```text
//!   FILE.id: the id, and which file of which run of the machine that was stored in
//!     this very one, locked    ─► the sidecar of that id: the snapshot file is its own
//!     another: FILE.id is a copy; no file; no lock   ─► another sidecar, under a new id: the snapshot file makes nothing fresh
//! ```
//!
//! What was copied may run elsewhere, under the id that is in it: two under one id would be one to whoever waits for both. One
//! file has an id, as no other file can be the one that is stored in it while it is open, and one process has the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use crate::clock;
use crate::random;
use crate::store::SidecarId;

/// Who this sidecar is: drawn at its start, or with a snapshot file that is its own, who it was.
#[derive(Debug)]
pub struct SidecarIdentity {
    /// Its id.
    pub id: SidecarId,
    /// To be stored as soon as the snapshot file is this sidecar's; `None`: it is.
    pub(crate) unstored: Option<UnstoredId>,
    /// Locked while it runs.
    _lock: Option<File>,
    /// The snapshot file is that of a sidecar which runs still, and which this one takes over from.
    pub(crate) awaits: bool,
}

/// An id that is not beside the snapshot file yet: what is there is not known to be this sidecar's.
#[derive(Debug)]
pub(crate) struct UnstoredId {
    path: PathBuf,
    /// `None`: nothing would tell that it was written there.
    text: Option<String>,
}

/// What makes a snapshot file this sidecar's: its id is beside it, locked.
#[derive(Debug)]
pub(crate) struct Claim {
    /// To be stored as soon as the snapshot file is written.
    pub(crate) unstored: UnstoredId,
    /// Held while it runs.
    pub(crate) lock: File,
}

/// Another sidecar runs with the same snapshot file.
#[derive(Debug, thiserror::Error)]
#[error("another sidecar uses the snapshot file {}: each needs one of its own (store.snapshot_file)", .0.display())]
pub struct SnapshotFileInUse(PathBuf);

impl SidecarIdentity {
    /// That of a sidecar with this snapshot file, if it has one.
    ///
    /// # Errors
    /// When another sidecar runs with it.
    pub fn take(snapshot_file: Option<&Path>) -> Result<Self, SnapshotFileInUse> {
        let id = SidecarId(random::number());
        let Some(snapshot_file) = snapshot_file else { return Ok(Self::of(id)) };
        let path = snapshot_file.with_added_extension("id");
        let (lock, written, origin) = match open(&path, FlockOperation::NonBlockingLockExclusive) {
            Ok((file, written, origin)) => (Some(file), written, Some(origin)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(SnapshotFileInUse(snapshot_file.to_owned()));
            }
            Err(error) => {
                warn(&path, &error);
                (None, String::new(), None)
            }
        };
        let origin = origin.filter(|_| clock::boot() != 0);
        if let Some((known, of)) = written.trim_end().split_once(' ')
            && let (Ok(known), Some(origin)) = (u64::from_str_radix(known, 16), &origin)
        {
            if of == origin {
                return Ok(Self { _lock: lock, ..Self::of(SidecarId(known)) });
            }
            // After another start of the machine its files may have other numbers.
            if of.split(' ').next() == origin.split(' ').next() {
                tracing::warn!(
                    file = %path.display(), %id,
                    "the snapshot file and its id were copied: this sidecar gets an id of its own, and serves once the store \
                     answers; to set up a sidecar, copy neither"
                );
            }
        }
        let text = origin.map(|origin| format!("{id} {origin}\n"));
        Ok(Self { unstored: Some(UnstoredId { path, text }), _lock: lock, ..Self::of(id) })
    }

    /// The same for one that takes over from another: while that one has the file, it is another sidecar, with an id of its own,
    /// and the file is its own as soon as it can [`claim`] it.
    pub(crate) fn take_or_await(snapshot_file: Option<&Path>) -> Self {
        Self::take(snapshot_file).unwrap_or_else(|_| Self { awaits: true, ..Self::of(SidecarId(random::number())) })
    }

    /// That of a sidecar with no snapshot file of its own.
    pub(super) fn of(id: SidecarId) -> Self {
        Self { id, unstored: None, _lock: None, awaits: false }
    }
}

/// Takes the snapshot file that another sidecar has, for the one with this id, when that has ended: it may be that of a process
/// before the one that this one took over from, which still finishes what it has. Blocks.
///
/// # Errors
/// When the id cannot be kept beside it.
pub(crate) fn claim(snapshot_file: &Path, id: SidecarId) -> io::Result<Claim> {
    let path = snapshot_file.with_added_extension("id");
    let opened = match open(&path, FlockOperation::NonBlockingLockExclusive) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tracing::warn!(
                file = %snapshot_file.display(),
                "another process has the snapshot file still: this one goes on without one until that has ended"
            );
            open(&path, FlockOperation::LockExclusive)
        }
        opened => opened,
    };
    let (lock, _, origin) = opened?;
    let text = (clock::boot() != 0).then(|| format!("{id} {origin}\n"));
    Ok(Claim { unstored: UnstoredId { path, text }, lock })
}

/// The file, locked; what is in it; and what identifies it until the machine is started again.
fn open(path: &Path, lock: FlockOperation) -> io::Result<(File, String, String)> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    retry_on_intr(|| flock(&file, lock))?;
    let (mut written, metadata) = (Vec::new(), file.metadata()?);
    file.read_to_end(&mut written)?;
    let origin = format!("{:032x} {} {}", clock::boot(), metadata.dev(), metadata.ino());
    Ok((file, String::from_utf8_lossy(&written).into_owned(), origin))
}

fn warn(path: &Path, error: &io::Error) {
    tracing::warn!(
        file = %path.display(), %error,
        "cannot keep this sidecar's id: its next start is another sidecar for `--wait`, and serves once the store answers"
    );
}

impl UnstoredId {
    /// Stores it. The store must have a report of this sidecar: its next start goes on under this id.
    pub(crate) fn store(self) {
        if let Some(text) = self.text {
            fs::write(&self.path, text).inspect_err(|error| warn(&self.path, error)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(file: &Path) -> SidecarIdentity {
        SidecarIdentity::take(Some(file)).expect("is free")
    }

    /// Takes it, stores it and ends.
    fn run(file: &Path) -> SidecarId {
        let mut identity = take(file);
        if let Some(id) = identity.unstored.take() {
            id.store();
        }
        identity.id
    }

    #[test]
    fn one_that_starts_again_is_the_same_once_its_id_was_stored() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("snapshot");
        let [first, second] = [(); 2].map(|()| take(&file).id);
        assert_ne!(first, second);
        let id = run(&file);
        let again = take(&file);
        assert!(again.id == id && again.unstored.is_none());
        assert!(SidecarIdentity::take(Some(&file)).is_err(), "it runs");
    }

    #[test]
    fn one_with_a_copy_is_another_until_it_has_stored_its_own() {
        let folder = tempfile::tempdir().expect("a directory");
        let [file, copy] = ["snapshot", "copy"].map(|name| folder.path().join(name));
        let id = run(&file);
        assert!(fs::copy(file.with_added_extension("id"), copy.with_added_extension("id")).expect("copies") > 0);
        assert!(take(&copy).unstored.is_some() && take(&copy).unstored.is_some());
        let other = run(&copy);
        assert!(other != id && run(&copy) == other && run(&file) == id);
    }

    #[test]
    fn what_was_stored_otherwise_is_no_id() {
        let folder = tempfile::tempdir().expect("a directory");
        let (file, boot) = (folder.path().join("snapshot"), fs::read_to_string("/proc/sys/kernel/random/boot_id"));
        let before = format!("00000000000000ab {}", boot.expect("Linux says"));
        for text in ["", "\n", "\u{fffd} \0", "00000000000000ab", "00000000000000ab ", &before] {
            fs::write(file.with_added_extension("id"), text).expect("writes");
            let taken = take(&file);
            assert!(taken.id != SidecarId(0xab) && taken.unstored.is_some(), "{text:?}");
        }
    }
}

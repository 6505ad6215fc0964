//! The folder of the throwaway store: made at start, removed at the end, and swept up later where the end was a
//! `kill -9`.
//!
//! A running `tollgate dev` holds a lock on its folder. So what is left over is distinguished from what is in use without asking
//! whether a process id is alive, which would go wrong where containers share a temporary folder.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Every folder's name starts so; a process id follows.
const PREFIX: &str = "tollgate-dev-";

/// A folder that only this user can enter, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    is_removed: bool,
    /// Holds the lock.
    _lock: File,
}

impl Directory {
    /// Makes `tollgate-dev-<process id>` in `parent`, and removes what ended processes left there.
    ///
    /// # Errors
    /// When it cannot be made: most likely `parent` cannot be written to, or someone else's folder has the name.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        Self::create_named(parent, &std::process::id().to_string())
    }

    fn create_named(parent: &Path, name: &str) -> io::Result<Self> {
        let path = parent.join(format!("{PREFIX}{name}"));
        let made = match make(&path) {
            // Left by an earlier process that had the same id: in a container, every first one has.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_left_over(&path) => {
                fs::remove_dir_all(&path)?;
                make(&path)
            }
            made => made,
        };
        made?;
        let lock = File::open(&path)?;
        lock.try_lock()?;
        sweep(parent, lock.metadata()?.uid());
        Ok(Self { path, is_removed: false, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now; dropping does the same where there is nobody to report a failure to.
    ///
    /// # Errors
    /// When something of it is still there.
    pub(crate) fn remove(mut self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)?;
        self.is_removed = true;
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_removed {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// Fails where anything has the name, a link included.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Whether nobody holds the lock. What cannot be looked at is not ours to remove.
fn is_left_over(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
        && File::open(path).is_ok_and(|folder| folder.try_lock().is_ok())
}

/// Removes this user's folders that no process holds. That it cannot is no reason not to start.
fn sweep(parent: &Path, user: u32) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        if is_ours && is_left_over(&entry.path()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_its_user_can_enter_it_and_it_goes_with_all_that_is_in_it() {
        let parent = tempfile::tempdir().expect("a folder");
        let directory = Directory::create(parent.path()).expect("made");
        let path = directory.path().to_owned();
        assert_eq!(path, parent.path().join(format!("tollgate-dev-{}", std::process::id())));
        assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o700);
        fs::write(path.join("tollgate.db"), "x").expect("writes");
        drop(directory);
        assert!(!path.exists());
        let again = Directory::create(parent.path()).expect("made");
        again.remove().expect("removes");
        assert!(!path.exists());
    }

    #[test]
    fn what_an_ended_process_left_is_swept_up_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().expect("a folder");
        let left = parent.path().join("tollgate-dev-1");
        let other = parent.path().join("tollgate-development");
        fs::create_dir(&left).expect("makes");
        fs::write(left.join("tollgate.db"), "x").expect("writes");
        fs::create_dir(&other).expect("makes");
        let running = Directory::create_named(parent.path(), "2").expect("made");
        assert!(!left.exists(), "nobody holds it");
        let _second = Directory::create_named(parent.path(), "3").expect("made");
        assert!(running.path().exists(), "its process runs");
        assert!(other.exists(), "another program's");
    }

    #[test]
    fn a_folder_left_under_the_same_id_is_replaced_and_one_in_use_is_not() {
        let parent = tempfile::tempdir().expect("a folder");
        let left = parent.path().join("tollgate-dev-7");
        fs::create_dir(&left).expect("makes");
        fs::write(left.join("tollgate.db"), "old").expect("writes");
        let _running = Directory::create_named(parent.path(), "7").expect("made");
        assert!(!left.join("tollgate.db").exists());
        let error = Directory::create_named(parent.path(), "7").expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_link_in_its_place_is_neither_followed_nor_removed() {
        let parent = tempfile::tempdir().expect("a folder");
        let target = tempfile::tempdir().expect("a folder");
        fs::write(target.path().join("other"), "x").expect("writes");
        for name in ["tollgate-dev-8", "tollgate-dev-9"] {
            std::os::unix::fs::symlink(target.path(), parent.path().join(name)).expect("links");
        }
        assert!(Directory::create_named(parent.path(), "8").is_err());
        let _running = Directory::create_named(parent.path(), "10").expect("made");
        assert!(target.path().join("other").exists());
        assert!(parent.path().join("tollgate-dev-9").exists());
    }
}

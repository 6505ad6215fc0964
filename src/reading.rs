//! Reading files where that may hang: a pipe that nobody writes to, a mount whose server is gone. Nobody waits for such a file for
//! ever, and who gives up knows which it was.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinError;

use crate::lock::Mutex;

/// Readings at once: one that hangs keeps its thread.
const MOST: usize = 8;

/// How long what a process has to go on with may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);

static PLACES: Semaphore = Semaphore::const_new(MOST);

/// Which file is being read.
type Place = Arc<Mutex<Option<PathBuf>>>;

thread_local! {
    /// Of the reading that this thread is at.
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Why files were not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// One of them takes too long.
    #[error("reading {} hangs: it is a pipe that nobody writes to, or on a mount that does not answer", .0.display())]
    Hangs(PathBuf),
    /// Something else than reading them takes too long; or earlier readings have not ended.
    #[error("reading the files that the configuration names takes too long")]
    Slow,
    /// A panic ended it, or the process stops.
    #[error("reading files")]
    Ended(#[source] JoinError),
}

/// Reads a file. Who waits by [`until`] knows that it is this one.
///
/// # Errors
/// As [`std::fs::read`].
pub(crate) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let note = |file| PLACE.with_borrow(|place| place.iter().for_each(|place| place.lock().clone_from(&file)));
    note(Some(file.to_owned()));
    let content = std::fs::read(file);
    note(None);
    content
}

/// When what a process has to go on with has had its time.
pub(crate) async fn patience() {
    tokio::time::sleep(PATIENCE).await;
}

/// Does what reads files, on a thread of its own, unless this comes first. Then it goes on there, and nobody gets what comes of it.
///
/// # Errors
/// When it was given up.
pub(crate) async fn until<T: Send + 'static>(
    given_up: impl Future<Output = ()>,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unread> {
    let place = Place::default();
    let reading = async {
        match PLACES.acquire().await {
            Ok(permit) => spawn(permit, Arc::clone(&place), read).await.map_err(Unread::Ended),
            // Nobody closes it.
            Err(_) => Err(Unread::Slow),
        }
    };
    tokio::select! {
        read = reading => read,
        () = given_up => Err(place.lock().take().map_or(Unread::Slow, Unread::Hangs)),
    }
}

fn spawn<T: Send + 'static>(
    permit: SemaphorePermit<'static>,
    place: Place,
    read: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        PLACE.set(Some(place));
        read()
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[tokio::test]
    async fn who_gives_up_knows_the_file_and_the_others_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let (good, pipe) = (directory.path().join("good"), directory.path().join("pipe"));
        std::fs::write(&good, "x").expect("writes");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        let (begun, begins) = tokio::sync::oneshot::channel::<()>();
        let both = {
            let (good, pipe) = (good.clone(), pipe.clone());
            move || {
                read(&good).expect("is there");
                drop(begun);
                read(&pipe)
            }
        };
        // Until it is at the pipe, or about to be.
        let given_up = async {
            drop(begins.await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let said = until(given_up, both).await.expect_err("hangs").to_string();
        assert!(said.contains(&pipe.display().to_string()), "{said}");
        assert_eq!(until(patience(), move || read(&good)).await.expect("ends").expect("is there"), b"x");
        // The runtime's end waits for the one that reads.
        std::fs::OpenOptions::new().write(true).open(&pipe).expect("lets it go on");
    }
}

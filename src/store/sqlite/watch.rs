//! Notices the commits of other processes, and another file in the place of the one that is open.
//!
//! SQLite notifies nobody of a commit; but it writes each one to the write-ahead log before it can be seen, and the kernel
//! reports that write. From then on the position is looked at with growing pauses, since how long the disk takes until
//! the commit can be seen is not known. A slow look beside it finds what the kernel does not report: another file, or
//! a file system without such news.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::task::{AbortHandle, spawn_blocking};

use super::Shared;
use super::database::log_of;
use crate::descriptor;

/// How often the position is looked at without any news.
const SLOW: Duration = Duration::from_secs(1);

/// The same where the kernel gives no news at all.
const WITHOUT_NEWS: Duration = Duration::from_millis(20);

/// The first pause after news; each further one is twice as long, until it is that of the slow look.
const FIRST: Duration = Duration::from_millis(1);

/// The task that looks; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watching(AbortHandle);

impl Watching {
    /// Must be called within a tokio runtime.
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(run(shared)).abort_handle())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(shared: Arc<Shared>) {
    let news = News::of(log_of(&shared.path)).inspect_err(|error| {
        tracing::warn!(%error, store = shared.name, "the kernel reports no changes of the database file: polling it");
    });
    let mut pause = FIRST;
    loop {
        // Before the look: what is committed after it is reported.
        let slow = if news.as_ref().is_ok_and(News::follow) { SLOW } else { WITHOUT_NEWS };
        let looking = Arc::clone(&shared);
        // Errors are left to the probes, which report them: here they would be repeated all the time.
        drop(spawn_blocking(move || looking.look()).await);
        let come = async {
            match &news {
                Ok(news) => descriptor::news(&news.inotify).await,
                Err(_) => std::future::pending().await,
            }
        };
        match tokio::time::timeout(pause, come).await {
            Ok(()) => {
                tokio::time::sleep(FIRST).await; // however fast they come
                pause = FIRST;
            }
            Err(_) => {
                if pause >= slow {
                    let quiet = Arc::clone(&shared);
                    drop(spawn_blocking(move || quiet.wipe_later()).await);
                }
                pause = slow.min(pause * 2);
            }
        }
    }
}

/// What the kernel reports of one file.
struct News {
    inotify: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl News {
    fn of(path: PathBuf) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify: descriptor::register(inotify)?, path })
    }

    /// Listens to the file that the path names now; false where that cannot be done. Done twice, it changes nothing, and a
    /// file that is gone is forgotten by the kernel.
    fn follow(&self) -> bool {
        match inotify::add_watch(self.inotify.get_ref(), &self.path, WatchFlags::MODIFY) {
            Ok(_) | Err(Errno::NOENT) => true,
            Err(error) => {
                tracing::debug!(%error, file = %self.path.display(), "cannot watch this file");
                false
            }
        }
    }
}

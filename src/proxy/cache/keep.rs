//! What is done beside the requests: files are written and removed as memory says, and what is too old goes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Cache;
use super::disk::{Disk, Found};
use super::key::{Key, Place};
use crate::clock::{Instant, unix_seconds};

/// How often it is looked at what is old, what could not be written is tried again, and the directory's clock is written down.
const INTERVAL: Duration = Duration::from_mins(1);

/// A disk that takes longer to read a file is as good as one that has none.
const MAX_READING: Duration = Duration::from_secs(1);

/// By so many seconds the clock on the wall may differ from what was written down.
const MAX_DRIFT: u64 = 30;

impl Cache {
    /// Keeps files and memory in order. Never ends.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut started = started_at();
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                _ = ticks.tick() => {
                    let now = started_at();
                    // The clock was set: what was written down by it was wrong, and would be too old or too young at the next start.
                    if started.abs_diff(now) > MAX_DRIFT {
                        started = now;
                        self.memory.lock().unsave_all();
                    }
                    self.memory.lock().expire(&self.config);
                    self.memory.lock().retry();
                    self.on_disk(|_, disk| disk.tick()).await;
                }
            }
            self.save().await;
        }
    }

    /// Brings the files to what memory says. One that cannot be, such as on a disk that is full, keeps no other from it; the first
    /// failure is said.
    pub(crate) async fn save(self: &Arc<Self>) {
        self.on_disk(|cache, disk| {
            // One after the other: what was taken out first must not be written last.
            let _order = disk.order.lock();
            let next = || cache.memory.lock().next_unsaved();
            let saved = std::iter::from_fn(next).map(|(place, entry)| {
                let done = match entry {
                    Some(entry) => disk.write(&place, &entry),
                    None => disk.remove(&place),
                };
                done.inspect_err(|_| cache.memory.lock().not_saved(place))
            });
            saved.fold(Ok(()), Result::and)
        })
        .await;
    }

    async fn on_disk(self: &Arc<Self>, act: impl FnOnce(&Self, &Disk) -> io::Result<()> + Send + 'static) {
        if self.disk.is_none() {
            return;
        }
        let cache = Arc::clone(self);
        let acted =
            tokio::task::spawn_blocking(move || cache.disk.as_ref().map_or(Ok(()), |disk| act(&cache, disk))).await;
        let failed = acted.unwrap_or_else(|error| Err(error.into())).err();
        self.note_failure(failed.as_ref(), "writing");
    }

    /// Reads all files that were not read yet.
    pub(super) async fn load_all(self: &Arc<Self>) {
        let unread = self.memory.lock().all_unread();
        let cache = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || unread.iter().for_each(|place| cache.read(place)));
        // A panic there is logged.
        drop(reading.await);
    }

    /// Reads the files that have to be, before it is looked what is stored of this.
    pub(super) async fn load(self: &Arc<Self>, key: &Key) {
        let unread = self.memory.lock().unread(key);
        if unread.is_empty() {
            return;
        }
        let cache = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || unread.iter().for_each(|place| cache.read(place)));
        // One that takes too long goes on, and is there for who asks next.
        drop(tokio::time::timeout(MAX_READING, reading).await);
    }

    fn read(&self, place: &Place) {
        let Some(disk) = &self.disk else { return };
        let entry = match disk.read(place) {
            Ok(Found::Entry(entry)) => Some(entry),
            Ok(Found::Gone) => None,
            Ok(Found::Damaged) => {
                self.counts.damaged.fetch_add(1, Ordering::Relaxed);
                if let Some(left_out) = self.log.admit() {
                    let file = disk.path(place).display().to_string();
                    tracing::warn!(
                        file,
                        left_out,
                        "a stored configuration is damaged, or another Controller's: it is dropped"
                    );
                }
                let _order = disk.order.lock();
                // What was stored there meanwhile stays.
                if self.memory.lock().read(*place, None) {
                    self.note_failure(disk.remove(place).err().as_ref(), "removing");
                }
                return;
            }
            // No descriptor is left, or the disk fails: that says nothing of what is in it.
            Err(error) => return self.note_failure(Some(&error), "reading"),
        };
        self.memory.lock().read(*place, entry);
    }

    fn note_failure(&self, error: Option<&io::Error>, doing: &str) {
        let Some(error) = error else { return };
        self.counts.disk_failures.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.log.admit() {
            let directory = self.config.directory.as_deref().map(|path| path.display().to_string());
            tracing::warn!(directory, %error, left_out, "{doing} a stored configuration failed");
        }
    }
}

/// When the machine was started, by the clock on the wall: it moves when that is set.
fn started_at() -> i64 {
    unix_seconds().saturating_sub_unsigned(Instant::now().uptime().as_secs())
}

//! What is done beside the requests: files are written and removed as memory says, and what is too old goes.
//!
//! ```text
//!   takes over: another process has the files ─► it leaves them, or ends ─► listed again, and written from here on
//!   is replaced, or ends: written once more ─► left
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Cache;
use super::disk::{Claim, Disk, Found};
use super::key::{Key, Place};

/// How often it is looked at what is old, what could not be written is tried again, and the directory's clock is written down.
const INTERVAL: Duration = Duration::from_mins(1);

/// How often it is looked whether the process before has left the files.
const WAIT: Duration = Duration::from_millis(100);

/// So many files that nobody asked for are read at a time.
const FILES_AT_ONCE: usize = 1000;

impl Cache {
    /// Keeps files and memory in order. Never ends.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut waits = tokio::time::interval(WAIT);
        // Not at once: what is asked for first is read first.
        let mut next = None;
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                _ = waits.tick(), if self.awaits_files() => {}
                _ = ticks.tick() => {
                    next = Some(match next {
                        Some(first) => self.look_over(first).await,
                        None => Place::default(),
                    });
                    self.memory.lock().retry();
                    self.on_disk(|_, disk| if disk.claim.lock().is_held() { disk.tick() } else { Ok(()) }).await;
                }
            }
            self.save().await;
            self.on_disk(Self::sweep).await;
        }
    }

    /// Forgets what is too old: where nobody has asked for it since the start, its file has to be read first. Some of these at a time,
    /// from here on; says where to go on.
    async fn look_over(self: &Arc<Self>, first: Place) -> Place {
        let unread = self.memory.lock().unread_from(first, FILES_AT_ONCE);
        let next = unread.get(FILES_AT_ONCE - 1).copied().unwrap_or_default();
        self.read_all(unread).await;
        self.memory.lock().expire(&self.config);
        next
    }

    /// Brings the files to what memory says, if they are this process's.
    pub(crate) async fn save(self: &Arc<Self>) {
        self.on_disk(|cache, disk| cache.settle(disk, &mut disk.claim.lock())).await;
    }

    /// The same for the last time: whatever is fetched or forgotten here from now on, another process knows better.
    pub(crate) async fn leave_files(self: &Arc<Self>) {
        self.on_disk(|cache, disk| {
            let mut claim = disk.claim.lock();
            let settled = cache.settle(disk, &mut claim);
            let ticked = if claim.is_held() { disk.tick() } else { Ok(()) };
            disk.set(&mut claim, Claim::Left);
            settled.and(ticked)
        })
        .await;
    }

    /// Whether another process has the files.
    pub(super) fn awaits_files(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::awaits)
    }

    /// Writes and removes, one after the other: what was taken out first must not be written last. A file that cannot be, such as on a
    /// disk that is full, keeps no other from it; the first failure is said.
    fn settle(&self, disk: &Disk, claim: &mut Claim) -> io::Result<()> {
        if matches!(claim, Claim::Awaited) {
            self.take_files(disk, claim)?;
        }
        if !claim.is_held() {
            return Ok(());
        }
        // What was written down by it was wrong, and would be too old or too young at the next start.
        if disk.was_clock_set() {
            self.memory.lock().unsave_all();
        }
        let next = || self.memory.lock().next_unsaved();
        let saved = std::iter::from_fn(next).map(|(place, entry)| {
            let done = match entry {
                Some(entry) => disk.write(&place, &entry),
                None => disk.remove(&place),
            };
            done.inspect_err(|_| self.memory.lock().not_saved(place))
        });
        saved.fold(Ok(()), Result::and)
    }

    /// Takes the files that another process had, if it has left them. It wrote to them since they were listed.
    fn take_files(&self, disk: &Disk, claim: &mut Claim) -> io::Result<()> {
        let taken = disk.lock()?;
        if taken.is_held() {
            let files = disk.list(&taken)?;
            disk.read_clock();
            self.memory.lock().take_files(files, &self.config);
            disk.set(claim, taken);
        }
        Ok(())
    }

    /// Removes, once, what an earlier version stored although a token may be in what was asked: nobody asks for it any more, so it
    /// would stay.
    fn sweep(&self, disk: &Disk) -> io::Result<()> {
        if disk.is_swept() || !disk.claim.lock().is_held() {
            return Ok(());
        }
        let unread = self.memory.lock().all_unread();
        for place in unread {
            if let Found::Damaged = disk.read(&place)? {
                self.drop_damaged(disk, &place);
            }
        }
        disk.swept()
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
        self.read_all(unread).await;
    }

    async fn read_all(self: &Arc<Self>, places: Vec<Place>) {
        let cache = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || places.iter().for_each(|place| cache.read(place)));
        // A panic there is logged.
        drop(reading.await);
    }

    /// Reads the files that have to be, before it is looked what is stored of this.
    pub(super) async fn load(self: &Arc<Self>, key: &Key) {
        if self.memory.lock().unread(key).is_empty() {
            return;
        }
        let mut reading = self.readings.join(key.place, |under_way| {
            let (cache, key) = (Arc::clone(self), key.clone());
            tokio::spawn(async move {
                let _turn = cache.readings.turn().await;
                let unread = cache.memory.lock().unread(&key);
                cache.read_all(unread).await;
                drop(under_way);
            });
        });
        reading.end().await;
    }

    fn read(&self, place: &Place) {
        let Some(disk) = &self.disk else { return };
        let entry = match disk.read(place) {
            Ok(Found::Entry(entry)) => Some(entry),
            Ok(Found::Gone) => None,
            Ok(Found::Damaged) => return self.drop_damaged(disk, place),
            // No descriptor is left, or the disk fails: that says nothing of what is in it.
            Err(error) => return self.note_failure(Some(&error), "reading"),
        };
        self.memory.lock().read(*place, entry);
    }

    fn drop_damaged(&self, disk: &Disk, place: &Place) {
        self.counts.damaged.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.log.admit() {
            let file = disk.path(place).display().to_string();
            tracing::warn!(
                file,
                left_out,
                "a stored configuration is damaged, another Controller's, or was asked for with what may be a token: it is dropped"
            );
        }
        let claim = disk.claim.lock();
        // What was stored there meanwhile stays.
        if self.memory.lock().read(*place, None) && claim.is_held() {
            self.note_failure(disk.remove(place).err().as_ref(), "removing");
        }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use http::{HeaderMap, StatusCode};

    use super::super::CacheConfig;
    use super::super::entry::Entry;
    use super::*;
    use crate::clock::Instant;
    use crate::upstream::Upstreams;

    /// An agent whose configuration it was may never ask again.
    #[tokio::test]
    async fn what_nobody_asks_for_is_not_kept_for_longer_than_the_rest() {
        let (directory, api) = (tempfile::tempdir().expect("a directory"), Upstreams::default().api);
        let max_age = Duration::from_secs(10);
        let config = CacheConfig { directory: Some(directory.path().to_owned()), max_age, ..CacheConfig::default() };
        let earlier = Disk::open(directory.path(), super::super::origin(&api)).expect("opens");
        for (target, age) in [("/c/old", 20), ("/c/older", 30), ("/c/new", 0)] {
            let key = Key::new(target.to_owned(), Vec::new(), String::new(), None);
            let at = Instant::now().checked_sub(Duration::from_secs(age)).expect("it runs for longer");
            let (asked, fields) = (HeaderMap::new(), HeaderMap::new());
            let entry = Entry::new(&key, (at, &asked), (StatusCode::OK, &fields), b"x").expect("is for all");
            earlier.write(&key.place, &entry).expect("writes");
        }
        drop(earlier);
        let cache = Arc::new(Cache::open(config, &api));
        assert_eq!((cache.status().entries, cache.status().oldest), (3, None));
        assert_eq!(cache.look_over(Place::default()).await, Place::default(), "there are no more");
        cache.save().await;
        assert_eq!(cache.status().entries, 1);
        assert!(cache.status().oldest.is_some(), "it is known how old it is");
        let files = fs::read_dir(directory.path()).expect("a directory").map(|file| file.expect("one").file_name());
        assert_eq!(files.filter(|name| name.to_string_lossy().ends_with(".config")).count(), 1);
    }

    #[tokio::test]
    async fn what_an_earlier_version_stored_with_a_token_in_its_question_is_removed() {
        let (directory, api) = (tempfile::tempdir().expect("a directory"), Upstreams::default().api);
        let config = CacheConfig { directory: Some(directory.path().to_owned()), ..CacheConfig::default() };
        let files = || {
            let files = fs::read_dir(directory.path()).expect("a directory").map(|file| file.expect("one").file_name());
            let mut files: Vec<_> = files.filter_map(|name| name.into_string().ok()).collect();
            files.retain(|name| name.ends_with(".config"));
            files
        };
        let earlier = Disk::open(directory.path(), super::super::origin(&api)).expect("opens");
        for target in ["/c/a?token=tc-apiv1_abc", "/c/b?token=t%63-apiv1_abc", "/c/c?token=none"] {
            let key = Key::new(target.to_owned(), Vec::new(), String::new(), None);
            let (asked, fields) = (HeaderMap::new(), HeaderMap::new());
            let entry =
                Entry::new(&key, (Instant::now(), &asked), (StatusCode::OK, &fields), b"x").expect("is for all");
            earlier.write(&key.place, &entry).expect("writes");
        }
        fs::write(directory.path().join("clock"), "100\n").expect("writes");
        drop(earlier);
        assert_eq!(files().len(), 3);

        let cache = Arc::new(Cache::open(config.clone(), &api));
        cache.on_disk(Cache::sweep).await;
        assert_eq!((files().len(), cache.status().damaged, cache.status().entries), (1, 2, 1));
        assert_eq!(cache.list().await[0].path, "/c/c?token=none");
        // Once.
        drop(cache);
        assert!(Disk::open(directory.path(), super::super::origin(&api)).expect("opens").is_swept());
    }
}

//! What operators are shown of the cache: how much there is of what and how old, never what is in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cache;
use super::key::path_part;
use super::memory::Listed;
use crate::proxy::exchange::shown;
use crate::proxy::path::normalise;

/// How the cache is.
#[derive(Debug, Clone)]
pub struct CacheStatus {
    /// Stored answers.
    pub entries: usize,
    /// Bytes of memory that they take, those counted that are on disk only.
    pub bytes: usize,
    /// How long ago the oldest of those in memory was fetched.
    pub oldest: Option<Duration>,
    /// Requests that were given a stored answer.
    pub served: u64,
    /// Requests that were given what another one's fetch brought.
    pub shared: u64,
    /// Files that were dropped.
    pub damaged: u64,
    /// Times that a file could not be read or written.
    pub disk_failures: u64,
    /// For how long the Controller has been away; `None`: it answers.
    pub away_for: Option<Duration>,
    /// How often it was found to be away.
    pub outages: u64,
}

/// A stored answer, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConfiguration {
    /// Path and query.
    pub path: String,
    /// How long ago it was fetched.
    pub age_seconds: u64,
    /// Of the stored answer.
    pub bytes: usize,
    /// How often it was given.
    pub hits: u64,
}

/// Why what was forgotten may be given again after a restart.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unpurged {
    /// Files are still there.
    #[error(
        "forgotten, but {left} of the files in {directory} could not be removed, and are given again after a restart: the log says why; remove them, or try again"
    )]
    Left { left: usize, directory: String },
    /// The directory could not be used at the start.
    #[error("forgotten, but files of an earlier run may be given after a restart: {0}")]
    Unusable(String),
}

impl Cache {
    /// How it is.
    pub fn status(&self) -> CacheStatus {
        let memory = self.memory.lock();
        let (entries, bytes) = memory.sizes();
        let oldest = memory.list().filter_map(|listed| listed.entry).filter(|entry| entry.is_within(&self.config));
        let oldest = oldest.map(|entry| entry.age()).max();
        drop(memory);
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        CacheStatus {
            entries,
            bytes,
            oldest,
            served: count(&self.counts.served),
            shared: count(&self.counts.shared),
            damaged: count(&self.counts.damaged),
            disk_failures: count(&self.counts.disk_failures),
            away_for: self.breaker.open_for(),
            outages: self.breaker.opened(),
        }
    }

    /// What is wrong and makes the sidecar no less ready.
    pub(crate) fn problems(&self) -> Vec<String> {
        let away = self.breaker.open_for().map(|away| {
            let seconds = away.as_secs();
            format!("the Controller has been away for {seconds} s: agents that fetch their configuration are given the stored one")
        });
        self.without_disk.iter().cloned().chain(self.with_anothers_files()).chain(away).collect()
    }

    /// What is wrong while another process has the files.
    fn with_anothers_files(&self) -> Option<String> {
        let directory = self.config.directory.as_deref().filter(|_| self.awaits_files())?.display();
        Some(format!(
            "another process has config_cache.directory {directory}: until it ends nothing is stored there; each sidecar needs one of its own"
        ))
    }

    /// All stored answers that may be given, by path. Reads the files that were not read yet.
    pub(crate) async fn list(self: &Arc<Self>) -> Vec<StoredConfiguration> {
        self.load_all().await;
        let listed = |Listed { entry, bytes, hits }: Listed| {
            let entry = entry.filter(|entry| entry.is_within(&self.config))?;
            let path = entry.key()?.target;
            Some(StoredConfiguration { path, age_seconds: entry.age().as_secs(), bytes, hits: hits.into() })
        };
        let mut list: Vec<_> = self.memory.lock().list().filter_map(listed).collect();
        list.sort_by(|a, b| (&a.path, a.age_seconds).cmp(&(&b.path, b.age_seconds)));
        list
    }

    /// Forgets all of a path, whatever the query, or everything; also on disk. How many there were.
    ///
    /// # Errors
    /// When files of it remain.
    pub(crate) async fn purge(self: &Arc<Self>, path: Option<&str>) -> Result<usize, Unpurged> {
        let part = path.map(|path| path_part(&normalise(path).unwrap_or_default()));
        let places = self.memory.lock().forget(part);
        self.save().await;
        let memory = self.memory.lock();
        let left = places.iter().filter(|place| memory.is_left(place)).count();
        drop(memory);
        tracing::info!(
            path = path.map(shown).as_deref(),
            purged = places.len(),
            left,
            "an operator had configurations forgotten"
        );
        let directory = || self.config.directory.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
        match self.without_disk.clone().or_else(|| self.with_anothers_files()) {
            Some(problem) => Err(Unpurged::Unusable(problem)),
            None if left > 0 => Err(Unpurged::Left { left, directory: directory() }),
            None => Ok(places.len()),
        }
    }
}

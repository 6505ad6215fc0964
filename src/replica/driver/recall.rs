//! Revocations that the store lost: leaving with it those that were seen here, and reading those that others saw.
//!
//! A sidecar may not commit, and a store that lost writes does not know that it did. So the digests are left with it
//! ([`Feed::recall`]), all sidecars read them ([`Feed::recalled`]), and the next command at the registry commits the
//! revocations again.
//!
//! They are read when their counter, which each probe returns, is another than it was when they were read last; when it may
//! be that of another server (notices were lost); and when the store turned out to have lost writes. Page by page, beside
//! the other reads, and after all of them only what came since, where the store can tell that: as far as these are as many
//! different ones as came. While it is read, proofs count
//! up to the moment at which the latest reading that came to its end had begun: so one that takes long, while more and more
//! are added, is progress all the same.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{ReadError, Replica};
use crate::backoff::jitter;
use crate::chain::chain;
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::store::{Feed, Probe, RECALLS_TAKEN, RecalledPage, RecalledPlace};
use crate::token::Digest;

/// Digests written at once: a store that was restored from an old backup may have lost very many.
const BATCH: usize = 4_096;

/// From how many on a sidecar waits a random while, in which another one that saw the same may write them.
const MANY: usize = 256;
const WHILE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

type Writing<'a> = Pin<Box<dyn Future<Output = Result<usize, ReadError>> + Send + 'a>>;

/// How far the recalled digests were read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// All that there were when their counter was there.
    read: Option<u64>,
    /// All that there were at this moment.
    as_of: Option<Instant>,
    /// Where to go on.
    place: Option<RecalledPlace>,
    /// A reading of all of them is under way: when it began, and where the counter was then.
    began: Option<(Instant, u64)>,
    /// Where the counter was before any of them was added that the latest reading of all could show.
    base: u64,
    /// Fewer came than the counter says: perhaps they are on their way.
    is_short: bool,
}

impl Progress {
    fn begin(&mut self) {
        (self.place, self.began, self.is_short) = (None, None, false);
    }

    /// Takes a page that was asked for at a moment.
    fn take(&mut self, page: RecalledPage, asked_at: Instant, replica: &Replica) {
        if page.begins {
            replica.begin_recalls();
            self.began = Some((asked_at, page.recalls));
            self.base = page.recalls.saturating_sub(page.total);
        }
        replica.recall(&page.digests);
        self.place = page.next;
        if !page.is_last {
            return;
        }
        let (as_of, counter) = match self.began.take() {
            Some(all) => {
                replica.end_recalls();
                all
            }
            None if self.base + replica.recalls_shown() as u64 == page.recalls => (asked_at, page.recalls),
            // One is told of a moment after it was added, or never: then all have to be read.
            None if self.is_short => return self.begin(),
            None => return self.is_short = true,
        };
        (self.read, self.as_of, self.is_short) = (Some(counter), self.as_of.max(Some(as_of)), false);
    }
}

/// Reads what a probe said that there is, up to a moment: what is left then is read on the next time.
pub(super) async fn read(
    replica: &Replica,
    store: &dyn Feed,
    progress: &Mutex<Progress>,
    probe: &Probe,
    until: Instant,
) -> Result<(), ReadError> {
    if probe.recalled > RECALLS_TAKEN {
        return Err(ReadError::TooManyRecalls(probe.recalled));
    }
    loop {
        let place = {
            let mut progress = progress.lock();
            if progress.read == Some(probe.recalls) {
                return Ok(());
            }
            // Reading what was added forgets nothing of what was settled.
            if progress.began.is_none() && replica.status().recalled as u64 > 2 * probe.recalled {
                progress.begin();
            }
            progress.place.clone()
        };
        let asked_at = Instant::now();
        let page = store.recalled(place.as_ref()).await?;
        // The last page may have more than the probe spoke of; the next probe says whether that was all.
        let is_all_for_now = page.is_last;
        progress.lock().take(page, asked_at, replica);
        if is_all_for_now || Instant::now() >= until {
            return Ok(());
        }
    }
}

/// Writes one list of digests at a time, beside the driver's reads.
pub(super) struct Recalls<'a> {
    replica: &'a Replica,
    store: &'a dyn Feed,
    pub(super) progress: Arc<Mutex<Progress>>,
    writing: Option<Writing<'a>>,
    /// When the latest list was written. A probe that was sent before does not show it yet.
    written_at: Option<Instant>,
    /// When to write many.
    not_before: Option<Instant>,
    /// The latest attempt failed, and was logged.
    failing: bool,
}

impl<'a> Recalls<'a> {
    pub(super) fn new(replica: &'a Replica, store: &'a dyn Feed) -> Self {
        let progress = Arc::default();
        Self { replica, store, progress, writing: None, written_at: None, not_before: None, failing: false }
    }

    /// The counter may be that of another server from here on.
    pub(super) fn doubt(&self) {
        self.progress.lock().read = None;
    }

    /// The store has lost writes: whatever was read of it may have been lost too.
    pub(super) fn begin(&self) {
        let mut progress = self.progress.lock();
        progress.read = None;
        progress.begin();
    }

    /// Up to which moment all are known, if the counter was this when it was asked for at `asked_at`.
    pub(super) fn as_of(&self, counter: u64, asked_at: Option<Instant>) -> Option<Instant> {
        let progress = self.progress.lock();
        if progress.read == Some(counter) { asked_at } else { progress.as_of }
    }

    /// The replica is settled and caught up as of this moment: whatever it suppresses still, the store has lost. What
    /// it does not show is written. A failure is tried again after the next proof.
    pub(super) fn check(&mut self, as_of: Instant) {
        let too_early = self.written_at.is_some_and(|written_at| as_of < written_at);
        if self.writing.is_some() || too_early || !self.replica.suppresses() {
            return;
        }
        let lost = self.replica.unrecalled();
        if lost.len() < MANY {
            self.not_before = None;
        } else if *self.not_before.get_or_insert_with(|| as_of + WHILE.0 + jitter(WHILE.1 - WHILE.0)) > as_of {
            return;
        }
        if !lost.is_empty() {
            self.writing = Some(Box::pin(write(self.store, lost)));
        }
    }

    /// Waits until the list is written, or has failed to be, and says so; for ever if there is none. Cancelled,
    /// it goes on the next time.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let outcome = writing.await;
        (self.writing, self.not_before) = (None, None);
        let store = self.store.describe();
        match outcome {
            Ok(tokens) => {
                (self.written_at, self.failing) = (Some(Instant::now()), false);
                tracing::warn!(store, tokens, "the store lost revocations: the tokens are refused and were recalled");
            }
            Err(error) if self.failing => {
                tracing::debug!(store, reason = chain(&error), "the store still does not take recalls");
            }
            Err(error) => {
                self.failing = true;
                let reason = chain(&error);
                tracing::error!(
                    store,
                    reason,
                    "the store lost revocations, and does not take recalls: refused here only"
                );
            }
        }
    }
}

async fn write(store: &dyn Feed, lost: Vec<Digest>) -> Result<usize, ReadError> {
    for batch in lost.chunks(BATCH) {
        store.recall(batch).await?;
    }
    Ok(lost.len())
}

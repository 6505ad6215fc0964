//! Telling the store of revocations that it lost, so that every sidecar refuses those tokens too.
//!
//! A sidecar may not commit, and a store that lost writes does not know that it did. So the digests are left with it
//! ([`Store::recall`]); each probe of each sidecar tells them, and the next command at the registry commits the
//! revocations again.

use std::collections::HashSet;
use std::future::Future;
use std::hash::BuildHasherDefault;
use std::pin::Pin;
use std::time::Duration;

use super::{ReadError, Replica, chain, within};
use crate::clock::Instant;
use crate::replica::entry::DigestHasher;
use crate::store::Store;
use crate::token::Digest;

/// Longest wait for one batch.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Digests written at once: a store that was restored from an old backup may have lost very many.
const BATCH: usize = 4_096;

type Writing<'a> = Pin<Box<dyn Future<Output = Result<usize, ReadError>> + Send + 'a>>;

/// Writes one list of digests at a time, beside the driver's reads.
pub(super) struct Recalls<'a> {
    replica: &'a Replica,
    store: &'a dyn Store,
    /// What the latest probe told.
    told: Vec<Digest>,
    writing: Option<Writing<'a>>,
    /// When the latest list was written. A probe that was sent before does not tell of it yet.
    written_at: Option<Instant>,
    /// The latest attempt failed, and was logged.
    failing: bool,
}

impl<'a> Recalls<'a> {
    pub(super) fn new(replica: &'a Replica, store: &'a dyn Store) -> Self {
        Self { replica, store, told: Vec::new(), writing: None, written_at: None, failing: false }
    }

    /// Takes what a probe told.
    pub(super) fn hear(&mut self, recalled: &[Digest]) {
        self.told.clear();
        self.told.extend_from_slice(recalled);
    }

    /// The replica is settled and caught up as of this moment: whatever it suppresses still, the store has lost. What
    /// no probe tells of is written. A failure is tried again after the next proof.
    pub(super) fn check(&mut self, as_of: Instant) {
        let too_early = self.written_at.is_some_and(|written_at| as_of < written_at);
        if self.writing.is_some() || too_early || !self.replica.suppresses() {
            return;
        }
        let told: HashSet<&Digest, BuildHasherDefault<DigestHasher>> = self.told.iter().collect();
        let suppressed = self.replica.suppressed().into_iter().map(|(_, digest)| digest);
        let lost: Vec<Digest> = suppressed.filter(|digest| !told.contains(digest)).collect();
        if !lost.is_empty() {
            self.writing = Some(Box::pin(write(self.store, lost)));
        }
    }

    /// Waits until the list is written, or has failed to be, and says so; for ever if there is none. Dropped half-way,
    /// it goes on the next time.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let outcome = writing.await;
        self.writing = None;
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

async fn write(store: &dyn Store, lost: Vec<Digest>) -> Result<usize, ReadError> {
    for batch in lost.chunks(BATCH) {
        within(TIMEOUT, store.recall(batch)).await?;
    }
    Ok(lost.len())
}

//! Writes what was used to the store: every ten seconds what is new, and at the end of the process.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::memory::{Tick, Uses};
use crate::backoff::{Backoff, jitter};
use crate::chain::chain;
use crate::clock::Instant;
use crate::store::{StoreError, Usage, Use};
use crate::token::TokenId;

/// The pause between two writes, and what is added at random, so that a fleet that was started at once does not write at once.
/// Both together, and the write, take no longer than ten seconds.
const PAUSE: Duration = Duration::from_millis(8_000);
const JITTER: Duration = Duration::from_millis(1_500);

/// Tokens handed over at once.
const PIECE: usize = 500;

/// How long the store may take for that.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long it may take for what is left at the end.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no answer within {TIMEOUT:?}")]
    TimedOut,
}

/// The pause after a write that failed.
const RETRY: Backoff = Backoff { first: Duration::from_secs(1), last: Duration::from_secs(5) };

/// Writes that fail one after the other before the log says so, which is a quarter of a minute: of a store that is away others
/// speak at once.
const QUIET: u32 = 6;

/// Writes what was used to the store.
#[derive(Clone)]
pub(crate) struct Flusher {
    uses: Arc<Uses>,
    store: Arc<dyn Usage>,
    failed: Arc<AtomicU64>,
    /// Writes that failed since one did not.
    failures: u32,
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher").field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl Flusher {
    /// What fails is counted in `failed`.
    pub(crate) fn new(uses: Arc<Uses>, store: Arc<dyn Usage>, failed: Arc<AtomicU64>) -> Self {
        Self { uses, store, failed, failures: 0 }
    }

    /// Writes from time to time. Never ends.
    pub(crate) async fn run(mut self) {
        loop {
            self.flush().await;
            let pause = match self.failures {
                0 => PAUSE + jitter(JITTER),
                failures => RETRY.wait(failures),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes what is left at the end, if the store takes it at once.
    pub(crate) async fn finish(mut self) {
        if self.uses.has_unwritten() && tokio::time::timeout(LAST_TIMEOUT, self.flush()).await.is_err() {
            tracing::warn!("the latest use of tokens could not be recorded: the store does not answer");
        }
    }

    /// Writes what is new.
    async fn flush(&mut self) {
        let begun = Instant::now();
        let now = Tick::of(begun);
        match self.write(begun).await {
            Ok(()) => {
                if self.failures >= QUIET {
                    tracing::info!("the use of tokens is recorded again");
                }
                self.failures = 0;
                self.uses.wrote(now);
            }
            Err(error) => {
                self.failures += 1;
                self.failed.fetch_add(1, Ordering::Relaxed);
                let reason = chain(&error);
                match error {
                    // Whoever connects has said what is missing, and how to mend it.
                    FlushError::Store(StoreError::Unusable { .. }) => {
                        tracing::debug!(reason, "the use of tokens is not recorded")
                    }
                    _ if self.failures == QUIET => tracing::warn!(
                        reason,
                        "cannot record the use of tokens: it is remembered, and recorded when the store takes it"
                    ),
                    _ => tracing::debug!(reason, "cannot record the use of tokens"),
                }
            }
        }
    }

    async fn write(&self, begun: Instant) -> Result<(), FlushError> {
        let now = Tick::of(begun);
        // The first of all, without any, begins the recording.
        let mut is_told = self.uses.is_told();
        let mut piece: HashMap<TokenId, Use> = HashMap::new();
        for part in self.uses.unwritten(now) {
            for (token, of_part) in part {
                match piece.get_mut(&token) {
                    Some(told) => {
                        told.age = told.age.min(of_part.age);
                        told.agents.extend(of_part.agents);
                    }
                    None => drop(piece.insert(token, of_part)),
                }
                if piece.len() >= PIECE {
                    self.record(std::mem::take(&mut piece), begun).await?;
                    is_told = true;
                }
            }
        }
        if !piece.is_empty() || !is_told {
            self.record(piece, begun).await?;
        }
        Ok(())
    }

    /// Hands over a piece, with ages as of `begun`.
    async fn record(&self, uses: HashMap<TokenId, Use>, begun: Instant) -> Result<(), FlushError> {
        let since = begun.elapsed();
        let mut uses: Vec<_> = uses.into_values().collect();
        for used in &mut uses {
            used.age += since;
            used.agents.iter_mut().for_each(|agent| agent.age += since);
        }
        let recorded = tokio::time::timeout(TIMEOUT, self.store.record(&uses)).await;
        Ok(recorded.map_err(|_| FlushError::TimedOut)??)
    }
}

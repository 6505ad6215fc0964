//! Tokens that are gone, and of which no commit was seen that took them away: the log no longer has it, or the store has lost
//! that they were created.
//!
//! The store is asked which of them it knows as revoked or deleted ([`Feed::removed`]): those are refused for good, as if the
//! commit had been seen, and the others may come again. Page by page, beside the driver's reads, which wait for none of it. What
//! fails is tried again with the next position.

use std::future::Future;
use std::pin::Pin;

use super::{Failure, ReadError, Replica};
use crate::chain::chain;
use crate::clock::Instant;
use crate::store::Feed;

/// Most digests on it.
const PAGE: usize = 1_000;

type Asking<'a> = Pin<Box<dyn Future<Output = Result<(), ReadError>> + Send + 'a>>;

/// Asks one page after the other.
pub(super) struct Vanished<'a> {
    replica: &'a Replica,
    store: &'a dyn Feed,
    asking: Option<Asking<'a>>,
    /// The latest attempt failed, and was logged.
    failing: bool,
}

impl<'a> Vanished<'a> {
    pub(super) fn new(replica: &'a Replica, store: &'a dyn Feed) -> Self {
        Self { replica, store, asking: None, failing: false }
    }

    /// The store answers: it is asked, if there is something to ask and it is not asked already.
    pub(super) fn check(&mut self) {
        if self.asking.is_none() && !self.replica.vanished(1).is_empty() {
            self.asking = Some(Box::pin(ask(self.replica, self.store)));
        }
    }

    /// Waits until there is nothing more to ask, or that has failed, and says so; for ever if nothing is asked. Cancelled, it
    /// goes on the next time.
    pub(super) async fn answered(&mut self) {
        let Some(asking) = &mut self.asking else { return std::future::pending().await };
        let outcome = asking.await;
        self.asking = None;
        let (store, was_failing) = (self.store.describe(), self.failing);
        self.failing = outcome.is_err();
        let Err(error) = outcome else { return };
        let reason = chain(&error);
        // A store that does not answer at all is logged by whoever reads the position.
        match error.kind() {
            Failure::NoAnswer => tracing::debug!(store, reason, "which tokens were revoked cannot be asked yet"),
            _ if was_failing => tracing::debug!(store, reason, "which tokens were revoked still cannot be asked"),
            _ => tracing::warn!(
                store,
                reason,
                "which of the tokens that are gone were revoked cannot be asked: if the store loses that, they come back"
            ),
        }
    }
}

async fn ask(replica: &Replica, store: &dyn Feed) -> Result<(), ReadError> {
    loop {
        let page = replica.vanished(PAGE);
        if page.is_empty() {
            return Ok(());
        }
        let is_removed = store.removed(&page).await?;
        if is_removed.is_empty() {
            return Ok(()); // not now
        }
        replica.explain(&page, &is_removed, Instant::now());
    }
}

//! Commands of callers, run to their end, and what is known of them then.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::Console;
use crate::chain::chain;
use crate::registry::receipt::{ReceiptView, longest_bound};
use crate::registry::{Ensured, Registry};
use crate::store::{Store, Unconfirmed};

/// What was done, and what is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done<T> {
    /// What was done.
    #[serde(flatten)]
    pub(super) done: T,
    /// Which sidecars have applied it; where `wait` asked for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wait: Option<ReceiptView>,
    /// Why that is not known: it is done all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wait_problem: Option<String>,
    /// That a failover of the store may lose it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unconfirmed: Option<UnconfirmedView>,
}

/// What was committed may not last: not every replica of the store that could be promoted has confirmed it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UnconfirmedView {
    /// The last revision that is not confirmed.
    revision: u64,
    /// How many replicas have it.
    confirmed: usize,
    /// How many could be promoted.
    promotable: usize,
}

impl<T> Done<T> {
    /// The same of something else.
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Done<U> {
        let Self { done, wait, wait_problem, unconfirmed } = self;
        Done { done: map(done), wait, wait_problem, unconfirmed }
    }
}

impl<M, T> Done<Ensured<M, T>> {
    /// What was made; else what was there.
    pub(super) fn made(self) -> Result<Done<M>, T> {
        let Self { done, wait, wait_problem, unconfirmed } = self;
        match done {
            Ensured::Made(done) => Ok(Done { done, wait, wait_problem, unconfirmed }),
            Ensured::There(there) => Err(there),
        }
    }
}

/// Commits that replicas have not confirmed. A store tells of each once, to whoever asks first.
#[derive(Debug, Default)]
pub(super) struct Confirmations(tokio::sync::Mutex<Option<Unconfirmed>>);

impl Confirmations {
    /// Of what was committed up to the registry's last commit. One after the other: who asks second waits for what the
    /// first is told, which may be of the second's commit too.
    async fn of(&self, registry: &Registry) -> Option<UnconfirmedView> {
        let mut last = self.0.lock().await;
        if let Some(unconfirmed) = registry.store().unconfirmed().await {
            *last = Some(unconfirmed);
        }
        let unconfirmed = last.as_ref()?;
        let (_, own) = registry.committed().await.ok()?;
        let Unconfirmed { revision, confirmed, promotable } = *unconfirmed;
        // What was no commit was no command of this listener.
        let revision = revision?;
        (own.revision <= revision).then_some(UnconfirmedView { revision: revision.0, confirmed, promotable })
    }
}

impl Console {
    /// Runs a caller's command that changes something, to its end whether or not the caller waits for it: one on many tokens
    /// takes several commits. Then waits for the sidecars, if that was asked for.
    ///
    /// # Errors
    /// The command's.
    pub(super) async fn change<T, E, F>(
        self: &Arc<Self>,
        registry: Registry,
        wait: Option<Duration>,
        command: impl FnOnce(Registry) -> F + Send + 'static,
    ) -> Result<Done<T>, E>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        let console = Arc::clone(self);
        let run = async move {
            let outcome = command(registry.clone()).await;
            let unconfirmed = console.confirmations.of(&registry).await;
            tokio::spawn(settle(Arc::clone(registry.store())));
            (outcome, unconfirmed, registry)
        };
        let (outcome, unconfirmed, registry) = to_its_end(run).await;
        let done = outcome?;
        let (mut receipt, mut wait_problem) = (None, None);
        if let Some(wait) = wait {
            match registry.receipt(wait).await {
                Ok(found) => receipt = Some(found.view()),
                Err(error) => wait_problem = Some(chain(&error)),
            }
        }
        Ok(Done { done, wait: receipt, wait_problem, unconfirmed })
    }
}

/// Runs something to its end, whether or not its caller waits for it.
pub(super) async fn to_its_end<T: Send + 'static>(run: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(run).await {
        Ok(ended) => ended,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Revokes again what the store lost the revocation of: after what was asked for, which never waits for it.
async fn settle(store: Arc<dyn Store>) {
    let registry = Registry::new(store);
    // Besides, whoever looks first after a failover is who knows when it was: the later, the longer receipts take.
    let looked = async { registry.store().unreported(longest_bound(&registry.store().sidecars().await?)).await };
    let (settled, _) = tokio::join!(registry.settle_recalls(), looked);
    match settled {
        Ok(0) => {}
        Ok(count) => tracing::warn!(count, "revoked tokens again: the store had lost their revocation"),
        Err(error) => tracing::debug!(error = chain(&error), "could not settle recalls; the next change goes on"),
    }
}

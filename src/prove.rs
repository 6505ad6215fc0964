//! Self-proof: that a revoked token is refused is measured where agents connect, and not taken from what sidecars report.
//!
//! ```text
//!   create the canary ─► every listener lets it in ─► revoke it ─► every listener refuses it, and goes on so ─► delete it
//! ```
//!
//! The canary is a token like any other, and good for nothing: it permits `entitlements:read`, and is shown where that is
//! not enough ([`door`]). A listener that knows it answers 403, one that does not 401: Tollgate's own replies both, so
//! nothing of this reaches the Controller, and nothing counts as use of a token.
//!
//! It belongs to a user of its own ([`canary::USER`]), who stays. A run that is killed leaves a canary that expires by itself
//! within minutes; a later run deletes it. Runs beside each other do not meet: none touches what has not expired.

mod canary;
mod door;
mod figures;
mod outcome;
mod settings;
mod target;

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::chain::chain;
use crate::registry::receipt::Receipt;
use crate::registry::{Actor, Registry, RegistryError};
use crate::store::StoreError;
use crate::upstream::UpstreamError;
use canary::Canary;
use door::Door;
use outcome::Measured;
use target::Targets;

pub(crate) use figures::Proofs;
pub(crate) use outcome::{Proof, ProofView, Verdict};
pub(crate) use settings::ProveAtInterval;
pub(crate) use settings::ProveSettings;
pub(crate) use target::Here;

/// Why nothing was measured. The canary, if there was one, is deleted, or expires by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProveError {
    /// Reports name none that can be asked from here.
    #[error(
        "no listener is known that could be asked from here: name each sidecar's with --via (admin.prove.via), such as \
         --via http://10.0.0.5:8080{}", target::excuse(.0)
    )]
    NoListener(Vec<target::Unmeasured>),
    /// A name or a file of TLS.
    #[error("setting up the connections to the listeners")]
    Setup(#[source] UpstreamError),
    /// The store does not say which sidecars there are.
    #[error("asking which sidecars there are")]
    Reports(#[source] StoreError),
    /// No canary.
    #[error("making the canary")]
    Create(#[source] RegistryError),
    /// It may be revoked or not.
    #[error("revoking the canary")]
    Revoke(#[source] RegistryError),
    /// In any of its steps.
    #[error("the store did not answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
}

impl ProveError {
    /// As programs see it.
    pub(crate) fn view(&self, started_at: Timestamp) -> ProofView<'_> {
        let unmeasured = match self {
            Self::NoListener(unmeasured) => unmeasured.as_slice(),
            _ => &[],
        };
        ProofView::of_nothing(started_at, chain(self), unmeasured)
    }
}

/// Who proves, and where.
pub(crate) struct Prover {
    /// The rules, on a store that takes commits. It has committed nothing yet.
    pub registry: Registry,
    /// As records name whoever does this.
    pub actor: Actor,
    /// Which sidecars are on this host.
    pub here: Here,
    /// How.
    pub settings: ProveSettings,
}

impl Prover {
    /// Makes a canary, measures, and deletes it: at most twice the timeout, and what the store takes to answer. Ends early
    /// when told to, and deletes it then too; dropped before its end, it leaves one that expires.
    ///
    /// # Errors
    /// When nothing could be measured.
    pub(crate) async fn prove(&self, interrupted: impl Future<Output = ()>) -> Result<Proof, ProveError> {
        let started_at = Timestamp::now();
        let targets = self.in_time(self.targets()).await??;
        let since = Instant::now();
        let lifetime = self.settings.timeout * 2;
        let created = self.in_time(Canary::create(&self.registry, &self.actor, lifetime)).await?;
        let canary = created.map_err(ProveError::Create)?;
        let measured = tokio::select! {
            measured = self.measure(&canary, &targets, since) => measured,
            () = interrupted => Err(ProveError::Interrupted),
        };
        let deleted = match self.in_time(canary.delete(&self.registry, &self.actor)).await {
            Ok(deleted) => deleted.map_err(|error| chain(&error)),
            Err(late) => Err(late.to_string()),
        };
        let (listeners, reports) = measured?;
        Ok(Proof {
            started_at,
            canary: canary.id,
            listeners,
            unmeasured: targets.unmeasured,
            are_named: !self.settings.via.is_empty(),
            reports,
            leftover: deleted.err(),
        })
    }

    async fn targets(&self) -> Result<Targets, ProveError> {
        let sidecars = self.registry.store().sidecars().await.map_err(ProveError::Reports)?;
        let targets = match self.settings.via.as_slice() {
            [] => Targets::of_reports(sidecars, self.here),
            via => Targets::named(via, sidecars),
        };
        if targets.listeners.is_empty() { Err(ProveError::NoListener(targets.unmeasured)) } else { Ok(targets) }
    }

    /// What every listener does, and beside it what sidecars report of the revocation.
    async fn measure(
        &self,
        canary: &Canary,
        targets: &Targets,
        since: Instant,
    ) -> Result<(Vec<Measured>, Result<Receipt, StoreError>), ProveError> {
        let mut doors = JoinSet::new();
        for (at, target) in targets.listeners.iter().enumerate() {
            let door = Door::new(&target.url, &self.settings, &canary.token).map_err(ProveError::Setup)?;
            let by = since + self.settings.timeout;
            doors.spawn(async move { (at, door.until_let_in(since, by).await) });
        }
        let let_in = in_order(doors).await;
        // From before it is sent: what is measured is never less than what was.
        let revoked = Instant::now();
        let mut doors = JoinSet::new();
        for (at, let_in) in let_in.into_iter().enumerate() {
            let by = revoked + self.settings.timeout;
            doors.spawn(async move {
                match let_in {
                    Ok((door, let_in_after)) => (at, (Some(let_in_after), door.until_refused(revoked, by).await)),
                    Err(outcome) => (at, (None, outcome)),
                }
            });
        }
        let revoke = async {
            let revoked = self.in_time(canary.revoke(&self.registry, &self.actor)).await?;
            revoked.map_err(ProveError::Revoke)?;
            Ok(self.registry.receipt(self.settings.timeout).await)
        };
        let (reports, outcomes) = tokio::try_join!(revoke, async { Ok(in_order(doors).await) })?;
        let listeners = targets.listeners.iter().zip(outcomes).map(|(target, (let_in_after, outcome))| Measured {
            url: target.url.to_string(),
            sidecar: target.sidecar.clone(),
            let_in_after,
            outcome,
        });
        Ok((listeners.collect(), reports))
    }

    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Result<T, ProveError> {
        timeout(self.settings.timeout, step).await.map_err(|_| ProveError::Late(self.settings.timeout))
    }
}

/// Proves now and at this interval, and keeps the figures. Never ends.
pub(crate) async fn prove_at_interval(prover: impl Fn() -> Prover, interval: Duration, proofs: &Proofs) {
    let mut ticks = tokio::time::interval(interval);
    // One that took longer than the interval is not followed by another at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let proof = prover().prove(std::future::pending()).await;
        let verdict = proofs.add(&proof, Timestamp::now());
        match &proof {
            Ok(proof) if verdict == Verdict::Proven => tracing::debug!(proof = %proof.summary(), "proven"),
            Ok(proof) if verdict == Verdict::NotProven => {
                tracing::error!(proof = %proof.summary(), "not proven: a sidecar does not do with a revoked token what it should");
            }
            Ok(proof) => {
                tracing::warn!(proof = %proof.summary(), "it is unknown whether sidecars refuse a revoked token")
            }
            Err(error) => {
                tracing::warn!(error = chain(error), "it is unknown whether sidecars refuse a revoked token");
            }
        }
    }
}

/// What each of these came to, by its number.
async fn in_order<T: 'static>(mut tasks: JoinSet<(usize, T)>) -> Vec<T> {
    let mut ended = Vec::new();
    while let Some(one) = tasks.join_next().await {
        match one {
            Ok(one) => ended.push(one),
            // Nobody cancels them: it is a panic, and it goes on here.
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    ended.sort_by_key(|(at, _)| *at);
    ended.into_iter().map(|(_, outcome)| outcome).collect()
}

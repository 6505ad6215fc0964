//! Proofs at an interval, of a process that may change the registry.

use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use crate::audit;
use crate::health::Health;
use crate::prove::{Here, ProveAtInterval, ProveSettings, Prover, prove_at_interval};
use crate::registry::{Actor, Registry};
use crate::store::{Settings, SidecarId, Store, StoreUrl};

/// Who proves, how often, and what has to be there first.
#[derive(Clone)]
pub(super) struct Proving {
    interval: Duration,
    settings: ProveSettings,
    /// One that takes commits.
    store: Arc<dyn Store>,
    audit: audit::Settings,
    /// As records name it.
    name: String,
    here: Here,
    health: Arc<Health>,
}

/// Of what a process is, what matters to its proofs.
pub(super) struct Process<'a> {
    pub(super) name: &'a str,
    pub(super) store: &'a Settings,
    pub(super) audit: &'a audit::Settings,
    pub(super) health: &'a Arc<Health>,
    /// If it is one.
    pub(super) sidecar: Option<SidecarId>,
}

impl Proving {
    /// `None`: nobody wants it.
    ///
    /// # Errors
    /// When it is wanted, and there is no store that takes commits: why.
    pub(super) fn new(
        config: &ProveAtInterval,
        store: Result<&Arc<dyn Store>, Option<&'static str>>,
        process: &Process<'_>,
    ) -> Result<Option<Self>, StartError> {
        let Some(interval) = config.interval else { return Ok(None) };
        let store = store.map_err(|reason| StartError::Prove(reason.unwrap_or(CONSOLE_OFF)))?;
        let here = match (&process.store.url, process.sidecar) {
            (StoreUrl::Sqlite(_), _) => Here::All,
            (StoreUrl::Redis(_), Some(sidecar)) => Here::Only(sidecar),
            (StoreUrl::Redis(_), None) => Here::None,
        };
        Ok(Some(Self {
            interval,
            settings: config.settings.clone(),
            store: Arc::clone(store),
            audit: process.audit.clone(),
            name: format!("prove:{}", process.name),
            here,
            health: Arc::clone(process.health),
        }))
    }

    /// Proves once the process is ready, and then again and again. Never ends.
    pub(super) async fn run(self) {
        self.health.replica.ready().await;
        let prover = || Prover {
            registry: Registry::new(Arc::clone(&self.store)).with_audit(self.audit.clone()),
            actor: Actor::Operator(self.name.clone()),
            here: self.here,
            settings: self.settings.clone(),
        };
        prove_at_interval(prover, self.interval, &self.health.proofs).await;
    }
}

/// There is a store for it then, and somebody who wants nothing here to use it.
const CONSOLE_OFF: &str = "admin.console is \"off\"";

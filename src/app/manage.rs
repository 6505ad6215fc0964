//! What of a sidecar may change the registry: the console, the audit trail's keeper, the proofs.

use std::sync::Arc;

use axum::Router;

use super::StartError;
use super::live::Live;
use super::prove::{Process, Proving};
use crate::admin::ConsoleStore;
use crate::config::Config;
use crate::console::{self as pages, Console};
use crate::health::Health;
use crate::registry::Registry;
use crate::store::{self, Absent, SidecarId, Store};

/// As far as it is wanted, and there is a store that takes commits.
pub(super) struct Managing {
    /// Or why there is none, for whoever calls.
    pub(super) console: Option<Router>,
    /// Whoever commits keeps the audit trail.
    pub(super) audit_keeper: Option<Registry>,
    pub(super) proving: Option<Proving>,
}

impl Managing {
    /// Opens the console's store.
    ///
    /// # Errors
    /// When the store cannot be opened; when proofs are wanted and cannot be made.
    pub(super) async fn open(
        config: &Config,
        shared: &Arc<dyn Store>,
        live: &Live,
        health: &Arc<Health>,
        sidecar: SidecarId,
    ) -> Result<Self, StartError> {
        let store = match config.admin.console_store(&config.store) {
            ConsoleStore::Own(settings) => {
                Ok(store::open(&settings, Absent::Await).await.map_err(StartError::Console)?)
            }
            ConsoleStore::Shared => Ok(Arc::clone(shared)),
            ConsoleStore::Off(reason) => Err(reason),
        };
        let (name, audit) = (&config.name, &config.audit);
        let process = Process { name, store: &config.store, audit, health, sidecar: Some(sidecar) };
        let proving = Proving::new(&config.admin.prove, store.as_ref().map_err(|reason| *reason), &process)?;
        let store = match store {
            Ok(store) => store,
            Err(reason) => return Ok(Self { console: reason.map(pages::off), audit_keeper: None, proving }),
        };
        let registry =
            Registry::new(store).with_audit(config.audit.clone()).with_max_token_lifetime(config.max_token_lifetime);
        let console = Console::new(
            live.gate().authorizer.clone(),
            config.freshness.clone(),
            registry.clone(),
            config.admin.public_url.clone(),
            Arc::clone(live.trusted_proxies()),
            Arc::clone(&health.failed_auth),
            Arc::clone(&health.uses),
        );
        Ok(Self { console: Some(console.router()), audit_keeper: Some(registry), proving })
    }
}

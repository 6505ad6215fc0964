//! `tollgate console`: the console alone, beside a Redis. It forwards nothing; it has a replica of its own to know its
//! callers by, and refuses them while that is stale.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::prove::{Process, Proving};
use super::supervise::Supervisor;
use super::{AdminListener, StartError};
use crate::admin::{Admin, UnderWay};
use crate::config::Config;
use crate::console::Console;
use crate::health::{Configured, Health};
use crate::listener::{Inherited, Stage, Tls};
use crate::lock::RwLock;
use crate::proxy::authorize::Authorizer;
use crate::registry::Registry;
use crate::reload;
use crate::replica::{Replica, alarm, driver};
use crate::store::{Feed, Store};
use crate::usage::Flusher;

/// A running console. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct ConsoleProcess {
    /// Where it listens.
    pub address: SocketAddr,
    health: Arc<Health>,
    /// Of the admin listener.
    pub tls: Option<Arc<Tls>>,
    supervisor: Supervisor,
    tasks: Vec<AbortHandle>,
    under_way: UnderWay,
    drain: Duration,
    flusher: Flusher,
}

impl ConsoleProcess {
    /// Binds and starts. Its replica is filled in the background: until then every call gets 503.
    ///
    /// # Errors
    /// When the address or the certificate cannot be used.
    pub(crate) async fn start(config: Config, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let replica = Arc::new(Replica::new());
        let max_staleness = config.freshness.max_staleness;
        let health =
            Arc::new(Health::new(Arc::clone(&replica), max_staleness, config.limits.failed_auth.clone(), None));
        let under_way = UnderWay::new(config.admin.max_connections);
        let tls = config.admin.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        let listener = AdminListener::bind(&config.admin, &mut Inherited::default()).await?;
        let address = listener.address;
        let authorizer = Authorizer {
            replica: Arc::clone(&replica),
            max_staleness,
            expired_retention: config.expired_retention,
            late: Arc::clone(&health.late),
        };
        let description =
            Process { name: &config.name, store: &config.store, audit: &config.audit, health: &health, sidecar: None };
        let proving = Proving::new(&config.admin.prove, Ok(&store), &description)?;
        let registry = Registry::new(Arc::clone(&store))
            .with_audit(config.audit)
            .with_max_token_lifetime(config.max_token_lifetime);
        let console = Console::new(
            authorizer,
            config.freshness.clone(),
            registry.clone(),
            config.admin.public_url,
            Arc::new(RwLock::new(config.trusted_proxies)),
            Arc::clone(&health.failed_auth),
            Arc::clone(&health.uses),
        );
        let flusher = Flusher::new(Arc::clone(&health.uses), store.clone(), Arc::clone(&health.flushes_failed));
        let supervisor = Supervisor::new(Arc::clone(&health.panics));
        let mut process = Self {
            address,
            health: Arc::clone(&health),
            tls: tls.clone(),
            supervisor,
            tasks: Vec::new(),
            under_way: under_way.clone(),
            drain: config.timeouts.drain,
            flusher: flusher.clone(),
        };
        process.spawn("usage", move || flusher.clone().run());
        if let Some(proving) = proving {
            process.spawn("proofs", move || proving.clone().run());
        }
        let certificates: Vec<_> = tls.clone().into_iter().collect();
        let shown = Configured { listener_tls: certificates.clone(), ..Configured::default() };
        health.configured.send_replace(Arc::new(shown));
        process.spawn("file watcher", move || reload::watch(Vec::new(), certificates.clone()));
        let tls = Arc::new(RwLock::new(tls));
        let admin = Admin { health, tls, console: Some(console.router()), under_way };
        let (_, accepts) = watch::channel(Stage::Accepting);
        process.spawn("admin listener", move || listener.clone().serve(admin.clone(), accepts.clone()));
        process.spawn("audit trail", move || {
            let registry = registry.clone();
            async move { registry.keep_audit().await }
        });
        let (watched, bounds) = (Arc::clone(&replica), alarm::Bounds::new(&config.freshness));
        process.spawn("staleness alarm", move || alarm::watch(Arc::clone(&watched), bounds.clone()));
        let (feed, probe_interval): (Arc<dyn Feed>, _) = (store, config.freshness.probe_interval);
        process.spawn("synchroniser", move || {
            let (replica, feed) = (Arc::clone(&replica), Arc::clone(&feed));
            async move { driver::run(replica, feed, probe_interval, std::future::pending()).await }
        });
        Ok(process)
    }

    fn spawn<F>(&mut self, task: &'static str, start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = tokio::spawn(self.supervisor.clone().supervise(task, start));
        self.tasks.push(task.abort_handle());
    }

    /// Waits until its replica was proven fresh for the first time.
    pub(crate) async fn ready(&self) {
        self.health.replica.ready().await;
    }

    /// Ends it, when what callers have asked is answered, within the drain timeout. What they used is left in the store.
    pub(crate) async fn stop(self) {
        self.under_way.finish(Instant::now() + self.drain).await;
        self.tasks.iter().for_each(AbortHandle::abort);
        self.flusher.clone().finish().await;
    }

    /// Waits until it cannot go on, and says for want of what.
    pub(crate) async fn failed(&self) -> &'static str {
        self.supervisor.failed().await
    }
}

impl Drop for ConsoleProcess {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

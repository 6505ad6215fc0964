//! What of a running sidecar a reload exchanges: all of it, or nothing.
//!
//! ```text
//! read and judged ─► Parts made of it (files are read; nothing is in effect) ─► put in the place of the former ones
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{StartError, descriptors};
use crate::access_log::AccessLog;
use crate::admin::AdminTls;
use crate::config::{Changes, Config};
use crate::connection::ConnectionLimits;
use crate::console::TrustedProxies;
use crate::health::{Configured, Health, Reloads};
use crate::listener::{Opening, Tls};
use crate::lock::RwLock;
use crate::proxy::{self, Gate, Observers};
use crate::reading;
use crate::traces::Tracer;
use crate::upstream::{Upstream, UpstreamName};

/// How long workers may take to serve by what was reloaded. One that takes longer does so once it is free.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether anybody still writes to an access log that was replaced.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What of a running sidecar a reload exchanges, and where.
pub(super) struct Live {
    /// The configuration that is in effect, as it was read: what there are too few descriptors for is lowered in what is made of it.
    /// One reload at a time.
    config: tokio::sync::Mutex<Config>,
    gate: watch::Sender<Renewal>,
    workers: usize,
    /// Connections of the admin listener that there are descriptors for.
    pub(super) admin_connections: usize,
    health: Arc<Health>,
    connection_limits: Arc<ConnectionLimits>,
    /// In the order of the listeners.
    openings: Vec<Arc<RwLock<Opening>>>,
    admin_tls: AdminTls,
    trusted_proxies: TrustedProxies,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("openings", &self.openings).finish_non_exhaustive()
    }
}

/// A gate for all workers, and where each says that its next request gets it.
#[derive(Clone)]
pub(super) struct Renewal {
    pub(super) gate: Arc<Gate>,
    taken: mpsc::Sender<()>,
}

impl Renewal {
    pub(super) fn is_taken(&self) {
        // Nobody may wait for it any more.
        self.taken.try_send(()).ok();
    }
}

/// What is made of a configuration before anything of it is in effect.
struct Parts {
    gate: Gate,
    openings: Vec<Opening>,
    admin_tls: Option<Arc<Tls>>,
}

impl Parts {
    /// Those of a sidecar that starts. Reads files.
    ///
    /// # Errors
    /// When a certificate, a credential or the access log's file cannot be used.
    fn first(config: &Config, health: &Health, tracer: Option<Arc<Tracer>>) -> Result<Self, StartError> {
        let upstreams = &config.upstreams;
        let api = Upstream::new(UpstreamName::Api, upstreams.api.clone())?;
        let heartbeat = Upstream::new(UpstreamName::Heartbeat, upstreams.heartbeat.clone())?;
        let access_log = open_log(config, health)?;
        Self::of(config, health, [api, heartbeat], Observers { access_log, tracer })
    }

    /// Those that take the place of these. Reads files.
    ///
    /// # Errors
    /// As [`Parts::first`].
    fn next(former: &Gate, running: &Config, config: &Config, health: &Health) -> Result<Self, StartError> {
        let api = former.api.with(config.upstreams.api.clone())?;
        let heartbeat = former.heartbeat.with(config.upstreams.heartbeat.clone())?;
        let Observers { access_log, tracer } = former.observers.clone();
        let access_log = if running.access_log == config.access_log { access_log } else { open_log(config, health)? };
        let parts = Self::of(config, health, [api, heartbeat], Observers { access_log, tracer })?;
        // Last: nodes that stay have new files at once.
        parts.gate.api.reload_tls()?;
        parts.gate.heartbeat.reload_tls()?;
        Ok(parts)
    }

    fn of(
        config: &Config,
        health: &Health,
        [api, heartbeat]: [Upstream; 2],
        observers: Observers,
    ) -> Result<Self, StartError> {
        let openings = config.listeners.iter().map(Opening::new).collect::<Result<_, _>>()?;
        let admin_tls = config.admin.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        let settings = proxy::Settings {
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
            routes: config.routes.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            max_staleness: config.freshness.max_staleness,
            expired_retention: config.expired_retention,
            health_path: config.health_path.clone(),
            readiness: Arc::clone(&health.readiness),
            failed_auth: Arc::clone(&health.failed_auth),
            late: Arc::clone(&health.late),
            observers,
            cache: health.cache.clone(),
        };
        let gate = Gate::new(settings, Arc::clone(&health.replica), Arc::new(api), Arc::new(heartbeat));
        Ok(Self { gate, openings, admin_tls })
    }
}

fn open_log(config: &Config, health: &Health) -> Result<Option<Arc<AccessLog>>, StartError> {
    let log = &config.access_log;
    AccessLog::open(log, &health.access_log_lost)
        .map_err(|source| StartError::AccessLog { output: log.output.clone(), source })
}

impl Live {
    /// Of a sidecar that starts. Reads files.
    ///
    /// # Errors
    /// When a certificate, a credential or the access log's file cannot be used.
    pub(super) fn start(
        config: Config,
        health: Arc<Health>,
        tracer: Option<Arc<Tracer>>,
    ) -> Result<Arc<Self>, StartError> {
        let shared = descriptors::share(&config);
        let Parts { gate, openings, admin_tls } = Parts::first(&shared, &health, tracer)?;
        let connection_limits = Arc::new(ConnectionLimits::new(
            &gate.limits,
            Arc::clone(&health.refused),
            Arc::clone(&health.without_proxy_header),
            Arc::clone(&health.handshakes),
        ));
        let live = Self {
            gate: watch::Sender::new(Renewal { gate: Arc::new(gate), taken: mpsc::channel(1).0 }),
            workers: config.workers.get(),
            admin_connections: shared.admin.max_connections,
            connection_limits,
            openings: openings.into_iter().map(|opening| Arc::new(RwLock::new(opening))).collect(),
            admin_tls: Arc::new(RwLock::new(admin_tls)),
            trusted_proxies: Arc::new(RwLock::new(config.trusted_proxies.clone())),
            health,
            config: tokio::sync::Mutex::new(config.clone()),
        };
        live.show(&live.gate(), &config);
        Ok(Arc::new(live))
    }

    /// How reloads went.
    pub(super) fn reloads(&self) -> &Reloads {
        &self.health.reloads
    }

    /// What decides over the next requests.
    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate.borrow().gate)
    }

    /// That, and each that takes its place.
    pub(super) fn gates(&self) -> watch::Receiver<Renewal> {
        self.gate.subscribe()
    }

    pub(super) fn connection_limits(&self) -> &Arc<ConnectionLimits> {
        &self.connection_limits
    }

    /// Those of the listeners, in their order.
    pub(super) fn openings(&self) -> &[Arc<RwLock<Opening>>] {
        &self.openings
    }

    pub(super) fn admin_tls(&self) -> &AdminTls {
        &self.admin_tls
    }

    pub(super) fn trusted_proxies(&self) -> &TrustedProxies {
        &self.trusted_proxies
    }

    /// Exchanges what can be exchanged for what was read, and says what that changes. No connection is closed, and a request keeps
    /// what it began with.
    ///
    /// # Errors
    /// When something cannot be used. Nothing is changed then.
    pub(super) async fn reload(&self, read: &Config) -> Result<Changes, StartError> {
        let mut running = self.config.lock().await;
        let (config, changes) = running.reloaded(read);
        let (former, health) = (self.gate(), Arc::clone(&self.health));
        let parts = reading::until(reading::patience(), {
            let (former, running, config) = (Arc::clone(&former), running.clone(), descriptors::share(&config));
            move || Parts::next(&former, &running, &config, &health)
        });
        let parts = parts.await??;
        *running = config;
        let gate = self.exchange(&running, parts).await;
        if let Some(log) = former.observers.access_log.clone()
            && gate.observers.access_log.as_ref().is_none_or(|current| !Arc::ptr_eq(current, &log))
        {
            tokio::spawn(finish_log(log));
        }
        Ok(changes)
    }

    /// Nothing here can fail.
    async fn exchange(&self, config: &Config, parts: Parts) -> Arc<Gate> {
        let Parts { gate, openings, admin_tls } = parts;
        for (place, opening) in self.openings.iter().zip(openings) {
            *place.write() = opening;
        }
        *self.admin_tls.write() = admin_tls;
        self.trusted_proxies.write().clone_from(&config.trusted_proxies);
        self.connection_limits.set(&gate.limits);
        self.health.failed_auth.set_limit(gate.limits.failed_auth.clone());
        gate.api.take_over();
        gate.heartbeat.take_over();
        let (gate, (taken, mut all_taken)) = (Arc::new(gate), mpsc::channel(self.workers));
        self.gate.send_replace(Renewal { gate: Arc::clone(&gate), taken });
        self.show(&gate, config);
        let all = async {
            for _ in 0..self.workers {
                all_taken.recv().await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("a worker is busy: it serves by what was reloaded as soon as it is free");
        }
        gate
    }

    /// What is seen from outside.
    fn show(&self, gate: &Gate, config: &Config) {
        let of_listeners = self.openings.iter().filter_map(|opening| opening.read().tls.clone());
        let listener_tls = of_listeners.chain(self.admin_tls.read().clone()).collect();
        self.health.configured.send_replace(Arc::new(Configured {
            upstreams: vec![Arc::clone(&gate.api), Arc::clone(&gate.heartbeat)],
            listener_tls,
            max_connections: gate.limits.max_connections.get(),
            values: config.values(),
        }));
    }
}

/// Ends a log once the last request is over that it is of.
async fn finish_log(log: Arc<AccessLog>) {
    while Arc::strong_count(&log) > 1 {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    // An error means that the process ends.
    drop(tokio::task::spawn_blocking(move || log.finish()).await);
}

/// Runs a task under what is configured, from the start again whenever that is exchanged. Never ends.
pub(super) async fn under_each<F: Future<Output = ()>>(health: Arc<Health>, start: impl Fn(Arc<Configured>) -> F) {
    let mut configured = health.configured.subscribe();
    loop {
        let now = Arc::clone(&configured.borrow_and_update());
        tokio::select! {
            () = start(now) => {}
            // It is never dropped: `health` is held.
            _ = configured.changed() => {}
        }
    }
}

//! A sidecar from start to stop: bind → first snapshot → ready; unready → drain → cut.
//!
//! Only this module knows both paths: it gives the replica to the workers, which read it, and to the synchroniser, which
//! writes it.

mod console;
mod descriptors;
mod handover;
mod program;
mod prove;
mod service;
pub(crate) mod signals;
mod sockets;
mod supervise;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::access_log::AccessLog;
use crate::admin::{Admin, ConsoleStore};
use crate::config::Config;
use crate::connection::ConnectionLimits;
use crate::console::{self as pages, Console};
use crate::fleet::{self, Reporter};
use crate::health::Health;
use crate::listener::{self, BindError, Inherited, ListenAddress, Listener, ListeningSocket, Opening, Stage};
use crate::proxy::{self, Cache, CacheConfig, Gate, Observers, Proxy};
use crate::registry::Registry;
use crate::reload;
use crate::replica::presence::Presence;
use crate::replica::snapshot_file::SnapshotFile;
use crate::replica::sync::Synchroniser;
use crate::replica::{FreshnessConfig, Replica, SidecarIdentity, SnapshotFileInUse, alarm, driver};
use crate::store::{self, Absent, Feed, Store, StoreError};
use crate::tls::TlsError;
use crate::traces::Tracer;
use crate::upstream::{Upstream, UpstreamError, UpstreamName, check};
use crate::usage::Flusher;
use handover::{State, Successor, TakeOverError};
use prove::{Process, Proving};
use service::Pulse;
use sockets::{AdminListener, Sockets};
use supervise::Supervisor;

pub use program::{console, serve};

/// How long the store may take to take back this sidecar's report at the end. A report that stays does no harm.
const WITHDRAW_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the store may take to record the latest use of tokens.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A running sidecar. Dropping it without [`Sidecar::stop`] cuts off what it serves.
#[derive(Debug)]
pub struct Sidecar {
    listeners: Vec<ListenAddress>,
    sockets: Sockets,
    health: Arc<Health>,
    observers: Observers,
    stage: watch::Sender<Stage>,
    drain_delay: Duration,
    pulse: Arc<Pulse>,
    workers: Vec<JoinHandle<()>>,
    tasks: Vec<AbortHandle>,
    reporter: Option<Reporting>,
    flusher: Option<Flusher>,
    snapshot_file: Option<Arc<SnapshotFile>>,
    /// Nobody else's while it runs.
    _identity: SidecarIdentity,
    supervisor: Supervisor,
}

/// The task that reports to the store.
#[derive(Debug)]
struct Reporting {
    task: tokio::task::JoinHandle<()>,
    leave: watch::Sender<bool>,
}

/// Why a sidecar cannot start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address agents shall connect to.
    #[error(transparent)]
    Listener(#[from] BindError),
    /// The admin listener's address.
    #[error(
        "cannot listen on {address} for health, metrics and the admin API; --admin-listen, or `admin.address`, sets another{}",
        listener::in_use(source)
    )]
    Admin {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket that the service manager opened.
    #[error(
        "the service manager has opened a socket at {0}, and nothing here listens there: `address` of a [[listener]], or \
         `admin.address`, must be what ListenStream= says"
    )]
    Unclaimed(ListenAddress),
    /// A listener's certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An upstream's TLS files or service token.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The access log's file, or standard output.
    #[error("opening the access log; `access_log.output` says where it is")]
    AccessLog(#[source] io::Error),
    /// Another sidecar's snapshot file.
    #[error(transparent)]
    SnapshotFile(#[from] SnapshotFileInUse),
    /// The console's own way to the store.
    #[error("opening the store for the console (admin.store_username)")]
    Console(#[source] StoreError),
    /// Proofs are wanted that cannot be made.
    #[error("admin.prove.interval is set, and nothing here may change the registry to prove anything by: {0}")]
    Prove(&'static str),
    /// A thread.
    #[error("starting a worker thread")]
    Thread(#[source] io::Error),
}

impl Sidecar {
    /// Binds every address and starts serving. The replica is filled in the background: until then everything that needs
    /// a token gets 503. Must be called within a tokio runtime, which carries the control plane.
    ///
    /// # Errors
    /// When an address, a certificate or a credential cannot be used. Nothing runs then.
    pub async fn start(config: Config, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let mut sidecar = Self::prepare(config, store, Inherited::default(), None).await?;
        sidecar.accept();
        Ok(sidecar)
    }

    /// Everything of [`Sidecar::start`] but that it accepts connections: whoever it is to take over from, in this state, does.
    ///
    /// # Errors
    /// As [`Sidecar::start`].
    async fn prepare(
        config: Config,
        store: Arc<dyn Store>,
        inherited: Inherited,
        succeeds: Option<State>,
    ) -> Result<Self, StartError> {
        let snapshot_file = config.snapshot_file.as_deref();
        let mut identity = match succeeds {
            Some(_) => SidecarIdentity::take_or_await(snapshot_file),
            None => SidecarIdentity::take(snapshot_file)?,
        };
        let sidecar_id = identity.id;
        let sockets = Sockets::open(&config, inherited, succeeds.is_some()).await?;
        let tls = sockets.tls();
        let replica = Arc::new(Replica::new());
        let api = Arc::new(Upstream::new(UpstreamName::Api, config.upstreams.api)?);
        let heartbeat = Arc::new(Upstream::new(UpstreamName::Heartbeat, config.upstreams.heartbeat)?);
        let cache = open_cache(config.config_cache.clone(), &api).await?;
        let upstreams = vec![Arc::clone(&api), Arc::clone(&heartbeat)];
        let mut health = Health::new(
            Arc::clone(&replica),
            config.freshness.max_staleness,
            upstreams.clone(),
            config.limits.failed_auth.clone(),
            cache.clone(),
        );
        health.max_connections = config.limits.max_connections.get().into();
        let connection_limits = Arc::new(ConnectionLimits::new(
            &config.limits,
            Arc::clone(&health.refused),
            Arc::clone(&health.without_proxy_header),
            Arc::clone(&health.handshakes),
        ));
        let access_log = AccessLog::open(&config.access_log, &health.access_log_lost).map_err(StartError::AccessLog)?;
        let (tracer, exporter) = Tracer::new(&config.traces, &config.name, &health.spans_lost).unzip();
        let observers = Observers { access_log, tracer };
        let (drain_delay, drain) = (config.timeouts.drain_delay, config.timeouts.drain);
        let settings = proxy::Settings {
            limits: config.limits,
            timeouts: config.timeouts,
            routes: config.routes,
            trusted_proxies: config.trusted_proxies.clone(),
            max_staleness: config.freshness.max_staleness,
            expired_retention: config.expired_retention,
            health_path: config.health_path,
            readiness: Arc::clone(&health.readiness),
            failed_auth: Arc::clone(&health.failed_auth),
            late: Arc::clone(&health.late),
            observers: observers.clone(),
            cache: cache.clone(),
        };
        let gate = Arc::new(Gate::new(settings, Arc::clone(&replica), api, heartbeat));
        health.listener_tls.clone_from(&tls);
        health.readiness.drain(succeeds.is_some_and(|state| state.drained));
        let health = Arc::new(health);
        let console_store = match config.admin.console_store(&config.store) {
            ConsoleStore::Own(settings) => {
                Ok(store::open(&settings, Absent::Await).await.map_err(StartError::Console)?)
            }
            ConsoleStore::Shared => Ok(Arc::clone(&store)),
            ConsoleStore::Off(reason) => Err(reason),
        };
        // Whoever commits keeps the audit trail.
        let mut audit_keeper = None;
        let process = Process {
            name: &config.name,
            store: &config.store,
            audit: &config.audit,
            health: &health,
            sidecar: Some(sidecar_id),
        };
        let proving = Proving::new(&config.admin.prove, console_store.as_ref().map_err(|reason| *reason), &process)?;
        let console = match console_store {
            Ok(store) => {
                let (authorizer, freshness) = (gate.authorizer.clone(), config.freshness.clone());
                let (public_url, trusted_proxies) = (config.admin.public_url.clone(), config.trusted_proxies);
                let failed_auth = Arc::clone(&health.failed_auth);
                let registry = Registry::new(store)
                    .with_audit(config.audit.clone())
                    .with_max_token_lifetime(config.max_token_lifetime);
                let registry = audit_keeper.insert(registry).clone();
                Some(Console::new(authorizer, freshness, registry, public_url, trusted_proxies, failed_auth).router())
            }
            Err(reason) => reason.map(pages::off),
        };
        let (stage, staged) = watch::channel(Stage::Waiting);
        let supervisor = Supervisor::new(Arc::clone(&health.panics));
        let mut sidecar = Self {
            listeners: sockets.addresses(),
            sockets,
            health: Arc::clone(&health),
            observers,
            stage,
            drain_delay,
            pulse: Arc::new(Pulse::new(config.workers.get())),
            workers: Vec::new(),
            tasks: Vec::new(),
            reporter: None,
            flusher: None,
            snapshot_file: config.snapshot_file.clone().map(|path| {
                let name = format!("{} {}", store.describe(), config.store.namespace);
                let bound = fleet::min_report_ttl(&config.freshness);
                SnapshotFile::new(path, name, &mut identity, bound, Arc::clone(&replica))
            }),
            _identity: identity,
            supervisor,
        };
        for index in 0..config.workers.get() {
            let sockets = sidecar.sockets.of_worker(index, config.workers.get()).map_err(StartError::Thread)?;
            let thread = WorkerThread {
                gate: Arc::clone(&gate),
                health: Arc::clone(&health),
                sockets,
                connection_limits: Arc::clone(&connection_limits),
                stage: staged.clone(),
                drain,
                pulse: Arc::clone(&sidecar.pulse),
                supervisor: sidecar.supervisor.clone(),
            };
            sidecar.workers.push(thread.spawn(index).map_err(StartError::Thread)?);
        }
        if let Some(exporter) = exporter {
            sidecar.spawn("trace exporter", move || exporter.clone().run());
        }
        if let Some(cache) = cache {
            sidecar.spawn("configuration cache", move || Arc::clone(&cache).keep());
        }
        let checked = upstreams.clone();
        sidecar.spawn("health checks", move || check::watch(checked.clone()));
        sidecar.spawn("file watcher", move || reload::watch(upstreams.clone(), tls.clone()));
        let listener = sidecar.sockets.admin.clone();
        let admin = Admin { health: Arc::clone(&health), tls: listener.tls.clone(), console };
        sidecar.spawn("admin listener", move || listener.clone().serve(admin.clone(), staged.clone()));
        if let Some(registry) = audit_keeper {
            sidecar.spawn("audit trail", move || {
                let registry = registry.clone();
                async move { registry.keep_audit().await }
            });
        }
        if let Some(proving) = proving {
            sidecar.spawn("proofs", move || proving.clone().run());
        }
        // Before the first snapshot is read: whoever lists the sidecars finds this one before it lets anybody in.
        let presence = Arc::new(Presence::new(sidecar_id, fleet::min_report_ttl(&config.freshness)));
        sidecar.report(Reporter::new(
            store.clone(),
            health,
            config.name,
            sidecar.listeners.first().cloned(),
            Arc::clone(&presence),
            sidecar.snapshot_file.clone(),
            fleet::report_ttl(&config.freshness),
        ));
        let flusher =
            Flusher::new(Arc::clone(&sidecar.health.uses), store.clone(), sidecar.health.flushes_failed.clone());
        let periodically = flusher.clone();
        sidecar.spawn("usage", move || periodically.clone().run());
        sidecar.flusher = Some(flusher);
        sidecar.synchronise(replica, store, presence, &config.freshness);
        Ok(sidecar)
    }

    /// Runs a task for as long as the sidecar.
    fn spawn<F>(&mut self, task: &'static str, start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task_handle = tokio::spawn(self.supervisor.clone().supervise(task, start));
        self.tasks.push(task_handle.abort_handle());
    }

    fn report(&mut self, reporter: Reporter) {
        let (leave, left) = watch::channel(false);
        let start = move || {
            let (run, mut left) = (reporter.clone(), left.clone());
            async move {
                let (leave, leaving) = oneshot::channel();
                let asked_to_leave = async {
                    // An error means that the sidecar was dropped, and this with it.
                    drop(left.wait_for(|left| *left).await);
                    leave.send(()).ok(); // it reports no more: so much the better
                };
                tokio::join!(run.run(leaving), asked_to_leave);
            }
        };
        let task = tokio::spawn(self.supervisor.clone().supervise("reporter", start));
        self.tasks.push(task.abort_handle());
        self.reporter = Some(Reporting { task, leave });
    }

    /// Holds the replica at the store's position, from what an earlier run left on. After a panic it is read anew.
    fn synchronise(
        &mut self,
        replica: Arc<Replica>,
        feed: Arc<dyn Feed>,
        presence: Arc<Presence>,
        freshness: &FreshnessConfig,
    ) {
        let mut unread = self.snapshot_file.clone();
        let (loaded, is_loaded) = watch::channel(false);
        let loaded = Arc::new(loaded);
        let (watched, bounds) = (Arc::clone(&replica), alarm::Bounds::new(freshness));
        self.spawn("staleness alarm", move || alarm::watch(Arc::clone(&watched), bounds.clone()));
        let (probe_interval, bound) = (freshness.probe_interval, fleet::bound(freshness));
        self.spawn("synchroniser", move || {
            let (replica, feed, loaded) = (Arc::clone(&replica), Arc::clone(&feed), Arc::clone(&loaded));
            let (unread, presence) = (unread.take(), Some(Arc::clone(&presence)));
            async move {
                let machine = match unread {
                    Some(file) => file.load().await,
                    None => Synchroniser::new(),
                };
                loaded.send_replace(true);
                let run = std::future::pending();
                driver::resume(replica, feed, machine, probe_interval, bound, presence, run).await;
            }
        });
        if let Some(file) = self.snapshot_file.clone() {
            self.spawn("snapshot file", move || {
                let (file, mut is_loaded) = (Arc::clone(&file), is_loaded.clone());
                async move {
                    // An error means that the sidecar was dropped, and this with it.
                    drop(is_loaded.wait_for(|loaded| *loaded).await);
                    file.save_periodically().await;
                }
            });
        }
    }

    /// Waits until it cannot go on: something that it cannot do without ended by a panic again and again. Says what.
    pub async fn failed(&self) -> &'static str {
        self.supervisor.failed().await
    }

    /// Where agents connect, in the order of the configuration.
    pub fn listeners(&self) -> &[ListenAddress] {
        &self.listeners
    }

    /// Where health is served.
    pub fn admin(&self) -> SocketAddr {
        self.sockets.admin.address
    }

    /// What requests are decided by.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.health.replica
    }

    /// Waits until the replica was proven fresh for the first time.
    pub async fn ready(&self) {
        self.health.replica.ready().await;
    }

    /// Accepts connections from here on, in place of whoever did before.
    fn accept(&mut self) {
        self.sockets.claim_files();
        self.stage.send_replace(Stage::Accepting);
    }

    /// Starts a process that takes over, and waits until it accepts. Cancelled, or if it does not, nothing has changed.
    ///
    /// # Errors
    /// Why it does not.
    async fn hand_over(&self) -> Result<Successor, TakeOverError> {
        let state = State { drained: self.health.readiness.is_drained() };
        let sockets = self.sockets.labelled().map_err(TakeOverError::Descriptors)?;
        let starting = tokio::task::spawn_blocking(move || Successor::start(sockets, state));
        starting.await.map_err(|error| TakeOverError::Descriptors(error.into()))??.accepts().await
    }

    /// Stops: no longer ready; after `drain_delay`, in which balancers take note of it, no new connections, and in-flight
    /// requests are finished, bounded by the drain timeout.
    pub async fn stop(mut self) {
        self.health.readiness.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.drain_delay).await;
        self.sockets.close();
        self.stage.send_replace(Stage::Stopping);
        self.finish(false).await;
    }

    /// Leaves the sockets to the process that has taken over, finishes in-flight requests, and gives every open connection the
    /// drain timeout to send one more; what runs then is bounded by it once more.
    async fn cede(mut self) {
        self.health.readiness.succeeded.store(true, Ordering::Relaxed);
        self.sockets.leave_files();
        self.sockets.close();
        self.stage.send_replace(Stage::Ceding);
        self.finish(true).await;
    }

    async fn finish(mut self, is_succeeded: bool) {
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || workers.into_iter().all(|worker| worker.join().is_ok()));
        if !joined.await.unwrap_or(false) {
            tracing::error!("a worker panicked");
        }
        if let Some(flusher) = self.flusher.take()
            && tokio::time::timeout(FLUSH_TIMEOUT, flusher.finish()).await.is_err()
        {
            tracing::warn!("the latest use of tokens could not be recorded: the store does not answer");
        }
        // Not before: until the last request ended, others had to wait for this sidecar too. And not where it leaves a file
        // from which it can start again: it could still let a token in then, whatever the store says.
        let starts_again = match &self.snapshot_file {
            Some(file) if is_succeeded => file.renounce().await.is_err(),
            file => file.is_some(),
        };
        if !starts_again
            && let Some(Reporting { task, leave }) = self.reporter.take()
            && leave.send(true).is_ok()
            && tokio::time::timeout(WITHDRAW_TIMEOUT, task).await.is_err()
        {
            tracing::debug!("the report could not be withdrawn: it stays until it expires");
        }
        if starts_again && let Some(file) = &self.snapshot_file {
            file.save().await;
        }
        if let Some(cache) = &self.health.cache {
            cache.save().await;
        }
        if let Some(tracer) = &self.observers.tracer {
            tracer.finish().await;
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // One that never accepted has nothing to stop: see `WorkerThread::run`.
        self.stage.send_if_modified(|stage| {
            let accepted = *stage > Stage::Waiting;
            if accepted {
                *stage = Stage::Stopping;
            }
            accepted
        });
        self.tasks.iter().for_each(AbortHandle::abort);
        if let Some(log) = &self.observers.access_log {
            log.finish();
        }
    }
}

/// Opens the configuration cache, if it is wanted; elsewhere, since its directory is read.
async fn open_cache(config: CacheConfig, api: &Arc<Upstream>) -> Result<Option<Arc<Cache>>, StartError> {
    if !config.enabled {
        return Ok(None);
    }
    let api = Arc::clone(api);
    let opened = tokio::task::spawn_blocking(move || Cache::open(config, &api.config)).await;
    opened.map(|cache| Some(Arc::new(cache))).map_err(|error| StartError::Thread(error.into()))
}

/// What a worker's thread starts with.
struct WorkerThread {
    gate: Arc<Gate>,
    health: Arc<Health>,
    sockets: Vec<(ListeningSocket, Arc<Opening>)>,
    connection_limits: Arc<ConnectionLimits>,
    stage: watch::Receiver<Stage>,
    drain: Duration,
    pulse: Arc<Pulse>,
    supervisor: Supervisor,
}

impl WorkerThread {
    fn spawn(self, index: usize) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let _guard = self.supervisor.guard("worker thread");
            let mut runtime = runtime;
            match runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
                Ok(runtime) => {
                    let pulse = Arc::clone(&self.pulse);
                    runtime.block_on(self.run(index));
                    pulse.end(index);
                    // A lookup of a name may hang in a thread of its own.
                    runtime.shutdown_background();
                }
                Err(error) => {
                    tracing::error!(%error, "cannot start a worker");
                    self.supervisor.fail("worker thread");
                }
            }
        })
    }

    async fn run(mut self, index: usize) {
        let Health { uses, tallies, connections, panics, .. } = &*self.health;
        let (connections, panics) = (Arc::clone(connections), Arc::clone(panics));
        let proxy = Proxy::new(self.gate, Arc::clone(uses), tallies.worker(), connections, panics);
        let supervisor = || self.supervisor.clone();
        let (swept, rechecked, roomy) = (Rc::clone(&proxy), Rc::clone(&proxy), Rc::clone(&proxy));
        tokio::task::spawn_local(supervisor().supervise("sweep", move || Rc::clone(&swept).sweep()));
        tokio::task::spawn_local(supervisor().supervise("recheck", move || Rc::clone(&rechecked).recheck()));
        tokio::task::spawn_local(supervisor().supervise("make room", move || Rc::clone(&roomy).make_room()));
        let pulse = Arc::clone(&self.pulse);
        let answer = move || Arc::clone(&pulse).answer(index);
        tokio::task::spawn_local(supervisor().supervise("pulse", answer));
        // An error means that the sidecar was dropped before it accepted: what waits in the sockets is not for it.
        if self.stage.wait_for(|stage| *stage >= Stage::Accepting).await.is_err() {
            return;
        }
        let mut accepting = Vec::new();
        for (socket, opening) in self.sockets {
            match Listener::new(socket) {
                Ok(socket) => {
                    let (connection_limits, stage) = (Arc::clone(&self.connection_limits), self.stage.clone());
                    let (proxy, socket) = (Rc::clone(&proxy), Rc::new(socket));
                    let accept = move || {
                        let (proxy, socket, connection_limits) =
                            (Rc::clone(&proxy), Rc::clone(&socket), Arc::clone(&connection_limits));
                        listener::accept(proxy, socket, Arc::clone(&opening), connection_limits, stage.clone())
                    };
                    accepting.push(tokio::task::spawn_local(supervisor().supervise("accept loop", accept)));
                }
                Err(error) => {
                    tracing::error!(%error, "a worker cannot listen");
                    self.supervisor.fail("accept loop");
                }
            }
        }
        // And here, that it was dropped, which is a stop too.
        let stage =
            self.stage.wait_for(|stage| *stage > Stage::Accepting).await.map_or(Stage::Stopping, |stage| *stage);
        match stage {
            Stage::Ceding => proxy.worker.take_leave(),
            _ => proxy.worker.drain(),
        }
        for task in accepting {
            // It ends with the stage, and by a panic at worst: in-flight requests are finished all the same.
            drop(task.await);
        }
        let idle = async || tokio::time::timeout(self.drain, proxy.worker.idle()).await.is_ok();
        if stage == Stage::Ceding {
            if idle().await {
                return;
            }
            // They had their time.
            proxy.worker.drain();
        }
        if !idle().await {
            tracing::warn!("drain timeout: closing in-flight requests");
        }
    }
}

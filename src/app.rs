//! A sidecar from start to stop: bind → first snapshot → ready; unready → drain → cut.
//!
//! Only this module knows both paths: it gives the replica to the workers, which read it, and to the synchroniser, which
//! writes it.

mod console;
mod descriptors;
mod handover;
mod live;
mod manage;
mod program;
mod prove;
mod reread;
mod service;
pub(crate) mod signals;
mod sockets;
mod supervise;
mod thread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::admin::Admin;
use crate::config::{Changes, Config};
use crate::fleet::{self, Reporter};
use crate::health::Health;
use crate::listener::{self, BindError, Inherited, ListenAddress, Stage};
use crate::proxy::{Cache, CacheConfig};
use crate::reload;
use crate::replica::presence::Presence;
use crate::replica::snapshot_file::SnapshotFile;
use crate::replica::sync::Synchroniser;
use crate::replica::{FreshnessConfig, Replica, SidecarIdentity, SnapshotFileInUse, alarm, driver};
use crate::store::{Feed, Store, StoreError};
use crate::tls::TlsError;
use crate::traces::Tracer;
use crate::upstream::{UpstreamConfig, UpstreamError, check};
use crate::usage::Flusher;
use handover::{State, Successor, TakeOverError};
use live::Live;
use manage::Managing;
use service::Pulse;
use sockets::{AdminListener, Sockets};
use supervise::Supervisor;
use thread::WorkerThread;

pub(crate) use program::{console, serve};
pub(crate) use reread::Reread;

/// How long the store may take to take back this sidecar's report at the end. A report that stays does no harm.
const WITHDRAW_TIMEOUT: Duration = Duration::from_millis(500);

/// A running sidecar. Dropping it without [`Sidecar::stop`] cuts off what it serves.
#[derive(Debug)]
pub struct Sidecar {
    listeners: Vec<ListenAddress>,
    sockets: Sockets,
    health: Arc<Health>,
    live: Arc<Live>,
    stage: watch::Sender<Stage>,
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
        let replica = Arc::new(Replica::new());
        let cache = open_cache(config.config_cache.clone(), config.upstreams.api.clone()).await?;
        let health = Arc::new(Health::new(
            Arc::clone(&replica),
            config.freshness.max_staleness,
            config.limits.failed_auth.clone(),
            cache.clone(),
        ));
        let (tracer, exporter) = Tracer::new(&config.traces, &config.name, &health.spans_lost).unzip();
        let live = Live::start(config.clone(), Arc::clone(&health), tracer)?;
        let Managing { console, audit_keeper, proving } =
            Managing::open(&config, &store, &live, &health, sidecar_id).await?;
        health.readiness.drain(succeeds.is_some_and(|state| state.drained));
        let (stage, staged) = watch::channel(Stage::Waiting);
        let supervisor = Supervisor::new(Arc::clone(&health.panics));
        let mut sidecar = Self {
            listeners: sockets.addresses(),
            sockets,
            health: Arc::clone(&health),
            live: Arc::clone(&live),
            stage,
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
            let sockets =
                sidecar.sockets.of_worker(index, config.workers.get(), live.openings()).map_err(StartError::Thread)?;
            let thread = WorkerThread {
                live: Arc::clone(&live),
                health: Arc::clone(&health),
                sockets,
                stage: staged.clone(),
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
        let watched = Arc::clone(&health);
        sidecar.spawn("health checks", move || {
            live::under_each(Arc::clone(&watched), |now| check::watch(now.upstreams.clone()))
        });
        let watched = Arc::clone(&health);
        sidecar.spawn("file watcher", move || {
            live::under_each(Arc::clone(&watched), |now| reload::watch(now.upstreams.clone(), now.listener_tls.clone()))
        });
        let listener = sidecar.sockets.admin.clone();
        let max_connections = live.admin_connections;
        let admin = Admin { health: Arc::clone(&health), tls: Arc::clone(live.admin_tls()), console, max_connections };
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

    /// Exchanges what a reload exchanges for what was read, and says what that changes. No connection is closed, and a request keeps
    /// what it began with.
    ///
    /// # Errors
    /// When a file that the configuration names cannot be used. Nothing is changed then.
    pub async fn reload(&self, read: &Config) -> Result<Changes, StartError> {
        self.live.reload(read).await
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
        tokio::time::sleep(self.live.gate().timeouts.drain_delay).await;
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
        // The other one knows better from here on: what this one fetched before, or forgets, would be written over that.
        if let Some(cache) = &self.health.cache {
            cache.leave_files().await;
        }
        self.finish(true).await;
    }

    async fn finish(mut self, is_succeeded: bool) {
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || workers.into_iter().all(|worker| worker.join().is_ok()));
        if !joined.await.unwrap_or(false) {
            tracing::error!("a worker panicked");
        }
        if let Some(flusher) = self.flusher.take() {
            flusher.finish().await;
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
            cache.leave_files().await;
        }
        if let Some(tracer) = &self.live.gate().observers.tracer {
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
        if let Some(log) = &self.live.gate().observers.access_log {
            log.finish();
        }
    }
}

/// Opens the configuration cache, if it is wanted; elsewhere, since its directory is read.
async fn open_cache(config: CacheConfig, api: UpstreamConfig) -> Result<Option<Arc<Cache>>, StartError> {
    if !config.enabled {
        return Ok(None);
    }
    let opened = tokio::task::spawn_blocking(move || Cache::open(config, &api)).await;
    opened.map(|cache| Some(Arc::new(cache))).map_err(|error| StartError::Thread(error.into()))
}

//! A sidecar from start to stop: bind → first snapshot → ready; unready → drain → cut.
//!
//! Only this module knows both paths: it gives the replica to the workers, which read it, and to the synchroniser, which
//! writes it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::AbortHandle;

use crate::admin::{self, Health};
use crate::config::Config;
use crate::fleet::{self, Reporter};
use crate::listener::{self, BindError, Tls};
use crate::proxy::Gate;
use crate::reload;
use crate::replica::snapshot_file::SnapshotFile;
use crate::replica::{Replica, driver};
use crate::store::{self, Absent, Store};
use crate::tls::TlsError;
use crate::upstream::UpstreamError;
use crate::worker::Worker;

/// A running sidecar. Dropping it without [`Sidecar::stop`] cuts off what it serves.
#[derive(Debug)]
pub struct Sidecar {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    health: Arc<Health>,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    tasks: Vec<AbortHandle>,
    reporter: Option<Reporting>,
    snapshot_file: Option<Arc<SnapshotFile>>,
}

/// The task that reports to the store.
#[derive(Debug)]
struct Reporting {
    task: tokio::task::JoinHandle<()>,
    leave: oneshot::Sender<()>,
}

/// Why a sidecar cannot start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address agents shall connect to.
    #[error(transparent)]
    Listener(#[from] BindError),
    /// The admin listener's address.
    #[error("cannot serve health on {address} (--admin-listen, or `admin.address`, names another)")]
    Admin {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A listener's certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An upstream's TLS files or service token.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
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
        let replica = Arc::new(Replica::new());
        let gate = Arc::new(Gate::new(&config, Arc::clone(&replica))?);
        let (mut bound, mut listeners) = (Vec::new(), Vec::new());
        for listener in &config.listeners {
            let tls = listener.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
            let (sockets, address) = listener::bind(listener.address, config.workers.get())?;
            listeners.push(address);
            bound.push((sockets, tls));
        }
        let admin_socket = tokio::net::TcpListener::bind(config.admin_address)
            .await
            .map_err(|source| StartError::Admin { address: config.admin_address, source })?;
        let connections = Arc::clone(&gate.connections);
        let health = Arc::new(Health::new(Arc::clone(&replica), config.freshness.max_staleness, connections));
        let (stop, stopped) = watch::channel(false);
        let tls: Vec<_> = bound.iter().filter_map(|(_, tls)| tls.clone()).collect();
        let mut sidecar = Self {
            listeners,
            admin: admin_socket.local_addr().unwrap_or(config.admin_address),
            health: Arc::clone(&health),
            stop,
            workers: Vec::new(),
            tasks: Vec::new(),
            reporter: None,
            snapshot_file: config.snapshot_file.clone().map(|path| {
                let name = format!("{} {}", store.describe(), config.store.namespace);
                SnapshotFile::new(path, name, Arc::clone(&replica))
            }),
        };
        let slots = Arc::new(Semaphore::new(config.limits.max_connections.get().min(Semaphore::MAX_PERMITS)));
        for index in 0..config.workers.get() {
            let sockets = bound.iter_mut().filter_map(|(sockets, tls)| Some((sockets.pop()?, tls.clone()))).collect();
            let thread = WorkerThread {
                gate: Arc::clone(&gate),
                sockets,
                slots: Arc::clone(&slots),
                stopped: stopped.clone(),
                drain: config.timeouts.drain,
            };
            sidecar.workers.push(thread.spawn(index).map_err(StartError::Thread)?);
        }
        let files = reload::watch(vec![Arc::clone(&gate.api), Arc::clone(&gate.heartbeat)], tls);
        sidecar.tasks.push(tokio::spawn(files).abort_handle());
        sidecar.tasks.push(tokio::spawn(admin::serve(admin_socket, Arc::clone(&health))).abort_handle());
        // Before the first snapshot is read: whoever lists the sidecars finds this one before it lets anybody in.
        sidecar.report(Reporter::new(
            Arc::clone(&store),
            health,
            config.name,
            sidecar.listeners.first().copied(),
            fleet::keep(&config.freshness),
        ));
        let synchronise = synchronise(replica, store, config.freshness.probe_interval, sidecar.snapshot_file.clone());
        sidecar.tasks.push(tokio::spawn(synchronise).abort_handle());
        Ok(sidecar)
    }

    fn report(&mut self, reporter: Reporter) {
        let (leave, left) = oneshot::channel();
        let task = tokio::spawn(reporter.run(left));
        self.tasks.push(task.abort_handle());
        self.reporter = Some(Reporting { task, leave });
    }

    /// Where agents connect, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// Where health is served.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What requests are decided by.
    #[must_use]
    pub fn replica(&self) -> &Arc<Replica> {
        &self.health.replica
    }

    /// Waits until the replica was proven fresh for the first time.
    pub async fn ready(&self) {
        self.health.replica.ready().await;
    }

    /// Stops: no longer ready, no new connections, what runs is finished, bounded by the drain timeout.
    pub async fn stop(mut self) {
        self.health.draining.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || workers.into_iter().all(|worker| worker.join().is_ok()));
        if !joined.await.unwrap_or(false) {
            tracing::error!("a worker ended by a panic");
        }
        // Not before: until the last request ended, others had to wait for this sidecar too.
        if let Some(Reporting { task, leave }) = self.reporter.take()
            && leave.send(()).is_ok()
            && task.await.is_err()
        {
            tracing::error!("the reports ended by a panic");
        }
        if let Some(file) = &self.snapshot_file {
            file.save().await;
        }
    }
}

/// Keeps the replica at the store's position, from what an earlier run left on.
async fn synchronise(
    replica: Arc<Replica>,
    store: Arc<dyn Store>,
    probe_interval: Duration,
    snapshot_file: Option<Arc<SnapshotFile>>,
) {
    let Some(file) = snapshot_file else {
        return driver::run(replica, store, probe_interval, std::future::pending()).await;
    };
    let machine = file.load().await;
    let synchronise = driver::resume(replica, store, machine, probe_interval, std::future::pending());
    tokio::join!(synchronise, file.keep());
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What a worker's thread starts with.
struct WorkerThread {
    gate: Arc<Gate>,
    sockets: Vec<(std::net::TcpListener, Option<Arc<Tls>>)>,
    slots: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
    drain: Duration,
}

impl WorkerThread {
    fn spawn(self, index: usize) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let mut runtime = runtime;
            match runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
                Ok(runtime) => runtime.block_on(self.run()),
                Err(error) => tracing::error!(%error, "cannot start a worker"),
            }
        })
    }

    async fn run(mut self) {
        let worker = Worker::new(self.gate);
        tokio::task::spawn_local(Rc::clone(&worker).sweep());
        tokio::task::spawn_local(Rc::clone(&worker).recheck());
        tokio::task::spawn_local(Rc::clone(&worker).make_room());
        let mut accepting = Vec::new();
        for (socket, tls) in self.sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => {
                    let (slots, stopped) = (Arc::clone(&self.slots), self.stopped.clone());
                    let accept = listener::accept(Rc::clone(&worker), socket, tls, slots, stopped);
                    accepting.push(tokio::task::spawn_local(accept));
                }
                Err(error) => tracing::error!(%error, "a worker cannot listen"),
            }
        }
        // An error means that the sidecar was dropped, which is a stop too.
        drop(self.stopped.wait_for(|stopped| *stopped).await);
        worker.drain();
        for task in accepting {
            // It ends with the stop, and by a panic at worst: what runs is finished all the same.
            drop(task.await);
        }
        if tokio::time::timeout(self.drain, worker.idle()).await.is_err() {
            tracing::warn!("drain timeout: cutting off what still runs");
        }
    }
}

/// Runs a sidecar until it is told to stop (SIGTERM, SIGINT), and drains it. Blocks.
///
/// # Errors
/// When it cannot start.
pub fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    runtime.block_on(async {
        raise_descriptor_limit(&config);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let store = store::open(&config.store, Absent::Await).await?;
        let described = store.describe();
        let sidecar = Sidecar::start(config, store).await?;
        for address in sidecar.listeners() {
            tracing::info!(%address, "listening");
        }
        tracing::info!(admin = %sidecar.admin(), store = described, "started");
        tokio::select! {
            () = async { sidecar.ready().await; tracing::info!("ready"); std::future::pending().await } => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: finishing what runs");
        sidecar.stop().await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Every connection needs a descriptor, and the usual soft limit is 1,024. The hard limit is there to be used.
fn raise_descriptor_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let wanted = config.limits.max_connections.get() as u64;
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < wanted
    {
        tracing::warn!(limit, wanted, "fewer open files are allowed than limits.max_connections (see ulimit -n)");
    }
}

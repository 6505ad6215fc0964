//! `tollgate serve` and `tollgate console`: a process, and the signals that end it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Signal as Number, getpid, kill_process};
use tokio::signal::unix::Signal;
use tokio::time::timeout;

use super::console::ConsoleProcess;
use super::handover::{Predecessor, State};
use super::live::Live;
use super::reread::{self, Reread};
use super::service::ServiceManager;
use super::signals::{self, StopSignals, has_come, ignore_quit, reload_signal, reopen_signal, take_over_signal};
use super::sockets::Origin;
use super::{Sidecar, service};
use crate::chain::chain;
use crate::config::{Config, Reason};
use crate::console::Switch;
use crate::readiness::Readiness;
use crate::replica::Replica;
use crate::replica::snapshot_file::SnapshotFile;
use crate::store::{self, Absent, Store};
use crate::worker::panic::log_panics;

/// How long a process that takes over may take to read the registry: less than the one before waits for it.
const READY_TIME: Duration = Duration::from_secs(30);

/// How long a service manager may take to hear which process counts.
const MAIN_TIME: Duration = Duration::from_secs(10);

/// How long the end waits for it to hear that it is the end.
const LAST_WORD_TIME: Duration = Duration::from_secs(1);

/// Runs a sidecar until SIGTERM or SIGINT, and drains it; a second signal ends it at once. SIGHUP reloads its configuration. At
/// SIGUSR2 another process takes over, and this one drains. Blocks.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub(crate) fn serve(config: Config, reread: Reread) -> anyhow::Result<()> {
    let origin = Origin::find().context("taking over sockets that listen already")?;
    block_on(run(config, reread, origin))
}

/// Runs the console alone until SIGTERM or SIGINT. Blocks.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub(crate) fn console(config: Config) -> anyhow::Result<()> {
    block_on(run_console(config))
}

fn block_on(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    log_panics();
    let outcome = runtime.block_on(run);
    // Neither a store nor a lookup that hangs holds up the end.
    runtime.shutdown_background();
    outcome
}

async fn run(config: Config, reread: Reread, origin: Origin) -> anyhow::Result<()> {
    // Before anything that may take long: from here on a signal ends this function instead of the process.
    let mut stop = StopSignals::install().context("setting up signals")?;
    ignore_quit().context("setting up signals")?;
    let reopen = reopen_signal().context("setting up signals")?;
    let mut take_over = take_over_signal().context("setting up signals")?;
    let reload = reload_signal().context("setting up signals")?;
    let mut meanwhile = Meanwhile::install().context("setting up signals")?;
    signals::release();
    let manager = ServiceManager::find();
    let sidecar = tokio::select! {
        sidecar = start(config, origin, &manager) => sidecar?,
        () = stop.next() => return Ok(()),
    };
    tokio::spawn(reopen_when_asked(reopen, Some(Arc::clone(&sidecar.live))));
    let reloading = tokio::spawn(reread::when_asked(reload, reread, Arc::clone(&sidecar.live), manager.clone()));
    // It goes on while the sidecar drains.
    let report = manager.is_there().then(|| {
        let (readiness, pulse) = (Arc::clone(&sidecar.health.readiness), Arc::clone(&sidecar.pulse));
        tokio::spawn(service::report(manager.clone(), readiness, pulse))
    });
    tokio::spawn(say_when_ready(Arc::clone(&sidecar.health.replica)));
    let successor = loop {
        let handed_over = async {
            // An end of the stream would mean that the runtime ends.
            take_over.recv().await;
            meanwhile.forget();
            tracing::info!("starting a process that takes over");
            sidecar.hand_over().await
        };
        tokio::select! {
            task = sidecar.failed() => anyhow::bail!("an essential task panicked ({task})"),
            () = stop.next() => break None,
            handed_over = handed_over => match handed_over {
                Ok(successor) => break Some(successor),
                Err(error) => tracing::error!(error = chain(&error), "nobody has taken over: serving on"),
            },
        }
    };
    // One that drains serves to its end as it is, and the service manager is told no more of reloads.
    reloading.abort();
    // It was aborted: that is an error.
    drop(reloading.await);
    let end = async {
        match &successor {
            // It takes over what two cannot have at once when this is dropped.
            Some(successor) => {
                // It is the other one that the service manager listens to from here on.
                report.iter().for_each(tokio::task::JoinHandle::abort);
                let process = successor.process;
                tracing::info!(process, "another process has taken over: finishing in-flight requests");
                sidecar.cede(successor, meanwhile.state()).await;
            }
            None => {
                manager.stops();
                tracing::info!("draining: finishing in-flight requests");
                // One that does not read holds up nothing.
                drop(tokio::join!(sidecar.stop(), timeout(LAST_WORD_TIME, manager.knows())));
            }
        }
    };
    tokio::select! {
        () = end => tracing::info!("stopped"),
        () = stop.next() => tracing::warn!("second signal: closing in-flight requests"),
    }
    Ok(())
}

async fn say_when_ready(replica: Arc<Replica>) {
    replica.ready().await;
    tracing::info!("ready");
}

/// Log rotation: the access log's file was moved away. Never ends.
async fn reopen_when_asked(mut signal: Signal, live: Option<Arc<Live>>) {
    while signal.recv().await.is_some() {
        let log = live.as_ref().and_then(|live| live.gate().observers.access_log.clone());
        if !log.is_some_and(|log| log.reopen()) {
            tracing::warn!(signal = "SIGUSR1", "ignored: it opens the access log's file again, and there is none");
        }
    }
}

/// Signals that came while a process started that takes over. They were for it too: it may have read its configuration by then, and
/// opened its log.
struct Meanwhile {
    reload: Signal,
    reopen: Signal,
}

impl Meanwhile {
    fn install() -> io::Result<Self> {
        Ok(Self { reload: reload_signal()?, reopen: reopen_signal()? })
    }

    /// What came before does not count.
    fn forget(&mut self) {
        self.state();
    }

    /// What came since it was asked last.
    fn state(&mut self) -> State {
        let (reload, reopen) = (has_come(&mut self.reload), has_come(&mut self.reopen));
        State { reload, reopen, ..State::default() }
    }
}

async fn start(config: Config, origin: Origin, manager: &ServiceManager) -> anyhow::Result<Sidecar> {
    let Origin { inherited, predecessor, state } = origin;
    let store: Arc<dyn Store> = store::open(&config.store, Absent::Await).await?;
    let described = store.describe();
    let succeeds = predecessor.as_ref().map(|_| state);
    let mut sidecar = Sidecar::prepare(config, store, inherited, succeeds).await?;
    for address in sidecar.listeners() {
        tracing::info!(%address, "listening");
    }
    tracing::info!(admin = %sidecar.admin(), store = described, "started");
    if predecessor.is_some() && timeout(READY_TIME, sidecar.ready()).await.is_err() {
        let problem = sidecar.health.readiness.problem().unwrap_or("not ready");
        anyhow::bail!("{problem} after {READY_TIME:?}: the process that was to be replaced serves on");
    }
    let Some(predecessor) = predecessor else {
        sidecar.accept()?;
        manager.accepts();
        return Ok(sidecar);
    };
    // To a manager that has not heard it, the end of the process before would be that of the service.
    manager.accepts_instead();
    if timeout(MAIN_TIME, manager.knows()).await.is_err() {
        anyhow::bail!(
            "the service manager has not read NOTIFY_SOCKET for {MAIN_TIME:?}: the process that was to be replaced serves on"
        );
    }
    sidecar.accept().inspect_err(|_| manager.gives_back(&predecessor.process))?;
    tracing::info!(from = predecessor.process, "taken over");
    tokio::spawn(relieve(predecessor, Arc::clone(&sidecar.health.readiness), sidecar.snapshot_file.clone()));
    Ok(sidecar)
}

/// Lets the process before end, and takes what two cannot have at once.
async fn relieve(predecessor: Predecessor, readiness: Arc<Readiness>, snapshot_file: Option<Arc<SnapshotFile>>) {
    let relieved = predecessor.relieve(|State { drained, reload, reopen }| {
        readiness.drain(drained);
        for signal in [reload.then_some(Number::HUP), reopen.then_some(Number::USR1)].into_iter().flatten() {
            // One may always send a signal to oneself.
            kill_process(getpid(), signal).ok();
        }
    });
    if let Err(error) = relieved.await {
        tracing::debug!(%error, "the process before is gone");
    }
    if let Some(file) = snapshot_file {
        file.take_over().await;
    }
}

async fn run_console(config: Config) -> anyhow::Result<()> {
    let mut stop = StopSignals::install().context("setting up signals")?;
    ignore_quit().context("setting up signals")?;
    tokio::spawn(reopen_when_asked(reopen_signal().context("setting up signals")?, None));
    tokio::spawn(cannot_take_over(take_over_signal().context("setting up signals")?));
    let reload = reload_signal().context("setting up signals")?;
    signals::release();
    let console = tokio::select! {
        console = start_console(config) => console?,
        () = stop.next() => return Ok(()),
    };
    tokio::select! {
        task = console.failed() => anyhow::bail!("an essential task panicked ({task})"),
        () = reread::files_when_asked(reload, &console) => {}
        () = async { console.ready().await; tracing::info!("ready"); std::future::pending().await } => {}
        () = stop.next() => {}
    }
    tokio::select! {
        () = console.stop() => tracing::info!("stopped"),
        () = stop.next() => tracing::warn!("second signal: closing requests in flight"),
    }
    Ok(())
}

/// Nobody is served here whom a restart would fail. Never ends.
async fn cannot_take_over(mut signal: Signal) {
    while signal.recv().await.is_some() {
        tracing::warn!(signal = "SIGUSR2", "ignored: no process takes over from a console; restart it");
    }
}

async fn start_console(config: Config) -> anyhow::Result<ConsoleProcess> {
    if config.admin.console == Some(Switch::Off) {
        anyhow::bail!("admin.console is \"off\": this command has nothing to serve");
    }
    // A sidecar's configuration may have such an address, for metrics: there the console is off then.
    if config.admin.is_in_the_clear() {
        anyhow::bail!("admin.address ({}): {}", config.admin.address, Reason::ExposedConsole);
    }
    let store: Arc<dyn Store> = store::open(&config.admin.own_store(&config.store), Absent::Await).await?;
    let described = store.describe();
    let console = ConsoleProcess::start(config, store).await?;
    tracing::info!(admin = %console.address, store = described, "started");
    Ok(console)
}

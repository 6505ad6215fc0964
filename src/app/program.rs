//! `tollgate serve` and `tollgate console`: a process, and the signals that end it.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::Signal;

use super::console::ConsoleProcess;
use super::live::Live;
use super::reread::{self, Reread};
use super::signals::{OtherSignals, StopSignals, reload_signal, reopen_signal};
use super::{Sidecar, service};
use crate::config::Config;
use crate::console::Switch;
use crate::store::{self, Absent, Store};
use crate::worker::panic::log_panics;

/// Runs a sidecar until SIGTERM or SIGINT, and drains it; a second signal ends it at once. SIGHUP reloads its configuration. Blocks.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub(crate) fn serve(config: Config, reread: Reread) -> anyhow::Result<()> {
    block_on(run(config, reread))
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

async fn run(config: Config, reread: Reread) -> anyhow::Result<()> {
    // Before anything that may take long: from here on a signal ends this function instead of the process.
    let mut stop = StopSignals::install().context("setting up signals")?;
    tokio::spawn(OtherSignals::install().context("setting up signals")?.ignore());
    let reopen = reopen_signal().context("setting up signals")?;
    let reload = reload_signal().context("setting up signals")?;
    let sidecar = tokio::select! {
        sidecar = start(config) => sidecar?,
        () = stop.next() => return Ok(()),
    };
    service::ready();
    tokio::spawn(reopen_when_asked(reopen, Some(Arc::clone(&sidecar.live))));
    let reloading = tokio::spawn(reread::when_asked(reload, reread, Arc::clone(&sidecar.live)));
    if service::is_asked() {
        // It goes on while the sidecar drains.
        tokio::spawn(service::report(Arc::clone(&sidecar.health.readiness), Arc::clone(&sidecar.pulse)));
    }
    tokio::select! {
        task = sidecar.failed() => anyhow::bail!("an essential task panicked ({task})"),
        () = async { sidecar.ready().await; tracing::info!("ready"); std::future::pending().await } => {}
        () = stop.next() => {}
    }
    // One that drains serves to its end as it is, and the service manager is told no more of reloads.
    reloading.abort();
    // It was aborted: that is an error.
    drop(reloading.await);
    service::stopping();
    tracing::info!("draining: finishing in-flight requests");
    tokio::select! {
        () = sidecar.stop() => tracing::info!("stopped"),
        () = stop.next() => tracing::warn!("second signal: closing in-flight requests"),
    }
    Ok(())
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

async fn start(config: Config) -> anyhow::Result<Sidecar> {
    let store: Arc<dyn Store> = store::open(&config.store, Absent::Await).await?;
    let described = store.describe();
    let sidecar = Sidecar::start(config, store).await?;
    for address in sidecar.listeners() {
        tracing::info!(%address, "listening");
    }
    tracing::info!(admin = %sidecar.admin(), store = described, "started");
    Ok(sidecar)
}

async fn run_console(config: Config) -> anyhow::Result<()> {
    let mut stop = StopSignals::install().context("setting up signals")?;
    tokio::spawn(OtherSignals::install().context("setting up signals")?.ignore());
    tokio::spawn(reopen_when_asked(reopen_signal().context("setting up signals")?, None));
    let reload = reload_signal().context("setting up signals")?;
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
    tracing::info!("stopped");
    Ok(())
}

async fn start_console(config: Config) -> anyhow::Result<ConsoleProcess> {
    if config.admin.console == Some(Switch::Off) {
        anyhow::bail!("admin.console is \"off\": this command has nothing to serve");
    }
    let store: Arc<dyn Store> = store::open(&config.admin.own_store(&config.store), Absent::Await).await?;
    let described = store.describe();
    let console = ConsoleProcess::start(config, store).await?;
    tracing::info!(admin = %console.address, store = described, "started");
    Ok(console)
}

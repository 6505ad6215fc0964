//! `tollgate dev`: Tollgate on loopback with a throwaway store and a stand-in for Telegraf Controller, to try it.
//!
//! ```text
//!   curl, telegraf ──► Tollgate ──► stand-in Controller, API         (controller, template)
//!                         │    └──► stand-in Controller, heartbeats  (controller, heartbeat)
//!   tollgate token ──► SQLite file in a temporary folder             (directory, seed)
//! ```
//!
//! Nothing of it is for production: raw tokens are printed, and the stand-in trusts whoever reaches it. The store goes
//! at the end; after a `kill -9`, at the start of the next `tollgate dev`.

pub(crate) mod banner;
pub(crate) mod controller;
mod demo;
pub(crate) mod directory;
pub(crate) mod heartbeat;
pub(crate) mod ports;
pub(crate) mod seed;
pub(crate) mod settings;
pub(crate) mod template;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::signal::unix::Signal;

use crate::app::StartError;
use crate::app::signals::{self, StopSignals, ignore_quit, reload_signal, reopen_signal, take_over_signal};
use crate::config::Problems;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::worker::panic::log_panics;
use banner::Style;
use demo::Demo;

pub(crate) use ports::{DevOptions, PortError};

/// Why `tollgate dev` did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error(transparent)]
    Port(#[from] PortError),
    /// The folder of the throwaway store.
    #[error("making a folder for the throwaway store in the temporary folder (TMPDIR names another)")]
    Directory(#[source] io::Error),
    #[error("creating the throwaway store")]
    Store(#[source] StoreError),
    #[error("creating the owner and the agents' token")]
    Tokens(#[source] RegistryError),
    #[error("starting the stand-in Controller")]
    Controller(#[source] io::Error),
    #[error("configuring Tollgate")]
    Config(#[source] Problems),
    #[error("starting Tollgate")]
    Sidecar(#[source] StartError),
    #[error("Tollgate did not become ready in 10 s; the log lines above say why")]
    NotReady,
    #[error("setting up the process")]
    Process(#[source] io::Error),
    #[error("printing what to try")]
    Print(#[source] io::Error),
    #[error("{0} cannot go on; the log lines above say why")]
    Failed(&'static str),
    #[error("removing the throwaway store")]
    Remove(#[source] io::Error),
}

/// Runs Tollgate and the stand-in, prints what to try, and returns after SIGINT or SIGTERM, with the store removed.
///
/// Blocks, with a runtime of its own: not to be called from one.
///
/// # Errors
/// [`DevError`]; the store is removed then too, where it can be.
pub(crate) fn run(options: DevOptions) -> Result<(), DevError> {
    // Only what goes wrong, so that the lines to paste stay in sight. Where a subscriber is set already, it stays.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(io::stderr).try_init().ok();
    log_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("dev")
        .enable_all()
        .build()
        .map_err(DevError::Process)?;
    let result = runtime.block_on(run_until_stopped(options));
    // Blocking work that hangs must not block the terminal.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run_until_stopped(options: DevOptions) -> Result<(), DevError> {
    // Before there is anything to clean up: from here on a signal ends this function instead of the process.
    let mut stop = StopSignals::install().map_err(DevError::Process)?;
    let _kept = unused_signals().map_err(DevError::Process)?;
    signals::release();
    let demo = tokio::select! {
        demo = Demo::start(&options) => demo?,
        () = stop.next() => return Ok(()),
    };
    let style = if io::stdout().is_terminal() { Style::Terminal } else { Style::Plain };
    print(&demo.banner.render(style)).map_err(DevError::Print)?;

    tokio::select! {
        () = stop.next() => {}
        what = demo.failed() => return Err(DevError::Failed(what)),
    }
    tokio::select! {
        stopped = demo.stop() => stopped?,
        () = stop.next() => {} // asked twice: dropping it ends it at once
    }
    let after_ctrl_c = if style == Style::Terminal { "\n" } else { "" }; // the terminal shows ^C
    print(&format!("{after_ctrl_c}Tollgate has stopped, and its throwaway store is removed.\n"))
        .map_err(DevError::Print)
}

/// SIGHUP, SIGUSR1 and what else a process may be sent by accident: as for a sidecar none of them ends it, and there is nothing to do.
fn unused_signals() -> io::Result<[Signal; 3]> {
    ignore_quit()?;
    Ok([reload_signal()?, reopen_signal()?, take_over_signal()?])
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

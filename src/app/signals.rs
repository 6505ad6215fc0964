//! The signals that ask a process to stop, and those that must not end it by accident.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From here on they no longer end the process.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next of them. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// SIGUSR1. From here on it does not end the process.
pub(crate) fn reopen_signal() -> io::Result<Signal> {
    signal(SignalKind::user_defined1())
}

/// SIGHUP. From here on it does not end the process.
pub(crate) fn reload_signal() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// SIGUSR2. From here on it does not end the process.
pub(crate) fn take_over_signal() -> io::Result<Signal> {
    signal(SignalKind::user_defined2())
}

/// SIGQUIT. From here on it does not end the process: somebody is told that it does nothing.
pub(crate) fn ignore_quit() -> io::Result<()> {
    let mut quit = signal(SignalKind::quit())?;
    tokio::spawn(async move {
        while quit.recv().await.is_some() {
            tracing::warn!(
                signal = "SIGQUIT",
                "ignored: SIGHUP reloads, SIGUSR1 opens the access log's file again, SIGUSR2 has another process take over, \
                 SIGTERM drains and stops"
            );
        }
    });
    Ok(())
}

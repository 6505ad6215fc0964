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

/// SIGQUIT and SIGUSR2.
pub(crate) struct OtherSignals([(&'static str, Signal); 2]);

impl OtherSignals {
    /// From here on they no longer end the process.
    pub(crate) fn install() -> io::Result<Self> {
        let [quit, second] = [SignalKind::quit(), SignalKind::user_defined2()].map(signal);
        Ok(Self([("SIGQUIT", quit?), ("SIGUSR2", second?)]))
    }

    /// Says of each that it does nothing. Never ends; cancel-safe.
    pub(crate) async fn ignore(mut self) {
        loop {
            let [a, b] = &mut self.0;
            let signal = tokio::select! {
                _ = a.1.recv() => a.0,
                _ = b.1.recv() => b.0,
            };
            tracing::warn!(
                signal,
                "ignored: SIGHUP reloads, SIGUSR1 opens the access log's file again, SIGTERM drains and stops"
            );
        }
    }
}

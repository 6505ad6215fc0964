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

/// SIGHUP (log rotation, a terminal that is closed), SIGQUIT, SIGUSR1 and SIGUSR2.
pub(crate) struct OtherSignals([(&'static str, Signal); 4]);

impl OtherSignals {
    /// From here on they no longer end the process.
    pub(crate) fn install() -> io::Result<Self> {
        let kinds =
            [SignalKind::hangup(), SignalKind::quit(), SignalKind::user_defined1(), SignalKind::user_defined2()];
        let [hangup, quit, first, second] = kinds.map(signal);
        Ok(Self([("SIGHUP", hangup?), ("SIGQUIT", quit?), ("SIGUSR1", first?), ("SIGUSR2", second?)]))
    }

    /// Says of each that it does nothing. Never ends; cancel-safe.
    pub(crate) async fn ignore(mut self) {
        loop {
            let [a, b, c, d] = &mut self.0;
            let signal = tokio::select! {
                _ = a.1.recv() => a.0,
                _ = b.1.recv() => b.0,
                _ = c.1.recv() => c.0,
                _ = d.1.recv() => d.0,
            };
            tracing::warn!(
                signal,
                "ignored: certificates and token files are read again by themselves, and everything else needs a restart;                  SIGTERM drains and stops"
            );
        }
    }
}

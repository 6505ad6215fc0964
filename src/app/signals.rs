//! The signals that ask a process to stop, and those that must not end it by accident.

use std::io;
use std::task::{Context, Waker};

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What ends a process that has not said yet what it does at them.
fn held() -> SigSet {
    [Number::SIGHUP, Number::SIGQUIT, Number::SIGUSR1, Number::SIGUSR2].into_iter().collect()
}

/// Whether that is the number of one of them.
pub(super) fn is_held(number: i32) -> bool {
    Number::try_from(number).is_ok_and(|signal| held().contains(signal))
}

/// Has SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 wait until [`release`]. For the program's only thread, before it does anything: those
/// that it starts hold them too, and one that lets them through is enough.
pub fn hold() {
    // It fails for no set that there is, and then a signal does what it does without it.
    held().thread_block().ok();
}

/// Lets those through that came since [`hold`], and later ones. For the thread that held them, once there is something that they do;
/// what a command leaves alone ends it.
pub(crate) fn release() {
    held().thread_unblock().ok();
}

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

/// Whether it has come since this was asked last, or since it is waited for.
pub(crate) fn has_come(signal: &mut Signal) -> bool {
    signal.poll_recv(&mut Context::from_waker(Waker::noop())).is_ready()
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

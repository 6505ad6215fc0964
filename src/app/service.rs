//! What the service manager is told (`sd_notify(3)`): that the sidecar accepts, how fresh it is, that it stops; and, where
//! there is a watchdog, that what serves is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::readiness::Readiness;

/// How often it is looked at what there is to tell.
const INTERVAL: Duration = Duration::from_secs(1);

/// It accepts, with or without its registry: freshness is a status, since a restart would not mend it.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The same of one that has taken over: from here on it is the process that counts, whatever the one before does.
pub(super) fn ready_instead() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// It reads its configuration again; [`ready`] says that it did, whatever came of it.
pub(super) fn reloading() {
    // By the same clock as the service manager's: so it knows which reload this is.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// It drains.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining: finishing in-flight requests")]);
}

/// Nothing happens where nobody asked to be told.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Whether anybody wants to be told.
pub(super) fn is_asked() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Tells the service manager how fresh the replica is, and feeds its watchdog while every worker answers. Never ends.
pub(super) async fn report(readiness: Arc<Readiness>, pulse: Arc<Pulse>) {
    let watchdog = sd_notify::watchdog_enabled();
    // Twice within the time after which the watchdog bites, at least.
    let mut interval = tokio::time::interval(watchdog.map_or(INTERVAL, |bites| (bites / 3).min(INTERVAL)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        interval.tick().await;
        let status = readiness.problem();
        if told != Some(status) && status != Some(crate::readiness::DRAINING) {
            let text = status.map_or("ready".to_owned(), |problem| format!("not ready: {problem}"));
            tell(&[NotifyState::Status(&text)]);
            told = Some(status);
        }
        if watchdog.is_some() {
            if pulse.is_felt() {
                tell(&[NotifyState::Watchdog]);
            }
            pulse.ask();
        }
    }
}

/// Whether the workers are alive: each is asked now and then, and answers when its turn comes.
#[derive(Debug)]
pub(super) struct Pulse {
    asked: watch::Sender<u64>,
    answered: Vec<AtomicU64>,
}

/// What a worker that has ended answers to all that is asked.
const ENDED: u64 = u64::MAX;

impl Pulse {
    pub(super) fn new(workers: usize) -> Self {
        Self { asked: watch::Sender::new(0), answered: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    fn ask(&self) {
        self.asked.send_modify(|asked| *asked += 1);
    }

    /// Whether all have answered what was asked last.
    fn is_felt(&self) -> bool {
        let asked = *self.asked.borrow();
        self.answered.iter().all(|answered| answered.load(Ordering::Relaxed) >= asked)
    }

    /// Answers for a worker. Never ends.
    pub(super) async fn answer(self: Arc<Self>, worker: usize) {
        let mut asked = self.asked.subscribe();
        while asked.changed().await.is_ok() {
            self.set(worker, *asked.borrow_and_update());
        }
    }

    /// The worker has ended, as it should: nothing is expected of it any more.
    pub(super) fn end(&self, worker: usize) {
        self.set(worker, ENDED);
    }

    fn set(&self, worker: usize, answer: u64) {
        if let Some(answered) = self.answered.get(worker) {
            answered.store(answer, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_worker_that_does_not_answer_is_enough() {
        let pulse = Arc::new(Pulse::new(2));
        assert!(pulse.is_felt(), "nothing was asked yet");
        let first = tokio::spawn(Arc::clone(&pulse).answer(0));
        let second = tokio::spawn(Arc::clone(&pulse).answer(1));
        tokio::task::yield_now().await;
        pulse.ask();
        assert!(!pulse.is_felt());
        while !pulse.is_felt() {
            tokio::task::yield_now().await;
        }
        second.abort();
        assert!(second.await.is_err());
        pulse.ask();
        while pulse.answered[0].load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        assert!(!pulse.is_felt(), "the second one hangs");
        pulse.end(1);
        assert!(pulse.is_felt(), "or has ended");
        first.abort();
    }
}

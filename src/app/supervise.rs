//! Tasks that a sidecar cannot do without: one that panics is started again, and one that does so again and again ends
//! the sidecar. Without the synchroniser, for one, it would live on and decide by what is stale.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::backoff::Backoff;

/// The waits before a task is started again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), last: Duration::from_secs(1) };

/// Panics of one task within [`PERIOD`] that are too many.
const TOO_MANY: u32 = 5;

/// See [`TOO_MANY`].
const PERIOD: Duration = Duration::from_secs(60);

/// Looks after a sidecar's tasks.
#[derive(Debug, Clone)]
pub(super) struct Supervisor {
    panics: Arc<AtomicU64>,
    failed: Arc<watch::Sender<Option<&'static str>>>,
}

impl Supervisor {
    /// Counts panics here.
    pub(super) fn new(panics: Arc<AtomicU64>) -> Self {
        Self { panics, failed: Arc::new(watch::Sender::new(None)) }
    }

    /// Runs a task to its end, from the start again after each panic. Once there were too many it stays down, which
    /// [`Supervisor::failed`] reports.
    pub(super) async fn supervise<F: Future<Output = ()>>(self, task: &'static str, mut start: impl FnMut() -> F) {
        let mut strikes = Strikes::new(Instant::now());
        while until_panic(&mut start).await.is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
            let Some(wait) = strikes.strike(Instant::now()) else {
                tracing::error!(task, "a task panicked repeatedly: giving up");
                return self.fail(task);
            };
            tracing::error!(task, "a task panicked: restarting it");
            tokio::time::sleep(wait).await;
        }
    }

    /// Says that the sidecar cannot go on for want of this.
    pub(super) fn fail(&self, task: &'static str) {
        self.failed.send_if_modified(|failed| failed.replace(task).is_none());
    }

    /// Waits until the sidecar cannot go on, and says for want of what.
    pub(super) async fn failed(&self) -> &'static str {
        let mut failed = self.failed.subscribe();
        let failed = failed.wait_for(Option::is_some).await.ok().and_then(|task| *task);
        match failed {
            Some(task) => task,
            // The sender is held here.
            None => std::future::pending().await,
        }
    }

    /// Fails when the thread that holds the guard ends by a panic.
    pub(super) fn guard(&self, task: &'static str) -> ThreadGuard {
        ThreadGuard { supervisor: self.clone(), task }
    }
}

struct Strikes {
    /// When the first of those that count happened.
    since: Instant,
    count: u32,
}

impl Strikes {
    fn new(now: Instant) -> Self {
        Self { since: now, count: 0 }
    }

    /// Notes one. How long to wait before the next start; `None`: these were too many.
    fn strike(&mut self, now: Instant) -> Option<Duration> {
        if self.count == 0 || now.duration_since(self.since) >= PERIOD {
            *self = Self::new(now);
        }
        self.count += 1;
        (self.count < TOO_MANY).then(|| BACKOFF.wait(self.count))
    }
}

/// See [`Supervisor::guard`].
pub(super) struct ThreadGuard {
    supervisor: Supervisor,
    task: &'static str,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.supervisor.panics.fetch_add(1, Ordering::Relaxed);
            self.supervisor.fail(self.task);
        }
    }
}

/// A panic ended it; the hook has logged it.
struct Panicked;

/// Runs a task to its end or to a panic. What it shares with others is made for that: locks go on when they are poisoned,
/// and the replica is checked against the store.
async fn until_panic<F: Future<Output = ()>>(start: impl FnOnce() -> F) -> Result<(), Panicked> {
    let task = catch_unwind(AssertUnwindSafe(start)).map_err(|_| Panicked)?;
    let mut task = Box::pin(task);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn only_panics_within_a_short_time_are_too_many() {
        let now = Instant::now();
        let mut rare = Strikes::new(now);
        assert!((1..100).all(|number| rare.strike(now + number * PERIOD / TOO_MANY * 2).is_some()));
        let mut often = Strikes::new(now);
        let waits: Vec<_> = (0..TOO_MANY).map(|number| often.strike(now + PERIOD / TOO_MANY * number)).collect();
        assert!(waits[..waits.len() - 1].iter().all(Option::is_some), "{waits:?}");
        assert_eq!(waits.last(), Some(&None));
    }

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_until_it_ends() {
        let supervisor = Supervisor::new(Arc::default());
        let starts = Cell::new(0);
        let task = async || {
            starts.set(starts.get() + 1);
            tokio::task::yield_now().await;
            assert!(starts.get() == 3, "of the test");
        };
        supervisor.clone().supervise("test", task).await;
        assert_eq!((starts.get(), supervisor.panics.load(Ordering::Relaxed)), (3, 2));
        assert!(supervisor.failed.borrow().is_none());
    }

    #[tokio::test]
    async fn panics_again_and_again_are_the_end() {
        let supervisor = Supervisor::new(Arc::default());
        tokio::join!(supervisor.clone().supervise("test", async || panic!("of the test")), async {
            assert_eq!(supervisor.failed().await, "test");
        });
        assert_eq!(supervisor.panics.load(Ordering::Relaxed), u64::from(TOO_MANY));
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_the_end() {
        let supervisor = Supervisor::new(Arc::default());
        drop(supervisor.guard("calm"));
        let guard = supervisor.guard("thread");
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("of the test");
        });
        assert!(thread.join().is_err());
        assert_eq!(supervisor.failed().await, "thread");
    }
}

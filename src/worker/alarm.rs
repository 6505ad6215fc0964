//! Deadlines and interruptions of everything that waits in a worker.
//!
//! Setting a deadline writes a number; no timer is made. One sweep, a few times a second, looks for those that passed; it
//! rests until the first deadline while nobody asks for the time. The same table lets a revocation cut off what was admitted earlier, and a drain close what is idle.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Worker;
use crate::replica::MaxStaleness;
use crate::token::{Digest, Permission};

/// Why something that waited no longer should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Interrupt {
    /// Its deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// What it was admitted by no longer holds: its token was revoked or narrowed, or the replica is too stale to say.
    #[error("the token was revoked, or the registry is stale")]
    Revoked,
    /// It is idle, and the worker drains.
    #[error("the sidecar is draining")]
    Drain,
}

/// A time of the worker's clock, in milliseconds since it started. It moves with each sweep, and when it is asked for while
/// the sweep rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WorkerTime(u64);

impl WorkerTime {
    const NEVER: Self = Self(u64::MAX);

    /// This much later.
    #[must_use]
    pub(crate) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after an earlier one; zero if it was not earlier.
    #[must_use]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// All that waits in a worker.
pub(crate) struct Alarms {
    started: Instant,
    now: Cell<WorkerTime>,
    /// No deadline is earlier: until then there is nothing to look at.
    next_due: Cell<WorkerTime>,
    /// Nobody has asked for the time since the last sweep, so the clock is stopped.
    is_at_rest: Cell<bool>,
    stirred: Notify,
    entries: RefCell<Slab<AlarmEntry>>,
    admissions: RefCell<Slab<AdmissionEntry>>,
}

struct AlarmEntry {
    deadline: WorkerTime,
    waker: Option<Waker>,
    interrupt: Option<Interrupt>,
    ease: Ease,
}

/// How easily something that waits can be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ease {
    /// It has something to finish.
    Busy,
    /// It is idle: a request that is on its way would be lost.
    Idle,
    /// Its other side can be told, and then loses nothing.
    Told,
}

struct AdmissionEntry {
    terms: AdmissionTerms,
    alarm: usize,
}

/// By what a request was admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdmissionTerms {
    /// The token's digest.
    pub digest: Digest,
    /// What it was admitted for; `None`: any token would do.
    pub needed: Option<Permission>,
    /// How stale the replica that permits it may be.
    pub max_staleness: MaxStaleness,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            now: Cell::new(WorkerTime(0)),
            next_due: Cell::new(WorkerTime::NEVER),
            is_at_rest: Cell::new(true),
            stirred: Notify::new(),
            entries: RefCell::default(),
            admissions: RefCell::default(),
        }
    }
}

impl Alarms {
    /// The worker's clock.
    pub(crate) fn now(&self) -> WorkerTime {
        self.stir();
        self.now.get()
    }

    /// Something begins that a sweep has to look after: the clock goes on, if it was stopped.
    pub(crate) fn stir(&self) {
        if self.is_at_rest.replace(false) {
            self.now.set(self.read_clock());
            self.stirred.notify_one();
        }
    }

    /// Rests until a deadline may have passed, or this long. Ends early, and says so, if something begins. Cancel-safe.
    pub(crate) async fn rest(&self, longest: Duration) -> bool {
        // By a clock of its own: the worker's stands still while this rests.
        let wait = self.next_due.get().since(self.read_clock()).min(longest);
        timeout(wait, self.stirred.notified()).await.is_ok()
    }

    fn read_clock(&self) -> WorkerTime {
        WorkerTime(0).after(self.started.elapsed())
    }

    /// Moves the clock and interrupts what is past its deadline. Returns the time.
    pub(crate) fn sweep(&self) -> WorkerTime {
        let now = self.read_clock();
        self.now.set(now);
        self.is_at_rest.set(true);
        if now < self.next_due.get() {
            return now;
        }
        // Deadlines only ever bring it forward, so after this it is exact again.
        let mut next_due = WorkerTime::NEVER;
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.deadline <= now {
                entry.deadline = WorkerTime::NEVER;
                entry.interrupt(Interrupt::Deadline);
            }
            next_due = next_due.min(entry.deadline);
        }
        self.next_due.set(next_due);
        now
    }

    /// Interrupts what was admitted by terms that no longer hold.
    pub(crate) fn recheck(&self, hold: impl Fn(&AdmissionTerms) -> bool) {
        let mut entries = self.entries.borrow_mut();
        for (_, admission) in self.admissions.borrow().iter() {
            if !hold(&admission.terms)
                && let Some(entry) = entries.get_mut(admission.alarm)
            {
                entry.interrupt(Interrupt::Revoked);
            }
        }
    }

    /// Interrupts whatever can be ended at least so easily.
    pub(crate) fn interrupt(&self, ease: Ease) {
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.ease >= ease {
                entry.interrupt(Interrupt::Drain);
            }
        }
    }
}

impl AlarmEntry {
    fn interrupt(&mut self, interrupt: Interrupt) {
        // Being revoked outweighs the rest, and must not be overwritten.
        if self.interrupt != Some(Interrupt::Revoked) {
            self.interrupt = Some(interrupt);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// An interruption of this kind that nobody has noticed was none.
    fn forget(&mut self, interrupt: Interrupt) {
        self.interrupt.take_if(|noticed| *noticed == interrupt);
    }
}

/// One waiting thing's place in the table.
pub(crate) struct Alarm {
    worker: Rc<Worker>,
    key: usize,
}

impl Alarm {
    /// A new one, without a deadline.
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        let entry = AlarmEntry { deadline: WorkerTime::NEVER, waker: None, interrupt: None, ease: Ease::Busy };
        let key = worker.alarms.entries.borrow_mut().insert(entry);
        Self { worker: Rc::clone(worker), key }
    }

    /// Where it is.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Sets the deadline, counted from now. A deadline that has passed unnoticed is forgotten.
    pub(crate) fn set(&self, after: Duration) {
        let alarms = &self.worker.alarms;
        let deadline = alarms.now().after(after);
        alarms.next_due.set(alarms.next_due.get().min(deadline));
        self.due(deadline);
    }

    /// Whether it has a deadline, or an interruption that nobody has noticed yet.
    pub(crate) fn is_set(&self) -> bool {
        self.with(|entry| entry.deadline != WorkerTime::NEVER || entry.interrupt.is_some()).unwrap_or(false)
    }

    /// Waits without a deadline.
    pub(crate) fn clear(&self) {
        self.due(WorkerTime::NEVER);
    }

    fn due(&self, deadline: WorkerTime) {
        self.with(|entry| {
            entry.deadline = deadline;
            entry.forget(Interrupt::Deadline);
        });
    }

    /// Whether a drain interrupts it, or a farewell already.
    pub(crate) fn ease(&self, ease: Ease) {
        self.with(|entry| {
            entry.ease = ease;
            entry.forget(Interrupt::Drain);
        });
        // Those that were so when it began have been interrupted.
        if self.worker.ends(ease) {
            self.with(|entry| entry.interrupt(Interrupt::Drain));
        }
    }

    /// While the guard lives, this alarm is interrupted when the terms no longer hold.
    #[must_use]
    pub(crate) fn admit(&self, terms: AdmissionTerms) -> Admitted {
        let admission = AdmissionEntry { terms, alarm: self.key };
        let key = self.worker.alarms.admissions.borrow_mut().insert(admission);
        Admitted { worker: Rc::clone(&self.worker), key }
    }

    /// Waits for the future, unless interrupted before it is ready. The future is dropped then, so it must be one that
    /// may be.
    ///
    /// # Errors
    /// [`Interrupt`] says why.
    pub(crate) async fn race<F: Future>(&self, future: F) -> Result<F::Output, Interrupt> {
        let mut future = pin!(future);
        poll_fn(|context| {
            // Before the future: what may go on no longer is not polled once more.
            if let Some(interrupt) = self.with(|entry| entry.interrupt.take()).flatten() {
                return Poll::Ready(Err(interrupt));
            }
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            self.poll(context).map(Err)
        })
        .await
    }

    /// Ready once interrupted.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Interrupt> {
        let interrupt = self.with(|entry| {
            let interrupt = entry.interrupt.take();
            if interrupt.is_none() {
                match &entry.waker {
                    Some(waker) if waker.will_wake(context.waker()) => {}
                    _ => entry.waker = Some(context.waker().clone()),
                }
            }
            interrupt
        });
        interrupt.flatten().map_or(Poll::Pending, Poll::Ready)
    }

    fn with<T>(&self, act: impl FnOnce(&mut AlarmEntry) -> T) -> Option<T> {
        self.worker.alarms.entries.borrow_mut().get_mut(self.key).map(act)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        drop(self.worker.alarms.entries.borrow_mut().try_remove(self.key));
    }
}

/// Something admitted with a token, while it runs.
pub(crate) struct Admitted {
    worker: Rc<Worker>,
    key: usize,
}

impl Drop for Admitted {
    /// A revocation that was not noticed in time is forgotten with it: what comes next on the connection has a token of
    /// its own.
    fn drop(&mut self) {
        let alarms = &self.worker.alarms;
        let Some(admission) = alarms.admissions.borrow_mut().try_remove(self.key) else { return };
        if let Some(entry) = alarms.entries.borrow_mut().get_mut(admission.alarm) {
            entry.forget(Interrupt::Revoked);
        }
    }
}

//! How many requests may be in flight to an upstream, over all workers; who waits for a slot, and in which order.
//!
//! Taking and giving back a free slot is one atomic operation each; only who has to wait takes a lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Mutex;

use tokio::sync::oneshot;

/// Who goes first when a slot becomes free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// Configuration fetches: an agent that gets none exits.
    High,
    /// Everything else.
    Normal,
}

/// The slots of one upstream.
#[derive(Debug)]
pub(crate) struct InFlight {
    most: AtomicUsize,
    /// Below 0: there were more once, which are taken still.
    free: AtomicIsize,
    /// Those in `queue`; read without the lock.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    /// Requests that had to wait so far, and for how long, in microseconds.
    waits: AtomicU64,
    waited: AtomicU64,
    /// Those that gave up without a slot.
    refused: AtomicU64,
}

/// Those that wait, the first of the first priority first.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Ticket, oneshot::Sender<InFlightSlot>>,
    /// Tickets drawn so far.
    drawn: u64,
}

/// A turn in the queue.
type Ticket = (Priority, u64);

/// A slot that was taken. It is free again once this is dropped.
#[derive(Debug)]
pub(crate) struct InFlightSlot(Option<Arc<InFlight>>);

/// One that is asked for.
#[derive(Debug)]
pub(crate) struct Waiting {
    slots: Arc<InFlight>,
    slot: oneshot::Receiver<InFlightSlot>,
    ticket: Ticket,
    since: Instant,
}

impl InFlight {
    /// So many, all free.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            most: AtomicUsize::new(count),
            free: AtomicIsize::new(count.cast_signed()),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            waits: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// A slot, or the wait for one.
    ///
    /// # Errors
    /// [`Waiting`], when none is free or others wait already.
    pub(crate) fn take(self: &Arc<Self>, priority: Priority) -> Result<InFlightSlot, Waiting> {
        if self.waiting.load(Ordering::SeqCst) == 0 && self.take_free() {
            return Ok(InFlightSlot(Some(Arc::clone(self))));
        }
        let (give, slot) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue.drawn += 1;
        let ticket = (priority, queue.drawn);
        queue.waiting.insert(ticket, give);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // One that was given back before this one was seen to wait is handed on here.
        self.hand_out(&mut queue);
        drop(queue);
        self.waits.fetch_add(1, Ordering::Relaxed);
        Err(Waiting { slots: Arc::clone(self), slot, ticket, since: Instant::now() })
    }

    /// Slots that are taken now.
    pub(crate) fn taken(&self) -> usize {
        let taken = self.most.load(Ordering::Relaxed).cast_signed() - self.free.load(Ordering::Relaxed);
        taken.max(0).cast_unsigned()
    }

    /// From now on there are so many. Those that are taken stay.
    pub(super) fn resize(self: &Arc<Self>, count: usize) {
        let mut queue = self.queue.lock();
        let before = self.most.swap(count, Ordering::SeqCst);
        self.free.fetch_add(count.cast_signed() - before.cast_signed(), Ordering::SeqCst);
        self.hand_out(&mut queue);
    }

    /// Requests that wait now.
    pub(crate) fn depth(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests that had to wait so far.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// How long these waited, all together.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Ordering::Relaxed))
    }

    /// Requests that were refused because no slot became free in time.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn take_free(&self) -> bool {
        let one_less = |free| (free > 0).then(|| free - 1);
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }

    /// Gives free slots to those that wait, the first of the first queue first.
    fn hand_out(self: &Arc<Self>, queue: &mut Queue) {
        while self.waiting.load(Ordering::SeqCst) > 0 && self.take_free() {
            let Some((_, next)) = queue.waiting.pop_first() else {
                self.free.fetch_add(1, Ordering::SeqCst);
                return;
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if let Err(mut slot) = next.send(InFlightSlot(Some(Arc::clone(self)))) {
                // Nobody waits there any more. The lock is held, so it must not go the usual way.
                slot.0 = None;
                self.free.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for InFlightSlot {
    fn drop(&mut self) {
        let Some(slots) = self.0.take() else { return };
        slots.free.fetch_add(1, Ordering::SeqCst);
        if slots.waiting.load(Ordering::SeqCst) > 0 {
            let mut queue = slots.queue.lock();
            slots.hand_out(&mut queue);
        }
    }
}

impl Waiting {
    /// Waits for it. Cancel-safe in the sense that a slot that is not taken goes to the next.
    pub(crate) async fn slot(mut self) -> InFlightSlot {
        match (&mut self.slot).await {
            Ok(slot) => {
                self.account();
                slot
            }
            // The sender is dropped only after it was used.
            Err(_) => InFlightSlot(None),
        }
    }

    fn account(&self) {
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.slots.waited.fetch_add(waited, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.slot.close();
        if self.slot.is_terminated() {
            return;
        }
        // It gave up. What it was given meanwhile goes on when `slot` is dropped.
        self.account();
        self.slots.refused.fetch_add(1, Ordering::Relaxed);
        if self.slots.queue.lock().waiting.remove(&self.ticket).is_some() {
            self.slots.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

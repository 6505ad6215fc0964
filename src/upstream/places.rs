//! How many requests may be under way to an upstream, over all workers; who waits for a place, and in which order.
//!
//! Taking and giving back a free place is one atomic operation each; only who has to wait takes a lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Mutex;

use tokio::sync::oneshot;

/// Who goes first when a place becomes free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Configuration fetches: an agent that gets none exits.
    High,
    /// Everything else.
    Normal,
}

/// The places of one upstream.
#[derive(Debug)]
pub struct Places {
    free: AtomicUsize,
    /// Those in `queue`; read without the lock.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    /// Requests that had to wait so far, and for how long, in microseconds.
    waits: AtomicU64,
    waited: AtomicU64,
    /// Those that gave up without a place.
    refused: AtomicU64,
}

/// Those that wait, the first of the first priority first.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Ticket, oneshot::Sender<Place>>,
    /// Tickets drawn so far.
    drawn: u64,
}

/// A place in the queue.
type Ticket = (Priority, u64);

/// A place that was taken. It is free again once this is dropped.
#[derive(Debug)]
pub struct Place(Option<Arc<Places>>);

/// One that is asked for.
#[derive(Debug)]
pub struct Waiting {
    places: Arc<Places>,
    place: oneshot::Receiver<Place>,
    ticket: Ticket,
    since: Instant,
}

impl Places {
    /// So many, all free.
    #[must_use]
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: AtomicUsize::new(count),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            waits: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// A place, or the wait for one.
    ///
    /// # Errors
    /// [`Waiting`], when none is free or others wait already.
    pub fn take(self: &Arc<Self>, priority: Priority) -> Result<Place, Waiting> {
        if self.waiting.load(Ordering::SeqCst) == 0 && self.take_free() {
            return Ok(Place(Some(Arc::clone(self))));
        }
        let (give, place) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue.drawn += 1;
        let ticket = (priority, queue.drawn);
        queue.waiting.insert(ticket, give);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // One that was given back before this one was seen to wait is handed on here.
        self.hand_out(&mut queue);
        drop(queue);
        self.waits.fetch_add(1, Ordering::Relaxed);
        Err(Waiting { places: Arc::clone(self), place, ticket, since: Instant::now() })
    }

    /// Requests that wait now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests that had to wait so far.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// How long these waited, all together.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Ordering::Relaxed))
    }

    /// Requests that were refused because no place became free in time.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn take_free(&self) -> bool {
        let taken = self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(1));
        taken.is_ok()
    }

    /// Gives free places to those that wait, the first of the first queue first.
    fn hand_out(self: &Arc<Self>, queue: &mut Queue) {
        while self.waiting.load(Ordering::SeqCst) > 0 && self.take_free() {
            let Some((_, next)) = queue.waiting.pop_first() else {
                self.free.fetch_add(1, Ordering::SeqCst);
                return;
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if let Err(mut place) = next.send(Place(Some(Arc::clone(self)))) {
                // Nobody waits there any more. The lock is held, so it must not go the usual way.
                place.0 = None;
                self.free.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(places) = self.0.take() else { return };
        places.free.fetch_add(1, Ordering::SeqCst);
        if places.waiting.load(Ordering::SeqCst) > 0 {
            let mut queue = places.queue.lock();
            places.hand_out(&mut queue);
        }
    }
}

impl Waiting {
    /// Waits for it. Cancel-safe in the sense that a place that is not taken goes to the next.
    pub async fn place(mut self) -> Place {
        match (&mut self.place).await {
            Ok(place) => {
                self.account();
                place
            }
            // The sender is dropped only after it was used.
            Err(_) => Place(None),
        }
    }

    fn account(&self) {
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.places.waited.fetch_add(waited, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.place.close();
        if self.place.is_terminated() {
            return;
        }
        // It gave up. What it was given meanwhile goes on when `place` is dropped.
        self.account();
        self.places.refused.fetch_add(1, Ordering::Relaxed);
        if self.places.queue.lock().waiting.remove(&self.ticket).is_some() {
            self.places.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

//! How many of something there may be at once: a number that may change while some are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::Mutex;

/// So many slots, each of which is taken or free.
#[derive(Debug)]
pub(crate) struct Slots {
    semaphore: Arc<Semaphore>,
    /// As many as there shall be.
    wanted: Mutex<usize>,
    /// As many as there are: those included that go as soon as they are free.
    existing: AtomicUsize,
}

impl Slots {
    /// All free.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let count = count.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            semaphore: Arc::new(Semaphore::new(count)),
            wanted: Mutex::new(count),
            existing: AtomicUsize::new(count),
        })
    }

    /// Waits until one is free, in turn. Cancel-safe.
    pub(crate) async fn take(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.semaphore).acquire_owned().await {
            Ok(slot) => slot,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// One, if one is free and nobody waits for it.
    pub(crate) fn take_now(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.semaphore).try_acquire_owned().ok()
    }

    /// How many are taken. Those that have to go count until all of these are free.
    pub(crate) fn taken(&self) -> usize {
        self.existing.load(Ordering::Relaxed).saturating_sub(self.semaphore.available_permits())
    }

    /// From now on there are so many. Where more are taken, none is given out before so many are free again. Within a runtime.
    pub(crate) fn resize(self: &Arc<Self>, count: usize) {
        let count = count.min(Semaphore::MAX_PERMITS);
        let before = std::mem::replace(&mut *self.wanted.lock(), count);
        if let Some(more) = count.checked_sub(before) {
            self.existing.fetch_add(more, Ordering::Relaxed);
            self.semaphore.add_permits(more);
            return;
        }
        let fewer = before - count;
        let gone = self.semaphore.forget_permits(fewer);
        self.existing.fetch_sub(gone, Ordering::Relaxed);
        if gone < fewer {
            tokio::spawn(Arc::clone(self).withdraw(fewer - gone));
        }
    }

    /// Waits in turn like everybody: whoever comes later waits until so many are gone.
    async fn withdraw(self: Arc<Self>, count: usize) {
        let number = u32::try_from(count).unwrap_or(u32::MAX);
        if let Ok(slots) = self.semaphore.acquire_many(number).await {
            slots.forget();
            self.existing.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_stays_and_nothing_is_given_out_until_there_is_room() {
        let slots = Slots::new(3);
        let mut held: Vec<_> = (0..3).map(|_| slots.take_now().expect("free")).collect();
        slots.resize(1);
        tokio::task::yield_now().await;
        assert_eq!((slots.taken(), slots.take_now().is_none()), (3, true));
        held.pop();
        tokio::task::yield_now().await;
        assert_eq!((slots.taken(), slots.take_now().is_none()), (3, true), "it went to nobody");
        slots.resize(4);
        held.extend(std::iter::from_fn(|| slots.take_now()));
        assert_eq!(held.len(), 4, "as many as there may be, those included that were taken all the while");
        drop(held);
        while slots.taken() > 0 {
            tokio::task::yield_now().await;
        }
        let all: Vec<_> = std::iter::from_fn(|| slots.take_now()).collect();
        assert_eq!(all.len(), 4);
    }
}

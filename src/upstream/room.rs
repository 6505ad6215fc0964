//! Asks for unused connections to be closed. A worker cannot close another's, so it says that it waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Who waits for room.
#[derive(Debug, Default)]
pub(super) struct Room {
    waiting: AtomicUsize,
    asked: Notify,
}

/// One that waits, until this is dropped.
pub(super) struct Wanted<'a>(&'a Room);

impl Room {
    /// Asks every worker for room.
    pub(super) fn want(&self) -> Wanted<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.asked.notify_waiters();
        Wanted(self)
    }

    /// Whether anybody waits: then no connection is to stay unused.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Waits to be asked.
    pub(super) async fn wanted(&self) {
        self.asked.notified().await;
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

//! Asks for unused connections to be closed, as many as are needed. A worker cannot close another's, so it says that it waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Who waits for room.
#[derive(Debug, Default)]
pub(super) struct Room {
    waiting: AtomicUsize,
    /// For how many of them nobody closes a connection yet.
    unserved: AtomicUsize,
    asked: Notify,
}

/// One that waits, until this is dropped.
pub(super) struct Wanted<'a>(&'a Room);

impl Room {
    /// Wants room for one connection.
    pub(super) fn want(&self) -> Wanted<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.unserved.fetch_add(1, Ordering::SeqCst);
        Wanted(self)
    }

    /// Asks every worker for it.
    pub(super) fn ask(&self) {
        self.asked.notify_waiters();
    }

    /// Whether the caller is to close a connection, for somebody who waits.
    pub(super) fn serve(&self) -> bool {
        // Every reply comes by here.
        self.unserved.load(Ordering::SeqCst) > 0
            && self
                .unserved
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |unserved| unserved.checked_sub(1))
                .is_ok()
    }

    /// Waits to be asked.
    pub(super) fn asked(&self) -> Notified<'_> {
        self.asked.notified()
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let waiting = self.0.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
        // It may have got room that nobody made for it, or given up.
        self.0.unserved.fetch_min(waiting, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_closed_as_are_waited_for() {
        let room = Room::default();
        assert!(!room.serve());
        let (one, two) = (room.want(), room.want());
        assert!(room.serve());
        drop(one);
        assert!(room.serve(), "for the other one");
        assert!(!room.serve());
        drop(two);
        let gave_up = room.want();
        drop(gave_up);
        assert!(!room.serve());
    }
}

//! Notices from one store to its watchers, through a bounded queue each.

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{Notice, Watch};

/// Notices that a watcher can be behind before it is notified that it lost some.
const QUEUE: usize = 256;

/// Where a store puts its notices.
#[derive(Debug)]
pub(crate) struct Notices(broadcast::Sender<Notice>);

impl Notices {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(QUEUE))
    }

    /// Reaches every watcher that was there before the call.
    pub(crate) fn send(&self, notice: Notice) {
        // Fails only when nobody watches, and then nobody misses it.
        drop(self.0.send(notice));
    }

    /// A watcher of every notice sent from now on.
    pub(crate) fn watch(&self) -> Box<dyn Watch> {
        Box::new(Watcher(self.0.subscribe()))
    }
}

struct Watcher(broadcast::Receiver<Notice>);

#[async_trait]
impl Watch for Watcher {
    async fn next(&mut self) -> Notice {
        match self.0.recv().await {
            Ok(notice) => notice,
            Err(RecvError::Lagged(_)) => Notice::Lost,
            // The store is gone, and so is whatever could happen to it.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_that_is_too_far_behind_is_told_so_and_then_goes_on() {
        let notices = Notices::new();
        let mut watch = notices.watch();
        (0..=QUEUE).for_each(|_| notices.send(Notice::Moved));
        assert_eq!(watch.next().await, Notice::Lost);
        assert_eq!(watch.next().await, Notice::Moved);
    }
}

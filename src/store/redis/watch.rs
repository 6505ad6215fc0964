//! What commits publish, as notices for watchers.
//!
//! It comes over the main connection, which is subscribed before it is used. Every time that it is, watchers are
//! notified that they may have missed something.

use std::sync::Arc;

use redis::{PushInfo, PushKind, Value};
use tokio::task::JoinSet;

use super::layout::Layout;
use super::link::Use;
use super::{Access, earlier, layout, switches};
use crate::lock::Mutex;
use crate::store::notify::Notices;
use crate::store::{Epoch, Notice};

/// The tasks that maintain the subscription. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Watching(#[expect(dead_code, reason = "only to be dropped")] JoinSet<()>);

impl Watching {
    /// Must be called within a runtime, which carries the tasks.
    pub(super) fn start(access: &Arc<Access>) -> Self {
        access.link.listen();
        let mut tasks = JoinSet::new();
        tasks.spawn(reconnect(Arc::clone(access)));
        if let Some(follow) = switches::follow(access) {
            tasks.spawn(follow);
        }
        Self(tasks)
    }
}

/// Has the main connection made again as soon as it is gone. Why that fails is reported by whoever reads.
async fn reconnect(access: Arc<Access>) {
    loop {
        if let Ok(connection) = access.link.connection(Use::Main).await {
            access.link.gone(&connection).await;
        }
    }
}

/// Takes what a server says unasked.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) notices: Notices,
    store: String,
    layout: Layout,
    /// The store's epoch, if it was of the schema before when it was subscribed to.
    earlier: Mutex<Option<Epoch>>,
}

impl Subscriber {
    pub(super) fn new(store: String, layout: Layout) -> Self {
        Self { notices: Notices::new(), store, layout, earlier: Mutex::default() }
    }

    /// A subscription was made: what was published before may have been missed. With the epoch of a store that is of the
    /// schema before still.
    pub(super) fn subscribed(&self, earlier: Option<Epoch>) {
        *self.earlier.lock() = earlier;
        self.notices.send(Notice::Lost);
    }

    /// Notifies the watchers of what was published.
    pub(super) fn take(&self, PushInfo { kind, data }: PushInfo) {
        if let (PushKind::Message, [Value::BulkString(channel), .., Value::BulkString(message)]) = (kind, &data[..]) {
            match *channel == self.layout.channel().as_bytes() {
                true => self.announce(message),
                false => self.announce_earlier(message),
            }
        }
    }

    /// Notifies the watchers of a commit to a store of the schema before, if it is one to this store.
    fn announce_earlier(&self, message: &[u8]) {
        let ours = *self.earlier.lock();
        if let Some((epoch, entry)) = earlier::parse_announcement(message).filter(|(epoch, _)| Some(*epoch) == ours) {
            self.notices.send(Notice::Committed { epoch, entry: Arc::new(entry) });
        }
    }

    /// Notifies the watchers of a commit.
    fn announce(&self, message: &[u8]) {
        let notice = layout::parse_announcement(message);
        if notice.is_none() {
            tracing::warn!(store = self.store, "what was published is not an announcement");
        }
        self.notices.send(notice.unwrap_or(Notice::Moved));
    }
}

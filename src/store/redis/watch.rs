//! Hears of commits as they are announced.

use std::sync::Arc;
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::fault::Fault;
use super::{Access, layout};
use crate::store::Notice;

/// The pause before subscribing again.
const PAUSE: Duration = Duration::from_millis(200);

/// The task that listens; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watching(AbortHandle);

impl Watching {
    pub(super) fn start(access: Arc<Access>) -> Self {
        let listen = async move {
            loop {
                if let Err(fault) = listen(&access).await {
                    tracing::debug!(store = access.name, reason = %fault, "not subscribed to the changes");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        Self(tokio::spawn(listen).abort_handle())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Subscribes, and passes on what is heard until the connection ends.
async fn listen(access: &Arc<Access>) -> Result<(), Fault> {
    let ended = Arc::new(Notify::new());
    let sender = {
        let (access, ended) = (Arc::clone(access), Arc::clone(&ended));
        move |push: PushInfo| -> Result<(), redis::aio::SendError> {
            match (push.kind, push.data.last()) {
                (PushKind::Message, Some(Value::BulkString(message))) => access.announce(message),
                (PushKind::Disconnection, _) => ended.notify_one(),
                _ => {}
            }
            Ok(())
        }
    };
    let mut connection = access.link.listening(sender).await?;
    connection.subscribe(access.layout.channel()).await?;
    // Whatever was committed before the subscription stood was not heard.
    access.notices.send(Notice::Lost);
    ended.notified().await;
    Ok(())
}

impl Access {
    /// Tells the watchers of a commit.
    fn announce(&self, message: &[u8]) {
        self.notices.send(match layout::parse_announcement(message) {
            Some((epoch, entry)) => Notice::Committed { epoch, entry: Arc::new(entry) },
            None => Notice::Moved,
        });
    }
}

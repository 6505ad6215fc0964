//! Failovers as Sentinels announce them, so that connections move at once: an old primary that still answers would not
//! be left otherwise.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::Access;
use super::dial::Peer;
use super::discovery::{self, ANSWER_TIMEOUT};
use super::fault::Fault;
use super::link::Link;
use crate::backoff::Backoff;
use crate::store::url::{Server, Topology};

/// Announced by a Sentinel when a failover is done: NAME OLD-HOST OLD-PORT NEW-HOST NEW-PORT.
const CHANNEL: &str = "+switch-master";

/// How often the connection is tried.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The waits before the next Sentinel is listened to.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), last: Duration::from_secs(5) };

/// Listens to one Sentinel after the other, for ever. `None` where there are none.
pub(super) fn follow(access: &Arc<Access>) -> Option<impl Future<Output = ()> + Send + use<>> {
    let Topology::Sentinel { sentinels, name } = access.link.dialer().url().topology.clone() else { return None };
    let access = Arc::clone(access);
    Some(async move {
        let mut attempt = 0;
        for sentinel in sentinels.iter().cycle() {
            match listen(&access.link, sentinel, &name, &mut attempt).await {
                Ok(()) => {}
                Err(fault) => tracing::debug!(%sentinel, reason = fault.chain(), "failovers are not heard of"),
            }
            attempt += 1;
            tokio::time::sleep(BACKOFF.wait(attempt)).await;
        }
    })
}

/// Listens until the connection breaks.
async fn listen(link: &Link, sentinel: &Server, name: &str, attempt: &mut u32) -> Result<(), Fault> {
    let (switched, broken) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let take = {
        let (switched, broken, prefix) = (Arc::clone(&switched), Arc::clone(&broken), format!("{name} "));
        move |PushInfo { kind, data }| {
            match (kind, data.as_slice()) {
                (PushKind::Message, [_, Value::BulkString(switch)]) if switch.starts_with(prefix.as_bytes()) => {
                    switched.notify_one();
                }
                (PushKind::Disconnection, _) => broken.notify_one(),
                _ => {}
            }
            Ok::<_, redis::aio::SendError>(())
        }
    };
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(Some(ANSWER_TIMEOUT));
    let (mut connection, _carrier) = link.dialer().dial(sentinel, Peer::Sentinel, config.set_push_sender(take)).await?;
    let refused = |error| Fault::of_command(error, ANSWER_TIMEOUT);
    connection.subscribe(CHANNEL).await.map_err(refused)?;
    // It may have happened while nobody listened.
    let now = discovery::primary_of(&mut connection, sentinel, name).await?;
    if link.primary().is_some_and(|primary| primary != now) {
        link.discard();
    }
    *attempt = 0;
    loop {
        tokio::select! {
            () = switched.notified() => {
                tracing::info!(%sentinel, "a Sentinel announced a failover");
                link.discard();
            }
            () = broken.notified() => return Ok(()),
            () = tokio::time::sleep(PING_INTERVAL) => {
                redis::cmd("PING").exec_async(&mut connection).await.map_err(refused)?;
            }
        }
    }
}

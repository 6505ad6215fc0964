//! Failovers as Sentinels announce them, so that connections move at once: an old primary that still answers would not
//! be left otherwise.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::PushInfo;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Access;
use super::dial::{Peer, config};
use super::discovery::{self, ANSWER_TIMEOUT};
use super::fault::Fault;
use super::link::Link;
use crate::backoff::Backoff;
use crate::chain::chain;
use crate::store::url::{Server, Topology};

/// What a Sentinel announces when a failover is done.
const CHANNEL: &str = "+switch-master";

/// How often it is asked without an announcement, which also finds a connection that is dead.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The waits before the next Sentinel is listened to.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), last: Duration::from_secs(5) };

/// Listens to one Sentinel after the other, for ever. `None` where there are none.
pub(super) fn follow(access: &Arc<Access>) -> Option<impl Future<Output = ()> + Send + use<>> {
    let Topology::Sentinel { sentinels, name } = access.link.dialer.url.topology.clone() else { return None };
    let access = Arc::clone(access);
    Some(async move {
        let mut attempt = 0;
        for sentinel in sentinels.iter().cycle() {
            match listen(&access.link, sentinel, &name, &mut attempt).await {
                Ok(()) => {}
                Err(fault) => tracing::debug!(%sentinel, reason = chain(&fault), "cannot subscribe to failovers"),
            }
            attempt += 1;
            tokio::time::sleep(BACKOFF.wait(attempt)).await;
        }
    })
}

/// Listens until the connection breaks.
async fn listen(link: &Link, sentinel: &Server, name: &str, attempt: &mut u32) -> Result<(), Fault> {
    let news = Arc::new(Notify::new());
    let take = {
        let news = Arc::clone(&news);
        move |_: PushInfo| {
            news.notify_one();
            Ok::<_, redis::aio::SendError>(())
        }
    };
    let config = config(Some(ANSWER_TIMEOUT)).set_push_sender(take);
    let (mut connection, _carrier) = link.dialer.dial(sentinel, Peer::Sentinel, config).await?;
    let subscribed = connection.subscribe(CHANNEL).await;
    subscribed.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))?;
    let mut named = None;
    loop {
        let now = discovery::primary_of(&mut connection, sentinel, name).await?;
        // Once: a Sentinel that was cut off goes on to name the one before.
        if named.as_ref() != Some(&now) && link.primary().is_some_and(|primary| primary != now) {
            tracing::info!(%sentinel, primary = %now, "a Sentinel names another primary");
            link.discard();
        }
        (named, *attempt) = (Some(now), 0);
        drop(timeout(LOOK_INTERVAL, news.notified()).await);
    }
}

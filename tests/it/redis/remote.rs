//! A replica as a sidecar has it, of a Redis behind a line that the test decides about.

use tollgate::clock::Instant;
use tollgate::replica::{Replica, driver};

use super::*;
use crate::harness::{Relay, Traffic};

/// A replica behind a line of its own. Ends when it is dropped.
pub(super) struct Remote {
    pub(super) relay: Relay,
    pub(super) replica: Arc<Replica>,
    task: tokio::task::JoinHandle<()>,
}

impl Remote {
    pub(super) async fn start(server: &RedisServer, traffic: Traffic, probe_interval: Duration) -> Self {
        let relay = Relay::start(server.address()).await;
        relay.set(traffic).await;
        let settings = settings(&format!("redis://{}", relay.address()));
        let store = Arc::new(RedisStore::new(&settings, Retention::default()).expect("a store"));
        let replica = Arc::new(Replica::new());
        let run = driver::run(Arc::clone(&replica), store, probe_interval, std::future::pending());
        Self { relay, replica, task: tokio::spawn(run) }
    }

    /// Waits until it is where the store is, and says how long that took.
    pub(super) async fn reaches(&self, position: Position, patience: Duration) -> Duration {
        let (began, mut at) = (Instant::now(), self.replica.position());
        let level = tokio::time::timeout(patience, at.wait_for(|at| *at == Some(position)));
        assert!(level.await.is_ok(), "not level within {patience:?}: {:?}", self.replica);
        began.elapsed()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

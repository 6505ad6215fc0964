//! A sidecar that is behind gets level over whatever line it has.

use tollgate::clock::Instant;
use tollgate::replica::{Replica, driver};
use tollgate::store::{Position, Revision};

use super::*;
use crate::conformance::{commit, token, tokens, user, users};
use crate::harness::{Relay, Traffic};

/// A replica behind a line of its own. Ends when it is dropped.
pub(super) struct Remote {
    pub(super) relay: Relay,
    pub(super) replica: Arc<Replica>,
    task: tokio::task::JoinHandle<()>,
}

impl Remote {
    pub(super) async fn start(server: &RedisServer, traffic: Traffic) -> Self {
        let relay = Relay::start(server.address()).await;
        relay.set(traffic).await;
        let settings = settings(&format!("redis://{}", relay.address()));
        let store = Arc::new(RedisStore::new(&settings, Retention::default()).expect("a store"));
        let replica = Arc::new(Replica::new());
        let run = driver::run(Arc::clone(&replica), store, Duration::from_secs(1), std::future::pending());
        Self { relay, replica, task: tokio::spawn(run) }
    }

    /// Waits until it is where the store is, and says how long that took.
    pub(super) async fn is_level(&self, position: Position, patience: Duration) -> Duration {
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

/// So many tokens, in commits of five hundred.
pub(super) async fn import(store: &dyn Store, owner: tollgate::token::UserId, count: usize) {
    let all: Vec<_> = (0..count).map(|number| Edit::Create(token(owner, &format!("token {number}")))).collect();
    for some in all.chunks(500) {
        commit(store, tokens(some.iter().cloned())).await;
    }
}

/// 3,000 commits over 400 ms there and back: with a round trip for every 64 of them it took longer than anybody waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_commits_over_a_long_line() {
    let server = RedisServer::start();
    let store = store(&server).await;
    commit(&*store, user_batch("anna")).await;
    let remote = Remote::start(&server, Traffic::Flows).await;
    remote.is_level(position(&*store).await, Duration::from_secs(10)).await;
    remote.relay.set(Traffic::Cut).await;
    for _ in 0..3_000 {
        commit(&*store, Batch::default()).await;
    }
    let resyncs = remote.replica.status().resyncs;
    remote.relay.set(Traffic::Slow(Duration::from_millis(200))).await;
    let took = remote.is_level(position(&*store).await, Duration::from_secs(15)).await;
    println!("level after {took:?}");
    assert_eq!(remote.replica.status().resyncs, resyncs, "the log was enough");
}

/// The line carries 30 kB a second, the import twice as much: what was carried once is not carried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_over_a_thin_line() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    let remote = Remote::start(&server, Traffic::Flows).await;
    remote.is_level(position(&*store).await, Duration::from_secs(10)).await;
    remote.relay.set(Traffic::Thin { delay: Duration::from_millis(20), bytes_per_second: 30_000 }).await;
    let (before, began) = (remote.relay.carried(), Instant::now());
    for part in 0..6 {
        let all = (0..1000).map(|number| Edit::Create(token(anna.id, &format!("{part} {number}"))));
        let all: Vec<_> = all.collect();
        for some in all.chunks(500) {
            commit(&*store, tokens(some.iter().cloned())).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    remote.is_level(position(&*store).await, Duration::from_secs(30)).await;
    let carried = remote.relay.carried() - before;
    println!("level {:?} after the import began, {carried} bytes", began.elapsed());
    // A token takes some 75 bytes in the log, and nothing in an announcement.
    assert!(carried < 6000 * 100, "{carried} bytes were carried");
    assert!(remote.replica.staleness(Instant::now()).is_some_and(|stale| stale < Duration::from_secs(15)));
}

/// The line breaks every second and a half, in which it carries a tenth of the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_on_where_it_broke_off() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    import(&*store, anna.id, 20_000).await;
    let traffic = Traffic::Thin { delay: Duration::from_millis(5), bytes_per_second: 200_000 };
    let remote = Remote::start(&server, traffic).await;
    let breaks = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            remote.relay.set(Traffic::Cut).await;
            remote.relay.set(traffic).await;
        }
    };
    let target = position(&*store).await;
    tokio::select! {
        () = breaks => {}
        took = remote.is_level(target, Duration::from_secs(60)) => println!("level after {took:?}"),
    }
    assert_eq!(remote.replica.status().grants, 20_000);
    assert!(remote.relay.carried() < 2 * 20_000 * 100, "{} bytes", remote.relay.carried());
    assert!(target.revision > Revision(1));
}

//! A sidecar that is behind gets level over whatever line it has.

use tollgate::clock::Instant;
use tollgate::store::{Feed, Revision, Versioned};
use tollgate::token::{Permission, TokenRecord, UserRecord, UserStatus};

use super::remote::Remote;
use super::*;
use crate::conformance::{commit, token, tokens, user, users};
use crate::harness::{Relay, Traffic};

impl Remote {
    /// Whether a heartbeat with this token is let in. `None`: that is in doubt.
    fn lets_in(&self, token: &TokenRecord) -> Option<bool> {
        let permission: Permission = "heartbeat:write".parse().expect("a permission");
        let Some(holder) = self.replica.lookup(&token.digest) else { return Some(false) };
        (!self.replica.doubts(&token.digest, &holder, permission)).then_some(true)
    }
}

/// 3,000 commits over 400 ms there and back: with a round trip for every 64 of them it took longer than anybody waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_commits_over_a_long_line() {
    let server = RedisServer::start();
    let store = store(&server).await;
    commit(&*store, user_batch("anna")).await;
    let remote = Remote::start(&server, Traffic::Flows, Duration::from_secs(1)).await;
    remote.reaches(position(&*store).await, Duration::from_secs(10)).await;
    remote.relay.set(Traffic::Cut).await;
    for _ in 0..3_000 {
        commit(&*store, Batch::default()).await;
    }
    let resyncs = remote.replica.status().resyncs;
    remote.relay.set(Traffic::Slow(Duration::from_millis(200))).await;
    let took = remote.reaches(position(&*store).await, Duration::from_secs(15)).await;
    println!("level after {took:?}");
    assert_eq!(remote.replica.status().resyncs, resyncs, "the log was enough");
}

/// The line carries 30 kB a second, the import twice as much: what was carried once is not carried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_over_a_thin_line() {
    let (server, store, anna) = site_of_anna().await;
    let remote = Remote::start(&server, Traffic::Flows, Duration::from_secs(1)).await;
    remote.reaches(position(&*store).await, Duration::from_secs(10)).await;
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
    remote.reaches(position(&*store).await, Duration::from_secs(30)).await;
    let carried = remote.relay.carried() - before;
    println!("level {:?} after the import began, {carried} bytes", began.elapsed());
    // A token takes some 75 bytes in the log, and nothing in an announcement.
    assert!(carried < 6000 * 100, "{carried} bytes were carried");
    assert!(remote.replica.staleness(Instant::now()).is_some_and(|stale| stale < Duration::from_secs(15)));
}

/// The line carries 8 kB a second, an entry of the log has 36 kB: none is given up while it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_whose_entries_take_seconds_each() {
    let (server, store, anna) = site_of_anna().await;
    let remote = Remote::start(&server, Traffic::Flows, Duration::from_secs(1)).await;
    remote.reaches(position(&*store).await, Duration::from_secs(10)).await;
    remote.relay.set(Traffic::Thin { delay: Duration::from_millis(50), bytes_per_second: 8_000 }).await;
    let (before, connections) = (remote.relay.carried(), remote.relay.accepted());
    import(&*store, anna.id, "token", 2_000).await;
    let took = remote.reaches(position(&*store).await, Duration::from_secs(120)).await;
    let (carried, connections) = (remote.relay.carried() - before, remote.relay.accepted() - connections);
    println!("level after {took:?}, {carried} bytes, {connections} connections");
    assert!(carried < 2_000 * 100, "{carried} bytes were carried");
    assert_eq!(connections, 1, "for much; the main one stays");
    assert_eq!(remote.replica.status().reads_failed, 0);
}

/// A snapshot of 10,000 grants over a round trip that takes longer than what a step carries on a good line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_over_a_long_line() {
    let (server, store, anna) = site_of_anna().await;
    import(&*store, anna.id, "token", 10_000).await;
    let remote = Remote::start(&server, Traffic::Slow(Duration::from_millis(550)), Duration::from_secs(1)).await;
    let took = remote.reaches(position(&*store).await, Duration::from_secs(90)).await;
    println!("level after {took:?}");
}

/// The line carries a kilobyte a second, and the entry has 36.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_waited_for_as_long_as_it_arrives() {
    let (server, store, anna) = site_of_anna().await;
    let remote = Remote::start(&server, Traffic::Flows, Duration::from_secs(5)).await;
    remote.reaches(position(&*store).await, Duration::from_secs(10)).await;
    remote.relay.set(Traffic::Thin { delay: Duration::from_millis(50), bytes_per_second: 1_000 }).await;
    import(&*store, anna.id, "token", 500).await;
    let took = remote.reaches(position(&*store).await, Duration::from_secs(90)).await;
    println!("level after {took:?}");
    assert!(took > Duration::from_secs(31), "it was too fast to show: {took:?}");
    assert_eq!(remote.replica.status().reads_failed, 0);
}

/// Until the first grant is there, a connection of its own is made, and several questions are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_first_item_takes_long() {
    let (server, store, anna) = site_of_anna().await;
    import(&*store, anna.id, "token", 1).await;
    let remote = Remote::start(&server, Traffic::Slow(Duration::from_millis(1_200)), Duration::from_secs(5)).await;
    let took = remote.reaches(position(&*store).await, Duration::from_secs(120)).await;
    println!("level after {took:?}");
}

/// Setting a connection up takes some nine round trips, and nobody who waits for it has the patience for two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_set_up_whoever_gives_up_waiting_for_it() {
    let server = RedisServer::start();
    let here = store(&server).await;
    commit(&*here, user_batch("anna")).await;
    let relay = Relay::start(server.address()).await;
    relay.set(Traffic::Slow(Duration::from_millis(500))).await;
    let far = RedisStore::new(&settings(&format!("redis://{}", relay.address())), Retention::default());
    let far = far.expect("a store");
    let _watch = Feed::watch(&far);
    let answered = async {
        let patience = Duration::from_millis(1_700);
        while !matches!(tokio::time::timeout(patience, far.probe()).await, Ok(Ok(_))) {}
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), answered).await.is_ok(), "{} connections", relay.accepted());
    assert_eq!(relay.accepted(), 1);
}

/// The line breaks every second and a half, in which it carries a tenth of the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_on_where_it_broke_off() {
    let (server, store, anna) = site_of_anna().await;
    import(&*store, anna.id, "token", 20_000).await;
    let traffic = Traffic::Thin { delay: Duration::from_millis(5), bytes_per_second: 200_000 };
    let remote = Remote::start(&server, traffic, Duration::from_secs(1)).await;
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
        took = remote.reaches(target, Duration::from_secs(60)) => println!("level after {took:?}"),
    }
    assert_eq!(remote.replica.status().grants, 20_000);
    assert!(remote.relay.carried() < 2 * 20_000 * 100, "{} bytes", remote.relay.carried());
    assert!(target.revision > Revision(1));
}

/// What comes before it in the log takes the line many seconds. Who is enabled again meanwhile, which nobody announces, is not
/// blamed for it: the sidecar knows that it is behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_narrows_a_user_is_heeded_before_the_log_that_comes_first() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let (anna, berta, carla) = (user("anna"), user("berta"), user("carla"));
    let version = commit(&*store, users([&anna, &berta, &carla].map(|user| Edit::Create(user.clone())))).await.id;
    let (hers, carlas) = (token(berta.id, "hers"), token(carla.id, "carla's"));
    commit(&*store, tokens([&hers, &carlas].map(|token| Edit::Create(token.clone())))).await;
    let remote = Remote::start(&server, Traffic::Flows, Duration::from_secs(1)).await;
    remote.reaches(position(&*store).await, Duration::from_secs(10)).await;
    remote.relay.set(Traffic::Thin { delay: Duration::from_millis(20), bytes_per_second: 30_000 }).await;
    import(&*store, anna.id, "token", 8_000).await;

    let set = async |record: &UserRecord, version, status| {
        let (before, after) = (record.clone(), UserRecord { status, ..record.clone() });
        let version = commit(&*store, users([Edit::Update { before: Versioned { record: before, version }, after }]));
        (UserRecord { status, ..record.clone() }, version.await.id)
    };
    let mut narrowed = remote.replica.narrowed();
    let (carla, carlas_version) = set(&carla, version, UserStatus::Disabled).await;
    set(&carla, carlas_version, UserStatus::Active).await;
    set(&berta, version, UserStatus::Disabled).await;
    let both = [&hers, &carlas];
    let in_doubt = narrowed.wait_for(|_| both.iter().all(|token| remote.lets_in(token).is_none()));
    let is_heeded = tokio::time::timeout(Duration::from_secs(10), in_doubt).await.is_ok();
    assert!(is_heeded, "it waits for its turn: {:?}", remote.replica);
    let target = position(&*store).await;
    assert_ne!(*remote.replica.position().borrow(), Some(target), "it was too fast to show");

    remote.relay.heal().await;
    remote.reaches(target, Duration::from_secs(30)).await;
    assert_eq!(both.map(|token| remote.lets_in(token)), [Some(false), Some(true)]);
    let status = remote.replica.status();
    assert_eq!((status.resyncs, status.held), (0, 0));
}

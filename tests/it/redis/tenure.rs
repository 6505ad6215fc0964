//! Since when a server has every report, as far as it says that to receipts.

use tollgate::store::Report;
use tollgate_harness::pair::{Pair, run};

use super::*;
use crate::conformance;

const BOUND: Duration = Duration::from_secs(70);
const TENURE: &str = "{tollgate}:tenure";

async fn report(store: &dyn Store, staleness_ms: u64) {
    let report = Report { staleness_ms: Some(staleness_ms), ..conformance::report(1, "edge") };
    store.report(&report, BOUND).await.expect("reports");
}

/// Milliseconds; -1 for ever, -2 where there is none.
async fn left(server: &RedisServer) -> i64 {
    run(server, &["PTTL", TENURE]).await.parse().expect("a number")
}

async fn unreported(store: &dyn Store) -> Option<Duration> {
    store.unreported(BOUND).await.expect("answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_replica_could_take_over_fresh_sidecars_must_report() {
    let pair = Pair::start().await;
    let store = store(&pair.primary).await;
    assert_eq!(unreported(&*store).await, None, "nobody reported before it was made");
    store.probe().await.expect("a probe"); // sees the replica
    report(&*store, 60_000).await;
    assert_eq!(left(&pair.primary).await, -1, "who is stale does not know who is the primary");
    report(&*store, 1).await;
    assert!((1..=15_000).contains(&left(&pair.primary).await), "{}", left(&pair.primary).await);
    assert_eq!(unreported(&*store).await, None);
    // Its time is over, and nobody was there.
    run(&pair.primary, &["DEL", TENURE]).await;
    report(&*store, 1).await;
    assert_eq!(left(&pair.primary).await, -2, "no report begins it");
    assert_eq!(unreported(&*store).await, Some(BOUND), "who asks does");
    assert!((1..=15_000).contains(&left(&pair.primary).await), "and not for good, as nobody may come here");
    assert!(unreported(&*store).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_could_take_over_a_pause_means_nothing() {
    let server = RedisServer::start();
    let store = store(&server).await;
    store.probe().await.expect("a probe");
    assert_eq!(left(&server).await, -1);
    report(&*store, 1).await;
    assert!(left(&server).await > 1_000_000_000 && unreported(&*store).await.is_none());
}

/// Its clock was set back, or what it stores is of another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_of_this_server_or_of_its_future_counts_from_now() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let stored = run(&server, &["GET", TENURE]).await;
    for other in [format!("x{stored}"), "x".to_owned(), String::new()] {
        run(&server, &["SET", TENURE, &other]).await;
        assert_eq!(unreported(&*store).await, Some(BOUND), "{other}");
        assert!(unreported(&*store).await.is_some(), "it has begun");
    }
    let later = format!("{} {}", stored.rsplit_once(' ').expect("both").0, u64::MAX);
    run(&server, &["SET", TENURE, &later]).await;
    assert_eq!(unreported(&*store).await, Some(BOUND));
}

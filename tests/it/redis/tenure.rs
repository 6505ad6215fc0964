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

/// Nobody may come there.
const LEASE: std::ops::RangeInclusive<i64> = 1..=15_000;

/// Begun by whoever asks first: the registry before it may have been lost with its reports, and a sidecar serve by that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_was_made_says_nothing_of_who_reported_before() {
    let server = RedisServer::start();
    let store = store(&server).await;
    assert_eq!(left(&server).await, -2, "who makes it begins nothing");
    assert_eq!(unreported(&*store).await, Some(BOUND), "who asks does");
    assert!(LEASE.contains(&left(&server).await), "and not for good: {}", left(&server).await);
    assert!(unreported(&*store).await.is_some_and(|left| left < BOUND), "it has begun");
}

/// Whether or not a replica was seen that could take over: its link may have been down for a moment, or a copy have taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_lasts_for_as_long_as_fresh_sidecars_report() {
    let (pair, alone) = (Pair::start().await, RedisServer::start());
    for server in [&pair.primary, &alone] {
        let store = store(server).await;
        server.has_all_reports();
        run(server, &["PEXPIRE", TENURE, "9000"]).await;
        report(&*store, 1).await;
        assert!((9_001..=15_000).contains(&left(server).await), "{}", left(server).await);
        assert_eq!(unreported(&*store).await, None);
        // Its time is over, and nobody was there.
        run(server, &["DEL", TENURE]).await;
        report(&*store, 1).await;
        assert_eq!(left(server).await, -2, "no report begins it");
        assert_eq!(unreported(&*store).await, Some(BOUND));
    }
}

/// Its latest proof is old: it asks seldom, or is behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_stale_asks_who_is_in_charge() {
    let server = RedisServer::start();
    let (any, confirmed) = (store(&server).await, Settings { quorum_replicas: 1, ..settings(&server.url()) });
    let confirmed = RedisStore::new(&confirmed, Retention::default()).expect("a store");
    server.has_all_reports();
    run(&server, &["PEXPIRE", TENURE, "9500"]).await;
    report(&confirmed, 80_000).await;
    assert!((1..=9_500).contains(&left(&server).await), "no replica says that it is");
    report(&*any, 80_000).await;
    assert!((9_501..=15_000).contains(&left(&server).await), "{}", left(&server).await);
    assert_eq!(unreported(&*any).await, None);
}

/// By the server's clock, which was put forward: then those of others have expired too, whose sidecars serve on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_a_report_that_goes_sooner_than_it_was_left() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let key = format!("{{tollgate}}:sidecar:{}", conformance::report(1, "edge").id);
    for (left_of_report, is_kept) in [("69500", true), ("66000", false), ("0", false)] {
        report(&*store, 1).await;
        server.has_all_reports();
        assert_eq!(run(&server, &["PEXPIRE", &key, left_of_report]).await, "1");
        report(&*store, 1).await;
        assert_eq!(left(&server).await > 0, is_kept, "{left_of_report}");
        assert_eq!(unreported(&*store).await.is_none(), is_kept, "{left_of_report}");
    }
}

/// The clock was put forward just now, and no sidecar has looked yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_sure_of_it_until_the_next_report() {
    let server = RedisServer::start();
    let store = store(&server).await;
    server.has_all_reports();
    run(&server, &["PEXPIRE", TENURE, "8900"]).await;
    assert_eq!(unreported(&*store).await, Some(BOUND));
    report(&*store, 1).await;
    assert_eq!(unreported(&*store).await, None, "it was not ended");
}

/// A sidecar's user may put off its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_prolonged_for_ever_is_none() {
    let server = RedisServer::start();
    let store = store(&server).await;
    for command in [&["PEXPIRE", TENURE, "1000000000"][..], &["PERSIST", TENURE]] {
        server.has_all_reports();
        assert_eq!(unreported(&*store).await, None);
        assert_eq!(run(&server, command).await, "1");
        assert_eq!(unreported(&*store).await, Some(BOUND), "{command:?}");
        assert!(LEASE.contains(&left(&server).await), "another one has begun");
    }
}

/// It may serve for a quarter of an hour, and nobody has a report of it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_bound_is_remembered_when_its_report_is_lost() {
    const LONG: Duration = Duration::from_mins(15);
    const LONGEST: &str = "{tollgate}:longest";
    let server = RedisServer::start();
    let store = store(&server).await;
    let report = conformance::report(1, "edge");
    store.report(&report, LONG).await.expect("reports");
    stdout(&tollgate(&server.url(), 0, &["init"]).await);
    store.withdraw(report.id).await.expect("withdraws");
    run(&server, &["DEL", TENURE]).await;
    assert_eq!(unreported(&*store).await, Some(LONG), "a command has seen it");
    // Not of what no sidecar has had for long, nor of what nobody wrote.
    let stored = run(&server, &["GET", LONGEST]).await;
    let (bound, day) = stored.split_once(' ').expect("both");
    let day: u64 = day.parse().expect("a number");
    for (other, counts) in
        [(format!("{bound} {}", day - 29), LONG), (format!("{bound} {}", day - 30), BOUND), ("x".to_owned(), BOUND)]
    {
        run(&server, &["SET", LONGEST, &other]).await;
        run(&server, &["DEL", TENURE]).await;
        assert_eq!(unreported(&*store).await, Some(counts), "{other}");
    }
}

/// Its clock was set back, or what it stores is of another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_of_this_server_or_of_its_future_counts_from_now() {
    let server = RedisServer::start();
    let store = store(&server).await;
    unreported(&*store).await;
    let stored = run(&server, &["GET", TENURE]).await;
    for other in [format!("x{stored}"), "x".to_owned(), String::new()] {
        run(&server, &["SET", TENURE, &other, "PX", "9000"]).await;
        assert_eq!(unreported(&*store).await, Some(BOUND), "{other}");
        assert!(unreported(&*store).await.is_some(), "it has begun");
    }
    let later = format!("{} {}", stored.rsplit_once(' ').expect("both").0, u64::MAX);
    run(&server, &["SET", TENURE, &later, "PX", "9000"]).await;
    assert_eq!(unreported(&*store).await, Some(BOUND));
}

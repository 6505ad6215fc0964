//! Many sidecars on one Redis: what they cost it together.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::Instant;
use tollgate::replica::{Replica, driver};
use tollgate::store::{RedisStore, Retention};

use super::{commit, open, settings};
use crate::conformance::report;
use crate::harness::{RedisServer, within};

/// A number that `INFO` tells.
fn told(redis: &RedisServer, section: &str, name: &str) -> u64 {
    let told = redis.cli(&["INFO", section]);
    let value = told.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {told}"))
}

/// Redis comes back: each of a hundred connects once, and all are fresh again. How soon is printed: a second where the machine
/// is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_sidecars_connect_once_each_when_redis_is_back() {
    const SIDECARS: u64 = 100;
    let mut redis = RedisServer::with(&["--appendonly", "yes"]);
    commit(&*open(&redis.url()).await, "anna").await;
    let replicas: Vec<_> = (0..SIDECARS).map(|_| Arc::new(Replica::new())).collect();
    let mut sidecars = tokio::task::JoinSet::new();
    for replica in &replicas {
        let store = Arc::new(RedisStore::new(&settings(&redis.url()), Retention::default()).expect("a store"));
        let (replica, interval) = (Arc::clone(replica), Duration::from_secs(1));
        sidecars.spawn(driver::run(replica, store, interval, std::future::pending()));
    }
    for replica in &replicas {
        within("a sidecar is ready", replica.ready()).await;
    }
    redis.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    tokio::task::block_in_place(|| redis.restart());
    let back = Instant::now();
    for replica in &replicas {
        within("a sidecar is fresh", async {
            while replica.staleness(Instant::now()).is_none_or(|stale| stale > began.elapsed()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    println!("fresh {:?} after it answered", back.elapsed());
    // Those of `redis-cli` too, which asks whether it is back.
    let connections = told(&redis, "stats", "total_connections_received");
    assert!(connections < SIDECARS + SIDECARS / 5, "{connections} connections");
}

/// Reports are read by one command, however many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_all_reports_is_one_command() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    for id in 0..200 {
        store.report(&report(id, &format!("edge-{id}")), Duration::from_secs(60)).await.expect("reports");
    }
    store.position().await.expect("connected");
    let asked = || told(&redis, "stats", "total_net_input_bytes");
    let before = asked();
    assert_eq!(store.sidecars().await.expect("reads").len(), 200);
    let bytes = asked() - before;
    assert!(bytes < 2_000, "{bytes} bytes: it was asked about each one");
}

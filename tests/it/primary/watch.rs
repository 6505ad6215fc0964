//! The subscription: it comes back from everything, and silence is noticed.

use std::net::SocketAddr;
use std::time::Duration;

use tollgate::store::Notice;

use super::{commit, hears, hears_again, open, subscribed, tells_of};
use crate::harness::{RedisServer, Relay, Traffic, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_cut_off_is_made_again() {
    let mut redis = RedisServer::with(&["--appendonly", "yes"]);
    let (store, other) = (open(&redis.url()).await, open(&redis.url()).await);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    assert_eq!(redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]), "1");
    subscribed(&mut watch).await;
    hears(&mut watch, commit(&*other, "after a kill").await).await;
    redis.restart();
    subscribed(&mut watch).await;
    hears_again(&mut watch, &*other).await;
}

/// The one connection carries both, so what was published before the answer has arrived before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answered_probe_proves_the_subscription() {
    let redis = RedisServer::start();
    let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], redis.port()))).await;
    let store = open(&format!("redis://{}", relay.address())).await;
    let other = open(&redis.url()).await;
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    let before = relay.accepted();
    for round in 0..50 {
        let revision = commit(&*other, &format!("round {round}")).await;
        assert_eq!(store.probe().await.expect("answers").position.revision, revision);
        // It is there already: nothing is waited for.
        let told = tokio::time::timeout(Duration::ZERO, watch.next()).await;
        assert!(told.is_ok_and(|told| tells_of(&told, revision)));
    }
    assert_eq!(relay.accepted(), before);
    assert_eq!(redis.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count(), 1, "and nothing else is connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_swallows_everything_is_found() {
    let redis = RedisServer::start();
    let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], redis.port()))).await;
    let store = open(&format!("redis://{}", relay.address())).await;
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    relay.set(Traffic::Stalls).await;
    // As the synchroniser does: what takes too long is given up.
    let probe = tokio::time::timeout(Duration::from_millis(500), store.probe()).await;
    assert!(probe.is_err(), "nothing arrives");
    relay.reset().await;
    within("the probe is answered", store.probe()).await.expect("answers");
    hears_again(&mut watch, &*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_announcement_leads_to_a_question_only() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    assert_eq!(redis.cli(&["PUBLISH", "{tollgate}:changes:0", "hello"]), "1");
    assert_eq!(within("a notice", watch.next()).await, Notice::Moved);
    hears(&mut watch, commit(&*store, "after").await).await;
}

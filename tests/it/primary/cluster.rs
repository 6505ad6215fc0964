//! In a cluster: the owner of the namespace's slot is found, and followed when it changes.

use super::{commit, commit_at_last, hears, hears_again, open, settings, subscribed, unusable};
use crate::harness::cluster::{OWNER, REPLICA};
use crate::harness::{RedisCluster, RedisServer, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_of_the_slot_is_found_from_any_node_and_followed() {
    let mut cluster = RedisCluster::start().await;
    let store = open(&cluster.url(&[0])).await;
    for seed in [OWNER, 2, REPLICA] {
        let other = open(&cluster.url(&[seed])).await;
        assert_eq!(other.position().await.expect("reads"), store.position().await.expect("reads"));
    }
    let other = open(&cluster.url(&[2])).await;
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    hears(&mut watch, commit(&*other, "before").await).await;

    cluster.fail_over().await;
    let revision = commit_at_last(&*other, "after").await;
    eventually("the probe is answered by the new owner", || async {
        store.probe().await.is_ok_and(|probe| probe.position.revision >= revision)
    })
    .await;
    hears_again(&mut watch, &*other).await;

    // The old one dies, and then the one in its place does: and all nodes that the URL names, too.
    cluster.nodes[OWNER].restart();
    cluster.is_whole().await;
    cluster.nodes[0].pause();
    commit(&*store, "while a seed hangs").await;
    cluster.nodes[0].resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_dies_is_replaced() {
    let mut cluster = RedisCluster::start().await;
    let (store, other) = (open(&cluster.url(&[OWNER])).await, open(&cluster.url(&[0])).await);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    commit(&*store, "before").await;
    // The only node that the URL names: the others are remembered.
    cluster.nodes[OWNER].kill();
    cluster.replica_took_over().await;
    commit_at_last(&*store, "after").await;
    hears_again(&mut watch, &*other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_is_followed() {
    let cluster = RedisCluster::start().await;
    let (store, other) = (open(&cluster.url(&[0])).await, open(&cluster.url(&[2])).await);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    let before = commit(&*other, "before").await;
    hears(&mut watch, before).await;

    // Halfway, some keys are here and some are there: what is asked then is answered late, or not.
    cluster.begin_migration(OWNER, 2);
    cluster.move_keys(OWNER, 2, &["{tollgate}:users", "{tollgate}:log"]);
    assert!(store.position().await.is_ok_and(|position| position.revision == before), "the key is where it was");
    assert!(store.users(None, 10).await.is_err(), "the key has gone already");
    cluster.move_keys(OWNER, 2, &["{tollgate}:meta"]);
    cluster.end_migration(OWNER, 2);
    let revision = commit_at_last(&*other, "after").await;
    eventually("the probe is answered by the new owner", || async {
        store.probe().await.is_ok_and(|probe| probe.position.revision >= revision)
    })
    .await;
    hears_again(&mut watch, &*other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_named_wrongly_is_said() {
    let redis = RedisServer::start();
    let message = unusable(&settings(&format!("redis-cluster://127.0.0.1:{}", redis.port()))).await;
    assert!(message.contains(&format!("write redis://127.0.0.1:{}", redis.port())), "{message}");
    let node = RedisServer::with(&[
        "--save",
        "",
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &crate::harness::cluster::bus_port(),
    ]);
    let message = unusable(&settings(&node.url())).await;
    assert!(message.contains(&format!("write redis-cluster://127.0.0.1:{}", node.port())), "{message}");
    assert_eq!((redis.cli(&["DBSIZE"]).as_str(), node.cli(&["DBSIZE"]).as_str()), ("0", "0"));
}

//! A cluster loses the node that has our slot, or moves the slot elsewhere.

use std::time::Instant;

use crate::harness::Fleet;
use crate::harness::cluster::{OWNER, RedisCluster};

async fn fleet() -> Fleet<RedisCluster> {
    let cluster = RedisCluster::start().await;
    let url = cluster.url(&[0, 2]);
    Fleet::at(cluster, &url, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_by_order() {
    let mut fleet = fleet().await;
    let [kept, revoked] = fleet.tokens().await;
    let fault = fleet.breaks("CLUSTER FAILOVER", None);
    fleet.redis.fail_over().await;
    fleet.heals(fault).await;
    fleet.revokes(revoked).await;
    fleet.all_answer([(kept, 200)]).await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies() {
    let mut fleet = fleet().await;
    let [kept, before, after] = fleet.tokens().await;
    fleet.revokes(before).await;
    let since = Instant::now();
    let hold = fleet.history.with(|judge| judge.hold(since));
    let fault = fleet.breaks("the node dies", None);
    fleet.redis.nodes[OWNER].kill();
    fleet.redis.replica_took_over().await;
    fleet.heals(fault).await;
    // The revocation was acknowledged before the replica had it for sure.
    let lost = fleet.oracle.read_back(since, false).await.expect("reads");
    println!("{lost:?}");
    fleet.oracle.registry.settle_recalls().await.expect("settles");
    fleet.oracle.read_back(since, true).await.expect("reads");
    fleet.history.with(|judge| judge.release(hold));
    fleet.oracle.revoke(&[after]).await.expect("revokes");
    fleet.all_answer([(before, 401), (after, 401), (kept, 200)]).await;
    fleet.verdict();
}

/// Half of the keys are here and half are there; then all are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves() {
    let mut fleet = fleet().await;
    let [kept, before, during, after] = fleet.tokens().await;
    fleet.oracle.revoke(&[before]).await.expect("revokes");
    let since = Instant::now();
    let fault = fleet.breaks("the slot moves", None);
    fleet.redis.begin_migration(OWNER, 2);
    fleet.redis.move_keys(OWNER, 2, &["{tollgate}:meta", "{tollgate}:grants"]);
    let error = fleet.oracle.revoke(&[during]).await.expect_err("neither node has all of it");
    assert!(!fleet.oracle.in_doubt, "it is known not to have been done: {error}");
    // Meanwhile nothing can change, and whoever asks is led to where the position is.
    fleet.all_answer([(kept, 200), (during, 200)]).await;
    fleet.redis.end_migration(OWNER, 2);
    fleet.heals(fault).await;
    fleet.oracle.read_back(since, true).await.expect("reads");
    fleet.oracle.revoke(&[during, after]).await.expect("revokes");
    fleet.all_answer([(before, 401), (during, 401), (after, 401), (kept, 200)]).await;
    fleet.verdict();
}

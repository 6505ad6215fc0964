//! Sentinels choose another primary; everybody finds it by asking them.

use std::time::Instant;

use crate::harness::sentinel::{NAME, SentinelSet};
use crate::harness::{Fleet, Relay, Traffic, eventually};

/// Sidecars that ask the Sentinels. These leave a replica alone that follows its primary through a relay.
async fn fleet(quorum: u32) -> Fleet<SentinelSet> {
    let set = SentinelSet::with(1, "sentinel failover-timeout main 60000").await;
    let url = set.url();
    Fleet::at(set, &url, quorum).await
}

/// Sentinel has another server take over, and tells the old one seconds later only: a command that still has a connection
/// there is acknowledged by it, and lost. Every sidecar has moved on, and each new command asks the Sentinels first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_primary_by_order() {
    let mut fleet = fleet(0).await;
    let [kept] = fleet.tokens().await;
    let tokens: [_; 6] = fleet.tokens().await;
    let since = Instant::now();
    let hold = fleet.history.with(|judge| judge.hold(since));
    let fault = fleet.breaks("SENTINEL FAILOVER", None);
    let before = fleet.redis.primary();
    assert_eq!(fleet.redis.sentinels[0].cli(&["SENTINEL", "FAILOVER", NAME]), "OK");
    fleet.redis.primary_is_not(before).await;
    let done = fleet.oracle.revoke(&tokens[..3]).await;
    println!("revoked over an old connection: {done:?}");
    let url = fleet.redis.url();
    fleet.use_registry_at(&url, 0).await;
    fleet.heals(fault).await;
    fleet.oracle.read_back(since, false).await.expect("reads");
    let settled = fleet.oracle.registry.settle_recalls().await.expect("settles");
    println!("{settled} revocations were lost and seen");
    fleet.oracle.read_back(since, true).await.expect("reads");
    fleet.history.with(|judge| judge.release(hold));
    fleet.oracle.revoke(&tokens).await.expect("revokes");
    for token in tokens {
        fleet.all_answer([(token, 401)]).await;
    }
    fleet.all_answer([(kept, 200)]).await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_and_takes_the_last_writes_along() {
    let mut fleet = fleet(0).await;
    let before = fleet.redis.primary();
    let replica = 1 - before;
    let link = Relay::start(fleet.redis.servers[before].address()).await;
    let port = link.address().port().to_string();
    assert_eq!(fleet.redis.servers[replica].cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    eventually("the replica follows the relay", || async {
        let said = fleet.redis.servers[replica].cli(&["INFO", "replication"]);
        said.contains(&format!("master_port:{port}")) && said.contains("master_link_status:up")
    })
    .await;
    let [kept, early, seen] = fleet.tokens().await;
    fleet.oracle.revoke(&[early]).await.expect("revokes");
    eventually("the replica is in step", || async {
        let offset = |server: usize, name: &str| {
            let said = fleet.redis.servers[server].cli(&["INFO", "replication"]);
            said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        offset(replica, "slave_repl_offset:") == offset(before, "master_repl_offset:")
    })
    .await;

    let since = Instant::now();
    let hold = fleet.history.with(|judge| judge.hold(since));
    let fault = fleet.breaks("the primary dies", None);
    link.set(Traffic::Stalls).await;
    fleet.revokes(seen).await;
    fleet.redis.servers[before].kill();
    fleet.redis.primary_is_not(before).await;
    fleet.heals(fault).await;
    let lost = fleet.oracle.read_back(since, false).await.expect("reads");
    assert_eq!(lost.revocations, [seen]);
    fleet.all_answer([(seen, 401)]).await;
    assert_eq!(fleet.oracle.registry.settle_recalls().await.expect("settles"), 1);
    let settled = fleet.oracle.read_back(since, true).await.expect("reads");
    assert_eq!(settled.revocations, []);
    fleet.history.with(|judge| judge.release(hold));
    fleet.all_answer([(early, 401), (seen, 401), (kept, 200)]).await;
    fleet.verdict();
}

/// The old primary only slept, and wakes up as one who believes to be in charge still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_sleeps_and_comes_back() {
    let mut fleet = fleet(0).await;
    let [kept, during, after] = fleet.tokens().await;
    let before = fleet.redis.primary();
    let fault = fleet.breaks("the primary sleeps", None);
    fleet.redis.servers[before].pause();
    fleet.redis.primary_is_not(before).await;
    let url = fleet.redis.url();
    fleet.use_registry_at(&url, 0).await;
    fleet.heals(fault).await;
    fleet.revokes(during).await;
    fleet.redis.servers[before].resume();
    fleet.revokes(after).await;
    fleet.is_level().await;
    fleet.all_answer([(during, 401), (kept, 200)]).await;
    fleet.verdict();
}

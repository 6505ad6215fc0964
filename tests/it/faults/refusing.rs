//! Redis runs and refuses: no memory, no script, no replicas, a primary no longer. Requests do not notice.

use tollgate::token::{PermissionSet, Role};

use crate::harness::Fleet;

/// Commands fail, and are known to; nothing else is disturbed, so nobody may say 503.
async fn commands_are_refused(break_it: &[&str], mend_it: &[&str]) {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, revoked] = fleet.tokens().await;
    fleet.redis_does(break_it).await;
    let error = fleet.oracle.revoke(&[revoked]).await.expect_err("refused");
    assert!(!fleet.oracle.in_doubt, "it is known not to have been done: {error}");
    println!("{:?}", anyhow::Error::from(error));
    fleet.all_answer([(revoked, 200)]).await;
    fleet.redis_does(mend_it).await;
    fleet.revokes(revoked).await;
    fleet.all_answer([(kept, 200)]).await;
    fleet.is_level().await;
    fleet.verdict();
}

/// What takes away goes through, and is everywhere at once; what gives does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, revoked] = fleet.tokens().await;
    let user = fleet.oracle.add_user(Role::Manager).await.expect("adds");
    fleet.redis_does(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let created = fleet.oracle.create(&user, PermissionSet::TELEGRAF_AGENT).await;
    assert!(created.is_err() && !fleet.oracle.in_doubt, "it is known not to have been done");
    fleet.revokes(revoked).await;
    fleet.all_answer([(kept, 200)]).await;
    fleet.redis_does(&["CONFIG", "SET", "maxmemory", "0"]).await;
    fleet.is_level().await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_replicas_that_it_wants() {
    let set = |count| ["CONFIG", "SET", "min-replicas-to-write", count];
    commands_are_refused(&set("1"), &set("0")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_script() {
    let mut fleet = Fleet::start(&[]).await;
    let tokens: [_; 3] = fleet.tokens().await;
    for token in tokens {
        fleet.redis_does(&["SCRIPT", "FLUSH"]).await;
        fleet.revokes(token).await;
    }
    fleet.verdict();
}

/// A server that follows another one proves nothing, and takes no commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_no_longer() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, revoked] = fleet.tokens().await;
    let fault = fleet.breaks("REPLICAOF", None);
    // Of nobody: it keeps its data, and answers reads.
    fleet.redis_does(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = fleet.oracle.revoke(&[revoked]).await.expect_err("refused");
    assert!(!fleet.oracle.in_doubt, "it is known not to have been done: {error}");
    fleet.all_answer([(kept, 503)]).await;
    fleet.redis_does(&["REPLICAOF", "NO", "ONE"]).await;
    fleet.heals(fault).await;
    fleet.revokes(revoked).await;
    fleet.all_answer([(kept, 200)]).await;
    fleet.verdict();
}

//! Commits and probes that replicas confirm.

use tollgate::store::{Absent, CommitError, Revision};

use super::*;
use crate::harness::eventually;

/// A primary, a replica of it that is in step, and a store that wants one confirmation.
async fn with_replica() -> (RedisServer, RedisServer, Arc<dyn Store>) {
    let primary = RedisServer::start();
    let replica = RedisServer::with(&["--save", "", "--replicaof", "127.0.0.1", &primary.port().to_string()]);
    eventually("the replica follows", async || replica.cli(&["role"]).contains("connected")).await;
    let mut settings = settings(&primary.url());
    settings.quorum_replicas = 1;
    let store = open(&settings, Absent::Create).await.expect("opens");
    (primary, replica, store)
}

#[tokio::test]
async fn what_a_replica_confirmed_is_on_the_replica() {
    let (primary, replica, store) = with_replica().await;
    assert_eq!(store.commit(user_batch("anna")).await.expect("confirmed").position.revision, Revision(1));
    assert_eq!(replica.cli(&["hget", "{tollgate}:meta", "revision"]), "1");
    assert_eq!(store.probe().await.expect("confirmed").position.revision, Revision(1));
    primary.cli(&["client", "kill", "type", "normal"]);
    store.probe().await.expect("over another connection");
    primary.cli(&["client", "kill", "type", "normal"]);
    assert_eq!(
        store.commit(user_batch("berta")).await.expect("over another connection").position.revision,
        Revision(2)
    );
}

#[tokio::test]
async fn without_enough_replicas_nothing_is_proven() {
    let (_primary, mut replica, store) = with_replica().await;
    store.commit(user_batch("anna")).await.expect("confirmed");
    replica.kill();
    let text = told(&store.probe().await.expect_err("not confirmed"));
    assert!(text.contains("0 of 1 replicas"), "{text}");
    let error = store.commit(user_batch("berta")).await.expect_err("not confirmed");
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    assert!(told(&error).contains("0 of 1 replicas"), "{error:?}");
    // It is there, and a failover may lose it: neither done nor failed.
    assert_eq!(position(&*store).await.revision, Revision(2));
    replica.restart();
    eventually("the replica confirms again", async || store.probe().await.is_ok()).await;
    assert_eq!(store.commit(user_batch("carla")).await.expect("confirmed").position.revision, Revision(3));
}

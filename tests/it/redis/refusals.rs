//! What the server or its content makes impossible: said clearly, and nothing done by halves.

use tollgate::store::{Absent, NoRegistry, Revision, StoreError};

use super::*;
use crate::harness::{eventually, within};

#[tokio::test]
async fn an_empty_redis_is_not_taken_for_a_registry() {
    let server = RedisServer::start();
    let error = open(&settings(&server.url()), Absent::Refuse).await.err().expect("refused");
    let is_empty = |found: &NoRegistry| *found == NoRegistry::EmptyNamespace(Default::default());
    assert!(matches!(&error, StoreError::NoRegistry { found, .. } if is_empty(found)), "{error:?}");
    let text = chain(&error);
    assert!(text.contains("holds no registry") && text.contains("`tollgate init`"), "{text}");
    assert_eq!(server.cli(&["dbsize"]), "0", "nothing is written");
}

#[tokio::test]
async fn a_registry_is_made_once() {
    let server = RedisServer::start();
    let first = store(&server).await;
    first.commit(user_batch("anna")).await.expect("commits");
    let again = store(&server).await;
    assert_eq!(position(&*again).await, position(&*first).await);
    open(&settings(&server.url()), Absent::Refuse).await.expect("is there");
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    let server = RedisServer::start();
    let first = store(&server).await;
    first.commit(user_batch("anna")).await.expect("commits");
    let mut other = settings(&server.url());
    other.namespace = "other".parse().expect("a namespace");
    let other = open(&other, Absent::Create).await.expect("opens");
    assert_eq!(position(&*other).await.revision, Revision(0));
    assert_eq!(other.user_by_name("anna").await.expect("reads"), None);
}

#[tokio::test]
async fn a_key_of_another_type_is_named_and_nothing_is_written() {
    for (key, kind) in [("grants", "string"), ("log", "string"), ("recalled", "string"), ("meta", "list")] {
        let server = RedisServer::start();
        let key = format!("{{tollgate}}:{key}");
        match kind {
            "string" => server.cli(&["set", &key, "theirs"]),
            _ => server.cli(&["rpush", &key, "theirs"]),
        };
        for absent in [Absent::Create, Absent::Refuse] {
            let error = open(&settings(&server.url()), absent).await.err().expect("refused");
            assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
            let text = chain(&error);
            assert!(text.contains(&key) && text.contains(kind) && text.contains("namespace"), "{text}");
        }
        assert_eq!(server.cli(&["keys", "*"]), key);
    }
}

#[tokio::test]
async fn a_key_that_becomes_another_type_stops_commits_before_they_begin() {
    let server = RedisServer::start();
    let store = store(&server).await;
    server.cli(&["set", "{tollgate}:history", "theirs"]);
    let text = refused(&*store, user_batch("anna")).await;
    assert!(text.contains("{tollgate}:history"), "{text}");
    assert_eq!(position(&*store).await.revision, Revision(0));
    assert_eq!(server.cli(&["exists", "{tollgate}:users", "{tollgate}:log"]), "0");
    server.cli(&["set", "{tollgate}:tokens", "theirs"]);
    let text = chain(&store.tokens_by_id(&[tollgate::token::TokenId::from_u64(1)]).await.expect_err("refused"));
    assert!(text.contains("{tollgate}:tokens has") || text.contains("at {tollgate}:tokens"), "{text}");
}

#[tokio::test]
async fn another_schema_is_refused() {
    let server = RedisServer::start();
    let store = store(&server).await;
    server.cli(&["hset", "{tollgate}:meta", "schema", "2"]);
    let error = open(&settings(&server.url()), Absent::Create).await.err().expect("refused");
    assert!(chain(&error).contains("schema 2"), "{error:?}");
    assert!(matches!(store.position().await, Err(StoreError::Unusable { .. })));
    assert!(refused(&*store, user_batch("anna")).await.contains("schema 2"));
    assert_eq!(server.cli(&["hget", "{tollgate}:meta", "revision"]), "0");
}

#[tokio::test]
async fn records_without_a_position_are_not_built_upon() {
    let server = RedisServer::start();
    let registry = store(&server).await;
    registry.commit(user_batch("anna")).await.expect("commits");
    server.cli(&["del", "{tollgate}:meta"]);
    let error = open(&settings(&server.url()), Absent::Create).await.err().expect("refused");
    assert!(chain(&error).contains("but not {tollgate}:meta"), "{error:?}");
}

#[tokio::test]
async fn a_flushed_redis_holds_no_registry_and_can_have_a_new_one() {
    let server = RedisServer::start();
    let old = store(&server).await;
    old.commit(user_batch("anna")).await.expect("commits");
    let before = position(&*old).await;
    server.cli(&["flushall"]);
    for error in [old.position().await.expect_err("gone"), old.probe().await.expect_err("gone")] {
        assert!(chain(&error).contains("holds no registry"), "{error:?}");
    }
    assert!(refused(&*old, user_batch("berta")).await.contains("holds no registry"));
    // What sidecars write does not stand in the way.
    old.recall(&[tollgate::token::Digest::of(b"seen revoked")]).await.expect("recalls");
    let new = store(&server).await;
    assert_ne!(position(&*new).await.epoch, before.epoch);
    assert_eq!(new.probe().await.expect("a probe").recalls, 1);
}

#[tokio::test]
async fn a_replica_takes_no_commits_and_proves_nothing() {
    let server = RedisServer::start();
    let store = store(&server).await;
    server.cli(&["replicaof", "127.0.0.1", "1"]);
    let text = chain(&store.probe().await.expect_err("a replica"));
    assert!(text.contains("replica"), "{text}");
    let text = refused(&*store, user_batch("anna")).await;
    assert!(text.contains("replica"), "{text}");
    server.cli(&["replicaof", "no", "one"]);
    store.probe().await.expect("in charge again");
    store.commit(user_batch("anna")).await.expect("commits");
    assert_eq!(position(&*store).await.revision, Revision(1));
}

#[tokio::test]
async fn a_full_redis_says_so_and_changes_nothing() {
    let server = RedisServer::start();
    let store = store(&server).await;
    server.cli(&["config", "set", "maxmemory", "1mb"]);
    let text = refused(&*store, user_batch("anna")).await;
    assert!(text.contains("maxmemory") && text.contains("OOM"), "{text}");
    store.probe().await.expect("reads go on");
    server.cli(&["config", "set", "maxmemory", "0"]);
    assert_eq!(store.commit(user_batch("anna")).await.expect("commits").position.revision, Revision(1));
}

#[tokio::test]
async fn a_redis_that_cannot_save_says_so_and_changes_nothing() {
    let server = RedisServer::with(&["--save", "3600 1"]);
    let store = store(&server).await;
    // The file is written under another name first, and a directory is not replaced by it.
    std::fs::create_dir(server.directory().join("dump.rdb")).expect("makes");
    server.cli(&["bgsave"]);
    eventually("the save fails", async || server.cli(&["info", "persistence"]).contains("rdb_last_bgsave_status:err"))
        .await;
    let text = refused(&*store, user_batch("anna")).await;
    assert!(text.contains("cannot save") && text.contains("MISCONF"), "{text}");
    assert_eq!(position(&*store).await.revision, Revision(0));
}

#[tokio::test]
async fn too_few_replicas_for_redis_itself_are_told() {
    let server = RedisServer::start();
    let store = store(&server).await;
    server.cli(&["config", "set", "min-replicas-to-write", "1"]);
    let text = refused(&*store, user_batch("anna")).await;
    assert!(text.contains("too few replicas") && text.contains("NOREPLICAS"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_loading_is_waited_for() {
    // Each key takes its time, and other clients are answered in between.
    let slowly = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
    let mut server = RedisServer::with(&slowly);
    let store = store(&server).await;
    store.commit(user_batch("anna")).await.expect("commits");
    for n in 0..40 {
        server.cli(&["set", &format!("filler {n}"), &"x".repeat(2000)]);
    }
    server.cli(&["config", "set", "rdbcompression", "no"]);
    assert_eq!(server.cli(&["save"]), "OK");
    server.kill();
    let restart = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let mut said = String::new();
    within("it is loading", async {
        while !said.contains("loading") {
            said = store.position().await.err().map(|error| chain(&error)).unwrap_or_default();
        }
    })
    .await;
    let _server = restart.await.expect("restarts");
    eventually("it is loaded", async || store.position().await.is_ok()).await;
    assert_eq!(position(&*store).await.revision, Revision(1));
}

#[tokio::test]
async fn forgotten_scripts_are_of_no_consequence() {
    let server = RedisServer::start();
    let store = store(&server).await;
    store.commit(user_batch("anna")).await.expect("commits");
    server.cli(&["script", "flush"]);
    store.commit(user_batch("berta")).await.expect("commits");
}

//! Entries that cannot be read: named, passed over, and in nobody's way.

use tollgate::store::{Absent, Changes, Edit, Revision, SnapshotItem, StoreError};

use super::*;
use crate::conformance::log::entries;
use crate::conformance::{commit, token, tokens, user, users};

/// A registry with one user, one token, and three revisions.
async fn filled(server: &RedisServer) -> Arc<dyn Store> {
    let store = store(server).await;
    let anna = user("anna");
    let token = token(anna.id, "token");
    commit(&*store, users([Edit::Create(anna)])).await;
    commit(&*store, tokens([Edit::Create(token)])).await;
    commit(&*store, Batch::default()).await;
    store
}

#[tokio::test]
async fn damaged_grants_and_owners_are_named_and_the_others_are_there() {
    let server = RedisServer::start();
    let store = filled(&server).await;
    server.cli(&["hset", "{tollgate}:grants", "no digest", "no grant"]);
    server.cli(&["hset", "{tollgate}:owners", "12345678", "x"]);
    let (mut damaged, mut good) = (Vec::new(), 0);
    let mut sink = |item| match item {
        SnapshotItem::Damaged { key } => damaged.push(key),
        SnapshotItem::Owner(..) | SnapshotItem::Grant(..) => good += 1,
        SnapshotItem::Begin(_) => {}
    };
    store.snapshot(&mut None, &mut sink).await.expect("a snapshot");
    assert_eq!(damaged, ["{tollgate}:owners 3132333435363738", "{tollgate}:grants 6e6f20646967657374"]);
    assert_eq!(good, 2);
}

#[tokio::test]
async fn a_damaged_log_leads_to_a_snapshot() {
    for damage in [&["xdel", "{tollgate}:log", "2-0"][..], &["xadd", "{tollgate}:log", "4-0", "d", "?"]] {
        let server = RedisServer::start();
        let store = filled(&server).await;
        assert_eq!(entries(&*store, 0).await.len(), 3);
        server.cli(damage);
        let mut after = Revision(0);
        let end = loop {
            match store.changes(after).await.expect("reads") {
                Changes::Page(entries) => after = entries.last().expect("progress").revision,
                end => break end,
            }
        };
        assert_eq!(end, Changes::Truncated, "{damage:?}");
    }
}

#[tokio::test]
async fn a_log_that_ends_before_the_position_leads_to_a_snapshot() {
    let server = RedisServer::start();
    let store = filled(&server).await;
    server.cli(&["del", "{tollgate}:log"]);
    assert_eq!(store.changes(Revision(2)).await.expect("reads"), Changes::Truncated);
    assert_eq!(store.changes(Revision(3)).await.expect("reads"), Changes::Entries(Vec::new()));
}

#[tokio::test]
async fn a_log_that_is_ahead_of_the_position_stops_commits() {
    let server = RedisServer::start();
    let store = filled(&server).await;
    server.cli(&["xadd", "{tollgate}:log", "9-0", "n", "0"]);
    refused(&*store, user_batch("berta")).await;
    assert_eq!(position(&*store).await.revision, Revision(3));
    assert_eq!(store.user_by_name("berta").await.expect("reads"), None);
}

#[tokio::test]
async fn damaged_records_are_named() {
    let server = RedisServer::start();
    let store = filled(&server).await;
    let token = store.tokens(Default::default(), None, 1).await.expect("reads").remove(0).record;
    let (id, digest) = (token.id, token.digest);
    for (damage, problem) in [("nonsense", "version"), ("x {}", "version"), ("1 {}", "missing field")] {
        server.cli(&["hset", "{tollgate}:tokens", &id.to_string(), damage]);
        let error = store.tokens_by_id(&[id]).await.expect_err("damaged");
        assert!(matches!(&error, StoreError::DamagedRecord { key, .. } if *key == format!("{{tollgate}}:tokens {id}")));
        assert!(chain(&error).contains(problem), "{error}");
    }
    server.cli(&["hset", "{tollgate}:history", &id.to_string(), "nonsense"]);
    assert!(matches!(store.history(id).await, Err(StoreError::DamagedRecord { .. })));
    server.cli(&["hdel", "{tollgate}:tokens", &id.to_string()]);
    assert_eq!(store.tokens_by_digest(&[digest]).await.expect("reads"), [None], "an index alone is no token");
    assert_eq!(store.tokens(Default::default(), None, 10).await.expect("reads"), []);
}

#[tokio::test]
async fn a_damaged_position_is_unusable() {
    let server = RedisServer::start();
    let store = filled(&server).await;
    server.cli(&["hset", "{tollgate}:meta", "epoch", "nonsense"]);
    let error = store.position().await.expect_err("damaged");
    assert!(matches!(error, StoreError::Unusable { .. }) && chain(&error).contains("{tollgate}:meta"), "{error}");
    assert!(open(&settings(&server.url()), Absent::Create).await.is_err());
}

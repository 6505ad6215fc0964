//! Behind Sentinels: the primary is found, and followed when it changes.

use super::{commit, commit_at_last, hears, hears_again, open, settings, subscribed, unusable};
use crate::harness::{RedisServer, SentinelSet, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_failover_is_followed() {
    let mut set = SentinelSet::start(1).await;
    let (store, other) = (open(&set.url()).await, open(&set.url()).await);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    hears(&mut watch, commit(&*other, "before").await).await;
    let before = set.primary();
    let after = set.fail_over().await;
    let revision = commit_at_last(&*other, "after").await;
    eventually("the probe is answered by the new primary", || async {
        store.probe().await.is_ok_and(|probe| probe.position.revision >= revision)
    })
    .await;
    // Not at the old primary, which lives on.
    hears_again(&mut watch, &*other).await;
    set.servers[before].kill();
    commit(&*store, "without the old one").await;
    eventually("the new primary has the subscription", || async {
        set.servers[after].cli(&["PUBSUB", "NUMSUB", "{tollgate}:changes"]).ends_with('1')
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_is_replaced() {
    let mut set = SentinelSet::start(1).await;
    // The first Sentinel in the URL is dead too: the next one is asked.
    let url = set.url();
    let (store, other) = (open(&url).await, open(&url).await);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    commit(&*store, "before").await;
    let before = set.primary();
    set.servers[before].kill();
    set.primary_is_not(before).await;
    set.sentinels[0].kill();
    let revision = commit_at_last(&*store, "after").await;
    hears_again(&mut watch, &*other).await;
    let late = open(&url).await;
    assert!(late.position().await.expect("reads").revision >= revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_have_users_of_their_own() {
    let set = SentinelSet::with(0, "user tollgate on >sesame +@all").await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "sesame\n").expect("writes");
    let mut settings = settings(&set.url());
    settings.sentinel_username = Some("tollgate".to_owned());
    settings.sentinel_password_file = Some(file.path().to_owned());
    let store = tollgate::store::open(&settings, tollgate::store::Absent::Create).await.expect("opens");
    commit(&*store, "a").await;
    std::fs::write(file.path(), "open\n").expect("writes");
    let message = unusable(&settings).await;
    let sentinel = set.sentinels[0].address();
    assert!(
        message.contains("refuses the user or its password") && message.contains("127.0.0.1"),
        "{sentinel}: {message}"
    );
    assert!(!message.contains("open\n"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_named_wrongly_is_said() {
    let set = SentinelSet::start(0).await;
    let sentinel = set.sentinels[0].address();
    let message = unusable(&settings(&format!("redis-sentinel://{sentinel}/other"))).await;
    assert!(message.contains("`other`") && message.contains(&sentinel.to_string()), "{message}");
    let message = unusable(&settings(&format!("redis://{sentinel}"))).await;
    assert!(message.contains(&format!("write redis-sentinel://{sentinel}/NAME")), "{message}");
    let redis = RedisServer::start();
    let message = unusable(&settings(&format!("redis-sentinel://127.0.0.1:{}/main", redis.port()))).await;
    assert!(message.contains("redis-sentinel:// names the Sentinels"), "{message}");
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
}

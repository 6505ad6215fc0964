//! Redis dies, stops, and starts again.

use std::time::Instant;

use tollgate::token::{PermissionSet, Role};

use crate::harness::{Fleet, address_of, eventually};
use tollgate_harness::pair::run;
use tollgate_harness::prober::{Asker, Place};

/// Killed between a command and its answer, a hundred tokens to revoke ahead of it. What was acknowledged is there
/// afterwards, what failed is not, and what nobody knew is one or the other.
async fn killed_amid_commits(fsync: &str) {
    let mut fleet = Fleet::start(&["--appendonly", "yes", "--appendfsync", fsync]).await;
    let [kept] = fleet.tokens().await;
    let tokens: [_; 100] = fleet.tokens().await;
    let fault = fleet.breaks("SIGKILL", None);
    let broken_at = Instant::now();
    let mut revoked = 0;
    for token in tokens {
        if revoked == 30 {
            fleet.redis.kill();
        }
        match fleet.oracle.revoke(&[token]).await {
            Ok(()) => revoked += 1,
            Err(_) => break,
        }
    }
    assert_eq!(revoked, 30, "nothing is acknowledged by a Redis that is dead");
    fleet.answers(0, kept, 503).await;
    fleet.restart_redis();
    fleet.heals(fault).await;
    let lost = fleet.oracle.read_back(broken_at, true).await.expect("reads");
    assert!(lost.revocations.is_empty() && lost.creations.is_empty(), "{lost:?}");
    for token in &tokens[..30] {
        fleet.answers(1, *token, 401).await;
    }
    fleet.all_answer([(kept, 200)]).await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again() {
    killed_amid_commits("always").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_with_lazy_syncs() {
    killed_amid_commits("everysec").await;
}

/// A command that is under way when Redis stops is not acknowledged until it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_and_continued() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, before, during] = fleet.tokens().await;
    fleet.oracle.revoke(&[before]).await.expect("revokes");
    let fault = fleet.breaks("SIGSTOP", None);
    fleet.redis.pause();
    let probe = fleet.oracle.probe(kept);
    let Fleet { oracle, redis, sidecars, .. } = &mut fleet;
    let place = Place::of(address_of(&sidecars[2]));
    let during = [during];
    let (revoked, ()) = tokio::join!(oracle.revoke(&during), async {
        eventually("the bound has passed", || async {
            Asker::new(place.clone()).ask(2, &probe).await.status == Some(503)
        })
        .await;
        redis.resume();
    });
    fleet.heals(fault).await;
    if let Err(error) = revoked {
        println!("{error}");
        fleet.oracle.read_back(Instant::now(), true).await.expect("reads");
        fleet.oracle.revoke(&during).await.expect("revokes");
    }
    fleet.all_answer([(kept, 200), (before, 401), (during[0], 401)]).await;
    fleet.verdict();
}

/// Redis answers `LOADING` for a while after its start: it is away, not empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_its_data() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, revoked, late] = fleet.tokens().await;
    fleet.oracle.revoke(&[revoked]).await.expect("revokes");
    // Redis answers while it loads only after each KiB read: enough of them for whoever greets it before asking.
    fleet.redis_does(&["DEBUG", "POPULATE", "400", "filler", "512"]).await;
    fleet.redis_does(&["SAVE"]).await;
    let fault = fleet.breaks("LOADING", None);
    // Five milliseconds for each key.
    let slowly = ["--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"];
    fleet.redis.spawn(&slowly);
    eventually("Redis is loading", || async { run(&fleet.redis, &["GET", "x"]).await.starts_with("LOADING") }).await;
    // It waits for a while, and then says that it was not done.
    let done = fleet.oracle.revoke(&[late]).await;
    assert!(!fleet.oracle.in_doubt, "{done:?}");
    eventually("Redis has loaded", || async { run(&fleet.redis, &["PING"]).await == "PONG" }).await;
    fleet.heals(fault).await;
    fleet.all_answer([(kept, 200), (revoked, 401)]).await;
    fleet.verdict();
}

/// A command that waits behind a slow one is done when its turn comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_with_a_slow_command() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, revoked] = fleet.tokens().await;
    for (name, command) in
        [("DEBUG SLEEP", ["DEBUG", "SLEEP", "1.6", ""]), ("CLIENT PAUSE", ["CLIENT", "PAUSE", "1600", "ALL"])]
    {
        let fault = fleet.breaks(name, None);
        let words: Vec<_> = command.into_iter().filter(|word| !word.is_empty()).collect();
        let user = fleet.oracle.add_user(Role::Manager).await.expect("adds");
        let token = fleet.oracle.create(&user, PermissionSet::TELEGRAF_AGENT).await.expect("creates");
        fleet.is_level().await;
        let Fleet { oracle, redis, .. } = &mut fleet;
        let (slept, done) = tokio::join!(run(redis, &words), async {
            // Behind it in the same Redis.
            oracle.revoke(&[token]).await
        });
        assert_eq!(slept, "OK");
        // A pause is acknowledged when it begins; this is answered when it ends.
        assert_eq!(run(&fleet.redis, &["PING"]).await, "PONG");
        done.expect("revokes");
        fleet.heals(fault).await;
        fleet.all_answer([(token, 401), (kept, 200)]).await;
    }
    fleet.revokes(revoked).await;
    fleet.verdict();
}

//! Redis loses what it had acknowledged: all of it, or the last of it.

use std::time::Instant;

use tollgate::store::Absent;

use crate::harness::fleet::{open, settings};
use crate::harness::{Fleet, Traffic, operator};

/// An empty Redis is not a registry without tokens: nobody is told that their token is unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_and_restored() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, revoked] = fleet.tokens().await;
    fleet.revokes(revoked).await;
    fleet.redis_does(&["SAVE"]).await;

    let fault = fleet.breaks("FLUSHALL", None);
    fleet.redis_does(&["FLUSHALL"]).await;
    fleet.all_answer([(kept, 503), (revoked, 503)]).await;
    let error = fleet.oracle.revoke(&[kept]).await.expect_err("there is no registry");
    assert!(!fleet.oracle.in_doubt, "it is known not to have been done: {error}");

    // From the file that was saved before.
    fleet.restart_redis();
    fleet.heals(fault).await;
    fleet.all_answer([(kept, 200), (revoked, 401)]).await;
    fleet.verdict();
}

/// Somebody sets the registry up anew: the old tokens are unknown from then on, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_and_set_up_anew() {
    let mut fleet = Fleet::start(&[]).await;
    let [old] = fleet.tokens().await;
    let since = Instant::now();
    let hold = fleet.history.with(|judge| judge.hold(since));
    let fault = fleet.breaks("FLUSHALL", None);
    fleet.redis_does(&["FLUSHALL"]).await;
    fleet.all_answer([(old, 503)]).await;
    let anew = Instant::now();
    fleet.oracle.registry =
        tollgate::registry::Registry::new(open(&settings(&fleet.redis.url(), 0), Absent::Create).await);
    fleet.oracle.registry.init(&operator(), "otto").await.expect("initialises");
    fleet.heals(fault).await;
    let lost = fleet.oracle.read_back(anew, true).await.expect("reads");
    assert_eq!(lost.creations, [old]);
    fleet.history.with(|judge| judge.release(hold));
    fleet.all_answer([(old, 401)]).await;
    let [new] = fleet.tokens().await;
    fleet.all_answer([(new, 200)]).await;
    fleet.verdict();
}

/// Restored from an older file. What a sidecar has seen revoked stays refused there, and soon everywhere, although the
/// store has it active again; the next command of the registry makes the store say so too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_from_an_older_file() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, seen, seen_by_one, seen_by_none] = fleet.tokens().await;
    fleet.redis_does(&["SAVE"]).await;

    fleet.revokes(seen).await;
    let [created] = fleet.tokens().await;
    fleet.all_answer([(created, 200)]).await;
    let since = Instant::now();
    let hold = fleet.history.with(|judge| judge.hold(since));
    let fault = fleet.breaks("an older file", None);
    for sidecar in [1, 2] {
        fleet.relays[sidecar].set(Traffic::Cut).await;
    }
    fleet.oracle.revoke(&[seen_by_one]).await.expect("revokes");
    fleet.answers(0, seen_by_one, 401).await;
    fleet.relays[0].set(Traffic::Cut).await;
    fleet.oracle.delete(&[seen_by_none]).await.expect("deletes");

    fleet.restart_redis();
    for relay in &fleet.relays {
        relay.heal().await;
    }
    fleet.heals(fault).await;
    let lost = fleet.oracle.read_back(since, false).await.expect("reads");
    assert_eq!(
        (lost.revocations.as_slice(), lost.creations.as_slice()),
        ([seen, seen_by_one, seen_by_none].as_slice(), [created].as_slice())
    );
    // Refused by those who have not seen it either.
    fleet.all_answer([(seen, 401), (seen_by_one, 401), (created, 401), (kept, 200)]).await;
    // What nobody has seen is lost, and nobody can know better.
    fleet.all_answer([(seen_by_none, 200)]).await;
    assert_eq!(fleet.store().recalled(None).await.expect("reads").total, 2);

    // As the next command of an operator does.
    assert_eq!(fleet.oracle.registry.settle_recalls().await.expect("settles"), 2);
    let [late] = fleet.tokens().await;
    let settled = fleet.oracle.read_back(since, true).await.expect("reads");
    assert_eq!(settled.revocations, [seen_by_none]);
    fleet.history.with(|judge| judge.release(hold));
    fleet.is_level().await;
    fleet.all_answer([(seen, 401), (seen_by_one, 401), (seen_by_none, 200), (late, 200)]).await;
    fleet.verdict();
}

//! Another server takes over: with lost writes, and with the old one still alive somewhere.

use std::time::Instant;

use crate::harness::fleet::BOUND;
use crate::harness::{Fleet, Relay, Traffic, address_of, eventually};
use tollgate_harness::oracle::Lost;
use tollgate_harness::pair::Pair;
use tollgate_harness::prober::{Asker, Place};

/// Sidecars on a primary with one replica; all but those in `behind` are led to the new primary by [`fail_over`].
async fn fleet(quorum: u32) -> Fleet<Pair> {
    let pair = Pair::start().await;
    let primary = pair.primary.address();
    Fleet::behind_relays(pair, primary, quorum).await
}

/// The replica takes over; everybody is led there, except these sidecars.
async fn fail_over(fleet: &mut Fleet<Pair>, behind: &[usize], quorum: u32) {
    fleet.redis.promote().await;
    let primary = fleet.redis.primary.address();
    for (_, relay) in fleet.relays.iter().enumerate().filter(|(index, _)| !behind.contains(index)) {
        relay.lead_to(primary);
        relay.reset().await;
    }
    fleet.use_registry_at(&format!("redis://{primary}"), quorum).await;
}

/// Replication is behind when the primary dies: the last writes are gone. Who has seen a revocation keeps refusing, and
/// tells the others; the next command of the registry writes it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_writes_are_lost() {
    let mut fleet = fleet(0).await;
    let [kept, early, seen, seen_by_one, seen_by_none] = fleet.tokens().await;
    fleet.oracle.revoke(&[early]).await.expect("revokes");
    fleet.redis.is_in_step().await;
    let since = Instant::now();
    let hold = fleet.history.with(|judge| judge.hold(since));
    let fault = fleet.breaks("a failover that loses writes", None);
    fleet.redis.part().await;
    fleet.revokes(seen).await;
    let [created] = fleet.tokens().await;
    fleet.all_answer([(created, 200)]).await;
    for sidecar in [1, 2] {
        fleet.relays[sidecar].set(Traffic::Stalls).await;
    }
    fleet.oracle.delete(&[seen_by_one]).await.expect("deletes");
    fleet.answers(0, seen_by_one, 401).await;
    fleet.relays[0].set(Traffic::Stalls).await;
    fleet.oracle.revoke(&[seen_by_none]).await.expect("revokes");

    fleet.redis.primary.kill();
    fail_over(&mut fleet, &[], 0).await;
    fleet.heals(fault).await;
    let lost = fleet.oracle.read_back(since, false).await.expect("reads");
    assert_eq!((lost.revocations, lost.creations), (vec![seen, seen_by_one, seen_by_none], vec![created]));
    fleet.all_answer([(early, 401), (seen, 401), (seen_by_one, 401), (seen_by_none, 200), (kept, 200)]).await;

    assert_eq!(fleet.oracle.registry.settle_recalls().await.expect("settles"), 2);
    let [late] = fleet.tokens().await;
    let settled = fleet.oracle.read_back(since, true).await.expect("reads");
    assert_eq!(settled.revocations, [seen_by_none]);
    fleet.history.with(|judge| judge.release(hold));
    fleet.is_level().await;
    fleet.all_answer([(early, 401), (seen, 401), (seen_by_one, 401), (seen_by_none, 200), (late, 200)]).await;
    fleet.verdict();
}

/// The answer to a command is lost with the primary that executed it, and the new one has never heard of it. Whoever has
/// refuses the token for good, so it must not end as "not done": it is done once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_the_new_primary_does_not_know_is_done_again() {
    let mut fleet = fleet(0).await;
    let [revoked] = fleet.tokens().await;
    let operator = Relay::start(fleet.redis.primary.address()).await;
    fleet.use_registry_at(&format!("redis://{}", operator.address()), 0).await;
    let since = Instant::now();
    let hold = fleet.history.with(|judge| judge.hold(since));
    let fault = fleet.breaks("a failover amid a command", None);
    fleet.redis.is_in_step().await;
    fleet.redis.part().await;
    let probe = fleet.oracle.probe(revoked);
    let Fleet { oracle, redis, sidecars, relays, .. } = &mut fleet;
    let mut asker = Asker::new(Place::of(address_of(&sidecars[0])));
    let revoked = [revoked];
    operator.set(Traffic::ScriptsUnanswered).await;
    let (done, ()) = tokio::join!(oracle.revoke(&revoked), async {
        while asker.ask(0, &probe).await.status != Some(401) {}
        redis.primary.kill();
        redis.promote().await;
        for relay in relays.iter().chain([&operator]) {
            relay.lead_to(redis.primary.address());
            relay.reset().await;
        }
    });
    done.expect("is done by the new primary");
    fleet.use_registry_at(&format!("redis://{}", fleet.redis.primary.address()), 0).await;
    fleet.heals(fault).await;
    assert_eq!(fleet.oracle.read_back(since, true).await.expect("reads"), Lost::default());
    fleet.history.with(|judge| judge.release(hold));
    fleet.all_answer([(revoked[0], 401)]).await;
    fleet.verdict();
}

/// The same, and there is no new primary for a long time: then nobody can say whether it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_primary_is_gone_is_not_called_undone() {
    let mut fleet = fleet(0).await;
    let [revoked] = fleet.tokens().await;
    let operator = Relay::start(fleet.redis.primary.address()).await;
    fleet.use_registry_at(&format!("redis://{}", operator.address()), 0).await;
    let fault = fleet.breaks("a primary that is gone amid a command", None);
    let probe = fleet.oracle.probe(revoked);
    let Fleet { oracle, redis, sidecars, .. } = &mut fleet;
    let mut asker = Asker::new(Place::of(address_of(&sidecars[0])));
    let since = Instant::now();
    let revoked = [revoked];
    operator.set(Traffic::ScriptsUnanswered).await;
    let (done, ()) = tokio::join!(oracle.revoke(&revoked), async {
        while asker.ask(0, &probe).await.status != Some(401) {}
        operator.set(Traffic::Cut).await;
        redis.primary.pause();
    });
    assert!(fleet.oracle.in_doubt, "nobody knows: {done:?}");
    fleet.redis.primary.resume();
    operator.heal().await;
    fleet.heals(fault).await;
    fleet.oracle.read_back(since, true).await.expect("reads");
    fleet.all_answer([(revoked[0], 401)]).await;
    fleet.verdict();
}

/// The old primary lives on, and one sidecar still talks to it. It cannot have its probes confirmed, so that sidecar
/// grows stale: it refuses everything before it could accept what was revoked at the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_old_primary_keeps_nobody_fresh() {
    let mut fleet = fleet(1).await;
    let [kept, revoked] = fleet.tokens().await;
    let fault = fleet.breaks("an isolated old primary", None);
    fail_over(&mut fleet, &[2], 1).await;
    // The new primary needs a replica too, or it could confirm nothing: a third server.
    let third = fleet.redis.third().await;
    fleet.oracle.revoke(&[revoked]).await.expect("revokes");
    fleet.answers(0, revoked, 401).await;
    fleet.answers(1, revoked, 401).await;
    fleet.answers(2, revoked, 503).await;
    // Whatever the old primary answers to one probe or another.
    fleet.keeps_answering(2, kept, 503, 2 * BOUND).await;
    fleet.relays[2].lead_to(fleet.redis.primary.address());
    fleet.relays[2].reset().await;
    fleet.heals(fault).await;
    fleet.all_answer([(revoked, 401), (kept, 200)]).await;
    drop(third);
    fleet.verdict();
}

/// What the quorum is for: without one, the sidecar at the old primary goes on believing it. The judge sees that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_an_isolated_old_primary_is_believed() {
    let mut fleet = fleet(0).await;
    let [revoked] = fleet.tokens().await;
    fleet.redis.is_in_step().await;
    fail_over(&mut fleet, &[2], 0).await;
    fleet.oracle.revoke(&[revoked]).await.expect("revokes");
    fleet.answers(0, revoked, 401).await;
    eventually("a reply that breaks the guarantee", || async {
        fleet.answers(2, revoked, 200).await;
        fleet.history.with(|judge| {
            judge.settle();
            !judge.violations().is_empty()
        })
    })
    .await;
}

/// What too few replicas have confirmed is not reported as done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_that_is_missing() {
    let mut fleet = fleet(1).await;
    let [kept, revoked] = fleet.tokens().await;
    let fault = fleet.breaks("no replica", None);
    let since = Instant::now();
    fleet.redis.part().await;
    fleet.oracle.revoke(&[revoked]).await.expect_err("nobody confirms it");
    assert!(fleet.oracle.in_doubt, "it may last, or be lost by a failover");
    fleet.all_answer([(kept, 503)]).await;
    fleet.redis.link.heal().await;
    fleet.heals(fault).await;
    fleet.oracle.read_back(since, true).await.expect("reads");
    fleet.revokes(revoked).await;
    fleet.all_answer([(kept, 200)]).await;
    fleet.verdict();
}

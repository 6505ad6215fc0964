//! The way to Redis breaks, for one sidecar or for all.

use std::time::Duration;

use tollgate::registry::Registry;
use tollgate::store::{Absent, RedisStore, Retention};

use crate::harness::fleet::settings;
use crate::harness::{Fleet, Traffic, eventually};

/// A sidecar without its store serves up to the bound, then says 503; what was revoked meanwhile is never served after.
async fn one_sidecar_is_cut_off(traffic: Traffic) {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, revoked, deleted] = fleet.tokens().await;
    let fault = fleet.breaks(&format!("{traffic:?}"), Some(0));
    fleet.relays[0].set(traffic).await;
    fleet.oracle.revoke(&[revoked]).await.expect("revokes");
    fleet.oracle.delete(&[deleted]).await.expect("deletes");
    for sidecar in [1, 2] {
        fleet.answers(sidecar, revoked, 401).await;
        fleet.answers(sidecar, deleted, 401).await;
    }
    for token in [kept, revoked, deleted] {
        fleet.answers(0, token, 503).await;
    }
    fleet.relays[0].heal().await;
    fleet.heals(fault).await;
    fleet.all_answer([(kept, 200), (revoked, 401), (deleted, 401)]).await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link() {
    one_sidecar_is_cut_off(Traffic::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_swallows_everything() {
    one_sidecar_is_cut_off(Traffic::Stalls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_answers_are_lost() {
    one_sidecar_is_cut_off(Traffic::AnswersStall).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_requests_are_lost() {
    one_sidecar_is_cut_off(Traffic::RequestsStall).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_redis_throws_out() {
    let mut fleet = Fleet::start(&[]).await;
    let tokens: [_; 5] = fleet.tokens().await;
    for token in tokens {
        fleet.redis_does(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        fleet.revokes(token).await;
    }
    fleet.is_level().await;
    fleet.verdict();
}

/// Every connection dies, again and again, and comes back at once: nobody grows stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_are_reset_again_and_again() {
    let mut fleet = Fleet::start(&[]).await;
    let tokens: [_; 8] = fleet.tokens().await;
    for token in tokens {
        let before = fleet.relays[1].accepted();
        for relay in &fleet.relays {
            relay.reset().await;
        }
        fleet.revokes(token).await;
        eventually("it connects again", || async { fleet.relays[1].accepted() > before }).await;
    }
    fleet.is_level().await;
    fleet.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link() {
    let mut fleet = Fleet::start(&[]).await;
    let tokens: [_; 4] = fleet.tokens().await;
    for relay in &fleet.relays {
        relay.set(Traffic::Slow(Duration::from_millis(60))).await;
    }
    for token in tokens {
        fleet.revokes(token).await;
    }
    fleet.is_level().await;
    fleet.verdict();
}

/// What was deleted during the outage is in no log any more: only a snapshot tells, by what it does not show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_trimmed_during_the_outage() {
    let mut fleet = Fleet::start(&[]).await;
    let [kept, deleted, revoked] = fleet.tokens().await;
    let brief = Retention { log_entries: 3, ..Retention::default() };
    let store = RedisStore::open(&settings(&fleet.redis.url(), 0), Absent::Refuse, brief).await.expect("opens");
    fleet.oracle.registry = Registry::new(std::sync::Arc::new(store));

    let fault = fleet.breaks("cut, and the log trimmed", Some(2));
    fleet.relays[2].set(Traffic::Cut).await;
    fleet.oracle.delete(&[deleted]).await.expect("deletes");
    fleet.oracle.revoke(&[revoked]).await.expect("revokes");
    let more: [_; 6] = {
        let user = fleet.oracle.add_user(tollgate::token::Role::Manager).await.expect("adds");
        let mut more = Vec::new();
        for _ in 0..6 {
            let created = fleet.oracle.create(&user, tollgate::token::PermissionSet::TELEGRAF_AGENT).await;
            more.push(created.expect("creates"));
        }
        more.try_into().expect("six")
    };
    let resyncs = fleet.sidecars[2].replica().status().resyncs;
    fleet.relays[2].heal().await;
    fleet.heals(fault).await;
    assert_eq!(fleet.sidecars[2].replica().status().resyncs, resyncs + 1);
    fleet.all_answer(more.into_iter().chain([kept]).map(|token| (token, 200))).await;
    fleet.all_answer([(deleted, 401), (revoked, 401)]).await;
    fleet.verdict();
}

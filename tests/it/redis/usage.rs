//! How the use of tokens lies in Redis: each token has keys of its own for its agents, which go with it.

use tollgate::store::{AgentName, AgentUse, Edit, Use, Versioned, archive};
use tollgate::token::UserId;

use super::*;
use crate::conformance::{commit, token, tokens};
use crate::harness::eventually;

const USAGE: &str = "{tollgate}:usage";

fn used(record: &TokenRecord, agents: &[&str]) -> Use {
    let agent = |name: &&str| AgentUse {
        name: AgentName::Id((*name).to_owned()),
        age: Duration::ZERO,
        address: [10, 0, 0, 1].into(),
        version: Some("1.39.0".to_owned()),
    };
    Use { token: record.id, age: Duration::ZERO, agents: agents.iter().map(agent).collect() }
}

/// The keys of the registry that are about use.
fn keys(server: &RedisServer) -> Vec<String> {
    let found = server.cli(&["keys", "*usage*"]);
    let mut keys: Vec<_> = found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn nothing_of_a_token_that_is_deleted_is_left() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let made = token(UserId::from_u64(1), "a");
    let version = commit(&*store, tokens([Edit::Create(made.clone())])).await.id;
    store.record(&[used(&made, &["web-1", "web-2"])]).await.expect("records");
    let (seen, who) = (format!("{USAGE}:{}", made.id), format!("{USAGE}:{}:agents", made.id));
    assert_eq!(keys(&server), [USAGE, &seen, &who]);
    commit(&*store, tokens([Edit::Delete(Versioned { record: made.clone(), version })])).await;
    store.record(&[used(&made, &["web-1"])]).await.expect("records");
    assert_eq!(keys(&server), [USAGE]);
    assert_eq!(server.cli(&["zrange", USAGE, "0", "-1"]), "since");
}

#[tokio::test]
async fn an_empty_redis_stays_empty() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let made = token(UserId::from_u64(1), "a");
    commit(&*store, tokens([Edit::Create(made.clone())])).await;
    server.cli(&["flushall"]);
    assert!(store.record(&[used(&made, &["web-1"])]).await.is_err(), "there is no registry");
    assert_eq!(keys(&server), [""; 0]);
}

#[tokio::test]
async fn what_a_copy_left_unfinished_is_removed_by_the_next() {
    let server = RedisServer::start();
    let usage = |id: &str| [format!("{USAGE}:{id}"), format!("{USAGE}:{id}:agents")];
    let id = token(UserId::from_u64(1), "a").id.to_string();
    let [seen, who] = usage(&id);
    server.cli(&["hset", "{tollgate}:unfinished", "writer", "x", "pieces", "1"]);
    server.cli(&["zadd", USAGE, "1", &id]);
    server.cli(&["zadd", &seen, "1", "=web-1"]);
    server.cli(&["hset", &who, "=web-1", "10.0.0.1"]);
    let begun = archive::begin(&settings(&server.url())).await.expect("begins");
    assert_eq!(keys(&server), [""; 0]);
    drop(begun);
}

/// Of a server whose clock was ahead for a while.
#[tokio::test]
async fn what_lies_ahead_is_put_right_by_the_next_use() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let made = token(UserId::from_u64(1), "a");
    commit(&*store, tokens([Edit::Create(made.clone())])).await;
    store.record(&[used(&made, &["web-1", "web-2"])]).await.expect("records");
    let (id, seen) = (made.id.to_string(), format!("{USAGE}:{}", made.id));
    for (key, member) in [(USAGE, id.as_str()), (&seen, "=web-1"), (&seen, "=web-2")] {
        server.cli(&["zincrby", key, "86400000", member]);
    }
    let usages = store.usage(&[made.id]).await.expect("reads");
    assert_eq!(usages.tokens[0].last_used, Some(usages.now), "no use is shown in the future");
    store.record(&[used(&made, &["web-1"])]).await.expect("records");
    let now = store.usage(&[]).await.expect("reads").now.as_millisecond();
    for (key, member) in [(USAGE, id.as_str()), (&seen, "=web-1"), (&seen, "=web-2")] {
        let at: f64 = server.cli(&["zscore", key, member]).parse().expect("a number");
        assert!(at <= now as f64, "{member} at {at}, now {now}");
    }
}

/// How many scripts ran.
fn scripts(server: &RedisServer) -> u64 {
    let stats = server.cli(&["info", "commandstats"]);
    let calls =
        |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)?.split(',').next()?.parse::<u64>().ok());
    ["cmdstat_eval:calls=", "cmdstat_evalsha:calls="].into_iter().filter_map(calls).sum()
}

/// A server that stands still runs what lies in its sockets when it goes on: that makes no use a later one.
#[tokio::test]
async fn what_runs_late_shifts_no_time() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let made = token(UserId::from_u64(1), "a");
    commit(&*store, tokens([Edit::Create(made.clone())])).await;
    store.record(&[]).await.expect("records, and knows the server's clock now");
    let last_used = async || store.usage(&[made.id]).await.expect("reads").tokens[0].last_used;
    let before = scripts(&server);
    server.pause();
    let (used_at, used_for) = (jiff::Timestamp::now(), std::time::Instant::now());
    store.record(&[used(&made, &["web-1"])]).await.expect_err("nothing is answered");
    // As a script may be under way for five seconds, time has to pass.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.resume();
    eventually("what lay in the socket ran", async || scripts(&server) > before).await;
    assert_eq!(last_used().await, None, "it is told again, with its time");
    let mut again = used(&made, &["web-1"]);
    again.age = used_for.elapsed();
    again.agents[0].age = again.age;
    store.record(&[again]).await.expect("records");
    let about = |found: jiff::Timestamp| found.duration_since(used_at).abs() < jiff::SignedDuration::from_secs(2);
    assert!(last_used().await.is_some_and(about), "{:?}, used at {used_at}", last_used().await);
    let agent = store.agents(&[made.id], 1).await.expect("reads").swap_remove(0).swap_remove(0);
    assert!(about(agent.last_used), "{agent:?}, used at {used_at}");
}

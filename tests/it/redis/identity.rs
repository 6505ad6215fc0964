//! What a commit is: ids and heads against a Redis that loses writes and gives their revisions out again, databases of one
//! Redis, and what commands rest on.

use std::sync::Arc;
use std::time::Duration;

use tollgate::registry::Registry;
use tollgate::replica::{Replica, driver};
use tollgate::store::{Absent, Batch, CommitError, Edit, Notice, Versioned};
use tollgate::token::{Role, TokenRecord, UserStatus};

use super::{open, position, settings, site_of_anna, store, stored};
use crate::conformance::{commit, revoked, token, tokens, user, users};
use crate::harness::{RedisServer, Relay, Traffic, eventually, operator, within};

/// Keeps what the registry holds, aside.
pub(super) fn keep(server: &RedisServer) {
    copy(server, "{tollgate}:", "kept:{tollgate}:");
}

/// Puts it back, as a failover to a replica does that has not got the last writes.
pub(super) fn lose(server: &RedisServer) {
    copy(server, "kept:{tollgate}:", "{tollgate}:");
}

fn copy(server: &RedisServer, from: &str, to: &str) {
    const COPY: &str = "
        for _, key in ipairs(redis.call('KEYS', ARGV[2] .. '*')) do redis.call('DEL', key) end
        for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
          redis.call('COPY', key, ARGV[2] .. string.sub(key, #ARGV[1] + 1))
        end";
    assert_eq!(server.cli(&["eval", COPY, "0", from, to]), "");
}

/// A reassignment is written and lost with the primary, a second one rests on it, and a revocation is acknowledged under
/// the same revision: what goes through last must not be the reassignment, which would make the token active again.
#[tokio::test]
async fn a_command_that_read_a_lost_record_does_not_overwrite_what_came_after_it() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let [anna, max, vera] = ["anna", "max", "vera"].map(user);
    commit(&*store, users([anna.clone(), max.clone(), vera.clone()].map(Edit::Create))).await;
    let made = token(anna.id, "given away");
    commit(&*store, tokens([Edit::Create(made.clone())])).await;
    let reassign = |before: Versioned<TokenRecord>, owner| {
        let after = TokenRecord { owner, ..before.record.clone() };
        tokens([Edit::Update { before, after }])
    };

    keep(&server);
    let first = commit(&*store, reassign(stored(&*store, &made).await, max.id)).await;
    let read = stored(&*store, &made).await;
    lose(&server);
    let before = stored(&*store, &made).await;
    let revoked = commit(&*store, tokens([Edit::Update { after: revoked(before.record.clone()), before }])).await;
    assert_eq!(revoked.position.revision, first.position.revision, "it was given out again");
    assert_ne!(revoked.position.head, first.position.head, "and is of another past");

    let outcome = store.commit(reassign(read, vera.id)).await;
    assert!(matches!(outcome, Err(CommitError::Conflict)), "{outcome:?}");
    assert!(!stored(&*store, &made).await.record.is_active());
}

/// The same of what commands about all tokens of a user rest on.
#[tokio::test]
async fn a_pin_on_a_lost_token_set_does_not_hold() {
    let (server, store, anna) = site_of_anna().await;
    keep(&server);
    commit(&*store, tokens([Edit::Create(token(anna.id, "lost"))])).await;
    let since = store.token_set(anna.id).await.expect("reads");
    lose(&server);
    commit(&*store, tokens([Edit::Create(token(anna.id, "other"))])).await;
    let pins = vec![tollgate::store::Pin::TokensOf { user: anna.id, since }];
    assert!(matches!(store.commit(Batch { pins, ..Batch::default() }).await, Err(CommitError::Conflict)));
}

/// Somebody commits all the time, as an import does. Commands about a user with all tokens go through the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_beside_it_do_not_starve_a_command_about_all_tokens_of_a_user() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let registry = Registry::new(Arc::clone(&store));
    registry.init(&operator(), "olga").await.expect("initialises");
    for (name, role) in [("max", Role::Manager), ("anna", Role::Administrator), ("vera", Role::Manager)] {
        registry.add_user(&operator(), name, role).await.expect("adds");
    }
    let vera = store.user_by_name("vera").await.expect("reads").expect("is there").record;
    // From far away: what a command read is long ago when its commit arrives.
    let relay = Relay::start(server.address()).await;
    let far = open(&settings(&format!("redis://{}", relay.address())), Absent::Refuse).await.expect("opens");
    relay.set(Traffic::Slow(Duration::from_millis(10))).await;
    let importing: Vec<_> = (0..4)
        .map(|importer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0.. {
                    let name = format!("{importer} imported {n}");
                    commit(&*store, tokens([Edit::Create(token(vera.id, &name))])).await;
                }
            })
        })
        .collect();
    let registry = Registry::new(far);
    let commands = async {
        registry.set_role(&operator(), "max", Role::Viewer).await.expect("changes the role");
        registry.delete_user(&operator(), "max").await.expect("deletes the user");
        registry.transfer_ownership(&operator(), "anna").await.expect("transfers");
    };
    within("all three", commands).await;
    assert!(importing.iter().all(|importer| !importer.is_finished()));
    importing.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Databases of one Redis share its channels, and nothing else: a copy of a registry is another registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_of_one_redis_are_apart() {
    let server = RedisServer::start();
    let zero = store(&server).await;
    let anna = user("anna");
    commit(&*zero, users([Edit::Create(anna.clone())])).await;
    let shared = token(anna.id, "in both");
    commit(&*zero, tokens([Edit::Create(shared.clone())])).await;
    const TO_ONE: &str =
        "for _, key in ipairs(redis.call('KEYS', '{tollgate}:*')) do redis.call('COPY', key, key, 'DB', 1) end";
    server.cli(&["eval", TO_ONE, "0"]);
    let one = open(&settings(&format!("{}/1", server.url())), Absent::Refuse).await.expect("opens");
    assert_eq!(position(&*one).await, position(&*zero).await, "the epoch too");

    let replica = Arc::new(Replica::new());
    let run = driver::run(Arc::clone(&replica), zero.clone(), Duration::from_millis(200), std::future::pending());
    let running = tokio::spawn(run);
    within("the replica is ready", replica.ready()).await;
    let mut watch = zero.watch();
    eventually("it is subscribed", || async {
        server.cli(&["PUBSUB", "NUMSUB", "{tollgate}:changes:0"]).ends_with('1')
    })
    .await;
    // In the other one: a token is made, and the shared one is deleted.
    let made = token(anna.id, "in the other one");
    commit(&*one, tokens([Edit::Create(made.clone())])).await;
    commit(&*one, tokens([Edit::Delete(stored(&*one, &shared).await)])).await;
    // In this one: what is heard after it was not said before.
    let last = commit(&*zero, tokens([Edit::Create(token(anna.id, "in this one"))])).await;
    let heard = within("the commit is told", async {
        loop {
            match watch.next().await {
                Notice::Committed { entry, .. } if entry.id == last.id => break,
                Notice::Advanced { epoch, .. } if epoch == last.position.epoch => {}
                notice @ (Notice::Committed { .. } | Notice::Advanced { .. }) => panic!("not ours: {notice:?}"),
                Notice::Moved | Notice::Lost => {}
            }
        }
    });
    heard.await;
    let level = || async { replica.status().position == Some(last.position) };
    eventually("the replica is level", level).await;
    assert!(replica.lookup(&shared.digest).is_some(), "deleted in the other database only");
    assert!(replica.lookup(&made.digest).is_none(), "made in the other database only");
    running.abort();
}

/// A user is disabled, another one gets a weaker role, and a failover loses both: the sidecar that has seen it goes on
/// refusing, and says whom it holds to what, until a command changes the user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_seen_narrowed_stays_narrowed_when_redis_has_lost_it() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let registry = Registry::new(Arc::clone(&store));
    registry.init(&operator(), "olga").await.expect("initialises");
    let mut made = Vec::new();
    for name in ["max", "vera"] {
        let id = registry.add_user(&operator(), name, Role::Administrator).await.expect("adds").id;
        made.push(token(id, name));
    }
    commit(&*store, tokens(made.iter().cloned().map(Edit::Create))).await;
    let replica = Arc::new(Replica::new());
    let run = driver::run(Arc::clone(&replica), store.clone(), Duration::from_millis(50), std::future::pending());
    let running = tokio::spawn(run);
    within("the replica is ready", replica.ready()).await;
    let role = |n: usize| replica.lookup(&made[n].digest).map(|holder| holder.role);
    assert_eq!((role(0), role(1)), (Some(Role::Administrator), Some(Role::Administrator)));

    keep(&server);
    registry.set_status(&operator(), "max", UserStatus::Disabled).await.expect("disables");
    registry.set_role(&operator(), "vera", Role::Manager).await.expect("changes the role");
    eventually("it is seen", || async { (role(0), role(1)) == (None, Some(Role::Manager)) }).await;
    lose(&server);
    let level = || async {
        let position = position(&*store).await;
        replica.status().forks > 0 && replica.status().position == Some(position)
    };
    eventually("the replica is level again", level).await;
    assert_eq!((role(0), role(1)), (None, Some(Role::Manager)));
    assert_eq!(replica.held_users(), ["max", "vera"]);
    assert_eq!(replica.status().resyncs, 0, "nothing else was read again");

    registry.set_role(&operator(), "max", Role::Manager).await.expect("changes the role");
    eventually("a new word on the user counts", || async { role(0) == Some(Role::Manager) }).await;
    assert_eq!(replica.held_users(), ["vera"]);
    running.abort();
}

//! Commits in doubt: whatever is said of them is true, and what cannot be known is called unknown.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use tollgate::store::{Absent, Records, Retention, Versioned};
use tollgate::token::TokenRecord;

use super::users::{REGISTRY, USERS};
use super::*;
use crate::conformance::{Held, commit, created, revoked, token, tokens, user, users};
use crate::harness::{Relay, Traffic, eventually};

/// A log that every commit trims.
const SHORT: Retention =
    Retention { log_entries: 3, log_changes: 1000, tombstones: 10, tombstone_age: Duration::MAX, agents: 10 };

/// Everybody's rights, and an administrator's.
async fn with_administrator() -> RedisServer {
    RedisServer::with_users(&format!("{USERS}\nuser admin on >admin ~* &* +@all\n"))
}

/// One command as the administrator.
fn administer(server: &RedisServer, command: &[&str]) -> String {
    server.cli(&[&["--no-auth-warning", "--user", "admin", "--pass", "admin"], command].concat())
}

async fn open_short(server: &RedisServer, credentials: &str) -> RedisStore {
    let settings = settings(&server.url_as(credentials));
    RedisStore::open(&settings, Absent::Create, SHORT).await.expect("opens")
}

/// The rights of the shipped registry user, one by one, and how each is given back.
fn rights() -> Vec<(String, String)> {
    let line = USERS.lines().find(|line| line.starts_with("user tollgate-registry ")).expect("is there");
    let commands = line.split(' ').filter(|rule| rule.starts_with('+'));
    let commands = commands.map(|rule| (rule.replacen('+', "-", 1), rule.to_owned()));
    commands.chain([("resetchannels".to_owned(), "&{tollgate}:changes:*".to_owned())]).collect()
}

/// What the store tells of itself.
async fn told_by(store: &dyn Store) -> String {
    let (position, held) = Held::snapshot(store).await;
    let users = store.users(None, 10_000).await.expect("reads");
    let grants: BTreeSet<String> = held.grants.iter().map(|grant| format!("{grant:?}")).collect();
    format!("{position:?} {grants:?} {:?} {users:?}", held.owners)
}

/// Two tokens of a new user, to be revoked and deleted.
async fn two_tokens(store: &dyn Store, name: &str) -> [Versioned<TokenRecord>; 2] {
    let owner = user(name);
    let made = [0, 1].map(|number| token(owner.id, &format!("{name} {number}")));
    commit(store, users([Edit::Create(owner)])).await;
    let history = made.iter().map(|token| (token.id, created())).collect();
    let batch = Batch { history, ..tokens(made.iter().cloned().map(Edit::Create)) };
    let version = commit(store, batch).await.id;
    made.map(|record| Versioned { record, version })
}

/// A batch that writes under every key.
fn everything([revoke, delete]: [Versioned<TokenRecord>; 2], name: &str) -> Batch {
    let (owner, after) = (user(name), revoked(revoke.record.clone()));
    let mut made = token(owner.id, name);
    made.expires_at = Some(jiff::Timestamp::MAX);
    Batch {
        history: vec![(made.id, created()), (after.id, created())],
        tokens: vec![Edit::Update { before: revoke, after }, Edit::Delete(delete), Edit::Create(made)],
        ..users([Edit::Create(owner)])
    }
}

/// Redis undoes nothing of a script that breaks off, so a commit that could not finish is not begun.
#[tokio::test]
async fn a_missing_right_stops_commits_before_they_begin_and_blocks_no_later_one() {
    let server = with_administrator().await;
    let (registry, all) = (open_short(&server, REGISTRY).await, open_short(&server, "admin:admin").await);
    for number in 0..4 {
        commit(&all, user_batch(&format!("before {number}"))).await;
    }
    let mut refused = 0;
    for (number, (take, give)) in rights().into_iter().enumerate() {
        let held = two_tokens(&all, &format!("{number}")).await;
        let before = told_by(&all).await;
        assert_eq!(administer(&server, &["acl", "setuser", "tollgate-registry", &take]), "OK");
        match registry.commit(everything(held, &format!("new {number}"))).await {
            Ok(_) => {}
            Err(CommitError::Failed(error)) => {
                refused += 1;
                assert_eq!(told_by(&all).await, before, "{take}: {}", chain(&error));
                assert!(chain(&error).contains("deploy/redis/users.acl"), "{take}: {}", chain(&error));
            }
            Err(error) => panic!("{take}: {}", chain(&error)),
        }
        assert_eq!(administer(&server, &["acl", "setuser", "tollgate-registry", &give]), "OK");
        registry
            .commit(user_batch(&format!("after {number}")))
            .await
            .unwrap_or_else(|error| panic!("{take}: {error:?}"));
    }
    assert!(refused >= 20, "{refused} rights are needed");
}

#[tokio::test]
async fn a_damaged_position_stops_commits_before_they_begin() {
    let server = RedisServer::start();
    let store = store(&server).await;
    store.commit(user_batch("anna")).await.expect("commits");
    let before = told_by(&*store).await;
    let right = server.cli(&["hget", "{tollgate}:meta", "log_changes"]);
    server.cli(&["hset", "{tollgate}:meta", "log_changes", "many"]);
    refused(&*store, user_batch("berta")).await;
    assert_eq!(told_by(&*store).await, before);
    server.cli(&["hset", "{tollgate}:meta", "log_changes", &right]);
    store.commit(user_batch("berta")).await.expect("commits");
}

/// Exit code 3, and what was said.
fn unknown(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_while_replicas_are_waited_for_leaves_the_outcome_unknown() {
    let primary = RedisServer::start();
    let replica = RedisServer::with(&["--save", "", "--replicaof", "127.0.0.1", &primary.port().to_string()]);
    eventually("the replica follows", async || replica.cli(&["role"]).contains("connected")).await;
    let url = primary.url();
    stdout(&tollgate(&url, 1, &["init"]).await);
    let made = tollgate(&url, 1, &["token", "create", "--user", "owner", "--description", "x", "--json"]).await;
    let id = id_of(&stdout(&made));
    replica.pause();
    let command = ["token", "revoke", id.as_str()];
    let revoking = tollgate(&url, 1, &command);
    let demote = async {
        eventually("it waits", async || primary.cli(&["info", "clients"]).contains("blocked_clients:1")).await;
        assert_eq!(primary.cli(&["replicaof", "127.0.0.1", "1"]), "OK");
    };
    let (ended, ()) = tokio::join!(revoking, demote);
    let said = unknown(&ended);
    assert!(said.contains("it is unknown whether") && said.contains("UNBLOCKED"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_is_not_answered_tells_how_to_find_and_revoke_the_token() {
    let server = RedisServer::start();
    let relay = Relay::start(server.address()).await;
    let url = server.url();
    stdout(&tollgate(&url, 0, &["init"]).await);
    relay.set(Traffic::ScriptsUnanswered).await;
    let create = ["token", "create", "--user", "owner", "--description", "x"];
    let said = unknown(&tollgate(&format!("redis://{}", relay.address()), 0, &create).await);
    let (_, id) = said.split_once("the token ").expect("names it");
    let id = id.split(' ').next().expect("an id").to_owned();
    assert!(said.contains(&format!("`tollgate token show {id}`")), "{said}");
    assert!(said.contains(&format!("`tollgate token revoke {id}`")), "{said}");
    stdout(&tollgate(&url, 0, &["token", "show", &id]).await);
    stdout(&tollgate(&url, 0, &["token", "revoke", &id]).await);
}

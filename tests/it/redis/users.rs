//! The users of `deploy/redis/users.acl`: each can do its part, and no more.

use std::time::Duration;

use tollgate::store::{Absent, AgentName, AgentUse, Changes, Revision, StoreError, Use};
use tollgate::token::Digest;

use super::*;
use crate::conformance::{Held, commit, report, token, tokens, user, users};
use crate::harness::{Serving, eventually, within};

pub(super) const USERS: &str = include_str!("../../../deploy/redis/users.acl");

pub(super) const SIDECAR: &str = "tollgate-sidecar:CHANGE-SIDECAR";
pub(super) const REGISTRY: &str = "tollgate-registry:CHANGE-REGISTRY";

struct Fleet {
    server: RedisServer,
    registry: Arc<dyn Store>,
    sidecar: Arc<dyn Store>,
}

async fn fleet() -> Fleet {
    let server = RedisServer::with_users(USERS);
    let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Create).await.expect("the registry opens");
    let mut settings = settings(&server.url_as(SIDECAR));
    settings.quorum_replicas = 0;
    let sidecar = open(&settings, Absent::Refuse).await.expect("the sidecar opens");
    Fleet { server, registry, sidecar }
}

impl Fleet {
    /// One command as a user, as `redis-cli` prints its answer.
    fn cli(&self, credentials: &str, command: &[&str]) -> String {
        let (user, password) = credentials.split_once(':').expect("both");
        self.server.cli(&[&["--no-auth-warning", "--user", user, "--pass", password], command].concat())
    }
}

#[tokio::test]
async fn the_registry_can_do_all_that_commands_do() {
    let Fleet { server: _server, registry, .. } = fleet().await;
    let anna = user("anna");
    let made: Vec<_> = ["a", "b"].into_iter().map(|name| token(anna.id, name)).collect();
    commit(&*registry, users([Edit::Create(anna.clone())])).await;
    let history = made.iter().map(|token| (token.id, crate::conformance::created())).collect();
    let batch = Batch { history, ..tokens(made.iter().cloned().map(Edit::Create)) };
    let version = commit(&*registry, batch).await.id;
    let [before, deleted] = [0, 1].map(|n: usize| tollgate::store::Versioned { record: made[n].clone(), version });
    let after = crate::conformance::revoked(before.record.clone());
    let history = vec![(before.record.id, crate::conformance::created())];
    let digests = [before.record.digest, deleted.record.digest];
    let edits = [Edit::Update { before, after }, Edit::Delete(deleted)];
    commit(&*registry, Batch { history, ..tokens(edits) }).await;

    assert_eq!(registry.users(None, 10).await.expect("reads").len(), 1);
    assert!(registry.user_by_name("anna").await.expect("reads").is_some());
    assert_eq!(registry.tokens(Default::default(), None, 10).await.expect("reads").len(), 1);
    assert_eq!(registry.count_tokens(Default::default()).await.expect("counts"), 1);
    assert_eq!(registry.tokens_by_digest(&digests).await.expect("reads").iter().flatten().count(), 1);
    assert_eq!(registry.retired(&digests).await.expect("reads"), [false, true]);
    assert_eq!(registry.history(made[0].id).await.expect("reads").len(), 2);
    assert_eq!(registry.probe().await.expect("a probe").position.revision, Revision(3));
    registry.settle_recalls(&digests).await.expect("settles");
    assert_eq!(registry.sidecars().await.expect("reads"), []);
}

#[tokio::test]
async fn a_sidecar_can_do_all_that_it_needs() {
    let Fleet { server: _server, registry, sidecar } = fleet().await;
    let mut watch = sidecar.watch();
    let anna = user("anna");
    commit(&*registry, users([Edit::Create(anna.clone())])).await;
    commit(&*registry, tokens([Edit::Create(token(anna.id, "token"))])).await;
    within("a notice", watch.next()).await;
    let (position, held) = Held::snapshot(&*sidecar).await;
    assert_eq!((held.owners.len(), held.grants.len()), (1, 1));
    assert_eq!(sidecar.position().await.expect("reads"), position);
    assert!(matches!(sidecar.changes(Revision(0)).await, Ok(Changes::Entries(entries)) if entries.len() == 2));
    let digest = Digest::of(b"token");
    sidecar.recall(&[digest]).await.expect("recalls");
    assert_eq!(sidecar.probe().await.expect("a probe").recalls, 1);
    assert_eq!(sidecar.recalled(None).await.expect("reads").digests, [digest]);
    assert_eq!(sidecar.removed(&[digest]).await.expect("reads"), [false]);
    let report = report(1, "edge");
    sidecar.report(&report, Duration::from_secs(60)).await.expect("reports");
    assert_eq!(registry.sidecars().await.expect("reads").len(), 1);
    let left = sidecar.report_left(report.id).await.expect("reads").expect("it is there");
    assert!(left > Duration::from_secs(50), "{left:?}");
    sidecar.withdraw(report.id).await.expect("withdraws");
    assert_eq!(registry.sidecars().await.expect("reads"), []);
}

#[tokio::test]
async fn a_sidecar_records_the_use_of_tokens() {
    let Fleet { server: _server, registry, sidecar } = fleet().await;
    let used = token(user("anna").id, "used");
    commit(&*registry, tokens([Edit::Create(used.clone())])).await;
    let name = AgentName::Id("web-1".to_owned());
    let agent =
        AgentUse { name, age: Duration::ZERO, address: [10, 0, 0, 1].into(), version: Some("1.39.0".to_owned()) };
    sidecar.record(&[Use { token: used.id, age: Duration::ZERO, agents: vec![agent] }]).await.expect("records");
    assert_eq!(registry.usage(&[used.id]).await.expect("reads").tokens[0].day.agents, 1);
    assert_eq!(registry.agents(&[used.id], 10).await.expect("reads")[0].len(), 1);
    assert!(sidecar.usage(&[used.id]).await.is_ok(), "what it writes it may read");
}

/// `SELECT` is a command like any other.
#[tokio::test]
async fn another_database_takes_one_right_more() {
    let url = |server: &RedisServer| settings(&format!("{}/1", server.url_as(REGISTRY)));
    let server = RedisServer::with_users(USERS);
    let refused = open(&url(&server), Absent::Create).await.map(drop).expect_err("refused");
    assert!(chain(&refused).contains("give the user +select"), "{}", chain(&refused));
    let server = RedisServer::with_users(&USERS.replace(" +ping", " +ping +select"));
    let registry = open(&url(&server), Absent::Create).await.expect("opens");
    commit(&*registry, user_batch("anna")).await;
}

#[tokio::test]
async fn a_sidecar_hears_of_commits_by_name() {
    let Fleet { server: _server, registry, sidecar } = fleet().await;
    let mut watch = sidecar.watch();
    let heard = async {
        loop {
            // Until the subscription stands.
            commit(&*registry, Batch::default()).await;
            let next = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
            if let Ok(tollgate::store::Notice::Committed { .. }) = next {
                return;
            }
        }
    };
    within("a commit is heard of", heard).await;
}

#[tokio::test]
async fn a_sidecar_can_change_nothing() {
    let Fleet { server, registry, sidecar } = fleet().await;
    registry.recall(&[Digest::of(b"recalled")]).await.expect("recalls");
    commit(&*registry, user_batch("anna")).await;
    match sidecar.commit(user_batch("berta")).await {
        Err(CommitError::Failed(error @ StoreError::Unusable { .. })) => {
            assert!(chain(&error).contains("users.acl"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(sidecar.settle_recalls(&[Digest::of(b"recalled")]).await.is_err());
    assert!(sidecar.user_by_name("anna").await.is_err(), "records are none of its business");
    let fleet = Fleet { server, registry, sidecar };
    for command in [
        &["hset", "{tollgate}:grants", "x", "y"][..],
        &["hdel", "{tollgate}:grants", "x"],
        &["hset", "{tollgate}:meta", "revision", "9"],
        &["set", "{tollgate}:meta", "x"],
        &["del", "{tollgate}:meta"],
        &["xadd", "{tollgate}:log", "*", "a", "b"],
        &["srem", "{tollgate}:recalled", "x"],
        // Reports of others: their ids are nothing that it can learn.
        &["smembers", "{tollgate}:sidecars"],
        &["sismember", "{tollgate}:sidecars", "0000000000000001"],
        &["del", "{tollgate}:sidecars"],
        &["get", "{tollgate}:sidecar:0000000000000001"],
        &["scan", "0"],
        &["del", "{tollgate}:recalled"],
        &["publish", "{tollgate}:changes:0", "x"],
        &["subscribe", "{other}:changes:0"],
        // It may run scripts over the use of tokens; in one it can do no more than without.
        &["eval", "return redis.call('hset', '{tollgate}:grants', 'x', 'y')", "0"],
        &["eval", "return redis.call('hmget', '{tollgate}:tokens', 'x')", "0"],
        &["eval", "return 1", "1", "{tollgate}:meta"],
        &["hmget", "{tollgate}:tokens", "x"],
        &["hscan", "{tollgate}:tokens", "0"],
        &["del", "{tollgate}:usage"],
        &["hgetall", "{tollgate}:tokens"],
        // Of which tokens were revoked it learns no more than whether those that it knows were.
        &["hscan", "{tollgate}:revoked", "0"],
        &["zscore", "{tollgate}:retired", "x"],
        &["hdel", "{tollgate}:revoked", "x"],
        &["get", "elsewhere"],
        &["set", "elsewhere", "x"],
        &["flushall"],
        &["config", "get", "*"],
        &["acl", "list"],
        &["client", "list"],
        &["keys", "*"],
        &["shutdown"],
    ] {
        let answer = fleet.cli(SIDECAR, command);
        let is_refused = answer.starts_with("NOPERM")
            || answer.contains("The user executing the script can't")
            || answer.contains("ACL failure in script");
        assert!(is_refused, "{command:?}: {answer}");
    }
    assert_eq!(
        fleet.cli(SIDECAR, &["smembers", "{tollgate}:recalled"]).len(),
        fleet.cli(REGISTRY, &["smembers", "{tollgate}:recalled"]).len()
    );
}

#[tokio::test]
async fn the_registry_administers_nothing() {
    let fleet = fleet().await;
    for command in [
        &["flushall"][..],
        &["flushdb"],
        &["config", "set", "maxmemory", "1"],
        &["acl", "list"],
        &["keys", "*"],
        &["replicaof", "no", "one"],
        &["shutdown"],
        &["debug", "sleep", "0"],
        &["script", "flush"],
        &["set", "elsewhere", "x"],
        &["publish", "elsewhere", "x"],
    ] {
        let answer = fleet.cli(REGISTRY, command);
        assert!(answer.starts_with("NOPERM"), "{command:?}: {answer}");
    }
    for user in ["", "--user default --pass x"] {
        let arguments: Vec<_> = user.split_whitespace().chain(["get", "x"]).collect();
        let answer = fleet.server.cli(&arguments);
        assert!(answer.contains("NOAUTH") || answer.contains("WRONGPASS"), "{answer}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let server = RedisServer::with_users(USERS);
    let error = open(&settings(&server.url_as("tollgate-sidecar:Xyzzy")), Absent::Refuse).await.err().expect("refused");
    assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
    assert!(!format!("{} {error:?}", chain(&error)).contains("Xyzzy"), "{error:?}");
}

/// With the rules of the version before, it says once what to add, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_may_not_ask_which_tokens_were_revoked_goes_on_without() {
    let rule = "(%R~{tollgate}:revoked %R~{tollgate}:retired +type +hmget +zmscore)";
    let before = USERS.replace(&format!("{rule} "), "");
    assert_ne!(before, USERS);
    let server = RedisServer::with_users(&before);
    let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Create).await.expect("the registry opens");
    commit(&*registry, users([Edit::Create(user("anna"))])).await;
    let mut sidecar = Serving::start(&server.url_as(SIDECAR), &[]).await;
    let warning = sidecar
        .says(&format!(
            "Redis does not tell this user which tokens were revoked while the sidecar was cut off for long: if Redis loses such a \
             revocation later, the sidecar lets the token in. Add {rule} to its line in users.acl"
        ))
        .await;
    assert_eq!(warning["refused"], "HMGET {tollgate}:revoked, ZMSCORE {tollgate}:retired");
    eventually("it is ready", || async { sidecar.readiness().await == 200 }).await;
}

//! Commits and probes that replicas confirm.

use tollgate::store::{Absent, CommitError, Revision};

use super::users::{REGISTRY, SIDECAR, USERS};
use super::*;
use crate::harness::{SentinelSet, Traffic, eventually};
use tollgate_harness::pair::Pair;

/// A primary, a replica of it that is in step, and a store that wants one confirmation.
async fn with_replica() -> (RedisServer, RedisServer, Arc<dyn Store>) {
    let primary = RedisServer::start();
    let replica = RedisServer::with(&["--save", "", "--replicaof", "127.0.0.1", &primary.port().to_string()]);
    eventually("the replica follows", async || replica.cli(&["role"]).contains("connected")).await;
    let mut settings = settings(&primary.url());
    settings.quorum_replicas = 1;
    let store = open(&settings, Absent::Create).await.expect("opens");
    (primary, replica, store)
}

#[tokio::test]
async fn what_a_replica_confirmed_is_on_the_replica() {
    let (primary, replica, store) = with_replica().await;
    assert_eq!(store.commit(user_batch("anna")).await.expect("confirmed").position.revision, Revision(1));
    assert_eq!(replica.cli(&["hget", "{tollgate}:meta", "revision"]), "1");
    assert_eq!(store.probe().await.expect("confirmed").position.revision, Revision(1));
    primary.cli(&["client", "kill", "type", "normal"]);
    store.probe().await.expect("over another connection");
    primary.cli(&["client", "kill", "type", "normal"]);
    assert_eq!(
        store.commit(user_batch("berta")).await.expect("over another connection").position.revision,
        Revision(2)
    );
}

/// Of two connections each could be to another server: the report of one, and the position of the other, prove nothing.
#[tokio::test]
async fn who_proves_the_position_is_asked_for_the_report() {
    let (primary, _replica, store) = with_replica().await;
    store.commit(user_batch("anna")).await.expect("confirmed");
    let (probe, left) = tokio::join!(store.probe(), store.report_left(tollgate::store::SidecarId(7)));
    assert_eq!((probe.expect("confirmed").position.revision, left.expect("answers")), (Revision(1), None));
    let clients = primary.cli(&["CLIENT", "LIST"]);
    assert!(clients.contains("cmd=pttl") && !clients.contains("cmd=wait"), "{clients}");
}

#[tokio::test]
async fn without_enough_replicas_nothing_is_proven() {
    let (_primary, mut replica, store) = with_replica().await;
    store.commit(user_batch("anna")).await.expect("confirmed");
    replica.kill();
    let text = chain(&store.probe().await.expect_err("not confirmed"));
    assert!(text.contains("0 of 1 replicas"), "{text}");
    let error = store.commit(user_batch("berta")).await.expect_err("not confirmed");
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    assert!(chain(&error).contains("0 of 1 replicas"), "{error:?}");
    // It is there, and a failover may lose it: neither done nor failed.
    assert_eq!(position(&*store).await.revision, Revision(2));
    replica.restart();
    eventually("the replica confirms again", async || store.probe().await.is_ok()).await;
    assert_eq!(store.commit(user_batch("carla")).await.expect("confirmed").position.revision, Revision(3));
}

/// With the rights that the users have: a full memory must not turn a whole fleet away.
#[tokio::test]
async fn what_a_replica_confirmed_is_proven_while_redis_is_out_of_memory() {
    let users = USERS.replace("user default off", "user default on nopass");
    let primary = RedisServer::with_users(&users);
    let mut replica = RedisServer::with(&["--save", "", "--replicaof", "127.0.0.1", &primary.port().to_string()]);
    eventually("the replica follows", async || replica.cli(&["role"]).contains("connected")).await;
    let as_user = |user| Settings { quorum_replicas: 1, ..settings(&primary.url_as(user)) };
    let registry = open(&as_user(REGISTRY), Absent::Create).await.expect("opens");
    registry.commit(user_batch("anna")).await.expect("confirmed");
    let sidecar = open(&as_user(SIDECAR), Absent::Refuse).await.expect("opens");
    sidecar.probe().await.expect("confirmed");
    assert_eq!(primary.cli(&["config", "set", "maxmemory", "1mb"]), "OK");
    for _ in 0..2 {
        assert_eq!(sidecar.probe().await.expect("confirmed").position.revision, Revision(1));
    }
    replica.kill();
    let text = chain(&sidecar.probe().await.expect_err("not confirmed"));
    assert!(text.contains("0 of 1 replicas"), "{text}");
}

/// A primary with two replicas, and an owner with two tokens.
async fn with_two_replicas() -> (RedisServer, [RedisServer; 2], [String; 2]) {
    let primary = RedisServer::start();
    let port = primary.port().to_string();
    let replicas = [0, 1].map(|_| RedisServer::with(&["--save", "", "--replicaof", "127.0.0.1", &port]));
    eventually("both follow", async || connected(&primary) == 2).await;
    let tokens = owners_tokens(&primary.url()).await;
    (primary, replicas, tokens)
}

fn connected(primary: &RedisServer) -> usize {
    primary.cli(&["info", "replication"]).matches("state=online").count()
}

async fn owners_tokens(url: &str) -> [String; 2] {
    stdout(&tollgate(url, 1, &["init"]).await);
    let create = ["token", "create", "--user", "owner", "--description", "x", "--json"];
    [id_of(&stdout(&tollgate(url, 1, &create).await)), id_of(&stdout(&tollgate(url, 1, &create).await))]
}

/// The other one may be promoted, and the revoked token is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_not_all_replicas_have_is_no_plain_success() {
    let (primary, replicas, [first, second]) = with_two_replicas().await;
    replicas[1].pause();
    let ended = tollgate(&primary.url(), 1, &["token", "revoke", &first]).await;
    let [out, err] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    assert!(out.contains("revoked"), "{out}");
    assert!(err.contains("committed") && err.contains("1 of 2 replicas"), "{err}");
    replicas[1].resume();
    let ended = tollgate(&primary.url(), 1, &["token", "revoke", &second]).await;
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{ended:?}");
    // Who asks for all waits for all, and one that is missing leaves it open.
    let ended = tollgate(&primary.url(), 2, &["user", "add", "anna", "--role", "viewer"]).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

/// Nobody is waited for with each commit then, and the end of the command asks all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_too_a_commit_that_no_replica_has_is_no_plain_success() {
    let pair = Pair::start().await;
    let (url, tokens) = (pair.primary.url(), owners_tokens(&pair.primary.url()).await);
    pair.part().await;
    let ended = tollgate(&url, 0, &["token", "revoke", &tokens[0]]).await;
    let [out, err] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    assert!(out.contains("revoked") && err.contains("committed") && err.contains("0 of 1 replicas"), "{out} {err}");
    pair.link.set(Traffic::Flows).await;
    pair.is_in_step().await;
    // A memory that is full keeps nobody from asking.
    assert_eq!(pair.primary.cli(&["config", "set", "maxmemory", "1mb"]), "OK");
    let ended = tollgate(&url, 0, &["token", "revoke", &tokens[1]]).await;
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_what_the_replicas_protect_from() {
    let (primary, _replicas, _) = with_two_replicas().await;
    for (quorum, isolates, keeps) in [(0, false, false), (1, true, false), (2, true, true)] {
        let status = stdout(&tollgate(&primary.url(), quorum, &["status", "--json"]).await);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let expected = serde_json::json!({
            "connected": 2, "promotable": 2, "quorum": quorum, "isolate_an_old_primary": isolates, "keep_commits": keeps,
        });
        assert_eq!(status["replicas"], expected);
    }
}

/// One that lost its primary, and that Sentinels can promote all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_only_sentinels_see_can_be_promoted_too() {
    let set = SentinelSet::start(2).await;
    let [first, _] = owners_tokens(&set.url()).await;
    let replica = &set.servers[2];
    for setting in [["masteruser", "nobody"], ["masterauth", "wrong"]] {
        assert_eq!(replica.cli(&[&["config", "set"], &setting[..]].concat()), "OK");
    }
    set.servers[0].cli(&["client", "kill", "type", "replica"]);
    eventually("the other one follows again", async || connected(&set.servers[0]) == 1).await;
    let ended = tollgate(&set.url(), 1, &["token", "revoke", &first]).await;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(3) && said.contains("1 of 2 replicas"), "{said}");
    let status = stdout(&tollgate(&set.url(), 1, &["status"]).await);
    assert!(status.contains("1 of 2 connected, quorum_replicas 1"), "{status}");
}

//! Where registries are moved to: users with few rights, Sentinels, clusters, lines that break; and what is there before it is
//! whole.

use std::time::Duration;

use super::*;
use crate::harness::{RedisCluster, RedisServer, Relay, SentinelSet, Serving, Traffic, Upstream, eventually};

const USERS: &str = include_str!("../../../deploy/redis/users.acl");
const REGISTRY: &str = "tollgate-registry:CHANGE-REGISTRY";

/// `tollgate` with this store, whose URL may have a password.
fn there(url: &str, arguments: &[&str]) -> Output {
    run(arguments, &[("TOLLGATE_STORE__URL", url)])
}

/// From there to a file, and from the file into a store; and as a copy.
async fn goes_there_and_back(url: &str, folder: &Path) {
    let (source, back) = (sqlite(&folder.join("source.db")), sqlite(&folder.join("back.db")));
    let expected = contents(&*filled(&source).await).await;
    let file = folder.join("there.backup");
    // A password is no argument of a command.
    let configuration = folder.join("target.toml");
    std::fs::write(&configuration, format!("[store]\nurl = \"{url}\"\n")).expect("writes");
    done(&run(&["store", "copy", &source, text(&configuration)], &[]));
    assert_eq!(contents(&*open(url, Absent::Refuse).await).await, expected, "{url}");
    done(&there(url, &["store", "backup", text(&file)]));
    done(&tollgate(&back, &["store", "restore", text(&file)]));
    assert_eq!(contents(&*open(&back, Absent::Refuse).await).await, expected, "{url}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_user_of_commands_may_do_all_of_it() {
    let server = RedisServer::with_users(USERS);
    let (url, folder) = (server.url_as(REGISTRY), tempfile::tempdir().expect("a folder"));
    goes_there_and_back(&url, folder.path()).await;
    done(&there(&url, &["store", "freeze", "--reason", "maintenance"]));
    assert!(
        failed(&there(&url, &["user", "add", "late", "--role", "manager"])).contains("frozen (maintenance, by cli:")
    );
    assert!(done(&there(&url, &["status"])).contains("refused: maintenance, by cli:tester at "));
    let json: serde_json::Value = serde_json::from_str(&done(&there(&url, &["status", "--json"]))).expect("JSON");
    assert!(json["frozen"].as_str().is_some_and(|reason| reason.starts_with("maintenance")), "{json}");
    done(&there(&url, &["store", "unfreeze"]));
    done(&there(&url, &["user", "add", "late", "--role", "manager"]));
    assert!(!server.log().contains("NOPERM"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_user_may_not_do_is_named_and_nothing_begun() {
    let server = RedisServer::with_users(&USERS.replace(" +unlink", ""));
    let target = archive::begin(&settings(&server.url_as(REGISTRY))).await;
    let said = chain(&target.err().expect("is refused"));
    assert!(said.contains("UNLINK {tollgate}:unfinished"), "{said}");
    let keys = ["--no-auth-warning", "--user", "tollgate-registry", "--pass", "CHANGE-REGISTRY", "EXISTS"];
    assert_eq!(server.cli(&[&keys[..], &["{tollgate}:unfinished", "{tollgate}:users"]].concat()), "0");
}

/// With the environment that an operator has set for the registry of every day.
#[tokio::test]
async fn a_file_names_its_store_whatever_the_environment_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let [from, to, other] = ["from", "to", "other"].map(|name| sqlite(&path(&format!("{name}.db"))));
    let before = contents(&*filled(&from).await).await;
    for (name, url) in [("from.toml", &from), ("to.toml", &to)] {
        std::fs::write(path(name), format!("[store]\nurl = \"{url}\"\n")).expect("writes");
    }
    let password = ("TOLLGATE_STORE__PASSWORD_FILE", "/nonexistent/password");
    let environment = [("TOLLGATE_STORE__URL", other.as_str()), ("TOLLGATE_CONFIG", "/nonexistent/file"), password];
    let files = ["from.toml", "to.toml"].map(path);
    done(&run(&["store", "copy", text(&files[0]), text(&files[1])], &environment));
    assert_eq!(contents(&*open(&to, Absent::Refuse).await).await, before);
    assert!(!path("other.db").exists());
}

#[test]
fn what_names_no_store_is_said_of_the_argument() {
    let refused = |arguments: &[&str]| {
        let output = run(&[&["store", "copy"], arguments].concat(), &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let said = refused(&["old.toml", "sqlite:/tmp/to.db"]);
    assert!(said.contains("FROM: there is no file old.toml: name a configuration file, or a store such as"), "{said}");
    let said = refused(&["sqlite:/tmp/from.db", "ftp:there"]);
    assert!(said.contains("TO: store.url = \"...\": this is not a store URL"), "{said}");
    let said = refused(&["redis://anna:secret@there", "sqlite:/tmp/to.db"]);
    assert!(said.contains("FROM: store.url = ") && said.contains("can see the password"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_go_behind_sentinels_and_back() {
    let (set, folder) = (SentinelSet::start(1).await, tempfile::tempdir().expect("a folder"));
    goes_there_and_back(&set.url(), folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_go_into_a_cluster_and_back() {
    let (cluster, folder) = (RedisCluster::start().await, tempfile::tempdir().expect("a folder"));
    goes_there_and_back(&cluster.url(&[0]), folder.path()).await;
}

/// A namespace that is half filled: no registry for anybody, and each says what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_namespace_is_no_registry() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let (url, source) = (server.url(), sqlite(&folder.path().join("source.db")));
    let expected = contents(&*filled(&source).await).await;
    let mut target = archive::begin(&settings(&url)).await.expect("is empty");
    let file = folder.path().join("backup");
    archive::write_backup(&*open(&source, Absent::Refuse).await, &file).await.expect("writes");
    let (send, mut items) = tokio::sync::mpsc::channel(10);
    open(&source, Absent::Refuse).await.dump(send).await.expect("reads");
    target.write(items.recv().await.expect("users")).await.expect("writes");
    target.write(items.recv().await.expect("tokens")).await.expect("writes");

    for arguments in [&["init"][..], &["status"], &["token", "list"], &["store", "backup", "/nonexistent/x"]] {
        let said = failed(&tollgate(&url, arguments));
        assert!(said.contains("is being filled by `tollgate store copy` or `restore`"), "{arguments:?}: {said}");
        assert!(said.contains("Wait for it or run it again"), "{arguments:?}: {said}");
    }
    let api = Upstream::start().await;
    let api = format!("http://{}", api.address());
    let mut sidecar = Serving::start(&url, &[("TOLLGATE_UPSTREAM__API__URL", api.as_str())]).await;
    sidecar.says("there is no registry: nobody is let in until there is").await;
    assert_eq!((sidecar.fetch("tc-apiv1_whoever").await, sidecar.readiness().await), (503, 503));

    // Another one begins anew, and the first one is told.
    done(&tollgate(&url, &["store", "restore", text(&file)]));
    assert_eq!(contents(&*open(&url, Absent::Refuse).await).await, expected);
    let late = target.write(items.recv().await.expect("digests")).await.expect_err("is refused").to_string();
    assert!(late.contains("by another command, which began later"), "{late}");
    sidecar.says("ready").await;
    assert_eq!(sidecar.fetch("tc-apiv1_whoever").await, 401);
    assert_eq!(contents(&*open(&url, Absent::Refuse).await).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_are_left_alone() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let source = sqlite(&folder.path().join("source.db"));
    filled(&source).await;
    server.cli(&["hset", "{tollgate}:tokens", "a", "b"]);
    let said = failed(&run(&["store", "copy", &source, &server.url()], &[]));
    assert!(said.contains("has {tollgate}:tokens but not {tollgate}:meta, and nothing is written over"), "{said}");
    assert_eq!(server.cli(&["hget", "{tollgate}:tokens", "a"]), "b");
}

/// Everything is there but for the end, whose answers do not come.
async fn all_but_the_end(url: &str, source: &dyn Store) -> (Box<dyn archive::Unfinished>, Position) {
    let mut target = archive::begin(&settings(url)).await.expect("is empty");
    let (send, mut items) = tokio::sync::mpsc::channel(100);
    let position = source.dump(send).await.expect("reads").position;
    while let Some(items) = items.recv().await {
        target.write(items).await.expect("writes");
    }
    (target, position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_not_answered_is_found() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let source = filled(&sqlite(&folder.path().join("source.db"))).await;
    let relay = Relay::start(server.address()).await;
    let (target, position) = all_but_the_end(&format!("redis://{}", relay.address()), &*source).await;
    relay.set(Traffic::ScriptsUnanswered).await;
    let healed = async {
        eventually("it was executed", || async { server.cli(&["exists", "{tollgate}:meta"]) == "1" }).await;
        relay.heal().await;
    };
    let (outcome, ()) = tokio::join!(target.finish(position), healed);
    let (position, _) = outcome.expect("is found");
    let store = open(&server.url(), Absent::Refuse).await;
    assert_eq!(store.position().await.expect("reads"), position);
    assert_eq!(contents(&*store).await, contents(&*source).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_nobody_can_be_asked_about_is_unknown() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let source = filled(&sqlite(&folder.path().join("source.db"))).await;
    let relay = Relay::start(server.address()).await;
    let (target, position) = all_but_the_end(&format!("redis://{}", relay.address()), &*source).await;
    relay.set(Traffic::ScriptsUnanswered).await;
    let outcome = tokio::time::timeout(Duration::from_secs(60), target.finish(position)).await.expect("ends");
    let error = outcome.expect_err("is unknown");
    assert!(matches!(error, CopyError::Unknown(_)), "{error:?}");
    assert_eq!(contents(&*open(&server.url(), Absent::Refuse).await).await, contents(&*source).await);
}

/// As for any commit: it is done, and a failover may lose it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_too_few_replicas_have_is_unknown() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let source = sqlite(&folder.path().join("source.db"));
    let before = contents(&*filled(&source).await).await;
    let quorum = [("TOLLGATE_STORE__QUORUM_REPLICAS", "1")];
    let output = run(&["store", "copy", &source, &server.url(), "--freeze"], &quorum);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(said.contains("it is unknown whether the copy was completed"), "{said}");
    // A change would be one that the copy lacks.
    assert!(open(&source, Absent::Refuse).await.frozen().await.expect("reads").is_some());
    assert_eq!(contents(&*open(&server.url(), Absent::Refuse).await).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_source_takes_changes_again_when_the_copy_fails() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let source = sqlite(&folder.path().join("source.db"));
    filled(&source).await;
    let copy = || run(&["store", "copy", &source, &server.url(), "--freeze"], &[]);
    // Redis has no room for it.
    server.cli(&["config", "set", "maxmemory", "1"]);
    let said = failed(&copy());
    assert!(said.contains("OOM"), "{said}");
    done(&tollgate(&source, &["user", "add", "late", "--role", "manager"]));
    server.cli(&["config", "set", "maxmemory", "0"]);
    let output = copy();
    done(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("stays so if this is killed: `tollgate store unfreeze` lifts that"), "{said}");
    assert!(
        failed(&tollgate(&source, &["user", "add", "later", "--role", "manager"])).contains("is frozen (copied to")
    );
    done(&tollgate(&server.url(), &["user", "add", "later", "--role", "manager"]));
}

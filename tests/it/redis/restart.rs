//! A Redis with exactly the files of `deploy/redis` keeps the registry when it starts again, however it ended, and shows
//! it to nobody who has no password.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use tollgate::store::TokenFilter;

use super::deploy::installed;
use super::users::{REGISTRY, SIDECAR, USERS};
use super::*;
use crate::conformance::{Held, commit, created, revoked, token, tokens, user, users};
use crate::harness::{PATIENCE, eventually};

/// One server as `deploy/redis` sets it up. The folder holds the files that it is started with.
fn shipped() -> (tempfile::TempDir, RedisServer) {
    let (directory, file) = installed();
    let server = RedisServer::with(&["--include", file("tollgate.conf").to_str().expect("plain")]);
    (directory, server)
}

/// All that the store tells of itself.
pub(super) async fn contents(store: &dyn Store) -> String {
    let (position, held) = Held::snapshot(store).await;
    let (users, tokens) = (
        store.users(None, 100).await.expect("reads"),
        store.tokens(TokenFilter::default(), None, 100).await.expect("reads"),
    );
    let mut history = Vec::new();
    for token in &tokens {
        history.push(store.history(token.record.id).await.expect("reads"));
    }
    let changes = store.changes(tollgate::store::Revision(0)).await.expect("reads");
    let (owners, grants) = (held.owners.len(), held.grants.len());
    let checksum = held.checksum();
    format!("{position:?} {checksum} {owners} {grants}\n{users:?}\n{tokens:?}\n{history:?}\n{changes:?}")
}

/// Two users, one of them with tokens, one of which was revoked and one deleted, by several commits.
pub(super) async fn fill(store: &dyn Store) {
    let anna = user("anna");
    commit(store, users([Edit::Create(anna.clone())])).await;
    commit(store, users([Edit::Create(user("berta"))])).await;
    let made: Vec<_> = ["a", "b", "c"].into_iter().map(|name| token(anna.id, name)).collect();
    let history = made.iter().map(|token| (token.id, created())).collect();
    let version = commit(store, Batch { history, ..tokens(made.iter().cloned().map(Edit::Create)) }).await.id;
    let [before, deleted] = [0, 1].map(|n: usize| tollgate::store::Versioned { record: made[n].clone(), version });
    let after = revoked(before.record.clone());
    commit(store, tokens([Edit::Update { before, after }, Edit::Delete(deleted)])).await;
}

/// One command as a user, as `redis-cli` prints its answer.
pub(super) fn as_user(server: &RedisServer, credentials: &str, command: &[&str]) -> String {
    let (user, password) = credentials.split_once(':').expect("both");
    server.cli(&[&["--no-auth-warning", "--user", user, "--pass", password], command].concat())
}

/// Starts again, and waits until Redis has read its files: until then it answers users that it is loading.
async fn restart(server: &mut RedisServer) {
    server.restart();
    eventually("Redis has read its files", || async { as_user(server, REGISTRY, &["ping"]) == "PONG" }).await;
}

/// SIGTERM, which is SHUTDOWN for those who may not send that; returns when the server has ended.
pub(super) async fn end_orderly(server: &RedisServer) {
    let info = as_user(server, SIDECAR, &["info", "server"]);
    let id = info.lines().find_map(|line| line.trim().strip_prefix("process_id:")).expect("its process").to_owned();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill is there").success());
    eventually("the server ends", || async { server.log().contains("bye bye") }).await;
}

/// A session that sends these lines, and all that it is answered until the server, having read `QUIT`, hangs up.
fn session(server: &RedisServer, lines: &[&str]) -> Vec<String> {
    let mut connection = TcpStream::connect(server.address()).expect("connects");
    connection.set_read_timeout(Some(PATIENCE)).expect("sets");
    let text: String = lines.iter().chain(&["QUIT"]).map(|line| format!("{line}\r\n")).collect();
    connection.write_all(text.as_bytes()).expect("writes");
    connection.shutdown(Shutdown::Write).expect("says that this was all");
    let mut answers = String::new();
    connection.read_to_string(&mut answers).expect("answers");
    answers.lines().map(str::to_owned).collect()
}

/// Nobody is let in as the user `default`, which has rights only so that Redis can replay its own file.
pub(super) fn assert_closed_to_strangers(server: &RedisServer) {
    for line in [
        "PING",
        "EXISTS {tollgate}:meta",
        "HGETALL {tollgate}:tokens",
        "KEYS *",
        "DBSIZE",
        "FLUSHALL",
        "SET x y",
        "DEL {tollgate}:meta",
        "EVAL \"return redis.call('keys','*')\" 0",
        "FCALL x 0",
        "CONFIG GET *",
        "ACL LIST",
        "ACL WHOAMI",
        "ACL SETUSER default on nopass",
        "CLIENT LIST",
        "COMMAND COUNT",
        "MONITOR",
        "SYNC",
        "PSYNC ? -1",
        "SUBSCRIBE {tollgate}:changes:0",
        "PUBLISH {tollgate}:changes:0 x",
        "MULTI",
        "EXEC",
        "SELECT 1",
        "REPLICAOF NO ONE",
        "SHUTDOWN NOSAVE",
        "HELLO 3",
    ] {
        let answers = session(server, &[line]);
        // As an error, of whatever kind: `EXEC` has one of its own around it.
        let is_refused = answers[0].starts_with('-') && answers[0].contains("NOAUTH");
        assert!(is_refused && answers[1..] == ["+OK"], "{line}: {answers:?}");
    }
    for line in [
        "AUTH default",
        "AUTH \"\"",
        "AUTH default \"\"",
        "AUTH default default",
        "AUTH default CHANGE-REGISTRY",
        "HELLO 3 AUTH default \"\"",
        "HELLO 2 AUTH default x",
    ] {
        let answers = session(server, &[line, "EXISTS {tollgate}:meta"]);
        let refused = answers[0].starts_with("-WRONGPASS") && answers[1].starts_with("-NOAUTH");
        assert!(refused && answers.len() == 3, "{line}: {answers:?}");
    }
    // A user that stops being one is nobody, and not the one with all rights.
    let exists = "EXISTS {tollgate}:meta";
    let answers = session(server, &["AUTH tollgate-registry CHANGE-REGISTRY", exists, "RESET", exists, "FLUSHALL"]);
    assert_eq!(answers[..3], ["+OK", ":1", "+RESET"]);
    assert!(answers[3].starts_with("-NOAUTH") && answers[4].starts_with("-NOAUTH"), "{answers:?}");
}

#[tokio::test]
async fn restarts_keep_the_registry() {
    let (_directory, mut server) = shipped();
    for orderly in [true, false] {
        let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Create).await.expect("opens");
        if orderly {
            fill(&*registry).await;
        }
        // What the first start wrote is in the base file of the second, so each needs commits of its own.
        commit(&*registry, user_batch(if orderly { "clara" } else { "dora" })).await;
        let before = contents(&*registry).await;
        drop(registry);
        if orderly {
            end_orderly(&server).await;
        }
        restart(&mut server).await;
        assert!(!server.log().contains("NOPERM"), "{}", server.log());
        assert_closed_to_strangers(&server);
        // `Absent::Refuse`: what is not there is not made again.
        let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Refuse).await.expect("it is still there");
        assert_eq!(contents(&*registry).await, before, "orderly: {orderly}");
        let sidecar = open(&settings(&server.url_as(SIDECAR)), Absent::Refuse).await.expect("opens");
        sidecar.probe().await.expect("proves");
    }
}

#[tokio::test]
async fn a_registry_that_an_older_users_acl_hid_comes_back() {
    let (directory, mut server) = shipped();
    let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Create).await.expect("opens");
    fill(&*registry).await;
    let before = contents(&*registry).await;
    drop(registry);
    let path = directory.path().join("users.acl");
    let users = std::fs::read_to_string(&path).expect("reads");
    let (_, others) = users.split_once('\n').expect("the default user is first");
    std::fs::write(&path, format!("user default off\n{others}")).expect("writes");
    restart(&mut server).await;
    assert!(server.log().contains("NOPERM"), "this Redis has no need of the default user's rights any more");
    std::fs::write(&path, users).expect("writes");
    restart(&mut server).await;
    let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Refuse).await.expect("it is there again");
    assert_eq!(contents(&*registry).await, before);
}

/// `deploy/redis/README.md`, Backups.
#[tokio::test]
async fn a_dump_is_restored_as_the_base_of_the_append_only_file() {
    let (_directory, mut server) = shipped();
    let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Create).await.expect("opens");
    fill(&*registry).await;
    let before = contents(&*registry).await;
    drop(registry);
    // With `save` in the configuration, Redis writes its dump at an orderly end.
    end_orderly(&server).await;
    let aof = server.directory().join("appendonlydir");
    std::fs::remove_dir_all(&aof).expect("removes");
    std::fs::create_dir(&aof).expect("makes");
    std::fs::copy(server.directory().join("dump.rdb"), aof.join("appendonly.aof.1.base.rdb")).expect("copies");
    let manifest = "file appendonly.aof.1.base.rdb seq 1 type b\n";
    std::fs::write(aof.join("appendonly.aof.manifest"), manifest).expect("writes");
    restart(&mut server).await;
    let registry = open(&settings(&server.url_as(REGISTRY)), Absent::Refuse).await.expect("it is there");
    assert_eq!(contents(&*registry).await, before);
}

/// A Redis that would lose the registry, with an administrator.
fn dangerous() -> RedisServer {
    let (_, others) = USERS.split_once('\n').expect("the default user is first");
    let users = format!("user default off\n{others}user admin on >admin ~* &* +@all\n");
    RedisServer::with_users_and(&users, &["--appendonly", "yes"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_could_not_replay_its_file_is_refused_and_warned_of() {
    let server = dangerous();
    let url = server.url_as(REGISTRY);
    let line = "`user default off ~* &* +@all`";
    let refused = tollgate(&url, 0, &["init"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains(line), "{said}");
    let administer = |command: &[&str]| as_user(&server, "admin:admin", command);
    assert_eq!(administer(&["dbsize"]), "0", "nothing is made there");

    assert_eq!(administer(&["acl", "setuser", "default", "~*", "&*", "+@all"]), "OK");
    let made = tollgate(&url, 0, &["init"]).await;
    assert_eq!((made.status.code(), made.stderr.as_slice()), (Some(0), &b""[..]), "{made:?}");
    assert_eq!(administer(&["acl", "setuser", "default", "-@all"]), "OK");
    let listed = tollgate(&url, 0, &["user", "list"]).await;
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(listed.status.code() == Some(0) && said.contains("ERROR") && said.contains(line), "{said}");
    // Without a file to replay there is nothing to lose.
    assert_eq!(administer(&["config", "set", "appendonly", "no"]), "OK");
    let listed = tollgate(&url, 0, &["user", "list"]).await;
    assert_eq!((listed.status.code(), listed.stderr.as_slice()), (Some(0), &b""[..]), "{listed:?}");
}

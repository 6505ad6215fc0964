//! Users, passwords, and what else must hold of a server before it is used.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};

use tollgate::store::{self, Absent, Edit, Settings};

use super::{commit, open, settings, unusable};
use crate::harness::{RedisServer, eventually};

/// Everything that a sidecar of the version before needs, but for what is left out.
fn user(left_out: &[&str]) -> String {
    let mut rules = vec![
        "+hmget",
        "+info",
        "+scard",
        "+sscan",
        "+smismember",
        "+eval_ro",
        "+llen",
        "+lrange",
        "+rpush",
        "+sadd",
        "+srem",
        "+hscan",
        "+hlen",
        "+xrange",
        "+subscribe",
        "+set",
        "+del",
        "+pttl",
        "+pexpire",
        "+role",
        "+ping",
        "+multi",
        "+discard",
        "~{tollgate}:meta",
        "~{tollgate}:recalled",
        "~{tollgate}:recall_log",
        "~{tollgate}:owners",
        "~{tollgate}:grants",
        "~{tollgate}:log",
        "~{tollgate}:sidecars",
        "~{tollgate}:sidecar:*",
        "~{tollgate}:tenure",
        "&{tollgate}:changes:0",
    ];
    rules.retain(|rule| !left_out.contains(rule));
    format!("user default on nopass ~* &* +@all\nuser sidecar on >sesame resetchannels {}\n", rules.join(" "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_user_may_not_do_is_named() {
    for (left_out, named) in [
        ("+hscan", "HSCAN {tollgate}:owners, HSCAN {tollgate}:grants"),
        (
            "~{tollgate}:recalled",
            "SCARD {tollgate}:recalled, SSCAN {tollgate}:recalled, SMISMEMBER {tollgate}:recalled, SADD {tollgate}:recalled",
        ),
        ("&{tollgate}:changes:0", "SUBSCRIBE {tollgate}:changes:0"),
        ("+pexpire", "PEXPIRE {tollgate}:sidecar:0000000000000000, PEXPIRE {tollgate}:tenure"),
        ("+discard", "DISCARD"),
    ] {
        let redis = RedisServer::with_users(&user(&[left_out]));
        open(&redis.url()).await;
        let size = redis.cli(&["DBSIZE"]);
        let settings = settings(&redis.url_as("sidecar:sesame"));
        let awaited = store::open(&settings, Absent::Await).await.map(drop).expect_err(left_out).to_string();
        assert!(awaited.contains(&format!("({named})")) && awaited.contains("users.acl"), "{left_out}: {awaited}");
        assert_eq!(redis.cli(&["DBSIZE"]), size, "nothing was written to find out");
    }
    let redis = RedisServer::with_users(&user(&[]));
    open(&redis.url()).await;
    let sidecar = store::open(&settings(&redis.url_as("sidecar:sesame")), Absent::Await).await.expect("opens");
    sidecar.probe().await.expect("may read");
    let removed =
        sidecar.removed(&[tollgate::token::Digest::of(b"x")]).await.expect_err("of the version before").to_string();
    assert!(removed.contains("users.acl"), "{removed}");
    // Trying to change something as well is refused, and changes nothing.
    let error = sidecar.commit(crate::conformance::users([])).await.map(drop);
    assert!(error.is_err() || sidecar.position().await.expect("reads").revision.0 <= 1);
}

/// Or sidecars that reconnect would grow stale for want of a right that they have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_is_read_from_all_the_same() {
    let redis = RedisServer::start();
    let before = open(&redis.url()).await.position().await.expect("reads");
    for limit in [["maxmemory", "1"], ["min-replicas-to-write", "1"]] {
        assert_eq!(redis.cli(&[["CONFIG", "SET"], limit].concat()), "OK");
        let late = store::open(&settings(&redis.url()), Absent::Refuse).await.expect("opens");
        // One that watches says first that it has come, which is a write.
        let _watch = late.watch();
        assert_eq!(late.probe().await.expect("answers").position, before);
        let creates = [Edit::Create(crate::conformance::user("anna"))];
        assert!(late.commit(crate::conformance::users(creates)).await.is_err());
        assert_eq!(redis.cli(&["CONFIG", "SET", limit[0], "0"]), "OK");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_are_read_again_for_each_connection() {
    let redis = RedisServer::with_users("user default on >first ~* &* +@all\n");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "first\r\n").expect("writes");
    let settings = Settings { password_file: Some(file.path().to_owned()), ..settings(&redis.url()) };
    let store = store::open(&settings, Absent::Create).await.expect("opens");
    redis.cli(&["-a", "first", "ACL", "SETUSER", "default", "resetpass", ">second"]);
    std::fs::write(file.path(), "second").expect("writes");
    redis.cli(&["-a", "second", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("the new password is used", || async { store.position().await.is_ok() }).await;

    let wrong = unusable(&super::settings(&redis.url_as(":s3cret"))).await;
    assert!(wrong.contains("refuses the user or its password") && !wrong.contains("s3cret"), "{wrong}");
    let none = unusable(&super::settings(&redis.url())).await;
    assert!(none.contains("asks for a user and a password"), "{none}");
    std::fs::write(file.path(), "wr0ng").expect("writes");
    let wrong = unusable(&settings).await;
    assert!(!wrong.contains("wr0ng"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_something_else_under_our_keys_is_left_alone() {
    for (command, found) in [
        (["SET", "{tollgate}:grants", "1"].as_slice(), "has a string at {tollgate}:grants"),
        (&["RPUSH", "{tollgate}:log", "1"], "has a list at {tollgate}:log"),
        (&["HSET", "{tollgate}:meta", "schema", "2"], "has schema 2"),
        (&["HSET", "{tollgate}:users", "a", "b"], "has {tollgate}:users but not {tollgate}:meta"),
    ] {
        let redis = RedisServer::start();
        redis.cli(command);
        let message = unusable(&settings(&redis.url())).await;
        assert!(message.contains(found), "{message}");
        assert_eq!(redis.cli(&["DBSIZE"]), "1");
        // Another namespace is nobody's.
        let other = Settings { namespace: "other".parse().expect("a namespace"), ..settings(&redis.url()) };
        let store = store::open(&other, Absent::Create).await.expect("opens");
        commit(&*store, "a").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_redis_is_named() {
    let hello =
        "%3\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";
    let message = unusable(&settings(&format!("redis://{}", answering(hello)))).await;
    assert!(message.contains("is Redis 6.2.14") && message.contains("needs 7.0 or later"), "{message}");
    let unknown = "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n";
    let message = unusable(&settings(&format!("redis://{}", answering(unknown)))).await;
    assert!(message.contains("is Redis 5 or older"), "{message}");
}

/// A server that answers every command with the same.
fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut answers = stream.try_clone().expect("clones");
            // Every command is an array; nothing else begins with an asterisk.
            for line in BufReader::new(stream).lines().map_while(Result::ok).filter(|line| line.starts_with('*')) {
                drop((line, answers.write_all(answer.as_bytes())));
            }
        }
    });
    address
}

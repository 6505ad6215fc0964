//! `tollgate serve` and the commands with a Redis that is away, empty, or not to be used: the real program.

use std::time::Duration;

use crate::harness::{RedisServer, Serving, eventually, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_starts_before_its_redis_and_is_ready_soon_after_it() {
    // Otherwise a write waits for a slow sync of the one before, and is lost by being killed.
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let init = run(&["--store", &redis.url(), "init"], &[]);
    assert!(init.status.success(), "{}", text(&init.stderr));
    redis.kill();
    let mut sidecar = Serving::start(&redis.url(), &[]).await;
    let reason = sidecar.says("the store does not answer: the replica is growing stale").await;
    assert!(reason["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{reason}");
    assert_eq!(sidecar.readiness().await, 503);
    redis.restart();
    sidecar.says("ready").await;
    assert_eq!(sidecar.readiness().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_waits_for_a_registry_and_says_how_to_make_one() {
    let redis = RedisServer::start();
    let mut sidecar = Serving::start(&redis.url(), &[]).await;
    let reason = sidecar.says("there is no registry: nobody is let in until there is").await;
    assert!(reason["reason"].as_str().is_some_and(|reason| reason.contains("run `tollgate init`")), "{reason}");
    assert_eq!(sidecar.readiness().await, 503);
    assert_eq!(redis.cli(&["EXISTS", "{tollgate}:meta"]), "0", "a sidecar makes no registry");
    let refused = run(&["--store", &redis.url(), "token", "list"], &[]);
    assert!(text(&refused.stderr).contains("run `tollgate init`"), "{refused:?}");
    assert!(run(&["--store", &redis.url(), "init"], &[]).status.success());
    sidecar.says("ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_to_mend_ends_the_start() {
    let redis = RedisServer::with_users("user default on >sesame ~* &* +@all\n");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    for (url, part) in [
        (redis.url_as(":s3cret"), "refuses the user or its password"),
        (redis.url(), "asks for a user and a password"),
        (redis.url_as(":sesame").replacen("redis", "redis-cluster", 1), "does not run as a cluster"),
    ] {
        let ended = run(&serve, &[("TOLLGATE_STORE__URL", &url)]);
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(part) && !said.contains("s3cret") && !said.contains("sesame"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_do_not_belong_on_the_command_line() {
    let redis = RedisServer::with_users("user default on >sesame ~* &* +@all\n");
    for command in [["init"].as_slice(), &["serve"], &["check"], &["token", "list"]] {
        let ended = run(&[&["--store", &redis.url_as(":sesame")], command].concat(), &[]);
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains("TOLLGATE_STORE__PASSWORD_FILE") && !said.contains("sesame"), "{said}");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "sesame\n").expect("writes");
    let password = [("TOLLGATE_STORE__PASSWORD_FILE", file.path().to_str().expect("a plain path"))];
    let made = run(&["--store", &redis.url(), "init"], &password);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let url = redis.url_as(":sesame");
    let listed = run(&["token", "list"], &[("TOLLGATE_STORE__URL", &url)]);
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let shown = text(&run(&["check"], &[("TOLLGATE_STORE__URL", &url)]).stdout);
    assert!(shown.contains(&redis.url()) && !shown.contains("sesame"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_at_rest_costs_redis_little() {
    const SECONDS: u64 = 4;
    let redis = RedisServer::start();
    assert!(run(&["--store", &redis.url(), "init"], &[]).status.success());
    let mut sidecar = Serving::start(&redis.url(), &[]).await;
    sidecar.says("ready").await;
    eventually("it is subscribed", || async {
        redis.cli(&["PUBSUB", "NUMSUB", "{tollgate}:changes:0"]).ends_with('1')
    })
    .await;
    let commands = || -> u64 {
        let statistics = redis.cli(&["INFO", "stats"]);
        let count = statistics.lines().find_map(|line| line.trim().strip_prefix("total_commands_processed:"));
        count.and_then(|count| count.parse().ok()).expect("a number")
    };
    let before = commands();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    // The count itself is one; a probe more or less falls into the time.
    let per_second = (commands() - before - 1) as f64 / SECONDS as f64;
    assert!(per_second <= 5.0, "{per_second} commands a second");
}

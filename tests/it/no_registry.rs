//! A store without a registry, or without one any more, says nothing about any token: 503, never 401. One that has one
//! again is used without a restart.

use std::fs;
use std::path::{Path, PathBuf};

use tollgate::store::{Absent, Retention, SqliteStore};

use crate::harness::fleet::{open, settings};
use crate::harness::{RedisServer, Serving, Upstream, eventually, run};

/// What its directory holds.
fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("reads").map(|entry| entry.expect("reads").path());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Makes a registry, and returns its Owner's token.
fn init(url: &str) -> String {
    let made = run(&["--store", url, "init"], &[]);
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("text").trim().to_owned()
}

/// Starts a sidecar that believes its replica for two seconds.
async fn serving(url: &str, api: &Upstream) -> Serving {
    let api = format!("http://{}", api.address());
    let variables = [("TOLLGATE_UPSTREAM__API__URL", api.as_str()), ("TOLLGATE_FRESHNESS__MAX_STALENESS", "2s")];
    Serving::start(url, &variables).await
}

/// A sidecar that is started with a store that holds no registry: nobody is told that a token is bad, and once there is a
/// registry it is used.
async fn waits_for_a_registry(url: &str) -> Serving {
    let api = Upstream::start().await;
    let mut sidecar = serving(url, &api).await;
    let said = sidecar.says("there is no registry: nobody is let in until there is").await;
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("run `tollgate init`")), "{said}");
    assert_eq!((sidecar.fetch("tc-apiv1_whoever").await, sidecar.readiness().await), (503, 503));
    let token = init(url);
    sidecar.says("ready").await;
    assert_eq!((sidecar.fetch(&token).await, sidecar.readiness().await), (200, 200));
    assert_eq!(sidecar.fetch("tc-apiv1_whoever").await, 401);
    sidecar
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_missing_or_empty_is_no_registry() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 4] = [
        ("no file", |_| ()),
        ("no directory", |path| fs::remove_dir(path.parent().expect("a directory")).expect("removes")),
        ("a file of no bytes", |path| fs::write(path, b"").expect("writes")),
        ("a database without tables", |path| {
            let connection = rusqlite::Connection::open(path).expect("opens");
            connection.execute_batch("CREATE TABLE t (x); DROP TABLE t").expect("runs");
        }),
    ];
    for (kind, make) in kinds {
        println!("{kind}");
        let parent = tempfile::tempdir().expect("a directory");
        let volume = parent.path().join("volume");
        fs::create_dir(&volume).expect("makes");
        let path = volume.join("tollgate.db");
        make(&path);
        let before = volume.exists().then(|| names(&volume));
        let api = Upstream::start().await;
        let mut sidecar = serving(&url(&path), &api).await;
        sidecar.says("there is no registry: nobody is let in until there is").await;
        assert_eq!(volume.exists().then(|| names(&volume)), before, "a sidecar makes no registry");
        drop(sidecar);
        waits_for_a_registry(&url(&path)).await;
    }
}

/// `init` makes the store, then commits the Owner. It was killed in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_was_never_finished_is_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tollgate.db");
    drop(SqliteStore::open(&path, Retention::default()).await.expect("makes"));
    waits_for_a_registry(&url(&path)).await;

    let redis = RedisServer::start();
    drop(open(&settings(&redis.url(), 0), Absent::Create).await);
    waits_for_a_registry(&redis.url()).await;
}

/// What is there after a registry was: the sidecar serves on until its bound, and then says 503, at no time 401; the log
/// says what helps. Once the registry is back, so is the sidecar.
async fn outlives_the_loss(what: &str, url: &str, lose: impl AsyncFnOnce(), bring_back: impl AsyncFnOnce()) {
    println!("{what}");
    let token = init(url);
    let api = Upstream::start().await;
    let mut sidecar = serving(url, &api).await;
    sidecar.says("ready").await;
    assert_eq!(sidecar.fetch(&token).await, 200);
    lose().await;
    let said = sidecar
        .says("the registry is gone: restore it from a backup; until then the replica stays as it is and grows stale");
    let said = said.await.to_string();
    assert!(!said.contains("tollgate init"), "{said}");
    let statuses = std::cell::RefCell::new(Vec::new());
    eventually("it refuses", || async {
        let status = sidecar.fetch(&token).await;
        statuses.borrow_mut().push(status);
        status == 503
    })
    .await;
    let statuses = statuses.into_inner();
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert_eq!(sidecar.readiness().await, 503);
    let refused = sidecar.says("requests are refused: for too long the replica was not proven to be the store's").await;
    assert_eq!((&refused["permissions"], &refused["bound_seconds"]), (&"all others".into(), &2.0.into()));
    bring_back().await;
    eventually("it serves again", || async { sidecar.fetch(&token).await == 200 }).await;
    let end = sidecar.says("the replica is fresh again: requests are served").await;
    let seconds = |field: &str| end[field].as_f64().expect("a number");
    assert!(seconds("refused_seconds") > 0.0 && seconds("stale_seconds") > seconds("refused_seconds"), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_is_no_verdict() {
    type Lose = fn(&Path);
    let ways: [(&str, Lose); 4] = [
        ("removed", |_| ()),
        ("unmounted", |path| fs::create_dir_all(path.parent().expect("a directory")).expect("makes")),
        ("emptied", |path| fs::write(path, b"").expect("writes")),
        ("made anew, and not finished", |path| {
            let path = path.to_owned();
            let made = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                runtime.block_on(SqliteStore::open(&path, Retention::default())).map(drop)
            });
            made.join().expect("no panic").expect("makes");
        }),
    ];
    for (what, lose) in ways {
        let parent = tempfile::tempdir().expect("a directory");
        let (volume, away) = (parent.path().join("volume"), parent.path().join("away"));
        fs::create_dir(&volume).expect("makes");
        let path = volume.join("tollgate.db");
        let whole = what == "unmounted";
        let (from, to) = if whole { (&volume, &away) } else { (&path, &away) };
        let lost = async || {
            if what.starts_with("made anew") {
                // What is not in the file itself goes when SQLite makes another one there.
                let connection = rusqlite::Connection::open(&path).expect("opens");
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("writes back");
            }
            fs::rename(from, to).expect("renames");
            lose(&path);
        };
        let back = async || {
            if whole {
                fs::remove_dir_all(from).expect("removes");
            }
            fs::rename(to, from).expect("renames");
        };
        outlives_the_loss(what, &url(&path), lost, back).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_everything_is_no_verdict() {
    // Everything gone; and all commits gone, but what `init` wrote first still there.
    for what in ["flushed", "without its commits"] {
        let redis = RedisServer::start();
        let dump = redis.directory().join("dump.rdb");
        let lose = async || {
            assert_eq!(redis.cli(&["save"]), "OK");
            fs::copy(&dump, redis.directory().join("backup.rdb")).expect("copies");
            let meta = redis.cli(&["hmget", "{tollgate}:meta", "schema", "epoch"]);
            assert_eq!(redis.cli(&["flushall"]), "OK");
            if what == "without its commits" {
                let (schema, epoch) = meta.split_once('\n').expect("both");
                let head = "0".repeat(32);
                let zero = ["revision", "0", "head", &head, "checksum", "0000000000000000", "log_changes", "0"];
                redis.cli(&[&["hset", "{tollgate}:meta", "schema", schema, "epoch", epoch.trim()], &zero[..]].concat());
            }
        };
        let back = async || {
            fs::copy(redis.directory().join("backup.rdb"), &dump).expect("copies");
            // In one step: a key that the sidecar writes in between would be there twice, and end the server.
            let answer = redis.cli(&["debug", "reload", "nosave"]);
            assert!(answer == "OK", "{answer}");
        };
        outlives_the_loss(what, &redis.url(), lose, back).await;
    }
}

//! Restarts: what the snapshot file spares, and what it never does.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tollgate::replica::SidecarIdentity;

use crate::harness::{Builder, CONFIG, RedisServer, Relay, Serving, Site, Traffic, Upstream, eventually, get, run};

const FILE: &str = "replica.snapshot";

/// Long enough that a restart fits in, short enough to be waited for.
const BOUND: Duration = Duration::from_secs(3);

/// A site with a snapshot file, that asks its store often and believes its replica for [`BOUND`].
fn saving() -> Builder {
    Site::builder()
        .setting("FRESHNESS__PROBE_INTERVAL", "50ms")
        .setting("FRESHNESS__MAX_STALENESS", "3s")
        .config_in(|config, directory| config.snapshot_file = Some(directory.join(FILE)))
}

fn file(site: &Site) -> PathBuf {
    site.directory().join(FILE)
}

/// The status of a request with the agent's token.
async fn status(site: &Site) -> u16 {
    site.get(CONFIG, &site.agent).await.status()
}

#[tokio::test]
async fn a_restart_during_an_outage_serves_on_for_as_long_as_without_it() {
    let site = saving().start().await;
    let revoked = site.token("olga", &["configs:read"]).await;
    site.replica_reaches(site.revoke(&revoked).await).await;
    site.store.set_broken(true);
    let gone = Instant::now();
    let site = site.restart().await;
    eventually("served from the file", || async { status(&site).await == 200 }).await;
    println!("served {:?} after the store went away, restart included", gone.elapsed());
    assert_eq!(site.get(CONFIG, &revoked).await.status(), 401, "also to be said by a fresh replica only");

    let site = site.restart().await;
    let served = Cell::new(0);
    eventually("the bound has passed", || async {
        let mut client = site.connect().await;
        let sent = Instant::now();
        client.send(get(CONFIG, &site.agent)).await;
        let status = client.reply().await.status();
        served.set(served.get() + usize::from(status == 200));
        // The last proof was asked for before the store went away.
        assert!(status == 503 || sent - gone <= BOUND, "served {:?} after the last proof", sent - gone);
        sent - gone > BOUND
    })
    .await;
    assert!(served.get() > 0, "restarted twice within one outage");
    assert_eq!(site.get(CONFIG, &revoked).await.status(), 503);

    let site = site.restart().await;
    eventually("the file is loaded", || async {
        site.sidecar.replica().staleness(tollgate::clock::Instant::now()).is_some()
    })
    .await;
    assert_eq!(status(&site).await, 503, "a restart makes nothing fresher");
    site.store.set_broken(false);
    site.replica_is_current().await;
    assert_eq!((status(&site).await, site.get(CONFIG, &revoked).await.status()), (200, 401));
}

/// The same outage without a file.
#[tokio::test]
async fn without_the_file_a_restart_during_an_outage_serves_nothing() {
    let site = saving().config(|config| config.snapshot_file = None).start().await;
    site.store.set_broken(true);
    let site = site.restart().await;
    assert_eq!(status(&site).await, 503);
    assert!(!file(&site).exists());
}

#[tokio::test]
async fn what_was_committed_while_the_sidecar_was_away_is_caught_up_with() {
    let site = saving().start().await;
    let kept = site.token("olga", &["configs:read"]).await;
    site.store.set_broken(true);
    let site = site.restart().await;
    // The sidecar cannot know; the registry uses the store itself.
    let revision = site.revoke(&site.agent).await;
    let before = site.sidecar.replica().status().resyncs;
    site.store.set_broken(false);
    site.replica_reaches(revision).await;
    assert_eq!((status(&site).await, site.get(CONFIG, &kept).await.status()), (401, 200));
    let status = site.sidecar.replica().status();
    assert_eq!((status.resyncs, status.divergences), (before, 0), "the log was enough");
}

#[tokio::test]
async fn a_damaged_file_is_ignored_and_replaced() {
    let site = saving().start().await;
    let path = file(&site);
    let cut = || {
        let whole = std::fs::read(&path).expect("was written");
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("writes");
    };
    site.store.set_broken(true);
    let site = site.restart_after(cut).await;
    assert_eq!(status(&site).await, 503);
    site.store.set_broken(false);
    site.replica_is_current().await;
    assert_eq!(status(&site).await, 200);
    site.store.set_broken(true);
    let site = site.restart().await;
    eventually("served from the file", || async { status(&site).await == 200 }).await;
}

/// Two sidecars under one id would be one to whoever waits for both.
#[tokio::test]
async fn a_file_that_another_sidecar_uses_is_refused() {
    let site = saving().start().await;
    let path = file(&site);
    let refused = SidecarIdentity::take(Some(&path)).expect_err("in use").to_string();
    assert!(refused.contains("another sidecar uses the snapshot file"), "{refused}");
    site.sidecar.stop().await;
    let id = std::fs::read_to_string(path.with_added_extension("id")).expect("was written");
    let again = SidecarIdentity::take(Some(&path)).expect("is free").id;
    assert!(id.starts_with(&format!("{again} ")), "{id}: {again}");
}

/// The sidecar whose copy it is may be running: whoever waits for that one waits for nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_serves_nothing_until_the_store_answers() {
    let redis = RedisServer::start();
    let relay = Relay::start(redis.address()).await;
    let url = format!("redis://{}", relay.address());
    let made = run(&["--store", &url, "init"], &[]);
    let token = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    let (directory, api) = (tempfile::tempdir().expect("a directory"), Upstream::start().await);
    let (api, path) = (format!("http://{}", api.address()), |name: &str| directory.path().join(name));
    let start = async |name| {
        let path = path(name);
        let variables = [
            ("TOLLGATE_UPSTREAM__API__URL", api.as_str()),
            ("TOLLGATE_STORE__SNAPSHOT_FILE", path.to_str().expect("plain")),
        ];
        Serving::start(&url, &variables).await
    };
    let original = start("original").await;
    eventually("the file is written", async || path("original").exists()).await;
    for file in ["original", "original.id"] {
        std::fs::copy(path(file), path(&file.replace("original", "copy"))).expect("copies");
    }
    relay.set(Traffic::Cut).await;
    original.kill();
    let original = start("original").await;
    eventually("it serves from its file", async || original.fetch(&token).await == 200).await;
    for _ in 0..2 {
        let mut copy = start("copy").await;
        copy.says("the replica was loaded from the snapshot file").await;
        assert_eq!(copy.fetch(&token).await, 503);
        copy.kill();
    }
    let copy = start("copy").await;
    relay.heal().await;
    eventually("the store answers", async || copy.fetch(&token).await == 200).await;
}

#[tokio::test]
async fn the_file_of_another_life_of_the_store_is_given_up() {
    let (one, two) = (saving().start().await, saving().start().await);
    let one_file = file(&one);
    let one = one.restart().await;
    let two_file = file(&two);
    let replace = || assert!(std::fs::copy(one_file, two_file).expect("copies") > 0);
    let two = two.restart_after(replace).await;
    two.replica_is_current().await;
    assert_eq!((two.get(CONFIG, &one.agent).await.status(), status(&two).await), (401, 200));
    assert_eq!(two.sidecar.replica().status().resyncs, 1);
}

/// It was proven fresh a moment ago, longer after the file was written than the replica is believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_a_quiet_registry_leaves_a_file_that_is_as_fresh_as_the_replica_was() {
    let mut redis = RedisServer::start();
    let made = run(&["--store", &redis.url(), "init"], &[]);
    let token = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    let (directory, api) = (tempfile::tempdir().expect("a directory"), Upstream::start().await);
    let path = directory.path().join(FILE);
    let api = format!("http://{}", api.address());
    let variables = [
        ("TOLLGATE_UPSTREAM__API__URL", api.as_str()),
        ("TOLLGATE_FRESHNESS__PROBE_INTERVAL", "50ms"),
        ("TOLLGATE_FRESHNESS__MAX_STALENESS", "5s"),
        ("TOLLGATE_STORE__SNAPSHOT_FILE", path.to_str().expect("plain")),
    ];
    let mut sidecar = Serving::start(&redis.url(), &variables).await;
    sidecar.says("ready").await;
    eventually("the file is written", || async { path.exists() }).await;
    let written = std::fs::metadata(&path).expect("is there");
    tokio::time::sleep(Duration::from_secs(7)).await; // the quiet
    assert_eq!(std::fs::metadata(&path).expect("is there").len(), written.len());
    redis.kill();
    sidecar.kill();
    let sidecar = Serving::start(&redis.url(), &variables).await;
    eventually("the file is loaded", || async { sidecar.fetch(&token).await == 200 }).await;
    eventually("the bound passes", || async { sidecar.fetch(&token).await == 503 }).await;
}

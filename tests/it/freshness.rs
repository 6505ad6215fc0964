//! How long a sidecar serves without its store, and what it says then.

use std::time::{Duration, Instant};

use tollgate::registry::Registry;
use tollgate::store::{Retention, SqliteStore};

use crate::harness::{Builder, CONFIG, Client, HEARTBEAT, Site, Token, eventually, get, operator, post};

/// The status and body of a `GET` on the admin listener.
async fn admin(site: &Site, path: &str) -> (u16, String) {
    let mut client = Client::connect(site.sidecar.admin()).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")).await;
    let said = String::from_utf8(client.rest().await).expect("text");
    let (head, body) = said.split_once("\r\n\r\n").expect("a head");
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

/// A site that asks its store often and believes its replica for a moment only.
fn hasty() -> Builder {
    Site::builder().setting("FRESHNESS__PROBE_INTERVAL", "50ms").setting("FRESHNESS__MAX_STALENESS", "400ms")
}

const UNAVAILABLE: (u16, &str) = (503, "Token registry unavailable");

#[tokio::test]
async fn a_sidecar_is_ready_once_its_replica_is_complete() {
    let site = hasty().store_is_down().start().await;
    assert_eq!(admin(&site, "/livez").await.0, 200);
    let (status, body) = admin(&site, "/readyz").await;
    assert_eq!((status, body.contains("has not been read yet")), (503, true), "{body}");
    for reply in [site.get(CONFIG, &site.agent).await, site.beat(&site.agent).await] {
        assert_eq!((reply.status(), reply.error().as_str()), UNAVAILABLE);
    }
    assert_eq!(site.forwarded(), 0);

    site.store.set_broken(false);
    let returned = Instant::now();
    site.replica_is_current().await;
    println!("ready {:?} after the store's return", returned.elapsed());
    assert_eq!(admin(&site, "/readyz").await.0, 200);
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
}

/// Until it is, nobody can say that a token is not good, either.
#[tokio::test]
async fn an_unknown_token_is_not_refused_as_such_before_the_first_snapshot() {
    let site = hasty().store_is_down().start().await;
    let reply = site.send("GET /api/configs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer tc-apiv1_x\r\n\r\n").await;
    assert_eq!((reply.status(), reply.error().as_str()), UNAVAILABLE);
    let reply = site.send("GET /api/configs HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(reply.status(), 401, "that there is no token can be said without the registry");
    let reply = site.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(reply.status(), 404);
}

#[tokio::test]
async fn a_store_that_goes_away_is_lived_without_up_to_the_bound() {
    let site = hasty().start().await;
    let mut client = site.connect().await;
    site.store.set_broken(true);
    let gone = Instant::now();
    let (mut served, refused) = (
        0,
        loop {
            client.send(get(CONFIG, &site.agent)).await;
            let reply = client.reply().await;
            if reply.status() != 200 {
                break reply;
            }
            assert!(gone.elapsed() < Duration::from_secs(5), "served without bound");
            tokio::time::sleep(Duration::from_millis(5)).await;
        },
    );
    served += site.api.requests().len();
    println!("{served} requests served, refused {:?} after the store went away", gone.elapsed());
    assert!(served > 0, "served from the replica at first");
    // It was proven fresh 50 ms before at the latest, so it may serve 350 ms at least.
    assert!(gone.elapsed() >= Duration::from_millis(200), "{:?}", gone.elapsed());
    assert_eq!((refused.status(), refused.error().as_str()), UNAVAILABLE);
    assert!(refused.field("Retry-After").is_some());
    let (status, body) = admin(&site, "/readyz").await;
    assert_eq!((status, body.contains("stale")), (503, true), "{body}");
    assert_eq!(admin(&site, "/livez").await.0, 200, "restarting it would help nobody");

    site.store.set_broken(false);
    let returned = Instant::now();
    eventually("served again", || async { site.get(CONFIG, &site.agent).await.status() == 200 }).await;
    println!("served again {:?} after the store's return", returned.elapsed());
    assert_eq!(admin(&site, "/readyz").await.0, 200);
}

/// Stated choices: heartbeats never end, configurations are read for a while only.
#[tokio::test]
async fn each_permission_has_its_own_bound() {
    let site = hasty()
        .setting("FRESHNESS__MAX_STALENESS", "60s")
        .setting("FRESHNESS__PER_PERMISSION", r#"{ "heartbeat:write" = "never", "configs:read" = "300ms" }"#)
        .start()
        .await;
    let owner = site.owner.clone();
    site.store.set_broken(true);
    eventually("configurations are no longer read", || async { site.get(CONFIG, &site.agent).await.status() == 503 })
        .await;
    assert_eq!(site.beat(&site.agent).await.status(), 200, "never");
    assert_eq!(site.get("/api/users", &owner).await.status(), 200, "the general bound");
    assert_eq!(admin(&site, "/readyz").await.0, 200, "readiness goes by the general bound");
}

/// Without a bound a known token is let in for ever; that a token is *not* known is still said by a fresh replica only.
#[tokio::test]
async fn no_bound_for_yes_does_not_mean_no_bound_for_no() {
    let site = hasty().setting("FRESHNESS__PER_PERMISSION", r#"{ "heartbeat:write" = "never" }"#).start().await;
    let reader = site.token("olga", &["configs:read"]).await;
    let unknown = Token { id: site.agent.id, raw: "tc-apiv1_unknown".to_owned() };
    assert_eq!(site.beat(&unknown).await.status(), 401);
    assert_eq!(site.beat(&reader).await.status(), 403);
    site.store.set_broken(true);
    eventually("the general bound has passed", || async { site.get(CONFIG, &site.agent).await.status() == 503 }).await;
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    for token in [unknown, reader] {
        let reply = site.beat(&token).await;
        assert_eq!((reply.status(), reply.error().as_str()), UNAVAILABLE);
    }
}

/// What was revoked while the store was away is refused as soon as it is back, never served in between.
#[tokio::test]
async fn a_revocation_during_an_outage_counts_from_the_return_of_the_store() {
    let site = hasty().start().await;
    site.store.set_broken(true);
    eventually("the bound has passed", || async { site.get(CONFIG, &site.agent).await.status() == 503 }).await;
    site.registry.revoke(&operator(), &[site.agent.id], false).await.expect("revokes");
    site.store.set_broken(false);
    let mut client = site.connect().await;
    let refused = loop {
        client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
        let reply = client.reply().await;
        assert_ne!(reply.status(), 200, "a fresh replica knows of the revocation");
        if reply.status() != 503 {
            break reply;
        }
    };
    assert_eq!((refused.status(), refused.error().as_str()), (401, "Invalid token"));
}

#[tokio::test]
async fn a_commit_of_another_process_is_seen() {
    let site = Site::start().await;
    let path = site.directory().join("tollgate.db");
    let other = SqliteStore::open(&path, Retention::default()).await.expect("opens");
    let other = Registry::new(std::sync::Arc::new(other));
    let mut delays = Vec::new();
    for round in 0..20 {
        other.add_user(&operator(), &format!("user-{round}"), tollgate::token::Role::Viewer).await.expect("adds");
        let committed = Instant::now();
        let revision = other.store().position().await.expect("reads").revision;
        site.replica_reaches(revision).await;
        delays.push(committed.elapsed());
    }
    delays.sort();
    println!("seen after {:?} (median), {:?} (longest)", delays[10], delays[19]);
    assert!(delays[10] < Duration::from_secs(1), "{delays:?}: noticed by the probe, not by the watch");
}

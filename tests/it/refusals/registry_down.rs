//! A registry that cannot be trusted: 503 and never 401, which would blame a good token.

use super::assert_refused;
use crate::harness::{CONFIG, HEARTBEAT, Site, eventually, get, request};

const UNAVAILABLE: &str = "Token registry unavailable";

#[tokio::test]
async fn before_the_first_snapshot_nobody_can_say_yes_or_no() {
    let site = Site::builder().store_is_down().start().await;
    let unknown = request("GET", CONFIG, "Authorization: Bearer tc-apiv1_unknown\r\n");
    assert_refused(&site.get(CONFIG, &site.agent).await, 503, UNAVAILABLE);
    assert_refused(&site.beat(&site.agent).await, 503, UNAVAILABLE);
    assert_refused(&site.send(&unknown).await, 503, UNAVAILABLE);
    // What needs no registry to be answered is answered.
    assert_refused(&site.send(request("GET", CONFIG, "")).await, 401, "Missing or invalid Authorization header");
    assert_refused(&site.get("/nothing", &site.agent).await, 404, "Not found");
    let authorization = format!("Authorization: Bearer {}\r\n", site.agent.raw);
    assert_eq!(site.send(request("HEAD", "/api/configs", &authorization)).await.status(), 503);
    assert_eq!(site.forwarded(), 0);

    site.store.set_broken(false);
    site.replica_is_current().await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    assert_refused(&site.send(&unknown).await, 401, "Invalid token");
}

#[tokio::test]
async fn past_max_staleness_the_replica_is_no_longer_believed_until_the_store_is_back() {
    let settings = [("FRESHNESS__PROBE_INTERVAL", "20ms"), ("FRESHNESS__MAX_STALENESS", "300ms")];
    let site = settings.iter().fold(Site::builder(), |builder, (key, value)| builder.setting(key, value)).start().await;
    eventually("served", || async { site.get(CONFIG, &site.agent).await.status() == 200 }).await;
    site.store.set_broken(true);
    eventually("the bound is passed", || async { site.get(CONFIG, &site.agent).await.status() == 503 }).await;
    let before = site.forwarded();
    assert_refused(&site.get(CONFIG, &site.agent).await, 503, UNAVAILABLE);
    assert_refused(&site.send(request("GET", CONFIG, "Authorization: Bearer tc-apiv1_x\r\n")).await, 503, UNAVAILABLE);
    assert_refused(&site.get("/api/tokens", &site.agent).await, 503, UNAVAILABLE);
    assert_eq!(site.forwarded(), before);
    site.store.set_broken(false);
    eventually("served again", || async { site.get(CONFIG, &site.agent).await.status() == 200 }).await;
}

/// Agents' heartbeats may go on through an outage; what a stale replica cannot say is that a token does *not* exist.
#[tokio::test]
async fn a_permission_without_a_bound_is_served_by_a_stale_replica_which_still_never_says_401() {
    let site = Site::builder()
        .setting("FRESHNESS__PROBE_INTERVAL", "20ms")
        .setting("FRESHNESS__MAX_STALENESS", "300ms")
        .setting("FRESHNESS__PER_PERMISSION", "{\"heartbeat:write\" = \"never\"}")
        .start()
        .await;
    site.store.set_broken(true);
    eventually("the bound is passed", || async { site.get(CONFIG, &site.agent).await.status() == 503 }).await;
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    let unknown = request("POST", HEARTBEAT, "Authorization: Bearer tc-apiv1_x\r\nContent-Length: 0\r\n");
    assert_refused(&site.send(unknown).await, 503, UNAVAILABLE);
    assert_refused(&site.send(get(CONFIG, &site.agent)).await, 503, UNAVAILABLE);
}

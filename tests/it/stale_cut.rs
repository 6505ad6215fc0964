//! What runs when the replica becomes stale: it ends at the same bound as new requests are refused, and what has another
//! bound, or none, goes on.

use std::time::{Duration, Instant};

use h2::Reason;

use crate::harness::{
    Builder, CONFIG, Client, DOWNLOAD, HEARTBEAT, Http2Client, Script, Site, Token, eventually, get, http2_cut,
    http2_with, ok, request,
};

/// Far above the bounds below. What it took is printed.
const PROMPTLY: Duration = Duration::from_secs(4);

/// A site that asks its store often and believes its replica for a moment only.
fn hasty() -> Builder {
    Site::builder().setting("FRESHNESS__PROBE_INTERVAL", "50ms").setting("FRESHNESS__MAX_STALENESS", "400ms")
}

/// Begins an upload that is streamed: more than fits into any buffer.
async fn upload(site: &Site, fields: &str) -> Client {
    let before = site.heartbeat.requests().len();
    let mut client = site.connect().await;
    client.send(request("POST", HEARTBEAT, &format!("{fields}Content-Length: 100000\r\n"))).await;
    client.send([b'x'; 50_000]).await;
    let begun = |seen: &crate::harness::Seen| seen.requests.get(before).is_some_and(|one| one.body.len() == 50_000);
    site.heartbeat.until("half a body", begun).await;
    client
}

fn bearer(token: &Token) -> String {
    format!("Authorization: Bearer {}\r\n", token.raw)
}

#[track_caller]
fn assert_prompt(what: &str, since: Instant) {
    println!("{what}: cut {:?} after the store went away", since.elapsed());
    assert!(since.elapsed() < PROMPTLY, "{what}: {:?}", since.elapsed());
}

#[tokio::test]
async fn a_download_is_cut_at_the_bound() {
    let site = hasty().start().await;
    let (mut client, pieces) = site.download(get(CONFIG, &site.agent)).await;
    site.store.set_broken(true);
    let gone = Instant::now();
    client.is_reset().await;
    assert_prompt("a download", gone);
    assert!(gone.elapsed() >= Duration::from_millis(200), "no sooner than new requests are refused");
    let let_go = async { while pieces.send(b"more".to_vec()).await.is_ok() {} };
    crate::harness::within("its upstream is let go", let_go).await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 503);
}

/// One that nobody reads is cut too: then it is the client that is waited for.
#[tokio::test]
async fn a_download_that_is_stuck_is_cut_at_the_bound() {
    let site = hasty().start().await;
    let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 1000000000\r\n\r\n";
    site.api.next(Script::flood(head, vec![b'x'; 100_000], 10_000));
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.head().await.expect("a head").status, 200);
    site.store.set_broken(true);
    let gone = Instant::now();
    site.api.until("its upstream is let go", |seen| seen.closed == 1).await;
    assert_prompt("a download that is stuck", gone);
    client.is_cut().await;
}

/// While nothing was said yet, the client can be told why.
#[tokio::test]
async fn an_upload_is_refused_at_the_bound() {
    let site = hasty().start().await;
    let mut client = upload(&site, &bearer(&site.agent)).await;
    site.store.set_broken(true);
    let gone = Instant::now();
    let reply = client.reply().await;
    assert_prompt("an upload", gone);
    assert_eq!((reply.status(), reply.error().as_str()), (503, "Token registry unavailable"));
    site.heartbeat.until("its upstream is let go", |seen| seen.closed == 1).await;
    assert!(!site.heartbeat.request().complete, "what was cut off may not look whole");
}

#[tokio::test]
async fn a_request_that_waits_for_its_upstream_is_refused_at_the_bound() {
    let site = hasty().start().await;
    site.api.next(Script::silent());
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    site.api.until("the request", |seen| seen.requests.len() == 1).await;
    site.store.set_broken(true);
    let gone = Instant::now();
    let reply = client.reply().await;
    assert_prompt("a request that waits", gone);
    assert_eq!((reply.status(), reply.error().as_str()), (503, "Token registry unavailable"));
    site.api.until("its upstream is let go", |seen| seen.closed == 1).await;
}

#[tokio::test]
async fn streams_are_cut_at_the_bound_and_their_connection_goes_on() {
    let site = hasty().start().await;
    let client = Http2Client::connect(site.address()).await;
    let pieces = site.api.next_in_pieces();
    pieces.send(DOWNLOAD.into()).await.expect("takes it");
    let (head, mut body) = client.send(http2_with(&site.agent, "GET", CONFIG)).await.head().await;
    assert_eq!(head.status, 200);
    let mut upload = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
    upload.piece(&[b'x'; 50_000]);
    site.heartbeat.until("the upload", |seen| seen.requests.len() == 1).await;

    site.store.set_broken(true);
    let gone = Instant::now();
    let (received, error) = http2_cut(&mut body).await;
    assert_prompt("a download on a stream", gone);
    assert_eq!((received.as_slice(), error.reason()), (b"beginning".as_slice(), Some(Reason::CANCEL)));
    let reply = upload.reply().await;
    assert_prompt("an upload on a stream", gone);
    assert_eq!((reply.status(), reply.error().as_str()), (503, "Token registry unavailable"));
    site.heartbeat.until("its upstream is let go", |seen| seen.closed == 1).await;
    assert!(!site.heartbeat.request().complete, "what was cut off may not look whole");

    site.store.set_broken(false);
    eventually("served again", || async { client.get(CONFIG, &site.agent).await.status() == 200 }).await;
    drop(pieces);
}

/// Stated choices: heartbeats never end, configurations are read for a while only, and the rest has the general bound.
#[tokio::test]
async fn what_runs_is_cut_at_the_bound_of_its_own_permission() {
    let site = hasty()
        .setting("FRESHNESS__MAX_STALENESS", "60s")
        .setting("FRESHNESS__PER_PERMISSION", r#"{ "heartbeat:write" = "never", "configs:read" = "400ms" }"#)
        .start()
        .await;
    let (mut configuration, _held) = site.download(get(CONFIG, &site.agent)).await;
    let (mut users, more) = site.download(get("/api/users", &site.owner)).await;
    let mut beat = upload(&site, &bearer(&site.agent)).await;
    site.store.set_broken(true);
    let gone = Instant::now();
    configuration.is_reset().await;
    assert_prompt("a download with a bound of its own", gone);

    more.send(vec![b'x'; 1000]).await.expect("takes it");
    assert_eq!(users.bytes(1000).await, [b'x'; 1000], "the general bound is far");
    beat.send([b'x'; 50_000]).await;
    assert_eq!(beat.reply().await.text(), "ok", "it has no bound");
}

/// Without a token there is nothing that could have been revoked.
#[tokio::test]
async fn what_needs_no_token_goes_on() {
    let site = hasty().setting("DISABLED_AUTH_GROUPS", "heartbeat").start().await;
    let (mut download, _held) = site.download(get(CONFIG, &site.agent)).await;
    site.heartbeat.next(Script::reply(ok("open")));
    let mut beat = upload(&site, "").await;
    site.store.set_broken(true);
    download.is_reset().await;
    beat.send([b'x'; 50_000]).await;
    assert_eq!(beat.reply().await.text(), "open");
}

/// An outage that is over before the bound cuts nothing.
#[tokio::test]
async fn a_short_outage_of_the_store_cuts_nothing() {
    let site = hasty().setting("FRESHNESS__MAX_STALENESS", "5s").start().await;
    let (mut client, pieces) = site.download(get(CONFIG, &site.agent)).await;
    for _ in 0..3 {
        site.store.set_broken(true);
        tokio::time::sleep(Duration::from_millis(200)).await;
        site.store.set_broken(false);
        let revision = site.revision().await;
        site.user(&format!("user-{}", revision.0), tollgate::token::Role::Viewer).await;
        site.replica_is_current().await; // it follows the store again
        pieces.send(vec![b'x'; 1000]).await.expect("takes it");
        assert_eq!(client.bytes(1000).await, [b'x'; 1000]);
    }
}

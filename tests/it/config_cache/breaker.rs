//! While the Controller is away, one request at a time asks it.

use std::time::Duration;

use super::{MODIFIED, PATH, assert_fresh, assert_stored, cached, configuration, fetched, with};
use crate::harness::{Script, eventually, get, scripted};

const UNASKED: Option<&str> = Some("tollgate; hit; detail=away");

#[tokio::test]
async fn a_controller_that_hangs_is_asked_by_one_at_a_time() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    fetched(&site, "/c/other", "interval = 2").await;
    site.api.next(Script::silent());
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    assert_eq!(site.api.requests().len(), 3);

    // Somebody finds out whether it is there; the others do not wait for that.
    let pieces = site.api.next_in_pieces();
    let mut probe = site.connect().await;
    probe.send(get(PATH, &site.agent)).await;
    site.api.until("the probe", |seen| seen.requests.len() == 4).await;
    for (path, body) in [(PATH, "interval = 1"), ("/c/other", "interval = 2")] {
        let reply = site.get(path, &site.agent).await;
        assert_stored(&reply, body);
        assert_eq!(reply.field("Cache-Status"), UNASKED);
        let reply = site.send(with(&site.agent, "HEAD", path, "")).await;
        assert_eq!((reply.field("Cache-Status"), reply.field("Last-Modified")), (UNASKED, Some(MODIFIED)));
    }
    assert_eq!(site.api.requests().len(), 4);
    // Who has nothing stored asks.
    assert_eq!(site.get("/c/new", &site.agent).await.text(), "ok");
    pieces.send(configuration("interval = 3").into()).await.expect("takes it");
    drop(pieces);
    assert_eq!(probe.reply().await.text(), "interval = 3");

    // That was an answer: it is there.
    site.api.next(Script::reply(configuration("interval = 4")));
    let reply = site.get("/c/other", &site.agent).await;
    assert_eq!(reply.text(), "interval = 4");
    assert_fresh(&reply);
}

#[tokio::test]
async fn a_watchers_head_finds_out_too() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    site.api.next(Script::reply("HTTP/1.1 200 OK\r\nServer: scripted\r\nLast-Modified: now\r\n\r\n"));
    let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
    assert_eq!(reply.field("Cache-Status"), Some("tollgate; fwd=request; detail=first-look"), "it was asked");
    site.api.next(Script::reply(configuration("interval = 2")));
    assert_fresh(&site.get(PATH, &site.agent).await);
}

/// Whoever has nothing stored waits for as long as without the cache. That keeps nobody from finding out that it is there again.
#[tokio::test]
async fn who_must_wait_keeps_nobody_from_finding_out() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    site.api.next(Script::silent());
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    site.api.next(Script::silent());
    let mut waiting = site.connect().await;
    waiting.send(get("/c/new", &site.agent)).await;
    site.api.until("its fetch", |seen| seen.requests.len() == 3).await;
    site.api.next(Script::reply(configuration("interval = 2")));
    let reply = site.get(PATH, &site.agent).await;
    assert_eq!(reply.text(), "interval = 2");
    assert_fresh(&reply);
}

/// It sends its answer piece by piece, without a pause.
#[tokio::test]
async fn a_probe_whose_answer_drips_keeps_nobody_from_finding_out() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    fetched(&site, "/c/other", "interval = 2").await;
    site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    let pieces = site.api.next_in_pieces();
    let mut probe = site.connect().await;
    probe.send(get(PATH, &site.agent)).await;
    site.api.until("the probe", |seen| seen.requests.len() == 4).await;
    let dripping = tokio::spawn(async move {
        let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 10000\r\n\r\n";
        let mut piece = head.as_bytes().to_vec();
        while pieces.send(piece).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            piece = b"x".to_vec();
        }
    });
    assert_stored(&probe.reply().await, "interval = 1");
    site.api.next(Script::reply(configuration("interval = 3")));
    let reply = site.get("/c/other", &site.agent).await;
    assert_eq!(reply.text(), "interval = 3");
    assert_fresh(&reply);
    dripping.abort();
}

/// It was asked when the Controller hung, and ends when that is back.
#[tokio::test]
async fn a_fetch_of_the_outage_that_fails_after_it_begins_no_other() {
    let site = cached().setting("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "4s").start().await;
    fetched(&site, PATH, "interval = 1").await;
    site.api.next(Script::silent());
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    assert_eq!(site.metric("tollgate_config_cache_open").await, "1");
    fetched(&site, PATH, "interval = 2").await;
    let failures = "tollgate_upstream_failures_total{upstream=\"api\",step=\"first_byte\"}";
    eventually("it has failed", || async { site.metric(failures).await == "1" }).await;
    fetched(&site, PATH, "interval = 3").await;
    assert_eq!(site.metric("tollgate_config_cache_outages_total").await, "1");
}

#[tokio::test]
async fn any_answer_of_the_controller_closes_it() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    for path in ["/api/configs", "/api/configs/1/toml?a=tc-apiv1_abc"] {
        site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
        assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
        assert_eq!(site.metric("tollgate_config_cache_open").await, "1");
        assert_eq!(site.get(path, &site.agent).await.text(), "ok");
        assert_eq!(site.metric("tollgate_config_cache_open").await, "0", "{path}");
    }
}

/// That says nothing of the Controller.
#[tokio::test]
async fn a_sidecar_that_is_full_gives_what_is_stored_and_does_not_say_that_the_controller_is_away() {
    let site = cached().setting("UPSTREAM__API__MAX_IN_FLIGHT", "1").start().await;
    fetched(&site, PATH, "interval = 1").await;
    site.api.next(Script::silent());
    let mut slow = site.connect().await;
    slow.send(get("/api/configs", &site.agent)).await;
    site.api.until("it is full", |seen| seen.requests.len() == 2).await;
    for method in ["GET", "HEAD"] {
        let reply = site.send(with(&site.agent, method, PATH, "")).await;
        assert_eq!(reply.field("Cache-Status"), Some("tollgate; fwd=stale; detail=overloaded"), "{method}");
    }
    assert_eq!(site.metric("tollgate_config_cache_open").await, "0");
}

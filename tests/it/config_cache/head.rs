//! What a watcher is told while the Controller is away.

use super::{LATER, MODIFIED, PATH, assert_stored, cached, fetched, is_away, modified, with};
use crate::harness::{Http2Client, Script, Site, http2_with, scripted};

async fn last_modified(site: &Site, path: &str) -> Option<String> {
    let reply = site.send(with(&site.agent, "HEAD", path, "")).await;
    assert_eq!(reply.status(), 200);
    let http2 = Http2Client::connect(site.address()).await;
    let over_http2 = http2.send(http2_with(&site.agent, "HEAD", path)).await.reply().await;
    assert_eq!(over_http2.field("Last-Modified"), reply.field("Last-Modified"));
    reply.field("Last-Modified").map(str::to_owned)
}

#[tokio::test]
async fn a_watcher_is_told_the_stored_time() {
    let site = cached().start().await;
    // As agents do: with gzip, which the watcher does not ask for.
    site.api.next(Script::reply(scripted(
        "200 OK",
        &format!("Content-Encoding: gzip\r\nVary: Accept-Encoding\r\nLast-Modified: {MODIFIED}\r\n"),
        "zipped",
    )));
    let fields = "Accept: application/toml\r\nAccept-Encoding: gzip\r\n";
    assert_eq!(site.send(with(&site.agent, "GET", PATH, fields)).await.text(), "zipped");
    is_away(&site);
    assert_eq!(last_modified(&site, PATH).await.as_deref(), Some(MODIFIED));
    assert_stored(&site.send(with(&site.agent, "GET", PATH, fields)).await, "zipped");
    assert_eq!(site.get(PATH, &site.agent).await.status(), 503, "zipped is not what it accepts");

    let mut client = site.connect().await;
    client.send(with(&site.agent, "HEAD", "/api/configs/2/toml", "")).await;
    client.ends_unanswered().await;
}

#[tokio::test]
async fn a_watcher_is_told_the_stored_time_by_a_controller_that_says_nothing() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    site.api.next(Script::silent());
    let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
    assert_eq!((reply.status(), reply.field("Last-Modified")), (200, Some(MODIFIED)));
}

/// Not that the Controller's 503 was served.
#[tokio::test]
async fn what_a_watcher_was_told_is_what_is_counted() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    for fields in ["", "Content-Length: 4\r\n"] {
        site.api.next(Script::reply(format!("HTTP/1.1 503 Service Unavailable\r\nServer: scripted\r\n{fields}\r\n")));
        assert_eq!(site.send(with(&site.agent, "HEAD", PATH, "")).await.status(), 200);
    }
    let metrics = site.metrics().await;
    let head = |line: &&str| line.starts_with("tollgate_requests_total{") && line.contains("\"HEAD\"");
    let heads: Vec<_> = metrics.lines().filter(head).collect();
    assert!(heads.len() == 1 && heads[0].contains("\"stored\"") && heads[0].ends_with(" 2"), "{heads:?}");
}

/// What was edited is stored in one form, and there is an older one in another: that is not true any more.
#[tokio::test]
async fn forms_of_another_time_are_forgotten() {
    let site = cached().start().await;
    let gzip = "Accept-Encoding: gzip\r\n";
    site.api.next(Script::reply(modified(MODIFIED, "interval = 1")));
    assert_eq!(site.send(with(&site.agent, "GET", PATH, gzip)).await.status(), 200);
    site.api.next(Script::reply(modified(LATER, "interval = 2")));
    assert_eq!(site.get(PATH, &site.agent).await.text(), "interval = 2");
    is_away(&site);
    assert_eq!(last_modified(&site, PATH).await.as_deref(), Some(LATER));
    // Without a coding it suits everybody.
    assert_stored(&site.send(with(&site.agent, "GET", PATH, gzip)).await, "interval = 2");
    let refused = site.send(with(&site.agent, "GET", PATH, "Accept-Encoding: gzip, identity;q=0\r\n")).await;
    assert_eq!(refused.status(), 503);
}

/// What the Controller says to a `HEAD` once the configuration was edited.
fn edited() -> Script {
    Script::reply(format!("HTTP/1.1 200 OK\r\nServer: scripted\r\nETag: \"2\"\r\nLast-Modified: {LATER}\r\n\r\n"))
}

/// A watcher takes the first time that it is told for that of what its agent runs.
#[tokio::test]
async fn who_booted_from_a_stored_answer_is_told_its_time_first() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    let other = site.token("olga", &["configs:read"]).await;
    site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    site.api.otherwise(edited);
    let look = async |token| {
        let reply = site.send(with(token, "HEAD", PATH, "")).await;
        assert_eq!(reply.status(), 200);
        let field = |name| reply.field(name).map(str::to_owned);
        (field("Last-Modified"), field("ETag"), field("Cache-Status"))
    };
    let (later, etag) = (Some(LATER.to_owned()), Some("\"2\"".to_owned()));
    assert_eq!(look(&other).await, (later.clone(), etag.clone(), None), "it has booted from nothing");
    let first = Some("tollgate; fwd=request; detail=first-look".to_owned());
    assert_eq!(look(&site.agent).await, (Some(MODIFIED.to_owned()), None, first));
    assert_eq!(look(&site.agent).await, (later, etag, None), "and reloads");
}

#[tokio::test]
async fn who_looked_during_the_outage_is_told_what_is_true() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    assert_eq!(site.send(with(&site.agent, "HEAD", PATH, "")).await.field("Last-Modified"), Some(MODIFIED));
    site.api.otherwise(edited);
    let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
    assert_eq!(reply.field("Last-Modified"), Some(LATER));
}

/// They have one token, and share an address.
#[tokio::test]
async fn an_agent_that_was_answered_takes_no_first_look_from_others() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    for _ in 0..3 {
        assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    }
    site.api.next(Script::reply(modified(LATER, "interval = 2")));
    assert_eq!(site.get(PATH, &site.agent).await.text(), "interval = 2", "a fourth one");
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 2");
    site.api.otherwise(edited);
    for time in [MODIFIED, MODIFIED, MODIFIED, MODIFIED, LATER] {
        let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
        assert_eq!(reply.field("Last-Modified"), Some(time));
    }
}

/// Others have fetched the edit before the Controller went again: that is not what this one runs.
#[tokio::test]
async fn a_stored_time_that_is_newer_is_not_the_first_either() {
    use tollgate::upstream::CredentialMode::Strip;
    let site = cached().config(|config| config.upstreams.api.credential = Strip).start().await;
    fetched(&site, PATH, "interval = 1").await;
    let other = site.token("olga", &["configs:read"]).await;
    site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    site.api.next(Script::reply(modified(LATER, "interval = 2")));
    assert_eq!(site.get(PATH, &other).await.text(), "interval = 2");
    is_away(&site);
    for time in [MODIFIED, LATER] {
        let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
        assert_eq!(reply.field("Last-Modified"), Some(time));
    }
}

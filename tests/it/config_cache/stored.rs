//! What is stored, and for what it is the answer.

use super::{MODIFIED, PATH, assert_stored, cached, configuration, fetched, is_away, with};
use crate::harness::{Script, Site, scripted};

async fn get_with(site: &Site, path: &str, fields: &str) -> (u16, String) {
    let reply = site.send(with(&site.agent, "GET", path, fields)).await;
    (reply.status(), reply.text().to_owned())
}

#[tokio::test]
async fn only_a_whole_200_that_is_for_all_is_stored() {
    let site = cached().start().await;
    let cases = [
        scripted("201 Created", "", "x"),
        scripted("203 Non-Authoritative Information", "", "x"),
        scripted("206 Partial Content", "Content-Range: bytes 0-0/2\r\n", "x"),
        scripted("200 OK", "Content-Range: bytes 0-0/2\r\n", "x"),
        scripted("200 OK", "Set-Cookie: a=b\r\n", "x"),
        scripted("200 OK", "Vary: *\r\n", "x"),
        scripted("200 OK", "Vary: X-Forwarded-For\r\n", "x"),
        scripted("200 OK", "", &"x".repeat((1 << 20) + 1)),
    ];
    for (at, case) in cases.into_iter().enumerate() {
        let path = format!("/api/configs/{at}/toml");
        let status = case.split(' ').nth(1).expect("a status").parse::<u16>().expect("a number");
        let head = case.split("\r\n\r\n").next().expect("a head").to_owned();
        site.api.next(Script::reply(case));
        let reply = site.get(&path, &site.agent).await;
        assert_eq!((reply.status(), &reply.text()[..1]), (status, "x"), "{head}");
        site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
        assert_eq!(site.get(&path, &site.agent).await.status(), 503, "{head}");
    }
}

#[tokio::test]
async fn chunks_and_large_bodies_pass_whole() {
    let site = cached().start().await;
    let body = "y".repeat(3 << 20);
    let chunked = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    site.api.next(Script::reply(chunked(&body)));
    assert_eq!(site.get(PATH, &site.agent).await.text(), body, "too large to be stored");
    site.api.next(Script::reply(chunked("interval = 1")));
    assert_eq!(site.get(PATH, &site.agent).await.text(), "interval = 1");
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
}

#[tokio::test]
async fn an_answer_is_for_its_query_form_and_what_it_varies_by() {
    let site = cached().start().await;
    site.api.next(Script::reply(scripted("200 OK", "Vary: accept-encoding, X-Region\r\n", "eu")));
    let fields = "Accept: application/toml\r\nAccept-Encoding: gzip, br\r\nX-Region: eu\r\n";
    assert_eq!(get_with(&site, PATH, fields).await, (200, "eu".to_owned()));
    is_away(&site);
    for same in
        [fields, "accept: application/toml\r\nACCEPT-ENCODING: BR;q=0.3,gzip\r\nx-region: eu\r\nUser-Agent: other\r\n"]
    {
        assert_eq!(get_with(&site, PATH, same).await, (200, "eu".to_owned()), "{same}");
    }
    for other in [
        "Accept: application/json\r\nAccept-Encoding: gzip, br\r\nX-Region: eu\r\n",
        "Accept: application/toml\r\nAccept-Encoding: gzip, br\r\nX-Region: us\r\n",
        "Accept: application/toml\r\nAccept-Encoding: gzip, br\r\n",
    ] {
        assert_eq!(get_with(&site, PATH, other).await.0, 503, "{other}");
    }
    for path in ["/api/configs/1/toml", "/api/configs/1/toml?host=b", "/api/configs/1/toml?host=a&x"] {
        assert_eq!(get_with(&site, path, fields).await.0, 503, "{path}");
    }
}

/// A browser's rules are not these.
#[tokio::test]
async fn cache_control_is_not_what_decides() {
    let site = cached().start().await;
    let fields = "Cache-Control: no-store, private, max-age=0\r\nPragma: no-cache\r\n";
    site.api.next(Script::reply(scripted("200 OK", fields, "interval = 1")));
    let asking = "Cache-Control: no-store\r\nPragma: no-cache\r\n";
    assert_eq!(get_with(&site, PATH, asking).await.0, 200);
    is_away(&site);
    for asking in [asking, "Cache-Control: only-if-cached, max-stale=0\r\n", "Cache-Control: max-age=0\r\n", ""] {
        let reply = site.send(with(&site.agent, "GET", PATH, asking)).await;
        assert_stored(&reply, "interval = 1");
        assert_eq!(reply.field("Cache-Control"), Some("no-store, private, max-age=0"), "as the Controller said it");
    }
}

#[tokio::test]
async fn conditions_of_one_client_are_not_sent_for_all() {
    let site = cached().start().await;
    site.api.next(Script::reply(configuration("interval = 1")));
    let conditions =
        format!("If-Modified-Since: {MODIFIED}\r\nIf-None-Match: \"a\"\r\nRange: bytes=0-3\r\nIf-Range: \"a\"\r\n");
    assert_eq!(get_with(&site, PATH, &conditions).await, (200, "interval = 1".to_owned()));
    let head = site.api.request().head.to_ascii_lowercase();
    assert!(!head.contains("\r\nif-") && !head.contains("\r\nrange:"), "{head}");
}

/// What the configuration allows at most.
#[tokio::test]
async fn what_was_used_longest_ago_makes_room() {
    let site = cached().setting("CONFIG_CACHE__MAX_ENTRIES", "2").start().await;
    for (path, body) in [("/c/first", "1"), ("/c/second", "2")] {
        fetched(&site, path, body).await;
    }
    site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
    assert_stored(&site.get("/c/first", &site.agent).await, "1");
    fetched(&site, "/c/third", "3").await;
    is_away(&site);
    assert_stored(&site.get("/c/first", &site.agent).await, "1");
    assert_stored(&site.get("/c/third", &site.agent).await, "3");
    assert_eq!(site.get("/c/second", &site.agent).await.status(), 503);
}

#[tokio::test]
async fn an_answer_is_given_for_so_long() {
    let site = cached().setting("CONFIG_CACHE__MAX_AGE", "1ms").start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    let is_over = || async { site.get(PATH, &site.agent).await.status() == 503 };
    crate::harness::eventually("it is too old", is_over).await;
}

/// One from a cache in front of the Controller was not new when it came.
#[tokio::test]
async fn the_age_that_it_came_with_is_part_of_its_age() {
    let site = cached().start().await;
    site.api.next(Script::reply(scripted("200 OK", "Age: 4000\r\n", "interval = 1")));
    let reply = site.get(PATH, &site.agent).await;
    assert_eq!((reply.field("Age"), reply.field("Cache-Status")), (Some("4000"), None), "as the Controller said it");
    is_away(&site);
    let reply = site.get(PATH, &site.agent).await;
    let age = reply.field("Age").and_then(|age| age.parse::<u32>().ok());
    assert!(age.is_some_and(|age| (4000..4060).contains(&age)), "{reply:?}");
}

/// A raw token is stored nowhere, and shown nowhere.
#[tokio::test]
async fn what_may_hold_a_token_is_not_stored() {
    let site = cached().start().await;
    let raw = site.agent.raw.to_string();
    let encoded = raw.replacen("_", "%255F", 1);
    let urls =
        [format!("/c/a?token={raw}"), format!("/c/a?x=1&t={encoded}"), format!("/c/{}", raw.replacen("t", "%74", 1))];
    for url in &urls {
        site.api.next(Script::reply(configuration("interval = 1")));
        assert_eq!(get_with(&site, url, "").await.0, 200, "{url}");
    }
    site.api.next(Script::reply(scripted("200 OK", "Vary: X-Of\r\n", "interval = 1")));
    assert_eq!(get_with(&site, PATH, &format!("X-Of: {raw}\r\n")).await.0, 200);
    assert_eq!(site.metric("tollgate_config_cache_entries").await, "0");
    is_away(&site);
    for url in &urls {
        assert_eq!(get_with(&site, url, "").await.0, 503, "{url}");
    }
}

/// An agent that runs what could not be stored must not be led back to what was stored before.
#[tokio::test]
async fn what_cannot_be_stored_takes_the_place_of_what_was() {
    let large = "x".repeat((1 << 20) + 1);
    let chunked = "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n";
    for newer in [
        scripted("200 OK", "Set-Cookie: a=b\r\n", "x"),
        scripted("200 OK", "Vary: *\r\n", "x"),
        scripted("200 OK", "", &large),
        format!("{chunked}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()),
    ] {
        let site = cached().start().await;
        fetched(&site, PATH, "interval = 1").await;
        site.api.next(Script::reply(configuration("interval = 1")));
        assert_eq!(get_with(&site, PATH, "Accept-Encoding: gzip\r\n").await.0, 200);
        let kind = newer[..newer.len().min(100)].to_owned();
        site.api.next(Script::reply(newer));
        assert_eq!(&site.get(PATH, &site.agent).await.text()[..1], "x", "{kind}");
        is_away(&site);
        for fields in ["", "Accept-Encoding: gzip\r\n"] {
            assert_eq!(get_with(&site, PATH, fields).await.0, 503, "{kind}");
        }
        let mut watcher = site.connect().await;
        watcher.send(with(&site.agent, "HEAD", PATH, "")).await;
        watcher.ends_unanswered().await;
    }
}

//! When the stored answer is given, and when not.

use super::{MODIFIED, PATH, assert_fresh, assert_stored, cached, configuration, fetched, is_away, with};
use crate::harness::{Http2Client, Script, Site, get, scripted};

const AWAY: [&str; 3] = ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"];

#[tokio::test]
async fn a_controller_that_says_it_is_away_does_not_keep_agents_from_booting() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    for status in AWAY {
        site.api.next(Script::reply(scripted(status, "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n", "no")));
        let reply = site.get(PATH, &site.agent).await;
        assert_stored(&reply, "interval = 1");
        assert_eq!(reply.field("Last-Modified"), Some(MODIFIED));
        assert_eq!(reply.field("Content-Type"), Some("application/toml"));

        site.api.next(Script::reply(scripted(status, "", "no")));
        let reply = Http2Client::connect(site.address()).await.get(PATH, &site.agent).await;
        assert_stored(&reply, "interval = 1");
    }
    site.api.next(Script::reply(configuration("interval = 2")));
    let reply = site.get(PATH, &site.agent).await;
    assert_eq!(reply.text(), "interval = 2", "it is back");
    assert_fresh(&reply);
}

#[tokio::test]
async fn a_controller_that_is_gone_does_not_keep_agents_from_booting() {
    let mut site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    let gone = std::mem::replace(&mut site.api, crate::harness::Upstream::start().await);
    gone.kill().await;
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    let other = site.get("/api/configs/2/toml", &site.agent).await;
    assert_eq!((other.status(), other.error().as_str()), (502, "Upstream unavailable"), "it was never fetched");
}

#[tokio::test]
async fn a_controller_that_breaks_off_does_not_keep_agents_from_booting() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    for part in ["", "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 100\r\n\r\ninter"] {
        // A second try is allowed.
        site.api.otherwise(|| Script::reply("").then_close());
        site.api.next(Script::reply(part).then_close());
        assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    }
}

#[tokio::test]
async fn a_controller_that_says_nothing_does_not_keep_agents_from_booting() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    site.api.next(Script::silent());
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
}

#[tokio::test]
async fn an_answer_is_an_answer_also_one_that_is_no_success() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    for status in [
        "400 Bad Request",
        "402 Payment Required",
        "403 Forbidden",
        "429 Too Many Requests",
        "500 Oh No",
        "501 Not Here",
    ] {
        site.api.next(Script::reply(scripted(status, "", "said")));
        let reply = site.get(PATH, &site.agent).await;
        assert_eq!((reply.status().to_string().as_str(), reply.text()), (&status[..3], "said"));
        assert_fresh(&reply);
    }
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
}

#[tokio::test]
async fn what_is_deleted_at_the_controller_is_forgotten_in_every_form() {
    for (status, method) in [("404 Not Found", "GET"), ("410 Gone", "GET"), ("404 Not Found", "HEAD")] {
        let site = cached().start().await;
        fetched(&site, PATH, "interval = 1").await;
        fetched(&site, "/api/configs/1/toml?host=b", "interval = 1").await;
        fetched(&site, "/api/configs/2/toml?host=a", "interval = 2").await;
        let length = if method == "GET" { "Content-Length: 0\r\n" } else { "" };
        site.api.next(Script::reply(format!("HTTP/1.1 {status}\r\nServer: scripted\r\n{length}\r\n")));
        let reply = site.send(with(&site.agent, method, "/api/configs/1/toml?host=c", "")).await;
        assert_eq!(reply.status().to_string(), status[..3]);
        is_away(&site);
        for path in [PATH, "/api/configs/1/toml?host=b"] {
            assert_eq!(site.get(path, &site.agent).await.status(), 503, "{method} {path}");
        }
        assert_stored(&site.get("/api/configs/2/toml?host=a", &site.agent).await, "interval = 2");
    }
}

#[tokio::test]
async fn nothing_is_stored_unless_it_is_turned_on() {
    let site = Site::start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    assert_eq!(site.get(PATH, &site.agent).await.status(), 503);
}

#[tokio::test]
async fn a_connection_goes_on_after_a_stored_answer() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    let mut client = site.connect().await;
    for _ in 0..3 {
        client.send(get(PATH, &site.agent)).await;
        assert_stored(&client.reply().await, "interval = 1");
    }
}

//! What was forgotten, or what an agent was given something else since, does not come back.

use super::{LATER, PATH, assert_stored, cached, configuration, fetched, is_away, modified, with};
use crate::harness::{Script, Site, eventually, get, scripted};

const GONE: &str = "HTTP/1.1 404 Not Found\r\nServer: scripted\r\nContent-Length: 0\r\n\r\n";

/// It may be what was deleted.
#[tokio::test]
async fn what_is_forgotten_while_it_is_fetched_is_not_stored() {
    let site = cached().start().await;
    let pieces = site.api.next_in_pieces();
    let mut first = site.connect().await;
    first.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    site.api.next(Script::reply("HTTP/1.1 404 Not Found\r\nServer: scripted\r\n\r\n"));
    assert_eq!(site.send(with(&site.agent, "HEAD", PATH, "")).await.status(), 404);
    pieces.send(configuration("deleted").into()).await.expect("takes it");
    drop(pieces);
    assert_eq!(first.reply().await.text(), "deleted");
    super::is_away(&site);
    assert_eq!(site.get(PATH, &site.agent).await.status(), 503);
}

/// A fetch is silent, somebody else begins another, and it goes on.
#[tokio::test]
async fn what_is_forgotten_while_a_fetch_is_silent_is_not_stored() {
    for way in ["404", "cookie", "purge"] {
        let site = cached().start().await;
        fetched(&site, PATH, "old").await;
        let pieces = site.api.next_in_pieces();
        assert_stored(&site.get(PATH, &site.agent).await, "old");
        match way {
            "404" => {
                site.api.next(Script::reply(GONE));
                assert_eq!(site.get(PATH, &site.agent).await.status(), 404);
            }
            "cookie" => {
                site.api.next(Script::reply(scripted("200 OK", "Set-Cookie: a=b\r\n", "new")));
                assert_eq!(site.get(PATH, &site.agent).await.text(), "new");
            }
            _ => {
                site.api.next(Script::silent());
                assert_stored(&site.get(PATH, &site.agent).await, "old");
                let purged = super::operators::tollgate(&site, &["cache", "purge", "/api/configs/1/toml"]).await;
                assert!(purged.status.success(), "{purged:?}");
            }
        }
        let before = answers(&site).await;
        pieces.send(configuration("old").into()).await.expect("takes it");
        drop(pieces);
        eventually("it is answered", || async { answers(&site).await == before + 1 }).await;
        is_away(&site);
        assert_eq!(site.get(PATH, &site.agent).await.status(), 503, "{way}");
    }
}

/// How many replies of the Controller have begun.
async fn answers(site: &Site) -> u32 {
    let count = site.metric("tollgate_upstream_response_seconds_count{upstream=\"api\"}").await;
    count.parse().expect("a number")
}

/// Somebody did not wait for it any longer, and was given what was edited meanwhile.
#[tokio::test]
async fn what_is_older_than_what_an_agent_was_given_is_not_stored() {
    let site = cached().start().await;
    let pieces = site.api.next_in_pieces();
    let mut first = site.connect().await;
    first.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    site.api.next(Script::reply(modified(LATER, "new")));
    assert_eq!(site.get(PATH, &site.agent).await.text(), "new", "it asked by itself");
    pieces.send(configuration("old").into()).await.expect("takes it");
    drop(pieces);
    assert_eq!(first.reply().await.text(), "old");
    is_away(&site);
    assert_eq!(site.get(PATH, &site.agent).await.status(), 503);
}

/// Its answer is stored for nobody; what it says of the path is true for all.
#[tokio::test]
async fn what_is_gone_is_forgotten_whoever_asked() {
    let site = cached().start().await;
    let asking = [
        with(&site.agent, "GET", "/api/configs/1/toml?a=tc-apiv1_abc", ""),
        format!("{}x", with(&site.agent, "GET", PATH, "Content-Length: 1\r\n")),
    ];
    for asking in asking {
        fetched(&site, PATH, "interval = 1").await;
        site.api.next(Script::reply(GONE));
        assert_eq!(site.send(&asking).await.status(), 404);
        site.api.next(Script::reply(scripted("503 Service Unavailable", "", "away")));
        assert_eq!(site.get(PATH, &site.agent).await.status(), 503, "{asking}");
    }
}

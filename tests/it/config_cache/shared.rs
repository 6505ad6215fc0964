//! One fetch of the same thing at a time.

use std::time::Duration;

use super::{LATER, PATH, assert_fresh, cached, configuration, modified, with};
use crate::harness::{Http2Client, Script, eventually, get, http2_with, scripted};

#[tokio::test]
async fn all_who_ask_meanwhile_share_one_fetch() {
    let site = cached().start().await;
    let pieces = site.api.next_in_pieces();
    let http2 = Http2Client::connect(site.address()).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = site.connect().await;
        client.send(get(PATH, &site.agent)).await;
        clients.push(client);
    }
    let stream = http2.send(http2_with(&site.agent, "GET", PATH)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    pieces.send(configuration("interval = 1").into()).await.expect("takes it");
    for mut client in clients {
        let reply = client.reply().await;
        assert_eq!(reply.text(), "interval = 1");
        assert_fresh(&reply);
    }
    assert_eq!(stream.reply().await.text(), "interval = 1");
    // Whoever was late to ask has asked by itself; nobody asks while another one does.
    assert!(site.api.requests().len() <= 2, "{:?}", site.api.requests());
}

#[tokio::test]
async fn a_client_that_leaves_takes_nobodys_answer_along() {
    let site = cached().start().await;
    let pieces = site.api.next_in_pieces();
    let mut first = site.connect().await;
    first.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    let mut second = site.connect().await;
    second.send(get(PATH, &site.agent)).await;
    drop(first);
    pieces.send(configuration("interval = 1").into()).await.expect("takes it");
    assert_eq!(second.reply().await.text(), "interval = 1");
}

#[tokio::test]
async fn a_reply_that_is_for_one_is_given_to_one() {
    let site = cached().start().await;
    let pieces = site.api.next_in_pieces();
    let mut first = site.connect().await;
    first.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut client = site.connect().await;
        client.send(get(PATH, &site.agent)).await;
        others.push(client);
    }
    pieces.send(scripted("200 OK", "Set-Cookie: one=1\r\n", "one's").into()).await.expect("takes it");
    drop(pieces);
    let reply = first.reply().await;
    assert_eq!((reply.field("Set-Cookie"), reply.text()), (Some("one=1"), "one's"));
    for mut other in others {
        assert_eq!(other.reply().await.text(), "ok", "it was asked for by itself");
    }
}

/// While somebody has a long download, others are not kept waiting for it.
#[tokio::test]
async fn nobody_waits_for_long_for_anothers_fetch() {
    let site = cached().start().await;
    let pieces = site.api.next_in_pieces();
    let mut first = site.connect().await;
    first.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    let mut second = site.connect().await;
    second.send(get(PATH, &site.agent)).await;
    assert_eq!(second.reply().await.text(), "ok", "it asked by itself");
    pieces.send(configuration("late").into()).await.expect("takes it");
    assert_eq!(first.reply().await.text(), "late");
}

/// An agent was given the stored answer; what the Controller says at last is stored all the same.
#[tokio::test]
async fn a_slow_controller_is_heard() {
    let site = cached().start().await;
    super::fetched(&site, PATH, "old").await;
    let pieces = site.api.next_in_pieces();
    super::assert_stored(&site.get(PATH, &site.agent).await, "old");
    pieces.send(modified(LATER, "new").into()).await.expect("takes it");
    drop(pieces);
    super::is_away(&site);
    let is_new = || async { site.get(PATH, &site.agent).await.text() == "new" };
    eventually("the new one is stored", is_new).await;
}

#[tokio::test]
async fn each_is_answered_with_its_own_id() {
    let site = cached().config(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")]);
    let site = site.start().await;
    site.api.next(Script::reply(scripted("200 OK", "X-Request-Id: first\r\nVia: 1.1 gateway\r\n", "interval = 1")));
    let reply = site.send(with(&site.agent, "GET", PATH, "X-Request-Id: first\r\n")).await;
    assert_eq!(reply.field("X-Request-Id"), Some("first"));
    super::is_away(&site);
    let reply = site.send(with(&site.agent, "GET", PATH, "X-Request-Id: second\r\n")).await;
    assert_eq!(reply.field("X-Request-Id"), Some("second"));
    assert_eq!(reply.text(), "interval = 1");
}

#[tokio::test]
async fn who_reads_slowly_holds_nobody_up() {
    let site = cached().start().await;
    let pieces = site.api.next_in_pieces();
    let http2 = Http2Client::connect(site.address()).await;
    let slow = http2.send(http2_with(&site.agent, "GET", PATH)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    let mut quick = site.connect().await;
    quick.send(get(PATH, &site.agent)).await;
    let body = "z".repeat(1_000_000);
    pieces.send(configuration(&body).into()).await.expect("takes it");
    drop(pieces);
    let (head, unread) = slow.head().await;
    assert_eq!(head.status, 200);
    let reply = quick.reply().await;
    assert_eq!((reply.status(), reply.body.len()), (200, body.len()));
    drop(unread);
}

/// Each of those that wait has its own authorisation.
#[tokio::test]
async fn whoever_is_revoked_while_it_waits_gets_nothing_and_the_others_do() {
    use tollgate::upstream::CredentialMode::Strip;
    let site = cached().config(|config| config.upstreams.api.credential = Strip).start().await;
    let other = site.token("olga", &["configs:read"]).await;
    let pieces = site.api.next_in_pieces();
    let mut revoked = site.connect().await;
    revoked.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    let mut waiting = site.connect().await;
    waiting.send(get(PATH, &other)).await;
    // It was the one that began the fetch: somebody else begins another.
    site.revoke(&site.agent).await;
    let reply = revoked.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), (401, "Invalid token"));
    assert_eq!(waiting.reply().await.status(), 200);
    drop(pieces);
}

/// Otherwise a fleet would ask for what is too large one agent after the other, each waiting for all before it.
#[tokio::test]
async fn all_who_wait_for_what_cannot_be_shared_ask_at_once() {
    let large = "x".repeat((1 << 20) + 1);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    let cases = [
        scripted("200 OK", "Set-Cookie: one=1\r\n", "first's"),
        scripted("200 OK", "Vary: *\r\n", "first's"),
        scripted("404 Not Found", "", "first's"),
        scripted("500 Oh No", "", "first's"),
        scripted("200 OK", "", &large),
        chunked,
    ];
    for case in cases {
        let what = case[..60].to_owned();
        let site = cached().start().await;
        let pieces = site.api.next_in_pieces();
        let mut first = site.connect().await;
        first.send(get(PATH, &site.agent)).await;
        site.api.until("the fetch", |seen| seen.requests.len() == 1).await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let mut client = site.connect().await;
            client.send(get(PATH, &site.agent)).await;
            waiting.push(client);
        }
        // What a request waits for begins when it is handed on.
        let all_wait = || async { site.metric("tollgate_request_own_seconds_count").await == "4" };
        eventually("all wait", all_wait).await;
        assert_eq!(site.api.requests().len(), 1, "{what}");

        let own: Vec<_> = waiting.iter().map(|_| site.api.next_in_pieces()).collect();
        pieces.send(case.clone().into()).await.expect("takes it");
        drop(pieces);
        assert!(case.ends_with(first.reply().await.text()) || case.contains("chunked"), "{what}");
        // No one's reply is there yet.
        site.api.until("all ask", |seen| seen.requests.len() == 4).await;
        for pieces in own {
            pieces.send(configuration("own").into()).await.expect("takes it");
        }
        for mut client in waiting {
            assert_eq!(client.reply().await.text(), "own", "{what}");
        }
    }
}

/// Whoever waits for another's fetch is given what is stored when that one is, and asks nobody again.
#[tokio::test]
async fn all_who_wait_for_a_controller_that_hangs_get_what_is_stored() {
    let site = cached().start().await;
    super::fetched(&site, PATH, "interval = 1").await;
    site.api.otherwise(Script::silent);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = site.connect().await;
        client.send(get(PATH, &site.agent)).await;
        clients.push(client);
    }
    for mut client in clients {
        super::assert_stored(&client.reply().await, "interval = 1");
    }
    // The first fetch and that one; on a slow machine somebody may have come later, who found out anew.
    assert!(site.api.requests().len() <= 4, "{:?}", site.api.requests());
}

/// It has said that it will answer, and does not.
#[tokio::test]
async fn a_controller_that_stalls_in_a_body_is_as_one_that_says_nothing() {
    let site = cached().start().await;
    super::fetched(&site, PATH, "interval = 1").await;
    let pieces = site.api.next_in_pieces();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = site.connect().await;
        client.send(get(PATH, &site.agent)).await;
        clients.push(client);
    }
    site.api.until("the fetch", |seen| seen.requests.len() == 2).await;
    let reply = modified(LATER, "interval = 2");
    let (begun, rest) = reply.as_bytes().split_at(reply.len() - 1);
    pieces.send(begun.to_vec()).await.expect("takes it");
    for mut client in clients {
        super::assert_stored(&client.reply().await, "interval = 1");
    }
    assert_eq!(site.api.requests().len(), 2);
    // It is heard all the same.
    pieces.send(rest.to_vec()).await.expect("takes it");
    drop(pieces);
    super::is_away(&site);
    let is_new = || async { site.get(PATH, &site.agent).await.text() == "interval = 2" };
    eventually("the new one is stored", is_new).await;
}

#[tokio::test]
async fn who_leaves_takes_up_no_place_at_the_controller() {
    let site = cached().setting("UPSTREAM__API__MAX_IN_FLIGHT", "1").start().await;
    let _pieces = site.api.next_in_pieces();
    let mut client = site.connect().await;
    client.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    drop(client);
    assert_eq!(site.get("/c/other", &site.agent).await.text(), "ok");
}

/// Whoever waits does so for 3 s in all, also where who began the fetch may fetch no longer, and another one begins.
#[tokio::test]
async fn whoever_goes_on_for_a_revoked_one_waits_no_longer_for_it() {
    use tollgate::upstream::CredentialMode::Strip;
    let site = cached().config(|config| config.upstreams.api.credential = Strip).start().await;
    super::fetched(&site, PATH, "interval = 1").await;
    super::fetched(&site, "/c/other", "interval = 2").await;
    let other = site.token("olga", &["configs:read"]).await;
    site.api.otherwise(Script::silent);
    let mut revoked = site.connect().await;
    revoked.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| seen.requests.len() == 3).await;
    let mut waiting = site.connect().await;
    waiting.send(get(PATH, &other)).await;
    // By another wait of 3 s, which begins in between, the order of the two ends is told.
    tokio::time::sleep(Duration::from_millis(2400)).await;
    let mut later = site.connect().await;
    later.send(get("/c/other", &other)).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    site.revoke(&site.agent).await;
    assert_eq!(revoked.reply().await.status(), 401);
    let reply = tokio::select! {
        biased;
        reply = waiting.reply() => reply,
        _ = later.reply() => panic!("it began later"),
    };
    super::assert_stored(&reply, "interval = 1");
}

//! Upstreams that misbehave: gone between requests, cut off within a reply, silent, or not speaking HTTP/1.1. A client
//! never sees a clean end of a broken reply, and nothing is sent twice that might have been done already.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::harness::{CONFIG, HEARTBEAT, Reply, Script, Seen, Site, get, ok, post, request, scripted};

const UNAVAILABLE: (u16, &str) = (502, "Upstream unavailable");

#[track_caller]
fn assert_refused(reply: &Reply, (status, error): (u16, &str)) {
    assert_eq!((reply.status(), reply.error().as_str()), (status, error));
}

/// A request that is sent again only if it cannot have been done.
fn write(site: &Site) -> Vec<u8> {
    post("/api/configs", &site.owner, b"x")
}

#[tokio::test]
async fn connections_are_used_again() {
    let site = Site::start().await;
    for _ in 0..3 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
        assert_eq!(site.send(write(&site)).await.status(), 200);
        assert_eq!(site.beat(&site.agent).await.status(), 200);
    }
    assert_eq!((site.api.connections(), site.heartbeat.connections()), (1, 1));
    assert_eq!(site.api.requests().len(), 6);
}

/// The Controller closes after 5 s: what it closed is noticed before anything is written to it.
#[tokio::test]
async fn a_connection_that_closed_while_idle_is_replaced_without_the_client_noticing() {
    let site = Site::start().await;
    let mut connections = 0;
    for again in [get(CONFIG, &site.agent).into_bytes(), write(&site)] {
        for reset in [false, true] {
            let served = Script::reply(ok("ok"));
            site.api.next(if reset { served.then_reset() } else { served.then_close() });
            assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
            connections += 1;
            site.api.until("it is closed", |seen| seen.closed == connections).await;
            assert_eq!(site.send(&again).await.status(), 200, "reset: {reset}");
            assert_eq!(site.api.connections(), connections + 1, "on a new one");
            // The next round begins with that one closed too.
            site.api.next(Script::reply(ok("ok")).then_close());
            assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
            connections += 1;
            site.api.until("it is closed", |seen| seen.closed == connections).await;
        }
    }
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_again_when_a_used_connection_dies_unanswered() {
    for (method, reset) in [("GET", false), ("GET", true), ("HEAD", false), ("HEAD", true)] {
        let site = Site::start().await;
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
        let died = Script::reply("");
        site.api.next(if reset { died.then_reset() } else { died.then_close() });
        let reply = site.send(get(CONFIG, &site.agent).replacen("GET", method, 1)).await;
        assert_eq!(reply.status(), 200, "{method} {reset}");
        let on: Vec<_> = site.api.requests().iter().map(|request| request.connection).collect();
        assert_eq!(on, [0, 0, 1], "the second died with its connection and was sent again on another");
    }
}

/// Even what may be repeated: the upstream lives, and what it said would be the same again.
#[tokio::test]
async fn what_was_answered_in_part_or_wrongly_is_not_sent_again() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(150));
    for answer in ["HTTP/1.1 200 OK\r\nContent-Le", "HTTQ/9 hello\r\n\r\n", &many, "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let site = Site::start().await;
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
        site.api.next(Script::reply(answer).then_close());
        assert_refused(&site.get(CONFIG, &site.agent).await, UNAVAILABLE);
        assert_eq!(site.api.requests().len(), 2, "{}", answer.get(..20).unwrap_or(answer));
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_sent_again() {
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let site = Site::start().await;
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
        site.api.next(Script::reply("").then_close());
        let fields = format!("Authorization: Bearer {}\r\nContent-Length: 1\r\n", site.owner.raw);
        let reply = site.send(request(method, "/api/configs/1", &fields) + "x").await;
        assert_refused(&reply, UNAVAILABLE);
        assert_eq!(site.api.requests().len(), 2, "{method}: the upstream may have done it");
    }
}

/// One that was never used has no excuse: repeating would hammer an upstream that falls over.
#[tokio::test]
async fn a_new_connection_that_dies_unanswered_is_502() {
    let site = Site::start().await;
    for script in [Script::reply("").then_close(), Script::reply("").then_reset()] {
        let before = site.api.requests().len();
        site.api.next(script);
        assert_refused(&site.get(CONFIG, &site.agent).await, UNAVAILABLE);
        assert_eq!(site.api.requests().len(), before + 1);
    }
    let failures = "tollgate_upstream_failures_total{upstream=\"api\",step=\"first_byte\"}";
    assert_eq!(site.metric(failures).await, "2");
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
}

#[tokio::test]
async fn a_reply_that_breaks_off_never_ends_cleanly() {
    let site = Site::start().await;
    let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\n";
    let parts = [
        format!("{head}Content-Length: 10\r\n\r\n"),
        format!("{head}Content-Length: 10\r\n\r\nhello"),
        format!("{head}Content-Length: 100000\r\n\r\n{}", "x".repeat(60_000)),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhe"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: y\r\n"),
    ];
    for part in &parts {
        for script in [Script::reply(part.as_str()).then_close(), Script::reply(part.as_str()).then_reset()] {
            site.api.next(script);
            let mut client = site.connect().await;
            client.send(get(CONFIG, &site.agent)).await;
            let cut = client.cut_reply().await;
            assert!(cut.body.is_none_or(|body| !body.ends_with(b"0\r\n\r\n")), "{part}");
        }
    }
    // Broken chunks are no end either, whatever comes after them.
    for chunks in ["5\r\nhelloX\r\n0\r\n\r\n", "zz\r\n", "5\nhello\r\n0\r\n\r\n", "ffffffffffffffffff\r\n"] {
        site.api.next(Script::reply(format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{chunks}")));
        let mut client = site.connect().await;
        client.send(get(CONFIG, &site.agent)).await;
        client.cut_reply().await;
    }
    // A reset is no end even where the end of the connection would be one.
    site.api.next(Script::reply(format!("{head}\r\nhello")).then_reset());
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    client.cut_reply().await;
    site.api.until("no broken connection is kept", |seen| seen.closed == seen.connections).await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
}

#[tokio::test]
async fn a_head_that_breaks_off_is_502() {
    let site = Site::start().await;
    for part in ["H", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"] {
        for script in [Script::reply(part).then_close(), Script::reply(part).then_reset()] {
            site.api.next(script);
            assert_refused(&site.get(CONFIG, &site.agent).await, UNAVAILABLE);
        }
    }
}

#[tokio::test]
async fn what_is_not_http_1_1_is_502() {
    let site = Site::start().await;
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\nServer: scripted\r\n{fields}\r\n\r\nhello");
    let replies = [
        "hello\r\n\r\n".to_owned(),
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned(),
        "HTTP/2 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 abc OK\r\n\r\n".to_owned(),
        "HTTP/1.1 2000 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_owned(),
        with("Content-Length: 5\r\nContent-Length: 5"),
        with("Content-Length: 5\r\nContent-Length: 6"),
        with("Content-Length: 5, 5"),
        with("Content-Length: x"),
        with("Content-Length: -5"),
        with("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        with("Transfer-Encoding: gzip"),
        with("Transfer-Encoding: gzip, chunked"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        with("X-A: b\r\n folded"),
        with("X-A : b"),
        with("X-A: \u{0}"),
        with("no colon"),
        with(&format!("X-Pad: {}", "x".repeat(1 << 20))),
        with(&"X-A: b\r\n".repeat(500)),
    ];
    for reply in &replies {
        site.api.next(Script::reply(reply.as_str()).then_close());
        let answer = site.get(CONFIG, &site.agent).await;
        let shown: String = reply.escape_debug().take(80).collect();
        assert_eq!((answer.status(), answer.error().as_str()), UNAVAILABLE, "{shown}");
    }
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
}

#[tokio::test]
async fn interim_replies_are_skipped() {
    let site = Site::start().await;
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
    site.api.next(Script::reply(interim.repeat(20) + &ok("the answer")));
    let reply = site.get(CONFIG, &site.agent).await;
    assert_eq!((reply.text(), reply.field("Link")), ("the answer", None));
    assert_eq!(site.get(CONFIG, &site.agent).await.text(), "ok");
    assert_eq!(site.api.connections(), 1);
}

#[tokio::test]
async fn a_pause_within_a_reply_cuts_it_off() {
    let site =
        Site::builder().config(|config| config.upstreams.api.idle_timeout = Duration::from_millis(300)).start().await;
    let upstream = site.api.next_in_pieces();
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    let part = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 10\r\n\r\nhello";
    upstream.send(part.into()).await.expect("listens");
    assert_eq!(client.cut_reply().await.body.as_deref(), Some(b"hello".as_slice()));
    drop(upstream);
}

/// Nobody asked for it, so it must not become the answer to the next request, which may be somebody else's.
#[tokio::test]
async fn a_second_reply_on_a_connection_is_never_handed_on() {
    let site = Site::start().await;
    site.api.next(Script::reply(ok("asked for") + &ok("not asked for")));
    assert_eq!(site.get(CONFIG, &site.agent).await.text(), "asked for");
    assert_eq!(site.get(CONFIG, &site.agent).await.text(), "ok");

    let upstream = site.api.next_in_pieces();
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    upstream.send(ok("asked for").into()).await.expect("listens");
    assert_eq!(client.reply().await.text(), "asked for");
    let before = site.api.sent();
    upstream.send(ok("too late to be an answer").into()).await.expect("listens");
    site.api.until("it was sent", |seen| seen.sent > before).await;
    assert_eq!(site.get(CONFIG, &site.agent).await.text(), "ok");

    // The reply to HEAD has no body; one that comes anyway is not the next reply.
    site.api.next(Script::reply(ok("HTTP/1.1 200 OK\r\n\r\n")));
    assert_eq!(site.send(get(CONFIG, &site.agent).replacen("GET", "HEAD", 1)).await.status(), 200);
    assert_eq!(site.get(CONFIG, &site.agent).await.text(), "ok");
}

#[tokio::test]
async fn an_answer_before_the_body_is_sent_reaches_the_client_at_once() {
    let site = Site::start().await;
    let head = format!("Authorization: Bearer {}\r\nContent-Length: 100000\r\n", site.agent.raw);
    site.heartbeat.next(Script::reply_only(scripted("413 Payload Too Large", "", "no")));
    site.heartbeat.next(Script::early_reply(ok("early")));
    for text in ["no", "early"] {
        let mut client = site.connect().await;
        client.send(request("POST", HEARTBEAT, &head) + &"x".repeat(20_000)).await;
        let reply = client.reply().await;
        assert_eq!((reply.text(), reply.closes()), (text, true));
        // What is left of the body is nobody's next request.
        client.send(get("/api/configs/smuggled", &site.agent)).await;
        client.is_cut().await;
    }
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    assert_eq!(site.heartbeat.connections(), 3, "neither was kept");
    assert_eq!(site.api.requests().len(), 0);
}

/// Node answers before it has read the body, and drains it later. While it does not read, the last piece of some body waits
/// in the sidecar: whatever was written to that connection next would be taken for the rest of that body, and what stood in
/// it for requests. Bodies of which length those are follows from the kernel's buffers, so they are searched for.
#[tokio::test]
async fn a_connection_that_still_waits_for_a_body_is_not_used_again() {
    let site = Site::builder().config(|config| config.workers = NonZeroUsize::MIN).start().await;
    let token = site.token("olga", &["configs:write"]).await;
    let (mut read_whole, mut stuck) = (64 << 10, 8 << 20);
    while stuck - read_whole > 2 << 10 {
        let length = usize::midpoint(read_whole, stuck);
        let (script, answer) = Script::late_reader();
        site.api.next(script);
        let mut client = site.connect().await;
        // Nothing tells when the sidecar waits for room: it does once nothing has moved for a while.
        let settled = tokio::time::sleep(Duration::from_millis(150));
        let body = post("/api/configs", &token, &vec![b'x'; length]);
        tokio::select! { () = async { client.send(body).await; std::future::pending().await } => {}, () = settled => {} }
        answer.send(ok("early").into()).await.expect("listens");
        assert_eq!(client.reply().await.text(), "early");
        drop(answer);
        client.send(get(CONFIG, &site.agent)).await;
        match client.try_reply(false).await {
            Ok(reply) => (read_whole = length, assert_eq!(reply.text(), "ok", "after {length} bytes")).0,
            Err(_) => stuck = length,
        }
        // The next round shall have a connection of its own: one that was used has other buffers.
        site.api.next(Script::reply(ok("ok")).then_close());
        assert_eq!(site.get(CONFIG, &site.agent).await.text(), "ok", "after {length} bytes of somebody else's");
        site.api.until("none is left", |seen| seen.closed == seen.connections).await;
    }
}

/// An upstream that has heard enough answers and closes; its answer counts, not that the rest could not be sent.
#[tokio::test]
async fn an_answer_to_half_a_body_is_delivered_although_the_upstream_closes() {
    let site = Site::start().await;
    let token = site.token("olga", &["configs:write"]).await;
    let large = vec![b'x'; 4 << 20];
    site.api.next(Script::answer_and_close(scripted("413 Payload Too Large", "", "no")));
    let mut client = site.connect().await;
    client.send(&post("/api/configs", &token, &large)[..1 << 20]).await;
    let reply = client.reply().await;
    assert_eq!((reply.status(), reply.text()), (413, "no"));
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let site = Site::start().await;
    let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n";
    site.api.next(Script::flood(head, [b"10000\r\n", vec![b'x'; 1 << 16].as_slice(), b"\r\n"].concat(), usize::MAX));
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.head().await.expect("a head").status, 200);
    drop(client);
    let all_closed = |seen: &Seen| seen.connections == 1 && seen.closed == 1;
    site.api.until("the endless reply is no longer read", all_closed).await;

    let mut client = site.connect().await;
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: 100000\r\n", site.agent.raw);
    client.send(request("POST", HEARTBEAT, &fields) + &"x".repeat(20_000)).await;
    site.heartbeat.until("half a body", |seen| seen.requests.first().is_some_and(|one| one.body.len() == 20_000)).await;
    drop(client);
    site.heartbeat.until("the half request is given up", |seen| seen.closed == 1).await;
    assert!(!site.heartbeat.request().complete);
}

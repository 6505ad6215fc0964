//! Bodies: streamed, followed to their exact end, and what becomes of those that nobody reads.

use std::num::NonZeroU64;
use std::time::Duration;

use super::{assert_nothing_smuggled, beat, smuggled};
use crate::harness::{CONFIG, HEARTBEAT, Script, Seen, Site, get, ok, post, request};

#[tokio::test]
async fn broken_chunks_end_the_request_and_the_connection() {
    let site = Site::start().await;
    let broken = [
        "g\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        ";a=b\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\u{1}\"\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nX-A: b\nX-B: c\r\n\r\n",
        "0\r\n\rGET",
        "0\n\n",
    ];
    let mut cases = 0;
    let large = "x".repeat(20_000);
    for good in [String::new(), format!("{:x}\r\n{large}\r\n", large.len())] {
        for bad in broken {
            let mut client = site.connect().await;
            client.send(beat(&site.agent, "Transfer-Encoding: chunked\r\n")).await;
            if !good.is_empty() {
                // The upstream has the head and a piece of the body before the rest turns out broken.
                client.send(&good).await;
                let has_piece =
                    |seen: &Seen| seen.requests.get(cases).is_some_and(|request| request.body == large.as_bytes());
                site.heartbeat.until("the first chunk arrived", has_piece).await;
                cases += 1;
            }
            client.send(format!("{bad}{}", smuggled(&site))).await;
            let reply = client.reply().await;
            let shown = bad.escape_debug();
            assert_eq!((reply.status(), reply.error().as_str()), (400, "Malformed request body"), "{shown}");
            assert!(reply.closes(), "{shown}");
            client.ends().await;
            site.heartbeat.until("the upstream's connection is closed", |seen| seen.closed == cases).await;
        }
    }
    assert_eq!(site.heartbeat.requests().len(), broken.len(), "what is small and broken is not even begun");
    assert!(site.heartbeat.requests().iter().all(|request| !request.complete), "no body looked whole");
    assert_nothing_smuggled(&site);
}

#[tokio::test]
async fn chunks_are_joined_and_extensions_and_trailers_end_here() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    let bodies = [
        "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        "000005;a=b;c=\"d e\"\r\nhello\r\n6 ;x\r\n world\r\n00\r\n\r\n",
        "B\r\nhello world\r\n0\r\nX-Trailer: a\r\nAuthorization: Bearer tc-apiv1_x\r\nX-Tollgate-User: root\r\n\r\n",
        "b\r\nhello world\r\n0;last\r\nContent-Length: 3\r\n\r\n",
    ];
    for body in bodies {
        // The upstream's reading is strict: an extension or a trailer would not pass.
        client.send(format!("{}{body}", beat(&site.agent, "Transfer-Encoding: Chunked\r\n"))).await;
        assert_eq!(client.reply().await.status(), 200, "{body}");
    }
    let requests = site.heartbeat.requests();
    assert_eq!(requests.len(), bodies.len());
    for request in &requests {
        assert_eq!((request.body.as_slice(), request.complete), (b"hello world".as_slice(), true));
        // It is small, so it was there whole before it went on.
        assert_eq!((request.field("Transfer-Encoding"), request.field("Content-Length")), (None, Some("11")));
        assert_eq!(request.field("Trailer"), None);
    }
    assert_eq!(site.heartbeat.connections(), 1, "and the connections go on");
}

#[tokio::test]
async fn a_large_body_reaches_the_upstream_before_it_is_complete() {
    let site = Site::start().await;
    let large = "x".repeat(20_000);
    let (begun, whole) = (large.clone() + "hello", large.clone() + "hello world");
    let chunk = |data: &str| format!("{:x}\r\n{data}\r\n", data.len());
    for (fields, pieces) in [
        ("Transfer-Encoding: chunked\r\n", [chunk(&begun), chunk(" world"), "0\r\n\r\n".to_owned()]),
        ("Content-Length: 20011\r\n", [begun.clone(), " world".to_owned(), String::new()]),
    ] {
        let at = site.heartbeat.requests().len();
        let mut client = site.connect().await;
        client.send(beat(&site.agent, fields)).await;
        for (piece, so_far) in pieces.into_iter().zip([&begun, &whole, &whole]) {
            client.send(piece).await;
            site.heartbeat
                .until("the piece arrived", |seen| {
                    seen.requests.get(at).is_some_and(|request| request.body == so_far.as_bytes())
                })
                .await;
        }
        assert_eq!(client.reply().await.status(), 200);
        assert!(site.heartbeat.requests()[at].complete);
    }
}

#[tokio::test]
async fn a_reply_reaches_the_client_before_it_is_complete() {
    let site = Site::start().await;
    let upstream = site.api.next_in_pieces();
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n";
    upstream.send(head.into()).await.expect("listens");
    assert_eq!(client.head().await.expect("a head").status, 200);
    for piece in ["5\r\nhello\r\n", "6\r\n world\r\n", "0\r\n\r\n"] {
        upstream.send(piece.into()).await.expect("listens");
        assert_eq!(client.bytes(piece.len()).await, piece.as_bytes());
    }
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions() {
    let site = Site::start().await;
    let token = site.token("olga", &["configs:write"]).await;
    let large: Vec<u8> = (0..5u32 << 20).map(|at| (at % 251) as u8).collect();
    let mut client = site.connect().await;
    let head = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: {}\r\n\r\n", large.len());
    site.api.next(Script::reply([head.as_bytes(), &large].concat()));
    client.send(post("/api/configs", &token, &large)).await;
    assert!(client.reply().await.body == large, "the same bytes come back");
    let chunked = format!("Authorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n", token.raw);
    client.send(request("POST", "/api/configs", &chunked)).await;
    for piece in large.chunks(100_000) {
        client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.reply().await.status(), 200);
    assert!(site.api.requests().iter().all(|request| request.complete && request.body == large));
}

/// An upstream that does not read: the sidecar does not read either, instead of keeping what comes.
#[tokio::test]
async fn a_body_that_the_upstream_does_not_take_is_not_taken_from_the_client() {
    const TOTAL: usize = 64 << 20;
    let site = Site::builder()
        .config(|config| {
            config.limits.max_body_bytes = NonZeroU64::MAX;
            config.upstreams.heartbeat.idle_timeout = Duration::from_millis(500);
            config.upstreams.heartbeat.first_byte_timeout = Duration::from_millis(200);
        })
        .start()
        .await;
    site.heartbeat.next(Script::deaf());
    let mut client = site.connect().await;
    client.send(beat(&site.agent, &format!("Content-Length: {TOTAL}\r\n"))).await;
    let sent = client.send_up_to(&vec![b'x'; 1 << 16], TOTAL).await;
    assert!(sent < TOTAL / 2, "{sent} bytes were taken; what the sockets hold is far less");
    client.is_cut().await;
}

/// A client that does not read: the sidecar does not read from the upstream either.
#[tokio::test]
async fn a_reply_that_the_client_does_not_take_is_not_taken_from_the_upstream() {
    const PIECE: usize = 1 << 16;
    let site = Site::builder().config(|config| config.timeouts.body_grace = Duration::from_millis(300)).start().await;
    let head = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: {}\r\n\r\n", 1024 * PIECE);
    site.api.next(Script::flood(head, vec![b'x'; PIECE], 1024));
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.head().await.expect("a head").status, 200);
    site.api.until("the sidecar gave up", |seen| seen.closed == 1).await;
    let sent = site.api.sent();
    assert!(sent < 512 * PIECE, "{sent} bytes were taken; what the sockets hold is far less");
    client.is_cut().await;
}

/// A body that nobody read is never taken for a request, wherever it ends up.
#[tokio::test]
async fn small_bodies_of_refused_requests_are_skipped_and_the_connection_goes_on() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    let hidden = smuggled(&site);
    let length = format!("Content-Length: {}\r\n", hidden.len());
    let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let unknown = "Authorization: Bearer tc-apiv1_unknown\r\n";
    let chunked_fields = "Transfer-Encoding: chunked\r\n";
    let cases = [
        (request("POST", HEARTBEAT, &length), hidden.as_str(), 401),
        (request("POST", HEARTBEAT, chunked_fields), &chunked, 401),
        (request("POST", HEARTBEAT, &format!("{unknown}{length}")), &hidden, 401),
        (request("POST", "/nothing", &length), &hidden, 404),
        (request("PUT", HEARTBEAT, &length), &hidden, 405),
        (request("GET", CONFIG, &length), &hidden, 401),
        (request("POST", "/api/../x", &length), &hidden, 400),
        (request("POST", "/api/../x", chunked_fields), &chunked, 400),
    ];
    for (head, body, status) in &cases {
        // In one piece, and the body only once the refusal was read.
        client.send(format!("{head}{body}")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.closes()), (*status, false), "{head}");
        client.send(head).await;
        assert_eq!(client.reply().await.status(), *status, "{head}");
        client.send(body).await;
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.text(), "ok", "after {head}");
    }
    assert_eq!(site.api.requests().len(), cases.len());
    assert_nothing_smuggled(&site);
}

#[tokio::test]
async fn large_bodies_of_refused_requests_end_the_connection() {
    let site = Site::start().await;
    let hidden = smuggled(&site);
    let padding = "x".repeat(100_000);
    let body = format!("{padding}{hidden}");
    for (fields, body) in [
        (format!("Content-Length: {}\r\n", body.len()), body.clone()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{:x}\r\n{body}\r\n0\r\n\r\n{hidden}", body.len())),
        // A length that is a lie: what follows is not looked at.
        ("Content-Length: 5000000\r\n".to_owned(), hidden.clone()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("zz\r\n{hidden}")),
    ] {
        let mut client = site.connect().await;
        client.send(format!("{}{body}", request("POST", HEARTBEAT, &fields))).await;
        assert_eq!(client.reply().await.status(), 401, "{fields}");
        client.finish().await;
        client.ends().await;
    }
    assert_eq!(site.forwarded(), 0);
}

/// What the length does not count is the next request, also after a body that went on.
#[tokio::test]
async fn a_body_ends_where_its_length_says() {
    let site = Site::start().await;
    site.heartbeat.next(Script::reply(ok("first")));
    site.heartbeat.next(Script::reply(ok("second")));
    let mut client = site.connect().await;
    let body = "GET /x HTTP/1.1\r\n\r\n";
    let first = format!("{}{body}", beat(&site.agent, &format!("Content-Length: {}\r\n", body.len())));
    let second = format!("{}5\r\nabcde\r\n0\r\n\r\n", beat(&site.agent, "Transfer-Encoding: chunked\r\n"));
    client.send(format!("{first}{second}{}", get(CONFIG, &site.agent))).await;
    for text in ["first", "second", "ok"] {
        assert_eq!(client.reply().await.text(), text);
    }
    let bodies: Vec<_> = site.heartbeat.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [body.as_bytes(), b"abcde"]);
}

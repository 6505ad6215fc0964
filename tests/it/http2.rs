//! HTTP/2 by prior knowledge: each stream is a request of its own, checked as any other and cut off by itself.

mod raw;
mod streams;

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;

use crate::harness::{
    CONFIG, HEARTBEAT, Http2Client, Script, Site, Token, get, http2_cut, http2_request, http2_with, ok, post, refusing,
    scripted, within,
};

fn bearer(token: &Token) -> String {
    format!("Bearer {}", token.raw)
}

#[tokio::test]
async fn a_heartbeat_comes_in_pieces_and_leaves_the_upstream_connection_clean() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    for _ in 0..3 {
        let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
        for piece in [b"{\"id\"".as_slice(), b"", b":\"x\"", b"}"] {
            beat.piece(piece);
            tokio::task::yield_now().await;
        }
        beat.end(); // a frame without data must not become a chunk without data, which would end the body early
        assert_eq!(beat.reply().await.text(), "ok");
    }
    for beat in site.heartbeat.requests() {
        assert_eq!(beat.request_line(), "POST /agents/heartbeat HTTP/1.1");
        assert_eq!((beat.field("Transfer-Encoding"), beat.field("Content-Length")), (None, Some("10")), "it was small");
        assert_eq!((beat.body.as_slice(), beat.connection), (b"{\"id\":\"x\"}".as_slice(), 0));
    }
    assert_eq!(site.heartbeat.requests().len(), 3);
}

#[tokio::test]
async fn a_known_length_stays_known() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let fields = [("authorization", bearer(&site.agent)), ("content-length", "5".to_owned())];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    for _ in 0..2 {
        let mut beat = client.begin(http2_request("POST", HEARTBEAT, &fields)).await;
        beat.piece(b"he");
        beat.piece(b"llo");
        beat.end();
        assert_eq!(beat.reply().await.status(), 200);
    }
    for beat in site.heartbeat.requests() {
        assert_eq!((beat.field("Content-Length"), beat.body.as_slice()), (Some("5"), b"hello".as_slice()));
        assert_eq!((beat.field("Transfer-Encoding"), beat.connection), (None, 0));
    }
}

#[tokio::test]
async fn replies_keep_their_status_fields_and_body() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let modified = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-License-Expiring: soon\r\n";
    site.api.next(Script::reply(scripted("200 OK", &format!("{modified}Keep-Alive: timeout=5\r\n"), "config")));
    let reply = client.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.text()), (200, "config"));
    assert_eq!(reply.field("last-modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(reply.field("x-license-expiring"), Some("soon"));

    let head = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\n{modified}Content-Length: 9999\r\n\r\n");
    site.api.next(Script::reply(head));
    let reply = client.send(http2_with(&site.agent, "HEAD", CONFIG)).await.reply().await;
    assert_eq!((reply.status(), reply.field("content-length"), reply.body.len()), (200, Some("9999"), 0));

    site.api.next(Script::reply("HTTP/1.1 304 Not Modified\r\nServer: scripted\r\nETag: \"a\"\r\n\r\n"));
    let reply = client.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.field("etag"), reply.body.len()), (304, Some("\"a\""), 0));

    let chunked =
        "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    site.api.next(Script::reply(chunked));
    assert_eq!(client.get(CONFIG, &site.agent).await.text(), "abc");
    assert_eq!(site.api.connections(), 1);
}

/// Method, path, fields; status, error.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);

/// Asserts that a request is refused on a connection that goes on, and reaches no upstream.
async fn assert_refused(site: &Site, request: http::Request<()>, status: u16, error: &str) {
    let line = format!("{request:?}");
    let client = Http2Client::connect(site.address()).await;
    let before = site.forwarded();
    let reply = client.send(request).await.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), (status, error), "{line}");
    assert_eq!(site.forwarded(), before, "{line}");
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200, "the connection goes on after {line}");
}

#[tokio::test]
async fn what_may_not_pass_is_refused_as_in_http1() {
    let site = Site::start().await;
    let agent = bearer(&site.agent);
    let expired = site.token("olga", &["configs:read"]).await;
    site.expire(&expired).await;
    let many: Vec<_> = (0..200).map(|number| (format!("x-{number}"), "v")).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let no_credential = "Missing or invalid Authorization header";
    let cases: &[Case<'_>] = &[
        ("GET", CONFIG, &[], 401, no_credential),
        ("GET", CONFIG, &[("authorization", &agent), ("authorization", &agent)], 401, no_credential),
        ("GET", CONFIG, &[("authorization", "Bearer abc")], 401, "Invalid token format"),
        ("GET", CONFIG, &[("authorization", "Bearer tc-apiv1_unknown")], 401, "Invalid token"),
        ("GET", CONFIG, &[("authorization", &bearer(&expired))], 401, "Token expired"),
        ("GET", "/api/users", &[("authorization", &agent)], 403, "Insufficient permissions: users:read required"),
        ("GET", "/other", &[("authorization", &agent)], 404, "Not found"),
        ("GET", HEARTBEAT, &[("authorization", &agent)], 405, "Method not allowed"),
        ("GET", CONFIG, &[("authorization", &agent), ("host", "other")], 400, "Missing or invalid Host header"),
        ("GET", CONFIG, &[("authorization", &agent), ("expect", "cake")], 417, "Expectation failed"),
        ("GET", CONFIG, &many, 431, "Request head too large"),
        ("GET", CONFIG, &[("x", &"x".repeat(17_000))], 431, "Request head too large"),
        ("GET", &format!("{CONFIG}?{}", "x".repeat(17_000)), &[], 431, "Request head too large"),
    ];
    for (method, path, fields, status, error) in cases {
        assert_refused(&site, http2_request(method, path, fields), *status, error).await;
    }
    for path in ["/api//configs", "/api/./configs", "/api/%2e%2e/users", "/api/configs%2f1", "/api/configs;x"] {
        let client = Http2Client::connect(site.address()).await;
        let reply = client.get(path, &site.agent).await;
        assert_eq!(reply.status(), 400, "{path}");
        assert!(reply.error().starts_with("Ambiguous path: "), "{path}");
    }
}

#[tokio::test]
async fn the_host_field_may_repeat_the_authority() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let fields = [("authorization", bearer(&site.agent)), ("host", "TOLLGATE".to_owned())];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(client.send(http2_request("GET", CONFIG, &fields)).await.reply().await.status(), 200);
    let host = format!("127.0.0.1:{}", site.api.address().port());
    assert_eq!(site.api.request().field("Host"), Some(host.as_str()));
}

#[tokio::test]
async fn what_a_client_claims_does_not_reach_the_upstream() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let authorization = bearer(&site.agent);
    let fields = [
        ("authorization", authorization.as_str()),
        ("x-tollgate-user", "root"),
        ("x_tollgate_role", "owner"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x_forwarded_for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-original-url", "/api/users"),
        ("x-http-method-override", "DELETE"),
        ("x-request-id", "mine"),
        ("cookie", "session=1"),
        ("te", "trailers"),
        ("user-agent", "Telegraf/1.39.0"),
    ];
    assert_eq!(client.send(http2_request("GET", CONFIG, &fields)).await.reply().await.status(), 200);
    let request = site.api.request();
    let mut seen = request.fields();
    seen.retain(|(name, _)| !["host", "x-request-id", "x-tollgate-token-id"].contains(&name.to_lowercase().as_str()));
    seen.sort();
    let expected = [
        ("authorization", authorization.as_str()),
        ("user-agent", "Telegraf/1.39.0"),
        ("via", "2 tollgate"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "tollgate"),
        ("x-forwarded-proto", "http"),
        ("x-tollgate-role", "owner"),
        ("x-tollgate-user", "olga"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(request.field("X-Tollgate-Token-Id"), Some(site.agent.id.to_string().as_str()));
    assert_ne!(request.field("X-Request-Id"), Some("mine"));
}

#[tokio::test]
async fn streams_with_different_tokens_do_not_mix() {
    let site = Site::start().await;
    let other = site.token("olga", &["users:read"]).await;
    let client = Http2Client::connect(site.address()).await;
    let mut streams = Vec::new();
    for round in 0..40 {
        let token = if round % 2 == 0 { &site.agent } else { &other };
        streams.push((round, client.send(http2_with(token, "GET", CONFIG)).await));
    }
    for (round, stream) in streams {
        assert_eq!(stream.reply().await.status(), if round % 2 == 0 { 200 } else { 403 }, "stream {round}");
    }
    let id = site.agent.id.to_string();
    let requests = site.api.requests();
    assert_eq!(requests.len(), 20);
    assert!(requests.iter().all(|request| request.field("X-Tollgate-Token-Id") == Some(&id)));
}

#[tokio::test]
async fn a_refused_stream_leaves_the_others_alone() {
    let site = Site::start().await;
    let pieces = site.api.next_in_pieces();
    let client = Http2Client::connect(site.address()).await;
    let running = client.send(http2_with(&site.agent, "GET", CONFIG)).await;
    site.api.until("the first request", |seen| seen.requests.len() == 1).await;

    // With a body that nobody will read.
    let mut refused = client.begin(http2_request("POST", HEARTBEAT, &[])).await;
    refused.piece(&[b'x'; 40_000]);
    assert_eq!(refused.reply().await.status(), 401);

    pieces.send(ok("served").into_bytes()).await.expect("takes it");
    drop(pieces);
    assert_eq!(running.reply().await.text(), "served");
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200);
}

/// A download that its client does not read stops at the upstream once the few buffers between are full.
#[tokio::test]
async fn a_download_nobody_reads_holds_little_and_holds_up_nobody() {
    const PIECE: usize = 64 * 1024;
    const TIMES: usize = 1024;
    let site = Site::builder().setting("TIMEOUTS__BODY_GRACE", "60s").start().await;
    let head = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: {}\r\n\r\n", PIECE * TIMES);
    site.api.next(Script::flood(head, vec![b'x'; PIECE], TIMES));
    let mut settings = Builder::new();
    settings.initial_window_size(16 * 1024).initial_connection_window_size(1 << 20);
    let client = Http2Client::connect_with(site.address(), &settings).await;
    let stalled = client.send(http2_with(&site.agent, "GET", CONFIG)).await;
    let (_, mut body) = stalled.head().await;

    // The others go on meanwhile, each of them served by the same worker.
    for _ in 0..50 {
        assert_eq!(client.get(CONFIG, &site.agent).await.text(), "ok");
    }
    let sent = site.api.sent();
    assert!(sent < PIECE * TIMES / 4, "{sent} bytes are somewhere between");

    let mut received = 0;
    while let Some(data) = within("a piece", body.data()).await {
        let data = data.expect("goes on");
        assert!(data.iter().all(|byte| *byte == b'x'));
        received += data.len();
        body.flow_control().release_capacity(data.len()).expect("an open stream");
    }
    assert_eq!(received, PIECE * TIMES);
}

/// A refusal is small, and needs no token: a client that opens no window for it must not hold its connection.
#[tokio::test]
async fn a_client_that_takes_not_even_a_refusal_is_cut_off() {
    let site = Site::builder().config(|config| config.timeouts.body_grace = Duration::from_millis(300)).start().await;
    let mut settings = Builder::new();
    settings.initial_window_size(0);
    let client = Http2Client::connect_with(site.address(), &settings).await;
    let (head, mut body) = client.send(http2_request("GET", CONFIG, &[])).await.head().await;
    assert_eq!(head.status, 401);
    let (received, error) = http2_cut(&mut body).await;
    assert!(received.is_empty() && error.is_reset(), "{error}");
}

/// RFC 9110 section 9.3.2: no content, whatever the status.
#[tokio::test]
async fn a_refusal_to_head_has_no_content() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    for path in ["/api/users", "/nothing"] {
        let (_, mut body) = client.send(http2_request("HEAD", path, &[])).await.head().await;
        assert!(within("its end", body.data()).await.is_none(), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let site = Site::builder().config(|config| config.timeouts.body_grace = Duration::from_millis(300)).start().await;
    let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 1000000\r\n\r\n";
    site.api.next(Script::flood(head, vec![b'x'; 1000], 1000));
    let mut settings = Builder::new();
    settings.initial_window_size(1000).initial_connection_window_size(1 << 20);
    let client = Http2Client::connect_with(site.address(), &settings).await;
    let (_, mut body) = client.send(http2_with(&site.agent, "GET", CONFIG)).await.head().await;
    site.api.until("the upstream is let go", |seen| seen.closed == 1).await;
    let (received, error) = http2_cut(&mut body).await;
    assert!(received.len() <= 1000 && error.reason() == Some(Reason::CANCEL), "{} {error}", received.len());
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200, "the connection goes on");
}

#[tokio::test]
async fn trailers_end_a_body_and_go_no_further() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    for _ in 0..2 {
        let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
        beat.piece(b"{}");
        let trailers = [("x-tollgate-user", "root"), ("x-sum", "1")];
        let trailers = trailers
            .into_iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        beat.body.send_trailers(trailers.collect()).expect("an open stream");
        assert_eq!(beat.reply().await.status(), 200);
    }
    for beat in site.heartbeat.requests() {
        assert_eq!(beat.body, b"{}");
        assert!(!beat.head.contains("x-sum"), "{}", beat.head);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_at_once_or_where_it_passes_it() {
    let limit = NonZeroU64::new(1000).expect("not 0");
    let site = Site::builder().config(move |config| config.limits.max_body_bytes = limit).start().await;
    let client = Http2Client::connect(site.address()).await;
    let authorization = bearer(&site.agent);
    let fields = [("authorization", authorization.as_str()), ("content-length", "1001")];
    let reply = client.begin(http2_request("POST", HEARTBEAT, &fields)).await.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), (413, "Request body too large"));
    assert_eq!(site.forwarded(), 0);

    let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
    beat.piece(&[b'x'; 600]);
    beat.piece(&[b'x'; 600]);
    let reply = beat.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), (413, "Request body too large"));
    assert_eq!(site.forwarded(), 0, "what is small is there whole before it goes on");

    let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
    beat.piece(&[b'x'; 1000]);
    beat.end();
    assert_eq!(beat.reply().await.status(), 200);
}

#[tokio::test]
async fn a_body_that_drips_is_refused() {
    let site = Site::builder().config(|config| config.timeouts.body_grace = Duration::from_millis(200)).start().await;
    let client = Http2Client::connect(site.address()).await;
    let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
    beat.piece(b"{");
    let reply = beat.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), (408, "Request timeout"));
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200);
}

#[tokio::test]
async fn a_stream_that_the_client_resets_lets_its_upstream_go() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    site.api.next(Script::silent());
    let mut waiting = client.send(http2_with(&site.agent, "GET", CONFIG)).await;
    site.api.until("the request", |seen| seen.requests.len() == 1).await;
    waiting.body.send_reset(Reason::CANCEL);
    site.api.until("the upstream is let go", |seen| seen.closed == 1).await;

    let mut sending = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
    sending.piece(&[b'x'; 20_000]);
    site.heartbeat.until("the request", |seen| seen.requests.len() == 1).await;
    sending.body.send_reset(Reason::CANCEL);
    site.heartbeat.until("the upstream is let go", |seen| seen.closed == 1).await;
    assert!(!site.heartbeat.request().complete, "what was cut off may not look whole");
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200);
}

/// Opening and resetting streams costs a client nothing, so it must not pile up work here (CVE-2023-44487).
#[tokio::test]
async fn streams_that_are_opened_and_reset_do_not_pile_up_at_the_upstream() {
    let streams = NonZeroUsize::new(4).expect("not 0");
    let site = Site::builder().config(move |config| config.limits.max_streams = streams).start().await;
    let client = Http2Client::connect(site.address()).await;
    for round in 1..=40 {
        site.api.next(Script::silent());
        let mut stream = client.send(http2_with(&site.agent, "GET", CONFIG)).await;
        site.api.until("the request", |seen| seen.requests.len() == round).await;
        stream.body.send_reset(Reason::CANCEL);
    }
    site.api.until("every upstream is let go", |seen| seen.closed == seen.connections).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_breaks_the_stream_and_nothing_else() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let (script, pieces) = Script::piecewise();
        site.api.next(script.then_close());
        let stream = client.send(http2_with(&site.agent, "GET", CONFIG)).await;
        let begun = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\n{head}\r\n\r\n5\r\nhe");
        pieces.send(begun.into_bytes()).await.expect("takes it");
        let (head, mut body) = stream.head().await;
        assert_eq!(head.status, 200);
        drop(pieces);
        let (_, error) = http2_cut(&mut body).await;
        assert_eq!(error.reason(), Some(Reason::CANCEL));
    }
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200);
}

#[tokio::test]
async fn upstreams_that_fail_before_a_reply_are_told_apart() {
    let (_socket, nobody) = refusing();
    let site = Site::builder()
        .config(move |config| {
            (config.upstreams.heartbeat.nodes[0].host, config.upstreams.heartbeat.nodes[0].port) =
                (nobody.ip().to_string(), nobody.port());
            config.upstreams.api.first_byte_timeout = Duration::from_millis(200);
        })
        .start()
        .await;
    let client = Http2Client::connect(site.address()).await;
    site.api.next(Script::silent());
    let reply = client.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), (504, "Upstream timeout"));
    let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
    beat.end();
    let reply = beat.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), (502, "Upstream unavailable"));
}

#[tokio::test]
async fn an_unready_sidecar_says_so() {
    let site = Site::builder().store_is_down().start().await;
    let client = Http2Client::connect(site.address()).await;
    let reply = client.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), (503, "Token registry unavailable"));
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_a_farewell() {
    let site = Site::builder().config(|config| config.timeouts.keep_alive = Duration::from_millis(200)).start().await;
    let client = Http2Client::connect(site.address()).await;
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200);
    client.closed().await.expect("a clean end");
}

/// Both protocols share a listener; the first bytes tell them apart.
#[tokio::test]
async fn http1_is_served_beside_it() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200);
    assert_eq!(site.send(get(CONFIG, &site.agent)).await.status(), 200);
    assert_eq!(site.send(post(HEARTBEAT, &site.agent, b"{}")).await.status(), 200);
    let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
    beat.body.send_data(Bytes::from_static(b"{}"), true).expect("an open stream");
    assert_eq!(beat.reply().await.status(), 200);
}

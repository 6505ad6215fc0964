//! Heads that different servers would read differently: refused, and the connection ends with them.

use super::{assert_nothing_smuggled, beat, smuggled};
use crate::harness::{CONFIG, Site, get};

/// Sends the bytes with a smuggled request right behind, and expects one refusal and the end.
async fn assert_ends_with(site: &Site, bytes: &[u8], status: u16) {
    let mut client = site.connect().await;
    client.send([bytes, smuggled(site).as_bytes()].concat()).await;
    let reply = client.reply().await;
    let shown = bytes.escape_ascii();
    assert_eq!(reply.status(), status, "{shown} {}", reply.text());
    assert!(reply.closes(), "{shown}");
    client.ends().await;
}

#[tokio::test]
async fn the_length_of_a_body_is_one_clear_statement() {
    let site = Site::start().await;
    let cases = [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Content-Length: 0\r\ncontent-length: 44\r\n", 400),
        ("Content-Length: 5, 5\r\n", 400),
        ("Content-Length: 5,6\r\n", 400),
        ("Content-Length:\r\n", 400),
        ("Content-Length: +5\r\n", 400),
        ("Content-Length: -5\r\n", 400),
        ("Content-Length: 0x5\r\n", 400),
        ("Content-Length: 5.0\r\n", 400),
        ("Content-Length: 5 5\r\n", 400),
        ("Content-Length: 5;a=b\r\n", 400),
        ("Content-Length: \u{665}\r\n", 400),
        ("Content-Length: 18446744073709551621\r\n", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 400),
        ("Transfer-Encoding: chunked, identity\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 501),
        ("Transfer-Encoding:\r\n", 400),
        ("Transfer-Encoding: gzip\r\n", 501),
        ("Transfer-Encoding: identity\r\n", 501),
        ("Transfer-Encoding: xchunked\r\n", 501),
        ("Transfer-Encoding: chunkedx\r\n", 501),
        ("Transfer-Encoding: \"chunked\"\r\n", 501),
        ("Transfer-Encoding: chunked;q=1\r\n", 501),
        ("Transfer-Encoding: \u{b}chunked\r\n", 400),
        ("Transfer-Encoding : chunked\r\n", 400),
        ("Transfer-Encoding\r\n", 400),
        (" Transfer-Encoding: chunked\r\n", 400),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding:\r\n chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n", 400),
    ];
    for (fields, status) in cases {
        assert_ends_with(&site, beat(&site.agent, fields).as_bytes(), status).await;
    }
    let old = beat(&site.agent, "Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0");
    assert_ends_with(&site, old.as_bytes(), 400).await;
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn lines_end_with_cr_lf_and_fields_are_name_colon_value() {
    let site = Site::start().await;
    let authorization = format!("Authorization: Bearer {}", site.agent.raw);
    let with = |line: &[u8]| {
        let head = format!("GET {CONFIG} HTTP/1.1\r\nHost: tollgate\r\n{authorization}\r\n");
        [head.as_bytes(), line, b"\r\n\r\n"].concat()
    };
    let lines: &[&[u8]] = &[
        // Folded lines (RFC 9112 section 5.2).
        b"X-A: b\r\n c",
        b"X-A: b\r\n\tc",
        b"X-A:\r\n b",
        // LF or CR alone.
        b"X-A: b\nX-B: c",
        b"X-A: b\rX-B: c",
        b"X-A: b\r\r",
        b"X-A: b\n",
        b"\nX-A: b",
        // White space where none may be (RFC 9112 section 5.1).
        b"X-A : b",
        b"X-A\t: b",
        b" X-A: b",
        b"\tX-A: b",
        b"X A: b",
        // Not a name.
        b": b",
        b"X-A",
        b"X(A): b",
        b"X\"A\": b",
        b"X-\xe9: b",
        b"X-\x00: b",
        b"X-\x7f: b",
        b"GET /api/configs/smuggled HTTP/1.1",
        // Not a value.
        b"X-A: b\x00c",
        b"X-A: \x01",
        b"X-A: \x1b[31m",
        b"X-A: \x7f",
        b"X-A: b\x0bc",
    ];
    for line in lines {
        assert_ends_with(&site, &with(line), 400).await;
    }
    let whole = get(CONFIG, &site.agent);
    assert_ends_with(&site, whole.replace("\r\n", "\n").as_bytes(), 400).await;
    assert_ends_with(&site, whole.replacen("\r\n", "\n", 1).as_bytes(), 400).await;
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn the_request_line_has_three_words() {
    let site = Site::start().await;
    let fields = format!("\r\nHost: tollgate\r\nAuthorization: Bearer {}\r\n\r\n", site.agent.raw);
    let lines: &[&[u8]] = &[
        b"",
        b"GET",
        b"GET /api/configs",
        b"GET /api/configs ",
        b"GET  /api/configs HTTP/1.1",
        b"GET /api/configs  HTTP/1.1",
        b"GET\t/api/configs HTTP/1.1",
        b"GET /api/configs HTTP/1.1 ",
        b"GET /api/configs HTTP/1.1\r",
        b"GET /api/configs http/1.1x",
        b"GET /api/configs XTTP/1.1",
        b" GET /api/configs HTTP/1.1",
        b"G\x00ET /api/configs HTTP/1.1",
        b"G(ET) /api/configs HTTP/1.1",
        b"G\xe9T /api/configs HTTP/1.1",
        b"HTTP/1.1 200 OK",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00",
        b"PROXY TCP4 1.2.3.4 127.0.0.1 1 2",
    ];
    for line in lines {
        // An empty line would be skipped; then the fields stand where the request line should.
        assert_ends_with(&site, &[line, fields.as_bytes()].concat(), 400).await;
    }
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn the_host_is_named_once_and_validly() {
    let site = Site::start().await;
    let head = |line: &str, hosts: &[&str]| {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        format!("{line}\r\n{hosts}Authorization: Bearer {}\r\n\r\n", site.agent.raw)
    };
    let plain = format!("GET {CONFIG} HTTP/1.1");
    let cases: &[&[&str]] = &[
        &[],
        &["tollgate", "tollgate"],
        &["tollgate", "other"],
        &[""],
        &["a b"],
        &["a,b"],
        &["a/b"],
        &["a?b"],
        &["a#b"],
        &["a@b"],
        &["user:password@a"],
        &["a:b"],
        &["a:"],
        &[":80"],
        &["a:99999"],
        &["a:80:80"],
        &["[::1"],
        &["::1"],
        &["[zz]"],
        &["a\\b"],
        &["%61"],
        &["\u{e9}"],
        &["a;b"],
    ];
    for hosts in cases {
        assert_ends_with(&site, head(&plain, hosts).as_bytes(), 400).await;
    }
    for line in [format!("GET http://other{CONFIG} HTTP/1.1"), format!("GET http://a@tollgate{CONFIG} HTTP/1.1")] {
        assert_ends_with(&site, head(&line, &["tollgate"]).as_bytes(), 400).await;
    }
    // An absolute target does not excuse a missing Host (RFC 9112 section 3.2).
    assert_ends_with(&site, head(&format!("GET http://tollgate{CONFIG} HTTP/1.1"), &[]).as_bytes(), 400).await;
    assert_eq!(site.forwarded(), 0);
    for host in ["tollgate", "127.0.0.1:8080", "[::1]:80", "[::1]", "a_b-c.example", "A:1"] {
        assert_eq!(site.send(head(&plain, &[host])).await.status(), 200, "{host}");
        let last = site.api.requests().pop().expect("one");
        assert_eq!(last.field("X-Forwarded-Host"), Some(host));
        assert_eq!(last.field("Host"), Some(site.api.address().to_string().as_str()));
    }
    assert_nothing_smuggled(&site);
}

#[tokio::test]
async fn empty_lines_before_a_request_are_ignored() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    for before in ["\r\n", "\r\n\r\n", &"\r\n".repeat(20_000), ""] {
        client.send(format!("{before}{}", get(CONFIG, &site.agent))).await;
        assert_eq!(client.reply().await.status(), 200);
    }
    // Some old clients send one after a body, which its length does not count.
    client.send(format!("{}hello\r\n{}", beat(&site.agent, "Content-Length: 5\r\n"), get(CONFIG, &site.agent))).await;
    assert_eq!(client.reply().await.status(), 200);
    assert_eq!(client.reply().await.status(), 200);
    assert_eq!(site.heartbeat.request().body, b"hello");
}

/// However the bytes are cut into packets, the request is the same.
#[tokio::test]
async fn a_head_may_come_in_any_pieces() {
    let site = Site::start().await;
    let request = get(CONFIG, &site.agent);
    let mut client = site.connect().await;
    for size in [1, 2, 3, 7, 50] {
        for piece in request.as_bytes().chunks(size) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.reply().await.status(), 200, "in pieces of {size}");
    }
}

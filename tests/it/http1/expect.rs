//! `Expect: 100-continue`: the client asks before it sends its body.

use super::{assert_nothing_smuggled, beat, smuggled};
use crate::harness::{HEARTBEAT, Site, get, request};

const EXPECT: &str = "Expect: 100-Continue\r\nContent-Length: 5\r\n";

#[tokio::test]
async fn a_permitted_request_is_told_to_go_on() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    for (fields, body) in
        [(EXPECT, "hello"), ("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")]
    {
        client.send(beat(&site.agent, fields)).await;
        assert_eq!(client.bytes(25).await, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send(body).await;
        assert_eq!(client.reply().await.status(), 200);
    }
    for request in site.heartbeat.requests() {
        assert_eq!((request.body.as_slice(), request.field("Expect")), (b"hello".as_slice(), None));
    }
}

/// Whoever is refused need not send the body, and whether it does anyway nobody can tell: the connection ends.
#[tokio::test]
async fn a_refused_request_is_told_so_at_once_and_its_body_is_not_waited_for() {
    let site = Site::start().await;
    let cases = [(HEARTBEAT, 401), ("/nothing", 404), ("/api/../x", 400)];
    for (path, status) in cases {
        let mut client = site.connect().await;
        client.send(request("POST", path, EXPECT)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.closes()), (status, true), "{path}: no 100 before it");
        client.send(smuggled(&site)).await;
        client.finish().await;
        client.ends().await;
    }
    assert_eq!(site.forwarded(), 0);
    assert_nothing_smuggled(&site);
}

#[tokio::test]
async fn nobody_who_does_not_wait_is_told_to_go_on() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    // The body is there already, or there is none: 100 could be left out (RFC 9110 section 10.1.1).
    client.send(format!("{}hello", beat(&site.agent, EXPECT))).await;
    assert_eq!(client.reply().await.status(), 200);
    client.send(beat(&site.agent, "Expect: 100-continue\r\nContent-Length: 0\r\n")).await;
    assert_eq!(client.reply().await.status(), 200);
    client.send(get("/api/configs", &site.agent).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")).await;
    assert_eq!(client.reply().await.status(), 200);
    // HTTP/1.0 does not know it.
    client.send(beat(&site.agent, EXPECT).replace("HTTP/1.1", "HTTP/1.0")).await;
    client.send("hello").await;
    assert_eq!(client.reply().await.status(), 200);
    client.ends().await;
}

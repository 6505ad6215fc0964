//! HTTP/1.0: old clients and health checks still speak it.

use super::beat;
use crate::harness::{CONFIG, HEARTBEAT, Script, Site, get, ok, request};

fn old(request: &str) -> String {
    request.replace("HTTP/1.1", "HTTP/1.0")
}

#[tokio::test]
async fn an_http_1_0_connection_carries_one_request() {
    let site = Site::start().await;
    for option in ["", "Connection: keep-alive\r\n", "Connection: close\r\n"] {
        let mut client = site.connect().await;
        let head = get(CONFIG, &site.agent).replace("\r\n\r\n", &format!("\r\n{option}\r\n"));
        client.send(old(&head)).await;
        let reply = client.reply().await;
        assert_eq!((reply.text(), reply.closes()), ("ok", true), "{option}");
        client.ends().await;
    }
    let mut client = site.connect().await;
    client.send(old(&request("GET", CONFIG, ""))).await;
    assert_eq!(client.reply().await.status(), 401);
    client.ends().await;
    let last = site.api.requests().pop().expect("one");
    assert!(last.request_line().ends_with(" HTTP/1.1"), "what goes on is HTTP/1.1: {}", last.head);
}

#[tokio::test]
async fn it_needs_no_host_and_none_is_made_up() {
    let site = Site::start().await;
    let head = old(&get(CONFIG, &site.agent)).replace("Host: tollgate\r\n", "");
    assert_eq!(site.send(head).await.status(), 200);
    let recorded = site.api.request();
    assert_eq!(recorded.field("X-Forwarded-Host"), None);
    assert_eq!(recorded.field("Host"), Some(site.api.address().to_string().as_str()));
}

#[tokio::test]
async fn it_gets_no_chunks_but_a_reply_that_ends_with_the_connection() {
    let site = Site::start().await;
    let chunked = "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    site.api.next(Script::reply(chunked));
    site.api.next(Script::reply("HTTP/1.0 200 OK\r\nServer: scripted\r\n\r\nhello world").then_close());
    for _ in 0..2 {
        let mut client = site.connect().await;
        client.send(old(&get(CONFIG, &site.agent))).await;
        let reply = client.reply().await;
        assert_eq!((reply.text(), reply.closes()), ("hello world", true));
        assert_eq!((reply.field("Transfer-Encoding"), reply.field("Content-Length")), (None, None));
    }
}

/// Without chunks only a reset tells a broken reply from a whole one.
#[tokio::test]
async fn a_broken_reply_does_not_look_whole_to_it() {
    let site = Site::start().await;
    let cut = "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for script in [Script::reply(cut).then_close(), Script::reply(cut).then_reset()] {
        site.api.next(script);
        let mut client = site.connect().await;
        client.send(old(&get(CONFIG, &site.agent))).await;
        client.cut_reply().await;
    }
}

#[tokio::test]
async fn its_bodies_have_a_length() {
    let site = Site::start().await;
    site.heartbeat.next(Script::reply(ok("taken")));
    let head = old(&beat(&site.agent, "Content-Length: 5\r\n"));
    assert_eq!(site.send(format!("{head}hello")).await.text(), "taken");
    assert_eq!(site.heartbeat.request().body, b"hello");
    let none = old(&beat(&site.agent, ""));
    assert_eq!(site.send(none).await.status(), 200, "{HEARTBEAT} without a body");
}

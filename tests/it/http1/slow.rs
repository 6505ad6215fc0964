//! Clients that take their time, by intent or not. The deadlines are short here; none of the tests depends on how short,
//! as long as a request that is sent at once comes in time.

use std::time::Duration;

use super::beat;
use crate::harness::{CONFIG, Site, get, request};

const HEAD: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(300);

async fn impatient_about_heads() -> Site {
    Site::builder().config(|config| config.timeouts.request_head = HEAD).start().await
}

async fn impatient_about_bodies() -> Site {
    Site::builder().config(|config| config.timeouts.body_grace = SHORT).start().await
}

#[tokio::test]
async fn a_head_that_does_not_end_is_408() {
    let site = impatient_about_heads().await;
    let mut clients = Vec::new();
    for part in ["G", "GET /api/configs HTTP/1.1\r\n", "GET /api/configs HTTP/1.1\r\nHost: tollgate\r\nX-A: "] {
        for drips in [false, true] {
            let mut client = site.connect().await;
            client.send(part).await;
            if drips {
                client.drip(b'x');
            }
            clients.push((client, part, drips));
        }
    }
    for (mut client, part, drips) in clients {
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.error().as_str()), (408, "Request timeout"), "{part} {drips}");
        assert!(reply.closes());
        client.is_cut().await;
    }
    assert_eq!(site.forwarded(), 0);
}

/// Also the second one on a connection, and one that begins behind another.
#[tokio::test]
async fn later_heads_have_the_same_deadline() {
    let site = impatient_about_heads().await;
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
    client.send(get(CONFIG, &site.agent) + "GET /half HT").await;
    assert_eq!(client.reply().await.status(), 200);
    assert_eq!(client.reply().await.status(), 408);
    client.ends().await;
}

/// Nothing was asked, so nothing is answered.
#[tokio::test]
async fn a_connection_without_a_request_is_closed_without_a_word() {
    impatient_about_heads().await.connect().await.ends().await;
    let site = Site::builder().config(|config| config.timeouts.keep_alive = SHORT).start().await;
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
    client.ends().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408_and_never_looks_whole() {
    let site = impatient_about_bodies().await;
    let cases = [
        ("Content-Length: 100\r\n", ""),
        ("Content-Length: 100\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "64\r\nhello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
    ];
    for (fields, part) in cases {
        let mut client = site.connect().await;
        client.send(beat(&site.agent, fields) + part).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.error().as_str()), (408, "Request timeout"), "{fields}{part}");
        assert!(reply.closes());
        client.ends().await;
    }
    assert_eq!(site.heartbeat.connections(), 0, "what is small is there whole before anything is taken for it");
}

/// A few bytes a second keep no connection: the least rate counts.
#[tokio::test]
async fn a_body_that_drips_is_408() {
    let site = impatient_about_bodies().await;
    let mut client = site.connect().await;
    client.send(beat(&site.agent, "Content-Length: 1000000\r\n")).await;
    client.drip(b'x');
    assert_eq!(client.reply().await.status(), 408);
    client.is_cut().await;
    site.heartbeat.until("the half request is gone", |seen| seen.closed == 1).await;
}

/// Nor does the unread body of a refused request hold one.
#[tokio::test]
async fn the_body_of_a_refused_request_is_not_waited_for_long() {
    let site = impatient_about_bodies().await;
    let mut client = site.connect().await;
    client.send(request("POST", "/nothing", "Content-Length: 1000\r\n")).await;
    assert_eq!(client.reply().await.status(), 404);
    client.drip(b'x');
    client.is_cut().await;
}

/// RFC 9112 section 2.2: an empty line is ignored, also when it comes in two pieces. It begins no request whose time runs out.
#[tokio::test]
async fn an_empty_line_in_two_pieces_begins_no_request() {
    let site = Site::builder().config(|config| config.timeouts.request_head = Duration::from_millis(300)).start().await;
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
    client.send("\r").await;
    tokio::time::sleep(Duration::from_millis(50)).await; // two packets
    client.send("\n").await;
    // What must not happen has to be waited for.
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
}

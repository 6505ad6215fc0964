//! A body that fits into the read buffer is there whole before anything is taken for its request: who drips one holds a
//! connection to the sidecar, and nothing at the upstream.

use std::time::Duration;

use super::with_room;
use crate::harness::{Builder, Client, HEARTBEAT, Seen, Site, post, request};

/// Far less than the read buffer.
const BODY: &[u8] = br#"{"id":"drip","version":"1.39.0"}"#;

/// Clients that have sent their head and one byte of their body.
async fn dripping(site: &Site, count: usize) -> Vec<Client> {
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: {}\r\n", site.agent.raw, BODY.len());
    let head = request("POST", HEARTBEAT, &fields);
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = site.connect().await;
        // With the head, or behind it.
        if number % 2 == 0 {
            client.send([head.as_bytes(), &BODY[..1]].concat()).await;
        } else {
            client.send(&head).await;
            client.send(&BODY[..1]).await;
        }
        clients.push(client);
    }
    clients
}

async fn check(builder: Builder) {
    let site = builder.start().await;
    let mut clients = dripping(&site, 100).await;
    for _ in 0..20 {
        assert_eq!(site.beat(&site.agent).await.status(), 200, "others are served");
    }
    for client in &mut clients {
        client.send(&BODY[1..2]).await;
    }
    assert_eq!(site.beat(&site.agent).await.status(), 200, "others are served");
    let requests = site.heartbeat.requests();
    assert!(requests.iter().all(|request| request.body == b"{}"), "{} requests", requests.len());
    assert_eq!(requests.len(), 21);
    let connections = site.heartbeat.connections();
    assert!(connections <= 4, "{connections} connections for 21 requests, one after the other");

    // They are served like any other once they are whole.
    for client in &mut clients {
        client.send(&BODY[2..]).await;
        assert_eq!(client.reply().await.status(), 200);
    }
    let requests = site.heartbeat.requests().split_off(21);
    assert!(requests.iter().all(|request| request.complete && request.body == BODY));
    assert_eq!(requests.len(), 100);
}

#[tokio::test]
async fn clients_that_drip_small_bodies_hold_no_upstream_connection() {
    check(Site::builder()).await;
}

#[tokio::test]
async fn clients_that_drip_small_bodies_hold_no_place() {
    check(with_room(4)).await;
}

/// The deadline for bodies holds all the same, and the upstream hears nothing of it.
#[tokio::test]
async fn a_small_body_that_does_not_come_reaches_no_upstream() {
    let site = Site::builder().setting("TIMEOUTS__BODY_GRACE", "300ms").start().await;
    for mut client in dripping(&site, 4).await {
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.error().as_str()), (408, "Request timeout"));
        assert!(reply.closes());
    }
    assert_eq!(site.heartbeat.connections(), 0);
}

/// Nor does it hear of a client that leaves within one.
#[tokio::test]
async fn a_small_body_that_breaks_off_reaches_no_upstream() {
    let site = Site::start().await;
    drop(dripping(&site, 10).await);
    for mut client in dripping(&site, 10).await {
        client.finish().await;
        client.is_cut().await;
    }
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    assert_eq!((site.heartbeat.requests().len(), site.heartbeat.connections()), (1, 1));
}

/// A larger body is streamed: its beginning arrives while the rest is still to come.
#[tokio::test]
async fn a_large_body_is_not_waited_for() {
    let site = Site::start().await;
    let whole = post(HEARTBEAT, &site.agent, &[b'x'; 100_000]);
    let mut client = site.connect().await;
    client.send(&whole[..whole.len() - 1]).await;
    let streamed = |seen: &Seen| seen.requests.first().is_some_and(|one| one.body.len() == 99_999);
    site.heartbeat.until("all but the last byte", streamed).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.send(b"x").await;
    assert_eq!(client.reply().await.status(), 200);
}

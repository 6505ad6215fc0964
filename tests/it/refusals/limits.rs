//! What is too large, too many, too slow, or not HTTP as it is spoken here.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use super::assert_refused;
use crate::harness::{CONFIG, HEARTBEAT, Script, Site, get, post, refusing, request};

#[tokio::test]
async fn heads_have_a_largest_size_and_a_largest_number_of_fields() {
    let site = Site::builder()
        .config(|config| {
            config.limits.max_head_bytes = NonZeroUsize::new(4096).expect("not 0");
            config.limits.max_headers = NonZeroUsize::new(20).expect("not 0");
        })
        .start()
        .await;
    let padded = |padding: usize| {
        get(CONFIG, &site.agent).replace("\r\n\r\n", &format!("\r\nX-Pad: {}\r\n\r\n", "x".repeat(padding)))
    };
    let room = 4096 - padded(0).len();
    assert_eq!(site.send(padded(room)).await.status(), 200, "as large as it may be");
    let with_fields =
        |count: usize| get(CONFIG, &site.agent).replace("\r\n\r\n", &format!("\r\n{}\r\n", "X-A: b\r\n".repeat(count)));
    assert_eq!(site.send(with_fields(18)).await.status(), 200, "20 with Host and Authorization");
    let long_target = request("GET", &format!("{CONFIG}?{}", "x".repeat(5000)), "");
    // Not even an end: it is refused when the limit is reached.
    let endless = format!("GET {CONFIG} HTTP/1.1\r\nX-Pad: {}", "x".repeat(8000));
    for head in [padded(room + 1), padded(100_000), with_fields(19), with_fields(500), long_target, endless] {
        let mut client = site.connect().await;
        client.send(&head).await;
        let reply = client.reply().await;
        assert_refused(&reply, 431, "Request head too large");
        assert!(reply.closes());
        client.ends().await;
    }
    assert_eq!(site.forwarded(), 2);
}

#[tokio::test]
async fn fields_are_limited_even_if_the_configuration_is_generous() {
    let site = Site::builder().config(|config| config.limits.max_headers = NonZeroUsize::MAX).start().await;
    let fields = "X-A: b\r\n".repeat(200);
    assert_refused(&site.send(request("GET", CONFIG, &fields)).await, 431, "Request head too large");
}

#[tokio::test]
async fn bodies_have_a_largest_size_however_they_are_framed() {
    let site = Site::builder()
        .config(|config| config.limits.max_body_bytes = NonZeroU64::new(1000).expect("not 0"))
        .start()
        .await;
    let chunked = |size: usize| {
        let fields = format!("Authorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n", site.agent.raw);
        let body = "x".repeat(size);
        format!("{}{size:x}\r\n{body}\r\n0\r\n\r\n", request("POST", HEARTBEAT, &fields))
    };
    assert_eq!(site.send(post(HEARTBEAT, &site.agent, &[b'x'; 1000])).await.status(), 200);
    assert_eq!(site.send(chunked(1000)).await.status(), 200);
    assert_refused(&site.send(post(HEARTBEAT, &site.agent, &[b'x'; 1001])).await, 413, "Request body too large");
    assert_eq!(site.heartbeat.requests().len(), 2, "a length over the limit is not even tried");
    assert_refused(&site.send(chunked(1001)).await, 413, "Request body too large");
    assert_eq!(site.heartbeat.requests().len(), 2, "nor is a small body that turns out too large");
    // The length counts before the body: nobody waits for what will not be taken.
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: 99999999999\r\n", site.agent.raw);
    assert_refused(&site.send(request("POST", HEARTBEAT, &fields)).await, 413, "Request body too large");
}

#[tokio::test]
async fn only_http_1_0_and_1_1_are_spoken_in_text() {
    let site = Site::start().await;
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        let mut client = site.connect().await;
        client.send(get(CONFIG, &site.agent).replace("HTTP/1.1", version)).await;
        assert_refused(&client.reply().await, 505, "HTTP version not supported");
        client.ends().await;
    }
    let expects =
        |value: &str| format!("Authorization: Bearer {}\r\nExpect: {value}\r\nContent-Length: 0\r\n", site.agent.raw);
    assert_refused(&site.send(request("POST", HEARTBEAT, &expects("200-maybe"))).await, 417, "Expectation failed");
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_502_and_one_that_says_nothing_504() {
    let (_socket, nobody) = refusing();
    let site = Site::builder()
        .config(move |config| {
            config.upstreams.heartbeat.nodes[0].port = nobody.port();
            config.upstreams.api.first_byte_timeout = Duration::from_secs(1);
        })
        .start()
        .await;
    assert_refused(&site.beat(&site.agent).await, 502, "Upstream unavailable");
    site.api.next(Script::silent());
    assert_refused(&site.get(CONFIG, &site.agent).await, 504, "Upstream timeout");
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200, "the next one has another chance");
}

#[tokio::test]
async fn an_upstream_that_does_not_accept_in_time_is_504() {
    let (_full, address) = full_listener().await;
    let site = Site::builder()
        .config(move |config| {
            config.upstreams.api.nodes[0].port = address.port();
            config.upstreams.api.connect_timeout = Duration::from_millis(200);
        })
        .start()
        .await;
    assert_refused(&site.get(CONFIG, &site.agent).await, 504, "Upstream timeout");
}

/// A listener whose queue is full and stays so: further connections are not answered.
async fn full_listener() -> (impl Sized, std::net::SocketAddr) {
    let (socket, address) = refusing();
    let listener = socket.listen(1).expect("listens");
    let mut waiting = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await
    {
        waiting.push(stream.expect("connects"));
    }
    ((listener, waiting), address)
}

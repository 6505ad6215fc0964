//! Clients of HTTP/1 that leave while their request waits: nobody wants the reply any more, and an upstream that is slow
//! already is not helped by dead requests. Nor may a client that only stopped sending lose its reply.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tollgate::tls::{Alpn, TlsConfig, TlsVersion};

use crate::harness::{
    CONFIG, HEARTBEAT, Script, Site, Upstream, established_to, eventually, get, leave, ok, post, request, reset, within,
};
use tollgate_harness::authority::Authority;

/// Far above what it takes, and far below every deadline that would end it otherwise.
const PROMPTLY: Duration = Duration::from_millis(2500);

/// A request that waits, and what may be behind it already.
type Case = (&'static str, Vec<u8>);

/// Requests to the API server, each whole, whose reply does not come.
fn waiting(site: &Site) -> Vec<Case> {
    let one = get(CONFIG, &site.agent).into_bytes();
    let write = post("/api/configs", &site.owner, b"{}");
    vec![
        ("GET", one.clone()),
        ("POST with its body", write.clone()),
        ("GET and the next request", [one.as_slice(), &one].concat()),
        ("POST and half of the next request", [write.as_slice(), b"GET /api"].concat()),
        ("GET and more than is looked at", [one.as_slice(), &vec![b'x'; 200_000]].concat()),
    ]
}

async fn connect(site: &Site) -> TcpStream {
    within("connecting", TcpStream::connect(site.address())).await.expect("connects")
}

/// Sends a request to an upstream that does not answer it, and waits until it is there.
async fn waits(site: &Site, request: &[u8]) -> TcpStream {
    let before = site.api.requests().len();
    site.api.next(Script::silent());
    let mut client = connect(site).await;
    // What is behind the request may be more than is taken.
    drop(tokio::time::timeout(Duration::from_millis(300), client.write_all(request)).await);
    site.api.until("the request", |seen| seen.requests.get(before).is_some_and(|request| request.complete)).await;
    client
}

/// Waits until the upstream sees its connection closed, and checks that it was soon.
async fn is_let_go(upstream: &Upstream, closed: usize, since: Instant, what: &str) {
    upstream.until(&format!("the upstream is let go: {what}"), |seen| seen.closed == closed).await;
    println!("{what}: let go after {:?}", since.elapsed());
    assert!(since.elapsed() < PROMPTLY, "{what}: {:?}", since.elapsed());
}

#[tokio::test]
async fn a_client_that_resets_takes_its_waiting_request_with_it_at_once() {
    let site = Site::start().await;
    for (at, (what, request)) in waiting(&site).into_iter().enumerate() {
        let client = waits(&site, &request).await;
        reset(client);
        is_let_go(&site.api, at + 1, Instant::now(), what).await;
    }
}

#[tokio::test]
async fn a_client_that_closed_takes_its_waiting_request_with_it_within_a_second() {
    let site = Site::start().await;
    for (at, (what, request)) in waiting(&site).into_iter().enumerate() {
        // Whether it closed or only stopped sending cannot be told. What is not looked at hides even that.
        if what.contains("more than is looked at") {
            continue;
        }
        let client = waits(&site, &request).await;
        leave(client);
        is_let_go(&site.api, at + 1, Instant::now(), what).await;
    }
}

/// It might still read, so it is told nothing wrong: the connection ends without a reply.
#[tokio::test]
async fn a_client_that_stopped_sending_and_gets_no_reply_is_closed_within_a_second() {
    let site = Site::start().await;
    let mut client = waits(&site, get(CONFIG, &site.agent).as_bytes()).await;
    client.shutdown().await.expect("shuts down");
    let since = Instant::now();
    let mut said = Vec::new();
    // Cleanly or by a reset: nothing was begun.
    drop(within("the connection's end", client.read_to_end(&mut said)).await);
    assert_eq!(said.escape_ascii().to_string(), "");
    assert!(since.elapsed() < PROMPTLY, "{:?}", since.elapsed());
    is_let_go(&site.api, 1, since, "half-closed").await;
}

#[tokio::test]
async fn a_client_that_stopped_sending_gets_the_reply_that_comes_within_the_second() {
    let site = Site::start().await;
    for request in [get(CONFIG, &site.agent).into_bytes(), post("/api/configs", &site.owner, b"{}")] {
        let before = site.api.requests().len();
        let pieces = site.api.next_in_pieces();
        let mut client = connect(&site).await;
        client.write_all(&request).await.expect("sends");
        client.shutdown().await.expect("shuts down");
        site.api.until("the request", |seen| seen.requests.len() == before + 1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        pieces.send(ok("still here").into_bytes()).await.expect("takes it");
        let mut said = Vec::new();
        within("the reply", client.read_to_end(&mut said)).await.expect("a clean end");
        assert!(said.starts_with(b"HTTP/1.1 200 OK\r\n") && said.ends_with(b"\r\n\r\nstill here"), "{said:?}");
    }
}

/// The second ends when a reply begins: from then on it is a download like any other.
#[tokio::test]
async fn a_client_that_stopped_sending_gets_all_of_a_long_reply() {
    let site = Site::start().await;
    let pieces = site.api.next_in_pieces();
    let mut client = connect(&site).await;
    client.write_all(get(CONFIG, &site.agent).as_bytes()).await.expect("sends");
    client.shutdown().await.expect("shuts down");
    let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 3\r\n\r\n";
    pieces.send(head.into()).await.expect("takes it");
    for piece in ["a", "b", "c"] {
        tokio::time::sleep(Duration::from_millis(600)).await;
        pieces.send(piece.into()).await.expect("takes it");
    }
    let mut said = Vec::new();
    within("the reply", client.read_to_end(&mut said)).await.expect("a clean end");
    assert!(said.ends_with(b"\r\n\r\nabc"), "{:?}", said.escape_ascii().to_string());
}

/// Requests that were sent before the end are still answered, one after the other.
#[tokio::test]
async fn pipelined_requests_before_the_end_are_answered() {
    let site = Site::start().await;
    let mut client = connect(&site).await;
    client.write_all(get(CONFIG, &site.agent).repeat(3).as_bytes()).await.expect("sends");
    client.shutdown().await.expect("shuts down");
    let mut said = Vec::new();
    within("the replies", client.read_to_end(&mut said)).await.expect("a clean end");
    let said = String::from_utf8(said).expect("text");
    assert_eq!(said.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{said}");
}

/// Nothing is read from the client then, so its end is not found by reading.
#[tokio::test]
async fn a_client_that_resets_within_an_upload_that_is_held_up_takes_it_with_it() {
    let site = Site::builder().setting("LIMITS__MAX_BODY_BYTES", "1GiB").start().await;
    for (number, framing) in ["Content-Length: 900000000", "Transfer-Encoding: chunked"].into_iter().enumerate() {
        site.heartbeat.next(Script::deaf());
        let mut client = connect(&site).await;
        let fields = format!("Authorization: Bearer {}\r\n{framing}\r\n", site.agent.raw);
        client.write_all(request("POST", HEARTBEAT, &fields).as_bytes()).await.expect("sends");
        let piece = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
        // Until nothing more is taken for a while.
        let stuck = async {
            while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), client.write_all(&piece)).await {
                written.expect("it is not refused");
            }
        };
        within("the upload is held up", stuck).await;
        site.heartbeat.until("the request", |seen| seen.requests.len() == number + 1).await;
        assert_eq!(established_to(site.heartbeat.address()), 1);
        reset(client);
        let since = Instant::now();
        // The upstream does not read, so it would not notice: the sidecar's end of the connection is looked at.
        eventually("the upstream is let go", || async { established_to(site.heartbeat.address()) == 0 }).await;
        println!("{framing}: let go after {:?}", since.elapsed());
        assert!(since.elapsed() < PROMPTLY, "{framing}: {:?}", since.elapsed());
    }
}

/// By TLS an end may be said (`close_notify`), or only happen.
#[tokio::test]
async fn a_client_that_leaves_over_tls_takes_its_waiting_request_with_it() {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let secure = move |config: &mut tollgate::config::Config| {
        let alpn = vec![Alpn::Http1];
        config.listeners[0].tls = Some(TlsConfig {
            certificate,
            key,
            client_ca: None,
            client_crl: None,
            min_version: TlsVersion::Tls12,
            alpn,
        });
    };
    let site = Site::builder().config(secure).start().await;
    let connector = TlsConnector::from(std::sync::Arc::new(authority.client(rustls::ALL_VERSIONS, &[b"http/1.1"])));
    for (at, how) in ["reset", "closed with a word", "closed without a word"].into_iter().enumerate() {
        site.api.next(Script::silent());
        let stream = connect(&site).await;
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let mut client = within("the handshake", connector.connect(name, stream)).await.expect("shakes hands");
        client.write_all(get(CONFIG, &site.agent).as_bytes()).await.expect("sends");
        site.api.until("the request", |seen| seen.requests.len() == at + 1).await;
        match how {
            "reset" => reset(client.into_inner().0),
            "closed with a word" => {
                client.shutdown().await.expect("shuts down");
                leave(client.into_inner().0);
            }
            _ => leave(client.into_inner().0),
        }
        is_let_go(&site.api, at + 1, Instant::now(), how).await;
    }
}

/// Nor is the rest of a reply waited for that stalls half-way, when its client is gone.
#[tokio::test]
async fn a_client_that_leaves_within_a_reply_that_stalls_lets_its_upstream_go() {
    let site = Site::start().await;
    for gone in 1..=2 {
        let pieces = site.api.next_in_pieces();
        let mut stream = connect(&site).await;
        stream.write_all(get(CONFIG, &site.agent).as_bytes()).await.expect("sends");
        let begun = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 100\r\n\r\nabc";
        pieces.send(begun.into()).await.expect("listens");
        let mut received = Vec::new();
        while !received.ends_with(b"abc") {
            assert!(within("the reply", stream.read_buf(&mut received)).await.expect("reads") > 0);
        }
        if gone == 1 {
            stream.set_zero_linger().expect("an option");
        }
        drop(stream);
        drop(pieces); // from here on the upstream says nothing, and looks whether anybody is there
        site.api.until("its upstream is let go", |seen| seen.closed == gone).await;
    }
}

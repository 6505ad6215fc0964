//! What `/metrics` says of requests, connections and the registry; and that saying it delays nobody.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tollgate::tls::{Alpn, TlsConfig, TlsVersion};

use crate::harness::{CONFIG, Client, HEARTBEAT, Script, Site, eventually, get, request};
use tollgate_harness::authority::Authority;

/// Waits until a metric, named with its labels, has this value. A request is counted when it is over, and a client may know
/// that before.
async fn counted(site: &Site, name: &str, value: &str) {
    let line = format!("\n{name} {value}\n");
    eventually(&format!("{name} is {value}"), || async { site.metrics().await.contains(&line) }).await;
}

fn requests(group: &str, method: &str, status: &str, outcome: &str) -> String {
    format!(
        "tollgate_requests_total{{group=\"{group}\",method=\"{method}\",status=\"{status}\",outcome=\"{outcome}\"}}"
    )
}

#[tokio::test]
async fn requests_are_counted_by_what_they_are_about_and_how_they_end() {
    let site = Site::start().await;
    for _ in 0..3 {
        assert_eq!(site.beat(&site.agent).await.status(), 200);
    }
    site.api.next(Script::answer("HTTP/1.1 304 Not Modified\r\nServer: scripted\r\n\r\n"));
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 304);
    assert_eq!(site.send(request("GET", CONFIG, "")).await.status(), 401);
    assert_eq!(site.get("/api/tokens", &site.agent).await.status(), 403);
    assert_eq!(site.get("/nowhere", &site.agent).await.status(), 404);
    assert_eq!(site.send(request("BREW", HEARTBEAT, "")).await.status(), 405);
    site.api
        .next(Script::answer("HTTP/1.1 500 Internal Server Error\r\nServer: scripted\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 500);
    for (group, method, status, outcome, count) in [
        ("heartbeat", "POST", "2xx", "served", "3"),
        ("configs", "GET", "3xx", "served", "1"),
        ("configs", "GET", "4xx", "refused", "1"),
        ("tokens", "GET", "4xx", "refused", "1"),
        ("unrouted", "GET", "4xx", "refused", "1"),
        ("unrouted", "other", "4xx", "refused", "1"),
        ("configs", "GET", "5xx", "served", "1"),
    ] {
        counted(&site, &requests(group, method, status, outcome), count).await;
    }
    for (reason, count) in
        [("no_credential", "1"), ("permission", "1"), ("no_route", "1"), ("method", "1"), ("stale", "0")]
    {
        counted(&site, &format!("tollgate_refusals_total{{reason=\"{reason}\"}}"), count).await;
    }
    counted(&site, "tollgate_request_duration_seconds_count{group=\"heartbeat\"}", "3").await;
    counted(&site, "tollgate_request_duration_seconds_count{group=\"configs\"}", "3").await;
    // What was refused had its own time only.
    counted(&site, "tollgate_request_own_seconds_count", "9").await;
    counted(&site, "tollgate_upstream_response_seconds_count{upstream=\"heartbeat\"}", "3").await;
    counted(&site, "tollgate_upstream_response_seconds_count{upstream=\"api\"}", "2").await;
    let all = site.metric("tollgate_request_duration_seconds_bucket{group=\"heartbeat\",le=\"+Inf\"}").await;
    assert_eq!(all, "3");
    let seconds: f64 =
        site.metric("tollgate_request_duration_seconds_sum{group=\"heartbeat\"}").await.parse().expect("a number");
    assert!(seconds > 0.0 && seconds.is_finite(), "{seconds}");
    counted(&site, "tollgate_connections_accepted_total", "9").await;
}

#[tokio::test]
async fn what_is_in_flight_is_seen_and_what_breaks_off_is_told_apart() {
    let site = Site::start().await;
    let (client, pieces) = site.occupy().await;
    counted(&site, "tollgate_upstream_in_flight{upstream=\"api\"}", "1").await;
    counted(&site, "tollgate_upstream_connections_open{upstream=\"api\"}", "1").await;
    // It was handed on, and is not answered.
    counted(&site, "tollgate_request_own_seconds_count", "1").await;
    counted(&site, "tollgate_upstream_response_seconds_count{upstream=\"api\"}", "0").await;
    drop(client);
    counted(&site, &requests("configs", "GET", "none", "left"), "1").await;
    counted(&site, "tollgate_upstream_in_flight{upstream=\"api\"}", "0").await;
    drop(pieces);

    let (mut client, _pieces) = site.download(get(CONFIG, &site.agent)).await;
    counted(&site, "tollgate_upstream_response_seconds_count{upstream=\"api\"}", "1").await;
    site.revoke(&site.agent).await;
    client.is_cut().await;
    counted(&site, &requests("configs", "GET", "none", "cut"), "1").await;
    counted(&site, "tollgate_revocation_lag_seconds_count", "1").await;
}

#[tokio::test]
async fn a_balancers_checks_are_a_group_of_their_own() {
    let site = Site::builder().setting("HEALTH__PATH", "/healthz").start().await;
    assert_eq!(site.send(request("GET", "/healthz", "")).await.status(), 200);
    counted(&site, &requests("health", "GET", "2xx", "served"), "1").await;
    assert!(!site.metrics().await.contains("group=\"unrouted\""), "nothing else was asked");
}

#[tokio::test]
async fn nothing_that_a_client_sends_becomes_a_label() {
    let site = Site::start().await;
    let fields = "Authorization: Bearer tc-apiv1_strange\r\nUser-Agent: strange\r\nX-Request-Id: strange\r\n";
    for (method, path) in
        [("STRANGE", CONFIG), ("GET", "/strange"), ("GET", "/api/configs/strange/toml"), ("GET", CONFIG)]
    {
        site.send(request(method, path, fields)).await;
    }
    counted(&site, &requests("configs", "GET", "4xx", "refused"), "2").await;
    let said = site.metrics().await.to_lowercase();
    assert!(!said.contains("strange"), "{said}");
}

#[tokio::test]
async fn a_certificate_says_when_it_ends() {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let client_ca = authority.certificate();
    let site = Site::builder()
        .config(move |config| {
            config.listeners[0].tls = Some(TlsConfig {
                certificate,
                key,
                client_ca: Some(client_ca),
                client_crl: None,
                min_version: TlsVersion::Tls12,
                alpn: vec![Alpn::Http1],
            });
        })
        .start()
        .await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    for purpose in ["listener", "client_ca"] {
        let name = format!("tollgate_certificate_expiry_timestamp_seconds{{use=\"{purpose}\"}}");
        let end: f64 = site.metric(&name).await.parse().expect("a number");
        assert!(end > now, "{purpose}: {end}");
    }
    assert!(!site.metrics().await.contains("{use=\"client_crl\"}"), "there is none");
    assert_eq!(site.metric("tollgate_tls_handshakes_total").await, "0");
}

#[tokio::test]
async fn a_tls_handshake_counts() {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let site = Site::builder()
        .config(move |config| {
            config.listeners[0].tls = Some(TlsConfig {
                certificate,
                key,
                client_ca: None,
                client_crl: None,
                min_version: TlsVersion::Tls12,
                alpn: vec![Alpn::Http1],
            });
        })
        .start()
        .await;
    let stream = TcpStream::connect(site.address()).await.expect("connects");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let config = std::sync::Arc::new(authority.client(&[&rustls::version::TLS13], &[]));
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("shakes hands");
    let mut client = Client::over(stream);
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
    counted(&site, "tollgate_tls_handshakes_total", "1").await;
}

/// Asks for the metrics again and again, and reads nothing.
async fn deaf_scraper(admin: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // What does not fit there stays with the sidecar, whose own buffer is as small as such segments ask for.
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.set_tcp_mss(536).expect("small segments");
    socket.set_nonblocking(true).expect("is asynchronous");
    let socket = TcpSocket::from_std_stream(socket.into());
    let mut stream = socket.connect(admin).await.expect("connects");
    let scrapes = b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n".repeat(100);
    // One that finds no place is closed.
    drop(stream.write_all(&scrapes).await);
    stream
}

#[tokio::test]
async fn scrapers_that_do_not_read_delay_neither_heartbeats_nor_probes() {
    let site = Site::builder().setting("FRESHNESS__PROBE_INTERVAL", "100ms").start().await;
    let mut deaf = Vec::new();
    for _ in 0..8 {
        deaf.push(deaf_scraper(site.sidecar.admin()).await);
    }
    for _ in 0..20 {
        assert_eq!(site.beat(&site.agent).await.status(), 200);
        let proven = site.sidecar.replica().proven();
        eventually("a later proof", || async { site.sidecar.replica().proven() > proven }).await;
    }
    counted(&site, &requests("heartbeat", "POST", "2xx", "served"), "20").await;
    drop(deaf);
}

#[tokio::test]
async fn the_process_is_described_under_the_names_that_others_have() {
    let site = Site::start().await;
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        let value: f64 = site.metric(name).await.parse().unwrap_or(f64::INFINITY);
        assert!(value > 0.0, "{name}: {value}");
    }
    let started = site.metric("process_start_time_seconds").await;
    assert_eq!(site.metric("process_start_time_seconds").await, started, "it does not move");
}

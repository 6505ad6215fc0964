//! TLS on both sides: what listeners offer to agents, and in [`upstream`] how `https` upstreams are verified.

mod handshake;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ProtocolVersion;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tollgate::tls::{Alpn, TlsConfig, TlsVersion};

use crate::harness::{
    Builder, CONFIG, Client, HEARTBEAT, Http2Client, Script, Site, eventually, get, http2_with, post, within,
};
use tollgate_harness::authority::Authority;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// A site whose listener has a certificate by this authority, for `localhost`.
fn secure(authority: &Authority) -> Builder {
    let (certificate, key) = authority.issue("server", &["localhost"]);
    Site::builder().config(move |config| {
        let tls = TlsConfig {
            certificate,
            key,
            client_ca: None,
            client_crl: None,
            min_version: TlsVersion::Tls12,
            alpn: vec![Alpn::Http2, Alpn::Http1],
        };
        config.listeners[0].tls = Some(tls);
    })
}

/// As [`secure`], for clients with a certificate of `clients`.
fn mutual(authority: &Authority, clients: &Authority) -> Builder {
    let client_ca = clients.certificate();
    secure(authority).config(move |config| {
        config.listeners[0].tls.as_mut().expect("has TLS").client_ca = Some(client_ca);
    })
}

/// Connects, or says why the handshake failed.
async fn try_connect(address: SocketAddr, config: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = within("connecting", TcpStream::connect(address)).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn connect(address: SocketAddr, config: rustls::ClientConfig) -> TlsStream<TcpStream> {
    try_connect(address, config).await.expect("shakes hands")
}

/// One request by HTTP/1.1 on a connection of its own, and the status of its reply.
async fn status_of(site: &Site, config: rustls::ClientConfig) -> std::io::Result<u16> {
    let stream = try_connect(site.address(), config).await?;
    let mut client = Client::over(stream);
    client.send(get(CONFIG, &site.agent)).await;
    // With TLS 1.3 a client that is not wanted learns of it only when it reads.
    client.try_reply(false).await.map(|reply| reply.status()).map_err(|_| std::io::ErrorKind::ConnectionReset.into())
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_served() {
    let authority = Authority::create();
    let site = secure(&authority).start().await;
    for (version, expected) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        for offered in [&[][..], &[HTTP1], &[b"http/1.0", HTTP1]] {
            let stream = connect(site.address(), authority.client(&[version], offered)).await;
            let (_, session) = stream.get_ref();
            assert_eq!(session.protocol_version(), Some(expected));
            assert_eq!(session.alpn_protocol(), offered.contains(&HTTP1).then_some(HTTP1));
            let mut client = Client::over(stream);
            for _ in 0..2 {
                client.send(get(CONFIG, &site.agent)).await;
                assert_eq!(client.reply().await.text(), "ok");
                client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
                assert_eq!(client.reply().await.text(), "ok");
            }
        }
        let stream = connect(site.address(), authority.client(&[version], &[HTTP2, HTTP1])).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(HTTP2));
        let client = Http2Client::over(stream, &h2::client::Builder::new()).await;
        assert_eq!(client.get(CONFIG, &site.agent).await.text(), "ok");
        let mut beat = client.begin(http2_with(&site.agent, "POST", HEARTBEAT)).await;
        beat.piece(b"{}");
        beat.end();
        assert_eq!(beat.reply().await.text(), "ok");
    }
    for request in site.api.requests().iter().chain(&site.heartbeat.requests()) {
        assert_eq!(request.field("X-Forwarded-Proto"), Some("https"));
    }
}

/// Telegraf offers h2 first, for one request a minute: the default configuration gives it what costs less.
#[tokio::test]
async fn http1_is_preferred_by_default_and_http2_is_there() {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let tls = format!("{{ certificate = \"{}\", key = \"{}\" }}", certificate.display(), key.display());
    let site = Site::builder().setting("LISTENER", &format!("[{{ tls = {tls} }}]")).start().await;
    for (offered, expected) in [(&[HTTP2, HTTP1][..], HTTP1), (&[HTTP1, HTTP2], HTTP1), (&[HTTP2], HTTP2)] {
        let stream = connect(site.address(), authority.client(rustls::ALL_VERSIONS, offered)).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(expected), "offered {offered:?}");
    }
}

#[tokio::test]
async fn a_client_that_offers_only_other_protocols_is_turned_away() {
    let authority = Authority::create();
    let site = secure(&authority).start().await;
    let error = try_connect(site.address(), authority.client(rustls::ALL_VERSIONS, &[b"spdy/3"])).await;
    assert!(error.expect_err("refused").to_string().contains("NoApplicationProtocol"));
}

/// HTTP/2 without having agreed on it is not HTTP/1.1 either.
#[tokio::test]
async fn prior_knowledge_does_not_go_around_alpn() {
    let authority = Authority::create();
    let site = secure(&authority).start().await;
    let mut client = Client::over(connect(site.address(), authority.client(rustls::ALL_VERSIONS, &[HTTP1])).await);
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(client.reply().await.status(), 505);
    client.is_cut().await;
}

/// A large body fills the TLS session's buffers both ways.
#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let authority = Authority::create();
    let site = secure(&authority).start().await;
    let body: Vec<u8> = (0..3_000_000u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    let head = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut client = Client::over(connect(site.address(), authority.client(rustls::ALL_VERSIONS, &[])).await);
    for _ in 0..2 {
        site.heartbeat.next(Script::reply([head.as_bytes(), &body].concat()));
        client.send(post(HEARTBEAT, &site.agent, &body)).await;
        assert!(client.reply().await.body == body);
    }
    assert!(site.heartbeat.requests().iter().all(|request| request.body == body));
}

#[tokio::test]
async fn clients_without_the_right_certificate_are_turned_away() {
    let (authority, clients, others) = (Authority::create(), Authority::create(), Authority::create());
    let site = mutual(&authority, &clients).start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let good = authority.client_with(&[version], &clients, "agent");
        assert_eq!(status_of(&site, good).await.expect("is served"), 200);
        let none = authority.client(&[version], &[]);
        assert!(status_of(&site, none).await.is_err(), "no certificate");
        let wrong = authority.client_with(&[version], &others, "agent");
        assert!(status_of(&site, wrong).await.is_err(), "a certificate of another authority");
    }
    assert_eq!(site.forwarded(), 2);
}

/// As nginx and HAProxy have it: an authority without a list, or with one that has expired, is trusted with nobody.
#[tokio::test]
async fn clients_whose_certificate_was_revoked_are_turned_away() {
    let (authority, clients, others) = (Authority::create(), Authority::create(), Authority::create());
    let crl = authority.path("clients.crl");
    let list = |text: String| std::fs::write(&crl, text).expect("writes");
    list(clients.revocation_list(&["lost"], 2020, 2100));
    let file = crl.clone();
    let site = mutual(&authority, &clients)
        .config(move |config| config.listeners[0].tls.as_mut().expect("has TLS").client_crl = Some(file))
        .start()
        .await;
    let lets_in = async |name: &str, issuer: &Authority| {
        matches!(status_of(&site, authority.client_with(rustls::ALL_VERSIONS, issuer, name)).await, Ok(200))
    };
    assert!(lets_in("agent", &clients).await && !lets_in("lost", &clients).await);
    // A later list, and the one before it still there, in either order; that of another authority beside it.
    let (old, new) =
        (clients.revocation_list(&[], 2020, 2100), clients.revocation_list(&["lost", "agent"], 2021, 2100));
    let other = others.revocation_list(&[], 2020, 2100);
    list([old.clone(), other.clone(), new.clone()].concat());
    eventually("the later list counts", || async { !lets_in("agent", &clients).await }).await;
    list([new, old.clone()].concat());
    assert!(!lets_in("agent", &clients).await);
    list(old);
    eventually("nobody is revoked", || async { lets_in("agent", &clients).await && lets_in("lost", &clients).await })
        .await;
    // What is no list changes nothing.
    list("nothing".to_owned());
    list(other);
    eventually("the authority has no list", || async { !lets_in("agent", &clients).await }).await;
    list(clients.revocation_list(&[], 2020, 2100));
    eventually("it has one", || async { lets_in("agent", &clients).await }).await;
    list(clients.revocation_list(&[], 2020, 2021));
    eventually("it has expired", || async { !lets_in("agent", &clients).await }).await;
}

/// The certificates and the lists of both keys are there until the last certificate by the old one is gone.
#[tokio::test]
async fn an_authority_with_a_new_key_and_the_same_name_has_two_lists() {
    let authority = Authority::create();
    let (old, new, third) = (Authority::named("agents"), Authority::named("agents"), Authority::named("agents"));
    let (ca, crl) = (authority.path("both.pem"), authority.path("both.crl"));
    let text = |file: std::path::PathBuf| std::fs::read_to_string(file).expect("reads");
    let authorities = [text(old.certificate()), text(new.certificate()), text(third.certificate())].concat();
    std::fs::write(&ca, authorities).expect("writes");
    let list = |lists: &[String]| std::fs::write(&crl, lists.concat()).expect("writes");
    let [of_old, earlier, of_new] = [
        old.revocation_list(&["lost"], 2021, 2100),
        old.revocation_list(&[], 2020, 2100),
        new.revocation_list(&["agent"], 2022, 2100),
    ];
    list(&[earlier.clone(), of_new.clone(), of_old.clone()]);
    let files = (ca.clone(), crl.clone());
    let site = secure(&authority).config(move |config| {
        let tls = config.listeners[0].tls.as_mut().expect("has TLS");
        (tls.client_ca, tls.client_crl) = (Some(files.0), Some(files.1));
    });
    let site = site.start().await;
    let lets_in = async |name: &str, issuer: &Authority| {
        matches!(status_of(&site, authority.client_with(rustls::ALL_VERSIONS, issuer, name)).await, Ok(200))
    };
    let all = async || {
        let by_old = (lets_in("agent", &old).await, lets_in("lost", &old).await);
        (by_old, (lets_in("agent", &new).await, lets_in("lost", &new).await))
    };
    assert_eq!(all().await, ((true, false), (false, true)), "each key's own list counts");
    assert!(!lets_in("agent", &third).await, "there is none by this key");
    let revoked = "tollgate_tls_handshakes_failed_total{reason=\"certificate_revoked\"}";
    eventually("all are counted as what they are", || async { site.metric(revoked).await == "3" }).await;
    // Whoever has the name and not the key says nothing.
    list(&[of_new.clone(), third.revocation_list(&[], 2030, 2100), of_old]);
    eventually("the third has one", || async { lets_in("agent", &third).await }).await;
    assert_eq!(all().await, ((true, false), (false, true)));
    list(&[of_new]);
    eventually("there is none by the old key any more", || async { !lets_in("agent", &old).await }).await;
    assert_eq!(all().await, ((false, false), (false, true)));
}

#[tokio::test]
async fn an_older_version_than_is_wanted_is_turned_away() {
    let authority = Authority::create();
    let only_tls13 = |config: &mut tollgate::config::Config| {
        config.listeners[0].tls.as_mut().expect("has TLS").min_version = TlsVersion::Tls13;
    };
    let site = secure(&authority).config(only_tls13).start().await;
    assert_eq!(status_of(&site, authority.client(&[&rustls::version::TLS13], &[])).await.expect("is served"), 200);
    assert!(status_of(&site, authority.client(&[&rustls::version::TLS12], &[])).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_not_a_credential() {
    let (authority, clients) = (Authority::create(), Authority::create());
    let site = mutual(&authority, &clients).start().await;
    let config = authority.client_with(rustls::ALL_VERSIONS, &clients, "agent");
    let mut client = Client::over(connect(site.address(), config).await);
    client.send(format!("GET {CONFIG} HTTP/1.1\r\nHost: tollgate\r\n\r\n")).await;
    assert_eq!(client.reply().await.status(), 401);
}

/// Another file, not another content of the same: by a reload; and TLS begins and ends by one.
#[tokio::test]
async fn another_certificate_is_offered_after_a_reload() {
    let (authority, next) = (Authority::create(), Authority::create());
    let site = secure(&authority).start().await;
    let mut before = Client::over(connect(site.address(), authority.client(rustls::ALL_VERSIONS, &[])).await);
    let mut config = site.config().clone();
    let (certificate, key) = next.issue("server", &["localhost"]);
    let tls = config.listeners[0].tls.as_mut().expect("has TLS");
    (tls.certificate, tls.key) = (certificate, key);
    let changes = site.sidecar.reload(&config).await.expect("usable");
    assert_eq!(changes.reloaded, ["listener[127.0.0.1:0].tls.certificate", "listener[127.0.0.1:0].tls.key"]);
    assert_eq!(status_of(&site, next.client(rustls::ALL_VERSIONS, &[])).await.expect("is served"), 200);
    assert!(status_of(&site, authority.client(rustls::ALL_VERSIONS, &[])).await.is_err());
    before.send(get(CONFIG, &site.agent)).await;
    assert_eq!(before.reply().await.status(), 200, "connections that stand go on");

    // It is watched from now on.
    let (_, key) = authority.issue("other", &["localhost"]);
    std::fs::copy(key, next.path("server.key")).expect("copies");
    assert!(site.sidecar.reload(&config).await.is_err(), "half of a change");
    let (certificate, key) = (authority.path("other.pem"), authority.path("other.key"));
    std::fs::copy(certificate, next.path("server.pem")).expect("copies");
    std::fs::copy(key, next.path("server.key")).expect("copies");
    eventually("the new certificate", || async {
        matches!(status_of(&site, authority.client(rustls::ALL_VERSIONS, &[])).await, Ok(200))
    })
    .await;

    config.listeners[0].tls = None;
    site.sidecar.reload(&config).await.expect("usable");
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
}

/// A renewed certificate is offered without a restart; one that cannot be used is not.
#[tokio::test]
async fn a_changed_certificate_is_offered_to_new_connections() {
    let (authority, next) = (Authority::create(), Authority::create());
    let site = secure(&authority).start().await;
    let mut before = Client::over(connect(site.address(), authority.client(rustls::ALL_VERSIONS, &[])).await);

    // Half of a change: the new certificate, still with the old key.
    let (new_certificate, new_key) = next.issue("server", &["localhost"]);
    let (certificate, key) = (authority.path("server.pem"), authority.path("server.key"));
    std::fs::copy(&new_certificate, &certificate).expect("copies");
    assert_eq!(status_of(&site, authority.client(rustls::ALL_VERSIONS, &[])).await.expect("still served"), 200);

    std::fs::copy(&new_key, &key).expect("copies");
    eventually("the new certificate", || async {
        matches!(status_of(&site, next.client(rustls::ALL_VERSIONS, &[])).await, Ok(200))
    })
    .await;
    assert!(status_of(&site, authority.client(rustls::ALL_VERSIONS, &[])).await.is_err());

    before.send(get(CONFIG, &site.agent)).await;
    assert_eq!(before.reply().await.status(), 200, "connections that stand go on");
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_closed() {
    let authority = Authority::create();
    let site = secure(&authority).start().await;
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    let said = client.rest().await;
    assert!(!said.starts_with(b"HTTP/"), "{:?}", said.escape_ascii().to_string());
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn a_handshake_that_drips_or_stops_is_closed_at_its_deadline() {
    let authority = Authority::create();
    let deadline = Duration::from_millis(300);
    let site = secure(&authority).config(move |config| config.timeouts.tls_handshake = deadline).start().await;
    let mut silent = site.connect().await;
    silent.is_cut().await;

    let mut half = site.connect().await;
    half.send(&hello(&authority)[..40]).await;
    half.is_cut().await;

    let mut dripping = site.connect().await;
    let drip = async {
        for byte in hello(&authority) {
            if dripping.send_up_to(&[byte], 1).await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it was let in");
    };
    within("the connection's end", drip).await;
    assert_eq!(status_of(&site, authority.client(rustls::ALL_VERSIONS, &[])).await.expect("others are served"), 200);
}

/// After the handshake the deadline for a head runs, as without TLS.
#[tokio::test]
async fn a_client_that_says_nothing_after_its_handshake_is_closed() {
    let authority = Authority::create();
    let deadline = Duration::from_millis(300);
    let site = secure(&authority).config(move |config| config.timeouts.request_head = deadline).start().await;
    let mut client = Client::over(connect(site.address(), authority.client(rustls::ALL_VERSIONS, &[HTTP1])).await);
    client.is_cut().await;
    let mut client = Client::over(connect(site.address(), authority.client(rustls::ALL_VERSIONS, &[HTTP2])).await);
    client.is_cut().await;
}

/// The first bytes of a handshake.
fn hello(authority: &Authority) -> Vec<u8> {
    let config = Arc::new(authority.client(rustls::ALL_VERSIONS, &[]));
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = rustls::ClientConnection::new(config, name).expect("begins");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a vector takes everything");
    bytes
}

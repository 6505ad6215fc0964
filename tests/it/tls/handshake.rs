//! Handshakes that fail are counted by reason, and the log says whose they were and why.

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tollgate_harness::authority::Authority;

use super::{mutual, status_of, try_connect};
use crate::harness::{CONFIG, Client, Program, Site, Upstream, eventually, get, request};

async fn total(site: &Site, reason: &str) -> String {
    site.metric(&format!("tollgate_tls_handshakes_failed_total{{reason=\"{reason}\"}}")).await
}

async fn counted(site: &Site, reason: &str, expected: &str) {
    eventually(&format!("{reason} {expected}"), || async { total(site, reason).await == expected }).await;
}

#[tokio::test]
async fn what_fails_is_counted_by_its_reason() {
    let (authority, clients, others) = (Authority::create(), Authority::create(), Authority::create());
    let site = mutual(&authority, &clients).start().await;
    let fails = async |config: ClientConfig| assert!(status_of(&site, config).await.is_err());
    fails(authority.client(rustls::ALL_VERSIONS, &[])).await;
    counted(&site, "no_certificate", "1").await;
    for (count, version) in [("1", &rustls::version::TLS12), ("2", &rustls::version::TLS13)] {
        fails(authority.client_with(&[version], &others, "agent")).await;
        counted(&site, "unknown_ca", count).await;
        // The client does not know the authority of the listener.
        fails(others.client_with(&[version], &clients, "agent")).await;
        counted(&site, "refused_by_client", count).await;
    }
    let spdy = authority.client(rustls::ALL_VERSIONS, &[b"spdy/3"]);
    assert!(try_connect(site.address(), spdy).await.is_err());
    counted(&site, "incompatible", "1").await;
    let mut plain = site.connect().await;
    plain.send(get(CONFIG, &site.agent)).await;
    plain.rest().await;
    counted(&site, "plain_http", "1").await;
    let mut noise = site.connect().await;
    noise.send([0u8; 16]).await;
    noise.rest().await;
    counted(&site, "not_tls", "1").await;
    // Whoever only looks whether anybody listens has begun none.
    drop(site.connect().await);
    let good = authority.client_with(rustls::ALL_VERSIONS, &clients, "agent");
    assert_eq!(status_of(&site, good).await.expect("is served"), 200);
    assert_eq!(total(&site, "closed").await, "0");
}

#[tokio::test]
async fn the_log_says_whose_and_why() {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let tls = format!("[{{ tls = {{ certificate = '{}', key = '{}' }} }}]", certificate.display(), key.display());
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[("LISTENER", &tls)]);
    let mut plain = Client::over(TcpStream::connect(program.address()).await.expect("connects"));
    plain.send(request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", program.token))).await;
    plain.rest().await;
    let is_it = |line: &String| {
        line.contains("TLS handshake failed")
            && line.contains(r#""address":"127.0.0.1""#)
            && line.contains(r#""reason":"plain_http""#)
            && line.contains("the client has to use https")
    };
    eventually("the log says it", || async { program.log().iter().any(is_it) }).await;
    assert!(!program.log().concat().contains(&program.token));
}

//! How `https` upstreams are verified, and what they are shown.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tollgate::tls::{Identity, UpstreamTlsConfig};

use crate::harness::{CONFIG, Site, eventually, get};
use tollgate_harness::authority::{Authority, self_signed, server};

/// A server that answers every request with the name that it was asked for in the handshake, and its port.
async fn https_upstream(config: Arc<ServerConfig>) -> u16 {
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let name = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                let head = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: {}\r\n\r\n", name.len());
                let mut received = Vec::new();
                while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
                    if received.ends_with(b"\r\n\r\n") {
                        received.clear();
                        stream.write_all((head.clone() + &name).as_bytes()).await.ok();
                    }
                }
            });
        }
    });
    port
}

/// A site whose API upstream is reached by TLS as `localhost`, with a new connection for each request.
async fn behind_tls(port: u16, tls: UpstreamTlsConfig) -> Site {
    let change = move |config: &mut tollgate::config::Config| {
        let api = &mut config.upstreams.api;
        api.nodes = vec![format!("https://localhost:{port}").parse().expect("a URL")];
        api.tls = Some(tls);
        api.pool_max_idle = 0;
    };
    Site::builder().config(change).start().await
}

/// Trusts what the certificates in this file issued.
fn by(ca: &Path) -> UpstreamTlsConfig {
    UpstreamTlsConfig { ca: Some(ca.to_owned()), ..UpstreamTlsConfig::default() }
}

async fn assert_reached(site: &Site, name: &str) {
    let reply = site.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.text()), (200, name));
}

async fn assert_unavailable(site: &Site) {
    let reply = site.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), (502, "Upstream unavailable"));
}

async fn eventually_answers(site: &Site, what: &str, status: u16) {
    eventually(what, || async { site.get(CONFIG, &site.agent).await.status() == status }).await;
}

#[tokio::test]
async fn an_upstream_with_a_certificate_of_the_authority_is_used() {
    let authority = Authority::create();
    let port = https_upstream(authority.server("upstream", &["localhost"])).await;
    let site = behind_tls(port, by(&authority.certificate())).await;
    let mut client = site.connect().await;
    for _ in 0..3 {
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.text(), "localhost");
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_verified_gets_nothing() {
    let (authority, other) = (Authority::create(), Authority::create());
    let wrong_name = https_upstream(authority.server("wrong", &["elsewhere"])).await;
    let good = https_upstream(authority.server("good", &["localhost"])).await;
    for (port, trusted) in [(good, &other), (wrong_name, &authority)] {
        assert_unavailable(&behind_tls(port, by(&trusted.certificate())).await).await;
    }
}

#[tokio::test]
async fn the_name_to_verify_can_be_another_than_the_host() {
    let authority = Authority::create();
    let port = https_upstream(authority.server("upstream", &["controller.example"])).await;
    let named = |name: &str| UpstreamTlsConfig {
        server_name: Some(ServerName::try_from(name.to_owned()).expect("a name")),
        ..by(&authority.certificate())
    };
    assert_reached(&behind_tls(port, named("controller.example")).await, "controller.example").await;
    assert_unavailable(&behind_tls(port, named("elsewhere.example")).await).await;
}

/// The authorities are renewed before the Controller's certificate is: no restart is needed for it.
#[tokio::test]
async fn authorities_that_change_are_read_again() {
    let (authority, other) = (Authority::create(), Authority::create());
    let port = https_upstream(authority.server("upstream", &["localhost"])).await;
    let directory = tempfile::tempdir().expect("a directory");
    let ca = directory.path().join("ca.pem");
    std::fs::copy(other.certificate(), &ca).expect("copies");
    let site = behind_tls(port, by(&ca)).await;
    assert_unavailable(&site).await;

    std::fs::copy(authority.certificate(), &ca).expect("copies");
    eventually_answers(&site, "the new authority is trusted", 200).await;
    std::fs::copy(other.certificate(), &ca).expect("copies");
    eventually_answers(&site, "the old authority is trusted no longer", 502).await;
}

#[tokio::test]
async fn an_upstream_that_asks_for_a_certificate_gets_it_and_its_successor() {
    let (authority, clients, others) = (Authority::create(), Authority::create(), Authority::create());
    let port = https_upstream(authority.server_for("upstream", &["localhost"], &clients)).await;
    assert_unavailable(&behind_tls(port, by(&authority.certificate())).await).await;

    // The right one comes in two steps, of which the first alone is good for nothing.
    let (certificate, key) = others.issue("tollgate", &["tollgate"]);
    let identity = Identity { certificate: certificate.clone(), key: key.clone() };
    let tls = UpstreamTlsConfig { identity: Some(identity), ..by(&authority.certificate()) };
    let site = behind_tls(port, tls).await;
    assert_unavailable(&site).await;
    let (good_certificate, good_key) = clients.issue("tollgate", &["tollgate"]);
    std::fs::copy(good_certificate, &certificate).expect("copies");
    assert_unavailable(&site).await;
    std::fs::copy(good_key, &key).expect("copies");
    eventually_answers(&site, "the right certificate is shown", 200).await;
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_itself_the_authority_is_enough() {
    let directory = tempfile::tempdir().expect("a directory");
    let localhost = ["-addext", "subjectAltName=DNS:localhost"];
    let elsewhere = ["-addext", "subjectAltName=DNS:elsewhere"];
    for (name, options, reached) in
        [("plain", &[][..], true), ("named", &localhost, true), ("misnamed", &elsewhere, false)]
    {
        let (certificate, key) = self_signed(directory.path(), name, options);
        let port = https_upstream(server(&certificate, &key, None)).await;
        let site = behind_tls(port, by(&certificate)).await;
        match reached {
            true => assert_reached(&site, "localhost").await,
            false => assert_unavailable(&site).await,
        }
        let (other, _) = self_signed(directory.path(), "other", options);
        assert_unavailable(&behind_tls(port, by(&other)).await).await;
    }
}

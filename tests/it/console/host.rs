//! Under which names the console answers, behind a proxy too, and by TLS.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tollgate::tls::{Alpn, TlsConfig, TlsVersion};
use tollgate_harness::authority::Authority;

use super::*;

async fn status(site: &Site, host: &str) -> u16 {
    Call::new("GET", "/api/v1/self").by(&site.owner.raw).host(host).send(site.sidecar.admin()).await.status
}

/// A stranger's page can have a browser come here under a name of the stranger's.
#[tokio::test]
async fn a_name_that_is_not_ours_is_not_answered() {
    let site = Site::start().await;
    for host in ["127.0.0.1:9900", "localhost", "[::1]:9900", "10.1.2.3"] {
        assert_eq!(status(&site, host).await, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:9900", "localhost.evil.example", "", "a@127.0.0.1"] {
        assert_eq!(status(&site, host).await, 421, "{host}");
    }
    let twice = Call::new("GET", "/api/v1/self").by(&site.owner.raw).with("Host", "localhost");
    assert_eq!(twice.send(site.sidecar.admin()).await.status, 421);
    // Before anything else: who is asked for is not the stranger's to know.
    let stranger = Call::new("GET", "/api/v1/tokens").host("evil.example").send(site.sidecar.admin()).await;
    assert_eq!(stranger.problem(), (421, "misdirected"));
    assert!(site.metrics().await.contains("tollgate_ready"), "health and metrics are asked for by any name");
}

#[tokio::test]
async fn behind_a_proxy_it_has_the_proxys_name_and_prefix() {
    let site = Site::builder().setting("ADMIN__PUBLIC_URL", "https://ops.example/tollgate").start().await;
    assert_eq!(status(&site, "ops.example").await, 200);
    assert_eq!(status(&site, "evil.example").await, 421);
    // The proxy takes the prefix away, or not.
    for path in ["/api/v1/tokens?limit=1", "/tollgate/api/v1/tokens?limit=1"] {
        let answer = Call::new("GET", path).by(&site.owner.raw).host("ops.example").send(site.sidecar.admin()).await;
        let link = answer.field("link").expect("more").to_owned();
        assert!(link.starts_with("</tollgate/api/v1/tokens?limit=1&after="), "{link}");
    }
    let body = json!({ "description": "a", "permissions": ["configs:read"] });
    let made = post(&site, &site.owner, "/api/v1/tokens", body).await;
    assert!(made.field("location").is_some_and(|path| path.starts_with("/tollgate/api/v1/tokens/")), "{made:?}");
}

#[tokio::test]
async fn it_speaks_tls_where_it_has_a_certificate() {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("admin", &["localhost"]);
    let client = authority.client(rustls::ALL_VERSIONS, &[b"http/1.1"]);
    let tls = TlsConfig {
        certificate,
        key,
        client_ca: None,
        client_crl: None,
        min_version: TlsVersion::default(),
        alpn: vec![Alpn::Http1],
    };
    let site = Site::builder().config(|config| config.admin.tls = Some(tls)).start().await;
    let stream = TcpStream::connect(site.sidecar.admin()).await.expect("connects");
    let name = ServerName::try_from("localhost").expect("a name");
    let connected = TlsConnector::from(Arc::new(client)).connect(name, stream);
    let stream = within("the handshake", connected).await.expect("shakes hands");
    let answer = Call::new("GET", "/api/v1/self").by(&site.owner.raw).send_over(stream).await;
    assert_eq!(answer.done()["user"], "olga");
}

//! TLS to Redis: both ends are verified, and what fails says why.

use std::path::PathBuf;

use tollgate::store::{self, Absent, Settings, StoreError};

use super::{commit, hears, settings, subscribed};
use crate::harness::cluster::bus_port;
use crate::harness::sentinel::{NAME, Sentinel};
use crate::harness::{RedisServer, eventually};
use tollgate_harness::authority::{Authority, self_signed};

/// A server that speaks TLS too, and wants a certificate of its clients.
struct Secured {
    authority: Authority,
    redis: RedisServer,
    port: String,
    identity: (PathBuf, PathBuf),
}

impl Secured {
    fn start() -> Self {
        let authority = Authority::create();
        let (certificate, key) = authority.issue("redis", &["localhost"]);
        let identity = authority.issue("sidecar", &["sidecar"]);
        let port = bus_port();
        let path = |path: &PathBuf| path.to_str().expect("a plain path").to_owned();
        let (certificate, key, ca) = (path(&certificate), path(&key), path(&authority.certificate()));
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let redis = RedisServer::with(&[&["--save", "", "--tls-port", &port], files.as_slice()].concat());
        Self { authority, redis, port, identity }
    }

    /// Everything as it should be.
    fn settings(&self) -> Settings {
        let mut settings = settings(&format!("rediss://localhost:{}", self.port));
        settings.ca = Some(self.authority.certificate());
        settings.certificate = Some(self.identity.0.clone());
        settings.key = Some(self.identity.1.clone());
        settings
    }
}

/// Why there is no connection, with the causes.
async fn unavailable(settings: &Settings) -> String {
    match store::open(settings, Absent::Create).await {
        Err(error @ StoreError::Unavailable { .. }) => format!("{:#}", anyhow::Error::new(error)),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_right_certificates_everything_works() {
    let secured = Secured::start();
    let store = store::open(&secured.settings(), Absent::Create).await.expect("opens");
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    hears(&mut watch, commit(&*store, "a").await).await;
    assert!(!secured.redis.cli(&["CLIENT", "LIST"]).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_are_asked_with_tls_too() {
    let secured = Secured::start();
    let port = bus_port();
    let path = |path: &PathBuf| path.to_str().expect("a plain path").to_owned();
    let (certificate, key) = secured.authority.issue("sentinel", &["localhost"]);
    let lines = format!(
        "tls-port {port}\ntls-replication yes\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n\
         sentinel resolve-hostnames yes\nsentinel announce-hostnames yes",
        path(&certificate),
        path(&key),
        path(&secured.authority.certificate())
    );
    let sentinel = Sentinel::start("localhost", secured.port.parse().expect("a port"), &lines);
    eventually("the Sentinel sees the primary", || async {
        sentinel.cli(&["SENTINEL", "MASTER", NAME]).contains("runid\n")
            && !sentinel.cli(&["SENTINEL", "MASTER", NAME]).contains("disconnected")
    })
    .await;
    let url = format!("rediss-sentinel://localhost:{port}/{NAME}").parse().expect("a URL");
    let settings = Settings { url, ..secured.settings() };
    let store = store::open(&settings, Absent::Create).await.expect("opens");
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    hears(&mut watch, commit(&*store, "a").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_verified_is_refused_and_said() {
    let secured = Secured::start();
    let good = secured.settings();
    let message = unavailable(&Settings { certificate: None, key: None, ..good.clone() }).await;
    assert!(message.to_lowercase().contains("certificate"), "{message}");
    let message = unavailable(&Settings { ca: Some(Authority::create().certificate()), ..good.clone() }).await;
    assert!(message.contains("invalid peer certificate"), "{message}");
    let elsewhere = settings(&format!("rediss://127.0.0.1:{}", secured.port));
    let message = unavailable(&Settings { url: elsewhere.url, ..good.clone() }).await;
    assert!(message.contains("not valid for name"), "{message}");
    let plain = settings(&format!("rediss://localhost:{}", secured.redis.port()));
    let message = unavailable(&Settings { url: plain.url, ..good.clone() }).await;
    assert!(message.contains("does this port speak TLS?"), "{message}");
    let message = unavailable(&settings(&format!("redis://localhost:{}", secured.port))).await;
    assert!(message.contains("cannot connect to localhost"), "{message}");
    let message = unavailable(&Settings { ca: Some("/nonexistent/ca.pem".into()), ..good }).await;
    assert!(message.contains("/nonexistent/ca.pem"), "{message}");
    assert_eq!(secured.redis.cli(&["DBSIZE"]), "0");
}

/// As `openssl req -x509` makes it, which is often all that a Redis is given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_self_signed_certificate_that_is_itself_the_authority_is_enough() {
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key) = self_signed(directory.path(), "redis", &["-addext", "subjectAltName=DNS:localhost"]);
    let port = bus_port();
    let path = |path: &PathBuf| path.to_str().expect("a plain path").to_owned();
    let files = ["--tls-cert-file", &path(&certificate), "--tls-key-file", &path(&key)];
    let options =
        ["--save", "", "--tls-port", &port, "--tls-ca-cert-file", &path(&certificate), "--tls-auth-clients", "no"];
    let _redis = RedisServer::with(&[options.as_slice(), files.as_slice()].concat());
    let mut settings = settings(&format!("rediss://localhost:{port}"));
    settings.ca = Some(certificate);
    let store = store::open(&settings, Absent::Create).await.expect("opens");
    commit(&*store, "a").await;

    let (other, _) = self_signed(directory.path(), "other", &["-addext", "subjectAltName=DNS:localhost"]);
    let message = unavailable(&Settings { ca: Some(other), ..settings }).await;
    assert!(message.contains("invalid peer certificate"), "{message}");
}

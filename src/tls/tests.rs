use std::fs;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ProtocolVersion, ServerConnection};
use tempfile::TempDir;

use super::*;

/// A directory with an authority, and a server's and a client's certificate that it issued.
struct Files {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
        let files = Self { directory: TempDir::new().expect("directory"), issuer };
        files.write("ca.pem", &files.issuer.pem());
        files.issue("server", "localhost");
        files.issue("client", "agent");
        files
    }

    fn issue(&self, file: &str, name: &str) {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("name");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        self.write(&format!("{file}.pem"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).expect("written");
        self.path(name)
    }

    fn server(&self) -> TlsConfig {
        TlsConfig {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: None,
            alpn: vec![Alpn::Http2, Alpn::Http1],
        }
    }

    fn refused(&self, change: impl FnOnce(&mut TlsConfig)) -> String {
        let mut tls = self.server();
        change(&mut tls);
        let error = server_config(&tls).expect_err("refused");
        assert!(error.file().is_some_and(|file| file.starts_with(self.directory.path())), "{error}");
        error.to_string()
    }
}

/// Carries a handshake, and what follows it at once, between the two.
fn handshake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Result<[Connection; 2], rustls::Error> {
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(client.clone(), name)?;
    let mut ends = [Connection::from(client), Connection::from(ServerConnection::new(server.clone())?)];
    for turn in 0..12 {
        let (from, to) = (turn % 2, (turn + 1) % 2);
        let mut wire = Vec::new();
        while ends[from].wants_write() {
            ends[from].write_tls(&mut wire).expect("a vector takes everything");
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            ends[to].read_tls(&mut rest).expect("a slice gives everything");
            ends[to].process_new_packets()?;
        }
    }
    assert!(ends.iter().all(|end| !end.is_handshaking()));
    Ok(ends)
}

#[test]
fn an_upstream_is_verified_by_the_given_authority_and_speaks_http1() {
    let files = Files::new();
    let client =
        client_config(&UpstreamTlsConfig { ca: Some(files.path("ca.pem")), ..Default::default() }).expect("usable");
    let server = server_config(&files.server()).expect("usable");
    let ends = handshake(&server, &client).expect("verified");
    for end in ends {
        assert_eq!(end.alpn_protocol(), Some(b"http/1.1".as_slice()));
        assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }

    let other = Files::new();
    let client =
        client_config(&UpstreamTlsConfig { ca: Some(other.path("ca.pem")), ..Default::default() }).expect("usable");
    assert!(matches!(handshake(&server, &client), Err(rustls::Error::InvalidCertificate(_))));
}

#[test]
fn no_session_is_resumed() {
    let files = Files::new();
    let client =
        client_config(&UpstreamTlsConfig { ca: Some(files.path("ca.pem")), ..Default::default() }).expect("usable");
    let server = server_config(&files.server()).expect("usable");
    handshake(&server, &client).expect("first");
    let [again, _] = handshake(&server, &client).expect("second");
    assert_eq!(again.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[test]
fn with_a_client_authority_only_its_clients_may_connect() {
    let files = Files::new();
    let server = server_config(&TlsConfig { client_ca: Some(files.path("ca.pem")), ..files.server() }).expect("usable");
    let ca = UpstreamTlsConfig { ca: Some(files.path("ca.pem")), ..Default::default() };
    let anonymous = client_config(&ca).expect("usable");
    assert_eq!(handshake(&server, &anonymous).map(|_| ()), Err(rustls::Error::NoCertificatesPresented));

    let known = |files: &Files| {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(read_roots(ca.ca.as_deref().expect("set")).expect("roots"));
        let chain = read_certificates(&files.path("client.pem")).expect("chain");
        let key = read_key(&files.path("client.key")).expect("key");
        Arc::new(builder.with_client_auth_cert(chain, key).expect("usable"))
    };
    assert!(handshake(&server, &known(&files)).is_ok());
    assert!(matches!(handshake(&server, &known(&Files::new())), Err(rustls::Error::InvalidCertificate(_))));
}

#[test]
fn tls_1_2_is_still_spoken() {
    let files = Files::new();
    let server = server_config(&files.server()).expect("usable");
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("version")
        .with_root_certificates(read_roots(&files.path("ca.pem")).expect("roots"))
        .with_no_client_auth();
    let [end, _] = handshake(&server, &Arc::new(client)).expect("verified");
    assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(end.alpn_protocol(), None);
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let files = Files::new();
    let message = files.refused(|tls| tls.certificate = files.path("missing.pem"));
    assert!(message.starts_with("reading ") && message.ends_with("missing.pem"), "{message}");

    let message = files.refused(|tls| tls.certificate = files.path("server.key"));
    assert!(message.contains("server.key holds no certificate"), "{message}");

    let message = files.refused(|tls| tls.key = files.path("server.pem"));
    assert!(message.contains("server.pem holds no private key"), "{message}");

    let message = files.refused(|tls| tls.key = files.path("client.key"));
    assert!(message.contains("client.key does not match the first certificate in"), "{message}");

    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let message = files.refused(|tls| tls.key = files.write("encrypted.key", encrypted));
    assert!(message.contains("encrypted.key is encrypted"), "{message}");

    let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
                     -----END RSA PRIVATE KEY-----\n";
    let message = files.refused(|tls| tls.key = files.write("old.key", encrypted));
    assert!(message.contains("old.key is encrypted"), "{message}");

    let cut_off = fs::read_to_string(files.path("server.pem")).expect("read").replace("-----END", "");
    let message = files.refused(|tls| tls.certificate = files.write("cut.pem", &cut_off));
    assert!(message.contains("cut.pem is not valid PEM"), "{message}");

    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let chain = fs::read_to_string(files.path("server.pem")).expect("read") + nonsense;
    let message = files.refused(|tls| tls.certificate = files.write("chain.pem", &chain));
    assert!(message.contains("certificate 2 in") && message.contains("chain.pem is not usable"), "{message}");

    let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let message = files.refused(|tls| tls.key = files.write("bad.key", nonsense));
    assert!(message.contains("bad.key is not usable"), "{message}");

    let message = files.refused(|tls| tls.client_ca = Some(files.write("empty.pem", "")));
    assert!(message.contains("empty.pem holds no certificate"), "{message}");
}

#[test]
fn certificate_and_key_may_share_a_file() {
    let files = Files::new();
    let read = |name: &str| fs::read_to_string(files.path(name)).expect("read");
    let both = files.write("both.pem", &(read("server.pem") + &read("server.key")));
    let tls = TlsConfig { certificate: both.clone(), key: both, ..files.server() };
    assert!(server_config(&tls).is_ok());
}

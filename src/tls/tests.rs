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
            client_crl: None,
            min_version: TlsVersion::Tls12,
            alpn: vec![Alpn::Http2, Alpn::Http1],
        }
    }

    fn refused(&self, change: impl FnOnce(&mut TlsConfig)) -> String {
        let mut tls = self.server();
        change(&mut tls);
        let error = server_config(&tls).expect_err("refused");
        assert!(error.to_string().contains(&self.directory.path().display().to_string()), "{error}");
        error.to_string()
    }
}

/// A client that is configured with no more than whom to trust.
fn trusting(ca: PathBuf) -> Arc<ClientConfig> {
    client_config(&UpstreamTlsConfig { ca: Some(ca), ..UpstreamTlsConfig::default() }).expect("usable").config
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
    let client = trusting(files.path("ca.pem"));
    let server = server_config(&files.server()).expect("usable").config;
    let ends = handshake(&server, &client).expect("verified");
    for end in ends {
        assert_eq!(end.alpn_protocol(), Some(b"http/1.1".as_slice()));
        assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }

    let other = Files::new();
    let client = trusting(other.path("ca.pem"));
    assert!(matches!(handshake(&server, &client), Err(rustls::Error::InvalidCertificate(_))));
}

#[test]
fn no_session_is_resumed() {
    let files = Files::new();
    let client = trusting(files.path("ca.pem"));
    let server = server_config(&files.server()).expect("usable").config;
    handshake(&server, &client).expect("first");
    let [again, _] = handshake(&server, &client).expect("second");
    assert_eq!(again.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[test]
fn with_a_client_authority_only_its_clients_may_connect() {
    let files = Files::new();
    let server =
        server_config(&TlsConfig { client_ca: Some(files.path("ca.pem")), ..files.server() }).expect("usable").config;
    let anonymous = trusting(files.path("ca.pem"));
    assert_eq!(handshake(&server, &anonymous).map(|_| ()), Err(rustls::Error::NoCertificatesPresented));

    let known = |clients: &Files| {
        let identity = Identity { certificate: clients.path("client.pem"), key: clients.path("client.key") };
        let ca = Some(files.path("ca.pem"));
        let tls = UpstreamTlsConfig { ca, identity: Some(identity), ..UpstreamTlsConfig::default() };
        client_config(&tls).expect("usable").config
    };
    assert!(handshake(&server, &known(&files)).is_ok());
    assert!(matches!(handshake(&server, &known(&Files::new())), Err(rustls::Error::InvalidCertificate(_))));
}

#[test]
fn tls_1_2_is_still_spoken() {
    let files = Files::new();
    let server = server_config(&files.server()).expect("usable").config;
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("version")
        .with_root_certificates(
            roots(Path::new("ca.pem"), vec![files.issuer.der().clone()], &aws_lc_rs::default_provider())
                .expect("roots"),
        )
        .with_no_client_auth();
    let [end, _] = handshake(&server, &Arc::new(client)).expect("verified");
    assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(end.alpn_protocol(), None);
}

/// As `openssl req -x509` makes it: it says of itself that it is an authority.
fn self_signed(names: &[&str], from: i32, until: i32) -> (Files, Arc<ServerConfig>) {
    let files = Files::new();
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().expect("key");
    files.write("server.pem", &params.self_signed(&key).expect("certificate").pem());
    files.write("server.key", &key.serialize_pem());
    let server = server_config(&files.server()).expect("usable").config;
    (files, server)
}

#[test]
fn a_self_signed_certificate_is_trusted_when_it_is_named_itself() {
    let judged = |names: &[&str], from, until| {
        let (files, server) = self_signed(names, from, until);
        match handshake(&server, &trusting(files.path("server.pem"))) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    };
    use rustls::CertificateError as Bad;
    assert_eq!(judged(&["localhost"], 2001, 2100), Ok(()));
    assert_eq!(judged(&[], 2001, 2100), Ok(()), "without -addext there is no name to verify");
    let wrong = judged(&["elsewhere", "also-elsewhere"], 2001, 2100);
    assert!(matches!(wrong, Err(Bad::NotValidForNameContext { presented, .. }) if presented.len() == 2));
    assert!(matches!(judged(&["localhost"], 2001, 2002), Err(Bad::ExpiredContext { .. })));
    assert!(matches!(judged(&[], 2001, 2002), Err(Bad::ExpiredContext { .. })));
    assert!(matches!(judged(&["localhost"], 2099, 2100), Err(Bad::NotValidYetContext { .. })));
}

#[test]
fn a_self_signed_certificate_that_was_not_named_is_not_trusted() {
    let (_files, server) = self_signed(&["localhost"], 2001, 2100);
    let (others, _) = self_signed(&["localhost"], 2001, 2100);
    // The same names, another key.
    let refused = handshake(&server, &trusting(others.path("server.pem")));
    assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))));
}

/// A certificate is no secret: only its key proves whose it is.
#[test]
fn a_named_certificate_without_its_key_is_refused() {
    let (files, _) = self_signed(&["localhost"], 2001, 2100);
    let (others, _) = self_signed(&["localhost"], 2001, 2100);
    let chain = read_certificates(&files.path("server.pem")).expect("chain");
    let key = aws_lc_rs::sign::any_supported_type(&read_key(&others.path("server.key")).expect("key")).expect("usable");
    let stolen = Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
    for version in rustls::ALL_VERSIONS {
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("version")
            .with_no_client_auth()
            .with_cert_resolver(stolen.clone());
        let refused = handshake(&Arc::new(server), &trusting(files.path("server.pem"))).map(|_| ());
        let bad_signature = rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature);
        assert_eq!(refused, Err(bad_signature), "{version:?}");
    }
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

/// Made by openssl: no library here makes keys that none can use.
#[test]
fn an_authority_whose_key_verifies_nothing_is_refused() {
    let files = Files::new();
    let made = |kind: &str| {
        let (key, certificate) = (files.path("own.key"), files.path(&format!("{kind}.pem")));
        let mut command = std::process::Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-subj", "/CN=localhost", "-newkey"]);
        match kind.split_once(' ') {
            Some((algorithm, option)) => command.args([algorithm, "-pkeyopt", option]),
            None => command.arg(kind),
        };
        let made = command.arg("-keyout").arg(key).arg("-out").arg(&certificate).output().expect("openssl runs");
        assert!(made.status.success(), "{kind}: {}", String::from_utf8_lossy(&made.stderr));
        certificate
    };
    let client = |ca: PathBuf| client_config(&UpstreamTlsConfig { ca: Some(ca), ..UpstreamTlsConfig::default() });
    for kind in ["rsa:2048", "ec ec_paramgen_curve:P-256", "ec ec_paramgen_curve:P-521", "ed25519"] {
        assert!(client(made(kind)).is_ok(), "{kind}");
    }
    for kind in ["rsa:1024", "ec ec_paramgen_curve:secp256k1", "ed448"] {
        let ca = made(kind);
        let error = client(ca.clone()).expect_err(kind);
        assert!(error.to_string().contains(&ca.display().to_string()), "{error}");
        assert!(error.to_string().contains("public key of a kind"), "{kind}: {error}");
        assert!(files.refused(|tls| tls.client_ca = Some(ca)).contains("public key of a kind"), "{kind}");
    }
}

#[test]
fn certificate_and_key_may_share_a_file() {
    let files = Files::new();
    let read = |name: &str| fs::read_to_string(files.path(name)).expect("read");
    let both = files.write("both.pem", &(read("server.pem") + &read("server.key")));
    let tls = TlsConfig { certificate: both.clone(), key: both, ..files.server() };
    assert!(server_config(&tls).is_ok());
}

#[test]
fn a_file_of_revocation_lists_has_some() {
    let files = Files::new();
    let refused = |text: &str| {
        let crl = files.write("clients.crl", text);
        files.refused(|tls| (tls.client_ca, tls.client_crl) = (Some(files.path("ca.pem")), Some(crl)))
    };
    assert!(refused("").contains("clients.crl holds no revocation list"));
    assert!(refused("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").contains("revocation list 1 in"));
    assert!(refused("-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n").contains("is not valid PEM"));
}

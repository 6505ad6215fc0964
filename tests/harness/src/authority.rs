//! An authority with files, and the clients that trust it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

/// Issues certificates into a directory of its own.
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn create() -> Self {
        // Lists of revoked certificates say by its name whose they are.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Self::named(&format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// With a key of its own, whoever else has that name.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let authority = Self { directory: tempfile::tempdir().expect("a directory"), issuer };
        std::fs::write(authority.certificate(), authority.issuer.pem()).expect("writes");
        authority
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A new certificate with these names, and its key.
    pub fn issue(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let mut params = params.expect("names");
        params.serial_number = Some(serial(file));
        // With the issuer's own name, OpenSSL would take it for self-signed.
        params.distinguished_name.push(DnType::CommonName, file);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let paths = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        std::fs::write(&paths.0, certificate.pem()).expect("writes");
        std::fs::write(&paths.1, key.serialize_pem()).expect("writes");
        paths
    }

    /// A revocation list with the certificates that were issued under these names, until this year, made in this one.
    pub fn revocation_list(&self, revoked: &[&str], made: i32, until: i32) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(made, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|name| RevokedCertParams {
                    serial_number: serial(name),
                    revocation_time: date_time_ymd(made, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    fn issue_in_memory(&self, file: &str, names: &[&str]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.issue(file, names);
        let certificate = CertificateDer::from_pem_file(certificate).expect("PEM");
        (vec![certificate], PrivateKeyDer::from_pem_file(key).expect("PEM"))
    }

    /// A client that trusts this authority and shows no certificate.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> ClientConfig {
        let mut config = self.trusting(versions).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// A client that trusts this authority and shows a certificate by `issuer`.
    pub fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        issuer: &Self,
        name: &str,
    ) -> ClientConfig {
        let (chain, key) = issuer.issue_in_memory(name, &[name]);
        self.trusting(versions).with_client_auth_cert(chain, key).expect("a client")
    }

    fn trusting(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        builder.with_root_certificates(self.roots())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        roots
    }

    /// A server with a certificate by this authority.
    pub fn server(&self, file: &str, names: &[&str]) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(file, names);
        server(&certificate, &key, None)
    }

    /// As [`Authority::server`], for clients with a certificate by `clients`.
    pub fn server_for(&self, file: &str, names: &[&str], clients: &Self) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(file, names);
        server(&certificate, &key, Some(clients))
    }
}

/// Of the certificate that is issued under this name.
fn serial(name: &str) -> SerialNumber {
    SerialNumber::from_slice(&[&[1], name.as_bytes()].concat()[..name.len().min(15) + 1])
}

/// A server with the first certificate and the key of these files.
pub fn server(certificate: &Path, key: &Path, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(certificate).expect("PEM")];
    let key = PrivateKeyDer::from_pem_file(key).expect("PEM");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(clients.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().expect("a verifier");
            builder.with_client_cert_verifier(verifier)
        }
    };
    Arc::new(builder.with_single_cert(chain, key).expect("a server"))
}

/// What people make for a server of their own: signed by itself, and an authority. Returns it and its key.
pub fn self_signed(directory: &Path, name: &str, options: &[&str]) -> (PathBuf, PathBuf) {
    let paths = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-out"]);
    openssl.arg(&paths.0).arg("-keyout").arg(&paths.1).args(options);
    let done = openssl.output().expect("openssl runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    paths
}

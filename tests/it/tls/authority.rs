//! An authority with files, and the clients that trust it.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

/// Issues certificates into a directory of its own.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let authority = Self { directory: tempfile::tempdir().expect("a directory"), issuer };
        std::fs::write(authority.certificate(), authority.issuer.pem()).expect("writes");
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The authority's own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A new certificate with these names, and its key.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let mut params = params.expect("names");
        // With the issuer's own name, OpenSSL would take it for self-signed.
        params.distinguished_name.push(DnType::CommonName, file);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let paths = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        std::fs::write(&paths.0, certificate.pem()).expect("writes");
        std::fs::write(&paths.1, key.serialize_pem()).expect("writes");
        paths
    }

    fn issue_in_memory(&self, file: &str, names: &[&str]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.issue(file, names);
        let certificate = CertificateDer::from_pem_file(certificate).expect("PEM");
        (vec![certificate], PrivateKeyDer::from_pem_file(key).expect("PEM"))
    }

    /// A client that trusts this authority and shows no certificate.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> ClientConfig {
        let mut config = self.trusting(versions).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// A client that trusts this authority and shows a certificate by `issuer`.
    pub(crate) fn client_with(
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
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        builder.with_root_certificates(roots)
    }

    /// A server with a certificate by this authority.
    pub(crate) fn server(&self, file: &str, names: &[&str]) -> Arc<ServerConfig> {
        let (chain, key) = self.issue_in_memory(file, names);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a server");
        Arc::new(config)
    }
}

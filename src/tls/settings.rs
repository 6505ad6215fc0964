//! The files and names of TLS.

use std::path::PathBuf;

use rustls::SupportedProtocolVersion;
use rustls::pki_types::ServerName;

use crate::words::words;

/// A listener's TLS files, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate chain (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// When set, clients must show a certificate that one of these authorities (PEM) issued.
    pub client_ca: Option<PathBuf>,
    /// Which of these certificates were revoked (PEM): see [`crl`](super::crl).
    pub client_crl: Option<PathBuf>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Protocols offered by ALPN, the preferred one first.
    pub alpn: Vec<Alpn>,
}

words! {
    /// A version of TLS.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub enum TlsVersion ("versions") {
        /// RFC 5246.
        #[default]
        Tls12 = "1.2",
        /// RFC 8446.
        Tls13 = "1.3",
    }
}

impl TlsVersion {
    /// This one and those after it.
    pub(super) fn and_later(self) -> &'static [&'static SupportedProtocolVersion] {
        const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::Tls12 => rustls::ALL_VERSIONS,
            Self::Tls13 => TLS13,
        }
    }
}

words! {
    /// A protocol offered by ALPN (RFC 7301), by its name there (RFC 9113 section 3.1).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Alpn ("protocols") {
        /// HTTP/2.
        Http2 = "h2",
        /// HTTP/1.1.
        Http1 = "http/1.1",
    }
}

impl Alpn {
    /// What listeners offer, the preferred one first: an idle HTTP/2 connection costs several times as much.
    pub const OFFERED: [Self; 2] = [Self::Http1, Self::Http2];
}

/// How an `https` upstream is verified, and what it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTlsConfig {
    /// Authorities (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The name to ask for and to verify, instead of that of its URL.
    pub server_name: Option<ServerName<'static>>,
    /// For a server that asks for a certificate.
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate chain (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

//! TLS, both ends: what listeners offer to agents, and how `https` upstreams and a Redis store are verified.
//!
//! TLS 1.2 and 1.3 only, with the aws-lc provider named explicitly: nothing depends on a process-wide default. Files
//! are read when a configuration is built, and for another one when they change; their errors name the file and what is
//! wrong with it.

mod crl;
mod expiry;
pub(crate) mod handshake;
mod settings;
mod signatures;
mod subject;
mod verify;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, InconsistentKeys, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use crate::reading;
pub(crate) use expiry::Ends;
pub use settings::{Alpn, Identity, TlsConfig, TlsVersion, UpstreamTlsConfig};
pub(crate) use subject::subject;

/// Why a TLS configuration cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or may not be read.
    #[error("reading {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not well-formed PEM.
    #[error("{} is not valid PEM: {problem}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: PemProblem,
    },
    /// A file that should hold certificates has none.
    #[error("{} holds no certificate (PEM, `BEGIN CERTIFICATE`)", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate that is well-formed PEM and still no certificate.
    #[error("certificate {number} in {} is not usable: {source}", file.display())]
    BadCertificate {
        /// The file.
        file: PathBuf,
        /// Which of its certificates, from 1.
        number: usize,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate of an authority, or of the server itself, whose key verifies nothing.
    #[error(
        "certificate {number} in {} has a public key of a kind that nothing can be verified with here: use RSA of 2048 to 8192 bits, \
         ECDSA on P-256, P-384 or P-521, or Ed25519",
        file.display()
    )]
    UnsupportedKey {
        /// The file.
        file: PathBuf,
        /// Which of its certificates, from 1.
        number: usize,
    },
    /// A file that should hold revocation lists has none.
    #[error("{} holds no revocation list (PEM, `BEGIN X509 CRL`)", .0.display())]
    NoRevocationList(PathBuf),
    /// A list that is well-formed PEM and still no revocation list.
    #[error("revocation list {number} in {} is not usable: it is no X.509 CRL of version 2", file.display())]
    BadRevocationList {
        /// The file.
        file: PathBuf,
        /// Which of its lists, from 1.
        number: usize,
    },
    /// A file that should hold a private key has none.
    #[error("{} holds no private key (PEM, `BEGIN PRIVATE KEY`, `BEGIN RSA PRIVATE KEY` or `BEGIN EC PRIVATE KEY`)", .0.display())]
    NoKey(PathBuf),
    /// The private key needs a passphrase.
    #[error("the private key in {} is encrypted, which is not supported; decrypt it", .0.display())]
    EncryptedKey(PathBuf),
    /// The private key is of a kind that is not supported, or damaged.
    #[error("the private key in {} is not usable: {source}", file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The private key belongs to another certificate.
    #[error("the private key in {} does not match the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file with the certificate chain, the server's own first.
        certificate: PathBuf,
        /// The file with the private key.
        key: PathBuf,
    },
    /// The system has no trusted authorities, and none were configured.
    #[error("the system has no certificate authorities to verify the server with; name one (tls.ca, store.ca)")]
    NoRoots,
    /// The cryptography itself failed, such as for lack of randomness.
    #[error("setting up TLS")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is wrong with a PEM file, and in which of its lines, from 1. Has nothing of the file in it: what the parser could
/// not read, and repeats in its own errors, is as a rule a private key whose line breaks got lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemProblem {
    /// The `BEGIN` line goes on, or the line was folded.
    #[error(
        "line {0} begins a section and is not `-----BEGIN ...-----` alone; that, the base64 below it and `-----END ...-----` \
         are lines of their own, so if the line breaks were lost, write the file again with them"
    )]
    Begin(usize),
    /// No `END` line follows.
    #[error(
        "the section that begins in line {0} has no line `-----END ...-----`; it was cut short, or line breaks were lost: \
         write the file again, with `-----BEGIN ...-----` and `-----END ...-----` on lines of their own"
    )]
    End(usize),
    /// Something else than base64 in a section.
    #[error("the text between `-----BEGIN ...-----` and `-----END ...-----` is not base64; write the file again")]
    Base64,
    /// Far larger than any key or certificate.
    #[error("a section is too large for a key or a certificate")]
    TooLarge,
    /// Nothing that was looked for.
    #[error("it holds nothing usable")]
    Other,
}

impl PemProblem {
    fn of(error: &pem::Error, pem: &[u8]) -> Self {
        let line_of = |at: Option<usize>| memchr::memchr_iter(b'\n', &pem[..at.unwrap_or(0)]).count() + 1;
        match error {
            pem::Error::IllegalSectionStart { line } => Self::Begin(line_of(memchr::memmem::find(pem, line))),
            pem::Error::MissingSectionEnd { end_marker } => {
                // It repeats what follows `BEGIN `, all of the line if the key is in it.
                let begin = end_marker.strip_prefix(b"-----END ").map(|label| [b"-----BEGIN ", label].concat());
                let begin = begin.map(Zeroizing::new);
                Self::End(line_of(begin.and_then(|begin| memchr::memmem::find(pem, begin.trim_ascii_end()))))
            }
            pem::Error::Base64Decode(_) => Self::Base64,
            pem::Error::SectionTooLarge => Self::TooLarge,
            _ => Self::Other,
        }
    }
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// To verify the other side with.
    Authorities,
    /// The own certificate, with its chain.
    Certificate,
    /// Its private key.
    Key,
}

/// Everything that is wrong with these files, where building a configuration stops at the first.
pub(crate) fn faults(
    authorities: Option<&Path>,
    certificate: Option<&Path>,
    key: Option<&Path>,
) -> Vec<(Role, TlsError)> {
    let provider = aws_lc_rs::default_provider();
    let authorities = authorities.map(|file| roots(file, read_certificates(file)?, &provider).map(drop));
    let chain = certificate.map(|file| Ok((file, read_certificates(file)?)));
    let private_key = key.map(|file| {
        let private_key = read_key(file)?;
        check_key(&provider, &private_key, file)?;
        Ok((file, private_key))
    });
    let pair = match (&chain, &private_key) {
        (Some(Ok((certificate, chain))), Some(Ok((key, private_key)))) => {
            let pair = CertifiedKey::from_der(chain.clone(), private_key.clone_key(), &provider);
            pair.map(drop).map_err(|error| unfit(error, certificate, key))
        }
        _ => Ok(()),
    };
    let pair_role =
        |error: &TlsError| if matches!(error, TlsError::Mismatch { .. }) { Role::Key } else { Role::Certificate };
    let pair = pair.err().map(|error| (pair_role(&error), error));
    let of_role = |role, error: Option<TlsError>| error.map(|error| (role, error));
    let faults = [
        of_role(Role::Authorities, authorities.and_then(Result::err)),
        of_role(Role::Certificate, chain.and_then(Result::err)),
        of_role(Role::Key, private_key.and_then(Result::err)),
        pair,
    ];
    faults.into_iter().flatten().collect()
}

/// What is wrong between a certificate and its key.
fn unfit(error: rustls::Error, certificate: &Path, key: &Path) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        source => TlsError::BadCertificate { file: certificate.to_owned(), number: 1, source },
    }
}

/// What a listener offers. Reads the files; an expired certificate is logged as a warning and offered all the same:
/// refusing to start would turn a few clients' errors into everyone's.
///
/// Build one for each listener and share it between its workers.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub(crate) fn server_config(tls: &TlsConfig) -> Result<ServerTls, TlsError> {
    let TlsConfig { certificate, key, client_ca, client_crl, min_version, alpn } = tls;
    let chain = read_certificates(certificate)?;
    let private_key = read_key(key)?;
    warn_of_shared(key);
    expiry::warn_of(certificate, &chain, "clients will refuse it");
    let mut ends = Ends { certificate: expiry::first(&chain), ..Ends::default() };

    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(min_version.and_later());
    let builder = builder.map_err(setup)?;
    let builder = match client_ca {
        Some(file) => {
            let authorities = read_certificates(file)?;
            warn_of_expired_authorities(file, &authorities);
            ends.client_ca = expiry::last(&authorities);
            let roots = Arc::new(roots(file, authorities, &provider)?);
            let verifier = match client_crl {
                Some(file) => {
                    let lists = crl::Lists::read(file, &roots, &provider)?;
                    ends.client_crl = lists.first_end();
                    lists.verifier(&roots, &provider)?
                }
                None => WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().map_err(setup)?,
            };
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    // `with_single_cert` says only that something is wrong; the operator needs to know with which file.
    check_key(&provider, &private_key, key)?;
    let config = builder.with_single_cert(chain, private_key);
    let mut config = config.map_err(|error| unfit(error, certificate, key))?;

    config.alpn_protocols = alpn.iter().map(|protocol| protocol.name().into()).collect();
    // No session is cached or resumed. Telegraf never asks for it (Go resumes only with a `ClientSessionCache`, which it does
    // not set), so a ticket would be work and one more packet in every handshake for nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // As rustls has them, and on purpose: the client's order of cipher suites counts (it knows whether it has AES in
    // hardware, and every suite on offer is a good one), and early data stays off (it can be replayed).
    Ok(ServerTls { config: Arc::new(config), ends })
}

/// A listener's TLS, and until when.
#[derive(Debug, Clone)]
pub(crate) struct ServerTls {
    /// To accept with.
    pub config: Arc<ServerConfig>,
    /// When what it was made of ends.
    pub ends: Ends,
}

/// How an `https` upstream is verified: against the given authorities, or else the system's; and the certificate that it
/// is shown when it asks for one. Offers HTTP/1.1 only.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub(crate) fn client_config(tls: &UpstreamTlsConfig) -> Result<ClientTls, TlsError> {
    // Which name is verified is said for each connection.
    let UpstreamTlsConfig { ca, server_name: _, identity } = tls;
    let identity = identity.as_ref().map(|Identity { certificate, key }| (certificate.as_path(), key.as_path()));
    let (mut config, read) = client(ca.as_deref(), identity)?;
    config.alpn_protocols = vec![Alpn::Http1.name().into()];
    Ok(ClientTls { config: Arc::new(config), read })
}

/// A client's TLS, and what it was made of.
#[derive(Debug, Clone)]
pub(crate) struct ClientTls {
    /// To connect with.
    pub config: Arc<ClientConfig>,
    read: Read,
}

impl ClientTls {
    /// Whether the files had the same certificates. A key changes with its certificate.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.read == other.read
    }

    /// When the last of the authorities ends, where they are not the system's; and the own certificate, if there is one.
    pub(crate) fn ends(&self) -> [Option<jiff::Timestamp>; 2] {
        let [authorities, chain] = &self.read;
        [expiry::last(authorities), expiry::first(chain)]
    }
}

/// The certificates of a client's files: of the authorities, and its own.
type Read = [Vec<CertificateDer<'static>>; 2];

/// How a Redis server is verified: against the given authorities, or else the system's; and the certificate and key that
/// it is shown when it asks for one.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub(crate) fn store_config(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, TlsError> {
    client(ca, identity).map(|(config, _)| Arc::new(config))
}

/// For who asks a server on the same host how it is, tells it nothing, and compares what it shows afterwards ([`is_first_of`]): any
/// certificate will do.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub(crate) fn unverified_config(identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(setup)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verify::Unverified::new(provider)));
    let Some((certificate, key)) = identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let config = builder.with_client_auth_cert(read_certificates(certificate)?, read_key(key)?);
    config.map(Arc::new).map_err(|error| unfit(error, certificate, key))
}

/// Whether this certificate is the file's first one.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub(crate) fn is_first_of(file: &Path, certificate: &CertificateDer<'_>) -> Result<bool, TlsError> {
    Ok(read_certificates(file)?.first() == Some(certificate))
}

fn client(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<(ClientConfig, Read), TlsError> {
    let authorities = ca.map(read_certificates).transpose()?.unwrap_or_default();
    let builder = verifying(ca, authorities.clone())?;
    let Some((certificate, key)) = identity else {
        return Ok((builder.with_no_client_auth(), [authorities, Vec::new()]));
    };
    let (chain, private_key) = (read_certificates(certificate)?, read_key(key)?);
    warn_of_shared(key);
    check_key(builder.crypto_provider(), &private_key, key)?;
    let config = builder.with_client_auth_cert(chain.clone(), private_key);
    let config = config.map_err(|error| unfit(error, certificate, key))?;
    Ok((config, [authorities, chain]))
}

/// A client that verifies its server against the authorities of this file, or else the system's.
fn verifying(
    ca: Option<&Path>,
    authorities: Vec<CertificateDer<'static>>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(setup)?;
    let Some(file) = ca else { return Ok(builder.with_root_certificates(system_roots()?)) };
    warn_of_expired_authorities(file, &authorities);
    let verifier = verify::Verifier::new(roots(file, authorities.clone(), &provider)?, authorities, provider)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

fn setup(error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Setup(Box::new(error))
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    reading::read(file).map(Zeroizing::new).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

/// All certificates of a file, at least one, each of them readable as such.
fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(file)?;
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate
            .map_err(|error| TlsError::Pem { file: file.to_owned(), problem: PemProblem::of(&error, &pem) })?;
        if let Err(source) = ParsedCertificate::try_from(&certificate) {
            return Err(TlsError::BadCertificate { file: file.to_owned(), number: chain.len() + 1, source });
        }
        chain.push(certificate);
    }
    if chain.is_empty() { Err(TlsError::NoCertificate(file.to_owned())) } else { Ok(chain) }
}

/// The first private key of a file, which may hold its certificates too.
fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(file)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let file = file.to_owned();
        match error {
            pem::Error::NoItemsFound if is_encrypted(&pem) => TlsError::EncryptedKey(file),
            pem::Error::NoItemsFound => TlsError::NoKey(file),
            // The old form of encryption puts its parameters where the key should begin.
            _ if is_encrypted(&pem) => TlsError::EncryptedKey(file),
            error => TlsError::Pem { file, problem: PemProblem::of(&error, &pem) },
        }
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(pem, needle).is_some();
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn check_key(provider: &CryptoProvider, key: &PrivateKeyDer<'static>, file: &Path) -> Result<(), TlsError> {
    match provider.key_provider.load_private_key(key.clone_key()) {
        Ok(_) => Ok(()),
        Err(source) => Err(TlsError::BadKey { file: file.to_owned(), source }),
    }
}

/// Logs a warning where others than a private key's owner and group can read it.
fn warn_of_shared(key: &Path) {
    const OTHERS: u32 = 0o004;
    let mode = std::fs::metadata(key).map_or(0, |found| found.mode() & 0o7777);
    if mode & OTHERS != 0 {
        let (file, mode) = (key.display(), format!("{mode:04o}"));
        tracing::warn!(%file, mode, "every user of this host can read a private key: chmod o= makes it secret");
    }
}

fn warn_of_expired_authorities(file: &Path, certificates: &[CertificateDer<'static>]) {
    expiry::warn_of(file, certificates, "it verifies nothing any more");
}

/// The certificates of this file as authorities. All must be usable: one that was silently left out would be missed only when
/// somebody it issued for is turned away.
fn roots(
    file: &Path,
    certificates: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (certificate, number) in certificates.into_iter().zip(1..) {
        if !verify::is_usable(&certificate, provider) {
            return Err(TlsError::UnsupportedKey { file: file.to_owned(), number });
        }
        let bad = |source| TlsError::BadCertificate { file: file.to_owned(), number, source };
        roots.add(certificate).map_err(bad)?;
    }
    Ok(roots)
}

/// The system's authorities, less those that cannot be used: there is nothing an operator could do about these.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    tracing::debug!(added, ignored, "the system's certificate authorities were read");
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

#[cfg(test)]
mod tests;

//! Which server is the right one: it has a certificate by an authority that was named, or the very one that was named.
//!
//! The latter is what `openssl req -x509` makes for a server: a certificate that signed itself and says that it is an
//! authority, which webpki takes for nobody's own (`CaUsedAsEndEntity`).

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, alg_id};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

use super::expiry::element;
use super::signatures::signatures_by_provider;
use super::{TlsError, expiry, setup};

#[derive(Debug)]
pub(super) struct Verifier {
    /// For every certificate but these.
    webpki: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Trusts what these certificates issued, and them. `roots` are the same ones.
    pub(super) fn new(
        roots: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        Ok(Self { webpki: builder.build().map_err(setup)?, named, provider })
    }
}

/// Whether signatures by this certificate's key can be verified: its algorithm is one that the provider knows, and an RSA key is
/// of a size that it takes.
pub(super) fn is_usable(certificate: &CertificateDer<'_>, provider: &CryptoProvider) -> bool {
    const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
    let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return false };
    let key = certificate.subject_public_key_info();
    let parts = element(&key).and_then(|(_, key, _)| element(key));
    let Some((_, algorithm, bits)) = parts else { return false };
    let known = provider.signature_verification_algorithms.all.iter();
    let is_known = known.map(|known| known.public_key_alg_id()).any(|known| known.as_ref() == algorithm);
    is_known && rsa_modulus(algorithm, bits).is_none_or(|modulus| RSA_BYTES.contains(&modulus.len()))
}

/// The modulus of an RSA key (RFC 8017 appendix A.1.1); `None` for another kind of key.
fn rsa_modulus<'a>(algorithm: &[u8], bits: &'a [u8]) -> Option<&'a [u8]> {
    if algorithm != alg_id::RSA_ENCRYPTION.as_ref() {
        return None;
    }
    let (_, key, _) = element(bits)?;
    let (_, numbers, _) = element(key.strip_prefix(&[0])?)?;
    let (_, modulus, _) = element(numbers)?;
    Some(modulus.strip_prefix(&[0]).unwrap_or(modulus))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.named.contains(end_entity) {
            return self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        verify_validity(end_entity, now)?;
        match verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name) {
            // By default openssl writes no subjectAltName, so there is nothing to compare. Nor is anything
            // lost: whoever holds this certificate's key could have issued one for any name.
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
                if presented.is_empty() => {}
            outcome => outcome?,
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}

/// Takes any certificate of which the server has the key.
#[derive(Debug)]
pub(super) struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl Unverified {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}

fn verify_validity(certificate: &CertificateDer<'_>, time: UnixTime) -> Result<(), Error> {
    // Certificates from before 1970 are as old as that.
    let unix = |time: jiff::Timestamp| {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0)))
    };
    let (start, end) = expiry::validity(certificate).ok_or(CertificateError::BadEncoding)?;
    let (not_before, not_after) = (unix(start), unix(end));
    if time < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    if time > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    Ok(())
}

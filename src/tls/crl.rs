//! Revocation lists of the authorities of client certificates (RFC 5280 section 5).
//!
//! What counts: the authority of each certificate that a client shows needs a list, or the client is turned away, and so it
//! is once the list has expired. Of several lists of one authority the latest counts. A client's session is never resumed,
//! so a new list counts from the next connection on.
//!
//! An authority is its name and its key: one that was given a new key under the same name has two lists for a while. webpki
//! goes by the name alone and takes the first, whoever signed it; so there is a verifier for each list that shares its name.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};

use super::expiry::{element, time};
use super::{PemProblem, TlsError, setup};

/// The lists of a file, one at least, the latest of each authority.
pub(super) struct Lists(Vec<List>);

struct List {
    der: CertificateRevocationListDer<'static>,
    issuer: Vec<u8>,
    /// The key that signed it, as far as `tls.client_ca` has it. Of other authorities only the names are known.
    signer: Option<Vec<u8>>,
    made: Timestamp,
    expires: Option<Timestamp>,
}

impl Lists {
    /// Reads a file. What is wrong with it short of being unreadable is logged as a warning: lists that have expired, and
    /// authorities that have none.
    pub(super) fn read(file: &Path, roots: &RootCertStore, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let pem = super::read(file)?;
        let mut lists: Vec<List> = Vec::new();
        for (list, number) in CertificateRevocationListDer::pem_slice_iter(&pem).zip(1..) {
            let list =
                list.map_err(|error| TlsError::Pem { file: file.to_owned(), problem: PemProblem::of(&error, &pem) })?;
            let bad = || TlsError::BadRevocationList { file: file.to_owned(), number };
            let list = List::new(list, roots, provider).ok_or_else(bad)?;
            if let Some(expired_at) = list.expires.filter(|end| *end < Timestamp::now()) {
                tracing::warn!(
                    file = %file.display(), number, %expired_at,
                    "a revocation list has expired: clients with a certificate of its authority are turned away until there is a later one"
                );
            }
            match lists.iter_mut().find(|other| (&other.issuer, &other.signer) == (&list.issuer, &list.signer)) {
                Some(other) if other.made >= list.made => {}
                Some(other) => *other = list,
                None => lists.push(list),
            }
        }
        if lists.is_empty() {
            return Err(TlsError::NoRevocationList(file.to_owned()));
        }
        let has_list = |root: &TrustAnchor<'_>| lists.iter().any(|list| list.is_of(root));
        for (_, number) in roots.roots.iter().zip(1..).filter(|(root, _)| !has_list(root)) {
            tracing::warn!(
                file = %file.display(), authority = number,
                "there is no revocation list by an authority of tls.client_ca, the one of this number in it: clients with a certificate \
                 of it are turned away until there is one"
            );
        }
        Ok(Self(lists))
    }

    /// When the first of them expires.
    pub(super) fn first_end(&self) -> Option<Timestamp> {
        self.0.iter().filter_map(|list| list.expires).min()
    }

    /// Verifies clients by these authorities and lists.
    pub(super) fn verifier(
        &self,
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let verifier = |lists: Vec<&List>| {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
            let builder = builder.with_crls(lists.into_iter().map(|list| list.der.clone()));
            builder.enforce_revocation_expiration().build().map_err(setup)
        };
        let mut verifiers = self.choices().into_iter().map(verifier).collect::<Result<Vec<_>, _>>()?;
        match verifiers.len() {
            1 => Ok(verifiers.swap_remove(0)),
            _ => Ok(Arc::new(AnyOf(verifiers))),
        }
    }

    /// Lists of which no two have the same name: all, if these are so. Else one choice for each list that shares its name. The
    /// way from a client's certificate ends at the first authority that the configuration names, so of those whose keys are
    /// known one matters at a time; the others on that way are unknown.
    fn choices(&self) -> Vec<Vec<&List>> {
        let shares_name = |list: &List| self.0.iter().filter(|other| other.issuer == list.issuer).count() > 1;
        let (shared, alone): (Vec<_>, Vec<_>) = self.0.iter().partition(|list| shares_name(list));
        if shared.is_empty() {
            return vec![alone];
        }
        let beside = |chosen: &List| {
            let unknown = |list: &&List| list.signer.is_none() && list.issuer != chosen.issuer;
            alone.iter().copied().chain(shared.iter().copied().filter(unknown)).collect::<Vec<_>>()
        };
        shared.iter().map(|chosen| [beside(chosen), vec![*chosen]].concat()).collect()
    }
}

impl List {
    /// `CertificateList` (RFC 5280 section 5.1).
    fn new(
        der: CertificateRevocationListDer<'static>,
        roots: &RootCertStore,
        provider: &CryptoProvider,
    ) -> Option<Self> {
        let (_, list, _) = element(&der)?;
        let (_, fields, signature) = element(list)?;
        let signed = list.strip_suffix(signature)?;
        let Fields { issuer, made, expires } = Fields::of(fields)?;
        let mut named = roots.roots.iter().filter(|root| root.subject.as_ref() == issuer);
        let signer = named.find(|root| is_signed_by(root, signed, signature, provider).is_some());
        let signer = signer.map(|root| root.subject_public_key_info.to_vec());
        let issuer = issuer.to_vec();
        Some(Self { issuer, signer, made, expires, der })
    }

    fn is_of(&self, root: &TrustAnchor<'_>) -> bool {
        let key = root.subject_public_key_info.as_ref();
        self.issuer == root.subject.as_ref() && self.signer.as_deref() == Some(key)
    }
}

/// What matters of a list here.
struct Fields<'a> {
    issuer: &'a [u8],
    made: Timestamp,
    expires: Option<Timestamp>,
}

impl<'a> Fields<'a> {
    /// `TBSCertList`, its content.
    fn of(mut fields: &'a [u8]) -> Option<Self> {
        const INTEGER: u8 = 0x02;
        if fields.first() == Some(&INTEGER) {
            fields = element(fields)?.2; // version
        }
        let (_, _, fields) = element(fields)?; // signature
        let (_, issuer, fields) = element(fields)?;
        let moment = |tag, text| time(tag, std::str::from_utf8(text).ok()?);
        let (tag, made, fields) = element(fields)?;
        let made = moment(tag, made)?;
        let expires = element(fields).and_then(|(tag, expires, _)| moment(tag, expires));
        Some(Self { issuer, made, expires })
    }
}

/// Whether this key made the signature: `signatureAlgorithm` and `signatureValue`.
fn is_signed_by(root: &TrustAnchor<'_>, signed: &[u8], signature: &[u8], provider: &CryptoProvider) -> Option<()> {
    let (_, algorithm, bits) = element(signature)?;
    let (_, key_algorithm, key_bits) = element(&root.subject_public_key_info)?;
    // Of a BIT STRING the first byte says how many bits at its end do not count: none, in both.
    let content = |bits| element(bits).and_then(|(_, bits, _)| bits.strip_prefix(&[0]));
    let (signature, key) = (content(bits)?, content(key_bits)?);
    let known = provider.signature_verification_algorithms.all.iter();
    let mut fitting = known.filter(|known| {
        known.signature_alg_id().as_ref() == algorithm && known.public_key_alg_id().as_ref() == key_algorithm
    });
    fitting.find_map(|known| known.verify_signature(key, signed, signature).ok())
}

/// Lets in whom one of them lets in. Each asks for all that there is to ask for, and the key of who issued a certificate has to
/// have signed the list: so nobody's word counts for another.
#[derive(Debug)]
struct AnyOf(Vec<Arc<dyn ClientCertVerifier>>);

impl AnyOf {
    /// Not empty.
    fn first(&self) -> &dyn ClientCertVerifier {
        &*self.0[0]
    }
}

impl ClientCertVerifier for AnyOf {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.first().root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut refused = Error::from(CertificateError::UnknownRevocationStatus);
        for verifier in &self.0 {
            match verifier.verify_client_cert(end_entity, intermediates, now) {
                // The list of the other key says nothing of this certificate.
                Err(Error::InvalidCertRevocationList(_)) => {}
                Err(Error::InvalidCertificate(CertificateError::UnknownRevocationStatus)) => {}
                Err(error) => refused = error,
                verified => return verified,
            }
        }
        Err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first().supported_verify_schemes()
    }
}

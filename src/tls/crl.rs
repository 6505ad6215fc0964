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
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};

use super::expiry::{element, time};
use super::signatures::signatures_by_provider;
use super::{PemProblem, TlsError, setup};

/// The lists of a file, one at least, the latest of each authority.
pub(super) struct Lists(Vec<List>);

struct List {
    der: CertificateRevocationListDer<'static>,
    issuer: Vec<u8>,
    /// The key that signed it, as far as `tls.client_ca` has it. Of other authorities only the names are known.
    signer: Option<Vec<u8>>,
    made: Made,
    expires: Option<Timestamp>,
}

/// When a list was made, to the second, and its number (RFC 5280 section 5.2.3): of one second the later one has the greater.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    at: Timestamp,
    /// How many bytes, and these: an integer that is never negative.
    number: Option<(usize, Vec<u8>)>,
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
        let builder = || WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        let verifier = |lists: Vec<&List>| {
            let builder = builder().with_crls(lists.into_iter().map(|list| list.der.clone()));
            builder.enforce_revocation_expiration().build().map_err(setup)
        };
        let mut with_lists = self.choices().into_iter().map(verifier).collect::<Result<Vec<_>, _>>()?;
        match with_lists.len() {
            1 => Ok(with_lists.swap_remove(0)),
            _ => {
                let without_lists = builder().build().map_err(setup)?;
                Ok(Arc::new(AnyOf { without_lists, with_lists, provider: Arc::clone(provider) }))
            }
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
    made: Made,
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
        let at = moment(tag, made)?;
        let expires = element(fields).and_then(|(tag, expires, _)| moment(tag, expires));
        Some(Self { issuer, made: Made { at, number: number(fields) }, expires })
    }
}

/// The `cRLNumber` among what follows `thisUpdate`.
fn number(mut fields: &[u8]) -> Option<(usize, Vec<u8>)> {
    const EXTENSIONS: u8 = 0xa0;
    const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
    let mut extensions = loop {
        let (tag, content, rest) = element(fields)?;
        if tag == EXTENSIONS {
            break element(content)?.1;
        }
        fields = rest;
    };
    loop {
        let (_, extension, rest) = element(extensions)?;
        let (_, id, value) = element(extension)?;
        if id == CRL_NUMBER {
            // It is not critical, so that what follows the id is the value: an INTEGER in an OCTET STRING.
            let (_, value, _) = element(value)?;
            let (_, digits, _) = element(value)?;
            let digits = digits.strip_prefix(&[0]).unwrap_or(digits);
            return Some((digits.len(), digits.to_vec()));
        }
        extensions = rest;
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

/// Lets in whom one choice of lists lets in. Each of them asks for all that there is to ask for, and the key of who issued a
/// certificate has to have signed the list: so nobody's word counts for another.
#[derive(Debug)]
struct AnyOf {
    /// Says what is wrong with a certificate by itself.
    without_lists: Arc<dyn ClientCertVerifier>,
    with_lists: Vec<Arc<dyn ClientCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyOf {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.without_lists.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.without_lists.verify_client_cert(end_entity, intermediates, now)?;
        let mut refused = CertificateError::UnknownRevocationStatus;
        for verifier in &self.with_lists {
            match verifier.verify_client_cert(end_entity, intermediates, now) {
                Err(Error::InvalidCertificate(CertificateError::Revoked)) => refused = CertificateError::Revoked,
                // A list by another key, or one that has expired, says nothing.
                Err(_) => {}
                verified => return verified,
            }
        }
        Err(refused.into())
    }

    signatures_by_provider!();
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
        KeyPair, SerialNumber, date_time_ymd,
    };
    use rustls::crypto::aws_lc_rs;

    use super::*;

    #[test]
    fn of_two_lists_of_one_second_the_one_with_the_greater_number_counts() {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let list = |year, number: u64| {
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(year, 1, 1),
                next_update: date_time_ymd(2100, 1, 1),
                crl_number: SerialNumber::from(number),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            params.signed_by(&issuer).expect("a list").pem().expect("PEM")
        };
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("both.crl");
        let latest = |lists: [String; 2]| {
            std::fs::write(&file, lists.concat()).expect("writes");
            let read = Lists::read(&file, &RootCertStore::empty(), &aws_lc_rs::default_provider()).expect("lists");
            assert_eq!(read.0.len(), 1);
            read.0[0].der.to_vec()
        };
        for (old, new) in
            [((2020, 9), (2020, 10)), ((2020, 127), (2020, 128)), ((2020, 255), (2020, 256)), ((2020, 9), (2021, 1))]
        {
            let (old, new) = (list(old.0, old.1), list(new.0, new.1));
            let expected = CertificateRevocationListDer::from_pem_slice(new.as_bytes()).expect("PEM");
            assert_eq!(latest([old.clone(), new.clone()]), expected.as_ref());
            assert_eq!(latest([new, old]), expected.as_ref());
        }
    }
}

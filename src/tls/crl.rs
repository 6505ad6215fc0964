//! Revocation lists of the authorities of client certificates (RFC 5280 section 5).
//!
//! What counts: the authority of each certificate that a client shows needs a list, or the client is turned away, and so it
//! is once the list has expired. Of several lists of one authority the latest counts. A client's session is never resumed,
//! so a new list counts from the next connection on.

use std::path::Path;

use jiff::Timestamp;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;

use super::expiry::{element, time};
use super::{PemProblem, TlsError};

/// What matters of a list here.
struct Head<'a> {
    issuer: &'a [u8],
    made: Timestamp,
    expires: Option<Timestamp>,
}

/// The lists of a file, one at least, the latest of each authority. Those that have expired are logged as a warning.
pub(super) fn read(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let pem = super::read(file)?;
    let mut lists: Vec<CertificateRevocationListDer<'static>> = Vec::new();
    for (list, number) in CertificateRevocationListDer::pem_slice_iter(&pem).zip(1..) {
        let list =
            list.map_err(|error| TlsError::Pem { file: file.to_owned(), problem: PemProblem::of(&error, &pem) })?;
        let bad = || TlsError::BadRevocationList { file: file.to_owned(), number };
        let Head { issuer, made, expires } = head(&list).ok_or_else(bad)?;
        if let Some(expired_at) = expires.filter(|end| *end < Timestamp::now()) {
            tracing::warn!(
                file = %file.display(), number, %expired_at,
                "a revocation list has expired: clients with a certificate of its authority are turned away until there is a later one"
            );
        }
        let same = lists.iter_mut().find(|other| head(other).is_some_and(|other| other.issuer == issuer));
        match same {
            Some(other) if head(other).is_some_and(|other| other.made >= made) => {}
            Some(other) => *other = list,
            None => lists.push(list),
        }
    }
    if lists.is_empty() { Err(TlsError::NoRevocationList(file.to_owned())) } else { Ok(lists) }
}

/// When the first of them expires.
pub(super) fn first_end(lists: &[CertificateRevocationListDer<'_>]) -> Option<Timestamp> {
    lists.iter().filter_map(|list| head(list)?.expires).min()
}

/// `issuer`, `thisUpdate` and `nextUpdate` of a `CertificateList` (RFC 5280 section 5.1).
fn head(list: &[u8]) -> Option<Head<'_>> {
    const INTEGER: u8 = 0x02;
    let (_, list, _) = element(list)?;
    let (_, mut fields, _) = element(list)?;
    if fields.first() == Some(&INTEGER) {
        fields = element(fields)?.2; // version
    }
    let (_, _, fields) = element(fields)?; // signature
    let (_, issuer, fields) = element(fields)?;
    let moment = |tag, text| time(tag, std::str::from_utf8(text).ok()?);
    let (tag, made, fields) = element(fields)?;
    let made = moment(tag, made)?;
    let expires = element(fields).and_then(|(tag, expires, _)| moment(tag, expires));
    Some(Head { issuer, made, expires })
}

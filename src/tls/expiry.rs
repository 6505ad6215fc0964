//! When a certificate begins and ends.

use std::path::Path;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;

/// When what a listener's TLS is made of ends, as far as it has it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ends {
    /// Of its own certificate and those above it, the first.
    pub certificate: Option<Timestamp>,
    /// Of the authorities of clients, the last: until then some can be verified.
    pub client_ca: Option<Timestamp>,
    /// Of the revocation lists, the first.
    pub client_crl: Option<Timestamp>,
}

/// When the first of a chain ends.
pub(super) fn first(chain: &[CertificateDer<'_>]) -> Option<Timestamp> {
    ends(chain).min()
}

/// When the last of some authorities ends.
pub(super) fn last(authorities: &[CertificateDer<'_>]) -> Option<Timestamp> {
    ends(authorities).max()
}

fn ends(certificates: &[CertificateDer<'_>]) -> impl Iterator<Item = Timestamp> {
    certificates.iter().filter_map(|certificate| validity(certificate).map(|(_, end)| end))
}

/// Logs a warning for each of a file's certificates that has expired, with what comes of it.
pub(super) fn warn_of(file: &Path, chain: &[CertificateDer<'_>], consequence: &str) {
    let now = Timestamp::now();
    for (at, certificate) in chain.iter().enumerate() {
        if let Some(expired_at) = validity(certificate).map(|(_, end)| end).filter(|end| *end < now) {
            let number = at + 1;
            tracing::warn!(file = %file.display(), number, %expired_at, "a certificate has expired; {consequence}");
        }
    }
}

/// `validity.notBefore` and `notAfter` (RFC 5280 section 4.1.2.5), of which the last second belongs to it; `None` if this
/// is not where and how it should be.
pub(super) fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0; // [0] EXPLICIT, absent in version 1
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // serialNumber, signature, issuer
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (tag, validity, _) = element(fields)?;
    let (start_tag, start, after_start) = element(validity).filter(|_| tag == SEQUENCE)?;
    let (end_tag, end, _) = element(after_start)?;
    let time = |tag, text| time(tag, std::str::from_utf8(text).ok()?);
    Some((time(start_tag, start)?, time(end_tag, end)?))
}

/// `YYMMDDHHMMSSZ`, in which 50 to 99 are of the 20th century, or `YYYYMMDDHHMMSSZ`.
pub(super) fn time(tag: u8, text: &str) -> Option<Timestamp> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let digits = match (tag, digits.len()) {
        (UTC_TIME, 12) if digits < "5" => format!("20{digits}"),
        (UTC_TIME, 12) => format!("19{digits}"),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    let number = |at: usize| digits.get(at..at + 2)?.parse::<i8>().ok();
    let year = digits.get(..4)?.parse().ok()?;
    let moment = DateTime::new(year, number(4)?, number(6)?, number(8)?, number(10)?, number(12)?, 0).ok()?;
    TimeZone::UTC.to_timestamp(moment).ok()
}

/// The first DER element: its tag, its content, and what follows it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // The length itself, in 1 to 3 bytes; a longer certificate is none.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate_until(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 2, 3);
        let key = rcgen::KeyPair::generate().expect("key");
        params.self_signed(&key).expect("certificate").der().to_vec()
    }

    #[test]
    fn the_validity_of_a_certificate_is_found() {
        for year in [2010, 2049, 2050, 2100] {
            let (start, end) = validity(&certificate_until(year)).expect("readable");
            assert_eq!(start.to_string(), "2001-01-01T00:00:00Z");
            assert_eq!(end.to_string(), format!("{year}-02-03T00:00:00Z"));
        }
    }

    #[test]
    fn a_chain_ends_with_its_first_and_authorities_with_their_last() {
        let certificates = [2035, 2030, 2040].map(|year| CertificateDer::from(certificate_until(year)));
        let year = |end: Option<Timestamp>| end.map(|end| end.to_string()[..4].to_owned());
        assert_eq!(year(first(&certificates)).as_deref(), Some("2030"));
        assert_eq!(year(last(&certificates)).as_deref(), Some("2040"));
        assert_eq!((first(&[]), last(&[])), (None, None));
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0..400_usize, byte: u8, length in 0..500_usize) {
            static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| certificate_until(2030));
            let mut damaged = CERTIFICATE.clone();
            if let Some(target) = damaged.get_mut(at) {
                *target = byte;
            }
            damaged.truncate(length);
            if damaged.len() < 40 {
                prop_assert_eq!(validity(&damaged), None);
            }
        }
    }
}

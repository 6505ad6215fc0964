//! Whose a certificate is, for people.

use super::expiry::element;

/// Names of attributes (RFC 4514 section 3, and the address that people have in it), by their object identifiers.
const NAMES: [(&[u8], &str); 10] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// Longest one, in bytes.
const LONGEST: usize = 512;

/// The subject in one line, the last part first (RFC 4514 section 2.1): `CN=edge-1,O=Example`. Parts of other kinds, and texts
/// in other alphabets than UTF-8 and its subsets, are left out. `None`: there is none, or this is no certificate.
pub(crate) fn subject(certificate: &[u8]) -> Option<String> {
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // serialNumber, signature, issuer, validity
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    let (_, mut name, _) = element(fields)?;
    let mut parts = Vec::new();
    while let Some((_, mut set, rest)) = element(name) {
        while let Some((_, attribute, next)) = element(set) {
            parts.extend(part(attribute));
            set = next;
        }
        name = rest;
    }
    parts.reverse();
    let mut text = parts.join(",");
    text.truncate(text.floor_char_boundary(LONGEST));
    Some(text).filter(|text| !text.is_empty())
}

fn part(attribute: &[u8]) -> Option<String> {
    let (_, kind, rest) = element(attribute)?;
    let (tag, value, _) = element(rest)?;
    let name = NAMES.iter().find(|(known, _)| *known == kind)?.1;
    // UTF8String, NumericString, PrintableString, IA5String
    let value = std::str::from_utf8(value).ok().filter(|_| matches!(tag, 0x0c | 0x12 | 0x13 | 0x16))?;
    let escaped = value.chars().fold(String::new(), |mut escaped, character| {
        if matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
        escaped
    });
    Some(format!("{name}={escaped}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(parts: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        parts.iter().for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), *value));
        params.self_signed(&KeyPair::generate().expect("a key")).expect("signs").der().to_vec()
    }

    #[test]
    fn a_subject_is_one_line_the_last_part_first() {
        let certificate = certificate(&[
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Müller, Söhne + Co"),
            (DnType::CommonName, "edge-1"),
        ]);
        assert_eq!(subject(&certificate).as_deref(), Some("CN=edge-1,O=Müller\\, Söhne \\+ Co,C=DE"));
        assert_eq!(subject(b"none"), None);
    }

    #[test]
    fn a_long_one_is_cut() {
        let subject = subject(&certificate(&[(DnType::CommonName, &"ü".repeat(1000))])).expect("a subject");
        assert!(subject.len() <= LONGEST && subject.starts_with("CN=üü"));
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0..400_usize, byte: u8, length in 0..500_usize) {
            static CERTIFICATE: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| certificate(&[(DnType::CommonName, "edge")]));
            let mut damaged = CERTIFICATE.clone();
            if let Some(target) = damaged.get_mut(at) {
                *target = byte;
            }
            damaged.truncate(length);
            subject(&damaged);
        }
    }
}

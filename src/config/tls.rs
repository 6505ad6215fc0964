//! TLS: of a listener, and what all sections have in common that name its files.

use std::path::PathBuf;

use super::read::Section;
use super::reason::Reason;
use super::visit::{FILE, List, Maybe, Set, Visitor, text};
use crate::tls::{self, Alpn, Role, TlsConfig, TlsVersion};

/// The keys of `[listener.tls]`.
pub(super) fn listener(config: &mut Option<TlsConfig>, keys: &mut impl Visitor) {
    server(config, &Alpn::OFFERED, keys);
}

/// The keys of `[admin.tls]`: it speaks HTTP/1.1 only.
pub(super) fn admin(config: &mut Option<TlsConfig>, keys: &mut impl Visitor) {
    server(config, &[Alpn::Http1], keys);
}

fn server(config: &mut Option<TlsConfig>, offered: &[Alpn], keys: &mut impl Visitor) {
    let (files, mut more) = match config.take() {
        Some(TlsConfig { certificate, key, client_ca, client_crl, min_version, alpn }) => {
            (Some((certificate, key)), (client_ca, client_crl, Some(min_version), Some(alpn)))
        }
        None => (None, (None, None, None, None)),
    };
    let (mut certificate, mut key) = files.unzip();
    let (client_ca, client_crl, min_version, alpn) = &mut more;
    keys.value("certificate", &Maybe(FILE), &mut certificate);
    keys.value("key", &Maybe(FILE), &mut key);
    keys.value("client_ca", &Maybe(FILE), client_ca);
    keys.value("client_crl", &Maybe(FILE), client_crl);
    keys.value("min_version", &Maybe(text::<TlsVersion>()), min_version);
    // Of one there is nothing to choose.
    if offered.len() > 1 {
        keys.value("alpn", &Maybe(Set(List(text::<Alpn>()))), alpn);
    }
    let (client_ca, client_crl, min_version, alpn) = more;
    let (min_version, needs_ca) = (min_version.unwrap_or_default(), client_crl.is_some() && client_ca.is_none());
    let files = Files { authorities: client_ca.clone(), certificate: certificate.clone(), key: key.clone() };
    let alpn = alpn.unwrap_or_else(|| offered.to_vec());
    *config = certificate.zip(key).map(|(certificate, key)| TlsConfig {
        certificate,
        key,
        client_ca,
        client_crl,
        min_version,
        alpn,
    });
    keys.check_list(|section| {
        let required = ["certificate", "key"].into_iter().filter(|key| section.is_written() && !section.has(key));
        required.for_each(|key| section.problem(key, Reason::NoCertificate));
    });
    keys.check(|section| {
        if needs_ca {
            section.problem("client_crl", Reason::Without("client_ca"));
        }
        check(config.as_ref(), &files, section);
    });
}

fn check(config: Option<&TlsConfig>, files: &Files, section: &Section<'_>) {
    let is_sound = check_files(section, "client_ca", files) && section.is_sound("alpn");
    if let Some(Err(error)) = config.filter(|_| is_sound).map(tls::server_config) {
        section.problem_here(Reason::invalid(error));
    }
}

/// The files of a section.
#[derive(Clone, Default)]
pub(super) struct Files {
    pub(super) authorities: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// Notes everything that is wrong with them; whether nothing is.
pub(super) fn check_files(section: &Section<'_>, authorities_key: &str, files: &Files) -> bool {
    let Files { authorities, certificate, key } = files;
    let faults = tls::faults(authorities.as_deref(), certificate.as_deref(), key.as_deref());
    let are_sound = faults.is_empty();
    for (role, error) in faults {
        let key = match role {
            Role::Authorities => authorities_key,
            Role::Certificate => "certificate",
            Role::Key => "key",
        };
        section.problem(key, Reason::invalid(error));
    }
    are_sound
}

/// A certificate and its key are there together, or neither is.
pub(super) fn check_pair(section: &Section<'_>) {
    for (key, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.has(key) && !section.has(other) {
            section.problem(key, Reason::Without(other));
        }
    }
}

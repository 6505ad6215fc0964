//! TLS: of a listener, and what all sections have in common that name its files.

use std::path::Path;

use super::read::Section;
use super::visit::{FILE, List, Maybe, Set, Visitor, text};
use crate::chain::chain;
use crate::tls::{self, Alpn, TlsConfig, TlsError};

/// The keys of `[listener.tls]`.
pub(super) fn listener(config: &mut Option<TlsConfig>, keys: &mut impl Visitor) {
    let (files, mut client_ca, mut alpn) = match config.take() {
        Some(TlsConfig { certificate, key, client_ca, alpn }) => (Some((certificate, key)), client_ca, Some(alpn)),
        None => (None, None, None),
    };
    let (mut certificate, mut key) = files.unzip();
    keys.value("certificate", &Maybe(FILE), &mut certificate);
    keys.value("key", &Maybe(FILE), &mut key);
    keys.value("client_ca", &Maybe(FILE), &mut client_ca);
    keys.value("alpn", &Maybe(Set(List(text::<Alpn>()))), &mut alpn);
    let alpn = alpn.unwrap_or_else(|| Alpn::OFFERED.to_vec());
    *config = certificate.zip(key).map(|(certificate, key)| TlsConfig { certificate, key, client_ca, alpn });
    keys.check(|section| check(config.as_ref(), section));
}

fn check(config: Option<&TlsConfig>, section: &Section<'_>) {
    if section.is_written() {
        for required in ["certificate", "key"].into_iter().filter(|key| !section.has(key)) {
            section.problem(required, "TLS needs a certificate and a key");
        }
    }
    let is_sound = ["certificate", "key", "alpn"].into_iter().all(|key| section.is_sound(key));
    let Some(config) = config.filter(|_| is_sound) else { return };
    if let Err(error) = tls::server_config(config) {
        let is = |file: &Path| error.file() == Some(file);
        // One file may be several of these: a key's trouble is the key's.
        let key = match &error {
            TlsError::NoKey { .. }
            | TlsError::EncryptedKey { .. }
            | TlsError::BadKey { .. }
            | TlsError::Mismatch { .. } => "key",
            _ if is(&config.certificate) => "certificate",
            TlsError::NoCertificate { .. } | TlsError::BadCertificate { .. } => "client_ca",
            _ if is(&config.key) => "key",
            _ => "client_ca",
        };
        section.problem(key, chain(&error));
    }
}

/// A certificate and its key are there together, or neither is.
pub(super) fn check_pair(section: &Section<'_>) {
    for (key, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.has(key) && !section.has(other) {
            section.problem(key, format!("it is used together with `{other}` only"));
        }
    }
}

/// Which key names the file at fault in a client's TLS; `None` if it is none of them.
pub(super) fn culprit(error: &TlsError, ca: Option<&Path>, key: Option<&Path>) -> Option<&'static str> {
    match error.file() {
        None => None,
        // The authorities are read first.
        file if file == ca => Some("ca"),
        file if file == key => Some("key"),
        Some(_) => Some("certificate"),
    }
}

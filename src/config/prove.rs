//! `[admin.prove]`: proofs at an interval that revoked tokens are refused.

use super::reason::Reason;
use super::tls::{Files, check_files, check_pair};
use super::visit::{DURATION, FILE, List, Maybe, Visitor, text};
use crate::prove::{ProveAtInterval, ProveSettings};
use crate::tls::Identity;

/// The keys of `[admin.prove]`.
pub(super) fn prove(config: &mut ProveAtInterval, keys: &mut impl Visitor) {
    let ProveAtInterval { interval, settings: ProveSettings { via, tls, timeout } } = config;
    let (mut certificate, mut key) =
        tls.identity.take().map(|Identity { certificate, key }| (certificate, key)).unzip();
    keys.value("interval", &Maybe(DURATION), interval);
    keys.value("via", &List(text()), via);
    keys.value("ca", &Maybe(FILE), &mut tls.ca);
    keys.value("certificate", &Maybe(FILE), &mut certificate);
    keys.value("key", &Maybe(FILE), &mut key);
    keys.value("timeout", &DURATION, timeout);
    let files = Files { authorities: tls.ca.clone(), certificate: certificate.clone(), key: key.clone() };
    tls.identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
    keys.check(|section| {
        check_pair(section);
        check_files(section, "ca", &files);
        let is_sound = ["interval", "timeout"].into_iter().all(|key| section.is_sound(key));
        if is_sound && interval.is_some_and(|interval| interval < *timeout * 2) {
            section.problem("interval", Reason::ShortProveInterval { timeout: *timeout });
        }
    });
}

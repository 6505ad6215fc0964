//! `[store]`: where the registry is stored.

use super::raw::Place;
use super::read::Section;
use super::reason::Reason;
use super::tls::{Files, check_files, check_pair};
use super::visit::{FILE, Maybe, Number, Text, Visitor, text};
use crate::store::settings::{Namespace, ReadFrom, read_password};
use crate::store::url::{RedisUrl, Topology};
use crate::store::{Settings, StoreUrl};
use crate::tls;

/// Keys that mean something for a Redis only. `namespace`, `quorum_replicas` and `read_from` do too, but the reference
/// configuration writes them at their defaults, which mean the same for every store.
const REDIS_ONLY: [&str; 6] =
    ["password_file", "sentinel_username", "sentinel_password_file", "ca", "certificate", "key"];

/// The keys of `[store]`, but for the snapshot file, which is the sidecar's.
pub(super) fn store(settings: &mut Settings, keys: &mut impl Visitor) {
    let Settings {
        url,
        namespace,
        quorum_replicas,
        read_from,
        password_file,
        sentinel_username,
        sentinel_password_file,
        ca,
        certificate,
        key,
    } = settings;
    keys.value("url", &text(), url);
    keys.value("namespace", &text(), namespace);
    keys.value("quorum_replicas", &Number(0..=100), quorum_replicas);
    keys.value("read_from", &text(), read_from);
    keys.value("password_file", &Maybe(FILE), password_file);
    keys.value("sentinel_username", &Maybe(USERNAME), sentinel_username);
    keys.value("sentinel_password_file", &Maybe(FILE), sentinel_password_file);
    keys.value("ca", &Maybe(FILE), ca);
    keys.value("certificate", &Maybe(FILE), certificate);
    keys.value("key", &Maybe(FILE), key);
    keys.check(|section| check(settings, section));
}

pub(super) const USERNAME: Text<String> = Text {
    parse: |text| match text {
        "" => Err(Reason::NoUser),
        _ => Ok(text.to_owned()),
    },
    print: String::clone,
};

fn check(settings: &mut Settings, section: &Section<'_>) {
    if !section.is_sound("url") {
        // Which keys mean something is not known; but files can be looked at.
        check_password_files(section, settings);
        check_tls_files(section, settings);
        return;
    }
    if matches!(section.place("url"), Some(Place::Flag(_))) {
        if matches!(&settings.url, StoreUrl::Redis(RedisUrl { password: Some(_), .. })) {
            section.problem("url", Reason::VisiblePassword);
        }
        reset_inapplicable(settings);
    } else {
        for (key, why) in inapplicable(settings).into_iter().filter(|(key, _)| section.has(key)) {
            section.problem(key, why);
        }
    }
    if let StoreUrl::Redis(url) = &settings.url {
        check_passwords(section, url, settings);
        check_tls(section, url, settings);
    }
}

/// The keys that mean nothing with this URL, and why.
fn inapplicable(settings: &Settings) -> Vec<(&'static str, Reason)> {
    let StoreUrl::Redis(url) = &settings.url else {
        let changed = [
            ("namespace", settings.namespace != Namespace::default()),
            ("quorum_replicas", settings.quorum_replicas != 0),
            ("read_from", settings.read_from != ReadFrom::Primary),
        ];
        let changed = changed.into_iter().filter_map(|(key, is_changed)| is_changed.then_some(key));
        return REDIS_ONLY.into_iter().chain(changed).map(|key| (key, Reason::NotRedis)).collect();
    };
    let mut inapplicable = Vec::new();
    if !url.tls {
        inapplicable.extend(["ca", "certificate", "key"].map(|key| (key, Reason::NotTls)));
    }
    if !matches!(url.topology, Topology::Sentinel { .. }) {
        let keys = ["sentinel_username", "sentinel_password_file"];
        inapplicable.extend(keys.map(|key| (key, Reason::NotSentinel)));
    }
    inapplicable
}

/// What was written for the URL that --store replaces does not count.
fn reset_inapplicable(settings: &mut Settings) {
    let StoreUrl::Redis(url) = &settings.url else {
        *settings = Settings::from(settings.url.clone());
        return;
    };
    if !url.tls {
        settings.ca = None;
        settings.certificate = None;
        settings.key = None;
    }
    if !matches!(url.topology, Topology::Sentinel { .. }) {
        settings.sentinel_username = None;
        settings.sentinel_password_file = None;
    }
}

fn check_passwords(section: &Section<'_>, url: &RedisUrl, settings: &Settings) {
    if url.password.is_some() && settings.password_file.is_some() {
        section.problem("password_file", Reason::TwoPasswords);
    }
    check_password_files(section, settings);
    if settings.sentinel_username.is_some() && !section.has("sentinel_password_file") {
        section.problem("sentinel_username", Reason::NoSentinelPassword);
    }
}

fn check_password_files(section: &Section<'_>, settings: &Settings) {
    let files =
        [("password_file", &settings.password_file), ("sentinel_password_file", &settings.sentinel_password_file)];
    for (key, file) in files {
        if let Some(Err(error)) = file.as_deref().map(read_password) {
            section.problem(key, Reason::invalid(error));
        }
    }
}

fn check_tls(section: &Section<'_>, url: &RedisUrl, settings: &Settings) {
    if !url.tls {
        return check_pair(section);
    }
    let Settings { ca, certificate, key, .. } = settings;
    let identity = certificate.as_deref().zip(key.as_deref());
    if check_tls_files(section, settings)
        && let Err(error) = tls::store_config(ca.as_deref(), identity)
    {
        section.problem("url", Reason::invalid(error));
    }
}

/// Whether nothing is wrong with them.
fn check_tls_files(section: &Section<'_>, settings: &Settings) -> bool {
    check_pair(section);
    let Settings { ca, certificate, key, .. } = settings.clone();
    check_files(section, "ca", &Files { authorities: ca, certificate, key })
}

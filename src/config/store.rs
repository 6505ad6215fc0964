//! Reading `[store]`: where the registry is kept.

use super::convert::{chain, tls_culprit};
use super::raw::Place;
use super::read::Section;
use crate::store::settings::{Namespace, ReadFrom, read_password};
use crate::store::url::{RedisUrl, Topology};
use crate::store::{Settings, StoreUrl};
use crate::tls;

/// Keys that mean something for a Redis only. `namespace`, `quorum_replicas` and `read_from` are not among them: the
/// reference configuration writes them at their defaults.
const REDIS_ONLY: [&str; 6] =
    ["password_file", "sentinel_username", "sentinel_password_file", "ca", "certificate", "key"];

const SHOWN_TO_ALL: &str = "every user of this host can see the password among the arguments: give it by \
    TOLLGATE_STORE__PASSWORD_FILE (store.password_file), or the whole URL by TOLLGATE_STORE__URL";

/// Reads where the registry is kept.
pub(super) fn store(root: &Section<'_>, default: Option<&StoreUrl>) -> Option<Settings> {
    let section = root.section("store");
    let url = section.text("url", str::parse::<StoreUrl>);
    if section.node("url").is_none() && default.is_none() {
        let unknown = "none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME says where state is kept";
        section.problem("url", format!("{unknown}; name the file, such as sqlite:/var/lib/tollgate/tollgate.db"));
    }
    let namespace = section.or("namespace", section.text("namespace", str::parse), Namespace::default());
    let quorum_replicas = section.or("quorum_replicas", section.number("quorum_replicas", 0..=100), 0);
    let read_from = section.or("read_from", section.text("read_from", str::parse), ReadFrom::Primary);
    let mut settings = Settings {
        namespace: namespace?,
        quorum_replicas: quorum_replicas.and_then(|count| u32::try_from(count).ok())?,
        read_from: read_from?,
        password_file: section.file("password_file"),
        sentinel_username: section.text("sentinel_username", |text| match text {
            "" => Err("name a user, or leave it out for the default one"),
            _ => Ok(text.to_owned()),
        }),
        sentinel_password_file: section.file("sentinel_password_file"),
        ca: section.file("ca"),
        certificate: section.file("certificate"),
        key: section.file("key"),
        ..Settings::from(url.or_else(|| default.cloned())?)
    };
    let misfits = misfits(&settings);
    if matches!(section.place("url"), Some(Place::Flag(_))) {
        if matches!(&settings.url, StoreUrl::Redis(RedisUrl { password: Some(_), .. })) {
            section.problem("url", SHOWN_TO_ALL);
        }
        // They were written for the URL that --store stands in for.
        misfits.into_iter().for_each(|(key, _)| forget(&mut settings, key));
    } else {
        for (key, why) in misfits.into_iter().filter(|(key, _)| section.node(key).is_some()) {
            section.problem(key, why);
        }
    }
    if let StoreUrl::Redis(url) = &settings.url {
        check_passwords(&section, url, &settings);
        check_tls(&section, url, &settings);
    }
    Some(settings)
}

/// The keys that mean nothing with this URL, and why.
fn misfits(settings: &Settings) -> Vec<(&'static str, &'static str)> {
    let StoreUrl::Redis(url) = &settings.url else {
        let replica = (settings.read_from == ReadFrom::Replica).then_some("read_from");
        let why = "it is for a Redis, and `store.url` names a SQLite file";
        return REDIS_ONLY.into_iter().chain(replica).map(|key| (key, why)).collect();
    };
    let mut misfits = Vec::new();
    if !url.tls {
        let why = "it is for TLS, and `store.url` has none: write rediss instead of redis";
        misfits.extend(["ca", "certificate", "key"].map(|key| (key, why)));
    }
    if !matches!(url.topology, Topology::Sentinel { .. }) {
        let why = "it is for Sentinels, and `store.url` names none (redis-sentinel://)";
        misfits.extend(["sentinel_username", "sentinel_password_file"].map(|key| (key, why)));
    }
    misfits
}

fn forget(settings: &mut Settings, key: &str) {
    match key {
        "read_from" => settings.read_from = ReadFrom::Primary,
        "sentinel_username" => settings.sentinel_username = None,
        "password_file" => settings.password_file = None,
        "sentinel_password_file" => settings.sentinel_password_file = None,
        "ca" => settings.ca = None,
        "certificate" => settings.certificate = None,
        _ => settings.key = None,
    }
}

fn check_passwords(section: &Section<'_>, url: &RedisUrl, settings: &Settings) {
    if url.password.is_some() && settings.password_file.is_some() {
        section.problem("password_file", "`store.url` has a password already: leave one of them out");
    }
    let files =
        [("password_file", &settings.password_file), ("sentinel_password_file", &settings.sentinel_password_file)];
    for (key, file) in files {
        if let Some(Err(error)) = file.as_deref().map(read_password) {
            section.problem(key, chain(&error));
        }
    }
    if settings.sentinel_username.is_some() && section.node("sentinel_password_file").is_none() {
        section.problem("sentinel_username", "a user needs a password: name its file with `sentinel_password_file`");
    }
}

fn check_tls(section: &Section<'_>, url: &RedisUrl, settings: &Settings) {
    for (key, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.node(key).is_some() && section.node(other).is_none() {
            section.problem(key, format!("it is used together with `{other}` only"));
        }
    }
    if !url.tls {
        return;
    }
    let Settings { ca, certificate, key, .. } = settings;
    let identity = certificate.as_deref().zip(key.as_deref());
    if let Err(error) = tls::store_config(ca.as_deref(), identity) {
        let culprit = tls_culprit(&error, ca.as_deref(), key.as_deref());
        section.problem(culprit.unwrap_or("url"), chain(&error));
    }
}

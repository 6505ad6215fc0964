//! `[upstream.api]` and `[upstream.heartbeat]`.

use std::path::Path;

use http::uri::PathAndQuery;
use rustls::pki_types::ServerName;

use super::raw::Value;
use super::read::{Section, Written};
use super::reason::Reason;
use super::tls::{Files, check_files, check_pair};
use super::visit::{DURATION, FILE, Form, List, Maybe, Number, Set, Text, Visitor, text};
use crate::tls::{self, Identity, UpstreamTlsConfig};
use crate::token::raw::PREFIX as RAW_TOKEN;
use crate::upstream::{CredentialMode, MAX_NODES, UpstreamConfig, UpstreamUrl, read_credential};
use crate::words::words;

/// The keys of an upstream.
pub(super) fn upstream(config: &mut UpstreamConfig, keys: &mut impl Visitor) {
    let mut tls = config.tls.take().unwrap_or_default();
    keys.value("url", &Nodes, &mut config.nodes);
    keys.section("health", |keys| {
        keys.value("path", &HEALTH_PATH, &mut config.health_path);
        keys.value("interval", &DURATION, &mut config.health_interval);
    });
    let mut files = Files::default();
    keys.section("tls", |keys| files = client_tls(&mut tls, keys));
    keys.check(|section| check_tls(&config.nodes, &tls, &files, section));
    keys.section("credential", |keys| credential(&mut config.credential, keys));
    keys.section("timeouts", |keys| {
        keys.value("connect", &DURATION, &mut config.connect_timeout);
        keys.value("first_byte", &DURATION, &mut config.first_byte_timeout);
        keys.value("idle", &DURATION, &mut config.idle_timeout);
    });
    keys.section("pool", |keys| {
        keys.value("idle_timeout", &DURATION, &mut config.pool_idle_timeout);
        keys.value("max_idle", &Number(0..=65_536), &mut config.pool_max_idle);
    });
    keys.value("max_in_flight", &Number(1..=100_000), &mut config.max_in_flight);
    config.tls = is_https(&config.nodes).then_some(tls);
}

/// They are all alike.
fn is_https(nodes: &[UpstreamUrl]) -> bool {
    nodes.iter().any(|url| url.https)
}

/// The URL of one node, or a list with that of each. No URL has a comma.
struct Nodes;

impl Form<Vec<UpstreamUrl>> for Nodes {
    fn read(&self, written: &Written<'_>) -> Option<Vec<UpstreamUrl>> {
        let is_list = match &written.node.value {
            Value::List(_) => true,
            Value::Text(text) => written.node.is_outside() && text.contains(','),
            _ => false,
        };
        if let Value::Text(text) = &written.node.value
            && !is_list
            && text.matches("://").count() > 1
        {
            return written.refuse(Reason::NotList);
        }
        if !is_list {
            return text().read(written).map(|url| vec![url]);
        }
        let nodes = Set(List(text::<UpstreamUrl>())).read(written)?;
        match nodes.iter().all(|url| url.https == is_https(&nodes)) {
            _ if nodes.len() > MAX_NODES => written.refuse(Reason::TooManyNodes),
            false => written.refuse(Reason::MixedSchemes),
            true => Some(nodes),
        }
    }

    fn print(&self, nodes: &Vec<UpstreamUrl>) -> Option<String> {
        match &**nodes {
            [only] => text().print(only),
            _ => List(text()).print(nodes),
        }
    }
}

/// `health.path` where only a connection is asked for.
const OFF: &str = "off";

const HEALTH_PATH: Text<Option<PathAndQuery>> = Text {
    parse: |text| match text {
        OFF => Ok(None),
        _ if text.contains(RAW_TOKEN) => Err(Reason::RawToken),
        _ if !text.starts_with('/') || text.contains('#') => Err(Reason::NotHealthPath),
        _ => text.parse().map(Some).map_err(|_| Reason::NotHealthPath),
    },
    print: |path| path.as_ref().map_or_else(|| OFF.to_owned(), PathAndQuery::to_string),
};

const SERVER_NAME: Text<ServerName<'static>> = Text {
    parse: |text| {
        let name = ServerName::try_from(text.to_owned());
        name.map_err(|_| Reason::NotHost)
    },
    print: |name| name.to_str().into_owned(),
};

fn client_tls(tls: &mut UpstreamTlsConfig, keys: &mut impl Visitor) -> Files {
    let (mut certificate, mut key) =
        tls.identity.take().map(|Identity { certificate, key }| (certificate, key)).unzip();
    keys.value("ca", &Maybe(FILE), &mut tls.ca);
    keys.value("server_name", &Maybe(SERVER_NAME), &mut tls.server_name);
    keys.value("certificate", &Maybe(FILE), &mut certificate);
    keys.value("key", &Maybe(FILE), &mut key);
    let files = Files { authorities: tls.ca.clone(), certificate: certificate.clone(), key: key.clone() };
    tls.identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
    files
}

fn check_tls(nodes: &[UpstreamUrl], tls: &UpstreamTlsConfig, files: &Files, upstream: &Section<'_>) {
    let section = upstream.section("tls");
    let is_sound = upstream.is_sound("url");
    if is_sound && !is_https(nodes) {
        for key in ["ca", "server_name", "certificate", "key"].into_iter().filter(|key| section.has(key)) {
            section.problem(key, Reason::NotHttps);
        }
        return;
    }
    check_pair(&section);
    // With a url that cannot be read, files can be looked at.
    if check_files(&section, "ca", files)
        && is_sound
        && let Err(error) = tls::client_config(tls)
    {
        upstream.problem("url", Reason::invalid(error));
    }
}

words! {
    /// `credential.mode`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Mode ("modes") {
        Forward = "forward",
        Strip = "strip",
        Replace = "replace",
    }
}

fn credential(credential: &mut CredentialMode, keys: &mut impl Visitor) {
    let (mut mode, mut token_file) = match credential {
        CredentialMode::Forward => (Mode::Forward, None),
        CredentialMode::Strip => (Mode::Strip, None),
        CredentialMode::Replace { token_file } => (Mode::Replace, Some(std::mem::take(token_file))),
    };
    keys.value("mode", &text(), &mut mode);
    keys.value("token_file", &Maybe(FILE), &mut token_file);
    keys.check(|section| check_credential(mode, token_file.as_deref(), section));
    *credential = match (mode, token_file) {
        (Mode::Forward, _) => CredentialMode::Forward,
        (Mode::Strip, _) => CredentialMode::Strip,
        // Without a file it was found fault with.
        (Mode::Replace, token_file) => CredentialMode::Replace { token_file: token_file.unwrap_or_default() },
    };
}

fn check_credential(mode: Mode, token_file: Option<&Path>, section: &Section<'_>) {
    if !section.is_sound("token_file") {
        return;
    }
    // A mode that cannot be read may have been this one.
    let mode = if section.is_sound("mode") || token_file.is_none() { mode } else { Mode::Replace };
    match (mode, token_file) {
        (Mode::Replace, None) => {
            section.problem("token_file", Reason::NoServiceToken);
        }
        (Mode::Replace, Some(file)) => {
            if let Err(error) = read_credential(file) {
                section.problem("token_file", Reason::invalid(error));
            }
        }
        (_, Some(_)) => section.problem("token_file", Reason::NotReplaced),
        (_, None) => {}
    }
}
